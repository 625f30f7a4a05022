"""What lies beside a wheel: its record, and its debug symbols as an archive."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.workspace import atomic_json, publish

#: Version of the record's format.
SCHEMA = 1


def record_path(wheel: Path) -> Path:
    """``<wheel>.json``, beside the wheel."""
    return wheel.with_name(wheel.name + ".json")


def debug_path(wheel: Path) -> Path:
    """``<wheel>.debug.tar.gz``, beside the wheel."""
    return wheel.with_name(wheel.name + ".debug.tar.gz")


def archive_debug_symbols(folder: Path, destination: Path, epoch: int) -> bool:
    """Pack ``*.debug`` files of ``folder``; same input, same bytes. False when there are none.

    ``epoch`` is the time stamp in seconds that every entry carries.
    """
    files = sorted(folder.glob("*.debug")) if folder.is_dir() else []
    if not files:
        return False
    with (
        open(destination, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=epoch, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in files:
            entry = tarfile.TarInfo(file.name)
            entry.size = file.stat().st_size
            entry.mtime = epoch
            entry.mode = 0o644
            with open(file, "rb") as stream:
                archive.addfile(entry, stream)
    return True


def publish_wheel(wheel: Path, output: Path, record: Mapping[str, Any], debug: Path | None) -> Path:
    """Put wheel, record and debug symbols into ``output``; the wheel comes last, so it is never without them."""
    destination = output / wheel.name
    if debug is not None:
        publish(debug, debug_path(destination))
    else:
        debug_path(destination).unlink(missing_ok=True)
    atomic_json(record_path(destination), dict(record))
    publish(wheel, destination)
    return destination
