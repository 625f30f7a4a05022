"""In which order targets are built, and when the next one may start.

The first target of a release line on an architecture fills the compile cache for the others: it goes first, the
others wait for it as long as there is anything else to do. Among equals the longest goes first, so that the run
does not end with one long target alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from builder.matrix.model import Target

#: Bytes that a target takes beside its compilers: code generation, the linker, packing the wheel.
TARGET_MEMORY = 3 << 30
#: Seconds assumed for a target of which nothing is known, so that it goes before those known to be short.
UNKNOWN_SECONDS = 2 * 3600.0


@dataclass(frozen=True)
class Expectation:
    """What a target is expected to take: ``seconds`` of wall time, bytes of ``memory``, and bytes that it writes to
    ``disk``; None where unknown.
    """

    seconds: float | None = None
    memory: int | None = None
    disk: int | None = None


def warms(target: Target) -> tuple[str, str]:
    """What targets share compiled objects by: their release line and architecture."""
    return target.release.branch, target.arch


class Schedule:
    """The targets that are left. Not thread-safe: one thread asks and tells.

    ``free_memory`` says how many bytes the machine has to give at this moment.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        expected: Mapping[str, Expectation],
        *,
        free_memory: Callable[[], int],
    ) -> None:
        self._expected = expected
        self._free_memory = free_memory
        self._waiting = sorted(targets, key=lambda target: -self.seconds(target))
        self._running: list[Target] = []
        self._warm: set[tuple[str, str]] = set()

    def seconds(self, target: Target) -> float:
        """The expected wall time of a target."""
        known = self._expected.get(target.id, Expectation()).seconds
        return UNKNOWN_SECONDS if known is None else known

    @property
    def left(self) -> int:
        """How many targets have not been started."""
        return len(self._waiting)

    def next(self) -> Target | None:
        """The target to start now; None where nothing fits until a running one ends.

        With nothing running there is always one: a target that needs more memory than there is may still succeed,
        and its failure says what is missing.
        """
        for target in self._candidates():
            if not self._running or self._fits(target):
                self._waiting.remove(target)
                self._running.append(target)
                return target
        return None

    def done(self, target: Target) -> None:
        """A started target has ended; what it compiled is in the cache, also where it failed."""
        self._running.remove(target)
        self._warm.add(warms(target))

    def again(self, target: Target) -> None:
        """A started target has ended and is to be tried once more."""
        self._running.remove(target)
        self._waiting.insert(0, target)

    def _candidates(self) -> list[Target]:
        """Those that warm a cache first, then those whose cache is warm, last those that would compile it twice."""
        leading = {warms(target) for target in self._running}
        first: list[Target] = []
        second: list[Target] = []
        last: list[Target] = []
        for target in self._waiting:
            group = warms(target)
            if group in self._warm:
                second.append(target)
            elif group in leading:
                last.append(target)
            else:
                leading.add(group)
                first.append(target)
        return [*first, *second, *last]

    def _fits(self, target: Target) -> bool:
        needed = self._expected.get(target.id, Expectation()).memory or TARGET_MEMORY
        return self._free_memory() >= needed
