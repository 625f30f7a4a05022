"""Precompiled headers: how an environment is told of them, and what became of each compiled file.

The work is done inside the environment, by ``launcher/pch_compile.py``; its log is read here.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from builder.compilation.ccache import LARGEST_LOG
from builder.core.statistics import HeaderCounts
from builder.core.untrusted import UntrustedFolder

#: The log, beside the launcher's own, in the results folder of a build.
HEADERS_LOG = "headers.log"
#: Folder of the headers of one build below its results folder, and of what is remembered below the compile cache.
FOLDER = "headers"
KNOWN = "known-headers"
#: What may become of a file or a header, and groups of files that are counted.
_EVENTS = {"made", "refused", "used", "plain", "fallback"}
_GROUPS = 10_000
#: Different reasons that are kept of each kind.
_REASONS = 30


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
