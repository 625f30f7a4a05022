"""A build that fills the disk is ended; one that others fill the disk beside is not."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from builder.compilation.output_parser import OutputReader
from builder.core.errors import FailureKind
from builder.core.untrusted import DEEPEST
from builder.environments import disk_watch
from builder.environments.disk_watch import DiskWatch
from builder.environments.interface import Limits, Outcome
from builder.environments.process import run_process
from builder.target.diagnosis import compile_failure

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_watch, "INTERVAL", 0.05)


def write(path: Path, size: int) -> None:
    path.write_bytes(bytes(size))
    os.sync()


def test_growth_is_measured_and_what_was_there_does_not_count(tmp_path: Path) -> None:
    write(tmp_path / "before", 3 * MIB)
    with DiskWatch([tmp_path], 2 * MIB, lambda: None) as watch:
        write(tmp_path / "new", MIB)
    assert watch.excess is None
    assert watch.grown is not None
    assert MIB <= watch.grown < 2 * MIB
    with DiskWatch([tmp_path], None, lambda: None) as watch:
        (tmp_path / "before").unlink()
    assert (watch.grown, watch.excess) == (0, None)


def test_a_build_that_writes_too_much_is_stopped_while_it_writes(tmp_path: Path) -> None:
    stopped = threading.Event()
    with DiskWatch([tmp_path], 20 * MIB, stopped.set) as watch:
        for number in range(1000):
            write(tmp_path / str(number), 4 * MIB)
            if stopped.is_set():
                break
    assert stopped.is_set()
    assert number < 100
    assert str(watch.excess).endswith("GiB, 0.0 GiB are allowed")


def test_what_others_write_beside_it_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with DiskWatch([tmp_path / "mine"], 4 * MIB, lambda: pytest.fail("stopped")) as watch:
        for number in range(8):
            write(tmp_path / f"other{number}", 8 * MIB)
    assert (watch.grown, watch.excess) == (0, None)


def test_folders_that_cannot_be_counted_are_wrong(tmp_path: Path) -> None:
    with DiskWatch([tmp_path], 1 << 30, lambda: None) as watch:
        (tmp_path / Path(*["d"] * (DEEPEST + 2))).mkdir(parents=True)
    assert watch.excess == f"it made more than {DEEPEST} folders inside each other"


def test_a_command_on_this_machine_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    script = "import os, time\nfor n in range(10**6):\n    open(str(n), 'wb').write(bytes(1 << 20)); time.sleep(0.002)"
    outcome = run_process(
        [sys.executable, "-c", script],
        env={},
        cwd=str(tmp_path),
        on_line=lambda line: None,
        limits=Limits(disk=20 * MIB, timeout=120),
        written=[tmp_path],
    )
    assert outcome.failed
    assert (outcome.timed_out, outcome.out_of_memory) == (False, False)
    assert "are allowed" in str(outcome.excess)
    error = compile_failure(OutputReader(), outcome, None)
    assert error.kind is FailureKind.DISK_LIMIT
    assert "--disk" in str(error.hint)


def test_a_command_that_ended_well_before_anybody_looked_has_failed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_watch, "INTERVAL", 600)
    outcome = run_process(
        ["sh", "-c", "head -c 3000000 /dev/zero > file"],
        env={"PATH": "/usr/bin:/bin"},
        cwd=str(tmp_path),
        on_line=lambda line: None,
        limits=Limits(disk=MIB),
        written=[tmp_path],
    )
    assert (outcome.exit_code, outcome.failed) == (0, True)
    assert not Outcome(0, 1.0).failed
