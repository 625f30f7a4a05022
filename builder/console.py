"""What people see: live progress on a terminal, plain timestamped lines elsewhere.

Everything goes to standard error, so that standard output carries only what a program may read
(``--json``, tables that were asked for).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from builder.errors import BuilderError

#: Seconds between two plain progress lines of one task, where no terminal can redraw a bar.
PLAIN_INTERVAL = 15.0
#: Columns of a table that goes into a file or a pipe.
WIDTH_WITHOUT_TERMINAL = 200


class Task:
    """One bar of progress. ``update`` may be called as often as the caller likes."""

    def __init__(self, reporter: Reporter, description: str, total: float | None) -> None:
        self._reporter = reporter
        self._description = description
        self._total = total
        self._printed = time.monotonic()
        self._identity = reporter._add(description, total)

    def update(self, completed: float | None = None, total: float | None = None, detail: str = "") -> None:
        """Set the units done, the units in all, and a short text; None keeps what was there."""
        if total is not None:
            self._total = total
        if self._identity is not None:
            self._reporter._advance(self._identity, completed, total, detail)
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL:
            self._printed = time.monotonic()
            share = f" {completed / self._total:.0%}" if completed is not None and self._total else ""
            self._reporter.message(f"{self._description}{share}{' ' + detail if detail else ''}")


class Reporter:
    """Where every part of the builder says what it does. ``quiet`` leaves warnings and errors."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console if console is not None else Console(stderr=True, highlight=False)
        if not self.console.is_terminal:
            # A log file has no width of its own: whole lines are easier to read and to search.
            self.console.width = WIDTH_WITHOUT_TERMINAL
        self.quiet = quiet
        self._progress: Progress | None = None
        self._depth = 0

    @property
    def live(self) -> bool:
        """True where bars can be redrawn in place."""
        return self.console.is_terminal and not self.quiet

    def message(self, text: str) -> None:
        """One line about what happens now."""
        if not self.quiet:
            self._print(escape(text))

    def warning(self, text: str) -> None:
        """One line about what the user should know although the work goes on."""
        self._print(f"[yellow]warning:[/yellow] {escape(text)}")

    def table(self, table: Table) -> None:
        """A table, as wide as the terminal."""
        if not self.quiet:
            self.console.print(table)

    def error(self, error: BuilderError) -> None:
        """A message, its details and the next step, as every error of the builder is shown."""
        self._print(f"[bold red]error:[/bold red] {escape(error.message)}")
        if error.details:
            for line in error.details.rstrip().splitlines():
                self._print(f"  [dim]|[/dim] {escape(line)}")
        if error.hint:
            self._print(f"[cyan]next step:[/cyan] {escape(error.hint)}")

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        """A progress bar for the length of the ``with`` block."""
        if self.live and self._progress is None:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                # What is left of the line goes to the detail, which is cut; the other widths stay.
                TextColumn(
                    "[dim]{task.fields[detail]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
                ),
                console=self.console,
                transient=True,
                expand=True,
            )
            self._progress.start()
        self._depth += 1
        task = Task(self, description, total)
        try:
            yield task
        finally:
            self._depth -= 1
            if self._progress is not None:
                if task._identity is not None:
                    self._progress.remove_task(task._identity)
                if self._depth == 0:
                    self._progress.stop()
                    self._progress = None

    def _add(self, description: str, total: float | None) -> TaskID | None:
        if self._progress is None:
            self.message(description)
            return None
        return self._progress.add_task(escape(description), total=total, detail="")

    def _advance(self, identity: TaskID, completed: float | None, total: float | None, detail: str) -> None:
        if self._progress is not None:
            self._progress.update(identity, completed=completed, total=total, detail=escape(detail))

    def _print(self, markup: str) -> None:
        if not self.console.is_terminal:
            markup = f"[dim]{datetime.now().strftime('%H:%M:%S')}[/dim] {markup}"
        self.console.print(markup, soft_wrap=True)


def standard_output() -> Console:
    """The console for what was asked for: tables and JSON, kept apart from progress."""
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console
