"""The CANN toolkit that a build compiles against, as a part of its inputs."""

from __future__ import annotations

import hashlib
import os
import stat
from functools import lru_cache
from pathlib import Path

from builder.core.digests import sha256_of
from builder.core.errors import MachineError


def describe_cann(folder: Path) -> dict[str, str]:
    """What a toolkit is, for fingerprint and record: its place, and a digest over all of its files and links.

    ``shown`` tells its builds from those that saw it at a fixed path alone, where its scripts may have found nothing.
    Files are read again only after one of them has changed: a toolkit has gigabytes, and a plan asks for each target.
    Raises MachineError where one cannot be read.
    """
    try:
        return {"folder": str(folder), "digest": _digest(folder, _files(folder)), "shown": "own path"}
    except OSError as error:
        raise MachineError(
            f"--cann-home: {error.filename or folder} cannot be read: {error.strerror or error}",
            hint="make the toolkit readable for the user who builds",
        ) from error


def _files(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Each file and link with what tells that it was changed: its mode, size (bytes) and time (nanoseconds)."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in sorted([*files, *links]):
            path = os.path.join(parent, name)
            state = os.lstat(path)
            found.append((os.path.relpath(path, folder), state.st_mode, state.st_size, state.st_ctime_ns))
    return tuple(found)


@lru_cache(maxsize=4)
def _digest(folder: Path, files: tuple[tuple[str, int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, mode, _, _ in files:
        content = ""
        if stat.S_ISLNK(mode):
            content = os.readlink(folder / name)
        elif stat.S_ISREG(mode):
            content = sha256_of(folder / name)
        digest.update(f"{name}\0{stat.S_IFMT(mode):o}\0{content}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
