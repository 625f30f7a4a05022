"""The ledger among several processes: many writers, killed ones, other users; and made anew from wheels' records."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest
from rich.console import Console

from builder.cli.history_command import rebuild_ledger, show_history
from builder.core.errors import MachineError
from builder.core.results import Phase, TargetResult
from builder.core.statistics import CacheUse
from builder.core.workspace import Workspace
from builder.ledger import Entry, Ledger, ledger_path
from builder.ledger.records import RESTORED
from builder.progress.reporter import Reporter
from builder.wheels.publication import publish_wheel
from builder.wheels.record import WheelRecord

ROWS = 200
#: Notes targets, one after the other, and says so after each. Its arguments: ledger, run, how many.
WRITER = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from builder.ledger import Ledger
from builder.core.results import Phase, TargetResult

path, run, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with Ledger.open(path) as ledger:
    ledger.begin(run, datetime.now(timezone.utc), ["build"])
    for number in range(count):
        target = f"{run}-{number}"
        phases = [Phase("prepare", number), Phase("compile", 1.0)]
        ledger.record(run, TargetResult(target, path.parent / "log", "built", phases=phases))
        print(target, flush=True)
    ledger.finish(run, 0)
"""


def writer(path: Path, run: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), run, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check_whole(path: Path) -> list[Entry]:
    """The entries of a database that SQLite finds nothing wrong with, each with both of its phases."""
    with Ledger.open(path) as ledger:
        entries = ledger.history()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    assert all([phase.name for phase in entry.phases] == ["prepare", "compile"] for entry in entries)
    return entries


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "build" / "ledger.sqlite"


@pytest.mark.parametrize("processes", [2, 6])
def test_processes_that_write_at_once(path: Path, processes: int) -> None:
    # All of them find no database: who makes it, and who waits, is for them to settle.
    writers = [writer(path, f"run{number}", ROWS) for number in range(processes)]
    for process in writers:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
    entries = check_whole(path)
    assert {entry.id for entry in entries} == {f"run{run}-{row}" for run in range(processes) for row in range(ROWS)}
    assert len(entries) == processes * ROWS
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.interrupted() == []


def test_threads_that_share_a_ledger(path: Path) -> None:
    with Ledger.open(path) as ledger, ThreadPoolExecutor(8) as pool:

        def work(thread: int) -> None:
            for number in range(25):
                result = TargetResult(f"{thread}-{number}", path, "built", phases=[Phase("prepare"), Phase("compile")])
                ledger.record("r", result)
                assert any(entry.id == result.id for entry in ledger.history(target=f"{thread}-*"))

        list(pool.map(work, range(8)))
    assert len(check_whole(path)) == 200


def test_a_writer_that_is_killed_leaves_all_that_it_noted(path: Path) -> None:
    noted: set[str] = set()
    for attempt in range(6):
        process = writer(path, f"run{attempt}", 100_000)
        assert process.stdout is not None
        for _ in range(attempt * 7 + 1):
            noted.add(process.stdout.readline().strip())
        # At no particular moment of its work.
        time.sleep(attempt * 0.0037)
        process.kill()
        # Not communicate(): it would not see what the buffer of readline() holds.
        noted |= {line.strip() for line in process.stdout if line.endswith("\n")}
        assert process.stderr is not None
        assert (process.wait(), process.stderr.read()) == (-signal.SIGKILL, "")
        process.stdout.close()
        process.stderr.close()
        present = {entry.id for entry in check_whole(path)}
        assert noted <= present
        assert len(present - noted) <= attempt + 1, "at most the entry of which it could not speak any more"
    with Ledger.open(path) as ledger:
        assert [run.id for run in ledger.interrupted()] == [f"run{attempt}" for attempt in range(6)]
        assert ledger.interrupted()[0].command == ("build",)


def test_reading_while_another_writes(path: Path) -> None:
    process = writer(path, "run", 100_000)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(20):
            with Ledger.open(path, read_only=True) as ledger:
                entries = ledger.history()
            numbers = [int(entry.id.partition("-")[2]) for entry in entries]
            assert sorted(numbers) == list(range(len(numbers))), "one state of the database, without holes"
            assert all(len(entry.phases) == 2 for entry in entries)
    finally:
        process.kill()
        process.communicate()


def test_an_entry_and_its_phases_belong_together(path: Path) -> None:
    """Also while entries are being replaced."""
    results = [TargetResult(name, path, "built", phases=[Phase("prepare"), Phase("compile")]) for name in "abcd"]
    done = threading.Event()

    def replace() -> None:
        with Ledger.open(path) as ledger:
            while not done.is_set():
                for result in results:
                    ledger.record("r", result)

    with Ledger.open(path) as ledger, ThreadPoolExecutor(1) as pool:
        ledger.record("r", *results)
        replacing = pool.submit(replace)
        try:
            for _ in range(500):
                assert [len(entry.phases) for entry in ledger.history()] == [2, 2, 2, 2]
        finally:
            done.set()
        replacing.result()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach; those of tests are the tester's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_may_only_read(open_folder: Path) -> None:
    path = open_folder / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.record("r", TargetResult("mine", path, "skipped"))

    def as_nobody(code: str) -> str:
        lines = [
            # What pathlib imports late could be in a folder that only root may read.
            "import io, os, sys, urllib.parse; from pathlib import Path; from rich.console import Console",
            "from builder.progress.reporter import Reporter; from builder.ledger import BuildLedger, Ledger",
            "from builder.core.results import TargetResult",
            "path = Path(sys.argv[1]); os.setgid(65534); os.setuid(65534)",
            code,
        ]
        command = [sys.executable, "-c", "\n".join(lines), str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    read = "with Ledger.open(path, read_only=True) as ledger: print([entry.id for entry in ledger.history()])"
    assert as_nobody(read) == "['mine']\n"
    build = (
        "stream = io.StringIO(); ledger = BuildLedger(path, Reporter(Console(file=stream)))\n"
        "ledger.record('r', TargetResult('theirs', path, 'skipped')); ledger.close(); print(stream.getvalue())"
    )
    said = as_nobody(build)
    assert said.count("warning:") == 1
    assert "ledger.sqlite cannot be used: Permission denied" in said
    with Ledger.open(path) as ledger:
        # The writer is at work: what it wrote is in the file beside the database, and counts.
        ledger.record("r", TargetResult("more", path, "skipped"))
        assert as_nobody(read) == "['more', 'mine']\n"
        # What a killed writer left can be read only by who may write; half of the truth is not shown.
        for name in ("ledger.sqlite", "ledger.sqlite-wal"):
            (open_folder / "killed").mkdir(exist_ok=True)
            shutil.copy(open_folder / name, open_folder / "killed" / name)
    path = open_folder / "killed" / "ledger.sqlite"
    refused = f"try:\n    {read}\nexcept MachineError as error: print(error.message)"
    assert "ledger.sqlite cannot be used: " in as_nobody(f"from builder.core.errors import MachineError\n{refused}")


def test_what_rebuild_restores_is_what_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace(tmp_path / "build", tmp_path / "dist")
    wheels = {f"v2.5.1-7.1.0-py3.{minor}-x86_64": f"torch_npu-2.5.1-cp3{minor}.whl" for minor in (9, 10, 11)}
    with Ledger.open(ledger_path(workspace)) as ledger:
        ledger.begin("run", datetime.now(timezone.utc), ["build"])
        for number, (target, name) in enumerate(wheels.items(), 1):
            result = _build(workspace, target, name, number)
            ledger.record("run", result)
        ledger.record("run", TargetResult("failed", tmp_path / "log"))
        before = {entry.id: entry for entry in ledger.history(status="built")}
        estimates = {target: ledger.estimates().of(target) for target in wheels}
    reporter = Reporter(Console(file=io.StringIO()))
    # Twice: what was restored is restored from the records again, not added to.
    for count in (1, 2):
        assert rebuild_ledger(workspace, reporter) == 0
        assert len(list(workspace.root.glob("ledger-*.sqlite"))) == count
        with Ledger.open(ledger_path(workspace), read_only=True) as ledger:
            entries = ledger.history()
            assert {target: ledger.estimates().of(target) for target in wheels} == estimates
            assert ledger.interrupted() == []
        assert len(entries) == len(wheels)
        for entry in entries:
            was = before[entry.id]
            assert abs((entry.finished - was.finished).total_seconds()) <= 2
            same = {"reason": RESTORED, "log": None, "finished": entry.finished}
            assert entry == was.model_copy(update=same)
    show_history(workspace)
    assert capsys.readouterr().out.count(RESTORED) == len(wheels)
    for aside in workspace.root.glob("ledger-*.sqlite"):
        assert len(check_or_raise(aside)) >= len(wheels), "the old ledger is whole"


def check_or_raise(path: Path) -> list[Entry]:
    with Ledger.open(path, read_only=True) as ledger:
        return ledger.history()


def _build(workspace: Workspace, target: str, name: str, number: int) -> TargetResult:
    """A target that was built, with its wheel and record in the output folder."""
    result = TargetResult(
        id=target,
        log=workspace.runs / "run" / f"{target}.log",
        status="built",
        reason="built from source",
        fingerprint=f"{number}" * 64,
        sha256=f"{number + 1}" * 64,
        phases=[Phase("prepare", 0.25 * number), Phase("compile", 61.5 * number, 100.125)],
        files_compiled=16 * number,
        cache=CacheUse(hits=15, misses=number),
    )
    workspace.create()
    wheel = workspace.root / name
    wheel.write_bytes(b"a wheel" * number)
    record = {
        **{key: result.to_json()[key] for key in ("fingerprint", "sha256", "files_compiled", "cache", "phases")},
        "schema": 1,
        "wheel": name,
        "size": wheel.stat().st_size,
        "target": target,
        "run": "run",
        "started": "2026-11-21T06:34:27+00:00",
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    result.wheel = publish_wheel(wheel, workspace.output, WheelRecord.model_validate(record), None)
    return result


def test_a_rebuild_that_is_killed_loses_neither_ledger(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "build", tmp_path / "dist")
    for minor in range(30):
        _build(workspace, f"v2.5.1-7.1.0-py3.{minor}-x86_64", f"torch_npu-2.5.1-cp3{minor}.whl", 1)
    code = """
import sys
from pathlib import Path
from builder.progress.reporter import Reporter
from builder.cli.history_command import rebuild_ledger
from builder.core.statistics import CacheUse
from builder.core.workspace import Workspace

print("ready", flush=True)
while True:
    rebuild_ledger(Workspace(Path(sys.argv[1]), Path(sys.argv[2])), Reporter(quiet=True))
"""
    for attempt in range(5):
        command = [sys.executable, "-c", code, str(workspace.root), str(workspace.output)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05 + attempt * 0.013)
        process.kill()
        process.communicate()
        # In its place stands a whole one or, in between, none; all others were kept.
        for file in [ledger_path(workspace), *workspace.root.glob("ledger-*.sqlite")]:
            if file.exists():
                assert len(check_or_raise(file)) == 30
    rebuild_ledger(workspace, Reporter(quiet=True))
    assert len(check_or_raise(ledger_path(workspace))) == 30
    assert not list(workspace.root.glob(".ledger-*"))


def test_no_ledger_yet(path: Path) -> None:
    with pytest.raises(MachineError, match="there is no ledger"):
        Ledger.open(path, read_only=True)
    assert not path.parent.exists()
