"""How a run spent its time: the critical path and the idle share."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from builder.core.results import Phase, TargetResult
from builder.executors.timeline import timeline

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)


def result(name: str, *phases: tuple[str, float, float, float | None]) -> TargetResult:
    """A target with phases (name, start in seconds after noon, seconds, CPU seconds)."""
    found = TargetResult(name, Path("log"))
    found.phases = [
        Phase(phase, seconds, cpu_seconds=cpu, started=NOON + timedelta(seconds=start))
        for phase, start, seconds, cpu in phases
    ]
    return found


def test_the_critical_path_goes_back_through_those_that_were_waited_for() -> None:
    results = [
        result("first", ("prepare", 0, 10, None), ("compile", 10, 90, 150.0)),
        result("short", ("compile", 0, 30, 20.0)),
        result("second", ("compile", 100.5, 60, 30.0)),
        result("beside", ("compile", 101, 20, None)),
    ]
    found = timeline(results, jobs=2)
    assert found is not None
    assert [span.id for span in found.critical] == ["first", "second"]
    assert found.seconds == pytest.approx(160.5)
    assert found.idle == pytest.approx(1 - 200 / 321)
    assert found.describe() == (
        "schedule: 160 s, 2 at once, 38% of 2 compile slots idle; "
        "critical path: first 100 s (compile 90 s) -> second 60 s (compile 60 s)"
    )
    assert found.tells
    written = found.schedule().to_json()
    assert written["critical_path"][0] == {
        "target": "first",
        "seconds": 100.0,
        "phases": {"prepare": 10.0, "compile": 90.0},
    }
    assert written["idle_share"] == pytest.approx(0.3769, abs=1e-4)


def test_a_target_that_started_long_after_another_ended_did_not_wait_for_it() -> None:
    results = [result("early", ("compile", 0, 10, 5.0)), result("late", ("compile", 60, 10, 5.0))]
    found = timeline(results, jobs=1)
    assert found is not None
    assert [span.id for span in found.critical] == ["late"]
    assert not found.tells


def test_two_that_end_at_once_are_not_each_others_reason() -> None:
    results = [result("a", ("publish", 0, 0, None)), result("b", ("publish", 0, 0, None))]
    found = timeline(results, jobs=4)
    assert found is not None
    assert found.parallel == 1
    assert sorted(span.id for span in found.critical) == ["a", "b"]
    assert found.idle is None
    assert "idle" not in found.describe()


def test_more_work_than_cores_is_no_negative_idleness() -> None:
    found = timeline([result("a", ("compile", 0, 10, 25.0))], jobs=2)
    assert found is not None
    assert found.idle == 0


def test_machines_that_shared_the_work_have_no_common_number_of_compilers() -> None:
    found = timeline([result("a", ("compile", 0, 10, 25.0))], jobs=None)
    assert found is not None
    assert found.schedule().to_json()["idle_share"] is None


def test_where_nothing_ran_there_is_no_timeline() -> None:
    skipped = result("a")
    skipped.skip("it stands")
    assert timeline([skipped], jobs=2) is None
