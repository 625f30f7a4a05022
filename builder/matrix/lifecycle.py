"""In which phase of its life a release line is, on a given day.

Upstream speaks of phases for a PyTorch version (its later documents) and for a plugin release (its earlier
ones). A line follows both: it is in the later phase of the two, and not out before its plugin release is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from builder.matrix import patterns
from builder.matrix.base import Frozen, PyTorch, Sentence, wrong

Status = Literal["planned", "development", "maintained", "unmaintained", "end-of-life"]
#: From the beginning of a life to its end.
STATUSES: tuple[Status, ...] = get_args(Status)


class Lifecycle(Frozen):
    """The first day of each phase that is known. Before the first of them: planned."""

    development: date | None = Field(default=None, description="New features; wheels come out from this day on")
    maintained: date | None = Field(default=None, description="Bugs are fixed")
    unmaintained: date | None = Field(default=None, description="Nobody is in charge, no more releases")
    end_of_life: date | None = Field(default=None, description="The branches take no more changes")
    rule: Sentence = Field(description="Which of these days are stated, and by which rule the others follow")
    source: Sentence = Field(description="Where the days are from")

    @model_validator(mode="after")
    def _days_in_order(self) -> Lifecycle:
        days = [day for _, day in self.phases]
        if not days:
            raise wrong("the first day of at least one phase")
        if days != sorted(days):
            raise wrong("development, maintained, unmaintained and end_of_life in this order of days")
        return self

    @property
    def phases(self) -> tuple[tuple[Status, date], ...]:
        """Each known phase with its first day, in order."""
        days = (self.development, self.maintained, self.unmaintained, self.end_of_life)
        return tuple((status, day) for status, day in zip(STATUSES[1:], days, strict=True) if day is not None)

    def on(self, day: date) -> tuple[Status, date | None]:
        """The phase on ``day`` and its first day; ``planned`` has none."""
        reached = [(status, first) for status, first in self.phases if first <= day]
        return reached[-1] if reached else ("planned", None)

    def next_after(self, day: date) -> tuple[Status, date] | None:
        """The next phase after ``day``, where it is known."""
        return next(((status, first) for status, first in self.phases if first > day), None)


class LifecycleFile(Frozen):
    """``lifecycle.yaml``."""

    pytorch: Mapping[PyTorch, Lifecycle] = Field(description="For all release lines of a PyTorch version")
    releases: Mapping[Annotated[str, Field(pattern=patterns.RELEASE)], Lifecycle] = Field(
        default={}, description="For all release lines of a plugin release"
    )


@dataclass(frozen=True)
class Phase:
    """Where a release line stands on one day: its status, since when, what comes next, and who says so."""

    status: Status
    since: date | None
    following: tuple[Status, date] | None
    rule: str
    source: str

    def describe(self) -> str:
        """``end-of-life since 2026-08-08`` or ``maintained since 2026-01-25, end-of-life from 2027-01-25``."""
        text = f"{self.status} since {self.since}" if self.since else self.status
        return f"{text}, {self.following[0]} from {self.following[1]}" if self.following else text


def phase_on(day: date, pytorch: Lifecycle, release: Lifecycle | None) -> Phase:
    """The phase on ``day`` of a line that follows the life of its PyTorch and, where known, of its plugin release."""
    deciding, (status, since) = pytorch, pytorch.on(day)
    if release is not None:
        own, first = release.on(day)
        if own == "planned" or STATUSES.index(own) > STATUSES.index(status):
            deciding, status, since = release, own, first
    following = min(
        (step for life in (pytorch, release) if life and (step := life.next_after(day))),
        key=lambda step: step[1],
        default=None,
    )
    if following and STATUSES.index(following[0]) <= STATUSES.index(status):
        following = None
    return Phase(status, since, following, deciding.rule, deciding.source)
