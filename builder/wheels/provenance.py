"""What lies beside a wheel: its record, and its debug symbols as an archive."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.workspace import atomic_json, open_inside, publish

#: Version of the record's format.
SCHEMA = 1


def record_path(wheel: Path) -> Path:
    """``<wheel>.json``, beside the wheel."""
    return wheel.with_name(wheel.name + ".json")


def debug_path(wheel: Path) -> Path:
    """``<wheel>.debug.tar.gz``, beside the wheel."""
    return wheel.with_name(wheel.name + ".debug.tar.gz")


def other_fingerprint(wheel: Path, fingerprint: str | None) -> str | None:
    """The fingerprint in the record of the wheel that stands there, if it is another one.

    ``unknown`` where a wheel stands without a record.
    """
    if not wheel.exists():
        return None
    try:
        standing = str(json.loads(record_path(wheel).read_text())["fingerprint"])
    except (OSError, ValueError, KeyError):
        return "unknown"
    return standing if standing != fingerprint else None


def archive_debug_symbols(tree: Path, folder: str, destination: Path, epoch: int) -> bool:
    """Pack the ``*.debug`` files of ``folder`` (relative to ``tree``); same input, same bytes.

    ``epoch`` is the time stamp in seconds that every entry carries. False when there are none; links are
    not followed, because the build that made them may have pointed them anywhere.
    """
    place = tree / folder
    if place.resolve() != tree.resolve() / folder or not place.is_dir():
        return False
    names = sorted(file.name for file in place.glob("*.debug") if not file.is_symlink())
    if not names:
        return False
    with (
        open(destination, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=epoch, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in names:
            with open_inside(tree, f"{folder}/{name}") as stream:
                entry = tarfile.TarInfo(name)
                entry.size = os.fstat(stream.fileno()).st_size
                entry.mtime = epoch
                entry.mode = 0o644
                archive.addfile(entry, stream)
    return True


def publish_wheel(wheel: Path, output: Path, record: Mapping[str, Any], debug: Path | None) -> Path:
    """Put debug symbols, wheel and record into ``output``, each whole or not at all.

    The record comes last and an older one goes first: a wheel with a record is a finished one.
    """
    destination = output / wheel.name
    record_path(destination).unlink(missing_ok=True)
    debug_path(destination).unlink(missing_ok=True)
    for stale in output.glob(f".{wheel.name}*"):
        # Beside-files of a builder that was killed: whoever builds this wheel holds the target's lock.
        stale.unlink()
    if debug is not None:
        publish(debug, debug_path(destination))
    publish(wheel, destination)
    atomic_json(record_path(destination), dict(record))
    return destination
