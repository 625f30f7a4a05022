"""Stores of every kind, for the tests of the store and of its releases."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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
