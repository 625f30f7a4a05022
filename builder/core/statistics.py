"""What is counted of a target and of a run, as it stands in result.json and in a wheel's record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import JsonValue

    JsonObject = dict[str, JsonValue]

T = TypeVar("T")

#: Reasons for a plain compile that are no news.
_USUAL = {"no-group", "few-left", "same", "being-made", "source-changed", "not-a-compile"}


@dataclass(frozen=True)
class CacheUse:
    """What the compile cache did in one build.

    ``hits`` are ``direct`` or ``preprocessed``; ``uncached`` files were compiled without asking the cache, of
    ``unknown`` ones it is not known what it did. ``size`` and ``limit`` are the bytes that the cache takes and may take
    (0: without limit), None where that is not known.
    """

    hits: int
    misses: int
    direct: int = 0
    preprocessed: int = 0
    uncached: int = 0
    unknown: int = 0
    failed: int = 0
    size: int | None = None
    limit: int | None = None

    def to_json(self) -> JsonObject:
        """As in result.json; what is not known is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: object) -> CacheUse:
        """Read what ``to_json`` wrote. Raises ValueError for anything else."""
        return read_json(cls, values)


@dataclass(frozen=True)
class HeaderCounts:
    """What precompiled headers did in one build. Times are CPU seconds, those of the compiler only.

    ``plain`` are files that were compiled without a header, for ``reasons``; ``fallbacks`` those compiled again without
    one, because the compile with the header failed, gcc refused the header, a file of it had changed, or the compiler
    warned of what the header forbids to warn of.
    """

    groups: int = 0
    made: int = 0
    refused: Mapping[str, int] | None = None
    used: int = 0
    plain: int = 0
    reasons: Mapping[str, int] | None = None
    fallbacks: Mapping[str, int] | None = None
    header_seconds: float = 0.0
    used_seconds: float = 0.0
    plain_seconds: float = 0.0
    fallback_seconds: float = 0.0

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all compilers."""
        return self.header_seconds + self.used_seconds + self.plain_seconds + self.fallback_seconds

    def summary(self) -> str:
        """One phrase for people; empty where nothing was compiled."""
        fallen = sum((self.fallbacks or {}).values())
        if not self.made and not fallen:
            # Sources that share too little to gain anything are nothing to tell of.
            odd = {why for why in self.reasons or {} if why not in _USUAL and not why.startswith("option:")}
            odd |= set(self.refused or {})
            return (
                f"no precompiled header, {self.plain} files compiled plainly: {', '.join(sorted(odd))}" if odd else ""
            )
        again = f", {fallen} compiled again without" if fallen else ""
        return f"{self.made} precompiled headers for {self.used} of {self.used + self.plain + fallen} files{again}"

    def to_json(self) -> JsonObject:
        """For a wheel's record and for result.json."""
        return {
            "groups": self.groups,
            "made": self.made,
            "refused": dict(self.refused or {}),
            "used": self.used,
            "plain": self.plain,
            "plain_reasons": dict(self.reasons or {}),
            "fallbacks": dict(self.fallbacks or {}),
            "cpu_seconds": {
                "headers": round(self.header_seconds, 2),
                "used": round(self.used_seconds, 2),
                "plain": round(self.plain_seconds, 2),
                "fallbacks": round(self.fallback_seconds, 2),
            },
        }

    @classmethod
    def from_json(cls, values: object) -> HeaderCounts:
        """Read what ``to_json`` wrote. Raises ValueError for anything else."""
        told = read_json(_Headers, values)
        return cls(
            groups=told.groups,
            made=told.made,
            refused=told.refused,
            used=told.used,
            plain=told.plain,
            reasons=told.plain_reasons,
            fallbacks=told.fallbacks,
            header_seconds=told.cpu_seconds.headers,
            used_seconds=told.cpu_seconds.used,
            plain_seconds=told.cpu_seconds.plain,
            fallback_seconds=told.cpu_seconds.fallbacks,
        )


@dataclass(frozen=True)
class Generation:
    """What became of a code generation.

    ``result`` is ``hit``, ``miss``, ``failed``, or, where generations are checked, ``same`` or ``differs``; ``key`` is
    that of the inputs, ``because`` are the inputs that no entry had, ``not_kept`` is why a new result is no entry,
    ``seconds`` what the generation took, or 0 where it did not run.
    """

    result: str
    key: str = ""
    because: tuple[str, ...] = ()
    not_kept: str = ""
    differs: tuple[str, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def to_json(self) -> JsonObject:
        """As in result.json: what there is to say."""
        values = {**asdict(self), "because": list(self.because), "differs": list(self.differs)}
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_json(cls, values: object) -> Generation:
        """Read what ``to_json`` wrote. Raises ValueError for anything else."""
        return read_json(cls, values)


@dataclass(frozen=True)
class CriticalTarget:
    """A target of a run's critical path: its wall time and that of its phases, in seconds."""

    target: str
    seconds: float
    phases: Mapping[str, float]


@dataclass(frozen=True)
class Schedule:
    """How a run spent its time: wall and CPU seconds, compilers and targets at once, the share of slots that lay idle.

    ``critical_path`` is the chain of targets that decided when the run ended; None is what was not measured.
    """

    seconds: float
    cpu_seconds: float | None
    jobs: int | None
    parallel: int
    idle_share: float | None
    critical_path: tuple[CriticalTarget, ...]

    def to_json(self) -> JsonObject:
        """The ``schedule`` of result.json."""
        return {**asdict(self), "critical_path": [asdict(each) for each in self.critical_path]}

    @classmethod
    def from_json(cls, values: object) -> Schedule:
        """Read what ``to_json`` wrote. Raises ValueError for anything else."""
        return read_json(cls, values)


@dataclass(frozen=True)
class _HeaderSeconds:
    headers: float
    used: float
    plain: float
    fallbacks: float


@dataclass(frozen=True)
class _Headers:
    groups: int
    made: int
    refused: dict[str, int]
    used: int
    plain: int
    plain_reasons: dict[str, int]
    fallbacks: dict[str, int]
    cpu_seconds: _HeaderSeconds


def read_json(kind: type[T], values: object) -> T:
    """Make a dataclass of JSON; unknown names are passed over. Raises ValueError for other types."""
    # A dataclass can be hashed; mypy is not sure of any type.
    found: T = _adapter(kind).validate_python(values)  # type: ignore[arg-type]
    return found


@lru_cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
