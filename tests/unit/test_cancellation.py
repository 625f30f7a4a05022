"""What runs and waits in threads can be ended from outside, and time limits of phases hold there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from builder.core.cancellation import (
    Attempt,
    abandonable,
    attempted,
    file_lock,
    patience,
    registered,
    stop_all,
    stop_thread,
)
from builder.core.errors import FailureKind, TargetError
from builder.environments.interface import Limits
from builder.environments.process import run_process
from builder.sources import gitcli
from builder.target.deadlines import deadline


class Worker(threading.Thread):
    """A thread that keeps what its work raised or returned."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.raised: BaseException | None = None
        self.returned: object = None
        self.start()

    def run(self) -> None:
        try:
            self.returned = self._work()
        except BaseException as error:
            self.raised = error

    def ended(self, seconds: float = 15) -> Worker:
        self.join(seconds)
        assert not self.is_alive(), "it goes on"
        return self


def until(true: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def silent_host() -> Iterator[tuple[str, list[socket.socket]]]:
    """A git host that takes connections and never says a word: (URL, connections)."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"git://127.0.0.1:{server.getsockname()[1]}/x.git", taken
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    for connection in taken:
        connection.close()


def late(worker: Worker) -> TargetError:
    error = worker.ended().raised
    assert isinstance(error, TargetError), repr(error)
    assert error.kind is FailureKind.TIMEOUT
    assert "did not end within" in error.message
    return error


def limited(work: Callable[[], object], seconds: float = 0.5) -> Worker:
    def inside() -> None:
        with deadline(seconds):
            work()

    return Worker(inside)


def fetching(folder: Path, url: str) -> Callable[[], None]:
    """A fetch from ``url`` into a new mirror in ``folder``."""
    mirror = folder / "m.git"
    gitcli.run(["init", "--quiet", "--bare", "--", str(mirror)])

    def fetch() -> None:
        with gitcli.held(folder / "m.lock") as lock:
            gitcli.stream(["fetch", "--", url], git_dir=mirror, on_line=lambda _: None, lock=lock)

    return fetch


def test_a_command_is_ended_when_its_thread_is_late() -> None:
    lines: list[str] = []

    def work() -> None:
        env = {"PATH": os.environ["PATH"]}
        run_process(["sh", "-c", "echo $$; sleep 60"], env=env, cwd="/", on_line=lines.append, limits=Limits())

    late(limited(work))
    assert not Path(f"/proc/{lines[0]}").exists()


def test_a_hanging_fetch_is_ended_when_its_thread_is_late(
    silent_host: tuple[str, list[socket.socket]], tmp_path: Path
) -> None:
    url, taken = silent_host
    late(limited(fetching(tmp_path, url), 1))
    assert taken, "it never hung"
    # git is gone: what it held is free again.
    with gitcli.held(tmp_path / "m.lock"):
        pass


def test_what_a_late_phase_waited_for_is_named(tmp_path: Path) -> None:
    def work() -> None:
        with file_lock(tmp_path / "x.lock"):
            pass

    with file_lock(tmp_path / "x.lock"):
        error = late(limited(work))
    assert error.message == f"the phase did not end within 0.5 s; it waited for the lock {tmp_path / 'x.lock'}"


def test_work_on_files_is_abandoned_until_it_is_decided() -> None:
    hangs, answers, ended = threading.Event(), threading.Event(), threading.Event()

    def work(attempt: Attempt, *, decided: bool) -> str:
        try:
            if decided:
                attempt.decide()
            hangs.set()
            assert answers.wait(15)
            attempt.go_on()
            return "done"
        finally:
            ended.set()

    worker = Worker(lambda: attempted(partial(work, decided=False), "the disk"))
    assert hangs.wait(15)
    assert stop_all() == 1
    assert isinstance(worker.ended().raised, KeyboardInterrupt)
    assert not ended.is_set(), "nobody can end what hangs"
    answers.set()
    assert ended.wait(15)
    for event in (hangs, answers, ended):
        event.clear()
    worker = Worker(lambda: attempted(partial(work, decided=True), "the disk"))
    assert hangs.wait(15)
    assert stop_all() == 1
    assert worker.is_alive()
    answers.set()
    assert worker.ended().returned == "done"


def test_stop_all_ends_git_of_other_threads(silent_host: tuple[str, list[socket.socket]], tmp_path: Path) -> None:
    url, taken = silent_host
    worker = Worker(fetching(tmp_path, url))
    until(lambda: taken)
    assert stop_all() == 1
    assert isinstance(worker.ended().raised, KeyboardInterrupt)


def test_git_that_does_not_heed_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = tmp_path / "git"
    deaf.write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ > {tmp_path}/pid\nwhile :; do sleep 0.1; done\n")
    deaf.chmod(0o755)
    fetch = fetching(tmp_path, "nowhere")
    monkeypatch.setattr(gitcli, "executable", lambda: str(deaf))
    late(limited(fetch))
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_lock_that_another_process_holds_is_waited_for_no_longer_than_allowed(tmp_path: Path) -> None:
    hold = (
        "import fcntl, os, sys\n"
        "for name in sys.argv[1:]: fcntl.flock(os.open(name, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)\n"
        "print('held', flush=True)\nsys.stdin.read()\n"
    )
    files = [tmp_path / "mirror.lock", tmp_path / "image.lock"]
    with subprocess.Popen(
        [sys.executable, "-c", hold, *map(str, files)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"

        def of_git() -> None:
            with gitcli.held(files[0]):
                raise AssertionError

        def of_images() -> None:
            with file_lock(files[1]):
                raise AssertionError

        late(limited(of_git))
        late(limited(of_images))

        def patiently() -> str:
            with gitcli.held(files[0]), file_lock(files[1]):
                return "taken"

        # Not given up: taken as soon as they are free.
        waiting = Worker(patiently)
        time.sleep(0.2)
        assert waiting.is_alive()
        holder.stdin.close()
        assert waiting.ended().returned == "taken"


def test_an_answer_that_never_comes_is_given_up() -> None:
    never = threading.Event()
    try:
        late(limited(lambda: abandonable(never.wait)))
    finally:
        never.set()


def test_what_an_abandonable_call_gives_or_raises_reaches_its_caller() -> None:
    def fail() -> None:
        raise ValueError("its own")

    assert abandonable(lambda: 7) == 7
    assert Worker(lambda: abandonable(lambda: 7)).ended().returned == 7
    raised = Worker(lambda: abandonable(fail)).ended().raised
    assert isinstance(raised, ValueError)


def test_what_an_abandonable_call_runs_counts_as_its_callers() -> None:
    stopped = threading.Event()

    def work() -> None:
        with registered(stopped.set):
            stopped.wait(30)

    late(limited(lambda: abandonable(work)))
    assert stopped.wait(5)


def test_one_late_thread_leaves_the_others_alone() -> None:
    def rest() -> None:
        with patience() as pause:
            pause(1.5)

    punctual = limited(rest, 30)
    late(limited(lambda: time.sleep(0.8), 0.3))
    assert punctual.is_alive()
    assert punctual.ended().raised is None


def test_what_a_thread_runs_after_a_limit_is_its_own() -> None:
    def work() -> None:
        with pytest.raises(TargetError, match="did not end within"), deadline(0.2), patience() as pause:
            pause(30)
        with deadline(30), patience() as pause:
            pause(0.6)

    assert Worker(work).ended().raised is None


def test_mere_computing_is_late_at_its_end() -> None:
    late(limited(lambda: time.sleep(0.6), 0.2))
    assert limited(lambda: None, 0.2).ended().raised is None


def test_a_late_phase_keeps_the_log_of_what_was_ended(tmp_path: Path) -> None:
    def work() -> None:
        with patience() as pause:
            try:
                pause(30)
            except KeyboardInterrupt:
                raise TargetError(
                    "it vanished", kind=FailureKind.ENGINE, details="last line", log=tmp_path / "image.log"
                ) from None

    error = late(limited(work))
    assert (error.details, error.log) == ("last line", tmp_path / "image.log")


def test_an_error_before_the_limit_is_not_about_time() -> None:
    def work() -> None:
        raise TargetError("broken", kind=FailureKind.PATCH)

    error = limited(work, 30).ended().raised
    assert isinstance(error, TargetError)
    assert error.kind is FailureKind.PATCH


def test_stop_thread_ends_that_thread_only() -> None:
    def rest() -> None:
        with patience() as pause:
            pause(20)

    first, second = Worker(rest), Worker(rest)
    assert first.ident is not None
    identity = first.ident
    until(lambda: stop_thread(identity) == 1)
    assert isinstance(first.ended().raised, KeyboardInterrupt)
    assert second.is_alive()
    until(lambda: stop_all() == 1)
    assert isinstance(second.ended().raised, KeyboardInterrupt)
