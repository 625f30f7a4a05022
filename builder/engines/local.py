"""Many targets on this machine, one after the other, with a result file and a summary that always come."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from rich.markup import escape
from rich.table import Table

from builder.build import BuildContext, TargetBuild, build_target
from builder.console import Reporter, standard_output
from builder.environments.leftovers import remove_leftovers
from builder.errors import EXIT_OK, EXIT_TARGET_FAILED, FailureKind, TargetError
from builder.gather import check_request
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.options import BuildOptions
from builder.results import Run, TargetResult
from builder.scratch import Scratch
from builder.workspace import Workspace

_STYLES = {"built": "green", "skipped": "cyan", "failed": "bold red"}


def build_targets(
    targets: Sequence[Target],
    matrix: Matrix,
    workspace: Workspace,
    options: BuildOptions,
    reporter: Reporter,
    *,
    dry_run: bool = False,
) -> int:
    """Build every target and return the exit code. One that fails does not stop the others."""
    if dry_run:
        check_request(targets, options)
        for target in targets:
            standard_output().print(f"would build {escape(target.id)}")
        return EXIT_OK
    run = run_targets(targets, matrix, workspace, options, reporter)
    return exit_code(run.targets)


def run_targets(
    targets: Sequence[Target], matrix: Matrix, workspace: Workspace, options: BuildOptions, reporter: Reporter
) -> Run:
    """Build every target; the run's result file is up to date after each of them, also after Ctrl-C."""
    check_request(targets, options)
    workspace.create()
    run = Run(workspace.runs)
    context = BuildContext(matrix, workspace, options, reporter, run)
    if options.environment != "host":
        for name in remove_leftovers():
            reporter.message(f"removed {name}, which a killed builder left")
    try:
        for number, target in enumerate(targets, 1):
            reporter.message(f"[{number}/{len(targets)}] {target.id}")
            result = run.target(target.id)
            build_target(target, context, result)
            with suppress(OSError):  # a full disk has been reported as the target's failure
                run.write()
            if result.error is not None:
                _show_failure(result, reporter)
    finally:
        for target in targets[len(run.targets) :]:
            run.target(target.id).skip("not started: the run was interrupted")
        _show_summary(run, reporter)
        try:
            reporter.message(f"result: {run.write()}")
        except OSError as error:
            reporter.warning(f"the result of the run could not be written: {error.strerror}")
    return run


def open_shell(target: Target, matrix: Matrix, workspace: Workspace, options: BuildOptions, reporter: Reporter) -> int:
    """Open the target's environment on the terminal: with the tree as a failed build left it, else a fresh one.

    A tree that was left is opened with the options of the build that left it.
    """
    left = Scratch(workspace, target).options_of_last_build()
    if left is not None:
        options = left
        reporter.message(f"opening the tree that the last build of {target.id} left, with the options of that build")
    check_request([target], options)
    workspace.create()
    run = Run(workspace.runs)
    context = BuildContext(matrix, workspace, options, reporter, run)
    with workspace.locked(f"target-{target.id}", wait_seconds=0):
        return TargetBuild(target, context, run.target(target.id)).shell()


def exit_code(results: Sequence[TargetResult]) -> int:
    """0 when everything stands; the failures' own code where they agree, else 1."""
    codes = {result.error.exit_code for result in results if result.error is not None}
    if not codes:
        return EXIT_OK
    return codes.pop() if len(codes) == 1 else EXIT_TARGET_FAILED


def _show_failure(result: TargetResult, reporter: Reporter) -> None:
    error = result.error
    assert error is not None  # noqa: S101
    phase = getattr(error, "phase", None)
    reporter.warning(f"{result.id} failed{f' in phase {phase}' if phase else ''}")
    reporter.error(error)
    if isinstance(error, TargetError) and error.log is not None:
        reporter.message(f"log: {error.log}")


def _show_summary(run: Run, reporter: Reporter) -> None:
    table = Table(title=f"run {run.id}", title_justify="left", box=None, pad_edge=False)
    for heading in ("target", "status", "time", "files", "cache hits"):
        # Names that a person copies are never broken.
        table.add_column(heading, no_wrap=True, justify="left" if heading in {"target", "status"} else "right")
    for result in run.targets:
        style = _STYLES[result.status]
        kind = getattr(result.error, "kind", None)
        status = "interrupted" if kind is FailureKind.INTERRUPTED else result.status
        table.add_row(
            escape(result.id),
            f"[{style}]{status}[/{style}]",
            f"{result.seconds:.0f} s",
            "" if result.files_compiled is None else str(result.files_compiled),
            "" if result.cache is None else str(result.cache["hits"]),
        )
    if run.targets:
        reporter.table(table)
    for result in run.targets:
        if result.wheel is not None:
            reporter.message(f"wheel: {result.wheel}")
