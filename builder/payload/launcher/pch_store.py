"""The precompiled header of one group on disk: made, found still right, used, removed.

    <folder>/<key>/<key>.h       an error, so that gcc cannot pass the header over silently
    <folder>/<key>/<key>.h.gch   the header
    <folder>/<key>.text/<key>.h  what it is made from
    <folder>/<key>.json          what it was made of; written last: without it there is no header
    <folder>/<key>.new           while it is made
    <folder>/<key>.lock          held while it is made
    <known>/<key>                what it was made of in an earlier build

Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Match

import depfiles
import processes
from compile_command import Command
from includes import leading_includes, read
from pch_plan import Compiler, Group
from pragmas import Forbidden

#: Bytes of all headers at once, and of one that is not made yet (measured: 330 to 350 MB).
LIMIT = 4 << 30
EXPECTED = 400 << 20
#: Nanoseconds by which a file's time may lie before the moment of its change: the kernel's clock for files is coarse.
_COARSE = 20_000_000
#: Groups that are remembered from build to build.
_KNOWN = 300
#: The warning of gcc that tells that it refuses a header.
_INVALID = "invalid-pch"
#: What makes a header's text depend on the file that includes it.
_ODDITIES = (b"__BASE_FILE__", b"__INCLUDE_LEVEL__")


class RefusedError(Exception):
    """The header cannot serve; the text says why, in a few words."""

    #: CPU seconds that finding out took.
    seconds = 0.0


class Stored:
    """The header of ``group`` below ``folder``; ``known`` is the folder of what earlier builds knew."""

    def __init__(self, group: Group, folder: str, known: str | None) -> None:
        self.group = group
        self._folder = folder
        self.header = os.path.join(folder, group.key, group.key + ".h")
        self._gch = self.header + ".gch"
        self._text = os.path.join(folder, group.key + ".text", group.key + ".h")
        self._facts = os.path.join(folder, group.key + ".json")
        #: Names by which a dependency file may call the header.
        self.names = (self.header, self._gch, self._text)
        self._known = os.path.join(known, group.key) if known else None
        #: What the header's own compile listed as its dependencies, and those as files.
        self.inside: list[str] = []
        self._paths: list[str] = []
        self._signature = ""
        self._forbidden = Forbidden()

    def ready(self) -> bool:
        """True where the header stands; reads what it was made of."""
        try:
            with open(self._facts, encoding="utf-8") as file:
                facts = json.load(file)
            # Nothing but gcc writes there; what else did has damaged it.
            if _identity(self._gch) != facts["header"]:
                return False
            self.inside, self._paths, self._signature = facts["inside"], facts["paths"], facts["signature"]
            self._forbidden = Forbidden(**facts["forbidden"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def compile(self, command: Command) -> tuple[str | None, float, str]:
        """Compile with the header.

        Returns why the result does not count, None where it does; CPU seconds; and the messages, which are those of
        the plain compile. That a source warns is no reason.
        """
        path = os.path.join(self._folder, f"errors.{os.getpid()}")
        errors = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.unlink(path)
        listing = ["-fpch-deps"] if command.depfile is not None else []
        argv = [*command.argv, "-include", self.header, "-Werror=" + _INVALID, *listing]
        with open(errors, encoding="utf-8", errors="surrogateescape") as file:
            status, seconds = processes.run(argv, command.cwd, errors)
            file.seek(0)
            messages = file.read()
        if messages:
            messages = self._as_of_the_source(messages, command)
        return self._objection(command, status, messages), seconds, messages

    def _as_of_the_source(self, messages: str, command: Command) -> str:
        """What was included from the header's text was included from the source."""
        lines = [line for _, line in leading_includes(read(os.path.join(command.cwd, command.source)))]

        def place(found: Match[str]) -> str:
            return f"{command.source}:{lines[int(found[1]) - 1]}"

        # ccache asks for colours: what follows the number may be a sequence of a terminal.
        return re.sub(re.escape(self._text) + r":(\d+)", place, messages)

    def _objection(self, command: Command, status: int, messages: str) -> str | None:
        """Why a compile with the header does not count; puts its dependency file right."""
        if not self._unchanged():
            self.remove()
            return "changed"
        if status != 0:
            return "invalid" if _INVALID in messages else f"exit-{status}"
        if messages and self._forbidden.in_messages(messages, command.cwd, self._paths):
            return "pragma"
        if command.depfile is None:
            return None
        path = os.path.join(command.cwd, command.depfile)
        try:
            targets, listed = depfiles.names(path)
            listed = depfiles.without_header(listed, self.names, self.inside, self.group.files)
            depfiles.write(path, targets, listed)
        except (OSError, depfiles.UnexpectedError):
            return "dependencies"
        return None

    def _unchanged(self) -> bool:
        """True where no file that the header was made of has changed since."""
        try:
            return self._signature == _signature(self._paths, before=None)
        except OSError:
            return False

    @contextmanager
    def making(self) -> Iterator[bool]:
        """Yields true for the one process that makes the header now."""
        handle = os.open(os.path.join(self._folder, self.group.key + ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True
        finally:
            os.close(handle)

    def make(self, command: Command) -> float:
        """Make the header with the flags of ``command``; returns CPU seconds. Only within ``making``.

        Raises RefusedError, OSError.
        """
        self.remove()
        # Nothing but one file lies in these folders: `#include "x"` looks beside the file that says it first.
        _place(self._text, "".join(f"#include {include}\n" for include in self.group.includes))
        # The second line is fatal: the compiler ends at once.
        missing = "the precompiled header was not used"
        _place(self.header, f"#error {missing}\n#include <{missing}>\n")
        new, listing, messages = (os.path.join(self._folder, self.group.key + end) for end in (".new", ".d", ".errors"))
        argv = [command.compiler, *command.flags, "-x", "c++-header", "-c", self._text, "-o", new]
        argv += ["-MD", "-MF", listing, "-MT", "header"]
        started = time.time_ns()
        errors = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        seconds = 0.0
        try:
            status, seconds = processes.run(argv, command.cwd, errors)
            if status != 0:
                raise RefusedError(f"does not compile ({status})")
            # A plain compile would print them for each source. Nobody must miss a warning.
            if os.fstat(errors).st_size:
                raise RefusedError("warns")
            self.inside = depfiles.names(listing)[1][1:]
            self._paths = depfiles.paths(self.inside)
            self._signature = _signature(self._paths, before=started - _COARSE)
            content = _content(self._paths)
            self._forbidden = _forbidden(self._paths, command)
        except (RefusedError, depfiles.UnexpectedError) as error:
            _unlink(new)
            refused = RefusedError(str(error))
            refused.seconds = seconds
            raise refused from None
        except OSError:
            _unlink(new)
            raise
        finally:
            os.close(errors)
            for path in (listing, messages):
                _unlink(path)
        os.replace(new, self._gch)
        facts = {
            "header": _identity(self._gch),
            "signature": self._signature,
            "inside": self.inside,
            "paths": self._paths,
            "forbidden": vars(self._forbidden),
        }
        _write(self._facts, json.dumps(facts))
        self._remember(content)
        return seconds

    def remove(self) -> None:
        """Remove the header. Compiles that use it right now have it open."""
        _unlink(self._facts)
        _unlink(self._gch)

    def same_as_before(self) -> bool:
        """True where an earlier build made this header of the same files."""
        try:
            with open(self._known or "/nonexistent", encoding="utf-8", errors="surrogateescape") as file:
                content, *paths = file.read().splitlines()
            return content == _content(paths)
        except (OSError, ValueError, RefusedError):
            return False

    def _remember(self, content: str) -> None:
        if not self._known:
            return
        try:
            folder = os.path.dirname(self._known)
            os.makedirs(folder, exist_ok=True)
            _write(self._known, "\n".join([content, *self._paths]))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.stat().st_mtime)
            for entry in entries[:-_KNOWN]:
                _unlink(entry.path)
        except OSError:
            # Another build cleans up, or the cache is read-only: then the next build knows less.
            pass


def make_room(folder: str, usefulness: dict[str, float], key: str, limit: int) -> bool:
    """Remove headers of ``folder`` that are less useful than that of ``key`` is going to be; true where it fits then.

    ``limit`` counts the bytes of all headers. A group that ``usefulness`` does not name is of no use any more.
    """
    sizes: dict[str, int] = {}
    making = 0
    for entry in os.scandir(folder):
        try:
            if entry.name.endswith(".new"):
                making += max(EXPECTED, entry.stat().st_size)
            elif entry.name.endswith(".json"):
                name = entry.name[: -len(".json")]
                sizes[name] = os.path.getsize(os.path.join(folder, name, name + ".h.gch"))
        except OSError:
            continue
    sizes.pop(key, None)
    expected = max([EXPECTED, *sizes.values()])
    while True:
        space = os.statvfs(folder)
        free = space.f_bavail * space.f_frsize
        if making + sum(sizes.values()) + expected <= limit and free >= 2 * expected:
            return True
        least = min(sizes, key=lambda name: usefulness.get(name, 0.0), default=None)
        if least is None or usefulness.get(least, 0.0) >= usefulness[key]:
            return False
        _unlink(os.path.join(folder, least + ".json"))
        _unlink(os.path.join(folder, least, least + ".h.gch"))
        del sizes[least]


def _signature(paths: list[str], before: int | None) -> str:
    """What tells that one of the files has changed. Raises RefusedError where one changed after ``before``."""
    found = hashlib.sha256()
    for path in paths:
        status = os.stat(path)
        if before is not None and max(status.st_mtime_ns, status.st_ctime_ns) >= before:
            raise RefusedError(f"{path} changed while it was read")
        found.update(b"%d %d %d\n" % (status.st_size, status.st_mtime_ns, status.st_ino))
    return found.hexdigest()


def _identity(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _content(paths: list[str]) -> str:
    """One digest over the content of the files. Raises RefusedError for content that no header can hold."""
    found = hashlib.sha256()
    for path in paths:
        # What is remembered was written by another build; a pipe among it would be waited for.
        if not os.path.isfile(path):
            raise OSError(errno.EINVAL, "not a regular file", path)
        with open(path, "rb") as file:
            text = file.read()
        for oddity in _ODDITIES:
            if oddity in text:
                raise RefusedError(f"{path} uses {oddity.decode()}")
        found.update(b"%d " % len(text))
        found.update(text)
    return found.hexdigest()


def _forbidden(paths: list[str], command: Command) -> Forbidden:
    """What the files say of warnings. Raises RefusedError where they ask for some: gcc would forget that."""
    found = Forbidden()
    system = [flag[len("-isystem") :] for flag in command.flags if flag.startswith("-isystem")]
    # gcc does not warn of what stands in a header of the system anyway.
    folders = tuple(os.path.join(command.cwd, folder) + "/" for folder in system + Compiler(command.compiler).folders)
    for path in paths:
        place = os.path.join(command.cwd, path)
        if not place.startswith(folders) and found.add(read(place)):
            raise RefusedError(f"{path} asks for warnings")
    return found


def _place(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _write(path, text)


def _write(path: str, text: str) -> None:
    beside = f"{path}.{os.getpid()}"
    with open(beside, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.replace(beside, path)


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
