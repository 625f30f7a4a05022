"""The ``audit`` command: the matrix against upstream's branches and, on request, its released wheels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from builder.audit import facts, matrix_checks
from builder.audit import upstream_wheels as wheels
from builder.audit.branches import Upstream, open_mirrors, read_upstream
from builder.audit.drift import Note, Outcome, counted
from builder.audit.index import read_index
from builder.audit.report import conclude, show, write_json
from builder.audit.update import Change
from builder.audit.update import update as write_corrections
from builder.core.errors import EXIT_OK, EXIT_TARGET_FAILED, MachineError, RequestError, TargetError
from builder.core.workspace import Workspace
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine
from builder.progress.reporter import Reporter, standard_output

#: The exit code that says: something differs, and nobody has accepted it.
EXIT_DRIFT = EXIT_TARGET_FAILED


def audited_facts() -> dict[str, str]:
    """Every audited fact: its name and what is compared. decisions.yaml accepts drift by these names."""
    named = {
        fact.name: fact.about
        for group in (matrix_checks.MATRIX_FACTS, facts.BRANCH_FACTS, wheels.WHEEL_FACTS)
        for fact in group.values()
    }
    return {**named, **wheels.INDEX_FACTS, "accepted": "Every drift that decisions.yaml accepts is still there."}


def run_audit(
    matrix: Matrix,
    query_lines: Sequence[ReleaseLine] | None,
    workspace: Workspace,
    *,
    released: bool,
    update: bool,
    as_json: bool,
    offline: bool,
    refresh: bool,
    reporter: Reporter,
    verbose: bool = False,
) -> int:
    """Audit ``query_lines`` (None: the whole matrix), print the outcome; 0 without drift, 1 with.

    ``released`` reads upstream's wheels too, ``update`` writes certain corrections into the matrix files for review.
    Raises RequestError and MachineError for whatever keeps it from comparing.
    """
    if released and offline:
        raise RequestError(
            "--released reads the package index, which --offline forbids", hint="leave one of the two out"
        )
    lines = matrix.releases if query_lines is None else tuple(dict.fromkeys(query_lines))
    try:
        outcome = _audit(
            matrix,
            lines,
            workspace,
            reporter,
            complete=query_lines is None,
            released_too=released,
            offline=offline,
            refresh=refresh,
        )
    except TargetError as error:
        # Its exit code is that of drift, and nothing was compared.
        raise MachineError(error.message, hint=error.hint, details=error.details) from error
    changes: list[Change] | None = None
    console = standard_output()
    if not as_json:
        show(outcome, console, verbose=verbose)
    try:
        if update:
            changes = write_corrections(matrix.directory, outcome.open, reporter.warning)
    finally:
        # What was found is told whatever happens to the files.
        if as_json:
            write_json(outcome, changes)
        else:
            conclude(outcome, changes, console)
    return EXIT_DRIFT if outcome.open else EXIT_OK


def _audit(
    matrix: Matrix,
    lines: Sequence[ReleaseLine],
    workspace: Workspace,
    reporter: Reporter,
    *,
    complete: bool,
    released_too: bool,
    offline: bool,
    refresh: bool,
) -> Outcome:
    torch_npu, op_plugin = open_mirrors(workspace, reporter, matrix, offline=offline)
    upstream = read_upstream(matrix, lines, torch_npu, op_plugin, reporter, offline=offline, refresh=refresh)
    outcome = Outcome(lines=len(lines))
    matrix_checks.compare(matrix_checks.Whole(matrix, lines, upstream, complete), outcome)
    for seen in upstream.seen.values():
        facts.compare(matrix, seen, outcome)
    outcome.notes += _distances(upstream)
    if released_too:
        index = read_index(lines, upstream, torch_npu, workspace, reporter, complete=complete)
        wheels.compare(matrix, lines, index, outcome, complete=complete)
    matrix_checks.settle(matrix, outcome, audited_facts(), complete=complete)
    return outcome


def _distances(upstream: Upstream) -> Iterator[Note]:
    """How far the pinned op-plugin commit of each line lies from the op-plugin branch."""
    for branch, seen in upstream.seen.items():
        if seen.pin is None or not (seen.pin.known or seen.pin.shallow):
            continue
        commit, name = seen.pin.commit[:12], seen.line.op_plugin
        if not seen.pin.known:
            text = f"pins {commit}, which is not in the part of op-plugin's history that is here"
        elif seen.pin.behind is None:
            text = f"pins {commit}; how far it is from {name} is not known"
        elif seen.pin.behind == seen.pin.ahead == 0:
            text = f"pins {commit}, the newest commit of {name}"
        else:
            beside = f" and {counted(seen.pin.ahead, 'commit')} beside it" if seen.pin.ahead else ""
            text = f"pins {commit}, {counted(seen.pin.behind, 'commit')} behind {name}{beside}"
        yield Note(branch, "op_plugin_pin", text)
