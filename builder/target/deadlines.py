"""What holds around the steps of a build: their time limit, and errors that are the machine's."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from builder.core.cancellation import stop_thread, waited_for
from builder.core.errors import FULL, OF_THE_MACHINE, BuilderError, FailureKind, TargetError
from builder.core.workspace import free_bytes

#: Seconds after which what a late thread has started meanwhile is ended, too.
AGAIN = 0.2
#: What an error says that tells how much is free.
_FREE = "MiB free"


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise TargetError (TIMEOUT) from a block that takes longer than ``seconds``; None means no limit.

    For phases that run no command inside an environment, which has its own limit. The main thread is
    interrupted wherever it is. Of another thread what it runs and waits for is ended (git, programs,
    containers, the engine's answers, locks); where it only computes, the error comes when the block ends.
    """
    if seconds is None:
        yield
    elif threading.current_thread() is threading.main_thread():
        with _interrupted(seconds):
            yield
    else:
        with _watched(seconds):
            yield


def _late(seconds: float, what: str, cause: BaseException | None = None) -> TargetError:
    waited = f"; it waited for {what}" if what else ""
    error = TargetError(f"the phase did not end within {seconds:g} s{waited}", kind=FailureKind.TIMEOUT)
    if isinstance(cause, BuilderError):
        error.details = cause.details
    if isinstance(cause, TargetError):
        error.log = cause.log
    return error


@contextmanager
def _interrupted(seconds: float) -> Iterator[None]:
    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise _late(seconds, waited_for(threading.get_ident()))

    around, interval = signal.getitimer(signal.ITIMER_REAL)
    if 0 < around <= seconds:
        # A limit around this one strikes before.
        yield
        return
    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    started = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if around:
            # Not 0, which would switch it off.
            signal.setitimer(signal.ITIMER_REAL, max(0.001, around - (time.monotonic() - started)), interval)


@contextmanager
def _watched(seconds: float) -> Iterator[None]:
    thread = threading.get_ident()
    over, late = threading.Event(), threading.Event()
    what = ""

    def watch() -> None:
        nonlocal what
        if over.wait(seconds):
            return
        what = waited_for(thread)
        late.set()
        while True:
            stop_thread(thread)
            if over.wait(AGAIN):
                return

    watcher = threading.Thread(target=watch, name=f"{threading.current_thread().name} watch", daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        # What was ended fails in its own way, which says nothing of why.
        if late.is_set():
            raise _late(seconds, what, error) from error
        raise
    finally:
        over.set()
        # What this thread does next is not to be ended.
        watcher.join()
    if late.is_set():
        raise _late(seconds, what)


@contextmanager
def machine_errors(*places: Path) -> Iterator[None]:
    """A full disk, and a folder or disk that fails, are failures of the machine with advice of their own, wherever they
    show: TargetError (DISK, MACHINE).

    ``places`` are the folders that are written in the block: an error of a full disk tells how much is free in each.
    """
    try:
        with _as_the_machines():
            yield
    except TargetError as error:
        if error.kind is FailureKind.DISK and places and _FREE not in error.message:
            error.message = f"{error.message}; {'; '.join(_room(places))}"
        raise


@contextmanager
def _as_the_machines() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            place = f" ({error.filename})" if error.filename else ""
            raise TargetError(f"no space left on device{place}", kind=FailureKind.DISK) from error
        if error.errno in OF_THE_MACHINE:
            place = f"{error.filename}: " if error.filename else ""
            raise TargetError(f"{place}{error.strerror or error}", kind=FailureKind.MACHINE) from error
        raise


def _room(places: Iterable[Path]) -> Iterator[str]:
    """In words how much is free in each of the folders."""
    for place in places:
        # Whatever was removed since is counted already.
        with suppress(OSError):
            yield f"{place} has {free_bytes(place) >> 20} {_FREE}"
