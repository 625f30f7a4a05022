"""A store in a folder of this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from builder.core.errors import MachineError, RequestError
from builder.core.lock_holders import holder, noted
from builder.core.untrusted import open_inside
from builder.core.workspace import expanded, fsync_folder
from builder.store.interface import CHUNK, Entry, Store

#: Seconds to wait for another builder that writes a manifest.
LOCK_WAIT = 600.0

# File systems without hard links say one of these.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class FolderStore(Store):
    """Files below ``root``. Links in it are never followed, because they could lead anywhere."""

    def __init__(self, root: Path) -> None:
        self.root = expanded(root).absolute()
        super().__init__(str(self.root))

    def _path(self, name: str) -> Path:
        folder, _, last = name.rpartition("/")
        return self._inside(folder) / last

    def _inside(self, folder: str) -> Path:
        """Return the path of a folder. Raises RequestError if a part of it is a symbolic link."""
        path = self.root
        for part in folder.split("/") if folder else ():
            path = path / part
            if path.is_symlink():
                raise RequestError(
                    f"{path} is a link; the store {self.url} does not follow it",
                    hint="make it a folder, or give the folder it leads to as the store",
                )
        return path

    def _make(self, folder: Path) -> None:
        """Create a folder and its parents, and sync them, so that they survive a power failure."""
        made = []
        while not folder.exists():
            made.append(folder)
            folder = folder.parent
        for new in reversed(made):
            new.mkdir(exist_ok=True)
            fsync_folder(new.parent)

    def _upload(self, local: Path, name: str) -> None:
        path = self._path(name)
        self._make(path.parent)
        with open(local, "rb") as reader, open(path, "xb") as writer:
            shutil.copyfileobj(reader, writer, CHUNK)
            _settle(writer.fileno())

    def _upload_bytes(self, data: bytes, name: str) -> None:
        path = self._path(name)
        self._make(path.parent)
        with open(path, "xb") as writer:
            writer.write(data)
            writer.flush()
            _settle(writer.fileno())

    def _publish(self, hidden: str, name: str, *, replace: bool) -> None:
        source, path = self._path(hidden), self._path(name)
        if replace:
            os.replace(source, path)
        else:
            try:
                # Unlike a rename, a link fails where another builder has taken the name meanwhile.
                os.link(source, path)
                source.unlink()
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
                os.rename(source, path)
        fsync_folder(path.parent)

    def _chunks(self, name: str) -> Iterator[bytes]:
        with open_inside(self.root, name) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk

    def _size(self, name: str) -> int | None:
        try:
            found = self._path(name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else -1

    def _entries(self, folder: str) -> list[Entry]:
        entries = []
        try:
            with os.scandir(self._inside(folder)) as found:
                for entry in found:
                    # A file that another builder has just removed is no reason to see none at all.
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
                            is_folder = stat.S_ISDIR(status.st_mode)
                            entries.append(Entry(entry.name, is_folder, 0 if is_folder else status.st_size))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return entries

    def _remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def _remove_folder(self, name: str, last: str) -> None:
        folder = self._inside(name)
        for place, folders, files in os.walk(folder, topdown=False):
            for file in files:
                if (Path(place), file) != (folder, last):
                    os.unlink(os.path.join(place, file))
            for below in folders:
                path = Path(place, below)
                path.unlink() if path.is_symlink() else path.rmdir()
        fsync_folder(folder if folder.exists() else folder.parent)
        (folder / last).unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()
            fsync_folder(folder.parent)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the named lock; the kernel releases it when the process dies."""
        with self._asking(f"to lock {name}"):
            folder = self.root / ".locks"
            self._make(folder)
            path = folder / f"{name.replace('/', '-')}.lock"
            lock = FileLock(path)
            try:
                lock.acquire(timeout=LOCK_WAIT)
            except Timeout:
                raise MachineError(
                    f"another builder holds {name} in the store {self.url}{holder(path)}", hint="wait for it to end"
                ) from None
        try:
            with noted(path):
                yield
        finally:
            lock.release()

    def point(self, name: str, target: str) -> None:
        """Create a relative symbolic link, so that the store may be moved or served from elsewhere."""
        with self._asking(f"to link {name}"):
            path = self._path(name)
            if path.is_symlink() and os.readlink(path) == target:
                return
            beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            beside.symlink_to(target)
            try:
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)
            fsync_folder(path.parent)


def _settle(descriptor: int) -> None:
    """Sync a file to the disk and drop it from the page cache, so that reading it back reads the disk."""
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
