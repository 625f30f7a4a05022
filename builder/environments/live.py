"""The commands of this process that run now, so that all of them can be stopped at once.

Ctrl-C reaches only the main thread; with several targets at work the others' commands are stopped
from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_running: dict[int, Callable[[], None]] = {}
_next = 0


@contextmanager
def registered(stop: Callable[[], None]) -> Iterator[None]:
    """While the block runs, ``stop_all`` calls ``stop`` (from any thread, perhaps more than once)."""
    global _next
    with _lock:
        _next += 1
        key = _next
        _running[key] = stop
    try:
        yield
    finally:
        with _lock:
            _running.pop(key, None)


def stop_all() -> int:
    """Kill every command that runs now, in whatever thread; return how many there were."""
    with _lock:
        stops = list(_running.values())
    for stop in stops:
        stop()
    return len(stops)
