"""Folders that a build could have written: whatever is looked at or changed there goes by descriptor.

A build runs code of others, and owns what is below its tree, its results and its compile cache. It may leave links,
pipes, devices, files of any size, folders of any depth. This module never follows a link, waits for a pipe, reads
without a bound or recurses there; each name is one step from a folder that is held open (``openat``), so that nothing
that a build exchanges meanwhile leads elsewhere.

The folder that a call starts from is the builder's own, and may stand behind a link: a build cannot exchange what is
mounted for it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

#: Folders inside each other that are walked. A real tree has some thirty, its deepest files of a build included.
DEEPEST = 100
#: Entries of a folder that are listed by name.
MOST_ENTRIES = 10_000
#: Bytes of a line that are read.
LONGEST_LINE = 1 << 16
#: Bytes that are copied at once.
_BLOCK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: How often a folder is looked through again that others fill while it is removed.
_AGAIN = 20


class TooDeepError(OSError):
    """Folders are nested deeper than any build has a reason for (DEEPEST)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(errno.ELOOP, f"more than {DEEPEST} folders inside each other", str(folder))


class UntrustedFolder:
    """A folder that a build could have written, held open until ``close`` or the end of a ``with`` block.

    Names are relative, may have several parts, and never lead out: ``..``, empty parts and links raise OSError.
    ``path`` is for messages alone.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``. Raises OSError where it is absent or no folder."""
        self.path = path
        self._descriptor = os.open(path, _FOLDER & ~os.O_NOFOLLOW)

    @classmethod
    def _of(cls, descriptor: int, path: Path) -> UntrustedFolder:
        folder = cls.__new__(cls)
        folder.path, folder._descriptor = path, descriptor
        return folder

    def __enter__(self) -> UntrustedFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder. A second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def folder(self, name: str, *, make: bool = False, mode: int = 0o755) -> UntrustedFolder:
        """Open the folder ``name``; ``make`` makes what is absent of it, with ``mode``. Raises OSError."""
        opened = os.dup(self._descriptor)
        try:
            for part in _parts(name):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, mode, dir_fd=opened)
                below = os.open(part, _FOLDER, dir_fd=opened)
                os.close(opened)
                opened = below
        except OSError as error:
            os.close(opened)
            raise self._named(error, name) from None
        return self._of(opened, self.path / name)

    def open(self, name: str) -> BinaryIO:
        """Open the regular file ``name`` for reading. Raises OSError for anything else, and waits for nothing."""
        with self._above(name) as (folder, last):
            descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise OSError(errno.EINVAL, "not a regular file")
            return open(descriptor, "rb")

    def read(self, name: str, most: int) -> bytes:
        """The content of the regular file ``name``. Raises OSError, also for one of more than ``most`` bytes."""
        with self.open(name) as stream:
            data = stream.read(most + 1)
        if len(data) > most:
            raise OSError(errno.EFBIG, f"more than {most} bytes", str(self.path / name))
        return data

    def lines(self, name: str, most: int) -> Iterator[str]:
        """Lines of the regular file ``name`` without their ends, as far as its first ``most`` bytes go.

        A line is cut at LONGEST_LINE bytes, and bytes that are no UTF-8 are replaced. Raises OSError.
        """
        with self.open(name) as stream:
            whole = True
            while most > 0 and (data := stream.readline(min(LONGEST_LINE, most))):
                most -= len(data)
                if whole:
                    yield data.rstrip(b"\r\n").decode(errors="replace")
                whole = data.endswith(b"\n")

    def copy_to(self, name: str, destination: Path, most: int) -> int:
        """Copy the regular file ``name`` to ``destination``, a new file outside; returns its bytes.

        Raises OSError, also for one of more than ``most`` bytes; then nothing is left at ``destination``.
        """
        copied = 0
        with self.open(name) as source:
            # Before a file that is nothing but a length fills a disk.
            if os.fstat(source.fileno()).st_size > most:
                raise OSError(errno.EFBIG, f"more than {most} bytes", str(self.path / name))
            with open(destination, "xb") as target:
                try:
                    for block in iter(lambda: source.read(_BLOCK), b""):
                        copied += len(block)
                        if copied > most:
                            raise OSError(errno.EFBIG, f"more than {most} bytes", str(self.path / name))
                        target.write(block)
                except BaseException:
                    destination.unlink()
                    raise
        return copied

    def write(self, name: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write ``data`` beside ``name`` and give it that name, whole or not at all; what had the name is replaced.

        Raises OSError, also where a folder has the name.
        """
        with self._above(name) as (folder, last):
            beside = f".{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(beside, flags, mode, dir_fd=folder), "wb") as stream:
                    os.fchmod(stream.fileno(), mode)  # whatever the umask is
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(beside, last, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(beside, dir_fd=folder)
                raise

    def entries(self) -> Iterator[tuple[str, os.stat_result]]:
        """Each entry's name and its own state (of a link, the link's), in no order; what vanishes is passed over."""
        with os.scandir(self._descriptor) as found:
            for entry in found:
                with suppress(FileNotFoundError):
                    yield entry.name, entry.stat(follow_symlinks=False)

    def files(self, suffix: str = "") -> list[str]:
        """Sorted names of the regular files that are directly in it and end in ``suffix``.

        Raises OSError (EFBIG) for a folder of more than MOST_ENTRIES entries.
        """
        return self._names(lambda name, mode: name.endswith(suffix) and stat.S_ISREG(mode))

    def folders(self) -> list[str]:
        """Sorted names of the folders that are directly in it; links are none. Raises as ``files`` does."""
        return self._names(lambda name, mode: stat.S_ISDIR(mode))

    def _names(self, wanted: Callable[[str, int], bool]) -> list[str]:
        found = []
        for count, (name, state) in enumerate(self.entries()):
            if count == MOST_ENTRIES:
                raise OSError(errno.EFBIG, f"more than {MOST_ENTRIES} entries", str(self.path))
            if wanted(name, state.st_mode):
                found.append(name)
        return sorted(found)

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Everything below it: relative path and state, a folder before what it holds, in the order of names.

        Folders that vanish or cannot be read are passed over. Raises TooDeepError for folders below DEEPEST others.
        """
        for _, prefix, name, state in self._walk():
            yield prefix + name, state

    def own(self, user: tuple[int, int]) -> None:
        """Make ``user`` (uid, gid) the owner of it and of all that is below it. Raises OSError, TooDeepError."""
        state = os.fstat(self._descriptor)
        if (state.st_uid, state.st_gid) != user:
            os.chown(".", *user, dir_fd=self._descriptor, follow_symlinks=False)
        for folder, _, name, state in self._walk():
            if (state.st_uid, state.st_gid) != user:
                with suppress(FileNotFoundError):
                    os.chown(name, *user, dir_fd=folder._descriptor, follow_symlinks=False)

    def _walk(self) -> Iterator[tuple[UntrustedFolder, str, str, os.stat_result]]:
        """Each entry: the folder that holds it, that folder's path below this one, its name and its state."""
        walked = [(self.folder(""), "")]
        pending = [_sorted(walked[0][0])]
        try:
            while walked:
                folder, prefix = walked[-1]
                try:
                    name, state = next(pending[-1])
                except StopIteration:
                    pending.pop()
                    walked.pop()[0].close()
                    continue
                yield folder, prefix, name, state
                if stat.S_ISDIR(state.st_mode):
                    if len(walked) >= DEEPEST:
                        raise TooDeepError(self.path)
                    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                        walked.append((folder.folder(name), f"{prefix}{name}/"))
                        pending.append(_sorted(walked[-1][0]))
        finally:
            for folder, _ in walked:
                folder.close()

    def stored_bytes(self) -> int:
        """Bytes on disk of all that is below it. Raises TooDeepError."""
        return sum(state.st_blocks * 512 for _, state in self.walk())

    def touch(self, name: str) -> None:
        """Set the times of the regular file ``name`` to now. Raises OSError."""
        with self.open(name) as stream:
            os.utime(stream.fileno())

    def rename(self, name: str, new: str) -> None:
        """Give ``name`` the name ``new``; both are in this folder, and what had the new name is replaced."""
        (old_part,), (new_part,) = _parts(name), _parts(new)
        try:
            os.rename(old_part, new_part, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except OSError as error:
            raise self._named(error, name) from None

    def remove(self, name: str) -> None:
        """Remove ``name``, with all that is below it where it is a folder, at any depth. Absent is fine.

        Folders without permissions are made accessible. Raises OSError where something cannot be removed.
        """
        with suppress(FileNotFoundError), self._above(name) as (folder, last):
            if stat.S_ISDIR(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
                _remove_folder(folder, last)
            else:
                os.unlink(last, dir_fd=folder)

    @contextmanager
    def _above(self, name: str) -> Iterator[tuple[int, str]]:
        """The descriptor of the folder that holds ``name``, and the last part; errors carry the whole path."""
        *parents, last = _parts(name) or [""]
        if not last:
            raise OSError(errno.EINVAL, "not a name", name)
        with self.folder("/".join(parents)) as folder:
            try:
                yield folder._descriptor, last
            except OSError as error:
                raise self._named(error, name) from None

    def _named(self, error: OSError, name: str) -> OSError:
        """The same error, with the path that a person looks for."""
        return OSError(error.errno, error.strerror, str(self.path / name))


def open_inside(root: Path, name: str) -> BinaryIO:
    """Open the regular file ``name`` (relative) below ``root`` for reading.

    Raises OSError for anything that is not a regular file, and where a part of ``name`` is a link.
    """
    with UntrustedFolder(root) as folder:
        return folder.open(name)


def read_regular(path: Path, most: int) -> bytes:
    """The content of a file that a person named or may have changed: links are followed, nothing is waited for.

    Raises OSError for anything but a regular file, and for one of more than ``most`` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with open(descriptor, "rb") as stream:
        data = stream.read(most + 1) if state.st_size <= most else b""
    if max(state.st_size, len(data)) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes", str(path))
    return data


def remove_tree(path: Path) -> None:
    """Remove a file, link or folder with all that is below it (see ``UntrustedFolder.remove``). Missing is fine."""
    try:
        # Path.resolve raises RuntimeError for a link to itself before Python 3.13.
        parent = UntrustedFolder(Path(os.path.realpath(path.parent)))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return
        raise
    with suppress(FileNotFoundError, NotADirectoryError), parent as folder:
        folder.remove(path.name)


def _sorted(folder: UntrustedFolder) -> Iterator[tuple[str, os.stat_result]]:
    return iter(sorted(folder.entries(), key=lambda entry: entry[0]))


def _parts(name: str) -> list[str]:
    """The parts of a relative name. Raises OSError for one that could lead elsewhere."""
    if not name:
        return []
    parts = name.split("/")
    if "\0" in name or not {"", ".", ".."}.isdisjoint(parts):
        raise OSError(errno.EINVAL, "not a name below a folder", name)
    return parts


def _remove_folder(parent: int, name: str) -> None:
    """Remove a folder at ``parent`` with a handful of descriptors, however deep it is.

    What is nested deeper than one level is moved up into the folder first, so that nothing descends.
    """
    folder = _accessible(name, parent)
    try:
        for attempt in range(_AGAIN):
            moved = 0
            while below := _unlink_files(folder):
                for child in below:
                    moved = _flatten(folder, child, moved)
                    os.rmdir(child, dir_fd=folder)
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or attempt == _AGAIN - 1:
                    raise
            else:
                return
    finally:
        os.close(folder)


def _flatten(folder: int, child: str, moved: int) -> int:
    """Empty ``child``: its files are removed, its folders move up to ``folder``; returns the new ``moved``."""
    opened = _accessible(child, folder)
    try:
        for grandchild in _unlink_files(opened):
            # A folder that moves gets another "..", for which it must be writable.
            os.close(_accessible(grandchild, opened))
            moved += 1
            new = f".removed-{moved}-{secrets.token_hex(8)}"
            os.rename(grandchild, new, src_dir_fd=opened, dst_dir_fd=folder)
    finally:
        os.close(opened)
    return moved


def _unlink_files(folder: int) -> list[str]:
    """Remove all that is directly in ``folder`` and no folder; returns the names of the folders."""
    below = []
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return below


def _accessible(name: str, parent: int) -> int:
    """A descriptor of the folder ``name``, which its owner may read, write and enter from now on."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if os.fstat(path).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            # A descriptor of O_PATH takes no fchmod; its name in /proc leads to the folder itself.
            os.chmod(f"/proc/self/fd/{path}", stat.S_IRWXU)
        return os.open(".", _FOLDER, dir_fd=path)
    finally:
        os.close(path)
