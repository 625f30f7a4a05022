"""The end of the process: whatever some library waits for, it comes, with the exit code and all that was said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from builder.core.errors import EXIT_INTERRUPTED

START = """
import atexit, sys, threading, weakref
import builder.__main__ as program
from builder.core import process_exit
process_exit.LIMIT = 1.0

lock, held = threading.Lock(), threading.Event()

def hold():
    with lock:
        held.set()
        threading.Event().wait()

def run(arguments=None):
    {before}
    sys.stdout.write("line\\n" * 40000)
    print("interrupted", file=sys.stderr)
    return 130

program.run = run
program.main()
"""
#: A thread that never ends has the lock, and what is called at the end wants it.
HOLDER = "threading.Thread(target=hold, daemon=True).start(); held.wait()"
STUCK = {
    "an exit handler that waits for a dead thread's lock": f"{HOLDER}; atexit.register(lock.acquire)",
    "a finaliser that waits for it": f"{HOLDER}; global kept; kept = set(); weakref.finalize(kept, lock.acquire)",
    "an object taken apart": (
        f"{HOLDER}; global kept; kept = type('Pool', (), {{'__del__': lambda self, take=lock.acquire: take()}})()"
    ),
    "a thread that works on": "threading.Thread(target=threading.Event().wait).start()",
    "nothing": "pass",
}


def ended(before: str) -> subprocess.CompletedProcess[str]:
    script = START.format(before=before)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("how", STUCK)
def test_the_process_ends_with_its_code_and_all_of_its_output(how: str) -> None:
    done = ended(STUCK[how])
    assert done.returncode == EXIT_INTERRUPTED, done.stderr
    assert done.stdout == "line\n" * 40000
    assert done.stderr == "interrupted\n"


def test_what_is_registered_for_the_end_is_called_and_idle_pools_end(tmp_path: Path) -> None:
    pool = "from concurrent.futures import ThreadPoolExecutor as P; global pool; pool = P(1); pool.submit(int).result()"
    done = ended(f"process_exit.LIMIT = 3600; atexit.register(print, 'restored'); {pool}")
    assert (done.returncode, done.stdout[-9:]) == (EXIT_INTERRUPTED, "restored\n")


def test_a_reader_that_takes_its_time_gets_everything() -> None:
    script = START.format(before="pass")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        with pytest.raises(subprocess.TimeoutExpired):
            # Longer than the limit of the end, which begins when the output is taken.
            process.wait(timeout=5)
        assert len(process.stdout.read()) == len("line\n") * 40000
        assert process.wait(timeout=300) == EXIT_INTERRUPTED


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("raise ValueError('seen')", 1, "ValueError: seen\n"),
    ],
)
def test_every_way_out_has_its_code(ends: str, code: int, said: str) -> None:
    done = ended(ends)
    assert done.returncode == code
    assert done.stderr.endswith(said)
