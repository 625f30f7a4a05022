"""The suite in two processes: what is kept together."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist")

TESTS = Path(__file__).resolve().parents[1]
FILE = """\
import os, pathlib, time
import pytest

@pytest.mark.parametrize("number", range(5))
def test_plain(number):
    with open(pathlib.Path(__file__).parent / "ran", "a") as file:
        file.write(f"{{__name__}} {{os.environ['PYTEST_XDIST_WORKER']}}\\n")
    # So that the other process gets something, too.
    time.sleep(0.05)
{more}
"""
WITH_ENGINE = """
@pytest.mark.{marker}
def test_with_an_engine():
    test_plain(0)
"""
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder of tests with the real conftest: in two files of four, one test needs the engine."""
    for name in ("conftest.py", "support.py"):
        shutil.copyfile(TESTS / name, tmp_path / name)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    engine: needs one\npythonpath = .\n")
    for number in range(4):
        more = WITH_ENGINE.format(marker="engine") if number % 2 else ""
        (tmp_path / f"test_{number}.py").write_text(FILE.format(more=more))
    return tmp_path


def test_files_stay_together_and_so_do_all_that_use_the_engine(suite: Path) -> None:
    command = [*COMMAND, "-n2", "--dist=loadfile", "--no-loadscope-reorder"]
    done = subprocess.run(command, cwd=suite, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "22 passed" in done.stdout
    ran = [line.split() for line in (suite / "ran").read_text().splitlines()]
    places = {name: {worker for each, worker in ran if each == name} for name, _ in ran}
    assert [len(workers) for workers in places.values()] == [1, 1, 1, 1]
    assert places["test_1"] == places["test_3"]
    assert len(set.union(*places.values())) == 2


def test_a_test_that_needs_the_engine_in_secret_is_refused(suite: Path) -> None:
    hidden = "import pytest\nneeds = getattr(pytest.mark, 'eng' + 'ine')\n\n@needs\ndef test_it(): ...\n"
    (suite / "test_4.py").write_text(hidden)
    done = subprocess.run([*COMMAND, "test_4.py"], cwd=suite, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "test_4.py::test_it needs the engine" in done.stdout + done.stderr
