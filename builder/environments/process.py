"""One command on this machine: in a session of its own, read line by line, killed whole."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from builder.core.cancellation import registered
from builder.environments.disk_watch import DiskWatch
from builder.environments.interface import Limits, Outcome
from builder.environments.line_splitter import LineSplitter

#: Seconds between TERM and KILL: Ctrl-C must end within two.
PATIENCE = 1.0
#: Seconds that output is still read for after the command itself has ended.
DRAIN = 1.0


def run_process(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None,
    on_line: Callable[[str], None],
    limits: Limits,
    written: Sequence[Path] = (),
    umask: int = -1,
) -> Outcome:
    """Run ``argv`` to its end (see ``base.Opened.run``). ``limits.timeout`` is kept, and ``limits.disk`` for the
    folders ``written``; memory is not limited. ``umask`` is the command's, -1 this process's own.

    ``peak_memory`` of the outcome is that of the largest single process. A command that cannot be
    started ends with exit code 127 and a line that says why.
    """
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=umask,
        )
    except OSError as error:
        on_line(f"{argv[0]}: {error.strerror}")
        return Outcome(127, time.monotonic() - started)
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        _kill(process.pid)

    watch = DiskWatch(written, limits.disk, lambda: _kill(process.pid))
    deadline = None if limits.timeout is None else started + limits.timeout
    splitter = LineSplitter(on_line)
    timed_out = False
    ended: tuple[int, float, int] | None = None
    closes = None
    pipe = process.stdout.fileno()
    try:
        with registered(stop, argv[0]), watch, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            reading = True
            while reading or ended is None:
                if reading and selector.select(timeout=0.1):
                    data = os.read(pipe, 1 << 16)
                    if data:
                        splitter.feed(data)
                    else:
                        reading = False
                elif not reading:
                    time.sleep(0.02)
                now = time.monotonic()
                if ended is None:
                    ended = _reap(process)
                    if ended is not None:
                        closes = now + DRAIN
                # A process that was left behind may hold the pipe open for ever.
                elif closes is not None and now > closes:
                    break
                if ended is None and deadline is not None and now > deadline and not timed_out:
                    timed_out = True
                    _kill(process.pid)
            splitter.close()
    finally:
        _kill(process.pid, patience=PATIENCE if ended is None else 0.0)
        if ended is None:
            ended = _reap(process, block=True) or (1, 0.0, 0)
        process.stdout.close()
    if stopped.is_set():
        raise KeyboardInterrupt
    status, cpu, peak = ended
    by_kill = status == -signal.SIGKILL and not timed_out and watch.excess is None
    code = 128 - status if status < 0 else status
    return Outcome(
        code,
        time.monotonic() - started,
        cpu,
        peak,
        timed_out=timed_out,
        out_of_memory=by_kill,
        disk_growth=watch.grown,
        excess=watch.excess,
    )


def _reap(process: subprocess.Popen[bytes], *, block: bool = False) -> tuple[int, float, int] | None:
    """(exit status, CPU seconds, peak bytes) of the ended process and its children, or None while it runs."""
    try:
        pid, status, usage = os.wait4(process.pid, 0 if block else os.WNOHANG)
    except ChildProcessError:
        process.returncode = 1
        return 1, 0.0, 0
    if pid == 0:
        return None
    # Popen must not wait for it again.
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def _kill(group: int, patience: float = PATIENCE) -> None:
    """TERM to the whole group, then KILL for what is left of it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        until = time.monotonic() + patience
        while time.monotonic() < until:
            os.killpg(group, 0)
            if _only_a_zombie(group):
                break
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)


def _only_a_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
