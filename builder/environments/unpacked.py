"""The files of an unpacked PyTorch: noted when it is made, and compared before each use."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What a whole one consists of: its files, and what they were.
SITE, MANIFEST = "site", "manifest.json"


def damage(folder: Path) -> str | None:
    """What is wrong with an unpacked PyTorch; None for a whole one.

    Names, kinds, sizes and times of all files are compared with the manifest; a file that differs in these is read.
    """
    try:
        noted = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        found = dict(_walk(folder / SITE))
    except (OSError, ValueError, KeyError, TypeError):
        return "its manifest cannot be read"
    if missing := sorted(set(noted) - set(found)):
        return f"{missing[0]} is missing"
    if extra := sorted(set(found) - set(noted)):
        return f"{extra[0]} does not belong to it"
    for name, state in found.items():
        kind, size, time, content = noted[name]
        if [_kind(state), state.st_size, state.st_mtime_ns] == [kind, size, time]:
            continue
        if _kind(state) != kind or _content(folder / SITE / name, state) != content:
            return f"{name} has changed"
    return None


def manifest_of(site: Path) -> dict[str, list[Any]]:
    """Kind, size, time and content of every file and link below ``site``, by its name there."""
    return {
        name: [_kind(state), state.st_size, state.st_mtime_ns, _content(site / name, state)]
        for name, state in sorted(_walk(site))
    }


def _walk(site: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file and link below ``site`` by its name there; folders follow from them."""
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        with os.scandir(site / parent) as entries:
            for entry in entries:
                name = f"{parent}/{entry.name}" if parent else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                else:
                    yield name, entry.stat(follow_symlinks=False)


def _kind(state: os.stat_result) -> str:
    return "file" if stat.S_ISREG(state.st_mode) else "link" if stat.S_ISLNK(state.st_mode) else "other"


def _content(path: Path, state: os.stat_result) -> str:
    if stat.S_ISLNK(state.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(state.st_mode):
        return ""
    digest = hashlib.sha256()
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
