"""The entries of the ledger, validated when written and when read."""

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
    """Return text without control characters and without ``user:password@`` in URLs; other values unchanged."""
    if not isinstance(value, str):
        return value
    return without_credentials(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value))


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc).replace(microsecond=0)


def stamp(moment: datetime | None) -> str | None:
    """Format a moment as RFC 3339 in UTC, to the second, which sorts by time. It needs a time zone."""
    return None if moment is None else _utc(moment).isoformat()


Text = Annotated[str, BeforeValidator(clean)]
#: SQLite's integers have 64 bits.
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class PhaseEntry(_Row):
    """One phase of a target; ``peak_memory`` is in bytes. None means not measured."""

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
    """Hits and misses of the compile cache."""

    hits: Count
    misses: Count


class Entry(_Row):
    """The result of one target in one run: as in ``result.json``, with the run and the time it finished.

    ``purpose`` is the kind of run (build, rehearse, pull), ``peak_memory`` and ``disk_growth`` are in bytes, ``log``
    is a path, ``attempts`` the number of times that the run began the target.
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
        """Return the entry as JSON values; times are RFC 3339."""
        return {**self.model_dump(mode="json"), "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class RunEntry:
    """A run: its start and its command line."""

    id: str
    started: datetime
    command: tuple[str, ...]
