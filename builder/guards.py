"""What holds around the steps of a build: their time limit, and a full disk's own error."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from builder.errors import FailureKind, TargetError


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise TargetError (TIMEOUT) in the block after ``seconds``; None means no limit.

    For phases that run no command inside an environment, which has its own limit. Only the main thread
    can be interrupted like this; elsewhere there is no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise TargetError(f"the phase did not end within {seconds:g} s", kind=FailureKind.TIMEOUT)

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def disk_errors() -> Iterator[None]:
    """A full disk is a failure of the machine with its own advice, wherever it shows."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" ({error.filename})" if error.filename else ""
        raise TargetError(f"no space left on device{place}", kind=FailureKind.DISK) from error
