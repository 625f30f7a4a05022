"""Stores of every kind, for the tests of the store and of its releases."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from builder.store import Store, open_store
from builder.store.remote import RemoteStore

#: A folder; an object store, where publishing is a copy; a remote file system, where it is a rename.
KINDS = ("folder", "memory", "renaming")


@contextmanager
def make_store(kind: str, tmp_path: Path) -> Iterator[Store]:
    """A store of one of ``KINDS``, empty."""
    if kind == "folder":
        yield open_store(str(tmp_path / "store"))
    elif kind == "memory":
        fsspec = pytest.importorskip("fsspec")
        root = secrets.token_hex(8)
        yield open_store(f"memory://{root}/store")
        if (memory := fsspec.filesystem("memory")).exists(f"/{root}"):
            memory.rm(f"/{root}", recursive=True)
    else:
        pytest.importorskip("fsspec")
        yield RemoteStore(f"file://{tmp_path}/store")


def everything(store: Store, folder: str = "") -> list[str]:
    """Names of all files in a store, hidden ones too, locks not."""
    names = []
    for entry in store._entries(folder):
        name = f"{folder}/{entry.name}" if folder else entry.name
        names += everything(store, name) if entry.folder else [name]
    return sorted(name for name in names if not name.startswith(".locks"))


class S3:
    """A server that speaks S3, in memory."""

    def __init__(self, url: str) -> None:
        self.url = url


@contextmanager
def serve_s3(**environment: str) -> Iterator[S3]:
    """moto's server in a process of its own."""
    for package in ("moto", "flask", "s3fs"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install 'moto[server]' s3fs)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "the S3 server did not start"
            time.sleep(0.1)
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()
