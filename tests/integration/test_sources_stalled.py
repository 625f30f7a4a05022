"""Hosts that accept a connection and never answer, or stop in the middle: each phase has a limit and says so."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mirrors_support import Upstream, opened, said

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.sources import fetch, gitcli


@contextlib.contextmanager
def silent(first: bytes = b"") -> Iterator[str]:
    """The host and port of a server that accepts, says ``first`` after the request, and then nothing more."""
    kept: list[socket.socket] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                kept.append(connection)
                if first:
                    connection.recv(65536)
                    connection.sendall(first)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_GIT_PATIENCE", "1")
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(fetch, "LONGEST_WAIT", 0.02)


@pytest.mark.parametrize("scheme", ["git", "http", "ssh"])
def test_a_host_that_accepts_and_never_answers_is_given_up(
    tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent() as place:
        # What ssh would do: keep the connection open and say nothing.
        monkeypatch.setenv("GIT_SSH_COMMAND", "sh -c 'sleep 600'")
        mirror = opened(tmp_path, f"{scheme}://{place}/x.git", retries=1)
        with pytest.raises(TargetError, match="branch main of x could not be fetched") as caught:
            mirror.branch("main")
    assert caught.value.kind is FailureKind.NETWORK
    told = said(mirror)
    assert "timed out: waited 1 s for an answer of the host; asking" in told or "too slow" in told.lower()
    assert "(try 2)" in told


def test_a_host_that_stops_after_its_list_of_branches_is_given_up(tmp_path: Path) -> None:
    line = b"1" * 40 + b" refs/heads/main\0side-band-64k ofs-delta\n"
    listed = b"%04x" % (len(line) + 4) + line + b"0000"
    with silent(listed) as place:
        mirror = opened(tmp_path, f"git://{place}/x.git", retries=0)
        with pytest.raises(TargetError) as caught:
            mirror.branch("main")
    assert "timed out: waited 1 s for an answer of the host" in (caught.value.details or "")


def test_a_host_that_lists_nothing_is_given_up() -> None:
    with silent() as place, pytest.raises(fetch.HostError, match="no answer within 1 s"):
        fetch.branches(f"git://{place}/x.git", 1.0)


def test_the_helpers_of_git_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = tmp_path / "number"
    monkeypatch.setenv("GIT_SSH_COMMAND", f"sh -c 'echo $$ > {number}; sleep 600; :'")
    with pytest.raises(fetch.HostError, match="no answer"):
        fetch.branches("ssh://127.0.0.1/x.git", 5.0)
    until = time.monotonic() + 60
    # Whoever takes in orphans may take a while to notice.
    while Path("/proc", number.read_text().strip()).exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_is_waited_for_follows_what_git_says() -> None:
    class Told:
        detail = ""

        def update(self, completed: float | None = None, total: float | None = None, detail: str = "") -> None:
            self.detail = detail

    told = Told()
    waits = fetch._Waits(lambda line: None, told, 60.0)  # type: ignore[arg-type]
    for line, what in {
        "": "an answer of the host",
        "remote: Counting objects: 5% (1/20)": "the host to put the objects together",
        "Receiving objects:  50% (10/20)": "more objects from the host",
    }.items():
        if line:
            waits.heard(line)
        waits.silent(59.0)
        assert told.detail == f"waiting for {what} (59 s)"
        with pytest.raises(fetch._Silent, match=f"timed out: waited 60 s for {what}"):
            waits.silent(60.0)
    for line in ("Receiving objects: 100% (20/20), done.", "Resolving deltas:   3% (1/30)"):
        waits.heard(line)
        # This machine's own work, which a slow disk may take long for.
        waits.silent(fetch.LOCAL_PATIENCE - 1)
        with pytest.raises(fetch._Silent, match="for git to check what it received"):
            waits.silent(fetch.LOCAL_PATIENCE)


def test_a_host_that_answers_slowly_but_steadily_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_GIT_PATIENCE", "4")
    upstream = Upstream(tmp_path / "upstream")
    commit = upstream.commit()
    # Each line ends a silence; together they last longer than one may.
    script = tmp_path / "ssh"
    script.write_text(
        f'#!/bin/sh\nfor i in 1 2 3; do echo "remote: $i" >&2; sleep 2; done\nexec git-upload-pack {upstream.path}\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(script))
    assert opened(tmp_path, "ssh://host/x", retries=0).branch("main") == commit


@pytest.mark.parametrize("value", ["soon", "-1", "0", "1e3", "nan"])
def test_a_patience_that_is_no_number_of_seconds_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("BUILDER_GIT_PATIENCE", value)
    with pytest.raises(RequestError, match=f"BUILDER_GIT_PATIENCE: '{value}' is no number of seconds"):
        gitcli.host_patience()
