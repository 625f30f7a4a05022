"""What lies beside a wheel: its record and its debug symbols."""

from __future__ import annotations

import errno
import gzip
import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from builder.core.cancellation import Attempt
from builder.core.errors import TargetError
from builder.core.untrusted import UntrustedFolder
from builder.wheels.record import read_record, record_path

#: A gzipped tar archive, as tar and Python see by its first bytes. Not ``.tar.gz``: for pip before 24 a file that ends
#: so, in a folder of --find-links, is a source distribution of whatever its name begins with.
DEBUG_SUFFIX = ".debug.tar.gzip"
#: What earlier builders called it.
OLD_DEBUG_SUFFIX = ".debug.tar.gz"
#: Bytes of all debug symbols of a wheel, unpacked.
DEBUG_LIMIT = 8 << 30


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
