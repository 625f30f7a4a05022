"""The ``nightly`` command: for each channel the heads, a plan, builds, a published night, and what became of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timezone

from builder.core.build_options import BuildOptions
from builder.core.errors import EXIT_OK, EXIT_TARGET_FAILED, BuilderError, RequestError
from builder.core.results import Run
from builder.core.workspace import Workspace
from builder.executors.local import Policy, run_targets
from builder.matrix.channels import ChosenChannel, choose_channels
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.nightly.head_commits import HeadFinder
from builder.nightly.night import Night, Wishes
from builder.nightly.rehearsals import rehearse_others
from builder.progress.reporter import Reporter
from builder.store import Store, open_store
from builder.target.resolve_sources import check_request

#: What builds the targets of a night: ``run_targets``, or something else that takes and gives the same.
Engine = Callable[[Sequence[Target], Matrix, Workspace, BuildOptions, Reporter, Policy], Run]


def run_nightly(
    matrix: Matrix,
    channel_names: Sequence[str],
    workspace: Workspace,
    options: BuildOptions,
    reporter: Reporter,
    policy: Policy | None = None,
    *,
    night: date | None = None,
    dry_run: bool = False,
    waive: Mapping[str, str] | None = None,
    retry: bool = False,
    engine: Engine = run_targets,
    finder: HeadFinder | None = None,
) -> int:
    """Build and publish a night of each channel; all of ``nightly.yaml`` for no names. Returns the exit code.

    ``night`` is its day, by default today (UTC). ``waive`` gives, by target, why the night may do without it;
    ``retry`` builds also what failed in the newest night and has not changed since. ``dry_run`` prints the plan.
    ``finder`` answers which commits there are, by default those of the hosts.

    The code is 0 when every required target is there or waived, and what a channel rehearses beside succeeds. Raises
    BuilderError for what is wrong with the request or a store, before anything is built; for one channel alone also
    for what stops it later.
    """
    policy = policy or Policy()
    _check(options, policy)
    chosen = choose_channels(matrix, channel_names)
    waived = dict(waive or {})
    _check_waivers(chosen, waived)
    workspace.create()
    stores = {one.name: _store(one, workspace, reporter) for one in chosen}
    for store in {} if dry_run else {store.url: store for store in stores.values()}.values():
        store.check()
    wishes = Wishes(day=night or datetime.now(timezone.utc).date(), exact=night is not None, waive=waived, retry=retry)
    finder = finder or HeadFinder(matrix, workspace, reporter, offline=options.offline)
    codes = []
    for one in chosen:
        for line, reason in one.left_out:
            reporter.message(f"{one.name}: left out {line.branch}: {reason}")
        wanted = replace(
            options,
            op_plugin=one.channel.op_plugin,
            components=one.channel.components,
            pch=options.pch and one.channel.pch == "auto",
        )
        work = Night(one, stores[one.name], matrix, workspace, wanted, reporter, policy, finder, wishes, engine)
        try:
            codes.append(work.show() if dry_run else work.run())
            codes.append(rehearse_others(one, matrix, workspace, wanted, reporter, policy, dry_run=dry_run))
        except BuilderError as error:
            if len(chosen) == 1:
                raise
            reporter.warning(f"the night of {one.name} was not finished")
            reporter.error(error)
            codes.append(error.exit_code)
    bad = {code for code in codes if code != EXIT_OK}
    return EXIT_OK if not bad else bad.pop() if len(bad) == 1 else EXIT_TARGET_FAILED


def _check(options: BuildOptions, policy: Policy) -> None:
    """Raise RequestError for options that have no meaning for nights."""
    for name, given in (
        ("--torch-npu", options.torch_npu is not None),
        ("--keep-changes", options.keep_changes),
        ("--locked", policy.locked is not None),
    ):
        if given:
            raise RequestError(
                f"{name} has no meaning for a night: it is built from the heads of its branches",
                hint=f"leave out {name}; 'build' takes it",
            )
    check_request([], options)


def _check_waivers(chosen: Sequence[ChosenChannel], waive: Mapping[str, str]) -> None:
    known = [target.id for one in chosen for target in one.targets]
    for name, reason in waive.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise RequestError(
                f"--waive: no target of {', '.join(one.name for one in chosen)} is called {name!r}",
                hint=f"did you mean {near[0]}?" if near else "a waiver names one target by its id",
            )
        if not reason.strip():
            raise RequestError(
                f"--waive: {name} is to be waived without a reason", hint=f"give one: --waive '{name}=because'"
            )


def _store(chosen: ChosenChannel, workspace: Workspace, reporter: Reporter) -> Store:
    store = open_store(chosen.channel.store or str(workspace.output / "nightly"))
    store.warn = reporter.warning
    return store
