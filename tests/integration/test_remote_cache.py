"""A shared compile cache on real servers, and a second workspace that profits from it without seeing a network."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.table import Table
from support import MACHINE, ccache_program, unavailable

from builder.cli.demo_upstream import Miniature
from builder.compilation.remote_cache_proxy import VARIABLE, served
from builder.compilation.remote_cache_servers import PASSWORD_VARIABLE, USER_VARIABLE, RemoteError, open_remote
from builder.core.build_options import BuildOptions
from builder.core.results import TargetResult
from builder.core.trust import Trust
from builder.core.workspace import Workspace
from builder.executors.local import Policy, run_targets
from builder.matrix.loader import load_matrix
from builder.matrix.selection import parse_target_id
from builder.progress.reporter import Reporter
from builder.progress.state import Event, State

KEY = "nightly-a7f1cdhr8d4b1k3rqou8228piokj1mnd2"


class Told:
    """Keeps warnings and messages."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.messages: list[str] = []

    def handle(self, event: Event, state: State) -> None:
        if event.name in {"warning", "message"}:
            (self.warnings if event.name == "warning" else self.messages).append(str(event["text"]))

    def table(self, table: Table) -> None: ...

    def close(self) -> None: ...


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def redis(*options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A Redis server on loopback: its port, and the process."""
    program = shutil.which("redis-server")
    if program is None:
        unavailable("redis-server is not installed (apt-get install redis-server)")
    assert program is not None
    port = free_port()
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options], stdout=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
        yield port, process
    finally:
        process.kill()
        process.wait()


class Files(http.server.BaseHTTPRequestHandler):
    """A server of files that can be put; it wants a password when it has one."""

    protocol_version = "HTTP/1.1"
    wanted: str | None = None
    files: dict[str, bytes]

    def _allowed(self) -> bool:
        return self.wanted is None or self.headers.get("Authorization") == self.wanted

    def _answer(self, code: int, body: bytes = b"") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        found = self.files.get(self.path)
        self._answer(401) if not self._allowed() else self._answer(404) if found is None else self._answer(200, found)

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._allowed():
            self.files[self.path] = body
        self._answer(201 if self._allowed() else 401)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def web(wanted: str | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Such a server on loopback: its URL, and what it holds."""
    files: dict[str, bytes] = {}
    handler = type("Handler", (Files,), {"files": files, "wanted": wanted})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/cache", files
        finally:
            server.shutdown()
            thread.join()


def test_redis_keeps_entries_in_the_database_that_was_named() -> None:
    with redis() as (port, _):
        second = open_remote(f"redis://127.0.0.1:{port}/2", {})
        first = open_remote(f"redis://127.0.0.1:{port}", {})
        value = os.urandom(3 << 20) + b"\r\n"
        assert second.get(KEY, 1 << 30) is None
        assert not second.has(KEY)
        second.put(KEY, value)
        assert second.has(KEY)
        assert second.get(KEY, 1 << 30) == value
        # Larger than what may come: as if it were not there, and the connection is not poisoned.
        assert second.get(KEY, 1 << 20) is None
        assert second.get(KEY, 1 << 30) == value
        assert first.get(KEY, 1 << 30) is None
        for each in (first, second):
            each.close()


def test_redis_with_a_password_and_a_restart() -> None:
    with redis("--requirepass", "hush") as (port, process):
        url = f"redis://127.0.0.1:{port}"
        for env in ({}, {PASSWORD_VARIABLE: "guess"}):
            refused = open_remote(url, env)
            with pytest.raises(RemoteError, match="refuses") as caught:
                refused.get(KEY, 100)
            assert "guess" not in str(caught.value)
        allowed = open_remote(url, {PASSWORD_VARIABLE: "hush"})
        named = open_remote(url, {PASSWORD_VARIABLE: "hush", USER_VARIABLE: "default"})
        allowed.put(KEY, b"x")
        assert named.get(KEY, 100) == b"x"
        # A connection that the server closed meanwhile is no failure.
        subprocess.run(
            ["redis-cli", "-p", str(port), "-a", "hush", "--no-auth-warning", "client", "kill", "type", "normal"],
            check=True, capture_output=True,
        )  # fmt: skip
        assert allowed.get(KEY, 100) == b"x"
        process.kill()
        process.wait()
        with pytest.raises(RemoteError, match=r"refused|reset|ended"):
            allowed.get(KEY, 100)
        allowed.close()
        named.close()


def test_http_with_and_without_a_password() -> None:
    with web() as (url, files):
        remote = open_remote(url, {})
        assert remote.get(KEY, 100) is None
        assert not remote.has(KEY)
        remote.put(KEY, b"an entry")
        assert files == {f"/cache/{KEY}": b"an entry"}
        assert remote.has(KEY)
        assert remote.get(KEY, 100) == b"an entry"
        assert remote.get(KEY, 4) is None
        remote.close()
    with pytest.raises(RemoteError):
        remote.get(KEY, 100)
    with web("Bearer hush") as (url, files):
        refused = open_remote(url, {})
        with pytest.raises(RemoteError, match="answers PUT with 401"):
            refused.put(KEY, b"x")
        allowed = open_remote(url, {PASSWORD_VARIABLE: "hush"})
        allowed.put(KEY, b"x")
        assert allowed.get(KEY, 100) == b"x"
        for each in (refused, allowed):
            each.close()


def test_something_else_that_listens_is_no_cache() -> None:
    with web() as (url, _):
        remote = open_remote(f"redis://{url.split('/')[2]}", {})
        with pytest.raises(RemoteError):
            remote.get(KEY, 100)
        remote.close()


def compiled(cache: Path, source: Path, env: dict[str, str], folder: Path) -> str:
    """Compile with ccache; what its statistics say."""
    program = ccache_program()
    stats = folder / "stats"
    stats.unlink(missing_ok=True)
    subprocess.run(
        [program, "gcc", "-c", str(source), "-o", str(folder / "out.o")],
        env={**os.environ, **env, "CCACHE_DIR": str(cache), "CCACHE_STATSLOG": str(stats)},
        check=True,
    )
    return stats.read_text()


def test_ccache_itself_through_both_kinds_of_server(tmp_path: Path) -> None:
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    with redis() as (port, _), web() as (web_url, files):
        for url in (f"redis://127.0.0.1:{port}", web_url):
            for cache, wanted in ((tmp_path / "one", "cache_miss"), (tmp_path / "two", "direct_cache_hit")):
                with served(url, Trust.RELEASE, tmp_path / "remote", Reporter(sink=Told())) as standing:
                    said = compiled(cache, source, standing.variables(str(tmp_path / "remote")), tmp_path)
                assert wanted in said
                assert (standing.hits > 0) == (wanted == "direct_cache_hit")
                shutil.rmtree(cache)
        assert files, "the web server was not used"


def test_a_dead_server_does_not_fail_a_compile(tmp_path: Path) -> None:
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    told = Told()
    started = time.monotonic()
    url, remote = f"redis://127.0.0.1:{free_port()}", tmp_path / "remote"
    with served(url, Trust.RELEASE, remote, Reporter(sink=told)) as standing:
        said = compiled(tmp_path / "cache", source, standing.variables(str(remote)), tmp_path)
    assert "cache_miss" in said
    assert time.monotonic() - started < 20
    assert len(told.warnings) == 1


@pytest.mark.engine
def test_a_second_workspace_compiles_nothing(
    tmp_path: Path, upstream: Miniature, base_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = load_matrix(sources_file=upstream.sources_file)
    target = parse_target_id(matrix, f"v2.5.1-7.1.0-py3.11-{MACHINE}")
    options = BuildOptions(
        environment="docker",
        base_image=base_image,
        torch_source="find-links",
        find_links=(upstream.wheelhouse,),
        allow_toolchain_mismatch=True,
    )
    told = Told()

    def build(name: str) -> TargetResult:
        workspace = Workspace(tmp_path / name / "build", tmp_path / name / "dist")
        result = run_targets([target], matrix, workspace, options, Reporter(sink=told), Policy()).targets[0]
        assert result.status == "built", result.reason
        assert list(workspace.runs.glob("*/*.remote")) == []
        return result

    with redis("--requirepass", "hush") as (port, _):
        url = f"redis://127.0.0.1:{port}"
        monkeypatch.setenv(VARIABLE, url)
        monkeypatch.setenv(PASSWORD_VARIABLE, "hush")
        first, second = build("first"), build("second")
        monkeypatch.delenv(VARIABLE)
        third = build("third")
    counts = [(each.cache.hits, each.cache.misses) for each in (first, second, third) if each.cache is not None]
    assert counts == [(0, 16), (16, 0), (0, 16)]
    wheels = [result.wheel.read_bytes() for result in (first, second, third) if result.wheel is not None]
    assert len(wheels) == 3
    assert len(set(wheels)) == 1
    said = [text for text in told.messages if text.startswith(f"the remote compile cache {url} ")]
    assert len(said) == 2
    assert "had 0 of " in said[0]
    assert said[1].endswith("and was given 0")
    # The password did not reach the build.
    assert not any("hush" in result.log.read_text() for result in (first, second))
