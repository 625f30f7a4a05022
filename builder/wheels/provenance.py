"""What lies beside a wheel, its record and its debug symbols, and how all of it gets to where wheels are published."""

from __future__ import annotations

import errno
import gzip
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from builder.errors import TargetError
from builder.live import Attempt
from builder.untrusted import UntrustedFolder
from builder.wheels.record import WheelRecord, read_record, record_path
from builder.workspace import fsync_folder

#: A gzipped tar archive, as tar and Python see by its first bytes. Not ``.tar.gz``: for pip before 24 a file that ends
#: so, in a folder of --find-links, is a source distribution of whatever its name begins with.
DEBUG_SUFFIX = ".debug.tar.gzip"
#: What earlier builders called it.
OLD_DEBUG_SUFFIX = ".debug.tar.gz"
#: Bytes of all debug symbols of a wheel, unpacked.
DEBUG_LIMIT = 8 << 30

#: File systems that have no hard links say so in many ways.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)


def debug_path(wheel: Path) -> Path:
    """``<wheel>.debug.tar.gzip``, beside the wheel."""
    return wheel.with_name(wheel.name + DEBUG_SUFFIX)


def old_debug_path(wheel: Path) -> Path:
    """``<wheel>.debug.tar.gz``: where earlier builders put debug symbols."""
    return wheel.with_name(wheel.name + OLD_DEBUG_SUFFIX)


def new_debug_name(name: str) -> str:
    """The name of a file of a publication, where it was that of debug symbols of an earlier builder: today's."""
    wheel = name.removesuffix(OLD_DEBUG_SUFFIX)
    return wheel + DEBUG_SUFFIX if wheel != name and wheel.endswith(".whl") else name


def beside(wheel: Path) -> tuple[Path, ...]:
    """All that may lie beside ``wheel``; the record first, without which nobody takes a wheel for whole."""
    return (record_path(wheel), debug_path(wheel), old_debug_path(wheel))


def rename_old_debug(wheel: Path) -> Path | None:
    """Give the debug symbols of a standing wheel the name that no installer takes for a distribution.

    Gives the new path where something was renamed. What cannot be renamed stays.
    """
    old, new = old_debug_path(wheel), debug_path(wheel)
    with suppress(OSError):
        if old.is_file() and not old.is_symlink() and not new.exists():
            os.rename(old, new)
            return new
    return None


def other_fingerprint(wheel: Path, fingerprint: str | None) -> str | None:
    """The fingerprint in the record of the wheel that stands there, if it is another one.

    ``unknown`` where a wheel stands without a record.
    """
    if not wheel.exists():
        return None
    try:
        standing = read_record(wheel).fingerprint
    except (OSError, TargetError):
        return "unknown"
    return standing if standing != fingerprint else None


def archive_debug_symbols(
    tree: Path,
    folder: str,
    destination: Path,
    epoch: int,
    warn: Callable[[str], None] = lambda _: None,
    attempt: Attempt | None = None,
) -> bool:
    """Pack the ``*.debug`` files of ``folder`` (relative to ``tree``); same input, same bytes.

    ``epoch`` is the time stamp in seconds that every entry carries. False when there are none. A build owns the
    folder: only regular files count, and where it cannot be taken as it is ``warn`` is told that it is left out.
    ``attempt`` says whether anybody waits for it.
    """
    try:
        with UntrustedFolder(tree) as left, left.folder(folder) as opened:
            names = opened.files(".debug")
            if names:
                _pack(opened, names, destination, epoch, attempt or Attempt())
        return bool(names)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EFBIG, None):
            raise
        destination.unlink(missing_ok=True)
        warn(f"the debug symbols are left out: {folder}: {error.strerror or error}")
        return False


def _pack(folder: UntrustedFolder, names: list[str], destination: Path, epoch: int, attempt: Attempt) -> None:
    rest = DEBUG_LIMIT
    with (
        open(destination, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=epoch, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in names:
            attempt.go_on()
            with folder.open(name) as stream:
                entry = tarfile.TarInfo(name)
                entry.size = os.fstat(stream.fileno()).st_size
                entry.mtime = epoch
                entry.mode = 0o644
                rest -= entry.size
                if rest < 0:
                    raise OSError(errno.EFBIG, f"more than {DEBUG_LIMIT} bytes")
                archive.addfile(entry, stream)


def publish_wheel(
    wheel: Path, output: Path, record: WheelRecord, debug: Path | None, attempt: Attempt | None = None
) -> Path:
    """Put debug symbols, wheel and record into ``output``, all of them or none.

    Everything is written beside and made durable before anything gets its name. What stood there is kept until the
    new files stand, and comes back where one of them cannot be put. The record comes last: a wheel with its record is
    a finished one. Whoever publishes a wheel holds its target's lock. ``attempt`` says whether anybody waits for
    it, and is told before the first file gets its name.
    """
    destination = output / wheel.name
    output.mkdir(parents=True, exist_ok=True)
    _sweep(destination)
    attempt = attempt or Attempt()
    publication = _Publication(output, attempt)
    try:
        if debug is not None:
            publication.copy(debug, debug_path(destination))
        publication.copy(wheel, destination)
        publication.write(record.to_json().encode(), record_path(destination))
        attempt.decide()
        publication.commit()
    finally:
        publication.clear()
    if debug is None:
        debug_path(destination).unlink(missing_ok=True)
    old_debug_path(destination).unlink(missing_ok=True)
    return destination


class _Watched:
    """A file that is read for as long as somebody waits for it."""

    def __init__(self, stream: BinaryIO, attempt: Attempt) -> None:
        self._stream = stream
        self._attempt = attempt

    def read(self, size: int = -1, /) -> bytes:
        """Read at most ``size`` bytes. Raises KeyboardInterrupt as ``Attempt.go_on`` does."""
        self._attempt.go_on()
        return self._stream.read(size)


class _Publication:
    """Files that get their names together."""

    def __init__(self, folder: Path, attempt: Attempt) -> None:
        self._folder = folder
        self._attempt = attempt
        #: Where each file waits, by its place; and what stood at a place, under another name.
        self._new: dict[Path, Path] = {}
        self._old: dict[Path, Path] = {}

    def copy(self, source: Path, place: Path) -> None:
        """Copy a file beside its place, durably."""
        with open(source, "rb") as reader, open(self._beside(self._new, place), "xb") as writer:
            shutil.copyfileobj(_Watched(reader, self._attempt), writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())

    def write(self, data: bytes, place: Path) -> None:
        """Write a file beside its place, durably."""
        with open(self._beside(self._new, place), "xb") as writer:
            writer.write(data)
            writer.flush()
            os.fsync(writer.fileno())

    def commit(self) -> None:
        """Give every file its name, in the order in which they came; or leave all as it was."""
        for place in self._new:
            if place.exists():
                _link(place, self._beside(self._old, place))
        fsync_folder(self._folder)
        put: list[Path] = []
        try:
            for place, new in self._new.items():
                os.replace(new, place)
                put.append(place)
            fsync_folder(self._folder)
        except BaseException:
            for place in reversed(put):
                self._put_back(place)
            raise

    def clear(self) -> None:
        """Remove what has no name of its own."""
        for path in (*self._new.values(), *self._old.values()):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _put_back(self, place: Path) -> None:
        with suppress(OSError):
            if place in self._old:
                os.replace(self._old[place], place)
            else:
                place.unlink()

    def _beside(self, of: dict[Path, Path], place: Path) -> Path:
        of[place] = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
        return of[place]


def _link(path: Path, to: Path) -> None:
    """A second name for a file; a copy where the file system has none."""
    try:
        os.link(path, to)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy2(path, to)


def _sweep(destination: Path) -> None:
    """Remove what a builder that was killed left beside this wheel."""
    for entry in list(os.scandir(destination.parent)):
        if entry.name.startswith(f".{destination.name}."):
            os.unlink(entry.path)
