"""Who holds a lock: told to whoever finds it taken, as far as it can be known."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: What stands beside a lock while it is held: the host's name and the process.
_NOTE = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,255}) (?P<pid>[0-9]{1,10})\n")
#: Of a note, bytes that are read.
_LONGEST = 300


@contextmanager
def noted(lock: Path) -> Iterator[None]:
    """Say beside ``lock``, a lock file that this process holds, who that is, for the length of the block.

    The kernel knows the holders of this host alone (``holder``), and a store may be shared by several.
    """
    note = _note_of(lock)
    with suppress(OSError):
        # Anew: what a killed builder of another user has left cannot be written.
        note.unlink(missing_ok=True)
        note.write_text(f"{socket.gethostname()} {os.getpid()}\n", encoding="ascii", errors="replace")
    try:
        yield
    finally:
        with suppress(OSError):
            note.unlink()


def holder(lock: Path) -> str:
    """Who holds the lock file ``lock``, to follow a sentence: `` (process 4711)``, empty where nobody can say.

    The holders of another host are named with it.
    """
    pids = _by_kernel(lock)
    if not pids:
        host, pid = _by_note(lock)
        if host != socket.gethostname():
            return f" (process {pid} of the host {host})" if pid else ""
        pids = [pid] if os.path.exists(f"/proc/{pid}") else []
    numbers = ", ".join(map(str, pids))
    return f" (process{'es' if len(pids) > 1 else ''} {numbers})" if pids else ""


def _by_kernel(lock: Path) -> list[int]:
    """The processes of this host that hold it, as /proc/locks has them (proc_locks(5))."""
    try:
        state = os.stat(lock)
        table = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    place = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    # Whoever waits for it has a line of its own, which says "->" first.
    rows = [line.split() for line in table.splitlines()]
    found = {int(row[4]) for row in rows if len(row) == 8 and row[5] == place and row[4].isdigit()}
    return sorted(found - {0})


def _by_note(lock: Path) -> tuple[str, int]:
    try:
        with open(_note_of(lock), encoding="ascii", errors="replace") as note:
            found = _NOTE.fullmatch(note.read(_LONGEST))
    except OSError:
        found = None
    return (found["host"], int(found["pid"])) if found is not None else (socket.gethostname(), 0)


def _note_of(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.holder")
