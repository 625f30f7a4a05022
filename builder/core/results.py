"""What became of a target and of a run: the objects behind ``result.json``."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from builder.core.errors import BuilderError, FailureKind, RequestError, TargetError
from builder.core.statistics import CacheUse, Generation, HeaderCounts, Schedule, read_json
from builder.core.workspace import atomic_json

if TYPE_CHECKING:
    from builder.core.statistics import JsonObject

#: Version of result.json (DESIGN section 4).
SCHEMA = 1
#: How many kinds of warnings a summary names.
WARNING_KINDS = 6


@dataclass
class Phase:
    """One step of a target: ``seconds`` of wall time, ``cpu_seconds`` of all processes where measured.

    ``peak_memory`` is in bytes, of the environment in that phase; ``disk_growth`` is by how many bytes the folders grew
    that it may write.
    """

    name: str
    seconds: float = 0.0
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    started: datetime | None = None
    disk_growth: int | None = None

    def measured(self, cpu_seconds: float | None, peak_memory: int | None, disk_growth: int | None) -> None:
        """Take in what an environment has measured."""
        self.cpu_seconds, self.peak_memory, self.disk_growth = cpu_seconds, peak_memory, disk_growth

    def to_json(self) -> JsonObject:
        """As in result.json; an unmeasured value is left out."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            **({} if self.cpu_seconds is None else {"cpu_seconds": round(self.cpu_seconds, 3)}),
            **({} if self.peak_memory is None else {"peak_memory": self.peak_memory}),
            **({} if self.disk_growth is None else {"disk_growth": self.disk_growth}),
            **({} if self.started is None else {"started": self.started.isoformat(timespec="milliseconds")}),
        }


@dataclass
class TargetResult:
    """The outcome of one target: ``status`` is built, rehearsed, pulled, skipped or failed.

    ``purpose`` is what its run was for: build, rehearse or pull.
    """

    id: str
    log: Path
    status: str = "failed"
    reason: str = ""
    fingerprint: str | None = None
    wheel: Path | None = None
    sha256: str | None = None
    phases: list[Phase] = field(default_factory=list)
    files_compiled: int | None = None
    cache: CacheUse | None = None
    headers: HeaderCounts | None = None
    generation: Generation | None = None
    #: How often compilers warned, by kind of warning; None where nothing was compiled.
    compiler_warnings: dict[str, int] | None = None
    warnings: list[str] = field(default_factory=list)
    error: BuilderError | None = None
    attempts: int = 1
    purpose: str = "build"

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Measure a phase; an error that leaves it learns its name and the log."""
        phase = Phase(name, started=datetime.now(timezone.utc))
        self.phases.append(phase)
        started = time.monotonic()
        try:
            yield phase
        except TargetError as error:
            error.phase = error.phase or name
            error.log = error.log or (self.log if self.log.exists() else None)
            raise
        finally:
            phase.seconds = time.monotonic() - started

    def again(self) -> None:
        """Forget what the last attempt left, before another one; its log stays."""
        self.attempts += 1
        self.status, self.reason, self.error = "failed", "", None
        self.phases, self.warnings = [], []
        self.fingerprint = self.wheel = self.sha256 = self.files_compiled = self.cache = self.headers = None
        self.generation = self.compiler_warnings = None

    @classmethod
    def from_json(cls, values: object, log: Path) -> TargetResult:
        """Read what ``to_json`` wrote, but for the wheel's place and the error, of which an entry says too little.

        Raises ValueError for anything else.
        """
        told = read_json(_Entry, values)
        result = cls(told.id, log, told.status, told.reason, told.fingerprint, None, told.sha256, list(told.phases))
        result.files_compiled, result.cache = told.files_compiled, told.cache
        result.headers = None if told.headers is None else HeaderCounts.from_json(told.headers)
        result.generation, result.compiler_warnings = told.generation, told.compiler_warnings
        result.warnings, result.attempts, result.purpose = list(told.warnings), told.attempts, told.purpose
        return result

    @property
    def peak_memory(self) -> int | None:
        """The most memory that a phase took, in bytes; None where none was measured."""
        return max((phase.peak_memory for phase in self.phases if phase.peak_memory is not None), default=None)

    @property
    def disk_growth(self) -> int | None:
        """The most that the folders of a build grew in a phase, in bytes; None where that was not measured."""
        return max((phase.disk_growth for phase in self.phases if phase.disk_growth is not None), default=None)

    @property
    def seconds(self) -> float:
        """Wall time of all phases."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def outcome(self) -> str:
        """``status`` as people are told it: what a run broke off is ``interrupted``, and no failure."""
        kind = getattr(self.error, "kind", None)
        return "interrupted" if kind is FailureKind.INTERRUPTED else self.status

    def fail(self, error: BuilderError) -> None:
        """Note why the target failed."""
        self.status = "failed"
        self.reason = error.message
        self.error = error

    def skip(self, reason: str) -> None:
        """Note that nothing was done, and why."""
        self.status = "skipped"
        self.reason = reason

    def to_json(self) -> JsonObject:
        """The target's entry in result.json."""
        entry: JsonObject = {
            "id": self.id,
            "purpose": self.purpose,
            "status": self.status,
            "reason": self.reason,
            "fingerprint": self.fingerprint,
            "wheel": None if self.wheel is None else self.wheel.name,
            "sha256": self.sha256,
            "phases": [phase.to_json() for phase in self.phases],
            "files_compiled": self.files_compiled,
            "cache": None if self.cache is None else self.cache.to_json(),
            **({} if self.headers is None else {"headers": self.headers.to_json()}),
            **({} if self.generation is None else {"generation": self.generation.to_json()}),
            **({} if self.compiler_warnings is None else {"compiler_warnings": dict(self.compiler_warnings)}),
            "attempts": self.attempts,
            "peak_memory": self.peak_memory,
            **({} if self.disk_growth is None else {"disk_growth": self.disk_growth}),
            "warnings": list(self.warnings),
            "log": str(self.log),
        }
        if self.error is not None:
            kind = getattr(self.error, "kind", None)
            if not isinstance(kind, FailureKind):
                kind = None
            entry["failure"] = {
                "kind": kind.value if kind else ("request" if isinstance(self.error, RequestError) else "machine"),
                "phase": getattr(self.error, "phase", None) or (self.phases[-1].name if self.phases else None),
                "message": self.error.message,
            }
        return entry


@dataclass(frozen=True)
class _Entry:
    """A target's entry in result.json, as far as it is read."""

    id: str
    status: str
    reason: str
    fingerprint: str | None
    sha256: str | None
    phases: tuple[Phase, ...]
    files_compiled: int | None
    cache: CacheUse | None
    warnings: tuple[str, ...]
    headers: dict[str, object] | None = None
    generation: Generation | None = None
    compiler_warnings: dict[str, int] | None = None
    attempts: int = 1
    purpose: str = "build"


class Run:
    """One invocation: its id, its folder, and a result file that is true at every moment."""

    def __init__(self, runs: Path, purpose: str = "build") -> None:
        self.purpose = purpose
        self.started = datetime.now(timezone.utc)
        self.id = f"{self.started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.folder = runs / self.id
        self.folder.mkdir(parents=True)
        self.targets: list[TargetResult] = []
        #: Compilers at once on this machine; None where others compile.
        self.jobs: int | None = None
        #: How the run spent its time, as in result.json; None until it ends.
        self.schedule: Schedule | None = None
        self._lock = threading.Lock()
        self._clock = time.monotonic()

    def target(self, identity: str) -> TargetResult:
        """A new entry for a target, with its log's place."""
        result = TargetResult(id=identity, log=self.folder / f"{identity}.log", purpose=self.purpose)
        self.targets.append(result)
        return result

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.monotonic() - self._clock

    def write(self) -> Path:
        """Write result.json as it stands now. Several threads may do so."""
        path = self.folder / "result.json"
        with self._lock:
            atomic_json(path, self.to_json())
        return path

    def to_json(self) -> JsonObject:
        """The content of result.json."""
        return {
            "schema": SCHEMA,
            "run": self.id,
            "purpose": self.purpose,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "targets": [target.to_json() for target in self.targets],
            **({} if self.schedule is None else {"schedule": self.schedule.to_json()}),
        }


def most_frequent(warnings: Mapping[str, int]) -> str:
    """Name the most frequent kinds of compiler warnings with their counts: ``67 deprecated-declarations, 3 other``."""
    kinds = sorted(warnings.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in kinds[WARNING_KINDS:])
    told = [f"{count} {kind}" for kind, count in kinds[:WARNING_KINDS]]
    return ", ".join([*told, f"{rest} of other kinds"] if rest else told)
