"""Estimates of the next build of a target, from the durations of earlier ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

#: How many of the last builds an estimate is learnt from.
SAMPLES = 5

#: Whose builds: the target's own, those of its release line and architecture, or all of its architecture.
Basis = Literal["target", "line", "arch"]


@dataclass(frozen=True)
class Sample:
    """A target that was built: seconds by phase, peak memory in bytes, and by how many bytes its folders grew.

    ``warm`` means that most object files came from the compile cache.
    """

    target: str
    warm: bool
    phases: Mapping[str, float]
    peak_memory: int | None = None
    disk_growth: int | None = None


@dataclass(frozen=True)
class Expected:
    """The expectation from ``samples`` builds: medians in seconds, and the highest peak memory and growth in bytes.

    The median of a phase is over the builds that had it, so phases need not add up to ``seconds``.
    """

    seconds: float
    phases: Mapping[str, float]
    peak_memory: int | None
    samples: int
    basis: Basis
    disk_growth: int | None = None


@dataclass(frozen=True)
class Estimate:
    """The expectation for a target with a warm compile cache, and with a cold one; None if there is no such build."""

    cold: Expected | None
    warm: Expected | None

    def best(self, *, warm: bool) -> Expected | None:
        """Return the expectation for that state of the cache, or else for the other."""
        return (self.warm or self.cold) if warm else (self.cold or self.warm)

    @property
    def disk_growth(self) -> int | None:
        """The most bytes that a build's folders grew, in either state of the cache; None if unknown."""
        known = [each.disk_growth for each in (self.cold, self.warm) if each and each.disk_growth is not None]
        return max(known, default=None)


class Estimates:
    """Estimates by target, computed from the builds in a ledger."""

    def __init__(self, newest_first: Iterable[Sample] = ()) -> None:
        self._samples: dict[tuple[Basis, str, bool], list[Sample]] = defaultdict(list)
        for sample in newest_first:
            for basis, name in _kin(sample.target).items():
                known = self._samples[basis, name, sample.warm]
                if len(known) < SAMPLES:
                    known.append(sample)

    def of(self, target: str) -> Estimate | None:
        """Estimate the target with this id; None if nothing of its architecture was ever built."""
        cold, warm = (self._expected(target, warm) for warm in (False, True))
        return Estimate(cold, warm) if cold or warm else None

    def _expected(self, target: str, warm: bool) -> Expected | None:
        for basis, name in _kin(target).items():
            samples = self._samples.get((basis, name, warm))
            if samples:
                phases = dict.fromkeys(phase for sample in samples for phase in sample.phases)
                return Expected(
                    seconds=median(sum(sample.phases.values()) for sample in samples),
                    phases={
                        phase: median(sample.phases[phase] for sample in samples if phase in sample.phases)
                        for phase in phases
                    },
                    peak_memory=max((s.peak_memory for s in samples if s.peak_memory is not None), default=None),
                    samples=len(samples),
                    basis=basis,
                    disk_growth=max((s.disk_growth for s in samples if s.disk_growth is not None), default=None),
                )
        return None


def _kin(target: str) -> dict[Basis, str]:
    """Return the groups of builds to estimate a target from, the closest first.

    A target's id is ``<release line>-py<Python>-<architecture>``.
    """
    line, _, cell = target.rpartition("-py")
    arch = cell.rpartition("-")[2]
    return {"target": target, "line": f"{line} {arch}", "arch": arch}
