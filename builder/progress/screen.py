"""A terminal: what is at work is redrawn in place, everything else scrolls above it."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from builder.progress.lines import Line, Lines, files
from builder.progress.state import STYLES, Event, Job, State, TargetState, clock, one_line, short

#: Seconds between two drawings.
INTERVAL = 0.15
#: Cells of a target's bar.
BAR = 16
#: A bar narrower than this says nothing.
LEAST_BAR = 10
#: Lines of the screen that are left to messages.
SPARE_LINES = 3

#: A task, a target whose phase has none, or a task of a target.
Row = tuple[TargetState | None, Job | None]


class Screen(Lines):
    """Lines above a picture of what is at work; ``lock`` is the one under which ``handle`` is called."""

    def __init__(self, console: Console, lock: AbstractContextManager[object]) -> None:
        super().__init__(console, stamped=False)
        self._lock = lock
        self._live: Live | None = None
        self._stop: threading.Event | None = None
        self._state = State()
        self._drawn: RenderableType = ""
        self._width = 0
        utf8 = (console.encoding or "").lower().startswith("utf")
        self._spinner = Spinner("dots" if utf8 else "line")

    def handle(self, event: Event, state: State) -> None:
        """Print what scrolls; draw as long as something is at work."""
        self._state = state
        if not state.busy:
            self.close()
        super().handle(event, state)
        if state.busy and self._stop is None:
            self._stop = threading.Event()
            threading.Thread(target=self._draw, args=(self._stop,), name="progress", daemon=True).start()

    def lines(self, event: Event, state: State) -> list[Line]:
        """Progress is drawn, not printed."""
        drawn = {"progress", "task-started", "phase-started"}
        return [] if event.name in drawn else super().lines(event, state)

    def write(self, event: Event, state: State, lines: list[Line]) -> None:
        """Print the lines above the picture."""
        self._unwrap()
        super().write(event, state, lines)

    def close(self) -> None:
        """Take the picture away and give the cursor back."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None
        if self._live is not None:
            # A second Ctrl-C may end this anywhere: whoever closes again finds what is left to do.
            self._unwrap()
            self._live.update("")
            self._live.stop()
            self.console.show_cursor(True)
            self._live = None
            atexit.unregister(self.close)

    def picture(self, now: float) -> RenderableType:
        """What is at work, at the monotonic time ``now``, within the size of the console."""
        return picture(self._state, now, self.console.width, self.console.height, self._spinner)

    def _draw(self, stop: threading.Event) -> None:
        # What takes no longer than this is over before it is drawn: no flicker.
        while not stop.wait(INTERVAL):
            with self._lock:
                if stop.is_set():
                    return
                try:
                    self._redraw()
                except OSError:
                    return  # the terminal is gone

    def _redraw(self) -> None:
        if self._live is None:
            # Where standard output is no terminal, it is read by a program: it stays as it is.
            with_output = sys.stdout is not None and sys.stdout.isatty()
            self._live = Live(console=self.console, auto_refresh=False, transient=True, redirect_stdout=with_output)
            atexit.register(self.close)
            self._width = self.console.width
            self._live.start()
        self._unwrap()
        self._drawn = self.picture(time.monotonic())
        self._live.update(self._drawn, refresh=True)

    def _unwrap(self) -> None:
        """Where the terminal has become narrower, go up by the lines that it made more of the picture, erasing them.

        Terminals wrap anew what they show, so that rich, which knows lines as it drew them, would leave some behind.
        """
        width, before = self.console.width, self._width
        self._width = width
        # xterm and GNU screen cut lines instead.
        if self._live is None or width >= before or {"XTERM_VERSION", "STY"} & os.environ.keys():
            return
        lines = self.console.render_lines(self._drawn, self.console.options.update(width=before), pad=False)
        more = sum(max(0, Segment.get_line_length(line) - 1) // width for line in lines)
        self.console.file.write("\r\x1b[2K\x1b[1A" * more)


def picture(state: State, now: float, width: int, height: int, spinner: Spinner) -> RenderableType:
    """A table of the targets at work, a line for each other task, a bar for the run: at most ``height`` lines."""
    turning = spinner.render(now)
    width -= 1  # the last column makes some terminals begin a new line
    parts: list[RenderableType] = []
    if state.several and state.running:
        others: list[Row] = [(None, job) for job in state.jobs.values()]
        others = others[: max(1, height // 5)]
        room = max(1, height - SPARE_LINES - 2 - len(others))
        if state.working:
            parts += [_targets(state.working[:room], now, width, turning)]
        if len(state.working) > room:
            more = Text(f"  and {len(state.working) - room} more at work", style="dim")
            more.truncate(width, overflow="ellipsis")
            parts += [more]
        parts += _single(others, now, width, turning)
        parts += [_overall(state, now, width)]
    else:
        rows: list[Row] = [(None, job) for job in state.jobs.values()]
        for target in state.targets.values():
            idle: list[Row] = [(target, None)] if target.working else []
            rows += [(target, job) for job in target.jobs.values()] or idle
        parts += _single(rows[: max(1, height - SPARE_LINES)], now, width, turning)
    return Group(*parts)


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, its width in cells, and what a target has in it."""

    heading: str
    width: int
    cell: Callable[[TargetState, float], RenderableType]
    right: bool = True


@dataclass(frozen=True)
class Cells:
    """A column as it is drawn."""

    width: int
    cells: Sequence[RenderableType]
    right: bool = False


def _side_by_side(columns: Sequence[Cells], gap: int) -> Table:
    """The columns, ``gap`` apart; every cell is cut at the width of its column, so that no line is ever broken."""
    # Gaps are columns too: versions of rich differ in what a padded column's width holds.
    table = Table.grid(padding=0)
    rows: list[list[RenderableType]] = [[] for _ in columns[0].cells]
    for column in columns:
        if rows[0]:
            table.add_column(width=gap)
            for row in rows:
                row.append("")
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(width=column.width, no_wrap=True, overflow="ellipsis", justify=justify)
        for row, cell in zip(rows, column.cells, strict=True):
            row.append(cell)
    for row in rows:
        table.add_row(*row)
    return table


def _targets(working: Sequence[TargetState], now: float, width: int, turning: RenderableType) -> Table:
    names = [one_line(each.id) for each in working]
    longest = max(len("target"), *map(cell_len, names))
    gap = 2 if width >= 100 else 1
    columns = _fitting(width - 1 - gap, gap, min(longest, 16))
    rest = width - 1 - gap - sum(gap + column.width for column in columns)
    first = min(longest, rest)
    drawn = [
        Cells(1, ["", *(turning for _ in working)]),
        Cells(first, [Text("target", style="dim", overflow="crop"), *(Text(_middle(name, first)) for name in names)]),
    ]
    for column in columns:
        cells = [column.cell(target, now) for target in working]
        drawn.append(Cells(column.width, [Text(column.heading, style="dim"), *cells], column.right))
    spare = rest - first - gap
    if spare >= LEAST_BAR:
        drawn.append(Cells(min(spare, 60), ["", *(Text(target.detail, style="dim") for target in working)]))
    return _side_by_side(drawn, gap)


def _fitting(width: int, gap: int, name: int) -> list[Column]:
    """The columns that fit beside names of ``name`` cells; what matters least goes first."""
    columns = [
        Column("phase", 9, lambda target, _now: Text(target.activity, style="cyan"), right=False),
        Column("", BAR, lambda target, _now: Text("") if target.percent is None else _bar(target.percent)),
        Column("done", 4, lambda target, _now: _percent(target.percent)),
        Column("files", 9, lambda target, _now: Text(files(target)[0].split()[0] if target.files else "")),
        Column("hits", 4, lambda target, _now: Text("" if target.hits is None else str(target.hits))),
        Column("time", 7, lambda target, now: _elapsed(target.started, now)),
        Column("ETA", 7, _left),
    ]
    for heading in ("", "files", "hits", "time", "phase", "ETA", "done"):
        # The bar is for wide terminals: a name that is cut costs more than it gives.
        needed = 30 if heading == "" else name
        if needed + sum(gap + column.width for column in columns) > width:
            columns = [column for column in columns if column.heading != heading]
    return columns


def _single(rows: Sequence[Row], now: float, width: int, turning: RenderableType) -> list[RenderableType]:
    """A line for each task, or for a target whose phase has none."""
    if not rows:
        return []
    with_bar, with_time, with_percent = width >= 55, width >= 30, width >= 20
    with_eta = with_time and any(target is not None and target.left(now) is not None for target, _ in rows)
    room = max(1, width - 2 - 5 * with_percent - (BAR + 1) * with_bar - 8 * with_time - 8 * with_eta)
    told = [_doing(*row) for row in rows]
    # A description that would fit keeps its words; a long one leaves a part to what is done right now.
    longest = max(map(cell_len, told))
    first = longest if longest <= room else room * 2 // 3
    percents = [_how_far(*row) for row in rows]
    columns = [Cells(1, [turning for _ in rows]), Cells(first, [Text(text) for text in told])]
    if with_bar:
        columns.append(Cells(BAR, [_bar(percent) for percent in percents]))
    if with_percent:
        columns.append(Cells(4, [_percent(percent) for percent in percents], right=True))
    if with_time:
        began = [job.started if job else target.started if target else None for target, job in rows]
        columns.append(Cells(7, [_elapsed(since, now) for since in began], right=True))
    if with_eta:
        columns.append(Cells(7, [_left(target, now) if target else "" for target, _ in rows], right=True))
    spare = room - first - 1
    if spare >= LEAST_BAR:
        columns.append(Cells(spare, [Text(_detail(*row), style="dim") for row in rows]))
    return [_side_by_side(columns, 1)]


def _how_far(target: TargetState | None, job: Job | None) -> float | None:
    percent = job.percent if job else None
    return target.percent if percent is None and target else percent


def _detail(target: TargetState | None, job: Job | None) -> str:
    detail = job.detail if job else ""
    return ", ".join(filter(None, [*files(target), detail or target.detail])) if target else detail


def _doing(target: TargetState | None, job: Job | None) -> str:
    """What a line is about: where one target is at work, everyone knows which."""
    if job is not None:
        return short(job.description, target.id if target else None)
    return target.activity or one_line(target.id) if target else ""


def _overall(state: State, now: float, width: int) -> RenderableType:
    counted = Text()
    for outcome, number in state.counts.items():
        if number:
            counted.append(", " if counted else "").append(f"{number} {outcome}", style=STYLES.get(outcome, ""))
    left = state.eta(now)
    times = Text(clock(now - state.started), style="yellow")
    if left is not None:
        times.append(f" ETA {clock(left)}", style="cyan")
    done = sum(1.0 if each.status else _share(each, now) for each in state.targets.values())
    if len(counted) + 2 + len(times) > width:
        counted.truncate(width, overflow="ellipsis")
        return counted
    bar = min(width - len(counted) - len(times) - 4, 60)
    columns = [Cells(len(counted), [counted]), Cells(len(times), [times])]
    if bar >= LEAST_BAR:
        columns.insert(0, Cells(bar, [ProgressBar(total=len(state.targets), completed=done, width=bar)]))
    return _side_by_side(columns, 2)


def _share(target: TargetState, now: float) -> float:
    """How much of a target is done, 0 to 1."""
    left = target.left(now)
    if left is None or target.started is None:
        return 0.0
    spent = now - target.started
    return spent / (spent + left) if spent + left else 0.0


def _bar(percent: float | None) -> ProgressBar:
    """A bar, which only moves where nobody knows how far it is."""
    return ProgressBar(total=None if percent is None else 100.0, completed=percent or 0.0, width=BAR)


def _percent(percent: float | None) -> Text:
    return Text("" if percent is None else f"{percent:.0f}%", style="magenta")


def _elapsed(since: float | None, now: float) -> Text:
    return Text("" if since is None else clock(now - since), style="yellow")


def _left(target: TargetState, now: float) -> Text:
    left = target.left(now)
    return Text("" if left is None else clock(left), style="cyan")


def _middle(text: str, width: int) -> str:
    """``text`` within ``width``: release line at one end, Python and architecture at the other say the most."""
    if cell_len(text) <= width:
        return text
    half = max(0, width - 1) // 2
    tail = set_cell_size(text[::-1], half)[::-1]
    return set_cell_size(text, width - 1 - half) + "…" + tail
