"""In which phase of its life a release line is, on a given day.

Upstream speaks of phases for a PyTorch version (its later documents) and for a plugin release (its earlier
ones). A line follows both: it is in the later phase of the two, and not out before its plugin release is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from builder.matrix import patterns
from builder.matrix.base import Frozen, PyTorch, Sentence, wrong

Status = Literal["planned", "development", "maintained", "unmaintained", "end-of-life"]
#: From the beginning of a life to its end.
STATUSES: tuple[Status, ...] = get_args(Status)


def _day(value: object) -> object:
    """Refuses what pydantic takes for days besides ``2026-01-25``: numbers (seconds since 1970) and times of day."""
    if isinstance(value, date) or (isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value)):
        return value
    raise wrong('a day in quotes, such as "2026-01-25"')


Day = Annotated[date, BeforeValidator(_day)]


class Lifecycle(Frozen):
    """The first day of each phase that is known. Before the first of them: planned."""

    development: Day | None = Field(default=None, description="New features; wheels come out from this day on")
    maintained: Day | None = Field(default=None, description="Bugs are fixed")
    unmaintained: Day | None = Field(default=None, description="Nobody is in charge, no more releases")
    end_of_life: Day | None = Field(default=None, description="The branches take no more changes")
    rule: Sentence = Field(description="Which of these days are stated, and by which rule the others follow")
    source: Sentence = Field(description="Where the days are from")

    @model_validator(mode="after")
    def _days_in_order(self) -> "Lifecycle":
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
    deciding, (status, since) = _standing(day, pytorch, release)
    coming = sorted(first for life in (pytorch, release) if life for _, first in life.phases if first > day)
    changes = ((_standing(first, pytorch, release)[1][0], first) for first in coming)
    following = next(((later, first) for later, first in changes if later != status), None)
    return Phase(status, since, following, deciding.rule, deciding.source)


def _standing(day: date, pytorch: Lifecycle, release: Lifecycle | None) -> tuple[Lifecycle, tuple[Status, date | None]]:
    """The life that decides on ``day``, and the phase with its first day."""
    status, since = pytorch.on(day)
    if release is None:
        return pytorch, (status, since)
    own, first = release.on(day)
    later = STATUSES.index(own) - STATUSES.index(status)
    out = release.phases[0][1]
    if own == "planned" or later > 0 or (later == 0 and first and since and first < since):
        return release, (own, first if own == "planned" else max(first or out, out))
    # A line that came out when its PyTorch had long reached this phase has been in it since it came out.
    return pytorch, (status, max(since or out, out))
