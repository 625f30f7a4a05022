"""What a process of the builder takes over from whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

#: The console script over a stand-in of the command line, which says what became of signals sent to itself.
PROGRAM = """
import os, signal, sys
from builder import __main__ as program

def run():
    try:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            if number.name in sys.argv[1:]:
                os.kill(os.getpid(), number)
        return 7
    except KeyboardInterrupt:
        return 130

program.run = run
program.main()
"""


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_signals_end_a_run_unless_its_caller_has_them_ignored(name: str) -> None:
    """``nohup`` ignores SIGHUP, and a shell without job control SIGINT for what it starts in the background."""
    number = signal.Signals[name]
    command = [sys.executable, "-c", PROGRAM, name]

    def ended(action: signal.Handlers) -> int:
        def prepare() -> None:
            signal.signal(number, action)

        return subprocess.run(command, preexec_fn=prepare, timeout=120, check=False).returncode

    assert ended(signal.SIG_DFL) == 130
    assert ended(signal.SIG_IGN) == 7


def test_nohup_protects_a_run() -> None:
    command = ["nohup", sys.executable, "-c", PROGRAM, "SIGHUP"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    assert done.returncode == 7


def test_an_ignored_interrupt_stays_ignored_while_a_run_ends() -> None:
    from builder.executors import run_lifecycle

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with run_lifecycle._undisturbed():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_umask_of_the_caller_does_not_reach_what_is_made(tmp_path: Path) -> None:
    program = PROGRAM.replace("return 7", "open('made', 'w').close(); return 7")
    command = ["sh", "-c", 'umask 077; exec "$@"', "sh", sys.executable, "-c", program]
    assert subprocess.run(command, cwd=tmp_path, timeout=120, check=False).returncode == 7
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o644
