"""However a run ends, there is a result for every target, a summary for people, and a true entry in the ledger."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError, TargetError
from builder.core.results import Phase, Run, TargetResult
from builder.core.workspace import Workspace
from builder.executors import local
from builder.executors.local import Policy, run_targets
from builder.executors.run_lifecycle import exit_code, lock_of, recorded, slots_of
from builder.ledger import BuildLedger, Ledger, ledger_path
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.planning.planner import Planned
from builder.progress.reporter import Reporter
from builder.progress.state import Event, State
from builder.target.build import BuildContext

NAMES = tuple(f"v2.5.1-7.1.0-py{python}-x86_64" for python in ("3.9", "3.10", "3.11"))


class Recorder:
    """Keeps events and tables, and does something when a test wants it to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.tables: list[str] = []
        self.on_event: Callable[[Event], object] = lambda event: None
        self.on_table: Callable[[], object] = lambda: None

    def handle(self, event: Event, state: State) -> None:
        self.events.append(event)
        self.on_event(event)

    def table(self, table: Table) -> None:
        console = Console(width=200)
        with console.capture() as captured:
            console.print(table)
        self.tables.append(captured.get())
        self.on_table()

    def close(self) -> None: ...

    def texts(self, name: str) -> list[str]:
        return [str(event["text"]) for event in self.events if event.name == name]

    def ended(self) -> list[tuple[str | None, str]]:
        return [(event.target, event["status"]) for event in self.events if event.name == "target-finished"]


class Setting:
    """A workspace with a run over three targets."""

    def __init__(self, folder: Path, matrix: Matrix) -> None:
        self.matrix = matrix
        self.workspace = Workspace(folder / "build", folder / "dist")
        self.workspace.create()
        self.recorder = Recorder()
        self.reporter = Reporter(sink=self.recorder)
        self.targets = [parse_target_id(matrix, name) for name in NAMES]
        self.step = folder / "step.md"

    def recorded(self, work: Callable[[Run, BuildLedger], object], *, part: bool = False) -> Run:
        run = Run(self.workspace.runs)
        with recorded(run, self.targets, self.workspace, self.reporter, part=part) as ledger:
            work(run, ledger)
        return run

    def run_targets(self, **policy: Any) -> Run:
        options = BuildOptions(environment="host", jobs=2)
        return run_targets(self.targets, self.matrix, self.workspace, options, self.reporter, Policy(**policy))

    @property
    def result(self) -> list[tuple[str, str]]:
        """Status and reason of each target in the one result.json."""
        (place,) = self.workspace.runs.iterdir()
        assert {"result.json", "summary.md", "junit.xml"} <= {file.name for file in place.iterdir()}
        targets = json.loads((place / "result.json").read_text())["targets"]
        assert [entry["id"] for entry in targets] == list(NAMES)
        return [(entry["status"], entry["reason"]) for entry in targets]

    @property
    def code(self) -> int | None:
        """The exit code of the one run in the ledger."""
        with Ledger.open(ledger_path(self.workspace)) as ledger:
            assert ledger.interrupted() == []
        with sqlite3.connect(ledger_path(self.workspace)) as database:
            ((code,),) = database.execute("SELECT exit_code FROM runs").fetchall()
        database.close()
        return None if code is None else int(code)


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


@pytest.fixture
def setting(tmp_path: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> Setting:
    made = Setting(tmp_path, matrix)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(made.step))
    return made


def build_all(run: Run, ledger: BuildLedger) -> None:
    for name in NAMES:
        result = run.target(name)
        result.status, result.wheel = "built", Path(f"/dist/{name}.whl")


def shown(setting: Setting) -> list[str]:
    """The one table, as its rows' first two cells."""
    (table,) = setting.recorder.tables
    return [" ".join(line.split()[:2]) for line in table.splitlines()[1:]]


def test_a_whole_run_is_told_to_everybody(setting: Setting) -> None:
    setting.recorded(build_all)
    assert [status for status, _ in setting.result] == ["built"] * 3
    assert shown(setting) == [f"{name} built" for name in NAMES]
    assert [text for text in setting.recorder.texts("message") if text.startswith("wheel: /dist/")]
    assert all(name in setting.step.read_text().replace("&#95;", "_") for name in NAMES)
    assert setting.code == 0


def test_an_earlier_builder_s_cache_is_named_once(setting: Setting) -> None:
    setting.recorded(build_all)
    assert not [text for text in setting.recorder.texts("message") if "caches of an earlier builder" in text]
    (setting.workspace.cache / "generated").mkdir(parents=True)
    setting.recorded(build_all)
    (text,) = [text for text in setting.recorder.texts("message") if "caches of an earlier builder" in text]
    assert text.startswith(f"{setting.workspace.cache} also holds")
    assert "`cache clear` removes them" in text


def test_a_part_leaves_the_telling_to_the_whole(setting: Setting) -> None:
    setting.recorded(build_all, part=True)
    assert shown(setting) == [f"{name} built" for name in NAMES]
    assert setting.result
    assert not [text for text in setting.recorder.texts("message") if text.startswith("wheel:")]
    assert not setting.step.exists()


def test_a_part_that_breaks_off_tells_itself(setting: Setting) -> None:
    def interrupted(run: Run, ledger: BuildLedger) -> None:
        build_all(run, ledger)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setting.recorded(interrupted, part=True)
    assert NAMES[0] in setting.step.read_text().replace("&#95;", "_")
    assert setting.code == 130


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (KeyboardInterrupt(), "not started: the run was interrupted", 130),
        (MachineError("no engine", hint="start it"), "not started: no engine", 3),
        (RequestError("no such thing"), "not started: no such thing", 2),
        (ZeroDivisionError("a defect"), "not started", 1),
    ],
)
def test_what_was_not_started_says_so(setting: Setting, error: BaseException, reason: str, code: int) -> None:
    def broken(run: Run, ledger: BuildLedger) -> None:
        first, second = run.target(NAMES[0]), run.target(NAMES[1])
        first.status, first.reason = "built", "built from source"
        with second.phase("compile"):
            pass
        raise error

    with pytest.raises(type(error)):
        setting.recorded(broken)
    assert setting.result == [("built", "built from source"), ("failed", "interrupted"), ("skipped", reason)]
    assert shown(setting) == [f"{NAMES[0]} built", f"{NAMES[1]} interrupted", f"{NAMES[2]} skipped"]
    assert setting.code == code
    with Ledger.open(ledger_path(setting.workspace)) as ledger:
        (entry,) = ledger.history()
    assert (entry.id, entry.failure and entry.failure.kind) == (NAMES[1], "interrupted")


def test_an_impatient_second_interruption_waits_for_the_end(setting: Setting) -> None:
    setting.recorder.on_table = lambda: os.kill(os.getpid(), signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        setting.recorded(build_all)
    assert signal.getsignal(signal.SIGINT) is before
    assert [text for text in setting.recorder.texts("message") if text.startswith("result: ")]
    assert setting.code == 0


def test_a_full_disk_takes_nothing_from_what_is_shown(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_run: Run) -> Path:
        raise OSError(28, "No space left on device", "/full/result.json")

    monkeypatch.setattr(Run, "write", full)
    setting.recorded(build_all)
    assert shown(setting) == [f"{name} built" for name in NAMES]
    assert setting.recorder.texts("warning") == ["/full/result.json could not be written: No space left on device"]
    assert not [text for text in setting.recorder.texts("message") if text.startswith("result:")]


def test_a_step_summary_that_cannot_be_written_is_no_lost_result(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "step.md"))
    setting.recorded(build_all)
    assert [text for text in setting.recorder.texts("message") if text.startswith("result: ")]
    (warning,) = setting.recorder.texts("warning")
    assert str(tmp_path / "no" / "step.md") in warning


@pytest.mark.parametrize("at_once", [False, True])
def test_a_schedule_is_told_where_targets_were_built_at_once(setting: Setting, at_once: bool) -> None:
    start = datetime(2026, 11, 21, tzinfo=timezone.utc)

    def build(run: Run, ledger: BuildLedger) -> None:
        for number, name in enumerate(NAMES):
            result = run.target(name)
            result.status = "built"
            result.phases = [Phase("compile", 60.0, started=start + timedelta(minutes=0 if at_once else number))]

    setting.recorded(build)
    told = [text for text in setting.recorder.texts("message") if text.startswith("schedule: ")]
    assert len(told) == at_once
    (written,) = setting.workspace.runs.glob("*/result.json")
    assert json.loads(written.read_text())["schedule"]["parallel"] == (3 if at_once else 1)


def test_the_only_target_says_why_it_was_skipped(setting: Setting) -> None:
    setting.targets = setting.targets[:1]
    setting.recorded(lambda run, ledger: run.target(NAMES[0]).skip("its wheel stands"))
    assert "skipped: its wheel stands" in setting.recorder.texts("message")


def test_dead_runs_are_noted_and_living_ones_are_not(setting: Setting) -> None:
    dead, living = "20260101-000000-dead", "20260101-000000-beef"
    with BuildLedger(ledger_path(setting.workspace), setting.reporter) as ledger:
        for run in (dead, living):
            ledger.begin(run, Run(setting.workspace.runs).started, ["build"])
    for run in (dead, living):
        slots_of(setting.workspace.runs / run).mkdir(parents=True)
    with setting.workspace.locked(lock_of(living)):
        run = setting.recorded(build_all)
    assert setting.recorder.texts("message")[0] == f"run {dead} was interrupted; what it finished stands"
    assert [path.parent.name for path in setting.workspace.runs.glob("*/slots")] == [living]
    with Ledger.open(ledger_path(setting.workspace)) as known:
        assert [entry.id for entry in known.interrupted()] == [living]
    # While it is at work, a run holds its own lock.
    with setting.workspace.locked(lock_of(run.id), wait_seconds=0):
        pass

    def is_locked(current: Run, ledger: BuildLedger) -> None:
        with pytest.raises(MachineError), setting.workspace.locked(lock_of(current.id), wait_seconds=0):
            pytest.fail("anybody may take it")

    setting.recorded(is_locked)


def test_codes_of_runs(tmp_path: Path) -> None:
    def result(error: BuilderError | None) -> TargetResult:
        made = TargetResult("x", tmp_path / "log", status="built")
        if error is not None:
            made.fail(error)
        return made

    compile_error, machine = TargetError("x", kind=FailureKind.COMPILE), MachineError("x")
    assert exit_code([]) == exit_code([result(None)]) == 0
    assert exit_code([result(None), result(machine)]) == 3
    assert exit_code([result(compile_error), result(machine)]) == 1
    assert exit_code([result(compile_error)], KeyboardInterrupt()) == 130


# -- the local engine -----------------------------------------------------------------------------------------


class FakePlanner:
    """Plans nothing; everything is to be built."""

    def __init__(self, *_: object) -> None: ...

    def plan_target(self, target: Target) -> Planned:
        return Planned(target, "build", "no wheel of it stands")

    def plan(self, targets: Sequence[Target]) -> list[Planned]:
        return [self.plan_target(target) for target in targets]


@pytest.fixture
def engine(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], Setting]:
    """The local engine with a build of the test's own."""

    def make(build: Callable[..., None]) -> Setting:
        monkeypatch.setattr(local, "Planner", FakePlanner)
        monkeypatch.setattr(local, "build_target", build)
        return setting

    return make


Engine = Callable[[Callable[..., None]], Setting]


def built(result: TargetResult) -> None:
    with result.phase("compile"):
        pass
    result.status, result.reason = "built", "built from source"


def test_interrupted_while_it_plans(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> Planned:
        raise KeyboardInterrupt

    made = engine(lambda target, context, result: built(result))
    monkeypatch.setattr(FakePlanner, "plan_target", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.run_targets()
    assert made.result == [("skipped", "not started: the run was interrupted")] * 3
    assert shown(made) == [f"{name} skipped" for name in NAMES]
    assert made.code == 130


def test_interrupted_while_it_builds(engine: Engine) -> None:
    def build(target: Target, context: BuildContext, result: TargetResult) -> None:
        with result.phase("compile"):
            if target.id == NAMES[0]:
                result.status = "built"
                return
            threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT]).start()
            assert context.stopping.wait(20)
        result.fail(TargetError("interrupted", kind=FailureKind.INTERRUPTED))

    made = engine(build)
    with pytest.raises(KeyboardInterrupt):
        made.run_targets()
    statuses = [status for status, _ in made.result]
    assert sorted(statuses) == ["built", "failed", "skipped"]
    # To people, what was interrupted is no failure.
    told = [status.replace("failed", "interrupted") for status in statuses]
    assert sorted(made.recorder.ended()) == sorted(zip(NAMES, told, strict=True))
    assert sorted(shown(made)) == sorted(f"{name} {status}" for name, status in zip(NAMES, told, strict=True))
    (finished,) = (event for event in made.recorder.events if event.name == "run-finished")
    assert finished["exit_code"] == made.code == 130


def test_interrupted_between_an_end_and_its_telling(engine: Engine) -> None:
    made = engine(lambda target, context, result: built(result))

    def interrupt(event: Event) -> None:
        if event.name == "warning":
            raise KeyboardInterrupt

    made.recorder.on_event = interrupt

    class Ledgerless(local.LocalRun):
        def _finished(self, result: TargetResult) -> None:
            self._reporter.warning("now")
            super()._finished(result)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "LocalRun", Ledgerless)
        with pytest.raises(KeyboardInterrupt):
            made.run_targets()
    assert [status for status, _ in made.result].count("built") == 1
    with Ledger.open(ledger_path(made.workspace)) as ledger:
        assert [entry.status for entry in ledger.history()] == ["built"]
    assert len(made.recorder.ended()) == 3


def test_a_defect_leaves_no_thread_at_work(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def build(target: Target, context: BuildContext, result: TargetResult) -> None:
        with result.phase("compile"):
            assert context.stopping.wait(20)
        ended.set()
        result.fail(TargetError("interrupted", kind=FailureKind.INTERRUPTED))

    made = engine(build)
    threads: list[Target] = []
    thread = local.LocalRun._thread

    def second_fails(self: local.LocalRun, target: Target, result: TargetResult) -> threading.Thread:
        threads.append(target)
        if len(threads) == 2:
            raise RuntimeError("can't start new thread")
        return thread(self, target, result)

    monkeypatch.setattr(local.LocalRun, "_thread", second_fails)
    with pytest.raises(RuntimeError, match="new thread"):
        made.run_targets(parallel=2)
    assert ended.is_set()
    assert sorted(status for status, _ in made.result) == ["failed", "skipped", "skipped"]
    assert made.code == 1
    assert list(made.workspace.runs.glob("*/slots")) == []


def test_failures_end_with_the_table_too(engine: Engine) -> None:
    def build(target: Target, context: BuildContext, result: TargetResult) -> None:
        if target.id == NAMES[1]:
            result.fail(TargetError("no such operator", kind=FailureKind.COMPILE))
        else:
            built(result)

    made = engine(build)
    made.run_targets()
    assert sorted(shown(made)) == sorted(f"{name} {'failed' if name == NAMES[1] else 'built'}" for name in NAMES)
    assert made.recorder.texts("error") == ["no such operator"]
    assert made.code == 1


def test_a_remote_cache_that_is_none_is_refused_before_anything(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(lambda target, context, result: built(result))
    monkeypatch.setenv("BUILDER_REMOTE_CACHE", "redis://:hush@host")
    with pytest.raises(RequestError, match="BUILDER_REMOTE_CACHE") as caught:
        made.run_targets()
    assert "hush" not in f"{caught.value.message} {caught.value.hint}"
    assert not made.workspace.runs.exists()
