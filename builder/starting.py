"""How a process of the builder begins: what of its caller decides nothing, and what of it is kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from types import FrameType

#: What it makes can be read by builds, which run as another user, and its modes are the same for everyone who builds:
#: those of folders and of what tools write are in the wheel.
UMASK = 0o022


def begin() -> None:
    """Called first in every process that makes anything: the command line, a cluster's workers, their errands."""
    os.umask(UMASK)


def take_signals(numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object]) -> None:
    """Have ``handler`` called for those of ``numbers`` that are not ignored now.

    Whoever starts this process may ignore some for it: ``nohup`` SIGHUP, a shell SIGINT for what it starts in the
    background (https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_12).
    """
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
