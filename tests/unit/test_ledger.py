"""The ledger: what goes in comes out, versions, damage in words, estimates, the history as people see it."""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from rich.console import Console
from wheel_support import make_record

from builder.cli.history_command import duration, history_table, rebuild_ledger, show_history
from builder.cli.main import cli
from builder.core.errors import FailureKind, MachineError, RequestError, TargetError
from builder.core.results import Phase, TargetResult
from builder.core.statistics import CacheUse
from builder.core.workspace import Workspace
from builder.ledger import BuildLedger, Entry, Estimates, Ledger, ledger_path
from builder.ledger import database as tables
from builder.ledger.entries import Status
from builder.ledger.estimates import Sample
from builder.progress.reporter import Reporter
from builder.progress.state import STYLES

START = datetime(2026, 11, 21, 8, 0, tzinfo=timezone.utc)
TARGET = "v2.5.1-7.1.0-py3.11-x86_64"
#: As wide as ids of the matrix get.
LONG = "v1.11.0-5.0.rc2.1-py3.7-aarch64"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "build" / "ledger.sqlite"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "build", tmp_path / "dist")


def make(target: str = TARGET, minutes: int = 0, **more: Any) -> Entry:
    """An entry that was done ``minutes`` after START."""
    values = {"run": f"run-{minutes}", "status": "built", "reason": "built from source"}
    return Entry(id=target, finished=START + timedelta(minutes=minutes), **{**values, **more})


def phases(**seconds: float) -> list[dict[str, Any]]:
    return [{"name": name, "seconds": value} for name, value in seconds.items()]


def captured() -> tuple[Reporter, Callable[[], str]]:
    stream = io.StringIO()
    return Reporter(Console(file=stream, force_terminal=False)), stream.getvalue


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def built_result(path: Path) -> TargetResult:
    return TargetResult(
        id=TARGET,
        log=path.parent / "runs" / "r" / "t.log",
        status="built",
        reason="built from source",
        fingerprint="f" * 64,
        wheel=path.parent / "x.whl",
        sha256="a" * 64,
        phases=[Phase("prepare", 1.25), Phase("compile", 60.5, 110.125)],
        files_compiled=12,
        cache=CacheUse(hits=9, misses=3),
    )


def test_what_was_recorded_is_what_the_result_file_says(path: Path) -> None:
    result = built_result(path)
    with Ledger.open(path) as ledger:
        ledger.begin("r", START, ["build"])
        before = datetime.now(timezone.utc) - timedelta(seconds=1)
        ledger.record("r", result)
    with Ledger.open(path, read_only=True) as ledger:
        (entry,) = ledger.history()
    written = entry.to_json()
    for name, value in result.to_json().items():
        if name == "phases":
            assert [
                {key: phase[key] for key in said} for phase, said in zip(written[name], value, strict=True)
            ] == value
        elif name == "cache":
            assert written[name] == {"hits": 9, "misses": 3}, "the ledger keeps no more of it"
        elif name != "warnings":
            assert written[name] == value, name
    assert written["run"] == "r"
    assert written["seconds"] == 61.75
    assert before <= entry.finished <= datetime.now(timezone.utc)
    assert entry.finished.microsecond == 0
    assert json.loads(json.dumps(written)) == written
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT log FROM targets").fetchone() == ("runs/r/t.log",), "no path of this machine"


def test_more_than_the_result_file_has_today(path: Path) -> None:
    entry = make(
        phases=[{"name": "compile", "started": START, "seconds": 1, "cpu_seconds": 2, "peak_memory": 3 << 30}],
        peak_memory=4 << 30,
        attempts=2,
    )
    with Ledger.open(path) as ledger:
        ledger.add(entry)
        assert ledger.history() == [entry]


def test_failures_and_a_second_word_on_a_target(path: Path) -> None:
    result = TargetResult(id=TARGET, log=path.parent / "log", phases=[Phase("compile", 2.0)])
    result.fail(TargetError("no such header", kind=FailureKind.COMPILE, phase="compile"))
    with Ledger.open(path) as ledger:
        ledger.record("r", result)
        (entry,) = ledger.history()
        assert entry.failure is not None
        assert entry.failure.model_dump() == {"kind": "compile", "phase": "compile", "message": "no such header"}
        ledger.record("r", built_result(path))
        (entry,) = ledger.history()
        assert (entry.status, entry.failure, len(entry.phases)) == ("built", None, 2)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM phases").fetchone() == (2,)


def test_several_results_are_recorded_together_or_not_at_all(path: Path) -> None:
    fine, broken = built_result(path), TargetResult(id="other", log=path, status="undecided")
    with Ledger.open(path) as ledger:
        with pytest.raises(ValidationError):
            ledger.record("r", fine, broken)
        assert ledger.history() == []
        ledger.record("r", fine, TargetResult(id="other", log=path, status="skipped"))
        assert {entry.id for entry in ledger.history()} == {TARGET, "other"}


def test_a_write_that_fails_is_taken_back_and_the_next_one_succeeds(path: Path) -> None:
    impossible = make("other").model_copy(update={"reason": None})
    with Ledger.open(path) as ledger:
        with pytest.raises(sqlite3.IntegrityError):
            ledger.add(make(), impossible)
        assert ledger.history() == []
        ledger.add(make())
    with Ledger.open(path) as ledger:
        assert ledger.history() == [make()]


def test_filters_of_the_history(path: Path) -> None:
    entries = [
        make("v2.1.0-7.0.0-py3.9-x86_64", 1),
        make("v2.1.0-7.0.0-py3.10-x86_64", 2, status="failed"),
        make("v2.5.1-7.1.0-py3.9-aarch64", 3, status="skipped"),
        make("v2.1.0-7.0.0-py3.9-x86_64", 4),
    ]
    with Ledger.open(path) as ledger:
        ledger.add(*entries)
        assert ledger.history() == entries[::-1]
        assert ledger.history(target="v2.1.0-*") == [entries[3], entries[1], entries[0]]
        assert ledger.history(target="*-py3.[!9]*") == [entries[1]], "globs as Python's fnmatch reads them"
        assert ledger.history(target="v2.1.0-*", limit=2) == [entries[3], entries[1]]
        assert ledger.history(status="skipped") == [entries[2]]
        elsewhere = timezone(timedelta(hours=8))
        assert ledger.history(since=entries[2].finished.astimezone(elsewhere)) == [entries[3], entries[2]]
        assert ledger.last_built("v2.1.0-7.0.0-py3.9-x86_64") == entries[3]
        assert ledger.last_built("v2.1.0-7.0.0-py3.10-x86_64") is None


def test_runs_without_an_end(path: Path) -> None:
    command = ["build", "--torch-npu-url=https://me:secret@host/x.git", "--python", "3.9"]
    with Ledger.open(path) as ledger:
        ledger.begin("second", START + timedelta(seconds=1), [])
        ledger.begin("first", START, command)
        ledger.add(make(run="restored"))
        first, second = ledger.interrupted()
        assert (first.id, first.started, second.id) == ("first", START, "second")
        assert first.command == ("build", "--torch-npu-url=https://***@host/x.git", "--python", "3.9")
        ledger.finish("first", 0)
        ledger.finish("second", None)
        assert ledger.interrupted() == []
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT id, exit_code FROM runs WHERE finished IS NOT NULL ORDER BY id").fetchall() == [
            ("first", 0),
            ("second", None),
        ]
    assert not any(b"secret" in content for content in files(path.parent).values())


def test_nasty_text_is_kept_readable(path: Path) -> None:
    reason = "\x1b[31mred\x1b[0m \udcff https://u:p@h/x 'quoted'; DROP TABLE targets; --\nsecond line"
    with Ledger.open(path) as ledger:
        ledger.add(make(reason=reason))
        (entry,) = ledger.history()
    assert "\x1b" not in entry.reason
    assert "u:p" not in entry.reason
    assert entry.reason.endswith("'quoted'; DROP TABLE targets; --\nsecond line")


def test_a_database_of_an_older_version_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(path) as ledger:
        ledger.begin("before", START, [])
        ledger.add(make(reason="kept"))
    more = """
        ALTER TABLE runs ADD COLUMN weather TEXT;  -- a comment with a semicolon; in it
        CREATE TRIGGER t AFTER UPDATE OF id ON runs BEGIN UPDATE runs SET weather = 'wet;'; SELECT 1; END;
        UPDATE runs SET id = id;
        DROP TRIGGER t;
    """
    current = len(tables.MIGRATIONS)
    monkeypatch.setattr(tables, "MIGRATIONS", [*tables.MIGRATIONS, more])
    monkeypatch.setattr("builder.ledger.ledger.MIGRATIONS", tables.MIGRATIONS)
    with Ledger.open(path, read_only=True) as ledger:
        assert [entry.reason for entry in ledger.history()] == ["kept"]
    with Ledger.open(path) as ledger:
        ledger.begin("after", START, [])
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (current + 1,)
        assert database.execute("SELECT weather FROM runs WHERE id = 'before'").fetchone() == ("wet;",)


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger.open(path).close()
    with closing(sqlite3.connect(path)) as database:
        before = list(database.iterdump())
    broken = "CREATE TABLE fine (x); ALTER TABLE nowhere ADD COLUMN y;"
    monkeypatch.setattr(tables, "MIGRATIONS", [*tables.MIGRATIONS, broken.replace("; ", ";\n")])
    with pytest.raises(MachineError, match="no such table: nowhere"):
        Ledger.open(path)
    with closing(sqlite3.connect(path)) as database:
        assert list(database.iterdump()) == before
        assert database.execute("PRAGMA user_version").fetchone() == (len(tables.MIGRATIONS) - 1,)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_newer_ledger_is_refused_and_not_touched(path: Path, read_only: bool) -> None:
    Ledger.open(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(MachineError, match=r"ledger\.sqlite is of version 99, this builder knows .* up to") as caught:
        Ledger.open(path, read_only=read_only)
    assert "newer builder" in (caught.value.hint or "")
    assert path.read_bytes() == before


def test_another_program_s_database_is_refused_and_not_touched(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(MachineError, match=r"ledger\.sqlite is a database, but no ledger"):
        Ledger.open(path)
    assert path.read_bytes() == before


def _garbage(path: Path) -> None:
    path.write_bytes(b"this was a ledger once\n" * 500)


def _short(path: Path) -> None:
    path.write_bytes(b"x")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6000])


def _overwritten(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def _emptied(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript("DROP TABLE phases; DROP TABLE targets;")


def _nonsense(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE targets SET finished = 'yesterday'")
        database.commit()


@pytest.mark.parametrize("damage", [_garbage, _short, _cut, _overwritten, _emptied, _nonsense])
def test_a_damaged_ledger_says_so_and_what_to_do_and_fails_no_build(path: Path, damage: Callable[[Path], None]) -> None:
    with Ledger.open(path) as ledger:
        ledger.add(make(phases=phases(compile=1)))
    damage(path)

    def read() -> None:
        with Ledger.open(path) as ledger:
            ledger.history()

    with pytest.raises(MachineError, match="is damaged") as caught:
        read()
    assert str(path) in caught.value.message
    assert "ledger rebuild" in (caught.value.hint or "")
    reporter, text = captured()
    with BuildLedger(path, reporter) as ledger:
        assert ledger.last_built(TARGET) is None
        for _ in range(3):
            ledger.begin("r", START, [])
            ledger.record("r", built_result(path))
            ledger.finish("r", 0)
            ledger.interrupted()
            ledger.estimates()
    assert text().count("warning:") == 1
    assert "ledger rebuild" in text()


def test_a_folder_in_the_ledger_s_place(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(MachineError, match=r"the ledger .*ledger\.sqlite cannot be used"):
        Ledger.open(path)
    reporter, text = captured()
    with BuildLedger(path, reporter) as ledger:
        ledger.record("r", built_result(path))
        assert ledger.estimates().of(TARGET) is None
    assert text().count("warning:") == 1


def test_a_build_s_ledger_is_a_ledger(path: Path) -> None:
    reporter, text = captured()
    with BuildLedger(path, reporter) as ledger:
        ledger.begin("r", START, ["build"])
        assert [run.id for run in ledger.interrupted()] == ["r"]
        ledger.record("r", built_result(path))
        built = ledger.last_built(TARGET)
        assert built is not None
        assert built.sha256 == "a" * 64
        assert ledger.estimates().of(TARGET) is not None
        ledger.finish("r", 0)
        assert ledger.interrupted() == []
    ledger.record("r", TargetResult(id="late", log=path))
    assert text() == ""
    with Ledger.open(path, read_only=True) as strict:
        assert [entry.id for entry in strict.history()] == [TARGET]


def test_a_writer_that_does_not_end_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BUSY_SECONDS", 0.1)
    with Ledger.open(path) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MachineError, match="another builder holds the ledger"):
            ledger.begin("r", START, [])
        assert ledger.history() == [], "readers do not wait for it"
        other.execute("ROLLBACK")
        ledger.begin("r", START, [])
        assert len(ledger.interrupted()) == 1


def test_opening_does_not_depend_on_the_way_of_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BUSY_SECONDS", 0.1)
    with Ledger.open(path) as ledger:
        ledger.add(make())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN")
        # As long as this reads, nobody can change the mode.
        assert other.execute("SELECT count(*) FROM targets").fetchone() == (1,)
        with Ledger.open(path) as ledger:
            assert ledger.history() == [make()]
        other.execute("COMMIT")
    Ledger.open(path).close()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def sample(target: str, seconds: float, *, warm: bool = False, memory: int | None = None) -> Sample:
    return Sample(target, warm, {"prepare": 1.0, "compile": seconds - 1.0}, memory)


def test_an_estimate_is_the_median_of_the_last_five() -> None:
    newest_first = [sample(TARGET, value, memory=value) for value in (10, 90, 20, 30, 40, 1000, 1000)]
    estimate = Estimates(newest_first).of(TARGET)
    assert estimate is not None
    assert estimate.cold is not None
    assert estimate.warm is None
    assert (estimate.cold.seconds, estimate.cold.samples, estimate.cold.basis) == (30, 5, "target")
    assert estimate.cold.phases == {"prepare": 1.0, "compile": 29.0}
    assert estimate.cold.peak_memory == 90, "memory is not a matter of the average"


def test_an_estimate_takes_the_nearest_kin_for_each_state_of_the_cache() -> None:
    estimates = Estimates(
        [
            sample("v2.5.1-7.1.0-py3.9-x86_64", 100, warm=True),
            sample("v2.5.1-7.1.0-py3.10-x86_64", 600),
            sample("v2.5.1-7.1.0-py3.9-aarch64", 7),
            sample("v2.5.1-py3.9-x86_64", 3000),
        ]
    )
    nine = estimates.of("v2.5.1-7.1.0-py3.9-x86_64")
    assert nine is not None
    assert nine.warm is not None
    assert nine.cold is not None
    assert (nine.warm.basis, nine.warm.seconds) == ("target", 100)
    assert (nine.cold.basis, nine.cold.seconds) == ("line", 600)
    assert nine.best(warm=True) is nine.warm
    assert nine.best(warm=False) is nine.cold
    other = estimates.of("v2.1.0-7.0.0-py3.9-x86_64")
    assert other is not None
    assert other.cold is not None
    assert (other.cold.basis, other.cold.seconds, other.cold.samples) == ("arch", 1800, 2)
    arm = estimates.of("v2.1.0-7.0.0-py3.9-aarch64")
    assert arm is not None
    assert arm.warm is None
    assert arm.best(warm=True) is arm.cold, "a guess from the other state is better than none"
    assert estimates.of("v2.1.0-7.0.0-py3.9-riscv64") is None


def test_estimates_from_the_ledger(path: Path) -> None:
    def build(minutes: int, seconds: float, hits: int, misses: int, **more: Any) -> Entry:
        cache = {"hits": hits, "misses": misses}
        return make(minutes=minutes, phases=phases(image=2, compile=seconds), cache=cache, **more)

    with Ledger.open(path) as ledger:
        ledger.add(*(build(minute, 1000, 0, 16) for minute in range(3)))
        ledger.add(*(build(minute, 100 + minute, 5, 5, peak_memory=minute << 20) for minute in range(10, 15)))
        ledger.add(*(build(minute, minute, 6, 5) for minute in range(20, 27)))
        ledger.add(build(30, 9999, 0, 16, status="failed"), make(minutes=31, status="skipped"), make(minutes=32))
        estimate = ledger.estimates().of(TARGET)
        again = ledger.estimates().of("v2.5.1-7.1.0-py3.8-x86_64")
    assert estimate is not None
    assert estimate.cold is not None
    assert estimate.warm is not None
    # A build with half of its objects from the cache is a cold one; those that did not succeed do not count.
    assert (estimate.cold.seconds, estimate.cold.samples, estimate.cold.peak_memory) == (114, 5, 14 << 20)
    assert (estimate.warm.seconds, estimate.warm.samples, estimate.warm.peak_memory) == (26, 5, None)
    assert list(estimate.warm.phases.items()) == [("image", 2), ("compile", 24)]
    assert again is not None
    assert again.cold is not None
    assert (again.cold.basis, again.cold.seconds) == ("line", 114)


def test_a_phase_of_two_attempts_counts_once_with_both(path: Path) -> None:
    twice = [*phases(compile=10, repair=1), *phases(compile=30)]
    with Ledger.open(path) as ledger:
        ledger.add(make(phases=twice))
        estimate = ledger.estimates().of(TARGET)
    assert estimate is not None
    assert estimate.cold is not None
    assert estimate.cold.phases == {"compile": 40, "repair": 1}


def write_record(output: Path, name: str = "x.whl", **changes: Any) -> dict[str, Any]:
    """A wheel with the record that a build writes beside it."""
    output.mkdir(exist_ok=True)
    (output / name).write_bytes(b"wheel")
    more = {"environment": {"environment": "docker"}, "files_compiled": 16, "cache": {"hits": 15, "misses": 1}}
    record = make_record(output / name, **{"target": TARGET, **more, **changes})
    (output / f"{name}.json").write_text(json.dumps(record))
    return record


def test_rebuild_takes_whole_records_only(workspace: Workspace) -> None:
    output = workspace.output
    write_record(output, "whole.whl")
    bad: Mapping[str, Mapping[str, Any]] = {
        "schema": {"schema": 2},
        "target": {"target": ...},
        "print": {"fingerprint": None},
        "time": {"finished": "2026-11-21T06:34:31"},
        "seconds": {"phases": [{"name": "compile", "seconds": float("nan")}]},
        "endless": {"phases": [{"name": "compile", "seconds": float("inf")}]},
        "negative": {"cache": {"hits": -1, "misses": 0}},
        "other": {"wheel": "whole.whl"},
        "size": {"size": 6},
    }
    for name, changes in bad.items():
        write_record(output, f"{name}.whl", **{"wheel": f"{name}.whl", **changes})
    write_record(output, "gone.whl")
    (output / "gone.whl").unlink()
    (output / "cut.whl.json").write_text('{"schema": 1, "wheel"')
    (output / "deep.whl.json").write_text("[" * 100_000)
    (output / "list.whl.json").write_text("[]")
    (output / "binary.whl.json").write_bytes(b"\xff\xfe\x00")
    write_record(output, "link.whl")
    (output / "link.whl.json").rename(output / "elsewhere.json")
    (output / "link.whl.json").symlink_to(output / "elsewhere.json")
    os.mkfifo(output / "pipe.whl.json")
    (output / "notes.json").write_text("no record")
    (output / ".late.whl.json.1234").write_text("being written")
    reporter, text = captured()
    assert rebuild_ledger(workspace, reporter) == 0
    assert "restored 1 target from" in text()
    with Ledger.open(ledger_path(workspace), read_only=True) as ledger:
        (entry,) = ledger.history()
    assert entry.wheel == "whole.whl"
    assert entry.phases[0].cpu_seconds == 1.474
    left_out = re.findall(r"(\w+)\.whl\.json is left out", text())
    assert sorted(left_out) == sorted([*bad, "gone", "cut", "deep", "list", "binary", "link", "pipe"])


def test_rebuild_keeps_the_old_file_and_leaves_nothing_else(workspace: Workspace) -> None:
    path = ledger_path(workspace)
    path.parent.mkdir()
    _garbage(path)
    path.with_name("ledger.sqlite-wal").write_bytes(b"of the old one")
    old = path.read_bytes()
    (path.parent / ".ledger-killed").mkdir()
    write_record(workspace.output)
    reporter, text = captured()
    rebuild_ledger(workspace, reporter)
    (aside,) = path.parent.glob("ledger-*.sqlite")
    assert aside.read_bytes() == old
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == b"of the old one"
    assert str(aside) in text()
    names = {file.name for file in path.parent.iterdir()} - {aside.name, f"{aside.name}-wal"}
    assert names == {"ledger.sqlite", "locks"}
    with Ledger.open(path) as ledger:
        assert len(ledger.history()) == 1
        assert ledger.interrupted() == [], "no run is made up"


def test_rebuild_waits_for_nobody(workspace: Workspace) -> None:
    write_record(workspace.output)
    path = ledger_path(workspace)
    with Ledger.open(path) as ledger:
        ledger.add(make(reason="mine"))
        with pytest.raises(MachineError, match="another builder holds the ledger"):
            rebuild_ledger(workspace, captured()[0])
        assert [entry.reason for entry in ledger.history()] == ["mine"]
    assert rebuild_ledger(workspace, captured()[0]) == 0


def test_rebuild_without_a_folder_of_wheels_changes_nothing(workspace: Workspace) -> None:
    with Ledger.open(ledger_path(workspace)) as ledger:
        ledger.add(make())
    before = files(workspace.root)
    with pytest.raises(RequestError, match="there is no folder of wheels"):
        rebuild_ledger(workspace, captured()[0])
    assert files(workspace.root) == before


def test_a_lost_ledger_without_wheels_is_an_empty_one(workspace: Workspace) -> None:
    reporter, text = captured()
    assert not workspace.output.exists()
    assert rebuild_ledger(workspace, reporter, missing_ok=True) == 0
    assert f"nothing to restore from {workspace.output} (there is no such folder)" in text()
    assert not workspace.output.exists()
    with Ledger.open(ledger_path(workspace)) as ledger:
        assert ledger.history() == []
        ledger.add(make())
    # What was there is not lost, and a folder without wheels is as good as none.
    workspace.output.mkdir()
    assert rebuild_ledger(workspace, reporter, missing_ok=True) == 0
    assert "it has no whole wheel with its record" in text()
    (aside,) = ledger_path(workspace).parent.glob("ledger-*.sqlite")
    with Ledger.open(aside, read_only=True) as before:
        assert len(before.history()) == 1
    # A link that leads nowhere is no folder that nobody has made yet.
    workspace.output.rmdir()
    workspace.output.symlink_to("nowhere")
    with pytest.raises(RequestError, match="there is no folder of wheels"):
        rebuild_ledger(workspace, reporter, missing_ok=True)


def shown(entries: list[Entry], width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False).print(history_table(entries, wide=width >= 140))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def history_entries() -> list[Entry]:
    failure = {"kind": "compile", "phase": "compile", "message": "x"}
    return [
        make(LONG, 5, phases=phases(prepare=1, image=97.6, compile=86.4), cache={"hits": 982, "misses": 1}),
        make(LONG, 4, status="failed", reason="a.cpp:1: [error]\n  " + "long " * 60, failure=failure, attempts=2),
        make(LONG, 3, status="failed", reason="interrupted", failure={"kind": "interrupted", "message": "x"}),
        make(LONG, 2, status="skipped", reason="same fingerprint"),
    ]


def test_the_history_at_80_columns() -> None:
    lines = shown(history_entries(), 80)
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["when", "target", "status", "time", "hits"]
    assert sum(LONG in line for line in lines) == 4, "ids are not broken"
    text = " ".join(" ".join(lines).split())
    assert "image 1m 38s, compile 1m 26s" in text
    assert "prepare" not in text
    assert "99%" in text
    assert "failed compile: a.cpp:1: [error] long long" in text
    assert "long l... (2 attempts)" in text
    assert sum(line.endswith("interrupted") for line in lines) == 2, "as status and as reason"


def test_the_history_in_a_pipe_has_an_entry_a_line() -> None:
    lines = shown(history_entries(), 200)
    assert len(lines) == 6, "one more for a reason that is longer than the line"
    assert lines[0].split() == ["when", "target", "status", "time", "hits", "phases", "reason"]
    assert "skipped" in lines[-1]
    assert lines[-1].endswith("same fingerprint")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (3599.6, "1h 00m"),
        (7499, "2h 05m"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_history_command(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    show_history(workspace)
    assert "nothing was built in" in capsys.readouterr().out
    show_history(workspace, as_json=True)
    assert json.loads(capsys.readouterr().out) == []
    assert not workspace.root.exists(), "looking makes nothing"
    with Ledger.open(ledger_path(workspace)) as ledger:
        ledger.add(make(LONG, 1), make(TARGET, 2, status="failed", reason="[bold]no"))
    show_history(workspace)
    out = capsys.readouterr().out
    assert out.index(TARGET) < out.index(LONG)
    assert "[bold]no" in out
    assert all(line == line.rstrip() for line in out.splitlines()), "a pipe gets no blanks that only fill lines up"
    with Ledger.open(ledger_path(workspace)) as ledger:
        spent = phases(prepare=600, image=600, toolchain=600, compile=600, repair=600, verify=600, publish=600)
        ledger.add(make("v2.5.1-7.1.0-py3.12-x86_64", 3, status="failed", reason="word " * 60, phases=spent))
    # A row a line, whatever rich takes a pipe for.
    for forced in ({}, {"FORCE_COLOR": "1"}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", "80")
            for name, value in forced.items():
                patch.setenv(name, value)
            show_history(workspace)
        lines = capsys.readouterr().out.splitlines()
        assert ["-py3." in line for line in lines] == [False, True, True, True]
    show_history(workspace, target="*-aarch64", as_json=True)
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["id"], entry["status"], entry["finished"]) == (LONG, "built", "2026-11-21T08:01:00Z")
    release = tables.lock(ledger_path(workspace), alone=True)
    show_history(workspace, target="v9*")  # whoever only looks waits for nobody
    release()
    assert capsys.readouterr().out == "nothing in the history matches\n"
    with pytest.raises(RequestError, match="--limit: 0"):
        show_history(workspace, limit=0)
    with pytest.raises(RequestError, match="--status: 'green'"):
        show_history(workspace, status="green")


def test_every_place_that_knows_statuses_knows_all_of_them() -> None:
    known = set(get_args(Status))
    # What was interrupted has failed, to the ledger.
    assert known | {"interrupted"} == set(STYLES)
    (option,) = [each for each in cli.commands["history"].params if each.name == "status"]
    assert set(option.type.choices) == known  # type: ignore[attr-defined]


def test_a_ledger_of_before_holds_builds(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(tables.MIGRATIONS[0])
        database.execute("PRAGMA user_version = 1")
        database.execute("INSERT INTO runs (id) VALUES ('old')")
        database.execute(
            "INSERT INTO targets (run, target, status, reason, finished, attempts) VALUES (?, ?, ?, ?, ?, 1)",
            ["old", TARGET, "built", "built from source", START.isoformat()],
        )
        database.commit()
    with Ledger.open(path) as ledger:
        ledger.record(
            "new", TargetResult(TARGET, path, "rehearsed", phases=[Phase("compile", 3.0)], purpose="rehearse")
        )
        assert [(entry.run, entry.purpose) for entry in ledger.history()] == [("new", "rehearse"), ("old", "build")]


def test_what_is_no_build_teaches_nothing_of_builds(path: Path) -> None:
    with Ledger.open(path) as ledger:
        for run, purpose, status in (("a", "rehearse", "rehearsed"), ("b", "pull", "pulled")):
            result = TargetResult(TARGET, path, status, phases=[Phase("compile", 3.0)], purpose=purpose)
            ledger.record(run, result)
        assert ledger.last_built(TARGET) is None
        assert ledger.estimates().of(TARGET) is None
        assert [entry.status for entry in ledger.history(status="pulled")] == ["pulled"]


def test_a_failed_rehearsal_is_told_from_a_failed_build(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    result = TargetResult(TARGET, workspace.root, purpose="rehearse")
    result.fail(TargetError("no such name", kind=FailureKind.COMPILE, phase="configure"))
    with Ledger.open(ledger_path(workspace)) as ledger:
        ledger.record("r", result)
    show_history(workspace)
    assert "rehearse: compile in configure: no such name" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("what", ["pipe", "link"])
@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_no_file_is_no_ledger(tmp_path: Path, what: str, read_only: bool) -> None:
    place = tmp_path / "ledger.sqlite"
    if what == "link":
        os.mkfifo(tmp_path / "pipe")
        place.symlink_to("pipe")
    else:
        os.mkfifo(place)
    with pytest.raises(MachineError, match="it is no regular file") as caught:
        Ledger.open(place, read_only=read_only)
    assert caught.value.hint


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    "script",
    [
        # Reading this one never ends, and no signal ends it.
        """
        DROP TABLE phases;
        CREATE VIEW phases AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)
        SELECT x AS entry, x AS number FROM n;
        """,
        "CREATE TRIGGER more AFTER INSERT ON runs BEGIN DELETE FROM runs; END;",
        "CREATE VIRTUAL TABLE words USING fts5(word);",
    ],
    ids=["view", "trigger", "virtual table"],
)
def test_nothing_that_runs_is_part_of_a_ledger(path: Path, script: str, read_only: bool) -> None:
    Ledger.open(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)
    with pytest.raises(MachineError, match="is damaged: it holds a view") as caught:
        Ledger.open(path, read_only=read_only)
    assert "ledger rebuild" in str(caught.value.hint)
