"""What became of each compile of this build: one line each, written by the compiles, read by those that follow.

    used|plain|fallback|making|made|refused GROUP SOURCE CPU_SECONDS REASON

``used`` with a header, ``plain`` without one, ``fallback`` with one and then again without; ``made`` a header, or
``refused`` where it cannot serve. ``-`` stands for no group, no reason; spaces are written as ``%20``. Runs inside
environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import os

from pch_plan import Group

NAME = "headers.log"


class Journal:
    """The lines so far."""

    def __init__(self, path: str, compile_log: str | None) -> None:
        """``compile_log`` is the launcher's own: it also tells of files that the compile cache answered."""
        self._path = path
        self._lines = [fields for fields in (line.split() for line in _read(path)) if len(fields) == 5]
        results = (line.partition(" ") for line in _read(compile_log))
        self._answered = {source: result.startswith("hit") for result, _, source in results}

    @classmethod
    def of(cls, env: dict[str, str]) -> Journal:
        """The journal of a build, beside the launcher's own log or the folder of its headers."""
        compile_log = env.get("BUILDER_COMPILE_LOG") or None
        beside = compile_log or env["BUILDER_HEADERS"]
        return cls(os.path.join(os.path.dirname(beside), NAME), compile_log)

    def add(self, event: str, group: str, source: str, seconds: float, reason: str = "-") -> None:
        """Write a line. Raises OSError where that cannot be."""
        fields = [event, group, source.replace(" ", "%20"), f"{seconds:.2f}", reason.replace(" ", "%20") or "-"]
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # One write of a short line: lines of several compiles do not mix.
            os.write(handle, (" ".join(fields) + "\n").encode("utf-8", "surrogateescape"))
        finally:
            os.close(handle)
        self._lines.append(fields)

    def refused(self, group: Group) -> bool:
        """True where the group's header could not be made, or did not serve."""
        bad, good = len(self._of(group, "fallback")), len(self._of(group, "used"))
        # Killed, or out of some quota: the first time may have been an accident.
        unfinished = len(self._of(group, "making")) - len(self._of(group, "made"))
        return bool(self._of(group, "refused")) or unfinished >= 2 or (bad >= 3 and bad > good)

    def left(self, group: Group) -> int:
        """How many of the group's sources have not been compiled, nor been found in the cache."""
        done = {line[2].replace("%20", " ") for line in self._of(group, "used", "plain", "fallback")}
        return sum(1 for member in group.members if member not in done and member not in self._answered)

    def hits(self, group: Group) -> int:
        """How many of the group's sources the compile cache had."""
        return sum(1 for member in group.members if self._answered.get(member))

    def compiled(self, group: Group) -> int:
        """How many of the group's sources had to be compiled so far."""
        return len(self._of(group, "used", "plain", "fallback"))

    def made(self, group: Group) -> bool:
        """True where the group's header was made in this build."""
        return bool(self._of(group, "made"))

    def found_same(self, group: Group) -> bool:
        """True where an earlier compile found the group's headers to be the same as in a build before."""
        return any(line[4] == "same" for line in self._of(group, "plain"))

    def ratio(self, group: Group) -> float:
        """What the group's header costs, in what it saves for one file: measured in this build, or as planned."""
        mean = {}
        for event in ("plain", "used", "made"):
            seconds = [float(line[3]) for line in self._of(group, event)]
            # Files differ; a mean over a few says little.
            if len(seconds) < (1 if event == "made" else 5):
                return group.ratio
            mean[event] = sum(seconds) / len(seconds)
        saved = mean["plain"] - mean["used"]
        return mean["made"] / saved if saved > 0 else float("inf")

    def _of(self, group: Group, *events: str) -> list[list[str]]:
        return [line for line in self._lines if line[1] == group.key and line[0] in events]


def _read(path: str | None) -> list[str]:
    try:
        with open(path or "/nonexistent", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []
