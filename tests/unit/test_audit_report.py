"""How an audit's outcome is shown: at any width whole, and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from builder.audit import report
from builder.audit.drift import Drift, Note, Outcome
from builder.audit.update import Change

LINE = "v1.11.0-5.0.rc2.t100"


@pytest.fixture
def outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.chdir(tmp_path)
    place = f"{tmp_path}/matrices/pytorch-1.11.yaml:143:7"
    open_ = Drift(
        LINE, "wheel_requirement", "x86_64: torch==1.11.0+cpu", "[b]none[/b] (1.11.0)", place, "METADATA of x"
    )
    accepted = Drift(LINE, "uses_mold", "false", "true", place, "setup.py", accepted="it is [off]")
    return Outcome(1, 1640, [open_, accepted], [Note(LINE, "op_plugin_pin", "pins abc, 8 commits behind 5.0")])


def text(outcome: Outcome, *, width: int, verbose: bool = False, changes: tuple[Change, ...] | None = None) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    report.show(outcome, console, verbose=verbose)
    report.conclude(outcome, changes, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_everything_that_a_person_copies_is_whole(outcome: Outcome, width: int) -> None:
    shown = text(outcome, width=width, verbose=True)
    for word in (
        LINE,
        "wheel_requirement",
        "pytorch-1.11.yaml:143",
        "x86_64: torch==1.11.0+cpu",
        "[b]none[/b] (1.11.0)",
    ):
        assert word in shown
    for word in ("accepted", "uses_mold", "it is [off]", "pins abc, 8 commits behind 5.0"):
        assert word in shown
    assert all(len(line) <= width for line in shown.splitlines())
    assert all(line == line.rstrip() for line in shown.splitlines())
    assert shown.splitlines()[-1] == "1 line, 1,640 facts compared, 1 drift, 1 accepted"


def test_information_is_for_those_who_ask(outcome: Outcome) -> None:
    assert "pins abc" not in text(outcome, width=80)


def test_a_clean_outcome_is_one_line() -> None:
    assert text(Outcome(82, 1640), width=80, verbose=True) == "82 lines, 1,640 facts compared, 0 drift, 0 accepted\n"


def test_each_drift_is_said_to_be_written_or_left(outcome: Outcome, tmp_path: Path) -> None:
    written = Drift(LINE, "finds_ccache", "false", "true " + "x" * 90, "b.yaml:1:1", "CMakeLists.txt")
    outcome.drift.append(written)
    lines = text(outcome, width=80, changes=(Change(f"{tmp_path}/matrices/a.yaml:3:5", written),)).splitlines()
    assert lines[-3:] == [
        f"left     {outcome.open[0].place.removeprefix(f'{tmp_path}/')}: {report.what(outcome.open[0])}",
        f"written  matrices/a.yaml:3:5: {LINE}: finds_ccache: false -> true {'x' * 90}",
        "1 line, 1,640 facts compared, 2 drift, 1 accepted, 1 written, 1 left",
    ]
    assert text(Outcome(82, 1640), width=80, changes=()).endswith("0 drift, 0 accepted, 0 written, 0 left\n")


def test_json_has_the_whole_outcome(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    written = Drift(LINE, "uses_ninja", "false", "true", "a.yaml:3:5", "setup.py")
    outcome.drift.append(written)
    report.write_json(outcome, [Change("a.yaml:3:5", written)])
    found = json.loads(capsys.readouterr().out)
    place = "matrices/pytorch-1.11.yaml:143:7"
    assert found == {
        "schema": 1,
        "lines": 1,
        "compared": 1640,
        "drift": [
            {
                "line": LINE, "fact": "wheel_requirement", "stated": "x86_64: torch==1.11.0+cpu",
                "found": "[b]none[/b] (1.11.0)", "place": place, "source": "METADATA of x", "written": False,
            },
            {
                "line": LINE, "fact": "uses_ninja", "stated": "false", "found": "true", "place": "a.yaml:3:5",
                "source": "setup.py", "written": True,
            },
        ],
        "accepted": [
            {
                "line": LINE, "fact": "uses_mold", "stated": "false", "found": "true", "place": place,
                "source": "setup.py", "reason": "it is [off]",
            }
        ],
        "notes": [{"line": LINE, "fact": "op_plugin_pin", "text": "pins abc, 8 commits behind 5.0"}],
        "updated": [{"place": "a.yaml:3:5", "what": f"{LINE}: uses_ninja: false -> true"}],
    }  # fmt: skip
