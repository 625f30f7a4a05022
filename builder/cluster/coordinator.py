"""One run on a cluster: which target goes out when, what is heard of it, and what is done when workers are lost."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

from builder.cluster.dask_client import Cluster, Ticket, WorkersLostError
from builder.cluster.event_relay import Replay
from builder.cluster.fetch_artifacts import fetch
from builder.cluster.messages import Luggage, Order, WorkerEvent
from builder.cluster.worker_pool import WorkerPool
from builder.core.errors import BuilderError, FailureKind, MachineError, TargetError
from builder.core.results import TargetResult
from builder.executors.local import ATTEMPTS, LocalRun, Policy
from builder.executors.schedule import Schedule
from builder.ledger import BuildLedger
from builder.matrix.model import Target
from builder.sources.checkout import PreparedTree, describe
from builder.sources.prepared_record import Origin
from builder.store import Store
from builder.target.build import BuildContext
from builder.wheels.standing import Digests, fault_of, records

#: Workers that may be lost over one target; then it is the target that is at fault.
LOSSES = 3
#: Seconds that workers get to stop after Ctrl-C.
STOP_WAIT = 25.0
#: Seconds between two looks at the workers.
POLL = 1.0
#: Wheels fetched from the store at once.
FETCHERS = 2


@dataclass
class Sent:
    """A target that was given to the cluster. ``attempt``, ``address`` and ``name`` are of the worker that builds it.

    ``only`` are the workers that may have it (None: all), ``lost`` the names of those that went away over it,
    ``fetching`` says that it is built, ``hopeless`` that it is not to be tried again.
    """

    target: Target
    result: TargetResult
    replay: Replay
    origin: Origin | None = None
    packed: bytes = b""
    priority: int = 0
    ticket: Ticket | None = None
    only: tuple[str, ...] | None = None
    attempt: str | None = None
    address: str | None = None
    name: str = ""
    jobs: int | None = None
    lost: list[str] = field(default_factory=list)
    fetching: bool = False
    hopeless: bool = False


class ClusterRun(LocalRun):
    """One run on a cluster. The main thread sends out and hears of ends; wheels are fetched by others."""

    def __init__(
        self,
        context: BuildContext,
        policy: Policy,
        ledger: BuildLedger,
        cluster: Cluster,
        store: Store,
        luggage: Luggage,
    ) -> None:
        super().__init__(context, policy, ledger)
        self._cluster = cluster
        self._store = store
        self._luggage = luggage
        self._standing = records(context.workspace.output, context.reporter.warning)
        self._digests = Digests(context.workspace.digests)
        self._pool = WorkerPool(cluster, context.reporter)
        self._targets: dict[str, Target] = {}
        self._sent: dict[str, Sent] = {}
        self._begun: set[str] = set()
        self._halvings: dict[str, int] = {}
        self._count = 0
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        #: Events come in a thread of the connection's own.
        self._hearing = threading.RLock()

    def over(self, targets: Sequence[Target]) -> None:
        """Plan ``targets``, skip what stands, have the rest built. KeyboardInterrupt leaves it when all is stopped."""
        self._targets = {target.id: target for target in targets}
        self._cluster.listen(self._hear)
        architectures = sorted({target.arch for target in targets})
        self._pool.look(architectures)
        places = sum(self._pool.capacity(arch) for arch in architectures)
        self._policy = replace(self._policy, parallel=max(1, places))
        self._reporter.message(
            f"the workers of the cluster {self._cluster.place} take {places} target{'' if places == 1 else 's'} at once"
        )
        try:
            super().over(targets)
        finally:
            # A fetch that is under way is worth hours of a worker.
            self._fetchers.shutdown(wait=True, cancel_futures=False)
            self._digests.save()

    def _check_offline(self, targets: Sequence[Target], results: Mapping[str, TargetResult]) -> None:
        """What a worker lacks only the worker knows, whose builds say it."""

    def _drive(self, _schedule: Schedule, results: Mapping[str, TargetResult]) -> None:
        # One schedule for each architecture: none of them waits for workers of another.
        wanted = [self._targets[name] for name, result in results.items() if result.status != "skipped"]
        expected = self._expectations(wanted)
        schedules = {
            arch: Schedule(
                [target for target in wanted if target.arch == arch], expected, free_memory=lambda: sys.maxsize
            )
            for arch in sorted({target.arch for target in wanted})
        }
        failed = False
        try:
            self._pool.gather(list(schedules))
            while any(schedule.left for schedule in schedules.values()) or self._sent:
                self._watch(list(schedules))
                enough = failed and self._policy.fail_fast
                for arch, schedule in schedules.items():
                    while not enough and self._room(arch) > 0 and (target := schedule.next()) is not None:
                        self._send(target, results[target.id])
                if enough and not self._sent:
                    break
                try:
                    target, result = self._ended.get(timeout=POLL)
                except queue.Empty:
                    continue
                if self._try_again(target, result):
                    schedules[target.arch].again(target)
                    continue
                schedules[target.arch].done(target)
                failed = failed or result.error is not None
                self._finished(result)
        except KeyboardInterrupt:
            self._interrupt()
            raise
        except BuilderError as error:
            self._fetchers.shutdown(wait=True)
            for name in self._begun:
                if name in self._sent or (results[name].status == "failed" and results[name].error is None):
                    self._broken_off(results[name], TargetError(error.message, kind=FailureKind.ENGINE))
            raise
        self._not_started(results, "not started: another target failed, and --fail-fast was given")

    # -- sending out --------------------------------------------------------------------------------------

    def _send(self, target: Target, result: TargetResult) -> None:
        sent = Sent(target, result, Replay(self._reporter.for_target(target.id)))
        self._sent[target.id] = sent
        self._begun.add(target.id)
        try:
            sent.origin = origin = self._origin(target)
        except BuilderError as error:
            result.fail(error)
            sent.fetching = True
            self._ended.put((target, result))
            return
        lock = self._policy.locked
        entry = None if lock is None else lock.targets.get(target.id)
        order = Order(
            run=self._context.run.id,
            target=target.id,
            options=self._luggage.options,
            store=self._store.url,
            as_of=self._context.matrix.as_of.isoformat(),
            pins=origin.commits,
            standing=self._standing_fingerprint(target),
            lock=None if lock is None else str(lock.path),
            locked=None if entry is None else entry.model_dump(),
            halvings=self._halvings.get(target.id, 0),
        )
        sent.packed = self._luggage.pack(order, target)
        self._submit(sent)

    def _room(self, arch: str) -> int:
        """How many more targets of an architecture its workers take now."""
        building = sum(sent.target.arch == arch and not sent.fetching for sent in list(self._sent.values()))
        return self._pool.capacity(arch) - building

    def _submit(self, sent: Sent) -> None:
        self._count += 1
        sent.only = self._pool.choice(sent.target.arch)
        ticket = self._cluster.send(
            sent.packed,
            run=self._context.run.id,
            target=sent.target.id,
            arch=sent.target.arch,
            key=f"build-{self._context.run.id}-{sent.target.id}-{self._count}",
            priority=-self._count,
            only=sent.only,
        )
        sent.ticket = ticket

        def collect() -> None:
            with suppress(RuntimeError):  # the run is over
                self._fetchers.submit(self._collect, sent, ticket)

        ticket.when_done(collect)

    def _origin(self, target: Target) -> Origin:
        """What the target is built from, on whatever machine. Raises BuilderError where that cannot be found out."""
        decided = self._context.gatherer.decide(target)
        if not isinstance(decided, PreparedTree):
            return describe(decided)
        changes = decided.changes()
        if changes:
            raise TargetError(
                f"{decided.path} was changed by hand ({len(changes)} path{'s' if len(changes) > 1 else ''}), "
                "and workers build from trees of their own",
                kind=FailureKind.CHANGED_TREE,
                hint="put the changes into a patch series for --patches, build it with --engine local, "
                "or discard them with --rebuild",
            )
        return decided.record.origin

    def _standing_fingerprint(self, target: Target) -> str | None:
        wheel, record = self._standing.get(target.id, (None, None))
        if wheel is None or record is None or fault_of(wheel, record, self._digests) is not None:
            return None
        return record.fingerprint

    # -- watching them ------------------------------------------------------------------------------------

    def _watch(self, architectures: Sequence[str]) -> None:
        """Look at who is there, and who is not any more."""
        # Noted before the look: a worker that joins and begins right after it is not one that is gone.
        began = {name: sent.attempt for name, sent in list(self._sent.items())}
        if not self._pool.look(architectures):
            return
        for sent in [each for each in self._sent.values() if not each.fetching]:
            with self._hearing:
                same = sent.attempt is not None and sent.attempt == began.get(sent.target.id)
                if same and not self._pool.has(str(sent.address)):
                    self._lose(sent)
            if len(sent.lost) >= LOSSES:
                if not sent.hopeless and sent.ticket is not None:
                    sent.hopeless = True
                    sent.ticket.cancel()
            elif sent.only is not None and not any(self._pool.has(address) for address in sent.only):
                left = sent.ticket
                self._submit(sent)
                if left is not None:
                    left.cancel()

    def _lose(self, sent: Sent) -> None:
        """The worker of a target is gone."""
        sent.lost.append(sent.name)
        sent.address = sent.attempt = None
        sent.replay.end()
        text = f"the worker {sent.name} was lost while it built {sent.target.id}"
        with suppress(OSError), open(sent.result.log, "a", encoding="utf-8") as log:
            log.write(text + "\n")
        self._reporter.warning(text + ("; another one builds it again" if len(sent.lost) < LOSSES else ""))

    # -- hearing of them ----------------------------------------------------------------------------------

    def _hear(self, message: WorkerEvent) -> None:
        """An event of a worker."""
        if message.run != self._context.run.id:
            return
        with self._hearing:
            sent = self._sent.get(message.target)
            if sent is None or sent.fetching:
                return
            if message.event == "started":
                if sent.address is not None:
                    self._lose(sent)
                sent.attempt, sent.address, sent.name = message.attempt, message.worker, message.name
                self._reporter.target_started(sent.target.id)
                self._reporter.for_target(sent.target.id).message(f"building on the worker {sent.name}")
            elif message.attempt == sent.attempt:
                sent.replay.tell(message.event, message.fields)

    def _collect(self, sent: Sent, ticket: Ticket) -> None:
        """Take what a worker returned, and fetch what it put into the store."""
        if sent.ticket is not ticket:
            return  # it was sent again
        result = sent.result
        with self._hearing:
            sent.fetching = True
            sent.replay.end()
        try:
            said = ticket.outcome()
            sent.jobs, sent.address, sent.name = said.jobs, said.worker, said.name
            said.fill(result)
            assert sent.origin is not None  # noqa: S101  (nothing goes out without it)
            fetch(
                said.files,
                result,
                sent.origin,
                self._store,
                self._context.workspace,
                self._reporter.for_target(result.id),
            )
            if result.status == "skipped":
                result.reason = f"{result.reason} (the worker {sent.name})"
                self._take_standing(result)
        except BuilderError as error:
            sent.hopeless = sent.hopeless or isinstance(error, WorkersLostError)
            result.fail(self._explained(sent, error))
        except Exception as error:
            result.fail(TargetError(f"{type(error).__name__}: {error}", kind=FailureKind.INTERNAL))
        if isinstance(result.error, TargetError) and result.log.exists():
            result.error.log = result.log
        self._ended.put((sent.target, result))

    def _take_standing(self, result: TargetResult) -> None:
        """A worker that builds nothing because the wheel stands here sends none: that is the result's."""
        wheel, record = self._standing.get(result.id, (None, None))
        if result.wheel is None and record is not None and record.fingerprint == result.fingerprint:
            result.wheel, result.sha256 = wheel, record.sha256

    def _explained(self, sent: Sent, error: BuilderError) -> BuilderError:
        """Why nothing came back, in the words of this run."""
        if self._context.stopping.is_set():
            return TargetError("interrupted", kind=FailureKind.INTERRUPTED)
        if len(sent.lost) >= LOSSES:
            return TargetError(
                f"{len(sent.lost)} workers were lost while they built it: {', '.join(sent.lost)}",
                kind=FailureKind.ENGINE,
                hint="see on those machines why their workers end (memory, a reboot)",
            )
        return error

    # -- the ends -----------------------------------------------------------------------------------------

    def _try_again(self, target: Target, result: TargetResult) -> bool:
        sent = self._sent.pop(target.id)
        error = result.error
        if error is None or sent.hopeless:
            return False
        kind = getattr(error, "kind", None)
        of_machine = isinstance(error, MachineError) or kind in (
            FailureKind.ENGINE,
            FailureKind.DISK,
            FailureKind.MACHINE,
        )
        elsewhere = of_machine and sent.address is not None and self._let_rest(sent, error)
        passing = isinstance(kind, FailureKind) and kind.passing
        if not (passing or elsewhere) or result.attempts >= ATTEMPTS:
            return False
        how = " on another worker" if elsewhere else ""
        if kind is FailureKind.OUT_OF_MEMORY:
            if sent.jobs == 1:
                return False
            self._halvings[target.id] = self._halvings.get(target.id, 0) + 1
            how = " with half the jobs"
        self._reporter.warning(f"{target.id}: {result.reason}; trying again{how}")
        result.again()
        return True

    def _let_rest(self, sent: Sent, error: BuilderError) -> bool:
        """Give a worker that lacks something no more targets for a while; False where there is no other one."""
        error.message = f"the worker {sent.name}: {error.message}"
        sent.result.reason = error.message
        return self._pool.let_rest(str(sent.address), sent.target.arch)

    def _interrupt(self) -> None:
        """Stop the workers' builds and take what they still say."""
        self._context.stopping.set()
        self._reporter.message("stopping what the workers build")
        # What no worker has begun has nothing to say.
        for sent in list(self._sent.values()):
            if sent.attempt is None and not sent.fetching and sent.ticket is not None:
                sent.ticket.cancel()
        threading.Thread(target=self._cluster.stop, args=(self._context.run.id,), daemon=True).start()
        until = time.monotonic() + STOP_WAIT
        while self._sent and (time.monotonic() < until or any(sent.fetching for sent in self._sent.values())):
            with suppress(queue.Empty):
                target, result = self._ended.get(timeout=0.2)
                self._sent.pop(target.id)
                self._broken_off(result, TargetError("interrupted", kind=FailureKind.INTERRUPTED))
        for sent in self._sent.values():
            if sent.ticket is not None:
                sent.ticket.cancel()
            self._broken_off(sent.result, TargetError("interrupted", kind=FailureKind.INTERRUPTED))

    def _broken_off(self, result: TargetResult, error: TargetError) -> None:
        """Note how a target ended while the run did; with ``error`` where nothing is known of it."""
        if result.status == "failed" and result.error is None:
            result.fail(error)
        self._ledger.record(self._context.run.id, result)
        self._reporter.target_finished(result.id, result.outcome, result.seconds, result.reason)
