"""What every kind of store shares: names, atomic uploads that are verified first, and errors."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from builder.core.errors import BuilderError, FailureKind, RequestError, TargetError
from builder.core.workspace import fsync_folder
from builder.store.errors import explain
from builder.store.retry import patient

#: Seconds after which a hidden upload is taken for that of a dead builder.
STALE_AFTER = 24 * 3600
#: Bytes that are read and hashed at once.
CHUNK = 8 << 20
#: Bytes of a file that is read as a whole: a manifest of a thousand targets has under two million.
LARGEST = 64 << 20
#: Characters of one part of a name; with the prefix of an upload it stays below the 255 of file systems.
LONGEST_PART = 200

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+~!@=-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UPLOAD = re.compile(r"\.upload-([0-9a-f]{8,12})-[0-9a-f]{8}-")


class Entry(NamedTuple):
    """One file or folder in a folder of a store; ``size`` is in bytes, 0 for folders."""

    name: str
    folder: bool
    size: int


def check_part(part: str, what: str = "name") -> str:
    """Return ``part`` if it is valid as one part of a name in a store. Raises RequestError otherwise."""
    if not _PART.fullmatch(part) or len(part) > LONGEST_PART:
        raise RequestError(
            f"{part!r} cannot be a {what} in a store",
            hint="it is letters, digits and . _ + - ~ ! @ =, begins with a letter, digit or _, "
            f"and has at most {LONGEST_PART} characters",
        )
    return part


def check_name(name: str) -> str:
    """Return ``name``, parts divided by ``/``, if it stays inside the store. Raises RequestError otherwise.

    Hidden names are reserved for the store itself; ``..``, absolute names and control characters are invalid.
    """
    for part in name.split("/"):
        if not _PART.fullmatch(part) or len(part) > LONGEST_PART:
            try:
                check_part(part)
            except RequestError as error:
                raise RequestError(f"{name!r} is not a name in a store: {error.message}", hint=error.hint) from None
    return name


class Store(ABC):
    """The place where finished wheels and their records are published.

    Names are relative, their parts divided by ``/``. A name holds a whole file or nothing: uploads go to a
    hidden name beside it, are read back, and only then get the name. Every failure of the place is raised as
    a BuilderError without secrets: RequestError if the place does not exist or denies access, MachineError if
    a package is missing, TargetError for NETWORK, DISK or VERIFY. NETWORK is raised only after several
    attempts; ``warn`` is called with each one that failed.
    """

    #: The place in words, for messages; it holds no password.
    url: str

    def __init__(self, url: str) -> None:
        self.url = url
        self.warn: Callable[[str], None] = lambda _: None
        self._swept: set[str] = set()

    # What a kind of store has to provide. All of it may raise whatever the place behind it raises.

    @abstractmethod
    def _upload(self, local: Path, name: str) -> None:
        """Copy a local file to the hidden ``name``, creating its folder; durable on return."""

    @abstractmethod
    def _upload_bytes(self, data: bytes, name: str) -> None:
        """Write ``data`` to the hidden ``name``, creating its folder; durable on return."""

    @abstractmethod
    def _publish(self, hidden: str, name: str, *, replace: bool) -> None:
        """Rename the hidden file to its final name, atomically.

        Raises FileExistsError if ``replace`` is False, the name is taken, and the place can tell.
        """

    @abstractmethod
    def _chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file. Raises FileNotFoundError."""

    @abstractmethod
    def _size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if it is missing, -1 if the name is not a regular file."""

    @abstractmethod
    def _entries(self, folder: str) -> list[Entry]:
        """List a folder, including hidden entries but not links; an empty list if the folder is missing."""

    @abstractmethod
    def _remove(self, name: str) -> None:
        """Remove a file, if it exists."""

    @abstractmethod
    def _remove_folder(self, name: str, last: str) -> None:
        """Remove a folder and its contents, if it exists, with its file ``last`` after everything else."""

    @abstractmethod
    def locked(self, name: str) -> AbstractContextManager[None]:
        """Keep other builders out of what ``name`` stands for, if the place supports locks.

        Only folders do, so correctness elsewhere must not depend on it. Raises MachineError when another
        builder does not release the lock in time.
        """

    @abstractmethod
    def point(self, name: str, target: str) -> None:
        """Make ``name`` a link to its neighbour ``target``, atomically, if the place supports links."""

    # What is made of it.

    @patient
    def put(self, local: Path, name: str, sha256: str, *, replace: bool = False) -> bool:
        """Publish a local file whose SHA-256 is known; return False if it was published already.

        False is also returned when an earlier attempt of this call succeeded but its answer was lost.
        Raises TargetError (VERIFY) when what arrived has another checksum, or the name has other content and
        ``replace`` is False; OSError when the local file cannot be read.
        """
        check_name(name)
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"not a SHA-256 in lower case: {sha256!r}")
        with open(local, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
        with self._asking(f"to put {name}"):
            stands = self._stands(name, size, sha256)
            if stands:
                return False
            if stands is not None and not replace:
                raise self._taken(name)
            hidden = self._hidden(name)
            self._sweep_once(_folder(name))
            with self._discarded_on_error(hidden):
                self._upload(local, hidden)
                self._verify(hidden, name, size, sha256)
                try:
                    self._publish(hidden, name, replace=replace)
                except FileExistsError:
                    # Another builder was faster.
                    self._remove(hidden)
                    if self._stands(name, size, sha256):
                        return False
                    raise self._taken(name) from None
        return True

    @patient
    def write(self, name: str, data: bytes) -> None:
        """Write a small file, replacing any that exists; readers see the old or the new one, whole."""
        check_name(name)
        with self._asking(f"to write {name}"):
            hidden = self._hidden(name)
            self._sweep_once(_folder(name))
            with self._discarded_on_error(hidden):
                self._upload_bytes(data, hidden)
                self._verify(hidden, name, len(data), hashlib.sha256(data).hexdigest())
                self._publish(hidden, name, replace=True)

    @patient
    def get(self, name: str, local: Path, sha256: str) -> None:
        """Download a file; ``local`` appears whole and with this checksum, or not at all.

        Raises TargetError (VERIFY) when the file is not in the store or has another checksum.
        """
        check_name(name)
        local.parent.mkdir(parents=True, exist_ok=True)
        beside = local.with_name(f".{local.name}.{secrets.token_hex(4)}")
        digest = hashlib.sha256()
        try:
            with open(beside, "wb") as stream:
                for chunk in self._read_chunks(name):
                    digest.update(chunk)
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            if digest.hexdigest() != sha256:
                raise TargetError(
                    f"{name} in {self.url} has the SHA-256 {digest.hexdigest()}, expected was {sha256}",
                    kind=FailureKind.VERIFY,
                    hint="the file was changed or damaged in the store: publish it again",
                )
            os.replace(beside, local)
        finally:
            beside.unlink(missing_ok=True)
        fsync_folder(local.parent)

    @patient
    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None if it is missing.

        Raises RequestError if it has more than LARGEST bytes or is not a regular file.
        """
        check_name(name)
        content = bytearray()
        with self._asking(f"to read {name}"):
            try:
                if self._size(name) == -1:
                    raise RequestError(f"{name} in {self.url} is no file", hint="remove it; the builder made none such")
                for chunk in self._chunks(name):
                    content += chunk
                    if len(content) > LARGEST:
                        most = f"more than {LARGEST >> 20} MiB"
                        raise RequestError(
                            f"{name} in {self.url} has {most}, which no record or manifest has",
                            hint="remove it, or bring back what was published under that name",
                        )
            except FileNotFoundError:
                return None
        return bytes(content)

    @patient
    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if it is missing or not a regular file."""
        check_name(name)
        with self._asking(f"to look at {name}"):
            size = self._size(name)
        return None if size is not None and size < 0 else size

    @patient
    def digest(self, name: str) -> str | None:
        """Read a file from the store and return its SHA-256; None if it is missing."""
        check_name(name)
        with self._asking(f"to read {name}"):
            try:
                return self._digest(name)
            except FileNotFoundError:
                return None

    @patient
    def entries(self, folder: str = "") -> list[Entry]:
        """List a folder by name, without hidden files and links; an empty list if the folder is missing."""
        if folder:
            check_name(folder)
        with self._asking(f"to list {folder or 'it'}"):
            found = self._entries(folder)
        return sorted(entry for entry in found if not entry.name.startswith("."))

    @patient
    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        check_name(name)
        with self._asking(f"to remove {name}"):
            self._remove(name)

    @patient
    def remove_folder(self, name: str, *, last: str) -> None:
        """Remove a folder and its contents, hidden files too, with its file ``last`` after everything else."""
        check_name(name)
        check_part(last)
        with self._asking(f"to remove {name}"):
            self._remove_folder(name, last)

    @patient
    def sweep(self, folder: str = "") -> int:
        """Remove uploads that dead builders left in a folder over STALE_AFTER seconds ago; return their number."""
        if folder:
            check_name(folder)
        with self._asking(f"to clean {folder or 'it'}"):
            return self._sweep(folder)

    def check(self) -> None:
        """Write, read and remove a small hidden file, so that an unusable store fails before hours of work.

        It makes a single attempt, because nothing would be lost yet.
        """
        with self._asking("a trial file"):
            hidden = self._hidden("trial")
            data = secrets.token_bytes(16)
            with self._discarded_on_error(hidden):
                self._upload_bytes(data, hidden)
                self._verify(hidden, "a trial file", len(data), hashlib.sha256(data).hexdigest())
            self._remove(hidden)

    # Shared steps.

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except BuilderError:
            raise
        except Exception as error:
            # ``from None``: the original message may hold what ours leaves out, and --debug would print it.
            if (found := explain(error, self.url, what)) is not None:
                raise found from None
            raise

    @contextmanager
    def _discarded_on_error(self, hidden: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # Whatever happened is what is told; a hidden file that stays is cleaned a day later.
            with contextlib.suppress(Exception):
                self._remove(hidden)
            raise

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._chunks(name):
            digest.update(chunk)
        return digest.hexdigest()

    def _read_chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file that must exist; only the store's own failures are attributed to it."""
        chunks = self._chunks(name)
        while True:
            with self._asking(f"to read {name}"):
                try:
                    chunk = next(chunks, None)
                except FileNotFoundError:
                    raise TargetError(
                        f"{name} is not in {self.url}", kind=FailureKind.VERIFY, hint="publish it again"
                    ) from None
            if chunk is None:
                return
            yield chunk

    def _stands(self, name: str, size: int, sha256: str) -> bool | None:
        """Return whether ``name`` has this content; None if it is missing."""
        found = self._size(name)
        if found is None:
            return None
        try:
            return found == size and self._digest(name) == sha256
        except FileNotFoundError:
            return None

    def _taken(self, name: str) -> TargetError:
        return TargetError(
            f"{self.url} already holds another content under {name}",
            kind=FailureKind.VERIFY,
            hint="what is published is not changed: publish under another name, or remove the file that stands there",
        )

    def _verify(self, hidden: str, name: str, size: int, sha256: str) -> None:
        """Read back an upload and compare it. Raises TargetError (VERIFY) if it differs."""
        arrived = self._size(hidden)
        found = self._digest(hidden) if arrived == size else None
        if found != sha256:
            raise TargetError(
                f"{name} did not arrive whole in {self.url}: {arrived} bytes with SHA-256 {found or 'not read'}, "
                f"expected were {size} bytes with {sha256}",
                kind=FailureKind.VERIFY,
                hint="nothing was published; the file here was changed meanwhile, or the way to the store damages data",
            )

    def _hidden(self, name: str) -> str:
        folder, _, last = name.rpartition("/")
        hidden = f".upload-{int(time.time()):08x}-{secrets.token_hex(4)}-{last}"
        return f"{folder}/{hidden}" if folder else hidden

    def _sweep_once(self, folder: str) -> None:
        if folder not in self._swept:
            self._sweep(folder)
            self._swept.add(folder)

    def _sweep(self, folder: str) -> int:
        removed = 0
        for entry in self._entries(folder):
            match = _UPLOAD.match(entry.name)
            # The time is in the name because not every place tells when a file was made.
            if match and not entry.folder and time.time() - int(match[1], 16) > STALE_AFTER:
                self._remove(f"{folder}/{entry.name}" if folder else entry.name)
                removed += 1
        return removed


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
