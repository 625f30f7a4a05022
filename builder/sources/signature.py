"""Whether a folder is as it was when it was last read, told without reading its files.

The signature of a folder is made of what the file system says of each file: kind, permissions, size, inode, and the
times of change of its content and of the file itself. Nobody sets the last of these by hand: an edit that keeps size
and time (``cp -p``, ``touch -r``, ``rsync -t``) moves it all the same. Where one of them differs nothing is known, and
the files have to be read; so a copy of a workspace is read once more, and a folder with edits each time.

A file that is written twice within one tick of the clock may keep its times, and one that is written through a memory
map keeps them until the system writes it out. So a signature is worth keeping only where every file had been at rest
for a while, by the file system's own clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.core.untrusted import read_regular
from builder.core.workspace import atomic_write
from builder.sources.manifest import walk

#: Nanoseconds that files must have been at rest. Linux writes memory maps out after half of that.
REST = 60_000_000_000
#: Bytes of the largest note.
_LARGEST = 1 << 16


@dataclass(frozen=True)
class Signature:
    """``digest`` is over all files; ``settled`` says that all of them were at rest when it was taken."""

    digest: str
    settled: bool


def sign(root: Path, scratch: Path) -> Signature | None:
    """The signature of ``root`` as it is now, its repository left out; None for one that changes meanwhile.

    ``scratch`` is a folder of the same file system, which is asked for the time.
    """
    # Before any file is looked at: whatever is written from now on gets a later time than all that is at rest.
    now = _clock(scratch)
    digest = hashlib.sha256()
    youngest = 0
    try:
        for path, entry in walk(root):
            found = entry.stat(follow_symlinks=False) if entry is not None else os.lstat(root / path)
            youngest = max(youngest, found.st_mtime_ns, found.st_ctime_ns)
            numbers = (found.st_mode, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
            digest.update(f"{path}\0{numbers}\n".encode("utf-8", "surrogateescape"))
    except OSError:
        return None
    return Signature(digest.hexdigest(), now - youngest > REST)


def _clock(folder: Path) -> int:
    """The time by the file system of ``folder``, in nanoseconds since 1970; 0 where it cannot be written."""
    probe = folder / f".clock-{secrets.token_hex(4)}"
    try:
        probe.touch()
        return os.stat(probe).st_mtime_ns
    except OSError:
        return 0
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def matches(file: Path, signature: Signature | None, content: str) -> bool:
    """True where ``remember`` has written to ``file`` that ``content`` had this signature."""
    try:
        written = json.loads(read_regular(file, _LARGEST))
        return signature is not None and written == {"signature": signature.digest, "content": content}
    except (OSError, ValueError, RecursionError):
        return False


def remember(file: Path, signature: Signature | None, content: str) -> None:
    """Write that the folder, when it was read after ``signature`` was taken, had ``content`` (a digest of it).

    Where that cannot be relied on, or ``file`` cannot be written, nothing is: this saves time, no more.
    """
    if signature is not None and signature.settled:
        with suppress(OSError):
            atomic_write(file, json.dumps({"signature": signature.digest, "content": content}))
