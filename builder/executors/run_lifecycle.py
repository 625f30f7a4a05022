"""What every run has, whatever builds its targets and however it ends: a lock, an entry in the ledger, a result file,
and a summary that a person sees.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.compilation import ccache
from builder.core.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TARGET_FAILED,
    BuilderError,
    FailureKind,
    MachineError,
    TargetError,
)
from builder.core.process_start import take_signals
from builder.core.results import Run, TargetResult
from builder.core.untrusted import remove_tree
from builder.core.workspace import Workspace
from builder.executors.reports import write_summaries
from builder.executors.summary import show_summary
from builder.executors.timeline import timeline
from builder.ledger import BuildLedger, ledger_path
from builder.matrix.model import Target
from builder.progress.reporter import Reporter


def slots_of(run: Path) -> Path:
    """Where the targets of a run that build at once share their compiler slots; ``run`` is its folder."""
    return run / "slots"


def lock_of(run: str) -> str:
    """The lock that a run holds while it is at work."""
    return f"run-{run}"


@contextmanager
def recorded(
    run: Run, targets: Sequence[Target], workspace: Workspace, reporter: Reporter, *, part: bool = False
) -> Iterator[BuildLedger]:
    """The ledger, for the length of the run; at its end, whatever that is, every target has a result and all is told.

    ``part``: the run belongs to something larger, which says itself where wheels are and tells
    ``$GITHUB_STEP_SUMMARY``. A run that breaks off does so even then, because its caller goes with it.
    """
    with workspace.locked(lock_of(run.id)), BuildLedger(ledger_path(workspace), reporter) as ledger:
        _note_dead_runs(workspace, ledger, reporter)
        if ccache.earlier_layouts(workspace.cache):
            reporter.message(
                f"{workspace.cache} also holds caches of an earlier builder, which nothing uses any more; "
                "`cache stats` tells their size, and `cache clear` removes them with all others"
            )
        ledger.begin(run.id, run.started, sys.argv)
        broken: BaseException | None = None
        try:
            yield ledger
        except BaseException as error:
            broken = error
            raise
        finally:
            with _undisturbed():
                ledger.record(run.id, *_settled(run, targets, why(broken)))
                ledger.finish(run.id, exit_code(run.targets, broken))
                _tell(run, reporter, whole=not part or broken is not None)


def exit_code(results: Sequence[TargetResult], broken: BaseException | None = None) -> int:
    """0 when everything stands; the failures' own code where they agree, else 1. What broke a run off has its own."""
    if isinstance(broken, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if broken is not None:
        return broken.exit_code if isinstance(broken, BuilderError) else EXIT_TARGET_FAILED
    codes = {result.error.exit_code for result in results if result.error is not None}
    if not codes:
        return EXIT_OK
    return codes.pop() if len(codes) == 1 else EXIT_TARGET_FAILED


def _note_dead_runs(workspace: Workspace, ledger: BuildLedger, reporter: Reporter) -> None:
    """Runs whose builder was killed hold their lock no more: write down that they ended."""
    for entry in ledger.interrupted():
        with suppress(MachineError), workspace.locked(lock_of(entry.id), wait_seconds=0):
            remove_tree(slots_of(workspace.runs / entry.id))
            ledger.finish(entry.id, None)
            reporter.message(f"run {entry.id} was interrupted; what it finished stands")


def why(broken: BaseException | None) -> str:
    """Why targets of a run were not started, where nothing else is known of them."""
    if isinstance(broken, BuilderError):
        return f"not started: {broken.message}"
    return "not started: the run was interrupted" if isinstance(broken, KeyboardInterrupt) else "not started"


def settle(result: TargetResult, reason: str) -> bool:
    """Give a result that says nothing yet one that does: a run may break off anywhere. False for one that does."""
    if result.status != "failed" or result.error is not None:
        return False
    if result.phases:
        result.fail(TargetError("interrupted", kind=FailureKind.INTERRUPTED, phase=result.phases[-1].name))
    else:
        result.skip(reason)
    return True


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let an impatient second Ctrl-C wait for the moment that the end takes."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not come here
        return
    before = signal.getsignal(signal.SIGINT)
    came = False

    def note(_signal: int, _frame: object) -> None:
        nonlocal came
        came = True

    take_signals([signal.SIGINT], note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
    if came:
        raise KeyboardInterrupt


def _settled(run: Run, targets: Sequence[Target], reason: str) -> list[TargetResult]:
    """Give every target a result that says something; returns those that were begun and never ended."""
    known = {result.id for result in run.targets}
    for target in targets:
        if target.id not in known:
            run.target(target.id)
    return [result for result in run.targets if settle(result, reason) and result.error is not None]


def _tell(run: Run, reporter: Reporter, *, whole: bool) -> None:
    """Write and show what became of the run. A full disk takes nothing from what is shown."""
    step: Mapping[str, str] = os.environ if whole else {}
    spent = timeline(run.targets, jobs=run.jobs)
    run.schedule = None if spent is None else spent.schedule()
    problem, written = None, None
    try:
        written = run.write()
        write_summaries(run, run.folder, step)
    except OSError as error:
        problem = f"{error.filename or run.folder} could not be written: {error.strerror}"
    show_summary(run, reporter, wheels=whole)
    if spent is not None and spent.tells:
        reporter.message(spent.describe())
    if written is not None:
        reporter.message(f"result: {written}")
    if problem is not None:
        reporter.warning(problem)
