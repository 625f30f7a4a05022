"""Many targets on more than one machine, by Dask. Results and progress are those of the local engine.

This machine plans and decides which commits are built; workers build, each with its own container engine, mirrors and
cache, and put what comes out into a store; this machine fetches it from there, checks it and publishes it. It sends out
only as many targets as the workers take at once, so that the order stays its own business.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from builder.build import BuildContext
from builder.console import Reporter
from builder.engines.cluster.connection import Cluster, connected, local_cluster
from builder.engines.cluster.errand import MARKER
from builder.engines.cluster.parcel import Luggage, run_folder
from builder.engines.cluster.run import ClusterRun
from builder.engines.local import Policy, exit_code, gatherer
from builder.engines.summary import show_summary
from builder.errors import (
    EXIT_INTERRUPTED,
    BuilderError,
    MachineError,
    RequestError,
    TargetError,
)
from builder.gather import check_request
from builder.ledger import BuildLedger, ledger_path
from builder.matrix.filters import native_arch
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.options import BuildOptions
from builder.recipe import default_jobs, machine_memory
from builder.reports import write_summaries
from builder.results import Run
from builder.store import Store, open_store
from builder.workspace import Workspace


def run_on_cluster(
    targets: Sequence[Target],
    matrix: Matrix,
    workspace: Workspace,
    options: BuildOptions,
    reporter: Reporter,
    policy: Policy | None = None,
    *,
    scheduler: str | None = None,
    store_url: str | None = None,
) -> Run:
    """Build the targets on the workers of ``scheduler``; without one, on ``policy.parallel`` processes of this machine.

    ``store_url`` is the place by which wheels return. Before anything is built it raises RequestError for what cannot
    be sent to workers, MachineError where scheduler or store do not answer or no worker offers an architecture.
    """
    policy = policy or Policy()
    check_request(targets, options)
    if scheduler is not None and store_url is None:
        raise RequestError(
            f"the workers of {scheduler} return wheels through a store, and none is given",
            hint="name a folder that all machines share at the same path, or a URL such as s3://bucket/folder, "
            "with --store",
        )
    workspace.create()
    if scheduler is None:
        options = _shared_among(options, policy.parallel)
    luggage = Luggage(matrix, options)
    store = open_store(store_url or str(workspace.root / "store"))
    place: AbstractContextManager[Cluster] = (
        connected(scheduler)
        if scheduler is not None
        else local_cluster(workspace.root / "workers", native_arch(), policy.parallel)
    )
    _check(store)
    with place as cluster:
        run = Run(workspace.runs)
        context = BuildContext(
            matrix=matrix,
            workspace=workspace,
            options=options,
            reporter=reporter,
            run=run,
            gatherer=gatherer(matrix, workspace, options, reporter, policy.locked),
        )
        store.write(f"{run_folder(run.id)}/{MARKER}", json.dumps({"run": run.id}).encode())
        with BuildLedger(ledger_path(workspace), reporter) as ledger:
            ledger.begin(run.id, run.started, sys.argv)
            work = ClusterRun(context, policy, ledger, cluster, store, luggage)
            code: int | None = None
            try:
                work.over(targets)
            except KeyboardInterrupt:
                code = EXIT_INTERRUPTED
                raise
            except BuilderError as error:
                code = error.exit_code
                raise
            finally:
                _conclude(run, targets, code, ledger, store, reporter)
    return run


def _conclude(
    run: Run, targets: Sequence[Target], code: int | None, ledger: BuildLedger, store: Store, reporter: Reporter
) -> None:
    """What every run ends with, however it ends: its results, its summary, an empty place in the store."""
    why = "the run was interrupted" if code == EXIT_INTERRUPTED else "the run ended before"
    for target in targets[len(run.targets) :]:
        run.target(target.id)
    for result in run.targets:
        if result.status == "failed" and result.error is None:
            result.skip(f"not started: {why}")
    ledger.finish(run.id, exit_code(run.targets) if code is None else code)
    show_summary(run, reporter)
    try:
        reporter.message(f"result: {run.write()}")
        write_summaries(run, run.folder)
    except OSError as error:
        reporter.warning(f"the result of the run could not be written: {error.strerror}")
    try:
        store.remove_folder(run_folder(run.id), last=MARKER)
    except BuilderError as error:
        reporter.warning(f"{run_folder(run.id)} is left in the store {store.url}: {error.message}")


def _shared_among(options: BuildOptions, workers: int) -> BuildOptions:
    """The options of each of several workers of one machine: its part of the compilers and of the memory."""
    limit = options.memory if options.memory is not None else machine_memory() * 9 // 10
    jobs = options.jobs or default_jobs(limit)
    return replace(options, jobs=max(1, jobs // workers), memory=limit // workers)


def _check(store: Store) -> None:
    """Raise an error of the machine where the store does not answer: nothing has failed yet."""
    try:
        store.check()
    except TargetError as error:
        raise MachineError(error.message, hint=error.hint, details=error.details) from error
