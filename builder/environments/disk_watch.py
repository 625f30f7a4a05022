"""A build that fills the disk is ended before it has: how much the folders grow that it may write."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from builder.core.untrusted import DEEPEST, TooDeepError, UntrustedFolder

#: Seconds between two looks at the free space. Looking costs microseconds; the folders are walked only where more space
#: has gone meanwhile than is left of the limit.
INTERVAL = 1.0


class DiskWatch:
    """Watches ``folders`` in a ``with`` block, and calls ``stop`` once they have grown by more than ``limit`` bytes.

    ``limit`` None watches nothing. ``excess`` says afterwards what was wrong, None where nothing was; ``grown`` is by
    how many bytes the folders have grown, None where that is not known. Folders nested deeper than any build has a
    reason for are wrong, too: what is in them cannot be counted.
    """

    def __init__(self, folders: Sequence[Path], limit: int | None, stop: Callable[[], None]) -> None:
        self.excess: str | None = None
        self.grown: int | None = None
        self._folders = folders
        self._limit = limit
        self._stop = stop
        self._over = threading.Event()
        self._before = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> DiskWatch:
        with suppress(TooDeepError, OSError):
            self._before = self._size()
        if self._limit is not None:
            self._thread = threading.Thread(target=self._watch, args=(self._limit,), name="disk watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self.excess is None:
            self._measure(self._limit)

    def _watch(self, limit: int) -> None:
        # Others fill and empty the same disk: free space that has gone is a reason to look, and no more.
        free, left = self._free(), limit
        while not self._over.wait(INTERVAL):
            now = self._free()
            if any(before - after > left // 2 for before, after in zip(free, now, strict=True)):
                self._measure(limit)
                if self.excess is not None:
                    self._stop()
                    return
                free, left = now, max(limit - (self.grown or 0), 64 << 20)
            else:
                free = [max(pair) for pair in zip(free, now, strict=True)]

    def _measure(self, limit: int | None) -> None:
        try:
            self.grown = max(0, self._size() - self._before)
        except TooDeepError:
            self.excess = f"it made more than {DEEPEST} folders inside each other"
        except OSError:
            self.grown = None
        else:
            if limit is not None and self.grown > limit:
                self.excess = f"it wrote {self.grown / (1 << 30):.1f} GiB, {limit / (1 << 30):.1f} GiB are allowed"

    def _size(self) -> int:
        total = 0
        for path in self._folders:
            with UntrustedFolder(path) as folder:
                total += folder.stored_bytes()
        return total

    def _free(self) -> list[int]:
        """Free bytes, then free inodes, of each folder's file system."""
        states = [os.statvfs(path) for path in self._folders]
        # An empty file takes an inode and, with its name, some hundred bytes.
        return [state.f_bavail * state.f_frsize for state in states] + [state.f_ffree * 256 for state in states]
