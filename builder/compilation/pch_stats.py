"""Precompiled headers: how an environment is told of them, and what became of each compiled file.

The work is done inside the environment, by ``launcher/pch_compile.py``; its log is read here.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.compilation.ccache import LARGEST_LOG
from builder.core.untrusted import UntrustedFolder

#: The log, beside the launcher's own, in the results folder of a build.
HEADERS_LOG = "headers.log"
#: Folder of the headers of one build below its results folder, and of what is remembered below the compile cache.
FOLDER = "headers"
KNOWN = "known-headers"
#: Reasons for a plain compile that are no news.
_USUAL = {"no-group", "few-left", "same", "being-made", "source-changed", "not-a-compile"}
#: What may become of a file or a header, and groups of files that are counted.
_EVENTS = {"made", "refused", "used", "plain", "fallback"}
_GROUPS = 10_000
#: Different reasons that are kept of each kind.
_REASONS = 30


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

    def to_json(self) -> dict[str, Any]:
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


def environment(*, out: str, cache: str) -> Mapping[str, str]:
    """Variables that make compiles use precompiled headers; paths are those inside the environment.

    ``cache`` is the compile cache of the toolchain and release line: what is remembered of headers belongs to it.
    Without these variables there are no headers.
    """
    return {"BUILDER_HEADERS": f"{out}/{FOLDER}", "BUILDER_HEADERS_KNOWN": f"{cache}/{KNOWN}"}


def read_counts(folder: Path, name: str = HEADERS_LOG) -> HeaderCounts:
    """Count the lines of the log ``name`` below ``folder``. A missing file means that no header had a part in it.

    Lines that are not of the launcher are passed over: a build can write to that folder.
    """
    events: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    reasons: dict[str, Counter[str]] = {"plain": Counter(), "fallback": Counter(), "refused": Counter()}
    groups: set[str] = set()
    try:
        with UntrustedFolder(folder) as opened:
            for line in opened.lines(name, LARGEST_LOG):
                fields = line.split()
                if len(fields) != 5 or (took := _seconds(fields[3])) is None:
                    continue
                event, group, _, _, reason = fields
                if event not in _EVENTS:
                    continue
                events[event] += 1
                seconds[event] += took
                if group != "-" and len(groups) < _GROUPS:
                    groups.add(group)
                if event in reasons and reason != "-" and len(reasons[event]) < _REASONS:
                    reasons[event][reason.replace("%20", " ")[:200]] += 1
    except OSError:
        return HeaderCounts()
    return HeaderCounts(
        groups=len(groups),
        made=events["made"],
        refused=reasons["refused"],
        used=events["used"],
        plain=events["plain"],
        reasons=reasons["plain"],
        fallbacks=reasons["fallback"],
        header_seconds=seconds["made"] + seconds["refused"],
        used_seconds=seconds["used"],
        plain_seconds=seconds["plain"],
        fallback_seconds=seconds["fallback"],
    )


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
