"""What a night tells people, CI systems and programs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from builder.core.errors import EXIT_OK, EXIT_TARGET_FAILED
from builder.core.results import Run, TargetResult
from builder.core.workspace import atomic_json
from builder.executors.reports import write_summaries
from builder.nightly.decisions import Action, Decision
from builder.progress.reporter import Reporter, print_table, standard_output
from builder.releases import Manifest

#: What the manifest's words mean for a night.
_WORDS = {"skipped": "carried over"}
#: What a plan calls the actions: before each target, and in the sum of all.
_ACTIONS: Mapping[Action, tuple[str, str, str]] = {
    "build": ("build", "to build", "green"),
    "take": ("publish", "finished before", "cyan"),
    "carry": ("carry over", "to carry over", "cyan"),
    "leave": ("leave open", "left open", "bold red"),
}


@dataclass(frozen=True)
class Report:
    """How a night ended. ``published`` is False where there was nothing new and ``night`` is the one before;
    ``latest`` is the night that the pointer names; ``blocking`` are required targets that are missing."""

    channel: str
    night: str
    store: str
    published: bool
    latest: str | None
    blocking: tuple[str, ...]
    pruned: tuple[str, ...]


@dataclass(frozen=True)
class _Titled:
    """A run under the night's name, as ``builder.executors.reports`` takes it."""

    id: str
    started: datetime
    seconds: float
    targets: Sequence[TargetResult]


def show_plan(decisions: Sequence[Decision]) -> None:
    """What a night would do about each target, on standard output."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("target", no_wrap=True)
    table.add_column("action", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for decision in decisions:
        word, _, style = _ACTIONS[decision.action]
        table.add_row(escape(decision.id), f"[{style}]{word}[/{style}]", escape(decision.reason))
    console = standard_output()
    print_table(table, console)
    counted = Counter(decision.action for decision in decisions)
    console.print(
        ", ".join(f"{counted[action]} {said}" for action, (_, said, _) in _ACTIONS.items() if counted[action])
    )


def exit_code(report: Report, manifest: Manifest) -> int:
    """0 when all that is required is there or waived, and there is something at all."""
    green = not report.blocking and any(entry.there for entry in manifest.expected)
    return EXIT_OK if green else EXIT_TARGET_FAILED


def show(report: Report, manifest: Manifest, reporter: Reporter, new: Sequence[str] = ()) -> None:
    """Say how the night ended, and where its ``new`` wheels are, by target."""
    counted = Counter(_WORDS.get(entry.status, entry.status) for entry in manifest.expected)
    said = ", ".join(f"{number} {word}" for word, number in sorted(counted.items()))
    place = f"{report.store}/{report.channel}/{report.night}"
    for entry in manifest.expected:
        if entry.target in new and entry.there:
            reporter.message(f"wheel: {place}/{entry.wheel}")
    reporter.message(f"{report.channel}: the night {report.night} has {said}: {place}")
    for entry in manifest.holes:
        reporter.warning(f"{entry.target} is missing ({entry.reason}); it is filled by: {entry.command}")
    if report.latest == report.night:
        reporter.message(f"{report.channel}: latest is {report.night}")
    elif report.blocking:
        reporter.warning(
            f"{report.channel}: latest stays at {report.latest or 'no night'}: "
            f"{len(report.blocking)} required target{' is' if len(report.blocking) == 1 else 's are'} missing"
        )
    for name in report.pruned:
        reporter.message(f"{report.channel}: removed the night {name}")


def show_unpublished(run: Run, reporter: Reporter, environment: Mapping[str, str] = os.environ) -> None:
    """Say what an engine has done for a night that was not published, and where its wheels wait for that."""
    for result in run.targets:
        if result.wheel is not None:
            reporter.message(f"not published yet: {result.wheel}")
    try:
        write_summaries(run, run.folder, environment)
    except OSError as error:
        reporter.warning(f"the result of the run could not be written: {error.strerror}")


def write_report(report: Report, run: Run, environment: Mapping[str, str] = os.environ) -> None:
    """Write ``result.json``, ``summary.md`` and ``junit.xml`` over all targets into the run's folder, and the summary
    to ``$GITHUB_STEP_SUMMARY``.

    Raises OSError where a file cannot be written.
    """
    atomic_json(run.folder / "result.json", {**run.to_json(), "night": asdict(report)})
    title = f"{report.channel}/{report.night}, latest {report.latest or 'none'}"
    write_summaries(_Titled(title, run.started, run.seconds, run.targets), run.folder, environment)
