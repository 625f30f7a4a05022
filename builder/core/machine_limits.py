"""What this process may use of the machine: memory and cores, less where a control group says so."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

#: Limit and use of this process's control group, in version 2 and 1
#: (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files).
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
_MEMINFO = Path("/proc/meminfo")


def cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def memory() -> int:
    """Return the bytes of memory that this process may use in all."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, _ in _GROUPS:
        with suppress(OSError, ValueError):
            found = min(found, int(limit.read_text()))
    return found


def available_memory() -> int:
    """Return the bytes of memory that programs can still be given: the kernel's estimate, or what a group has left."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            found = int(line.split()[1]) << 10
    for limit, usage in _GROUPS:
        with suppress(OSError, ValueError):
            found = min(found, max(0, int(limit.read_text()) - int(usage.read_text())))
    return found
