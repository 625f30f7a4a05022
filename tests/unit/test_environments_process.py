"""Commands on this machine: their output, end, time, and that nothing of them stays behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from builder.core.cancellation import stop_all
from builder.environments.interface import Limits, Outcome
from builder.environments.process import run_process


def run(script: str, *, timeout: float | None = None, lines: list[str] | None = None) -> Outcome:
    seen = [] if lines is None else lines
    env = {"PATH": os.environ["PATH"]}
    return run_process(["sh", "-c", script], env=env, cwd="/", on_line=seen.append, limits=Limits(timeout=timeout))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    until = time.monotonic() + 3
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


def test_both_streams_come_as_lines_with_the_exit_code() -> None:
    lines: list[str] = []
    outcome = run("echo out; echo err >&2; exit 3", lines=lines)
    assert sorted(lines) == ["err", "out"]
    assert (outcome.exit_code, outcome.timed_out, outcome.out_of_memory) == (3, False, False)


def test_cpu_time_covers_children() -> None:
    outcome = run(f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.5: pass'; true")
    assert outcome.cpu_seconds is not None
    assert outcome.cpu_seconds >= 0.45
    assert outcome.peak_memory is not None
    assert outcome.peak_memory > 1 << 20


def test_a_timeout_kills_the_command_and_what_it_started(tmp_path: Path) -> None:
    lines: list[str] = []
    started = time.monotonic()
    outcome = run("trap '' TERM; sleep 60 & echo $!; wait; sleep 60", timeout=0.5, lines=lines)
    assert outcome.timed_out
    assert not outcome.out_of_memory
    assert time.monotonic() - started < 5
    assert gone(int(lines[0]))


def test_a_process_left_behind_does_not_hold_the_command_open() -> None:
    lines: list[str] = []
    started = time.monotonic()
    outcome = run("sleep 60 & echo $!", lines=lines)
    assert outcome.exit_code == 0
    assert time.monotonic() - started < 10
    assert gone(int(lines[0]))


def test_stop_all_ends_commands_of_other_threads() -> None:
    lines: list[str] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            run("echo $$; sleep 60", lines=lines)
        except KeyboardInterrupt as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until = time.monotonic() + 10
    while not lines and time.monotonic() < until:
        time.sleep(0.02)
    assert stop_all() == 1
    thread.join(timeout=5)
    assert raised
    assert gone(int(lines[0]))


def test_ctrl_c_kills_within_two_seconds() -> None:
    lines: list[str] = []
    timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run("trap '' TERM; echo $$; while :; do sleep 1; done", lines=lines)
    assert time.monotonic() - started < 0.7 + 2
    assert gone(int(lines[0]))


def test_a_command_that_was_killed_by_the_system_counts_as_out_of_memory() -> None:
    assert run("kill -KILL $$").out_of_memory


def test_a_missing_program_is_an_outcome() -> None:
    lines: list[str] = []
    outcome = run_process(["/nonexistent/x"], env={}, cwd="/", on_line=lines.append, limits=Limits())
    assert outcome.exit_code == 127
    assert "No such file" in lines[0]
