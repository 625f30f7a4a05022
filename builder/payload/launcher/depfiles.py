"""Dependency files of gcc: read, and rid of the precompiled header that was used.

Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import os
import re

#: A name as gcc writes it: spaces and a few other characters are escaped.
_NAME = re.compile(r"(?:[^\s\\]|\\[^\n])+")
#: gcc's own: where a line that would be longer is broken.
_COLUMNS = 72


class UnexpectedError(Exception):
    """A dependency file is not laid out as those of gcc are."""


def names(path: str) -> tuple[list[str], list[str]]:
    """Targets and dependencies of a dependency file, as they are written. Raises OSError, UnexpectedError."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        words = _NAME.findall(file.read())
    for index, word in enumerate(words):
        if word.endswith(":"):
            return [*words[:index], word[:-1]], words[index + 1 :]
    raise UnexpectedError(path)


def paths(listed: list[str]) -> list[str]:
    """The files that ``listed`` names, each once."""
    return list(dict.fromkeys(re.sub(r"\\(.)", r"\1", name).replace("$$", "$") for name in listed))


def without_header(listed: list[str], header: tuple[str, ...], inside: list[str], again: list[str]) -> list[str]:
    """What a plain compile lists.

    ``header`` holds all names of the precompiled header itself, ``inside`` what its compile listed behind that,
    ``again`` the files that it includes itself: gcc opens the first of them once more, to see that it is there already.
    Raises UnexpectedError.
    """
    at = next((index for index, name in enumerate(listed) if name in header), None)
    if at is None:
        raise UnexpectedError("the header is not listed")
    rest = [name for name in listed[at:] if name not in header]
    # What the compiler includes by itself comes once for the source, once for the header.
    before = listed[1:at]
    own = next(count for count in range(len(before), -1, -1) if inside[:count] == before[:count])
    if rest[: len(inside)] != inside:
        raise UnexpectedError("the header's own dependencies are not listed")
    tail = rest[len(inside) :]
    while tail and tail[0] in again:
        del tail[0]
    return [*listed[:at], *inside[own:], *tail]


def write(path: str, targets: list[str], listed: list[str]) -> None:
    """Write a dependency file as gcc lays it out. It appears whole or not at all."""
    text: list[str] = []
    column = 0
    for name in targets:
        column = _add(text, name, column)
    text.append(":")
    column += 1
    for name in listed:
        column = _add(text, name, column)
    beside = f"{path}.{os.getpid()}"
    with open(beside, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("".join([*text, "\n"]))
    os.replace(beside, path)


def _add(text: list[str], name: str, column: int) -> int:
    size = len(name.encode("utf-8", "surrogateescape"))
    if column:
        if column + size > _COLUMNS:
            text.append(" \\\n")
            column = 0
        text.append(" ")
        column += 1
    text.append(name)
    return column + size
