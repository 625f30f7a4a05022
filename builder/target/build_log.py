"""The log of one target: what its build printed, up to a limit."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TextIO

#: Bytes that a log may have. That of a whole torch_npu has under 10 MB; a build can print without end.
LARGEST = 256 << 20


class BuildLog:
    """A log that lines are added to as they come; once it has LARGEST bytes it says so, and takes no more.

    Used in a ``with`` block. Raises OSError where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: TextIO | None = None
        self._left = 0

    def __enter__(self) -> BuildLog:
        self._stream = open(self._path, "a", encoding="utf-8", buffering=1)
        self._left = LARGEST - os.fstat(self._stream.fileno()).st_size
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def line(self, text: str) -> None:
        """Add a line."""
        assert self._stream is not None  # noqa: S101 - inside a with block
        if self._left <= 0:
            return
        self._left -= len(text) + 1
        if self._left <= 0:
            text = f"(the log has {LARGEST >> 20} MiB; what follows was left out)"
        self._stream.write(text + "\n")
