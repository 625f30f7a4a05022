"""What a generation depends on.

- Every file of the tree: its name, and its content. Of files that generators seldom read (C++, Python and texts outside
  of the generators' own folders) the content counts only where the generation was seen to read them (``tree``).
- torchgen, and which PyTorch: generators ask it how operators are registered. PyYAML, which writes some of the files.
- Compilers and binutils, by their content: stub libraries are built on the way.
- Variables, arguments, and where the tree and torchgen stand: generated comments say so.
- How this Python hashes strings, for the order of sets shows in files; nothing else of Python does. Where the builder
  has patched the generators so that it does not show either, it says so, and all Pythons have one key.

What changes every night is left out: the commit, its time, and the local part of a version (``+git...``). A generation
that writes one of them into a file is not kept (``forbidden``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .tree import digest, scan, seldom_read

SCHEMA = 1
#: Set to "fixed" by the builder where no order of a set shows in a generated file.
ORDER = "BUILDER_CODEGEN_ORDER"

#: Variables that reach no generated file: places of tools and of the user, and what steers other parts of a build.
NEUTRAL = re.compile(
    r"PATH|HOME|PWD|OLDPWD|SHLVL|_|HOSTNAME|TMPDIR|USER|LOGNAME|TERM|MAX_JOBS|SOURCE_DATE_EPOCH|AUDITWHEEL_PLAT"
    r"|(?:BUILDER|CCACHE|CMAKE|GIT)_.*"
)
COMPILERS = ("gcc", "g++", "cc", "c++", "as", "ld", "ar")
#: What a compiler runs that is not on PATH.
COMPILER_PARTS = ("cc1", "cc1plus", "collect2")


def inputs(root: Path, arguments: Sequence[str], held: dict[str, str]) -> dict[str, Any]:
    """Everything that a generation depends on, but for the content of files that are seldom read."""
    variables = {name: value for name, value in os.environ.items() if NEUTRAL.fullmatch(name) is None}
    order = sys.hash_info.algorithm
    if os.environ.get(ORDER) == "fixed":
        variables.pop("PYTHONHASHSEED", None)
        order = "fixed"
    return {
        "schema": SCHEMA,
        "place": str(root),
        "arguments": [plain(argument) for argument in arguments],
        "variables": variables,
        "order": order,
        "files": {path: value.split(" ")[0] if seldom_read(path) else value for path, value in held.items()},
        "torchgen": package("torchgen", place=True),
        "torch": package("torch", only="version.py"),
        "yaml": package("yaml"),
        "tools": tools(),
    }


def key_of(described: dict[str, Any]) -> str:
    """SHA-256 over ``inputs``."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def plain(argument: str) -> str:
    """An argument as the key has it: not which Python it is, and not the local part of a version."""
    if os.path.basename(argument).startswith("python") and os.access(argument, os.X_OK):
        return "python"
    return argument.split("+", 1)[0]


def forbidden(root: Path, arguments: Sequence[str]) -> list[str]:
    """Texts that are no part of the key and so must not show in a generated file."""
    found = [argument.split("+", 1)[1] for argument in arguments if "+" in argument and "/" not in argument]
    found.append(os.environ.get("SOURCE_DATE_EPOCH", ""))
    if shutil.which("git") is not None:
        command = ["git", "rev-parse", "--short=7", "HEAD"]
        said = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
        found.append(said.decode(errors="replace").strip())
    return [text for text in found if text]


def package(name: str, *, place: bool = False, only: str = "") -> dict[str, str]:
    """The files of an importable package and their digests, found without importing it; nothing where it is absent."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return {}
    folder = Path(os.path.realpath(next(iter(spec.submodule_search_locations))))
    found = {"place": str(folder)} if place else {}
    if only:
        found[only] = digest(folder / only) if (folder / only).is_file() else "absent"
        return found
    for path, item in scan(folder).items():
        # Compiled modules differ between Pythons; what they do does not.
        if item.kind == "file" and not path.endswith(".so"):
            found[path] = digest(folder / path)
    return found


def tools() -> dict[str, str]:
    """The machine, its C library, and each compiler with the programs that it runs, by their content."""
    found = {"machine": platform.machine(), "libc": os.confstr("CS_GNU_LIBC_VERSION") or ""}
    places = {name: shutil.which(name) for name in COMPILERS}
    if places["gcc"] is not None:
        for name in COMPILER_PARTS:
            command = ["gcc", f"-print-prog-name={name}"]
            said = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
            places[name] = shutil.which(os.fsdecode(said).strip())
    # Old scripts run `python3`, whichever that is.
    other = shutil.which("python3")
    if other is not None and os.path.realpath(other) != os.path.realpath(sys.executable):
        places["python3"] = other
    for name, place in places.items():
        if place is not None:
            found[name] = digest(Path(os.path.realpath(place)))
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two inputs, for people."""
    found: list[str] = []
    for part in sorted({*old, *new}):
        before, after = old.get(part), new.get(part)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
            found += names if part == "files" else [f"{part} {name}" for name in names]
        else:
            found.append(part)
    return found
