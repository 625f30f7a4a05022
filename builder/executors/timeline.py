"""How a run spent its time: the chain of targets that decided when it ended, and how much of the machine lay idle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from builder.core.results import TargetResult
from builder.core.statistics import CriticalTarget, Schedule

#: A target that starts within this time of another's end waited for it.
_AT_ONCE = timedelta(seconds=2)


@dataclass(frozen=True)
class Span:
    """One target's place on the clock, and the seconds of its phases."""

    id: str
    start: datetime
    end: datetime
    phases: tuple[tuple[str, float], ...]

    @property
    def seconds(self) -> float:
        """Wall time from its first phase to its last."""
        return (self.end - self.start).total_seconds()

    @property
    def longest(self) -> tuple[str, float]:
        """Its longest phase, and that phase's seconds."""
        return max(self.phases, key=lambda phase: phase[1])


@dataclass(frozen=True)
class Timeline:
    """A run's targets in time.

    ``critical`` is the chain that ends with the last target to end; each link started when the one before it ended.
    ``seconds`` is wall time from the first phase to the last, ``cpu_seconds`` what the environments' commands took
    (None where nothing was measured), ``jobs`` how many compilers could run at once (None where machines
    shared the work), ``parallel`` how many targets did run at once.
    """

    critical: tuple[Span, ...]
    seconds: float
    cpu_seconds: float | None
    jobs: int | None
    parallel: int

    @property
    def tells(self) -> bool:
        """True where it helps a person: targets one after the other are their own critical path, and leave slots idle
        while anything but a compile goes on; so does whatever runs in a single slot.
        """
        return self.parallel > 1 and self.jobs != 1

    @property
    def idle(self) -> float | None:
        """The share of ``jobs`` cores that nothing of this run used, from 0 to 1."""
        if self.cpu_seconds is None or self.jobs is None or not self.seconds:
            return None
        return min(1.0, max(0.0, 1 - self.cpu_seconds / (self.seconds * self.jobs)))

    def describe(self) -> str:
        """One line for people."""
        chain = " -> ".join(
            f"{span.id} {span.seconds:.0f} s ({span.longest[0]} {span.longest[1]:.0f} s)" for span in self.critical
        )
        idle = "" if self.idle is None else f"{self.idle:.0%} of {self.jobs} compile slots idle; "
        return f"schedule: {self.seconds:.0f} s, {self.parallel} at once, {idle}critical path: {chain}"

    def schedule(self) -> Schedule:
        """Return what result.json says of it."""
        return Schedule(
            seconds=round(self.seconds, 3),
            cpu_seconds=None if self.cpu_seconds is None else round(self.cpu_seconds, 3),
            jobs=self.jobs,
            parallel=self.parallel,
            idle_share=None if self.idle is None else round(self.idle, 4),
            critical_path=tuple(
                CriticalTarget(
                    span.id, round(span.seconds, 3), {name: round(seconds, 3) for name, seconds in span.phases}
                )
                for span in self.critical
            ),
        )


def timeline(results: Sequence[TargetResult], *, jobs: int | None) -> Timeline | None:
    """The timeline of what ran; None where no target has begun a phase."""
    spans = [span for span in map(_span, results) if span is not None]
    if not spans:
        return None
    measured = [phase.cpu_seconds for result in results for phase in result.phases if phase.cpu_seconds is not None]
    began, ended = min(span.start for span in spans), max(span.end for span in spans)
    return Timeline(
        critical=_critical(spans),
        seconds=(ended - began).total_seconds(),
        cpu_seconds=sum(measured) if measured else None,
        jobs=jobs,
        parallel=max(sum(other.start <= span.start < other.end for other in spans) for span in spans) or 1,
    )


def _span(result: TargetResult) -> Span | None:
    phases = [(phase, phase.started) for phase in result.phases if phase.started is not None]
    if not phases:
        return None
    return Span(
        id=result.id,
        start=min(started for _, started in phases),
        end=max(started + timedelta(seconds=phase.seconds) for phase, started in phases),
        phases=tuple((phase.name, phase.seconds) for phase, _ in phases),
    )


def _critical(spans: Sequence[Span]) -> tuple[Span, ...]:
    """From the last to end backwards: whose end let it start, until one that waited for none."""
    chain = [max(spans, key=lambda span: span.end)]
    while True:
        first = chain[0]
        waited_for = [span for span in spans if span not in chain and first.start - _AT_ONCE <= span.end <= first.start]
        if not waited_for:
            return tuple(chain)
        chain.insert(0, max(waited_for, key=lambda span: span.end))
