"""How a process of the builder begins: what of its caller decides nothing, and what of it is kept."""

from __future__ import annotations

import os

#: What it makes can be read by builds, which run as another user, and its modes are the same for everyone who builds:
#: those of folders and of what tools write are in the wheel.
UMASK = 0o022


def begin() -> None:
    """Called first in every process that makes anything: the command line, a cluster's workers, their errands."""
    os.umask(UMASK)
