"""Many targets on more than one machine, by Dask. Results and progress are those of the local engine.

This machine plans and decides which commits are built; workers build, each with its own container engine, mirrors and
cache, and put what comes out into a store; this machine fetches it from there, checks it and publishes it. It sends out
only as many targets as the workers take at once, so that the order stays its own business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from builder.cluster.coordinator import ClusterRun
from builder.cluster.dask_client import Cluster, connected, local_cluster, without_tls
from builder.cluster.messages import Luggage, run_folder
from builder.cluster.worker_process import MARKER
from builder.compilation import remote_cache_proxy
from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, MachineError, RequestError, TargetError
from builder.core.results import Run
from builder.core.workspace import Workspace
from builder.executors.local import Policy, gatherer
from builder.executors.run_lifecycle import recorded
from builder.matrix.filters import native_arch
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.progress.reporter import Reporter
from builder.store import Store, open_store
from builder.target.build import BuildContext
from builder.target.compile_spec import jobs_for, memory_limit
from builder.target.deadlines import machine_errors
from builder.target.resolve_sources import check_request


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
        remote_cache_proxy.check()
        options = _shared_among(options, policy.parallel)
    luggage = Luggage(matrix, options)
    store = open_store(store_url or str(workspace.root / "store"))
    store.warn = reporter.warning
    place: AbstractContextManager[Cluster] = (
        connected(scheduler)
        if scheduler is not None
        else local_cluster(workspace.root / "workers", native_arch(), policy.parallel)
    )
    _check(store)
    with place as cluster:
        if scheduler is not None and without_tls(scheduler):
            reporter.warning(
                f"{scheduler} is spoken to without TLS: whoever reaches the scheduler or a worker may run anything "
                "there as its user, and what is sent can be read and changed; docs/cluster.md, Security, says how to "
                "use tls://"
            )
        run = Run(workspace.runs)
        context = BuildContext(
            matrix=matrix,
            workspace=workspace,
            options=options,
            reporter=reporter,
            run=run,
            gatherer=gatherer(matrix, workspace, options, reporter, policy.locked),
        )
        with (
            recorded(run, targets, workspace, reporter, part=policy.part) as ledger,
            machine_errors(*workspace.written),
        ):
            store.write(f"{run_folder(run.id)}/{MARKER}", json.dumps({"run": run.id}).encode())
            try:
                ClusterRun(context, policy, ledger, cluster, store, luggage).over(targets)
            finally:
                _empty(store, run, reporter)
    return run


def _empty(store: Store, run: Run, reporter: Reporter) -> None:
    """Leave nothing of the run in the store, however it ended."""
    try:
        store.remove_folder(run_folder(run.id), last=MARKER)
    except BuilderError as error:
        reporter.warning(f"{run_folder(run.id)} is left in the store {store.url}: {error.message}")


def _shared_among(options: BuildOptions, workers: int) -> BuildOptions:
    """The options of each of several workers of one machine: its part of the compilers and of the memory."""
    jobs, memory = jobs_for(options), memory_limit(options)
    return replace(options, jobs=max(1, jobs // workers), memory=memory // workers)


def _check(store: Store) -> None:
    """Raise an error of the machine where the store does not answer: nothing has failed yet."""
    try:
        store.check()
    except TargetError as error:
        raise MachineError(error.message, hint=error.hint, details=error.details) from error
