"""Output of programs as lines, however the program ends them and whatever bytes it writes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

#: Characters of a line that are kept; the longest of a real build, a link command, has 40,000.
LONGEST = 1 << 18
_ENDS = re.compile(r"[\r\n]")


class LineSplitter:
    """Feeds lines of a byte stream to ``on_line``: split at LF, CR and CRLF, undecodable bytes replaced.

    A carriage return ends a line because progress bars use nothing else. Empty lines between two carriage returns are
    dropped; those of line feeds are kept. Of a line with more than LONGEST characters the first are kept, with a note.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._parts: list[str] = []
        self._held = 0
        self._dropped = 0
        self._after_return = False

    def feed(self, data: bytes) -> None:
        """Take some bytes, as they came."""
        self._take(self._decoder.decode(data))

    def close(self) -> None:
        """Take the end: an unfinished line counts."""
        self._take(self._decoder.decode(b"", final=True))
        if self._held:
            self._emit()

    def _take(self, text: str) -> None:
        start = 0
        for end in _ENDS.finditer(text):
            self._hold(text[start : end.start()])
            start = end.end()
            if end[0] == "\r":
                if self._held:
                    self._emit()
                    self._after_return = True
            elif self._after_return and not self._held:
                # The second half of CRLF.
                self._after_return = False
            else:
                self._emit()
        self._hold(text[start:])

    def _hold(self, part: str) -> None:
        if not part:
            return
        self._after_return = False
        kept = part[: LONGEST - self._held]
        self._held += len(kept)
        self._dropped += len(part) - len(kept)
        self._parts.append(kept)

    def _emit(self) -> None:
        line = "".join(self._parts)
        if self._dropped:
            line += f" [{self._dropped} more characters of this line were left out]"
        self._parts.clear()
        self._held = self._dropped = 0
        self._on_line(line)
