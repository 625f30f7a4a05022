"""The order of targets: who warms a cache goes first, who fits may start, among equals the longest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, TargetError
from builder.core.machine_limits import available_memory
from builder.core.results import TargetResult
from builder.executors.local import LocalRun, Policy
from builder.executors.schedule import TARGET_MEMORY, Expectation, Schedule
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.progress.reporter import Reporter


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


def targets(matrix: Matrix, *names: str) -> list[Target]:
    return [parse_target_id(matrix, f"{name}-x86_64") for name in names]


def schedule(chosen: list[Target], seconds: dict[str, float] | None = None, free: int = 1 << 40) -> Schedule:
    expected = {f"{name}-x86_64": Expectation(value) for name, value in (seconds or {}).items()}
    return Schedule(chosen, expected, free_memory=lambda: free)


def names(plan: Schedule, count: int) -> list[str]:
    started = [plan.next() for _ in range(count)]
    return [target.id.removesuffix("-x86_64") for target in started if target is not None]


def test_one_target_of_each_line_goes_before_a_second_of_any(matrix: Matrix) -> None:
    chosen = targets(matrix, "v2.5.1-7.1.0-py3.9", "v2.5.1-7.1.0-py3.10", "v2.6.0-7.1.0-py3.9", "v2.6.0-7.1.0-py3.10")
    assert names(schedule(chosen), 3) == ["v2.5.1-7.1.0-py3.9", "v2.6.0-7.1.0-py3.9", "v2.5.1-7.1.0-py3.10"]


def test_the_longest_goes_first_and_the_unknown_before_the_known(matrix: Matrix) -> None:
    chosen = targets(matrix, "v2.1.0-7.1.0-py3.9", "v2.5.1-7.1.0-py3.9", "v2.6.0-7.1.0-py3.9")
    plan = schedule(chosen, {"v2.1.0-7.1.0-py3.9": 60.0, "v2.5.1-7.1.0-py3.9": 600.0})
    assert names(plan, 3) == ["v2.6.0-7.1.0-py3.9", "v2.5.1-7.1.0-py3.9", "v2.1.0-7.1.0-py3.9"]


def test_a_second_python_waits_while_the_first_warms_the_cache_unless_nothing_else_is_left(matrix: Matrix) -> None:
    first, second, other = targets(matrix, "v2.5.1-7.1.0-py3.9", "v2.5.1-7.1.0-py3.10", "v2.6.0-7.1.0-py3.9")
    plan = schedule([first, second, other])
    assert plan.next() is first
    assert plan.next() is other
    plan.done(other)
    assert plan.next() is second
    assert plan.next() is None


def test_after_the_first_all_pythons_of_a_line_profit(matrix: Matrix) -> None:
    chosen = targets(matrix, *(f"v2.5.1-7.1.0-py3.{minor}" for minor in (9, 10, 11)), "v2.6.0-7.1.0-py3.9")
    plan = schedule(chosen)
    leader = plan.next()
    assert leader is chosen[0]
    plan.done(chosen[0])
    # The other line's cache is still cold, so that it goes first; then both Pythons that profit, at once.
    assert names(plan, 3) == ["v2.6.0-7.1.0-py3.9", "v2.5.1-7.1.0-py3.10", "v2.5.1-7.1.0-py3.11"]


def test_what_does_not_fit_waits_but_never_for_nothing(matrix: Matrix) -> None:
    chosen = targets(matrix, "v2.5.1-7.1.0-py3.9", "v2.6.0-7.1.0-py3.9")
    plan = schedule(chosen, free=TARGET_MEMORY - 1)
    assert plan.next() is chosen[0]
    assert plan.next() is None
    assert plan.left == 1
    plan.done(chosen[0])
    assert plan.next() is chosen[1]


def test_a_target_that_is_tried_again_goes_next(matrix: Matrix) -> None:
    chosen = targets(matrix, "v2.5.1-7.1.0-py3.9", "v2.6.0-7.1.0-py3.9")
    plan = schedule(chosen)
    assert plan.next() is chosen[0]
    plan.again(chosen[0])
    assert plan.next() is chosen[0]


def test_this_machine_has_memory_to_give() -> None:
    assert 1 << 20 < available_memory() < 1 << 50


@pytest.mark.parametrize(("tried", "attempts"), [(False, 2), (True, 1)])
def test_what_was_tried_with_pauses_is_not_tried_again_at_once(
    tried: bool, attempts: int, matrix: Matrix, tmp_path: Path
) -> None:
    (target,) = targets(matrix, "v2.5.1-7.1.0-py3.9")
    result = TargetResult(target.id, tmp_path / "log")
    error = TargetError("no registry answers", kind=FailureKind.NETWORK)
    error.tried = tried
    result.fail(error)
    context: Any = SimpleNamespace(options=BuildOptions(), reporter=Reporter(quiet=True))
    LocalRun(context, Policy(), None)._try_again(target, result)  # type: ignore[arg-type]
    assert result.attempts == attempts
