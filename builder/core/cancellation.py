"""What this process runs and waits for now, so that it can be ended: all of it, or that of one thread.

Ctrl-C and signals reach only the main thread; with several targets at work the others' commands are
ended from outside their threads. Whoever was ended raises KeyboardInterrupt in its own thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_running: dict[int, tuple[int, Callable[[], object], str]] = {}
_next = 0
#: In a thread that works for another one: that one's identity.
_working = threading.local()


@contextmanager
def registered(stop: Callable[[], object], what: str = "") -> Iterator[None]:
    """In the block, ``stop_all`` and ``stop_thread`` call ``stop``: from any thread, perhaps more than once.

    ``what`` is what the block waits for, in words.
    """
    global _next
    thread = getattr(_working, "thread", threading.get_ident())
    with _lock:
        _next += 1
        key = _next
        _running[key] = (thread, stop, what)
    try:
        yield
    finally:
        with _lock:
            _running.pop(key, None)


def stop_all() -> int:
    """End everything that runs now, in whatever thread; return how many there were."""
    return _stop(lambda _: True)


def stop_thread(thread: int) -> int:
    """End what the thread of that identity runs now; return how many there were."""
    return _stop(lambda other: other == thread)


def waited_for(thread: int) -> str:
    """What the thread of that identity waits for, in words; empty where that is not known."""
    # Without the lock: a signal's handler asks, too, and may have come while its own thread held that.
    found = [what for other, _, what in list(_running.values()) if other == thread and what]
    return found[-1] if found else ""


def _stop(chosen: Callable[[int], bool]) -> int:
    with _lock:
        stops = [stop for thread, stop, _ in _running.values() if chosen(thread)]
    for stop in stops:
        stop()
    return len(stops)


@contextmanager
def patience(what: str = "") -> Iterator[Callable[[float], None]]:
    """A sleep (seconds) for loops that wait for ``what``, in words; raises KeyboardInterrupt when it is ended."""
    ended = threading.Event()

    def rest(seconds: float) -> None:
        if ended.wait(seconds):
            raise KeyboardInterrupt

    with registered(ended.set, what):
        yield rest


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which other builders may hold; the waiting for it can be ended."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    with patience(f"the lock {path}") as rest:
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                rest(0.1)
    try:
        yield
    finally:
        lock.release()


class Attempt:
    """Work of which nobody sees anything until it is decided, and which may be abandoned before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = self._decided = False

    def go_on(self) -> None:
        """Called every now and then: raises KeyboardInterrupt where nobody waits for the work any more."""
        if self._abandoned:
            raise KeyboardInterrupt

    def decide(self) -> None:
        """Called before the first of what others see: from now on it is waited for. Raises as ``go_on`` does."""
        with self._lock:
            self.go_on()
            self._decided = True

    def abandon(self) -> bool:
        """Let it go; False where it is decided."""
        with self._lock:
            self._abandoned = not self._decided
            return self._abandoned


def attempted(call: Callable[[Attempt], T], what: str) -> T:
    """What ``call`` returns or raises, waited for in a way that can be ended until it is decided.

    For work on files, ``what`` in words, whose disk may not answer: a call that is abandoned while it hangs goes on in
    a thread of its own until it looks up, clears away what it made, and ends. In the main thread it is simply called.
    """
    attempt = Attempt()
    if threading.current_thread() is threading.main_thread():
        return call(attempt)
    answer: Future[T] = Future()

    def stop() -> None:
        if attempt.abandon():
            answer.cancel()

    return _awaited(lambda: call(attempt), answer, stop, what)


def abandonable(call: Callable[[], T], what: str = "") -> T:
    """What ``call`` returns or raises, waited for in a way that can be ended; ``what`` is that in words.

    For waits that nothing else ends, as for an answer of the engine. A call that is waited for no longer
    goes on in a thread of its own: it must not change anything here. In the main thread, which signals
    reach, it is simply called.
    """
    if threading.current_thread() is threading.main_thread():
        return call()
    answer: Future[T] = Future()
    return _awaited(call, answer, answer.cancel, what)


def _awaited(call: Callable[[], T], answer: Future[T], stop: Callable[[], object], what: str) -> T:
    with registered(stop, what):
        begin(call, answer)
        try:
            return answer.result()
        except CancelledError:
            raise KeyboardInterrupt from None


def begin(call: Callable[[], T], answer: Future[T]) -> None:
    """Call in a thread of its own, which works for this one, and give ``answer`` what it returns or raises."""
    caller = getattr(_working, "thread", threading.get_ident())

    def work() -> None:
        _working.thread = caller
        # Nobody waits any more when the state is another.
        with suppress(InvalidStateError):
            try:
                answer.set_result(call())
            except BaseException as error:
                answer.set_exception(error)

    threading.Thread(target=work, name=f"{threading.current_thread().name} waits", daemon=True).start()
