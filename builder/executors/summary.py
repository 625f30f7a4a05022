"""What a run tells a person: its plan before, each failure as it happens, the table at the end."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from builder.core.errors import EXIT_OK, EXIT_TARGET_FAILED, BuilderError, TargetError
from builder.core.results import Run, TargetResult
from builder.environments.select import TORCH_CPU_INDEX
from builder.planning.planner import Planned
from builder.progress.reporter import Reporter, print_table, standard_output
from builder.progress.state import STYLES
from builder.wheels.record import RecordError, WheelRecord, read_record

#: Styles of what is done about a target.
_ACTIONS = {"build": "green", "skip": "cyan", "error": "red"}
#: Options of ci/build.sh that leave a component out, and what users call it.
_LEFT_OUT = {"--disable_torchair": "torchair", "--disable_rpc": "RPC"}


def show_plan(planned: Sequence[Planned], *, as_json: bool = False) -> None:
    """The plan on standard output: a table for people, or an array of objects."""
    if as_json:
        json.dump([plan.describe() for plan in planned], sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    console = standard_output()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("target", no_wrap=True)
    table.add_column("action", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for plan in planned:
        style = _ACTIONS[plan.action]
        table.add_row(escape(plan.target.id), f"[{style}]{plan.action}[/{style}]", escape(plan.reason))
    print_table(table, console)
    counts = Counter(plan.action for plan in planned)
    failing = f", {counts['error']} cannot be built" if counts["error"] else ""
    console.print(f"{counts['build']} to build, {counts['skip']} stand{failing}")


def show_plan_errors(planned: Sequence[Planned], reporter: Reporter) -> int:
    """Each reason for which targets of a plan cannot be built, once, with the next step; the exit code of the plan."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for plan in planned:
        if plan.action == "error":
            found.setdefault((plan.reason, plan.hint), []).append(plan.target.id)
    for (reason, hint), names in found.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        reporter.error(BuilderError(f"{names[0]}{more}: {reason}", hint=hint))
    return EXIT_TARGET_FAILED if found else EXIT_OK


def show_failure(result: TargetResult, reporter: Reporter) -> None:
    """Why a target failed, as every error of the builder is shown, with its log."""
    error = result.error
    assert error is not None  # noqa: S101
    reporter = reporter.for_target(result.id)
    reporter.error(error)
    if isinstance(error, TargetError) and error.log is not None:
        reporter.message(f"log: {error.log}")


def show_summary(run: Run, reporter: Reporter, *, wheels: bool = True) -> None:
    """The table that ends every run, also one that was interrupted, and where its ``wheels`` are."""
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "status", "time", "files", "cache hits"):
        # Names that a person copies are never broken.
        table.add_column(heading, no_wrap=True, justify="left" if heading in {"target", "status"} else "right")
    for result in run.targets:
        status = result.outcome
        style = STYLES[status]
        table.add_row(
            escape(result.id),
            f"[{style}]{status}[/{style}]",
            f"{result.seconds:.0f} s",
            "" if result.files_compiled is None else str(result.files_compiled),
            "" if result.cache is None else str(result.cache.hits),
        )
    if run.targets:
        reporter.table(table, always=True)
    if len(run.targets) == 1 and run.targets[0].status == "skipped":
        # Of several, each has had its line.
        reporter.message(f"skipped: {run.targets[0].reason}")
    for result in run.targets if wheels else ():
        if result.wheel is not None:
            reporter.message(f"wheel: {result.wheel}")
    last = next((result.wheel for result in reversed(run.targets) if wheels and result.wheel is not None), None)
    record = _record(last) if last is not None else None
    if last is not None and record is not None:
        if lacking := left_out(record):
            reporter.message(f"built without {' and '.join(lacking)}: --components=full builds them too")
        reporter.message(f"install it: {install_command(last, record)}")


def left_out(record: WheelRecord) -> list[str]:
    """Name what a wheel was built without; users meet it much later, as "was not compiled with torchair"."""
    return [name for option, name in _LEFT_OUT.items() if option in record.arguments]


def install_command(wheel: Path, record: WheelRecord) -> str:
    """The line that installs ``wheel``, with the index that has the torch that it requires.

    A requirement such as ``torch==2.5.1+cpu`` is on no index but PyTorch's own, where pip does not look by itself.
    """
    words = [f"python{record.target.rpartition('-py')[2].partition('-')[0]}", "-m", "pip", "install"]
    if any("+cpu" in text for text in record.requires):
        words += ["--extra-index-url", TORCH_CPU_INDEX]
    return shlex.join([*words, str(wheel)])


def _record(wheel: Path) -> WheelRecord | None:
    try:
        return read_record(wheel)
    except (OSError, RecordError):
        return None
