"""A run told to people and to CI systems: ``summary.md`` (also for GitHub's step summary) and ``junit.xml``.

Names, reasons and logs come from builds, so nothing of them is trusted: whatever Markdown or XML would take for its
own is escaped, and control characters are removed.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

from builder.core.errors import BuilderError, FailureKind, RequestError
from builder.core.results import most_frequent
from builder.core.statistics import CacheUse
from builder.core.workspace import atomic_write
from builder.progress.state import clean, clock

#: Lines of a failed target's log in the summary.
LOG_LINES = 30
#: Bytes at the end of a log that are looked at, and characters of a line that are kept.
LOG_BYTES = 1 << 16
LINE_LENGTH = 400
#: Bytes that GitHub takes as the summary of one step; it refuses a longer one whole.
STEP_SUMMARY_BYTES = 1 << 20
#: Characters of a reason in the table; the failures below it have it whole.
REASON_LENGTH = 300

#: What XML 1.0 has no way to say (section 2.2, Char), beyond the control characters that ``clean`` takes out.
_NOT_IN_XML = re.compile("[\ufffe\uffff]")
#: What Markdown may read as its own inside a line, GitHub's tables, formulas and HTML in it too.
_MARKDOWN = re.compile(r"[&<>|`*~\[\]\\$]|(?<![^\W_])_|_(?![^\W_])")


class Result(Protocol):
    """What is read of a target's result (``builder.core.results.TargetResult``)."""

    @property
    def id(self) -> str:
        """The target."""

    @property
    def status(self) -> str:
        """built, rehearsed, pulled, skipped or failed."""

    @property
    def reason(self) -> str:
        """Why."""

    @property
    def log(self) -> Path:
        """Its log, which need not exist."""

    @property
    def seconds(self) -> float:
        """Wall time."""

    @property
    def files_compiled(self) -> int | None:
        """Files that were compiled."""

    @property
    def cache(self) -> CacheUse | None:
        """What the compile cache did."""

    @property
    def compiler_warnings(self) -> dict[str, int] | None:
        """How often compilers warned, by kind."""

    @property
    def wheel(self) -> Path | None:
        """The wheel, where there is one."""

    @property
    def error(self) -> BuilderError | None:
        """What made it fail."""


class Results(Protocol):
    """What is read of a run (``builder.core.results.Run``)."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def started(self) -> datetime:
        """When it began, with its time zone."""

    @property
    def seconds(self) -> float:
        """Wall time."""

    @property
    def targets(self) -> Sequence[Result]:
        """Its targets, in order."""


def write_summaries(run: Results, folder: Path, environment: Mapping[str, str] = os.environ) -> tuple[Path, Path]:
    """Write ``summary.md`` and ``junit.xml`` into ``folder``, and append the summary to ``$GITHUB_STEP_SUMMARY``.

    Returns the two paths. Raises OSError where a file cannot be written.
    """
    summary, junit = folder / "summary.md", folder / "junit.xml"
    atomic_write(summary, markdown_summary(run))
    atomic_write(junit, junit_xml(run))
    step = environment.get("GITHUB_STEP_SUMMARY")
    if step:
        with open(step, "ab") as stream:
            taken = stream.tell()
            # Earlier commands of the same step may have written, and not ended their last line.
            stream.write(_fitted(run, STEP_SUMMARY_BYTES - taken, "\n\n" if taken else ""))
    return summary, junit


def markdown_summary(run: Results, *, log_lines: int = LOG_LINES) -> str:
    """A table of the targets, and for each failure the last ``log_lines`` lines of its log."""
    lines = [
        f"## Run {_inline(run.id)}",
        "",
        f"{_counts(run)} in {clock(run.seconds)}, started {run.started.isoformat(timespec='seconds')}",
        "",
        "| target | status | time | files | hits | wheel | reason |",
        "|---|---|---:|---:|---:|---|---|",
        *map(_row, run.targets),
    ]
    warning = [result for result in run.targets if result.compiler_warnings]
    if warning:
        told = (f"- {_inline(each.id)}: {_inline(most_frequent(each.compiler_warnings or {}))}" for each in warning)
        lines += ["", "Compilers warned:", "", *told]
    failed = [result for result in run.targets if result.status == "failed"]
    if failed and log_lines:
        lines += ["", "### Failures"]
    for result in failed if log_lines else ():
        lines += ["", *_details(result, log_lines)]
    return "\n".join(lines) + "\n"


def junit_xml(run: Results) -> str:
    """The run as JUnit XML: a test case for each target, which fails, is skipped, or passes."""
    outcomes = [result.status for result in run.targets]
    totals = {
        "tests": str(len(outcomes)),
        "failures": str(outcomes.count("failed")),
        "errors": "0",
        "skipped": str(outcomes.count("skipped")),
        "time": f"{sum(result.seconds for result in run.targets):.3f}",
    }
    root = ElementTree.Element("testsuites", {"name": "torch-npu-builder", **totals})
    started = run.started.isoformat(timespec="seconds")
    suite = ElementTree.SubElement(root, "testsuite", {"name": _text(run.id), **totals, "timestamp": started})
    for result in run.targets:
        attributes = {"classname": "torch-npu-builder", "name": _text(result.id), "time": f"{result.seconds:.3f}"}
        case = ElementTree.SubElement(suite, "testcase", attributes)
        if result.status == "failed":
            failure = {"type": _kind(result.error), "message": _text(result.reason)}
            ElementTree.SubElement(case, "failure", failure).text = "\n".join(_told(result, LOG_LINES))
        elif result.status == "skipped":
            ElementTree.SubElement(case, "skipped", {"message": _text(result.reason)})
        if result.wheel is not None:
            ElementTree.SubElement(case, "system-out").text = _text(f"wheel: {result.wheel.name}")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _fitted(run: Results, room: int, before: str) -> bytes:
    """The summary in at most ``room`` bytes: with shorter logs, then without, then with its first lines only."""
    for log_lines in (LOG_LINES, 5, 0):
        text = (before + markdown_summary(run, log_lines=log_lines)).encode()
        if len(text) <= room:
            return text
    note = b"\n(cut: the summary of a step has a limit; summary.md in the run's folder has everything)\n"
    end = text.rfind(b"\n", 0, max(0, room - len(note)))
    return text[: end + 1] + note if end >= 0 else b""


def _row(result: Result) -> str:
    cache = result.cache
    asked = 0 if cache is None else cache.hits + cache.misses
    cells = (
        _inline(result.id),
        f"**{_status(result)}**" if result.status == "failed" else _inline(_status(result)),
        clock(result.seconds),
        "" if result.files_compiled is None else str(result.files_compiled),
        "" if cache is None else f"{cache.hits} ({cache.hits / asked:.0%})" if asked else str(cache.hits),
        "" if result.wheel is None else _inline(result.wheel.name),
        _inline(result.reason[:REASON_LENGTH]),
    )
    return f"| {' | '.join(cells)} |"


def _details(result: Result, log_lines: int) -> list[str]:
    told = _told(result, log_lines)
    # A fence is longer than any in what it encloses.
    longest = max((len(found) for line in told for found in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    phase = getattr(result.error, "phase", None)
    place = f" in {html.escape(_line(str(phase)))}" if phase else ""
    summary = f"{html.escape(_line(result.id))}: {html.escape(_kind(result.error))}{place}"
    hint = getattr(result.error, "hint", None)
    return [
        "<details>",
        f"<summary>{summary}</summary>",
        "",
        f"{fence}text",
        *told,
        fence,
        *(["", f"Next step: {_inline(hint)}"] if hint else []),
        "",
        "</details>",
    ]


def _told(result: Result, log_lines: int) -> list[str]:
    """Why a target failed and the last lines of its log, as lines of harmless text."""
    reason = _text(result.reason).splitlines()
    lines = _log_tail(result.log, log_lines)
    if lines:
        lines = ["", f"last lines of {_line(result.log.name)}:", *lines]
    elif result.error is not None:
        lines = _text(result.error.details or "").splitlines()[:log_lines]
    return [line[:LINE_LENGTH] for line in [*reason, *lines]]


def _log_tail(log: Path, count: int) -> list[str]:
    """The last ``count`` lines of a log; none where it cannot be read."""
    try:
        with open(log, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - LOG_BYTES))
            text = stream.read(LOG_BYTES).decode(errors="replace")
    except OSError:
        return []
    return _text(text).rstrip().splitlines()[-count:]


def _counts(run: Results) -> str:
    outcomes = [_status(result) for result in run.targets]
    told = [f"{outcomes.count(each)} {each}" for each in dict.fromkeys(sorted(outcomes))]
    return ", ".join(told) or "No targets"


def _status(result: Result) -> str:
    kind = getattr(result.error, "kind", None)
    return "interrupted" if kind is FailureKind.INTERRUPTED else result.status


def _kind(error: BuilderError | None) -> str:
    """The kind of a failure, as in result.json."""
    kind = getattr(error, "kind", None)
    return kind.value if isinstance(kind, FailureKind) else "request" if isinstance(error, RequestError) else "machine"


def _text(text: str) -> str:
    """``text`` without escape sequences, and without what XML cannot hold; a line ends with a line feed."""
    # A program that redraws its own progress ends lines with carriage returns.
    return _NOT_IN_XML.sub("", clean(re.sub(r"\r\n?|[\x85\u2028\u2029]", "\n", text)))


def _line(text: str) -> str:
    return " ".join(_text(text).split())


def _inline(text: str) -> str:
    """``text`` as one line of Markdown that shows it as it is, in a cell of a table too."""
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", _line(text))
