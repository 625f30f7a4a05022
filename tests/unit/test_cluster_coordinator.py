"""What a run on a cluster decides: what goes out when, what is tried again and where, and when it is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.table import Table
from sources_support import origin_of
from wheel_support import make_record

from builder.cluster import coordinator as run_module
from builder.cluster.coordinator import ClusterRun
from builder.cluster.dask_client import Cluster, Machine, Ticket, WorkersLostError
from builder.cluster.messages import Luggage, Order, Outcome, WorkerEvent, read_order
from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, FailureKind, MachineError, TargetError
from builder.core.results import Run, TargetResult
from builder.core.workspace import Workspace
from builder.executors.local import Policy
from builder.ledger import BuildLedger
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.selection import parse_target_id
from builder.progress.reporter import Reporter
from builder.progress.state import Event, State
from builder.store import open_store
from builder.target.build import BuildContext
from builder.target.resolve_sources import Gatherer
from builder.wheels.record import WheelRecord

ONE, TWO = "v2.5.1-7.1.0-py3.9-x86_64", "v2.5.1-7.1.0-py3.10-x86_64"
OTHER_LINE, ARM = "v2.6.0-7.1.0-py3.9-x86_64", "v2.5.1-7.1.0-py3.9-aarch64"
ORIGIN = origin_of("c" * 40)

#: What a worker makes of an order: an outcome, an error, or None where it never answers.
Answer = Outcome | Exception | None


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event, state: State) -> None:
        self.events.append(event)

    def table(self, table: Table) -> None: ...

    def close(self) -> None: ...

    def texts(self, name: str) -> list[str]:
        return [str(event["text"]) for event in self.events if event.name == name]


class FakeTicket:
    """A target at a worker that answers when the test lets it."""

    def __init__(self, order: Order, only: Sequence[str] | None) -> None:
        self.order = order
        self.only = only
        self.cancelled = False
        self._answer: Answer = None
        self._done: Callable[[], object] | None = None

    def when_done(self, call: Callable[[], object]) -> None:
        self._done = call
        if self._answer is not None:
            call()

    def cancel(self) -> None:
        self.cancelled = True
        if self._answer is None:
            self.give(TargetError("the scheduler lost it", kind=FailureKind.ENGINE))

    def give(self, answer: Answer) -> None:
        if self._answer is not None:
            return  # a future ends once
        self._answer = answer
        if self._done is not None:
            self._done()

    def outcome(self) -> Outcome:
        assert self._answer is not None
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class FakeCluster:
    """Workers that answer as a test says. ``answers`` is asked for each order with how often it was sent before."""

    place = "tcp://scheduler:8786"
    lost = False

    def __init__(self, answers: Callable[[Order, int], Answer], *machines: Machine) -> None:
        self.now = {machine.address: machine for machine in machines or (A,)}
        self.sent: list[FakeTicket] = []
        self.stopped: list[str] = []
        self.tell: Callable[[WorkerEvent], None] = lambda message: None
        self.after_send: Callable[[FakeTicket], None] = lambda ticket: None
        self._answers = answers

    def listen(self, listener: Callable[[WorkerEvent], None]) -> None:
        self.tell = listener

    def machines(self) -> dict[str, Machine] | None:
        return dict(self.now)

    def send(self, packed: bytes, *, only: Sequence[str] | None, **more: Any) -> Ticket:
        ticket = FakeTicket(read_order(packed), only)
        before = sum(each.order.target == ticket.order.target for each in self.sent)
        assert more["target"] == ticket.order.target
        assert more["arch"] == ticket.order.target.rpartition("-")[2]
        self.sent.append(ticket)
        answer = self._answers(ticket.order, before)
        if answer is not None:
            threading.Timer(0.02, ticket.give, [answer]).start()
        self.after_send(ticket)
        return cast(Ticket, ticket)

    def stop(self, run: str) -> None:
        self.stopped.append(run)
        for ticket in self.sent:
            ticket.give(said(ticket.order, TargetError("interrupted", kind=FailureKind.INTERRUPTED)))

    @property
    def order(self) -> list[str]:
        return [ticket.order.target for ticket in self.sent]


A, B = Machine("tcp://a", "a", {"x86_64": 1}), Machine("tcp://b", "b", {"x86_64": 1})
C = Machine("tcp://c", "c", {"aarch64": 1})


def said(order: Order, error: BuilderError | None = None, *, by: Machine = A, jobs: int = 4) -> Outcome:
    """What a worker returns: a target that was built, or why it was not."""
    result = TargetResult(order.target, Path("x.log"), status="built", reason="built from source")
    outcome = Outcome(result) if error is None else Outcome.failed(order.target, error)
    return replace(outcome, jobs=jobs, worker=by.address, name=by.name)


def failure(kind: FailureKind) -> TargetError:
    return TargetError(f"it was {kind.value}", kind=kind)


class Setting:
    """A run of some targets on a fake cluster."""

    def __init__(self, folder: Path, cluster: FakeCluster, matrix: Matrix, policy: Policy | None = None) -> None:
        self.workspace = Workspace(folder / "build", folder / "dist")
        self.workspace.create()
        self.recorder = Recorder()
        self.matrix = matrix
        reporter = Reporter(sink=self.recorder)
        self.run = Run(self.workspace.runs)
        options = BuildOptions(environment="host", offline=True)
        gatherer = Gatherer(matrix, self.workspace, options, reporter)
        self.context = BuildContext(matrix, self.workspace, options, reporter, self.run, gatherer)
        self.work = ClusterRun(
            self.context, policy or Policy(), BuildLedger(folder / "ledger.sqlite", reporter), cast(Cluster, cluster),
            open_store(str(folder / "store")), Luggage(matrix, options),
        )  # fmt: skip

    def over(self, *names: str) -> list[TargetResult]:
        self.work.over([parse_target_id(self.matrix, name) for name in names])
        return self.run.targets


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


@pytest.fixture
def setting(tmp_path: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Setting]:
    monkeypatch.setattr(ClusterRun, "_origin", lambda self, target: ORIGIN)
    monkeypatch.setattr(run_module, "POLL", 0.05)
    return lambda cluster, policy=None: Setting(tmp_path, cluster, matrix, policy)


Make = Callable[..., Setting]


def test_no_more_at_once_than_the_workers_take_and_none_waits_for_another_architecture(setting: Make) -> None:
    cluster = FakeCluster(lambda order, before: None, A, C)
    made = setting(cluster)
    at_work: list[list[str]] = []

    def after_send(ticket: FakeTicket) -> None:
        open_now = [each.order.target for each in cluster.sent if each._answer is None]
        at_work.append(open_now)
        # The x86_64 targets take longer than the one for aarch64.
        delay = 0.05 if ticket.order.target == ARM else 0.2
        threading.Timer(delay, ticket.give, [said(ticket.order, by=C if ticket.order.target == ARM else A)]).start()

    cluster.after_send = after_send
    results = made.over(TWO, ONE, OTHER_LINE, ARM)
    assert [result.status for result in results] == ["built"] * 4
    assert all(sum(name.endswith("x86_64") for name in names) <= 1 for names in at_work)
    assert ARM in cluster.order[:2], "it waited for a worker that it cannot use"
    # Each line's first target before the second of any.
    assert cluster.order.index(OTHER_LINE) < max(cluster.order.index(ONE), cluster.order.index(TWO))


@pytest.mark.parametrize("fingerprint", ["f" * 64, "e" * 64])
def test_a_target_that_a_worker_skips_has_the_wheel_that_stands_here(setting: Make, fingerprint: str) -> None:
    def stands(order: Order, before: int) -> Answer:
        result = TargetResult(order.target, Path("x.log"), fingerprint=fingerprint)
        result.skip("its wheel of the same inputs stands")
        return Outcome(result, {}, 4, A.address, A.name)

    made = setting(FakeCluster(stands))
    wheel = made.workspace.output / "torch_npu-1.whl"
    wheel.touch()
    record = WheelRecord.model_validate(make_record(wheel, target=ONE, sha256="5" * 64))
    made.work._standing[ONE] = (wheel, record)
    (result,) = made.over(ONE)
    assert (result.status, result.reason) == ("skipped", "its wheel of the same inputs stands (the worker a)")
    # One that was built from other inputs is not meant.
    same = fingerprint == record.fingerprint
    assert (result.wheel, result.sha256) == ((wheel, "5" * 64) if same else (None, None))
    assert "the workers of the cluster tcp://scheduler:8786 take 1 target at once" in made.recorder.texts("message")


def test_every_order_says_what_to_build(setting: Make) -> None:
    cluster = FakeCluster(lambda order, before: said(order))
    made = setting(cluster)
    made.over(ONE)
    (ticket,) = cluster.sent
    assert ticket.order.run == made.run.id
    assert ticket.order.pins == {"torch_npu": ORIGIN.torch_npu}
    assert ticket.order.options["environment"] == "host"
    assert ticket.order.standing is None
    assert ticket.only is None


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if not kind.passing])
def test_what_does_not_pass_is_tried_once(setting: Make, kind: FailureKind) -> None:
    cluster = FakeCluster(lambda order, before: said(order, failure(kind)))
    (result,) = setting(cluster).over(ONE)
    assert (result.status, result.attempts, len(cluster.sent)) == ("failed", 1, 1)
    assert getattr(result.error, "kind", None) is kind


def test_what_passes_is_tried_three_times(setting: Make) -> None:
    cluster = FakeCluster(lambda order, before: said(order, failure(FailureKind.NETWORK)))
    (result,) = setting(cluster).over(ONE)
    assert (result.status, result.attempts, len(cluster.sent)) == ("failed", 3, 3)

    cluster = FakeCluster(lambda order, before: said(order, None if before else failure(FailureKind.NETWORK)))
    (result,) = setting(cluster).over(ONE)
    assert (result.status, result.attempts, result.error) == ("built", 2, None)


def test_too_little_memory_halves_the_jobs_until_there_is_one(setting: Make) -> None:
    def answers(order: Order, before: int) -> Answer:
        return said(order, failure(FailureKind.OUT_OF_MEMORY), jobs=4 >> order.halvings)

    cluster = FakeCluster(answers)
    (result,) = setting(cluster).over(ONE)
    assert [ticket.order.halvings for ticket in cluster.sent] == [0, 1, 2]
    assert result.status == "failed"

    cluster = FakeCluster(lambda order, before: said(order, failure(FailureKind.OUT_OF_MEMORY), jobs=1))
    (result,) = setting(cluster).over(ONE)
    assert len(cluster.sent) == 1, "with one job there is nothing to halve"


@pytest.mark.parametrize("error", [MachineError("no engine"), failure(FailureKind.DISK), failure(FailureKind.ENGINE)])
def test_a_machine_that_lacks_something_is_avoided(setting: Make, error: BuilderError) -> None:
    def answers(order: Order, before: int) -> Answer:
        return said(
            order, type(error)(error.message, **({"kind": error.kind} if isinstance(error, TargetError) else {}))
        )

    def sound(order: Order, before: int) -> Answer:
        return answers(order, before) if before == 0 and order.target == ONE else said(order, by=B)

    cluster = FakeCluster(sound, A, B)
    made = setting(cluster)
    results = made.over(ONE)
    assert [result.status for result in results] == ["built"]
    assert [ticket.only for ticket in cluster.sent] == [None, ("tcp://b",)]
    assert any("the worker a: " in text and "on another worker" in text for text in made.recorder.texts("warning"))

    # Nowhere else to go: what passes is tried again, what does not is the end.
    cluster = FakeCluster(answers, A)
    (result,) = setting(cluster).over(ONE)
    assert result.status == "failed"
    assert len(cluster.sent) == (3 if getattr(error, "kind", None) is FailureKind.ENGINE else 1)
    assert result.reason.startswith("the worker a: ")


def test_a_target_goes_out_again_when_all_that_may_have_it_are_gone(setting: Make) -> None:
    def answers(order: Order, before: int) -> Answer:
        return said(order, MachineError("no engine")) if before == 0 else None

    cluster = FakeCluster(answers, A, B)

    def after_send(ticket: FakeTicket) -> None:
        if len(cluster.sent) == 2:
            assert ticket.only == ("tcp://b",)
            del cluster.now["tcp://b"]
        elif len(cluster.sent) == 3:
            threading.Timer(0.05, ticket.give, [said(ticket.order)]).start()

    cluster.after_send = after_send
    (result,) = setting(cluster).over(ONE)
    assert result.status == "built"
    assert [ticket.only for ticket in cluster.sent] == [None, ("tcp://b",), None]
    assert cluster.sent[1].cancelled


def started(ticket: FakeTicket, run: str, machine: Machine, attempt: str) -> WorkerEvent:
    return WorkerEvent(run, ticket.order.target, attempt, machine.address, machine.name, "started")


def test_lost_workers_are_counted_however_they_are_noticed(setting: Make) -> None:
    cluster = FakeCluster(lambda order, before: None, A, B)
    made = setting(cluster)

    def after_send(ticket: FakeTicket) -> None:
        def play() -> None:
            cluster.tell(started(ticket, made.run.id, A, "1"))
            del cluster.now["tcp://a"]  # noticed by looking
            while not made.recorder.texts("warning"):
                time.sleep(0.01)
            cluster.tell(started(ticket, made.run.id, B, "2"))
            cluster.tell(started(ticket, made.run.id, B, "3"))  # noticed by its successor
            cluster.tell(replace(started(ticket, made.run.id, B, "2"), event="message", fields={"text": "too late"}))
            cluster.tell(replace(started(ticket, made.run.id, B, "3"), event="message", fields={"text": "in time"}))
            cluster.tell(started(ticket, "another run", A, "9"))
            del cluster.now["tcp://b"]

        threading.Thread(target=play).start()

    cluster.after_send = after_send
    (result,) = made.over(ONE)
    assert len(cluster.sent) == 1, "Dask itself sends it again"
    assert cluster.sent[0].cancelled
    assert result.reason == "3 workers were lost while they built it: a, b, b"
    assert getattr(result.error, "kind", None) is FailureKind.ENGINE
    assert result.attempts == 1, "a target that kills its workers was given to more of them"
    messages = made.recorder.texts("message")
    assert "in time" in messages
    assert "too late" not in messages
    assert "the worker b was lost" in result.log.read_text()


def test_a_worker_that_joins_right_after_a_look_is_not_taken_for_lost(setting: Make) -> None:
    cluster = FakeCluster(lambda order, before: None, A)
    made = setting(cluster)
    look = made.work._pool.look

    def slow_look(architectures: Sequence[str]) -> bool:
        seen = look(architectures)
        if cluster.sent and "tcp://b" not in cluster.now:
            # After the look and before it is judged, B joins and begins.
            cluster.now["tcp://b"] = B
            cluster.tell(started(cluster.sent[0], made.run.id, B, "1"))
            threading.Timer(0.3, cluster.sent[0].give, [said(cluster.sent[0].order, by=B)]).start()
        return seen

    made.work._pool.look = slow_look  # type: ignore[method-assign]
    (result,) = made.over(ONE)
    assert result.status == "built"
    assert not [text for text in made.recorder.texts("warning") if "lost" in text]


def test_what_dask_gives_up_is_given_up(setting: Make) -> None:
    cluster = FakeCluster(lambda order, before: WorkersLostError("again and again", kind=FailureKind.ENGINE), A, B)
    (result,) = setting(cluster).over(ONE)
    assert (result.status, result.reason, len(cluster.sent)) == ("failed", "again and again", 1)


def test_fail_fast(setting: Make) -> None:
    cluster = FakeCluster(lambda order, before: said(order, failure(FailureKind.COMPILE)))
    results = setting(cluster, Policy(fail_fast=True)).over(ONE, TWO, OTHER_LINE)
    assert sorted(result.status for result in results) == ["failed", "skipped", "skipped"]
    assert len(cluster.sent) == 1


def test_a_defect_in_fetching_is_that_targets_alone(setting: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(files: Any, result: TargetResult, *more: Any) -> None:
        if result.id == ONE:
            raise ZeroDivisionError("a defect")

    monkeypatch.setattr(run_module, "fetch", broken)
    results = setting(FakeCluster(lambda order, before: said(order))).over(ONE, TWO)
    assert [result.status for result in results] == ["failed", "built"]
    assert getattr(results[0].error, "kind", None) is FailureKind.INTERNAL


def test_sources_that_cannot_be_found_fail_their_target(setting: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def origin(self: ClusterRun, target: Any) -> Mapping[str, Any]:
        if target.id == ONE:
            raise failure(FailureKind.SOURCE)
        return ORIGIN

    monkeypatch.setattr(ClusterRun, "_origin", origin)
    cluster = FakeCluster(lambda order, before: said(order))
    results = setting(cluster).over(ONE, TWO)
    assert [result.status for result in results] == ["failed", "built"]
    assert cluster.order == [TWO]


def test_interruption(setting: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(lambda order, before: None, A, B)
    made = setting(cluster)

    def interrupt(architectures: Sequence[str]) -> bool:
        if len(cluster.sent) == 2:
            cluster.tell(started(cluster.sent[0], made.run.id, A, "1"))
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(made.work._pool, "look", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.over(ONE, TWO, OTHER_LINE)
    assert cluster.stopped == [made.run.id]
    begun = cluster.sent[0].order.target
    by_name = {result.id: result for result in made.run.targets}
    assert all(getattr(by_name[name].error, "kind", None) is FailureKind.INTERRUPTED for name in cluster.order)
    assert not cluster.sent[0].cancelled, f"{begun} was to say how far it came"
    assert cluster.sent[1].cancelled
    (never,) = set(by_name) - set(cluster.order)
    assert (by_name[never].status, by_name[never].reason) == ("skipped", "not started: the run was interrupted")
    ended = {event.target for event in made.recorder.events if event.name == "target-finished"}
    assert ended == set(by_name)


def test_a_scheduler_that_goes_away_ends_the_run(setting: Make) -> None:
    cluster = FakeCluster(lambda order, before: None)
    made = setting(cluster)

    def after_send(ticket: FakeTicket) -> None:
        cluster.lost = True
        cluster.machines = lambda: None  # type: ignore[method-assign]

    cluster.after_send = after_send
    with pytest.raises(MachineError, match="went away"):
        made.over(ONE, TWO)
    begun = cluster.order[0]
    by_name = {result.id: result for result in made.run.targets}
    assert getattr(by_name[begun].error, "kind", None) is FailureKind.ENGINE
    (other,) = set(by_name) - {begun}
    assert by_name[other].reason.startswith("not started: the scheduler")
