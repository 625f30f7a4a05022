"""The ``list`` command: what can be built, as a table for people, a page in Markdown, or JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from builder.cli.list_markdown import compatibility_page
from builder.matrix.base import Arch, python_key
from builder.matrix.lifecycle import Phase, Status
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine, Target
from builder.matrix.selection import Query, select
from builder.matrix.toolchains import Toolchain
from builder.progress.reporter import print_table, standard_output

_STYLES: dict[Status, str] = {
    "planned": "blue",
    "development": "cyan",
    "maintained": "green",
    "unmaintained": "yellow",
    "end-of-life": "red",
}


def show_targets(matrix: Matrix, query: Query, *, form: Literal["json", "markdown"] | None) -> None:
    """Print the targets that ``query`` selects; an empty one selects all releases, for all architectures.

    Raises RequestError as ``select`` does.
    """
    targets = select(matrix, query)
    if form == "json":
        json.dump([target.describe() for target in targets], sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif form == "markdown":
        sys.stdout.write(compatibility_page(matrix, query, targets))
    else:
        _show_table(targets, matrix, query, standard_output())


@dataclass(frozen=True)
class _Row:
    """One release line with those of its targets that were selected."""

    line: ReleaseLine
    targets: tuple[Target, ...]

    def by_arch(self, fact: Callable[[Toolchain], str]) -> str:
        """A fact of the toolchains, x86_64 first; once where the architectures agree."""
        toolchains = {target.arch: target.toolchain for target in self.targets}
        return "/".join(dict.fromkeys(fact(toolchains[arch]) for arch in self.line.architectures if arch in toolchains))


@dataclass
class _Notes:
    """Footnotes: each text once, called by a letter."""

    texts: list[str] = field(default_factory=list)

    def letter(self, text: str) -> str:
        """The letter of the note with this text, which becomes one where it is none yet."""
        if text not in self.texts:
            self.texts.append(text)
        return chr(ord("a") + self.texts.index(text))


@dataclass(frozen=True)
class _Layout:
    """Which columns a table has, the spaces between them, and how long a status is."""

    columns: tuple[str, ...]
    gap: int
    status: Callable[[Phase], str]
    #: False for the narrowest, whose names go on in the next line rather than losing their end.
    whole: bool = True


def _status_in_brief(phase: Phase) -> str:
    """``end-of-life 2026-08``, ``maintained to 2027-01``."""
    if phase.following:
        return f"{phase.status} to {phase.following[1]:%Y-%m}"
    return f"{phase.status} {phase.since:%Y-%m}" if phase.since else phase.status


def _status_with_day(phase: Phase) -> str:
    """``end-of-life since 2026-08-08``, ``maintained until 2027-01-25``."""
    if phase.following:
        return f"{phase.status} until {phase.following[1]}"
    return f"{phase.status} since {phase.since}" if phase.since else phase.status


#: From the richest to the poorest; the first that fits is taken.
_LAYOUTS = (
    _Layout(("release line", "CANN", "op-plugin", "Python 3.", "gcc", "manylinux", "status"), 2, Phase.describe),
    _Layout(("release line", "CANN", "Python 3.", "gcc", "manylinux", "status"), 1, _status_with_day),
    _Layout(("release line", "CANN", "Python 3.", "gcc", "status"), 1, _status_in_brief),
    _Layout(("release line", "CANN", "Python 3.", "status"), 1, _status_in_brief),
    _Layout(("release line", "Python 3.", "status"), 1, lambda phase: phase.status),
    _Layout(("release line", "Python 3.", "status"), 1, lambda phase: phase.status, whole=False),
)


def _show_table(targets: Sequence[Target], matrix: Matrix, query: Query, console: Console) -> None:
    rows = _rows(targets)
    notes = _Notes()
    unlimited = console.options.update(max_width=1000)
    for layout in _LAYOUTS:
        table = _table(rows, layout, notes, mark="x" if console.options.ascii_only else "✓")
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
    below = [f"{notes.letter(text)}: {text}" for text in notes.texts]
    differing = [heading for heading in layout.columns if any("/" in _tools(row).get(heading, "") for row in rows)]
    if differing:
        below.append(f"{', '.join(differing)}: x86_64/aarch64 where they differ")
    if not query.channel and all(row.line.channel == "release" for row in rows):
        below.append("development branches: --channel all")
    print_table(table, console)
    console.print()
    for text in below:
        # A file has no width to wrap to.
        console.print(Text(text, style="dim"), soft_wrap=not console.is_terminal)
    console.print(
        f"{_count(len(rows), 'release line')}, {_count(len(targets), 'target')}, statuses as of {matrix.as_of}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _rows(targets: Sequence[Target]) -> list[_Row]:
    """The lines of ``targets``, the newest first."""
    members: dict[str, list[Target]] = {}
    for target in targets:
        members.setdefault(target.release.branch, []).append(target)
    rows = [_Row(group[0].release, tuple(group)) for group in members.values()]
    return sorted(rows, key=lambda row: (row.line.order, row.line.branch), reverse=True)


def _table(rows: Sequence[_Row], layout: _Layout, notes: _Notes, *, mark: str) -> Table:
    pythons = sorted({target.python for row in rows for target in row.targets}, key=python_key)
    architectures = {target.arch for row in rows for target in row.targets}
    minors = [python.partition(".")[2] for python in pythons]
    table = Table(box=None, pad_edge=False, padding=(0, layout.gap, 0, 0), header_style="bold")
    for heading in layout.columns:
        title = f"{heading}\n{' '.join(minors)}" if heading == "Python 3." else heading
        # Names that a person copies stay whole.
        table.add_column(Text(title), no_wrap=layout.whole or heading != "release line", overflow="fold")
    pytorch = ""
    for row in rows:
        if row.line.pytorch != pytorch:
            pytorch = row.line.pytorch
            table.add_row(Text(f"PyTorch {pytorch}", style="bold"))
        marks = [
            _mark(row, python, architectures, notes, mark).rjust(len(minor))
            for python, minor in zip(pythons, minors, strict=True)
        ]
        cells = {
            "release line": Text(row.line.branch),
            "CANN": Text(row.line.cann or "-"),
            "op-plugin": Text(row.line.op_plugin or "-"),
            "Python 3.": Text(" ".join(marks)),
            **{heading: Text(cell) for heading, cell in _tools(row).items()},
            "status": Text(layout.status(row.line.phase), style=_STYLES[row.line.status]),
        }
        table.add_row(*(cells[heading] for heading in layout.columns), style="dim" if row.line.refusal else None)
    return table


def _tools(row: _Row) -> dict[str, str]:
    """The cells that can differ between the architectures, by their headings."""
    return {
        "gcc": row.by_arch(lambda toolchain: toolchain.gcc_minor),
        "manylinux": row.by_arch(lambda toolchain: toolchain.manylinux.removeprefix("manylinux_")),
    }


def _mark(row: _Row, python: str, architectures: set[Arch], notes: _Notes, mark: str) -> str:
    """What stands for one Python of a line: the mark, ``-`` for none, or the letter of a note."""
    cells = [target for target in row.targets if target.python == python]
    if not cells:
        return "-"
    if row.line.refusal:
        return notes.letter(f"cannot be built: {row.line.refusal}")
    said = []
    if {target.arch for target in cells} != architectures:
        said.append(f"{cells[0].arch} only")
    without = [target.arch for target in cells if not target.torch_on_index]
    if without:
        said.append(f"no index has a torch wheel for {' and '.join(without)}: bring one with --find-links")
    return notes.letter("; ".join(said)) if said else mark
