"""Pragmas of headers that forbid warnings, which gcc forgets in a precompiled header.

``#pragma GCC diagnostic`` says from which place to which a warning is not wanted. gcc does not write that into a
precompiled header (seen with 11.3 and 12.2): a template of the header, made into a function by the source, then warns
of what the plain compile leaves out. Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import os
import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*[mK]")
_WARNING = re.compile(r"^([^\s:][^:\n]*):\d+(?::\d+)?: warning: .*\[(-W[^\]\s]+)\]$", re.MULTILINE)
#: A name of a warning as pragmas have it; macros that become pragmas may take it as an argument.
_NAME = re.compile(r'"(-W[\w+=-]+)\\?"')
_PRAGMA = re.compile(r'^[ \t]*#[ \t]*pragma[ \t]+GCC[ \t]+diagnostic[ \t]+(\w+)(?:[ \t]+"(-W[^"]+)")?', re.MULTILINE)
#: What makes a file one of the system.
_SYSTEM = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+GCC[ \t]+system_header", re.MULTILINE)


class Forbidden:
    """Names of warnings that files forbid somewhere within them, and of those that they forbid for what follows."""

    def __init__(self, within: tuple[str, ...] = (), behind: tuple[str, ...] = ()) -> None:
        self.within = tuple(within)
        self.behind = tuple(behind)

    def add(self, text: str) -> bool:
        """Take in what a file says. True where it asks for warnings, or makes them errors: that is forgotten, too."""
        if "-W" not in text or _SYSTEM.search(text):
            return False
        behind = []
        depth = 0
        for kind, name in _PRAGMA.findall(text):
            if kind in ("warning", "error"):
                return True
            depth += {"push": 1, "pop": -1}.get(kind, 0)
            if kind == "ignored" and depth <= 0:
                behind.append(name)
        self.within = tuple(sorted({*self.within, *_NAME.findall(text)}))
        self.behind = tuple(sorted({*self.behind, *behind}))
        return False

    def in_messages(self, messages: str, cwd: str, paths: list[str]) -> bool:
        """True where the compiler may have given a warning that is forbidden; ``paths`` are the header's files."""
        if not self.within:
            return False
        inside = {os.path.normpath(os.path.join(cwd, path)) for path in paths}
        return any(
            _named(kind, self.behind)
            or (_named(kind, self.within) and os.path.normpath(os.path.join(cwd, path)) in inside)
            for path, kind in _WARNING.findall(_COLOURS.sub("", messages))
        )


def _named(kind: str, names: tuple[str, ...]) -> bool:
    """True where a warning is among ``names``; -Wformat and -Wformat=1 are one. Families forbid none but themselves."""
    return kind.partition("=")[0] in {name.partition("=")[0] for name in names}
