"""The commands ``history`` and ``ledger rebuild``: what was built, and how to know it again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import get_args

from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from builder.core.errors import EXIT_OK, FailureKind, RequestError
from builder.core.workspace import Workspace
from builder.ledger import Entry, Ledger, ledger_path, rebuild
from builder.ledger.entries import Status
from builder.progress.reporter import Reporter, print_table, standard_output
from builder.progress.state import STYLES
from builder.wheels.publication import complete
from builder.wheels.record import read_record

_HEADINGS = ("when", "target", "status", "time", "hits", "phases", "reason")
#: Columns from which on an entry has room on one line.
_WIDE = 140
#: A phase is shown when it took at least this share of its target's time.
_SHARE_SHOWN = 0.05
#: Characters of a reason in the table; JSON and the log have all of it.
_LONGEST_REASON = 160


def show_history(
    workspace: Workspace,
    *,
    target: str | None = None,
    status: str | None = None,
    limit: int | None = None,
    since: datetime | None = None,
    as_json: bool = False,
) -> None:
    """Print what became of targets, the newest first; ``target`` is a glob over ids, ``since`` has a time zone.

    A workspace in which nothing was built has an empty history. Raises RequestError for a status that is none and
    a limit below 1, MachineError for a ledger that cannot be read.
    """
    if limit is not None and limit < 1:
        raise RequestError(f"--limit: {limit}: expected 1 or more", hint="without --limit, all of the history is shown")
    if status is not None and status not in get_args(Status):
        raise RequestError(f"--status: {status!r}: expected one of {', '.join(get_args(Status))}")
    entries: list[Entry] = []
    if ledger_path(workspace).exists():
        with Ledger.open(ledger_path(workspace), read_only=True) as ledger:
            entries = ledger.history(target=target, status=status, limit=limit, since=since)
    if as_json:
        json.dump([entry.to_json() for entry in entries], sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    console = standard_output()
    if entries:
        print_table(history_table(entries, wide=console.width >= _WIDE), console)
    else:
        _say_why_empty(console, workspace, filtered=bool(target or status or since))


def rebuild_ledger(workspace: Workspace, reporter: Reporter, *, missing_ok: bool = False) -> int:
    """Restore the ledger from the records beside the wheels of the output folder; gives the exit code.

    Without a wheel it is an empty one; ``missing_ok`` says that a folder that is not there has none. Otherwise that
    raises RequestError. Raises MachineError while a build writes to the ledger.
    """
    path, output = ledger_path(workspace), workspace.output
    complete(output, warn=reporter.warning)
    count = rebuild(path, output, reporter, _record, missing_ok=missing_ok)
    if count:
        reporter.message(f"restored {count} target{'' if count == 1 else 's'} from the records in {output}")
    else:
        why = "it has no whole wheel with its record" if output.is_dir() else "there is no such folder"
        reporter.message(f"nothing to restore from {output} ({why}): the ledger {path} is empty now")
    return EXIT_OK


def _record(wheel: Path) -> Mapping[str, JsonValue]:
    return read_record(wheel).content


def history_table(entries: Sequence[Entry], *, wide: bool) -> Table:
    """The entries as a table: ``wide`` has a column for everything, else phases and reason are below the target."""
    cells = [_cells(entry) for entry in entries]
    return _wide_table(cells) if wide else _narrow_table(cells)


def _wide_table(cells: Sequence[Sequence[Text]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        right = heading in {"time", "hits"}
        table.add_column(heading, no_wrap=heading != "reason", justify="right" if right else "left")
    for row in cells:
        table.add_row(*row)
    return table


def _narrow_table(cells: Sequence[Sequence[Text]]) -> Table:
    """Rich has no cell that spans columns, and phases and reason need the room of several: those are one column."""
    rows: list[Sequence[str | Text]] = [_HEADINGS, *cells]
    widths = [max(len(row[column]) for row in rows) for column in range(1, 5)]

    def joined(row: Sequence[str | Text]) -> Text:
        target, status, time, hits = (
            (cell, " " * (width - len(cell))) for cell, width in zip(row[1:5], widths, strict=True)
        )
        line = Text.assemble(*target, "  ", *status, "  ", *reversed(time), "  ", *reversed(hits))
        line.rstrip()
        return line

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("when", no_wrap=True)
    table.add_column(joined(_HEADINGS), overflow="fold")
    for row in cells:
        details = [Text.assemble("\n", (detail.plain, "dim")) for detail in row[5:] if detail]
        table.add_row(row[0], Text.assemble(joined(row), *details))
    return table


def duration(seconds: float) -> str:
    """``0.4s``, ``48s``, ``3m 11s``, ``2h 05m``: as exact as is of use."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}h {minutes % 60:02}m"


def _cells(entry: Entry) -> list[Text]:
    status = "interrupted" if _is_interrupted(entry) else entry.status
    return [
        # As the clocks of people have it; JSON has UTC.
        Text(f"{entry.finished.astimezone():%Y-%m-%d %H:%M}"),
        Text(entry.id),
        Text(status, STYLES[status]),
        Text(duration(entry.seconds) if entry.phases else ""),
        Text(_hits(entry)),
        Text(_phases(entry)),
        Text(_reason(entry)),
    ]


def _is_interrupted(entry: Entry) -> bool:
    return entry.failure is not None and entry.failure.kind == FailureKind.INTERRUPTED.value


def _phases(entry: Entry) -> str:
    """The phases that count: ``image 1m 38s, compile 1m 26s``; a phase of several attempts is one."""
    spent: dict[str, float] = {}
    for phase in entry.phases:
        spent[phase.name] = spent.get(phase.name, 0.0) + phase.seconds
    return ", ".join(
        f"{name} {duration(seconds)}" for name, seconds in spent.items() if seconds > _SHARE_SHOWN * entry.seconds
    )


def _hits(entry: Entry) -> str:
    if entry.cache is None or not entry.cache.hits + entry.cache.misses:
        return ""
    # Rounded down: 100% means all.
    return f"{100 * entry.cache.hits // (entry.cache.hits + entry.cache.misses)}%"


def _reason(entry: Entry) -> str:
    text = " ".join(entry.reason.split())
    # A failed rehearsal says nothing of a wheel.
    before = f"{entry.purpose}: " if entry.purpose != "build" and entry.status in ("failed", "skipped") else ""
    if entry.failure is not None and not _is_interrupted(entry):
        kind, phase = entry.failure.kind, entry.failure.phase
        text = f"{kind}{f' in {phase}' if phase and phase != kind else ''}: {text}"
    text = before + text
    if len(text) > _LONGEST_REASON:
        text = f"{text[: _LONGEST_REASON - 3]}..."
    return f"{text} ({entry.attempts} attempts)" if entry.attempts > 1 else text


def _say_why_empty(console: Console, workspace: Workspace, *, filtered: bool) -> None:
    if filtered:
        console.print("nothing in the history matches")
    else:
        console.print(f"nothing was built in {escape(str(workspace.root))}, or its ledger was lost")
        console.print("'python -m builder ledger rebuild' restores what the records beside wheels know")
