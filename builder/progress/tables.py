"""Tables as they are printed everywhere."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table


class Unpadded:
    """A table without the spaces that rich fills each line up with; whatever else stands in a cell stays."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines of the table, each without the spaces at its end: no table here colours its background."""
        for line in console.render_lines(self._table, options, pad=False):
            while line and line[-1].text.rstrip(" ") == "":
                line.pop()
            if line:
                line[-1] = Segment(line[-1].text.rstrip(" "), line[-1].style, line[-1].control)
            yield from line
            yield Segment.line()


def print_table(table: Table, console: Console, *, style: str | None = None) -> None:
    """Print a table, in ``style``, without the spaces that rich fills each line up with.

    They would be in every file and every pipe, and are copied along on terminals.
    """
    console.print(Unpadded(table), style=style)
