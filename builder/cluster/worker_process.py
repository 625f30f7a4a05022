"""One target on a worker machine, in a process of its own: built as by the local engine, then put into the store.

A process for each target, so that one can be stopped, or be killed for its memory, without the others. Standard input
brings the archive (eight bytes that tell its length, then the archive), later perhaps ``STOP``, and ends when nobody
waits any more. Standard output carries events and at last the outcome, one JSON object per line.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from rich.table import Table

from builder.cluster.messages import Order, Outcome, StoredFile, read_order, run_folder, unpack
from builder.compilation import remote_cache_proxy
from builder.core.build_options import BuildOptions
from builder.core.cancellation import stop_all
from builder.core.digests import sha256_of
from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError, TargetError
from builder.core.process_exit import leave
from builder.core.process_start import begin, clean_environment
from builder.core.results import Run, TargetResult
from builder.core.workspace import Workspace
from builder.environments.orphans import remove_leftovers
from builder.executors.local import LocalRun, Policy
from builder.ledger import BuildLedger, ledger_path
from builder.matrix.loader import load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.planning.lockfile import Lock, Locked
from builder.planning.planner import Planner
from builder.progress.reporter import Reporter
from builder.progress.state import Event, State
from builder.store import Store, open_store
from builder.target.build import BuildContext
from builder.target.compile_spec import jobs_for
from builder.target.resolve_sources import Gatherer, check_request
from builder.wheels.provenance import beside, debug_path, rename_old_debug
from builder.wheels.record import RecordError, read_record, record_path

STOP = b"stop"
LENGTH = struct.Struct(">Q")
#: Where a worker machine keeps everything, and where its own copies of the wheels go.
WORKSPACE_VARIABLE, OUTPUT_VARIABLE = "BUILDER_WORKSPACE", "BUILDER_OUTPUT"
#: Below that workspace, where nothing else is named.
OWN_OUTPUT = "dist"
#: The file of a run in its store by which a worker sees that it looks at the same place.
MARKER = "run.json"
#: All targets of a machine share the compiler slots of one folder in its workspace.
SLOTS = "slots"
#: Events that go to the client, and the seconds between two reports of one task's progress.
TOLD = frozenset({"message", "warning", "phase-started", "phase-finished", "task-started", "task-finished", "progress"})
INTERVAL = 1.0
#: Seconds that commands get to end at the very end.
LAST_PATIENCE = 20.0


class Pipe:
    """Takes events to the worker."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told: dict[object, float] = {}

    def handle(self, event: Event, state: State) -> None:
        """Pass an event on, unless it is of no use to the client or one progress too many."""
        if event.name not in TOLD:
            return
        if event.name == "progress":
            last = self._told.get(event["task"])
            if last is not None and event.at - last < INTERVAL:
                return
            self._told[event["task"]] = event.at
        self.write({"event": event.name, "fields": dict(event.fields)})

    def table(self, table: Table) -> None:
        """A table is for people who look at this machine; there are none."""

    def close(self) -> None:
        """Nothing is open."""

    def write(self, value: Mapping[str, object]) -> None:
        """One line."""
        self._stream.write(json.dumps(value, default=str) + "\n")
        self._stream.flush()


class OneAttempt(LocalRun):
    """The local engine with a target that is tried once: whether, and on which machine, it is tried again is decided
    by the client."""

    def _try_again(self, target: Target, result: TargetResult) -> bool:
        return False

    def _show_failure(self, result: TargetResult) -> None:
        """The client shows it, with the log where it is then."""


class WorkerBuild:
    """The building of one target on this machine."""

    def __init__(self, order: Order, attempt: str, reporter: Reporter) -> None:
        self.order = order
        self.attempt = attempt
        self.reporter = reporter
        self.workspace = workspace_here()
        self.result = TargetResult(id=order.target, log=Path())
        self.jobs: int | None = None
        #: Wheels of the target that stood here before.
        self._older: Sequence[Path] = ()

    def build(self, packed: bytes, store: Store) -> None:
        """Build the target and fill in the result. Raises BuilderError for what this machine or the request lacks."""
        order = self.order
        self.workspace.create()
        self._older = _wheels_of(order.target, self.workspace)
        run = Run(self.workspace.runs)
        # The wheel's record names the run that asked for it.
        run.id = order.run
        self.result = TargetResult(id=order.target, log=run.folder / f"{order.target}.log")
        _check_store(store, order)
        folder = run.folder / f"{order.target}.order"
        matrix = load_matrix(unpack(packed, folder), None, order.day())
        target = parse_target_id(matrix, order.target)
        options = order.options_in(folder)
        _check_places(options)
        _check_cache()
        check_request([target], options)
        if options.environment != "host":
            for name in remove_leftovers():
                self.reporter.message(f"removed {name}, which a killed builder left")
        self.jobs = max(1, jobs_for(options) >> order.halvings)
        options = replace(options, jobs=self.jobs)
        entry = None if order.locked is None else Locked.model_validate(order.locked)
        lock = None if entry is None else Lock(Path(order.lock or ""), {order.target: entry})
        context = BuildContext(
            matrix=matrix,
            workspace=self.workspace,
            options=options,
            reporter=self.reporter,
            run=run,
            gatherer=Gatherer(
                matrix, self.workspace, options, self.reporter, {target.release.branch: dict(order.pins)}
            ),
            shared_slots=self.workspace.root / SLOTS,
            accept=None if lock is None else lock.check,
        )
        if self._stands(target, context):
            return
        with BuildLedger(ledger_path(self.workspace), self.reporter) as ledger:
            try:
                OneAttempt(context, Policy(), ledger).over([target])
            finally:
                self.result = run.targets[0] if run.targets else self.result
        if (
            self.result.status == "skipped"
            and self.result.wheel is not None
            and _run_of(self.result.wheel) == order.run
        ):
            # A worker was lost after its wheel was done: of this run it is all the same.
            self.result.status, self.result.reason = "built", "built from source"

    def _stands(self, target: Target, context: BuildContext) -> bool:
        """True where the client has this wheel already, which only a machine with the environment can tell."""
        if self.order.standing is None or context.options.rebuild:
            return False
        planner = Planner(context.gatherer, self.workspace, context.options, self.reporter)
        if planner.plan_target(target).fingerprint != self.order.standing:
            return False
        self.result.skip("its wheel of the same inputs stands")
        self.result.fingerprint = self.order.standing
        return True

    def upload(self, store: Store) -> dict[str, StoredFile]:
        """Put wheel, record, debug symbols and logs into the store; returns what is where.

        The wheel stays here too, for a client that is killed before it has fetched it, or another one; older wheels of
        the target go.
        """
        # Another attempt at the target may just put one of those into its store.
        with self.workspace.locked(f"return-{self.order.target}"):
            files = self._put(store)
            if self.result.wheel is not None:
                for wheel in self._older:
                    if wheel != self.result.wheel:
                        _drop(wheel)
        return files

    def _put(self, store: Store) -> dict[str, StoredFile]:
        result = self.result
        if result.wheel is not None and not result.wheel.is_file():
            raise MachineError(f"{result.wheel.name} is gone: another builder of this workspace has replaced it")
        found = {"log": result.log, "image-log": result.log.with_suffix(".image.log")}
        if result.wheel is not None:
            rename_old_debug(result.wheel)
            found |= {"debug": debug_path(result.wheel), "wheel": result.wheel, "record": record_path(result.wheel)}
        files = {}
        for what, path in found.items():
            if not path.is_file():
                continue
            name, digest = f"{self.order.folder}/{self.attempt}/{path.name}", sha256_of(path)
            store.put(path, name, digest)
            files[what] = StoredFile(name, digest)
        return files


def carry_out(packed: bytes, attempt: str, reporter: Reporter, line: Lifeline) -> Outcome:
    """Build and upload; the outcome, whatever happens."""
    order = read_order(packed)
    job = WorkerBuild(order, attempt, reporter)
    told = reporter.for_target(order.target)
    store = None
    try:
        store = open_store(order.store)
        store.warn = told.warning
        job.build(packed, store)
    except BuilderError as error:
        job.result.fail(error)
    except KeyboardInterrupt:
        if job.result.status != "skipped" and job.result.error is None:
            job.result.fail(TargetError("interrupted", kind=FailureKind.INTERRUPTED))
    result, files = job.result, dict[str, StoredFile]()
    if store is not None and not line.ended and (result.wheel is not None or result.log.is_file()):
        try:
            with result.phase("upload"), told.phase("upload"):
                files = job.upload(store)
        except (BuilderError, OSError) as error:
            problem = error if isinstance(error, BuilderError) else TargetError(str(error), kind=FailureKind.STORE)
            if result.error is None:
                result.fail(_not_returned(problem))
            else:
                told.warning(f"its log could not be put into the store: {problem.message}")
    return Outcome(result, files, job.jobs)


def workspace_here() -> Workspace:
    """The folders of this worker: those that the environment names, else ``./build``."""
    root = Path(os.environ.get(WORKSPACE_VARIABLE) or "build").absolute()
    return Workspace(root, Path(os.environ.get(OUTPUT_VARIABLE) or root / OWN_OUTPUT).absolute())


def _not_returned(problem: BuilderError) -> TargetError:
    kind = getattr(problem, "kind", None)
    return TargetError(
        f"built, but not put into the store: {problem.message}",
        # A network that passes is tried again, and finds the wheel already made.
        kind=kind if isinstance(kind, FailureKind) and kind.passing else FailureKind.STORE,
        hint="the wheel is kept on the worker; correct the store, then the same command fetches it without a build",
        details=problem.details,
    )


def _check_store(store: Store, order: Order) -> None:
    """Raise MachineError where this machine does not look at the client's store."""
    if store.size(f"{run_folder(order.run)}/{MARKER}") is None:
        raise MachineError(
            f"this worker sees another place at {store.url} than the client: the run's own file is not there",
            hint="a store that is a folder must be shared and stand at the same path on all machines; "
            "or give a URL with --store",
        )


def _check_places(options: BuildOptions) -> None:
    """Raise MachineError for a folder that only the client has."""
    named = [("--find-links", path) for path in options.find_links]
    named += [("--cann-home", options.cann_home)] if options.cann_home is not None else []
    named += [("--op-plugin", options.op_plugin_folder)] if options.op_plugin_folder is not None else []
    for option, path in named:
        if not path.is_dir():
            raise MachineError(
                f"this worker has no folder {path} ({option})",
                hint="such folders are not sent to workers: put it at the same path on each of them",
            )


def _check_cache() -> None:
    """Raise MachineError where this machine's own setting names no remote compile cache."""
    try:
        remote_cache_proxy.check()
    except RequestError as error:
        raise MachineError(f"this worker has {error.message}", hint=error.hint) from None


def _run_of(wheel: Path) -> str | None:
    """The run that made a wheel, as its record says."""
    try:
        return read_record(wheel).run
    except (OSError, RecordError):
        return None


def _wheels_of(target: str, workspace: Workspace) -> Sequence[Path]:
    """The worker's own copies of a target's wheels; none where they go to a folder that somebody has named."""
    if workspace.output != workspace.root / OWN_OUTPUT:
        return ()
    found = []
    for path in sorted(workspace.output.glob("*.whl.json")):
        wheel = path.with_name(path.name.removesuffix(".json"))
        with suppress(OSError, RecordError):
            if read_record(wheel).target == target:
                found.append(wheel)
    return found


def _drop(wheel: Path) -> None:
    """Remove a wheel with what belongs to it, the record first."""
    with suppress(OSError):
        for path in (*beside(wheel), wheel):
            path.unlink(missing_ok=True)


class Lifeline(threading.Thread):
    """Interrupts the main thread when the worker says so, and when it is gone. ``ended``: nobody waits any more."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(name="lifeline", daemon=True)
        self._descriptor = descriptor
        self.ended = False

    def run(self) -> None:
        """Wait for a word, or the end."""
        while not self.ended:
            self.ended = not os.read(self._descriptor, len(STOP))
            main = threading.main_thread().ident
            if main is not None:
                signal.pthread_kill(main, signal.SIGINT)


def _exactly(descriptor: int, count: int) -> bytes:
    """So many bytes and no more: what follows is the lifeline's. Raises KeyboardInterrupt where the worker is gone."""
    parts = []
    while count:
        part = os.read(descriptor, min(count, 1 << 20))
        if not part:
            raise KeyboardInterrupt
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def main() -> None:
    """The process: an archive in, events and the outcome out."""
    begin()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Whatever prints does not print between the events.
    os.dup2(2, 1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    pipe, line = Pipe(stream), Lifeline(0)
    target, attempt = sys.argv[1:]
    try:
        (length,) = LENGTH.unpack(_exactly(0, LENGTH.size))
        packed = _exactly(0, length)
        line.start()
        clean_environment(os.environ)
        outcome = carry_out(packed, attempt, Reporter(sink=pipe), line)
    except BuilderError as error:
        outcome = Outcome.failed(target, error)
    except KeyboardInterrupt:
        outcome = Outcome.failed(target, TargetError("interrupted", kind=FailureKind.INTERRUPTED))
    finally:
        # A second interruption may have come while the first was followed.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        until = time.monotonic() + LAST_PATIENCE
        while stop_all() and time.monotonic() < until:
            time.sleep(0.1)
    try:
        pipe.write({"outcome": outcome.to_json()})
    except BrokenPipeError:
        os._exit(1)
    leave(0)


if __name__ == "__main__":
    main()
