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
_running: dict[int, tuple[int, Callable[[], object]]] = {}
_next = 0
#: In a thread that works for another one: that one's identity.
_working = threading.local()


@contextmanager
def registered(stop: Callable[[], object]) -> Iterator[None]:
    """In the block, ``stop_all`` and ``stop_thread`` call ``stop``: from any thread, perhaps more than once."""
    global _next
    thread = getattr(_working, "thread", threading.get_ident())
    with _lock:
        _next += 1
        key = _next
        _running[key] = (thread, stop)
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


def _stop(chosen: Callable[[int], bool]) -> int:
    with _lock:
        stops = [stop for thread, stop in _running.values() if chosen(thread)]
    for stop in stops:
        stop()
    return len(stops)


@contextmanager
def patience() -> Iterator[Callable[[float], None]]:
    """A sleep (seconds) for loops that wait for something; raises KeyboardInterrupt when it is ended."""
    ended = threading.Event()

    def rest(seconds: float) -> None:
        if ended.wait(seconds):
            raise KeyboardInterrupt

    with registered(ended.set):
        yield rest


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which other builders may hold; the waiting for it can be ended."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    with patience() as rest:
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


def abandonable(call: Callable[[], T]) -> T:
    """What ``call`` returns or raises, waited for in a way that can be ended.

    For waits that nothing else ends, as for an answer of the engine. A call that is waited for no longer
    goes on in a thread of its own: it must not change anything here. In the main thread, which signals
    reach, it is simply called.
    """
    if threading.current_thread() is threading.main_thread():
        return call()
    answer: Future[T] = Future()
    with registered(answer.cancel):
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
