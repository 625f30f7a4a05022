"""Lines that a night does not build, rehearsed after it: whether they would still build before they are due."""

from __future__ import annotations

from dataclasses import replace

from builder.core.build_options import BuildOptions
from builder.core.errors import EXIT_OK, EXIT_TARGET_FAILED
from builder.core.workspace import Workspace
from builder.executors.local import Policy, exit_code, run_targets
from builder.matrix.channels import ChosenChannel
from builder.matrix.loader import Matrix
from builder.progress.reporter import Reporter
from builder.target.rehearse import rehearsal


def rehearse_others(
    chosen: ChosenChannel,
    matrix: Matrix,
    workspace: Workspace,
    options: BuildOptions,
    reporter: Reporter,
    policy: Policy,
    *,
    dry_run: bool = False,
) -> int:
    """Rehearse what the channel names beside its targets, at the heads of its branches; returns 1 where any fails.

    It is a run of its own, on this machine. Nothing of it is published, and no night waits for it.
    """
    if not chosen.rehearsed:
        return EXIT_OK
    count = len(chosen.rehearsed)
    reporter.message(
        f"{chosen.name}: {'it would rehearse' if dry_run else 'rehearsing'} {count} target{'' if count == 1 else 's'} "
        f"beside: {', '.join(target.id for target in chosen.rehearsed)}"
    )
    if dry_run:
        return EXIT_OK
    options = replace(options, refresh=not options.offline)
    run = run_targets(
        chosen.rehearsed, matrix, workspace, options, reporter, replace(policy, purpose=rehearsal(), part=False)
    )
    return EXIT_OK if exit_code(run.targets) == EXIT_OK else EXIT_TARGET_FAILED
