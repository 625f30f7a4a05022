"""Image registries on loopback: Debian's docker-registry, and one that answers as a test says."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support import MACHINE, unavailable

from builder.environments.docker_engine import ENGINE_ARCHITECTURES, DockerEngine

_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A registry that keeps its images below ``folder``; gives its ``host:port``, which engines trust on loopback."""
    program = shutil.which("docker-registry")
    if program is None:
        unavailable("Debian's package docker-registry is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "registry.yml"
    config.write_text(_CONFIG.format(folder=folder / "images", port=port))
    with subprocess.Popen(
        [str(program), "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5):
                        break
                except OSError:
                    assert server.poll() is None, "docker-registry ended"
                    assert time.monotonic() < until, "docker-registry does not answer"
                    time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


@contextmanager
def answering(answer: Callable[[str], tuple[int, object]]) -> Iterator[tuple[str, list[str]]]:
    """A registry that gives ``answer`` (status, JSON) to each path; gives its ``host:port`` and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, value = answer(self.path)
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the server's own name

        def log_message(self, *_: object) -> None:
            """Nothing goes to the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def small_base(engine: DockerEngine, name: str, *, arch: str = MACHINE, mark: str = "") -> str:
    """Give the engine an image ``name`` that looks like a base: a shell, and something called Python 3.11.

    ``mark`` makes its content another one. Returns its identity.
    """
    shell = Path(shutil.which("busybox") or "/bin/busybox")
    if not shell.is_file():
        unavailable("Debian's package busybox-static is not installed")
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        files = {
            "bin/busybox": shell.read_bytes(),
            "opt/python/cp311-cp311/bin/python": b"#!/bin/sh\necho Python 3.11.9\n",
            "etc/os-release": b'ID=almalinux\nVERSION_ID="8.10"\nPRETTY_NAME="AlmaLinux 8.10"\n',
            "mark": mark.encode(),
        }
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for applet in ("sh", "sed", "head", "ls"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    layer.seek(0)
    repository, _, tag = name.rpartition(":")
    config = {"architecture": ENGINE_ARCHITECTURES[arch], "os": "linux"}
    loaded = _archive(layer.getvalue(), config, f"{repository}:{tag}")
    engine.client.images.load(loaded)
    return str(engine.client.images.get(name).id)


def _archive(layer: bytes, config: dict[str, object], name: str) -> bytes:
    """An archive as ``docker save`` writes it: https://github.com/moby/moby/blob/master/image/spec/v1.2.md."""
    import hashlib

    digest = hashlib.sha256(layer).hexdigest()
    whole = {**config, "config": {"Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}
    text = json.dumps(whole).encode()
    named = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = json.dumps([{"Config": named, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]).encode()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path, content in {named: text, f"{digest}/layer.tar": layer, "manifest.json": manifest}.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()
