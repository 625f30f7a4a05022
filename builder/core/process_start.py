"""How a process of the builder begins: what of its caller decides nothing, and what of it is kept."""

from __future__ import annotations

import os
import signal
import unicodedata
from collections.abc import Callable, Iterable, MutableMapping
from types import FrameType

from builder.core.errors import RequestError

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


def has_control(text: str) -> bool:
    """True where a control character stands in ``text``: no name, path, URL or version has one."""
    return any(unicodedata.category(character) == "Cc" for character in text)


def clean_environment(env: MutableMapping[str, str]) -> None:
    """Trim the values of all variables of the builder: files and shells add a line break to what they hand over.

    Raises RequestError for a control character other than white space, by which some variables separate values.
    """
    for name in [name for name in env if name.startswith("BUILDER_")]:
        secret = name.endswith("_PASSWORD")
        env[name] = env[name].strip("\r\n") if secret else env[name].strip()
        if has_control("".join(env[name].split())):
            value = "its value" if secret else repr(env[name])
            raise RequestError(
                f"{name}: {value} holds a control character, expected plain text", hint=f"correct or unset {name}"
            )


def is_on(value: str | None) -> bool:
    """Whether a variable that switches something on does so, as click reads it for options."""
    return (value or "").strip().lower() in {"1", "true", "t", "yes", "y", "on"}
