"""What one compile took, on either side, and the tables and the file that show it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from builder.compilation.ccache import stored_bytes

#: Seconds between two looks at a folder's size.
_LOOK = 0.2
#: Characters that the tables may take; they are for files and wide terminals.
_WIDTH = 170


@dataclass
class Measured:
    """One compile: ``cpu_seconds`` (user and system) and ``peak_memory`` (bytes) of its container, ``seconds`` of wall
    time.

    ``command_seconds`` are those of the builder's whole command: sources, image, checks, repair and publishing too.
    ``headers`` is as in result.json, sizes are in bytes on disk: the cache afterwards, headers at their most.
    ``failure`` says why there are no numbers.
    """

    cpu_seconds: float | None = None
    seconds: float = 0.0
    peak_memory: int | None = None
    command_seconds: float | None = None
    files: int | None = None
    hits: int | None = None
    misses: int | None = None
    headers: Mapping[str, Any] | None = None
    generation: Mapping[str, Any] | None = None
    cache_bytes: int | None = None
    header_bytes: int | None = None
    failure: str | None = None
    #: Of a sample: CPU seconds of each source, by its path in the tree.
    sources: dict[str, float] = field(default_factory=dict)
    #: Of a sample: its part of the headers' CPU seconds if a header's cost is shared by its whole group.
    shared_header_seconds: float | None = None

    @property
    def header_seconds(self) -> float:
        """CPU seconds that precompiled headers took to make."""
        return float((self.headers or {}).get("cpu_seconds", {}).get("headers", 0.0))


@dataclass
class Row:
    """One line of the table: a case, on one side, and what its ratio is to."""

    case: str
    name: str
    python: str
    measured: Measured
    base: Measured

    @property
    def cpu_ratio(self) -> float | None:
        """CPU seconds in those of upstream."""
        return _ratio(self.measured.cpu_seconds, self.base.cpu_seconds)

    @property
    def wall_ratio(self) -> float | None:
        """Wall time in that of upstream."""
        return None if self.measured.failure else _ratio(self.measured.seconds, self.base.seconds)

    @property
    def shared_ratio(self) -> float | None:
        """Of a sample: the ratio if each header's cost is shared by all members of its group, sampled or not."""
        one = self.measured
        if one.shared_header_seconds is None or one.cpu_seconds is None:
            return None
        return _ratio(one.cpu_seconds - one.header_seconds + one.shared_header_seconds, self.base.cpu_seconds)

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "case": self.case,
            "name": self.name,
            "python": self.python,
            "cpu_ratio": self.cpu_ratio,
            "wall_ratio": self.wall_ratio,
            "shared_ratio": self.shared_ratio,
            **asdict(self.measured),
        }


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def show(title: str, rows: Sequence[Row], console: Console | None = None) -> None:
    """Print what compiles took; the last column is the ratio of CPU seconds."""
    table = Table(title=title, box=None, title_justify="left", pad_edge=False)
    table.add_column("case", no_wrap=True)
    columns = ("CPU s", "wall s", "command s", "files", "hits", "misses", "headers", "peak MiB", "cache MiB", "hdr MiB")
    for heading in (*columns, "wall ratio", "CPU ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        one = row.measured
        if one.failure:
            table.add_row(row.name, "failed", *[""] * 11)
            continue
        table.add_row(
            row.name,
            _number(one.cpu_seconds),
            _number(one.seconds),
            _number(one.command_seconds),
            _whole(one.files),
            _whole(one.hits),
            _whole(one.misses),
            _headers(one.headers),
            _mebibytes(one.peak_memory),
            _mebibytes(one.cache_bytes),
            _mebibytes(one.header_bytes),
            _two(row.wall_ratio),
            _two(row.cpu_ratio),
        )
    (console or Console(width=_WIDTH)).print(table)


def notes(rows: Sequence[Row]) -> list[str]:
    """What the table has no room for: failures, why headers were refused or given up, and headers in a sample."""
    lines = []
    for row in rows:
        one, counts = row.measured, row.measured.headers or {}
        if one.failure:
            lines.append(f"{row.name}: {one.failure}")
        for kind in ("refused", "fallbacks"):
            if counts.get(kind):
                told = ", ".join(f"{number} x {reason}" for reason, number in counts[kind].items())
                lines.append(f"{row.name}: headers {kind}: {told}")
        if one.header_seconds:
            told = f"{row.name}: {one.header_seconds:.1f} CPU s of it are {counts.get('made', 0)} headers"
            if row.shared_ratio is not None:
                told += (
                    f", which whole groups share; the sample's part of them is {one.shared_header_seconds:.1f} CPU s: "
                    f"a ratio of {row.shared_ratio:.2f}"
                )
            lines.append(told)
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _whole(value: int | None) -> str:
    return "" if value is None else str(value)


def _mebibytes(value: int | None) -> str:
    return "" if value is None else f"{value / (1 << 20):.0f}"


def _headers(counts: Mapping[str, Any] | None) -> str:
    """``made/used/compiled again without``."""
    if not counts:
        return ""
    return f"{counts['made']}/{counts['used']}/{sum(counts['fallbacks'].values())}"


class Peak:
    """The most bytes on disk that folders took, looked at again and again."""

    def __init__(self, root: Path, pattern: str) -> None:
        """Folders are those below ``root`` that match the glob ``pattern``."""
        self._root = root
        self._pattern = pattern
        self.bytes = 0

    def look(self) -> None:
        """Look now."""
        self.bytes = max(self.bytes, sum(stored_bytes(folder) for folder in self._root.glob(self._pattern)))

    @contextmanager
    def watching(self) -> Iterator[Peak]:
        """Look every now and then during the block."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_LOOK):
                self.look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
