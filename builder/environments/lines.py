"""Output of programs as lines, however the program ends them and whatever bytes it writes."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class LineSplitter:
    """Feeds lines of a byte stream to ``on_line``: split at LF, CR and CRLF, undecodable bytes replaced.

    A carriage return ends a line because progress bars use nothing else. Empty lines between two
    carriage returns are dropped; those of line feeds are kept.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._parts: list[str] = []
        self._after_return = False

    def feed(self, data: bytes) -> None:
        """Take some bytes, as they came."""
        self._take(self._decoder.decode(data))

    def close(self) -> None:
        """Take the end: an unfinished line counts."""
        self._take(self._decoder.decode(b"", final=True))
        if self._parts:
            self._emit()

    def _take(self, text: str) -> None:
        start = 0
        for position, character in enumerate(text):
            if character == "\n":
                self._parts.append(text[start:position])
                start = position + 1
                if self._after_return and not any(self._parts):
                    self._parts.clear()
                else:
                    self._emit()
                self._after_return = False
            elif character == "\r":
                self._parts.append(text[start:position])
                start = position + 1
                if any(self._parts):
                    self._emit()
                    self._after_return = True
                else:
                    self._parts.clear()
            elif self._after_return:
                self._after_return = False
        if start < len(text):
            self._parts.append(text[start:])

    def _emit(self) -> None:
        line = "".join(self._parts)
        self._parts.clear()
        self._on_line(line)
