"""Phases of life: of a PyTorch version, of a plugin release, and of the line that follows both."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from builder.matrix.lifecycle import STATUSES, Lifecycle, Phase, Status, phase_on
from builder.matrix.loader import load_matrix
from builder.matrix.model import ReleaseLine

DAY = timedelta(days=1)
FULL = {
    "development": "2024-01-01",
    "maintained": "2024-07-01",
    "unmaintained": "2025-01-01",
    "end_of_life": "2025-04-01",
}


def life(rule: str = "stated", **days: str) -> Lifecycle:
    return Lifecycle.model_validate({**days, "rule": rule, "source": "a table"})


def phase(day: str, pytorch: Lifecycle, release: Lifecycle | None = None) -> Phase:
    return phase_on(date.fromisoformat(day), pytorch, release)


def line_on(branch: str, day: str) -> ReleaseLine:
    line = load_matrix(as_of=date.fromisoformat(day)).release(branch)
    assert line is not None
    return line


# One life


@pytest.mark.parametrize(
    ("day", "status", "since"),
    [
        ("2023-12-31", "planned", None),
        ("2024-01-01", "development", "2024-01-01"),
        ("2024-06-30", "development", "2024-01-01"),
        ("2024-07-01", "maintained", "2024-07-01"),
        ("2024-12-31", "maintained", "2024-07-01"),
        ("2025-01-01", "unmaintained", "2025-01-01"),
        ("2025-03-31", "unmaintained", "2025-01-01"),
        ("2025-04-01", "end-of-life", "2025-04-01"),
        ("9999-12-31", "end-of-life", "2025-04-01"),
    ],
)
def test_a_phase_begins_on_its_very_day(day: str, status: Status, since: str | None) -> None:
    found = phase(day, life(**FULL))
    assert (found.status, found.since) == (status, date.fromisoformat(since) if since else None)


def test_a_phase_that_is_not_stated_is_passed_over() -> None:
    known = life(maintained="2024-01-01", end_of_life="2025-01-01")
    assert [status for status, _ in known.phases] == ["maintained", "end-of-life"]
    assert phase("2023-12-31", known).status == "planned"
    assert phase("2024-12-31", known).status == "maintained"
    assert phase("2024-12-31", known).following == ("end-of-life", date(2025, 1, 1))


def test_without_an_end_the_last_phase_lasts() -> None:
    found = phase("2030-01-01", life(development="2024-01-01", maintained="2025-01-01"))
    assert (found.status, found.following) == ("maintained", None)
    assert found.describe() == "maintained since 2025-01-01"


@pytest.mark.parametrize(
    "days",
    [
        {"development": "2024-02-01", "maintained": "2024-01-01"},
        {"maintained": "2024-02-01", "end_of_life": "2024-01-31"},
        {"unmaintained": "2024-02-01", "end_of_life": "2023-01-01"},
        {"development": "2025-01-01", "end_of_life": "2024-01-01"},
    ],
)
def test_days_are_in_order(days: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="in this order of days"):
        life(**days)


def test_two_phases_may_begin_on_one_day_and_the_later_one_is_meant() -> None:
    found = phase("2024-01-01", life(development="2024-01-01", maintained="2024-01-01"))
    assert found.status == "maintained"


def test_a_life_has_at_least_one_day() -> None:
    with pytest.raises(ValidationError, match="the first day of at least one phase"):
        life()


def test_descriptions() -> None:
    full = life(**FULL)
    assert phase("2023-01-01", full).describe() == "planned, development from 2024-01-01"
    assert phase("2024-08-01", full).describe() == "maintained since 2024-07-01, unmaintained from 2025-01-01"
    assert phase("2026-01-01", full).describe() == "end-of-life since 2025-04-01"


# A PyTorch version and a plugin release


def test_the_later_phase_of_the_two_wins() -> None:
    pytorch, release = (
        life(**FULL, rule="of PyTorch"),
        life(maintained="2024-02-01", end_of_life="2024-09-01", rule="own"),
    )
    found = phase("2024-03-01", pytorch, release)
    assert (found.status, found.since, found.rule) == ("maintained", date(2024, 2, 1), "own")
    found = phase("2024-09-01", pytorch, release)
    assert (found.status, found.since, found.rule) == ("end-of-life", date(2024, 9, 1), "own")
    # The other way round.
    found = phase("2025-01-01", pytorch, life(development="2024-02-01", rule="own"))
    assert (found.status, found.since, found.rule) == ("unmaintained", date(2025, 1, 1), "of PyTorch")


def test_where_both_are_in_a_phase_the_one_that_was_first_decides() -> None:
    pytorch = life(**FULL, rule="of PyTorch")
    found = phase("2024-08-01", pytorch, life(maintained="2024-02-01", rule="own"))
    assert (found.status, found.since, found.rule) == ("maintained", date(2024, 2, 1), "own")
    found = phase("2024-11-01", pytorch, life(maintained="2024-10-01", rule="own"))
    # Not before the line came out, though its PyTorch had been in that phase for months.
    assert (found.status, found.since, found.rule) == ("maintained", date(2024, 10, 1), "of PyTorch")


def test_a_line_is_not_out_before_its_release() -> None:
    release = life(maintained="2024-10-01", rule="own")
    for day in ("2023-01-01", "2024-03-01", "2024-09-30"):
        found = phase(day, life(**FULL), release)
        assert (found.status, found.since, found.rule) == ("planned", None, "own")
    assert phase("2024-10-01", life(**FULL), release).status == "maintained"


def test_a_planned_line_of_a_version_that_has_ended_ends_when_it_comes_out() -> None:
    found = phase("2026-01-01", life(**FULL), life(maintained="2027-01-01"))
    assert (found.status, found.following) == ("planned", ("end-of-life", date(2027, 1, 1)))


def test_what_follows_is_the_next_step_of_either() -> None:
    pytorch = life(maintained="2024-01-01", end_of_life="2025-06-01")
    assert phase("2024-03-01", pytorch, life(maintained="2024-02-01", end_of_life="2024-12-01")).following == (
        "end-of-life",
        date(2024, 12, 1),
    )
    assert phase("2024-03-01", pytorch, life(maintained="2024-02-01", end_of_life="2026-12-01")).following == (
        "end-of-life",
        date(2025, 6, 1),
    )


def test_what_follows_is_never_an_earlier_phase() -> None:
    """The plugin release comes to where its PyTorch version is already: nothing changes on that day."""
    pytorch = life(maintained="2024-01-01", end_of_life="2026-01-01")
    found = phase("2024-03-01", pytorch, life(development="2024-02-01", maintained="2024-08-01"))
    assert found.status == "maintained"
    assert found.following == ("end-of-life", date(2026, 1, 1))


def test_what_follows_for_a_planned_line_is_its_own_release() -> None:
    found = phase("2023-01-01", life(**FULL), life(maintained="2024-10-01"))
    assert (found.status, found.following) == ("planned", ("maintained", date(2024, 10, 1)))
    found = phase("2023-01-01", life(**FULL), life(development="2025-02-01"))
    assert (found.status, found.following) == ("planned", ("unmaintained", date(2025, 2, 1)))


# The shipped days


@pytest.mark.parametrize(
    ("branch", "day", "described"),
    [
        ("v2.6.0-7.1.0", "2025-07-24", "planned, development from 2025-07-25"),
        ("v2.6.0-7.1.0", "2026-01-24", "development since 2025-07-25, maintained from 2026-01-25"),
        ("v2.6.0-7.1.0", "2026-01-25", "maintained since 2026-01-25, end-of-life from 2027-01-25"),
        ("v2.6.0-7.1.0", "2027-01-25", "end-of-life since 2027-01-25"),
        ("v2.5.1-7.1.0", "2026-08-07", "maintained since 2025-07-25, end-of-life from 2026-08-08"),
        ("v2.5.1-7.1.0", "2026-08-08", "end-of-life since 2026-08-08"),
        # PyTorch 1.8.1 came out on 2022-04-10 and ended on 2023-04-10; the plugin release 3.0.0 is of 2023-01-18.
        ("v1.8.1-3.0.0", "2023-01-17", "planned, maintained from 2023-01-18"),
        ("v1.8.1-3.0.0", "2023-01-18", "maintained since 2023-01-18, end-of-life from 2023-04-10"),
        ("v1.8.1-3.0.0", "2023-04-10", "end-of-life since 2023-04-10"),
        # PyTorch 1.11.0 lived until 2025-10-25, the plugin release 5.0.rc1 ended before it.
        ("v1.11.0-5.0.rc1", "2024-04-18", "maintained since 2023-04-19, unmaintained from 2024-04-19"),
        ("v1.11.0-5.0.rc1", "2024-04-19", "unmaintained since 2024-04-19, end-of-life from 2024-07-19"),
        ("v1.11.0-5.0.rc1", "2024-07-19", "end-of-life since 2024-07-19"),
        ("2.0.3.tr5", "2021-10-14", "planned, maintained from 2021-10-15"),
        ("2.0.3.tr5", "2022-07-29", "end-of-life since 2022-07-29"),
        ("v2.7.1-7.2.0", "2026-10-15", "maintained since 2026-10-15"),
    ],
)
def test_lines_on_real_days(branch: str, day: str, described: str) -> None:
    assert line_on(branch, day).phase.describe() == described


def test_the_deciding_life_is_named() -> None:
    assert "SUPPORT.en.md of master" in line_on("v2.6.0-7.1.0", "2026-01-25").phase.source
    decided = line_on("v1.11.0-5.0.rc1", "2024-05-01").phase
    assert decided.source == "PyTorch Adapter README of the 5.0.rc3 era (003_df7a3adfeda4de6b)"


def test_a_line_only_ages() -> None:
    """On the first day of every phase of any life, each line is where it was the day before, or further."""
    lifecycle = load_matrix().documents["lifecycle"].data
    assert isinstance(lifecycle, dict)
    lives: list[Any] = [entry for table in lifecycle.values() if isinstance(table, dict) for entry in table.values()]
    days = sorted({date.fromisoformat(entry[key]) for entry in lives for key in FULL if entry.get(key)})
    assert len(days) > 30
    before: dict[str, int] = {}
    for day in days:
        now = {line.branch: STATUSES.index(line.status) for line in load_matrix(as_of=day).releases}
        assert all(now[branch] >= index for branch, index in before.items())
        before = now
    statuses = {line.status for line in load_matrix(as_of=days[-1] + DAY).releases}
    assert "planned" not in statuses
    assert "end-of-life" in statuses
