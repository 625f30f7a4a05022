"""Upstream repositories that tests add commits to, mirrors of them, and servers on loopback."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from builder.progress.reporter import Reporter
from builder.sources.mirrors import Mirror, Mirrors, Repository


class Upstream:
    """A repository with a branch ``main`` that tests add commits to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *argv: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always", *argv],
            cwd=self.path, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    def commit(self, **files: str) -> str:
        for name, content in (files or {"file": str(time.monotonic_ns())}).items():
            (self.path / name).write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=x")
        return self.git("rev-parse", "HEAD")


def opened(tmp_path: Path, *urls: str | Path, offline: bool = False, retries: int = 2) -> Mirror:
    reporter = Reporter(Console(file=io.StringIO(), width=500))
    mirrors = Mirrors(tmp_path / "mirrors", reporter, offline=offline, retries=retries)
    return mirrors.open(Repository("x", tuple(str(url) for url in urls)))


def said(mirror: Mirror) -> str:
    stream = mirror._mirrors.reporter.console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


@contextlib.contextmanager
def served(root: Path, before: Callable[[str], int | None] = lambda path: None) -> Iterator[tuple[str, list[str]]]:
    """A plain file server for ``root``; ``before`` may answer a request with a status of its own."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status = before(self.path)
            if status is None:
                super().do_GET()
            else:
                self.send_error(status)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
