"""Answers of commands that depend on files alone, kept in the user's cache so that a second one costs no parsing.

The name of an answer is the SHA-256 of everything that it depends on: the matrix files' content, the builder's own
code, and what the caller names (options, the day, the terminal). So none is ever stale. One that another user could
have written is not read.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

#: Answers that are kept, and bytes of the largest; ``list --json`` of the whole matrix has some 400 KB.
KEPT, LARGEST = 64, 4 << 20
#: Parts of the package that answers come from.
_CODE = ("cli", "matrix", "progress", "target", "core", "planning")


class Answers:
    """The answers of one user in ``folder``; None where there is no place for any."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, key: str) -> str | None:
        """Read the answer called ``key``; None if there is none, or one that is not surely this user's own."""
        if self._folder is None:
            return None
        try:
            if not _is_own(os.lstat(self._folder), stat.S_ISDIR):
                return None
            descriptor = os.open(self._folder / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as stream:
                if not _is_own(os.fstat(descriptor), stat.S_ISREG):
                    return None
                content = stream.read(LARGEST + 1)
        except OSError:
            return None
        text = content.decode("utf-8", errors="replace")
        head, _, answer = text.partition("\n")
        # Half a file, or a damaged one, is none.
        return answer if head == _digest([answer.encode()]) else None

    def put(self, key: str, answer: str) -> None:
        """Keep ``answer``; where that cannot be done, the next one costs more."""
        content = answer.encode("utf-8", errors="replace")
        if self._folder is None or len(content) > LARGEST:
            return
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_own(os.lstat(self._folder), stat.S_ISDIR):
                return
            half = self._folder / f".{key}.{os.getpid()}"
            descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as stream:
                stream.write(_digest([content]).encode() + b"\n" + content)
            os.replace(half, self._folder / key)
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        assert self._folder is not None  # noqa: S101 - put has one
        with os.scandir(self._folder) as entries:
            found = sorted(
                ((entry.stat(follow_symlinks=False).st_mtime, entry.path) for entry in entries), reverse=True
            )
        for _, path in sorted(found, reverse=True)[KEPT:]:
            with suppress(OSError):
                os.unlink(path)


def standard_answers() -> Answers:
    """Find the answers of the user that runs this process."""
    from builder.core.workspace import user_cache

    cache = user_cache(os.environ)
    return Answers(None if cache is None else cache / "answers")


def key_of(matrix: Path | None, files: Iterable[Path | None], asked: Iterable[Any]) -> str | None:
    """Name an answer by ``matrix`` (None: the builder's own), further ``files`` and whatever else was ``asked``.

    Return None if a file cannot be read: then the command says what is wrong with it.
    """
    from builder.core.workspace import resource

    parts = [repr(each).encode("utf-8", errors="replace") for each in (sys.version, *asked)]
    try:
        folder = matrix if matrix is not None else resource("matrices")
        with os.scandir(folder) as entries:
            found = sorted(entry.path for entry in entries if entry.is_file())
        package = Path(__file__).resolve().parents[1]
        for name in (*found, *map(str, filter(None, files))):
            with open(name, "rb") as stream:
                parts += [name.encode("utf-8", errors="surrogateescape"), stream.read(LARGEST)]
        for part in _CODE:
            with os.scandir(package / part) as entries:
                parts += [
                    f"{entry.path} {entry.stat().st_size} {entry.stat().st_mtime_ns}".encode("utf-8", "surrogateescape")
                    for entry in sorted(entries, key=lambda entry: entry.name)
                    if entry.name.endswith(".py")
                ]
    except OSError:
        return None
    return _digest(parts)


@contextmanager
def remembered(answers: Answers, key: str | None) -> Iterator[bool]:
    """Print the answer called ``key`` and give True; else give False, and keep what the block prints if it succeeds."""
    known = None if key is None else answers.get(key)
    if known is not None:
        sys.stdout.write(known)
        yield True
        return
    plain = sys.stdout
    copy = _Copy(plain)
    sys.stdout = copy
    try:
        yield False
    finally:
        sys.stdout = plain
    if key is not None:
        answers.put(key, copy.said.getvalue())


def names(answers: Answers, key: str | None, found: Callable[[], list[str]]) -> list[str]:
    """Return the names kept under ``key``, or what ``found`` returns, which is kept."""
    known = None if key is None else answers.get(key)
    if known is not None:
        return known.splitlines()
    result = found()
    if key is not None:
        answers.put(key, "\n".join(result))
    return result


class _Copy(io.TextIOBase):
    """Passes everything on to a stream, whose terminal and encoding it has, and keeps a copy."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.said = io.StringIO()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def write(self, text: str) -> int:
        self.said.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True


def _is_own(found: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    return is_kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()
