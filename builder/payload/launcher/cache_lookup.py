"""What the compile cache answers, held against plain compiles: whatever way an object came into it.

Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress

import processes
from compile_command import CXX, Names, expanded, split, timestamp_of, value_of
from pch_plan import COMMANDS

#: Sources that the launcher takes for those of a project (see the file ``ccache``).
_SOURCES = (*CXX, ".c")
#: In the folder in which ninja builds, with each rule's dependency file.
NINJA = "build.ninja"


class Asked:
    """One compile as the build writes it; its results lie where the build has them."""

    def __init__(self, argv: list[str], cwd: str, source: str, names: Names) -> None:
        #: What make calls, without the launcher; and what the launcher would pass on.
        self.argv = argv
        self.plain = names.apply(argv, source)
        self.cwd = cwd
        self.source = source
        self.output = value_of(argv, "-o")
        self.depfile = value_of(argv, "-MF") or None


def read_all(folder: str, names: Names) -> list[Asked]:
    """Every compile of a build folder, those of C too. Raises OSError, ValueError."""
    with open(os.path.join(folder, COMMANDS), encoding="utf-8") as file:
        entries = json.load(file)
    found = []
    for entry in entries:
        source = entry["file"]
        argv = list(entry["arguments"]) if "arguments" in entry else split(entry["command"])
        while argv and os.path.basename(argv[0]) == "ccache":
            argv = argv[1:]
        argv = _with_dependencies(expanded(argv, entry["directory"], source), entry["directory"])
        if source.endswith(_SOURCES) and value_of(argv, "-o"):
            found.append(Asked(argv, entry["directory"], source, names))
    return found


def _with_dependencies(argv: list[str], folder: str) -> list[str]:
    """With the dependency file, as CMake's makefiles and ninja have it and ``compile_commands.json`` has not."""
    output = value_of(argv, "-o")
    writes = timestamp_of(argv, folder) is not None or os.path.exists(os.path.join(folder, NINJA))
    if "-MD" in argv or not writes:
        return argv
    at = argv.index("-o")
    return [*argv[:at], "-MD", "-MT", output, "-MF", output + ".d", *argv[at:]]


class Cache:
    """The launcher and the ccache behind it, which answer or say no; nothing is compiled, nothing stored."""

    def __init__(self, folder: str) -> None:
        """``folder`` is for logs."""
        self._launcher = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ccache")
        self._folder = folder

    def answer(self, asked: Asked) -> tuple[bool, str]:
        """Have the object put in its place; false where the cache has none. The messages are those it kept."""
        name = os.path.join(self._folder, f"asked.{os.getpid()}")
        # In the place of the compiler stands what compiles nothing.
        changed = {
            "CCACHE_PREFIX": "false",
            "BUILDER_COMPILE_LOG": name + ".log",
            "BUILDER_SLOTS": "0",
        }
        argv = ["env", "-u", "BUILDER_HEADERS", "-u", "BUILDER_STOP_AT_COMPILE"]
        argv += [f"{key}={value}" for key, value in changed.items()]
        with suppress(OSError):
            os.unlink(name + ".log")
        os.makedirs(os.path.dirname(os.path.join(asked.cwd, asked.output)), exist_ok=True)
        status, _, messages = said(
            lambda errors: processes.run([*argv, self._launcher, *asked.argv], asked.cwd, errors), name
        )
        try:
            with open(name + ".log", encoding="utf-8", errors="surrogateescape") as file:
                hit = file.read().startswith("hit-")
        except OSError:
            hit = False
        return hit and status == 0, messages


def said(run: Callable[[int], tuple[int, float]], name: str) -> tuple[int, float, str]:
    """What ``run`` returns, and what it wrote to the descriptor that it was given; ``name`` is a path for that."""
    path = name + ".errors"
    with open(path, "w+", encoding="utf-8", errors="surrogateescape") as file:
        status, seconds = run(file.fileno())
        file.seek(0)
        messages = file.read()
    os.unlink(path)
    return status, seconds, messages
