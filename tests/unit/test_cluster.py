"""The parts of the cluster engine: what travels, who is there, what comes back, and the process that builds."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from rich.table import Table
from small_matrix import DAY
from sources_support import origin_of
from wheel_support import make_record, write_record

from builder.cluster import worker_pool as crew_module
from builder.cluster import worker_process
from builder.cluster.dask_client import Cluster, Machine, Ticket, _hear, without_tls
from builder.cluster.event_relay import Replay
from builder.cluster.fetch_artifacts import fetch
from builder.cluster.messages import (
    LARGEST,
    Luggage,
    Order,
    Outcome,
    SentError,
    StoredFile,
    WorkerEvent,
    read_order,
    unpack,
)
from builder.cluster.worker_pool import WorkerPool
from builder.core.build_options import BuildOptions
from builder.core.digests import sha256_of
from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError, TargetError
from builder.core.results import Phase, TargetResult
from builder.core.statistics import CacheUse, Generation, HeaderCounts
from builder.core.workspace import Workspace
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.selection import parse_target_id
from builder.progress.reporter import Reporter
from builder.progress.state import Event, State
from builder.sources.prepared_record import Origin
from builder.store import open_store
from builder.target.fingerprint import fingerprint
from builder.wheels.provenance import debug_path

TARGET = "v2.5.1-7.1.0-py3.11-x86_64"


class Recorder:
    """Keeps events and the state that they add up to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.state = State()

    def handle(self, event: Event, state: State) -> None:
        self.events.append(event)
        self.state = state

    def table(self, table: Table) -> None: ...

    def close(self) -> None: ...

    def texts(self, name: str) -> list[str]:
        return [str(event["text"]) for event in self.events if event.name == name]


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix(as_of=DAY)


def order(**more: Any) -> Order:
    return Order(
        run="r1", target=TARGET, options=BuildOptions().to_json(), store="s", as_of="2026-03-01", pins={}, **more
    )


# -- what travels -----------------------------------------------------------------------------------------


def test_a_target_is_the_same_on_the_other_side(tmp_path: Path, matrix: Matrix) -> None:
    packed = Luggage(matrix, BuildOptions()).pack(order(), parse_target_id(matrix, TARGET))
    assert len(packed) < 64 << 10, "an order is small"
    there = load_matrix(unpack(packed, tmp_path), None, read_order(packed).day())
    assert parse_target_id(there, TARGET) == parse_target_id(matrix, TARGET)
    assert there.sources == matrix.sources
    assert there.as_of == DAY
    assert [line.minor for line in there.releases] == ["2.5"] * len(there.releases), "other lines are not needed"


def test_every_line_can_travel(tmp_path: Path, matrix: Matrix) -> None:
    luggage = Luggage(matrix, BuildOptions())
    last = {line.minor: line for line in matrix.releases if line.refusal is None}
    for line in last.values():
        target = next(each for each in matrix.targets() if each.release is line)
        packed = luggage.pack(replace(order(), target=target.id), target)
        assert parse_target_id(load_matrix(unpack(packed, tmp_path / line.minor), None, DAY), target.id) == target


def test_relative_repositories_travel_as_absolute_ones(tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text("repositories: {torch_npu: {urls: [./repositories/torch_npu]}}\n")
    matrix = load_matrix(sources_file=tmp_path / "sources.yaml")
    packed = Luggage(matrix, BuildOptions()).pack(order(), parse_target_id(matrix, TARGET))
    there = load_matrix(unpack(packed, tmp_path / "there" / "deeper"))
    assert there.sources.urls("torch_npu") == (str(tmp_path / "repositories" / "torch_npu"),)


def test_folders_travel_as_they_were_at_the_start(tmp_path: Path, matrix: Matrix) -> None:
    operators, first, second = tmp_path / "operators", tmp_path / "first", tmp_path / "second"
    for folder, name in ((operators, "add.cpp"), (first / "v2.5.1-*" / "torch_npu", "a.patch"), (second, "empty")):
        folder.mkdir(parents=True)
        (folder / name).write_text("before")
    (operators / ".git").mkdir()
    (operators / ".git" / "config").write_text("not of interest")
    (second / "empty").unlink()
    options = BuildOptions(
        custom_ops=operators, patches=(first, second), find_links=(tmp_path,), jobs=3, memory=5 << 30, refresh=True
    )
    luggage = Luggage(matrix, options)
    (operators / "add.cpp").write_text("after")
    packed = luggage.pack(replace(order(), options=luggage.options), parse_target_id(matrix, TARGET))

    unpack(packed, tmp_path / "there")
    there = read_order(packed).options_in(tmp_path / "there")
    assert there.custom_ops is not None
    assert [file.name for file in there.custom_ops.iterdir()] == ["add.cpp"]
    assert (there.custom_ops / "add.cpp").read_text() == "before"
    assert [folder.is_dir() for folder in there.patches] == [True, True]
    assert (there.patches[0] / "v2.5.1-*" / "torch_npu" / "a.patch").read_text() == "before"
    assert (there.find_links, there.jobs, there.memory) == ((tmp_path,), 3, 5 << 30)
    assert not there.refresh, "commits are pinned: nothing is to be asked again"


def test_an_op_plugin_folder_travels_by_its_whole_path(
    tmp_path: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Luggage(matrix, BuildOptions(op_plugin="./here")).options["op_plugin"] == str(tmp_path / "here")
    assert Luggage(matrix, BuildOptions(op_plugin="7.1.0")).options["op_plugin"] == "7.1.0"


def test_what_cannot_travel_is_refused(tmp_path: Path, matrix: Matrix) -> None:
    with pytest.raises(RequestError, match="--keep-changes"):
        Luggage(matrix, BuildOptions(keep_changes=True))
    with open(tmp_path / "model.bin", "wb") as stream:
        stream.truncate(LARGEST + 1)
    for options in (BuildOptions(custom_ops=tmp_path), BuildOptions(patches=(tmp_path,))):
        with pytest.raises(RequestError, match="more than 8 MiB"):
            Luggage(matrix, options)


@pytest.mark.parametrize("change", [{"builder": "0.0.1"}, {"recipe": 10**6}])
def test_another_version_is_refused(matrix: Matrix, change: Mapping[str, Any]) -> None:
    packed = Luggage(matrix, BuildOptions()).pack(order(**change), parse_target_id(matrix, TARGET))
    with pytest.raises(MachineError, match="the client has") as caught:
        read_order(packed)
    assert "same version" in str(caught.value.hint)


def test_an_archive_cannot_write_elsewhere(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../outside", "x")
        archive.writestr("/absolute", "x")
    unpack(packed.getvalue(), tmp_path / "inside")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside"]


ERRORS = [
    RequestError("a wish", hint="another", details="line 1\nline 2"),
    MachineError("no engine", hint="start it"),
    *(TargetError(f"it was {kind.value}", kind=kind, phase="compile", details="d") for kind in FailureKind),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: getattr(error, "kind", type(error).__name__))
def test_errors_come_back_as_they_were(error: BuilderError) -> None:
    back = SentError.from_json(json.loads(json.dumps(SentError.of(error).to_json()))).error()
    assert type(back) is type(error)
    for name in ("message", "hint", "details", "kind", "phase", "exit_code"):
        assert getattr(back, name, None) == getattr(error, name, None)


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    started = datetime.now(timezone.utc).replace(microsecond=5000)
    there = TargetResult(
        TARGET, tmp_path / "there.log", status="built", reason="built from source", fingerprint="f" * 64,
        phases=[Phase("prepare", 1.5, started=started), Phase("compile", 9.25, 30.5, 1 << 30, started)],
        files_compiled=16, cache=CacheUse(hits=9, misses=7, size=5), compiler_warnings={"shadow": 2},
        warnings=["gcc is another"], headers=HeaderCounts(made=2, reasons={"large": 1}, used_seconds=1.25),
        generation=Generation("hit", "k", ("a",)),
    )  # fmt: skip
    here = TargetResult(TARGET, tmp_path / "here.log", attempts=2)
    Outcome.from_json(json.loads(json.dumps(Outcome(there, {}, 4).to_json()))).fill(here)
    assert {**here.to_json(), "log": "", "attempts": 0} == {**there.to_json(), "log": "", "attempts": 0}
    assert here.log == tmp_path / "here.log"
    assert here.attempts == 2, "how often it was tried is this machine's to count"

    failed = TargetResult(TARGET, tmp_path / "log")
    sent = Outcome.failed(TARGET, MachineError("no engine")).to_json()
    Outcome.from_json(json.loads(json.dumps(sent))).fill(failed)
    assert (failed.status, failed.reason) == ("failed", "no engine")
    assert failed.to_json()["failure"]["kind"] == "machine"


class Future:
    """What Dask gives for a task that has ended."""

    def __init__(self, value: object) -> None:
        self._value = value

    def result(self) -> object:
        return self._value


@pytest.mark.parametrize(
    "change", [{"result": {}}, {"files": {"log": "x"}}, {"error": {"type": "x"}}, {"jobs": "many"}]
)
def test_what_is_no_outcome_is_told(change: dict[str, object]) -> None:
    pytest.importorskip("distributed")
    said = {**Outcome.failed(TARGET, MachineError("no engine")).to_json(), **change}
    with pytest.raises(TargetError, match="the worker failed: ValidationError") as caught:
        Ticket(Future(said)).outcome()
    assert caught.value.kind is FailureKind.INTERNAL


def test_events_of_other_versions_are_passed_over() -> None:
    heard: list[WorkerEvent] = []
    event = WorkerEvent("r1", TARGET, "a1", "tcp://a", "a", "message", {"text": "x"})
    for told in (event.to_json(), {"run": "r1"}, None, {**event.to_json(), "later": 1}):
        _hear(told, heard.append)
    assert heard == [event, event]


# -- what was put into the store --------------------------------------------------------------------------

SOURCES = {"torch_npu": "c" * 40, "patches": []}
ORIGIN = origin_of("c" * 40)
PATCH = {"repository": "torch_npu", "name": "one", "sha256": "1"}


class Returned:
    """A wheel in a store, as a worker leaves it; what of it is wrong, a test says."""

    def __init__(self, folder: Path) -> None:
        self.store = open_store(str(folder / "store"))
        self.workspace = Workspace(folder / "build", folder / "dist")
        self.workspace.create()
        self.files: dict[str, StoredFile] = {}
        inputs = {"sources": SOURCES}
        self.result = TargetResult(TARGET, folder / "x.log", status="built", fingerprint=fingerprint(inputs))
        self.name = "torch_npu-2.5.1.post3-cp311-cp311-manylinux_2_17_x86_64.whl"
        self.record: dict[str, Any] = make_record(
            Path(self.name), target=TARGET, fingerprint=self.result.fingerprint, inputs=inputs, sha256=...
        )
        self.folder = folder

    def put(self, what: str, name: str, data: bytes) -> None:
        local = self.folder / "upload"
        local.write_bytes(data)
        place, digest = f"runs/r1/{TARGET}/a1/{name}", sha256_of(local)
        self.store.put(local, place, digest)
        self.files[what] = StoredFile(place, digest)

    def complete(self) -> Returned:
        self.put("log", "x.log", b"a line\n")
        self.put("debug", f"{self.name}.debug.tar.gzip", b"symbols")
        self.put("wheel", self.name, b"a wheel")
        self.record.setdefault("sha256", self.files["wheel"].sha256)
        self.put("record", f"{self.name}.json", json.dumps(self.record).encode())
        return self

    def fetch(self, origin: Origin = ORIGIN, recorder: Recorder | None = None) -> None:
        reporter = Reporter(sink=recorder or Recorder()).for_target(TARGET)
        fetch(self.files, self.result, origin, self.store, self.workspace, reporter)

    @property
    def dist(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.workspace.output.iterdir()}


def test_a_wheel_comes_with_its_record_and_its_log(tmp_path: Path) -> None:
    returned = Returned(tmp_path).complete()
    (tmp_path / "x.log").write_text("an earlier attempt\n")
    returned.fetch()
    assert returned.dist[returned.name] == b"a wheel"
    assert returned.dist[f"{returned.name}.debug.tar.gzip"] == b"symbols"
    assert json.loads(returned.dist[f"{returned.name}.json"]) == returned.record
    assert len(returned.dist) == 3
    assert returned.result.wheel == returned.workspace.output / returned.name
    assert returned.result.sha256 == returned.files["wheel"].sha256
    assert (tmp_path / "x.log").read_text() == "an earlier attempt\na line\n"
    assert [phase.name for phase in returned.result.phases] == ["download"]
    assert not (tmp_path / "x.wheel").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": "v2.5.1-7.1.0-py3.9-x86_64"}, "not its own"),
        ({"wheel": "other.whl"}, "not its own"),
        ({"sha256": "0" * 64}, "not its own"),
        ({"fingerprint": "0" * 64}, "not its own"),
        ({"inputs": {"sources": {"torch_npu": "d" * 40, "patches": []}}}, "not its own"),
        ({"inputs": []}, "no record of a wheel: inputs"),
        ({"size": "many"}, "no record of a wheel: size"),
        ({"mismatches": [1]}, "no record of a wheel: mismatches"),
    ],
)
def test_a_wheel_with_the_record_of_another_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    returned = Returned(tmp_path)
    returned.record |= change
    returned.complete()
    with pytest.raises(TargetError, match=words) as caught:
        returned.fetch()
    assert caught.value.kind is FailureKind.VERIFY
    assert returned.dist == {}


def test_a_wheel_of_other_sources_is_refused(tmp_path: Path) -> None:
    returned = Returned(tmp_path).complete()
    with pytest.raises(TargetError, match="other sources than this machine asked for: patches"):
        returned.fetch(origin_of("c" * 40, patches=[PATCH]))
    assert returned.dist == {}


def test_a_wheel_that_changed_in_the_store_is_refused(tmp_path: Path) -> None:
    returned = Returned(tmp_path).complete()
    (tmp_path / "store" / returned.files["wheel"].name).write_bytes(b"another wheel")
    with pytest.raises(TargetError) as caught:
        returned.fetch()
    assert caught.value.kind is FailureKind.VERIFY
    assert caught.value.phase == "download"
    assert returned.dist == {}
    assert not (tmp_path / "x.wheel").exists()


def test_a_file_that_is_no_wheel_does_not_get_among_them(tmp_path: Path) -> None:
    returned = Returned(tmp_path)
    returned.name = "index.html"
    returned.record["wheel"] = returned.name
    returned.complete()
    with pytest.raises(TargetError, match="no record of a wheel: wheel"):
        returned.fetch()
    assert returned.dist == {}


def test_a_log_that_is_lost_costs_no_wheel(tmp_path: Path) -> None:
    returned, recorder = Returned(tmp_path).complete(), Recorder()
    returned.store.remove(returned.files["log"].name)
    returned.fetch(recorder=recorder)
    assert returned.name in returned.dist
    assert any("its log did not come" in text for text in recorder.texts("warning"))


def test_what_it_replaces_is_said(tmp_path: Path) -> None:
    returned, recorder = Returned(tmp_path).complete(), Recorder()
    (returned.workspace.output / returned.name).write_bytes(b"older")
    returned.fetch(recorder=recorder)
    assert any("replaces one that was built from other inputs" in text for text in recorder.texts("warning"))
    assert returned.result.warnings == recorder.texts("warning")


# -- what is told -----------------------------------------------------------------------------------------


def test_events_are_told_again(tmp_path: Path) -> None:
    recorder = Recorder()
    reporter = Reporter(sink=recorder)
    reporter.run_started("r1", [TARGET])
    replay = Replay(reporter.for_target(TARGET))
    replay.tell("phase-started", {"phase": "compile"})
    replay.tell("task-started", {"task": 7, "description": "compile", "total": 100})
    replay.tell("progress", {"task": 7, "completed": 40, "total": None, "detail": "Add.cpp"})
    state = recorder.state.targets[TARGET]
    assert (state.phase, state.percent, state.job.detail if state.job else "") == ("compile", 40.0, "Add.cpp")
    replay.tell("progress", {"task": 99, "completed": 1})  # of a task that nobody began
    replay.tell("progress", {"task": None, "percent": 41.0, "files": 3})
    assert (state.percent, state.files) == (41.0, 3)
    replay.tell("warning", {"text": "gcc is another"})
    replay.tell("message", {"text": "hello"})
    assert (recorder.texts("warning"), recorder.texts("message")) == (["gcc is another"], ["hello"])
    replay.end()
    assert state.jobs == {}, "a worker that was lost leaves its bars"
    replay.tell("task-finished", {"task": 7})
    replay.tell("phase-finished", {"phase": "compile", "seconds": 2.0, "failed": False})
    assert state.phase == ""


def test_a_build_tells_what_a_client_can_use_and_not_too_often() -> None:
    said = io.StringIO()
    reporter = Reporter(sink=worker_process.Pipe(said)).for_target(TARGET)
    reporter.run_started("r1", [TARGET])
    with reporter.task("compile", total=100) as task:
        for percent in range(100):
            task.update(percent)
    reporter.error(MachineError("the client shows errors itself"))
    reporter.message("done")
    names = [json.loads(line)["event"] for line in said.getvalue().splitlines()]
    assert names == ["task-started", "progress", "task-finished", "message"]


# -- who is there -----------------------------------------------------------------------------------------


class Workers:
    """A cluster whose workers a test decides."""

    place = "tcp://scheduler:8786"

    def __init__(self, *machines: Machine) -> None:
        self.now: dict[str, Machine] | None = {machine.address: machine for machine in machines}
        self.lost = False

    def machines(self) -> dict[str, Machine] | None:
        return self.now


ONE, TWO, ARM = Machine("tcp://a", "a", {"x86_64": 1}), Machine("tcp://b", "b", {"x86_64": 2}), Machine(
    "tcp://c", "c", {"aarch64": 1}
)  # fmt: skip


def pool_of(workers: Workers, recorder: Recorder | None = None) -> WorkerPool:
    return WorkerPool(cast(Cluster, workers), Reporter(sink=recorder or Recorder()))


def test_places_by_architecture() -> None:
    pool = pool_of(Workers(ONE, TWO, ARM))
    pool.gather(["aarch64", "x86_64"])
    assert (pool.capacity("x86_64"), pool.capacity("aarch64"), pool.capacity("riscv64")) == (3, 1, 0)
    assert pool.choice("x86_64") is None
    assert pool.has("tcp://a")
    assert not pool.has("tcp://d")


def test_a_worker_that_lacks_something_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(Workers(ONE, TWO))
    pool.gather(["x86_64"])
    assert pool.let_rest("tcp://a", "x86_64"), "there is another one"
    assert pool.choice("x86_64") == ("tcp://b",)
    assert pool.capacity("x86_64") == 2
    assert not pool.let_rest("tcp://b", "x86_64"), "now there is none"
    assert pool.choice("x86_64") is None, "all of them rest: better any than none"
    assert pool.capacity("x86_64") == 3
    later = time.monotonic() + crew_module.REST + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert pool.choice("x86_64") is None
    assert pool.let_rest("tcp://a", "x86_64"), "the other one has rested"


def test_a_missing_architecture_is_named_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "GATHERING", 0.0)
    with pytest.raises(MachineError, match="builds for aarch64; its workers offer x86_64") as caught:
        pool_of(Workers(ONE, TWO)).gather(["x86_64", "aarch64"])
    assert caught.value.details == "a (tcp://a): x86_64=1\nb (tcp://b): x86_64=2"
    with pytest.raises(MachineError, match="no worker is connected to it"):
        pool_of(Workers()).gather(["x86_64"])


def test_workers_may_come_a_little_later() -> None:
    workers = Workers()
    timer = threading.Timer(0.5, lambda: setattr(workers, "now", {ONE.address: ONE}))
    timer.start()
    pool_of(workers).gather(["x86_64"])
    timer.join()


def test_workers_that_vanish_are_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workers, recorder = Workers(ONE, ARM), Recorder()
    pool = pool_of(workers, recorder)
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pool.gather(["x86_64"])

    def look_after(seconds: float) -> int:
        clock[0] += seconds
        assert pool.look(["x86_64", "aarch64"])
        return len(recorder.texts("warning"))

    workers.now = {ARM.address: ARM}
    assert look_after(0) == look_after(29) == 0
    assert look_after(2) == 1
    assert "no worker builds for x86_64 any more (its workers offer aarch64)" in recorder.texts("warning")[0]
    assert look_after(1000) == 1
    workers.now = {ONE.address: ONE, ARM.address: ARM}
    assert look_after(1) == 1
    workers.now = {ARM.address: ARM}
    assert look_after(1) == 1
    assert look_after(31) == 2, "they vanished once more"

    workers.now = None
    assert not pool.look(["x86_64"]), "the scheduler is busy, or on its way back"
    workers.lost = True
    with pytest.raises(MachineError, match="the scheduler tcp://scheduler:8786 went away"):
        pool.look(["x86_64"])


# -- the process that builds ------------------------------------------------------------------------------


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Start a build whose process runs a script of the test."""
    pytest.importorskip("distributed")
    from builder.cluster import worker_plugin

    def make(script: str, patience: float = 10.0) -> Any:
        monkeypatch.setattr(worker_plugin, "_START", f"import json, os, signal, sys, time\n{script}")
        monkeypatch.setattr(worker_plugin, "PATIENCE", patience)
        return worker_plugin.Build(b"archive", TARGET, "r1", "a1")

    return make


SAY = """
def say(**value):
    print(json.dumps(value), flush=True)
"""


def test_what_the_process_says(start: Callable[..., Any]) -> None:
    script = f"""{SAY}
data = os.read(0, 8 + 7)
print("no JSON")
say(event="message", fields={{"text": data[8:].decode(), "arguments": sys.argv[2:]}})
say(outcome={{"result": 1}})
"""
    with start(script) as build:
        events = list(build.events())
        assert events == [("message", {"text": "archive", "arguments": [TARGET, "a1"]})]
        assert build.outcome() == {"result": 1}


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "engine", "was killed by signal 9"),
        ("sys.exit('out of ideas')", "internal", "ended with 1"),
        ("os.close(0); os.close(1); sys.exit(3)", "internal", "ended with 3"),
    ],
)
def test_how_a_process_ended_is_told(start: Callable[..., Any], script: str, kind: str, words: str) -> None:
    with start(script) as build:
        assert list(build.events()) == []
        error = build.outcome()["error"]
    assert error["kind"] == kind
    assert words in error["message"]
    assert ("out of ideas" in str(error["details"])) == ("ideas" in script)


def test_stopping_lets_it_say_how_far_it_came(start: Callable[..., Any]) -> None:
    script = f"""{SAY}
os.read(0, 8 + 7)
say(event="message", fields={{}})
word = os.read(0, 4)
say(outcome={{"word": word.decode()}})
"""
    with start(script) as build:
        events = build.events()
        next(events)
        build.stop()
        build.stop()
        assert list(events) == []
        assert build.outcome() == {"word": "stop"}


@pytest.mark.parametrize("how", ["stop", "abandon"])
def test_one_that_does_not_listen_is_killed(start: Callable[..., Any], how: str) -> None:
    script = f"{SAY}\nsay(event='message', fields={{}})\nwhile True: time.sleep(1)"
    started = time.monotonic()
    with start(script, patience=0.5) as build:
        events = build.events()
        next(events)
        getattr(build, how)()
        assert list(events) == []
        assert build.outcome()["error"]["kind"] == "interrupted"
    assert time.monotonic() - started < 10


def test_a_task_that_nobody_waits_for_is_abandoned(start: Callable[..., Any]) -> None:
    from builder.cluster import worker_plugin

    script = f"{SAY}\nos.read(0, 15)\nsay(event='message', fields={{}})\nassert os.read(0, 4) == b''"
    with start(script) as build:
        events = build.events()
        next(events)
        worker_plugin._running["key"] = build
        try:
            worker_plugin.Watch().transition("other", "executing", "cancelled")
            worker_plugin.Watch().transition("key", "executing", "memory")
            worker_plugin.Watch().transition("key", "executing", "released")
        finally:
            del worker_plugin._running["key"]
        assert list(events) == []
        assert build.outcome()["error"]["kind"] == "interrupted"


def errand_process(tmp_path: Path, packed: bytes | None) -> subprocess.Popen[bytes]:
    """The real process of a build, with an archive or without one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "builder.cluster.worker_process", TARGET, "a1"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, worker_process.WORKSPACE_VARIABLE: str(tmp_path / "build")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    if packed is not None:
        assert process.stdin is not None
        process.stdin.write(worker_process.LENGTH.pack(len(packed)) + packed)
        process.stdin.flush()
    return process


def test_the_process_answers_whatever_it_is_given(tmp_path: Path, matrix: Matrix) -> None:
    target = parse_target_id(matrix, TARGET)
    luggage = Luggage(matrix, BuildOptions())
    for packed, kind, words in (
        (luggage.pack(order(builder="0.0.1"), target), "machine", "the client has 0.0.1"),
        (luggage.pack(replace(order(), store=str(tmp_path / "nowhere")), target), "machine", "sees another place"),
        (luggage.pack(replace(order(), store="nokind://x"), target), None, "nokind"),
    ):
        process = errand_process(tmp_path, packed)
        outcome = outcome_of_process(process)
        assert words in outcome["error"]["message"]
        assert kind is None or outcome["error"]["type"] == kind


def outcome_of_process(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The outcome, read before standard input is closed: closing it is an interruption."""
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if "outcome" in said:
            process.communicate(timeout=60)
            return dict(said["outcome"])
    raise AssertionError("it said nothing")


def test_the_process_ends_when_its_worker_is_gone(tmp_path: Path) -> None:
    process = errand_process(tmp_path, None)
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["outcome"]["error"]["kind"] == "interrupted"
    assert process.returncode == 0


def test_a_folder_that_only_the_client_has_is_named(
    tmp_path: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(worker_process.WORKSPACE_VARIABLE, str(tmp_path / "build"))
    store = open_store(str(tmp_path / "store"))
    store.write("runs/r1/run.json", b"{}")
    luggage = Luggage(matrix, BuildOptions(find_links=(tmp_path / "only-there",)))
    wanted = replace(order(), options=luggage.options, store=store.url)
    packed = luggage.pack(wanted, parse_target_id(matrix, TARGET))
    with pytest.raises(MachineError, match=r"no folder .*only-there \(--find-links\)"):
        worker_process.WorkerBuild(wanted, "a1", Reporter(sink=Recorder())).build(packed, store)


def test_a_remote_cache_that_is_none_is_this_machines_fault(
    tmp_path: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(worker_process.WORKSPACE_VARIABLE, str(tmp_path / "build"))
    monkeypatch.setenv("BUILDER_REMOTE_CACHE", "nonsense")
    store = open_store(str(tmp_path / "store"))
    store.write("runs/r1/run.json", b"{}")
    luggage = Luggage(matrix, BuildOptions())
    wanted = replace(order(), options=luggage.options, store=store.url)
    packed = luggage.pack(wanted, parse_target_id(matrix, TARGET))
    # An error of the machine: another one may be set up better.
    with pytest.raises(MachineError, match="this worker has BUILDER_REMOTE_CACHE: 'nonsense"):
        worker_process.WorkerBuild(wanted, "a1", Reporter(sink=Recorder())).build(packed, store)


def keep_wheel(output: Path, name: str, target: str = TARGET) -> Path:
    """A wheel as a worker keeps it, with record and debug symbols."""
    output.mkdir(parents=True, exist_ok=True)
    wheel = output / f"{name}.whl"
    for path, text in ((wheel, name), (debug_path(wheel), "symbols")):
        path.write_text(text)
    write_record(wheel, target=target)
    return wheel


class Returning:
    """An errand that has come as far as returning a wheel that it has just made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, output: Path | None = None) -> None:
        monkeypatch.setenv(worker_process.WORKSPACE_VARIABLE, str(folder / "build"))
        if output is not None:
            monkeypatch.setenv(worker_process.OUTPUT_VARIABLE, str(output))
        self.store = open_store(str(folder / "store"))
        self.store.write("runs/r1/run.json", b"{}")
        self.output = output or folder / "build" / "dist"
        keep_wheel(self.output, "last-night")
        keep_wheel(self.output, "other", TARGET.replace("3.11", "3.10"))
        (self.output / "damaged.whl.json").write_text("{")
        self.errand = worker_process.WorkerBuild(
            replace(order(), store=self.store.url), "a1", Reporter(sink=Recorder())
        )
        monkeypatch.setattr(worker_process, "_check_store", self._stop)
        with pytest.raises(MachineError, match="far enough"):
            self.errand.build(b"", self.store)
        self.wheel = self.errand.result.wheel = keep_wheel(self.output, "tonight")

    def _stop(self, *_: object) -> None:
        raise MachineError("far enough")

    @property
    def kept(self) -> list[str]:
        return sorted(path.stem for path in self.output.glob("*.whl"))


def test_a_worker_keeps_the_newest_wheel_of_each_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Returning(tmp_path, monkeypatch)
    # Made by another errand meanwhile, which has still to return it.
    keep_wheel(made.output, "meanwhile")
    files = made.errand.upload(made.store)
    assert set(files) == {"wheel", "record", "debug"}
    assert made.kept == ["meanwhile", "other", "tonight"]
    assert not list(made.output.glob("last-night*"))


def test_a_worker_removes_nothing_that_was_not_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Returning(tmp_path, monkeypatch)

    def full(*_: object) -> None:
        raise TargetError("full", kind=FailureKind.STORE)

    monkeypatch.setattr(made.store, "put", full)
    with pytest.raises(TargetError, match="full"):
        made.errand.upload(made.store)
    made.errand.result.wheel = None
    made.errand.upload(made.store)
    assert made.kept == ["last-night", "other", "tonight"]


def test_a_worker_removes_nothing_from_a_folder_that_somebody_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Returning(tmp_path, monkeypatch, tmp_path / "collection")
    made.errand.upload(made.store)
    assert made.kept == ["last-night", "other", "tonight"]


# -- what the pages say -----------------------------------------------------------------------------------


def test_the_commands_of_the_page_exist() -> None:
    pytest.importorskip("distributed")
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    joined = re.sub(r"\\\n\s*", " ", page)
    for program in ("scheduler", "worker"):
        shown = subprocess.run(
            [sys.executable, "-m", "dask", program, "--help"], capture_output=True, text=True, check=True
        ).stdout
        used = {
            option
            for command in re.findall(rf"dask {program} [^\n`\"]*(?:\"[^\"\n]*\"[^\n`\"]*)*", joined)
            for option in re.findall(r"(?<=\s)--[a-z-]+", command)
        }
        assert used, f"the page shows no dask {program}"
        assert {option for option in used if option not in shown} == set()
    documents = [
        each for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) for each in yaml.safe_load_all(text)
    ]
    assert {each["kind"] for each in documents} == {"Deployment", "Service", "StatefulSet", "Job"}
    assert "8 MiB" in page
    assert LARGEST == 8 << 20


@pytest.mark.parametrize(
    ("scheduler", "plain"),
    [
        ("tcp://10.0.0.1:8786", True), ("10.0.0.1:8786", True), ("tcp://no-such-host.invalid:8786", True),
        ("tls://10.0.0.1:8786", False), ("tcp://127.0.0.1:8786", False), ("tcp://localhost:8786", False),
        ("tcp://[::1]:8786", False),
    ],
)  # fmt: skip
def test_plain_text_to_another_machine_is_noticed(scheduler: str, plain: bool) -> None:
    assert without_tls(scheduler) is plain


def test_the_example_for_kubernetes_speaks_tls_everywhere() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    pods = [each["spec"]["template"]["spec"] for each in yaml.safe_load_all(example) if "template" in each["spec"]]
    dask = [item for pod in pods for item in pod["containers"] if "dask" in str(item.get("command"))]
    assert len(dask) == 3
    assert "tcp://" not in example
    for container in dask:
        command = container["command"][-1]
        assert "--protocol tls" in command or "tls://builder-scheduler" in command
        assert {"name": "tls", "mountPath": "/tls", "readOnly": True} in container["volumeMounts"]
        told = command + str(container.get("env"))
        assert all(f"/tls/{file}" in told for file in ("ca.pem", "cert.pem", "key.pem"))
    assert sum({"name": "tls", "secret": {"secretName": "builder-tls"}} in pod["volumes"] for pod in pods) == 3
