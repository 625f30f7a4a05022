"""How far a build is trusted: which caches it may read, and into which it writes.

A build runs the code of its sources, and can put anything into the compile cache that it writes. So each level has
caches of its own; a build reads those of its own level and of higher ones, and writes those of its own alone. What is
released never holds an object that a pull request or somebody's overlay has left.
"""

from __future__ import annotations

from enum import Enum


class Trust(Enum):
    """A level of trust, the highest first.

    ``RELEASE``: a release line as upstream has it. ``NIGHTLY``: a development branch, or a night's build. ``UNKNOWN``:
    sources that somebody has chosen, such as a pull request, an overlay, patches, or changes made by hand.
    """

    RELEASE = "release"
    NIGHTLY = "nightly"
    UNKNOWN = "unknown"

    @property
    def higher(self) -> tuple[Trust, ...]:
        """The levels above it, the highest first."""
        levels = tuple(Trust)
        return levels[: levels.index(self)]

    def at_most(self, other: Trust) -> Trust:
        """The lower one of two levels."""
        levels = tuple(Trust)
        return max(self, other, key=levels.index)
