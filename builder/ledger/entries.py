"""What the ledger holds, checked on its way in and on its way out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from builder.core.redaction import without_credentials

#: What can become of a target.
Status = Literal["built", "rehearsed", "pulled", "skipped", "failed"]

#: What must not reach a terminal from a table; and halves of surrogate pairs, which no database takes.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(value: Any) -> Any:
    """Text without control characters, and URLs in it without ``user:password@``; any other value as it is."""
    if not isinstance(value, str):
        return value
    return without_credentials(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value))


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc).replace(microsecond=0)


def stamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, to the second: such texts sort as their times do. ``moment`` needs a time zone."""
    return None if moment is None else _utc(moment).isoformat()


Text = Annotated[str, BeforeValidator(clean)]
#: SQLite's integers have 64 bits.
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class PhaseEntry(_Row):
    """One phase of a target; ``peak_memory`` in bytes. What was not measured is None."""

    name: Text
    started: Moment | None = None
    seconds: Seconds
    cpu_seconds: Seconds | None = None
    peak_memory: Count | None = None


class Failure(_Row):
    """Why a target failed; ``kind`` is the value of a FailureKind, ``request`` or ``machine``."""

    kind: Text
    phase: Text | None = None
    message: Text


class CacheCounts(_Row):
    """How often the compile cache had an object file."""

    hits: Count
    misses: Count


class Entry(_Row):
    """What became of one target in one run: as in ``result.json``, with the run, and when the target was done.

    ``purpose`` is what the run was for (build, rehearse, pull), ``peak_memory`` and ``disk_growth`` are in
    bytes, ``log`` a path, ``attempts`` how often the target was begun in that run.
    """

    run: Text
    id: Text
    purpose: Text = "build"
    status: Status
    reason: Text
    finished: Moment
    fingerprint: Text | None = None
    wheel: Text | None = None
    sha256: Text | None = None
    phases: tuple[PhaseEntry, ...] = ()
    files_compiled: Count | None = None
    cache: CacheCounts | None = None
    peak_memory: Count | None = None
    disk_growth: Count | None = None
    attempts: Count = 1
    log: Text | None = None
    failure: Failure | None = None

    @property
    def seconds(self) -> float:
        """Wall time of all phases."""
        return sum(phase.seconds for phase in self.phases)

    def to_json(self) -> dict[str, Any]:
        """The entry for programs; times are RFC 3339."""
        return {**self.model_dump(mode="json"), "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class RunEntry:
    """A run: when it began, and its command line."""

    id: str
    started: datetime
    command: tuple[str, ...]
