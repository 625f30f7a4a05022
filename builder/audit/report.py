"""How an audit's outcome is shown: tables for people, one object for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from builder.audit.drift import Drift, Outcome, counted
from builder.audit.update import Change
from builder.progress.reporter import print_table

#: From this width on, every column gets its own place.
WIDE = 120


def show(outcome: Outcome, console: Console, *, verbose: bool) -> None:
    """Print drift, accepted drift with its reasons, and on request notes."""
    if outcome.open:
        print_table(_drift(outcome.open, console.width), console)
        console.print()
    if outcome.accepted:
        print_table(_accepted(outcome.accepted), console, style="dim")
        console.print()
    if verbose and outcome.notes:
        table = _table("information", ("release line", "fact", ""))
        for note in outcome.notes:
            table.add_row(escape(note.line), escape(note.fact), escape(note.text))
        print_table(table, console)
        console.print()


def conclude(outcome: Outcome, changes: Sequence[Change] | None, console: Console) -> None:
    """Print one line that sums it up, behind what became of each drift where files were to be changed (not None)."""
    if changes is not None:
        places = {change.drift: change.place for change in changes}
        for drift in outcome.open:
            said = "written" if drift in places else "left"
            place = short(places.get(drift, drift.place))
            console.print(escape(f"{said:<7}  {place}: {what(drift)}"), soft_wrap=True)
    console.print(summary(outcome, changes), soft_wrap=True)


def summary(outcome: Outcome, changes: Sequence[Change] | None = None) -> str:
    """``82 lines, 1,640 facts compared, 2 drift, 5 accepted, 1 written, 1 left``; the end only after an update."""
    text = (
        f"{counted(outcome.lines, 'line')}, {counted(outcome.compared, 'fact')} compared, "
        f"{len(outcome.open):,} drift, {len(outcome.accepted):,} accepted"
    )
    if changes is None:
        return text
    written = {change.drift for change in changes}
    left = sum(drift not in written for drift in outcome.open)
    return f"{text}, {len(outcome.open) - left:,} written, {left:,} left"


def write_json(outcome: Outcome, changes: Sequence[Change] | None) -> None:
    """Write the outcome to standard output as one JSON object."""
    written = {change.drift for change in changes or ()}
    document = {
        "schema": 1,
        "lines": outcome.lines,
        "compared": outcome.compared,
        "drift": [{**_object(drift), "written": drift in written} for drift in outcome.open],
        "accepted": [{**_object(drift), "reason": drift.accepted} for drift in outcome.accepted],
        "notes": [{"line": note.line, "fact": note.fact, "text": note.text} for note in outcome.notes],
        "updated": [{"place": short(change.place), "what": what(change.drift)} for change in changes or ()],
    }
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def what(drift: Drift) -> str:
    """One drift in one line."""
    return f"{drift.line}: {drift.fact}: {drift.stated} -> {drift.found}"


def short(place: str) -> str:
    """``file:line:column`` without what the working folder adds to it."""
    here = f"{Path.cwd()}{os.sep}"
    return place.removeprefix(here)


def _object(drift: Drift) -> dict[str, Any]:
    return {
        "line": drift.line,
        "fact": drift.fact,
        "stated": drift.stated,
        "found": drift.found,
        "place": short(drift.place),
        "source": drift.source,
    }


def _line_of(place: str) -> str:
    """``pytorch-2.5.yaml:43``: what a person needs to find it, short enough for a column."""
    name, *numbers = short(place).split("/")[-1].split(":")
    return ":".join((name, *numbers[:1]))


def _table(title: str, headings: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _drift(drift: Sequence[Drift], width: int) -> Table:
    if width >= WIDE:
        table = _table("drift", ("release line", "fact", "stated", "found", "place"))
        for item in drift:
            texts = (item.line, item.fact, item.stated, item.found, _line_of(item.place))
            table.add_row(*map(escape, texts))
        return table
    # Two lines for each: names and places that a person copies stay whole.
    table = _table("drift", ("release line, place", "fact", "stated, found"))
    for item in drift:
        table.add_row(
            f"{escape(item.line)}\n[dim]{escape(_line_of(item.place))}[/dim]",
            escape(item.fact),
            f"{escape(item.stated)}\n[red]{escape(item.found)}[/red]",
        )
    return table


def _accepted(drift: Sequence[Drift]) -> Table:
    table = _table("accepted", ("release line", "fact", "found, reason"))
    for item in drift:
        table.add_row(escape(item.line), escape(item.fact), escape(f"{item.found}\n{item.accepted}"))
    return table
