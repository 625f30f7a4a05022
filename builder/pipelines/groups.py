"""Which targets share a job of a hosted CI system, so that all jobs take about as long.

Targets of one release line and architecture share compiled objects: the first compiles, the others find nearly all of
it in the job's compile cache. They stay together, until their job would keep all the others waiting. A job runs on one
machine, so it has targets of one architecture.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from builder.core.errors import RequestError
from builder.executors.schedule import UNKNOWN_SECONDS, warms
from builder.ledger import Estimate, Estimates
from builder.matrix.base import ARCHITECTURES, Arch
from builder.matrix.model import Target
from builder.planning.planner import Planned

#: What taking targets of one line apart must save of the time of the longest job: each part compiles on its own.
WORTH = 0.1


@dataclass(frozen=True)
class Job:
    """Targets for one machine, in the order of the plan; ``seconds`` is the wall time that they should take in a row.

    ``name`` is unlike any other job's, of letters, digits and ``. _ - +``. ``cache`` says whose compiled objects the
    job mostly makes and needs: a release line and an architecture.
    """

    name: str
    cache: str
    arch: Arch
    targets: tuple[Target, ...]
    seconds: float

    @property
    def ids(self) -> str:
        """The targets as ``--target`` takes them."""
        return ",".join(target.id for target in self.targets)

    @property
    def minutes(self) -> int:
        """The expected wall time, rounded up."""
        return max(1, math.ceil(self.seconds / 60))


def group(planned: Sequence[Planned], estimates: Estimates, count: int) -> list[Job]:
    """What is to be built of ``planned`` in at most ``count`` jobs, the longest first; none where that is nothing.

    Fewer jobs come out where more would not end sooner. Durations are those of builds with an empty cache at the
    beginning of a job. Raises RequestError where ``count`` is less than one for each architecture.
    """
    wanted = [plan.target for plan in planned if plan.action == "build"]
    durations = _Durations(wanted, estimates)
    loads = [
        load
        for arch, share in _machines(wanted, durations, count).items()
        for load in _deal([target for target in wanted if target.arch == arch], durations, share)
    ]
    loads.sort(key=lambda load: (-load.seconds, load.cache))
    names = _names(loads)
    return [Job(next(names), load.cache, load.arch, load.targets, load.seconds) for load in loads]


def parse_runners(texts: Iterable[str]) -> dict[str, str]:
    """Values of ``--runner`` (``x86_64=big-machine``, or ``x86_64=self-hosted,big``) by architecture.

    Raises RequestError for an architecture that is none or stands twice, and for what cannot be a label.
    """
    found: dict[str, str] = {}
    for text in texts:
        arch, equals, label = (part.strip() for part in text.partition("="))
        if not equals or arch not in ARCHITECTURES:
            raise RequestError(
                f"--runner: {text!r}: expected an architecture ({' or '.join(ARCHITECTURES)}), = and a label",
                hint="such as --runner x86_64=ubuntu-24.04; commas separate the labels that one runner has",
            )
        if not all(part.strip() and part.isprintable() for part in label.split(",")):
            raise RequestError(
                f"--runner: {text!r}: {label!r} is no label of a runner",
                hint="labels are words; commas separate them",
            )
        if arch in found:
            raise RequestError(f"--runner names {arch} twice", hint="commas separate the labels that one runner has")
        found[arch] = label
    return found


def labels(arch: Arch, runners: Mapping[str, str], usual: Mapping[Arch, str]) -> list[str]:
    """The labels that a runner for ``arch`` must have: those of ``runners``, or the ``usual`` ones."""
    return [label.strip() for label in runners.get(arch, usual[arch]).split(",")]


class _Durations:
    """What targets should take, by the builds of the ledger."""

    def __init__(self, wanted: Sequence[Target], estimates: Estimates) -> None:
        self._place = {target.id: place for place, target in enumerate(wanted)}
        self._seconds: dict[str, tuple[float, float]] = {}
        for target in wanted:
            cold, warm = (_expected(estimates.of(target.id), warm=warm) for warm in (False, True))
            self._seconds[target.id] = cold, warm

    def of_line(self, targets: Sequence[Target]) -> float:
        """Seconds for targets of one line in one job: the first fills the compile cache, the others profit from it."""
        known = [self._seconds[target.id] for target in targets]
        return sum(warm for _, warm in known[1:]) + (known[0][0] if known else 0.0)

    def in_order(self, targets: Iterable[Target]) -> list[Target]:
        """In the order of the plan."""
        return sorted(targets, key=lambda target: self._place[target.id])


def _expected(estimate: Estimate | None, *, warm: bool) -> float:
    best = None if estimate is None else estimate.best(warm=warm)
    return UNKNOWN_SECONDS if best is None else best.seconds


class _Load:
    """What one job has been given so far."""

    def __init__(self, durations: _Durations) -> None:
        self._durations = durations
        self.lines: dict[tuple[str, str], list[Target]] = {}
        self.seconds = 0.0

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(self._durations.in_order(target for line in self.lines.values() for target in line))

    @property
    def arch(self) -> Arch:
        return self.targets[0].arch

    @property
    def cache(self) -> str:
        """The line that takes most of the job, the first in the plan among equals."""
        lines = [warms(target) for target in self.targets]
        main = max(lines, key=lambda line: self._durations.of_line(self.lines[line]))
        return "-".join(main)

    def seconds_with(self, part: Sequence[Target]) -> float:
        """What the job would take with these targets of one line too."""
        return self._seconds_of(warms(part[0]), self._with(part))

    def seconds_without(self, part: Sequence[Target]) -> float:
        """What the job would take without these targets of one line."""
        return self._seconds_of(warms(part[0]), self._without(part))

    def add(self, part: Sequence[Target]) -> None:
        self._put(warms(part[0]), self._with(part))

    def remove(self, part: Sequence[Target]) -> None:
        self._put(warms(part[0]), self._without(part))

    def _with(self, part: Sequence[Target]) -> list[Target]:
        return self._durations.in_order([*self.lines.get(warms(part[0]), ()), *part])

    def _without(self, part: Sequence[Target]) -> list[Target]:
        return [target for target in self.lines[warms(part[0])] if target not in part]

    def _put(self, line: tuple[str, str], targets: list[Target]) -> None:
        self.seconds = self._seconds_of(line, targets)
        self.lines[line] = targets
        if not targets:
            del self.lines[line]

    def _seconds_of(self, line: tuple[str, str], targets: Sequence[Target]) -> float:
        """The job's seconds with just ``targets`` of one line."""
        others = (held for name, held in self.lines.items() if name != line)
        return sum(map(self._durations.of_line, others)) + self._durations.of_line(targets)


def _machines(wanted: Sequence[Target], durations: _Durations, count: int) -> dict[Arch, int]:
    """How many of ``count`` jobs each architecture gets: the next one always goes where jobs are longest."""
    present = Counter(target.arch for target in wanted)
    if count < 1:
        raise RequestError(f"{count} jobs build nothing", hint="ask for one job or more")
    if count < len(present):
        raise RequestError(
            f"one job cannot have targets for {' and '.join(present)}: it runs on one architecture",
            hint=f"ask for {len(present)} jobs or more, or choose an architecture with --arch",
        )
    work = {
        arch: sum(map(durations.of_line, _lines(target for target in wanted if target.arch == arch)))
        for arch in ARCHITECTURES
        if arch in present
    }
    shares = dict.fromkeys(work, 1)
    for _ in range(count - len(shares)):
        more = [arch for arch in shares if shares[arch] < present[arch]]
        if not more:
            break
        shares[max(more, key=lambda arch: work[arch] / shares[arch])] += 1
    return shares


def _deal(targets: Sequence[Target], durations: _Durations, count: int) -> list[_Load]:
    """Targets of one architecture in at most ``count`` loads.

    Whole lines first, the longest of them to the shortest load. Then what ends last gives to the others: a line that is
    longer than an even share is taken apart in this way too.
    """
    loads = [_Load(durations) for _ in range(count)]
    for line in sorted(_lines(targets), key=durations.of_line, reverse=True):
        min(loads, key=lambda load: load.seconds).add(line)
    while _relieve(loads):
        pass
    return [load for load in loads if load.lines]


def _lines(targets: Iterable[Target]) -> list[list[Target]]:
    """Targets by what they share compiled objects with."""
    found: dict[tuple[str, str], list[Target]] = {}
    for target in targets:
        found.setdefault(warms(target), []).append(target)
    return list(found.values())


def _relieve(loads: Sequence[_Load]) -> bool:
    """Move targets of one line from the longest load to another where that is worth it; False where nothing is."""
    longest = max(loads, key=lambda load: load.seconds)
    best = longest.seconds * (1 - WORTH)
    move: tuple[list[Target], _Load] | None = None
    for line in longest.lines.values():
        # Whole lines first: among equals nothing is taken apart.
        for part in (line[first:] for first in range(len(line))):
            left = longest.seconds_without(part)
            for other in loads:
                if other is longest or left >= best:
                    continue
                after = max(left, other.seconds_with(part))
                if after < best:
                    best, move = after, (part, other)
    if move is None:
        return False
    part, other = move
    longest.remove(part)
    other.add(part)
    return True


def _names(loads: Iterable[_Load]) -> Iterator[str]:
    """A name for each load: its only target, or its main line and how many more; numbered where that is taken."""
    taken: set[str] = set()
    for load in loads:
        more = len(load.lines) - 1
        plain = load.targets[0].id if len(load.targets) == 1 else load.cache + (f"+{more}" if more else "")
        numbered = (f"{plain}_{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([plain], numbered) if name not in taken)
        taken.add(name)
        yield name
