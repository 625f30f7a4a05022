"""Running a compiler and knowing what it took.

Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import os
import signal

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: The signal that asked this process to end; its compiler has been told.
ended_by = 0
_child = 0


def run(argv: list[str], cwd: str, errors: int | None = None) -> tuple[int, float]:
    """Run a command in ``cwd``; returns its exit code and its CPU seconds, those of its children included.

    ``errors`` is a descriptor for its standard error. The exit code of a command that a signal ended is 128 and the
    signal's number, as a shell says it. Raises OSError where no process can be made.
    """
    global _child
    _child = os.fork()
    if _child == 0:
        try:
            # Python ignores these; a compiler does not expect that.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            if errors is not None:
                os.dup2(errors, 2)
            os.chdir(cwd)
            os.execvp(argv[0], argv)
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode(errors="replace"))
        finally:
            os._exit(127)
    _, status, usage = os.wait4(_child, 0)
    _child = 0
    seconds = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status), seconds
    return os.WEXITSTATUS(status), seconds


def pass_signals_on() -> None:
    """From now on, a request to end goes to the compiler that runs, and shows in ``ended_by``."""

    def handler(number: int, _frame: object) -> None:
        global ended_by
        ended_by = number
        if _child:
            os.kill(_child, number)

    for number in _ENDING:
        # What the caller ignores (nohup) stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
