"""Whose containers, images and folders these are: the labels that the builder puts on all that it makes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from builder.core.untrusted import UntrustedFolder

#: On every image and container that the builder makes.
LABEL = "torch-npu-builder"
#: Who compiles when the builder was started as root: a user that this machine does not have.
UNPRIVILEGED = (61000, 61000)
#: Who is making it: ``host:pid:start``; tells the leftovers of a killed builder from work going on.
OWNER_LABEL = f"{LABEL}.owner"


def owner() -> str:
    """This process, for OWNER_LABEL."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def owner_lives(value: str) -> bool:
    """Whether the process that ``owner()`` named still runs; one of another machine is taken to live."""
    host, _, rest = value.rpartition(":")[0].rpartition(":")
    started = value.rpartition(":")[2]
    if host != socket.gethostname():
        return bool(host)
    return rest.isdigit() and _started(int(rest)) == started


def _started(pid: int) -> str:
    """When the process started, in ticks since the machine did; empty when there is none."""
    try:
        # The command name stands in parentheses and may hold anything, spaces too.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def labels(**more: str) -> dict[str, str]:
    """Labels that tell the builder's own containers and images from everything else."""
    return {LABEL: "1", OWNER_LABEL: owner(), **{f"{LABEL}.{name}": value for name, value in more.items()}}


def give(folder: Path, user: tuple[int, int]) -> None:
    """Make ``user`` the owner of everything below ``folder``; symbolic links are not followed.

    Builds may be at work in it: what they remove meanwhile is passed over, and no folder that they replace by a
    symbolic link leads elsewhere. Raises OSError, TooDeepError for folders that no build has a reason to make.
    """
    with UntrustedFolder(folder) as opened:
        opened.own(user)


def make_and_give(folders: Iterable[Path], user: tuple[int, int] | None) -> None:
    """Make those of ``folders`` that are absent, and ``user`` (uid and gid) the owner of everything in them.

    None: they are the builder's own, as where it may not give files away. Raises what ``give`` raises.
    """
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        if user is not None:
            give(folder, user)
