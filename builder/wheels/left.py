"""What a build left in its folders: found, and read, by descriptor.

A build owns those folders and may have put links, pipes or endless files there. No path is followed that it could have
bent, only regular files are taken, and every size is bounded.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

#: Entries of a folder that are looked at.
ENTRY_COUNT = 10_000
_CHUNK = 1 << 20


@contextmanager
def folder_inside(root: Path, name: str) -> Iterator[int]:
    """A descriptor of the folder ``name`` (relative) below ``root``, which the builder made.

    Raises OSError for anything that is not a folder all the way down.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for part in PurePosixPath(name).parts:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def regular_files(folder: int, suffix: str) -> list[str]:
    """Sorted names of the regular files in ``folder`` that end in ``suffix``.

    Raises OSError for a folder of more than ``ENTRY_COUNT`` entries.
    """
    found = []
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count == ENTRY_COUNT:
                raise OSError(errno.EFBIG, f"more than {ENTRY_COUNT} entries")
            if entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
                found.append(entry.name)
    return sorted(found)


def open_file(folder: int, name: str) -> BinaryIO:
    """Open the regular file ``name`` of ``folder`` for reading. Raises OSError for anything else."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", name)
    return open(descriptor, "rb")


def copy(source: BinaryIO, destination: BinaryIO, limit: int) -> int:
    """Copy all of ``source``; gives the number of bytes. Raises OSError (EFBIG) for more than ``limit``."""
    count = 0
    # Before a file that is nothing but a length fills a disk.
    if os.fstat(source.fileno()).st_size > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes")
    while chunk := source.read(_CHUNK):
        count += len(chunk)
        if count > limit:
            raise OSError(errno.EFBIG, f"more than {limit} bytes")
        destination.write(chunk)
    return count
