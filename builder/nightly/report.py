"""What a night tells people, CI systems and programs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from builder.console import Reporter
from builder.errors import EXIT_OK, EXIT_TARGET_FAILED
from builder.releases import Manifest
from builder.reports import write_summaries
from builder.results import Run, TargetResult
from builder.workspace import atomic_json

#: What the manifest's words mean for a night.
_WORDS = {"skipped": "carried over"}


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
class _Part:
    """Some targets of a night, as ``builder.reports`` takes a run."""

    id: str
    started: datetime
    seconds: float
    targets: Sequence[TargetResult]


def exit_code(report: Report, manifest: Manifest) -> int:
    """0 when all that is required is there or waived, and there is something at all."""
    green = not report.blocking and any(entry.there for entry in manifest.expected)
    return EXIT_OK if green else EXIT_TARGET_FAILED


def show(report: Report, manifest: Manifest, reporter: Reporter) -> None:
    """Say how the night ended."""
    counted = Counter(_WORDS.get(entry.status, entry.status) for entry in manifest.expected)
    said = ", ".join(f"{number} {word}" for word, number in sorted(counted.items()))
    place = f"{report.store}/{report.channel}/{report.night}"
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


def write_report(report: Report, run: Run, tried: int, environment: Mapping[str, str] = os.environ) -> None:
    """Write ``result.json``, ``summary.md`` and ``junit.xml`` over all targets into the run's folder.

    The first ``tried`` targets were built by an engine, which has told ``$GITHUB_STEP_SUMMARY`` of them; the others
    are added there. Raises OSError where a file cannot be written.
    """
    atomic_json(run.folder / "result.json", {**run.to_json(), "night": asdict(report)})
    title = f"{report.channel}/{report.night}, latest {report.latest or 'none'}"
    if others := run.targets[tried:]:
        write_summaries(_Part(title, run.started, run.seconds, others), run.folder, environment)
    write_summaries(_Part(title, run.started, run.seconds, run.targets), run.folder, {})
