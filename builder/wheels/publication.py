"""How a wheel, its record and its debug symbols get to where wheels are published, whatever happens meanwhile.

No file system renames several files at once. Hence a note: as soon as every file of a publication waits beside its
place, durably, the record's waiting name is changed into one that says so. From that rename on the new wheel is
published, and whoever looks next gives its files the names that they lack; before it nothing has changed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from builder.core.cancellation import Attempt
from builder.core.workspace import fsync_folder
from builder.wheels.provenance import debug_path, old_debug_path
from builder.wheels.record import WheelRecord, record_path

#: A record whose wheel and debug symbols wait for their names, as it does itself: ``.<wheel>.json.<token>.whole``.
_NOTE = re.compile(r"\.(?P<wheel>[^/]+\.whl)\.json\.(?P<token>[0-9a-f]{8})\.whole")


def publish_wheel(
    wheel: Path, output: Path, record: WheelRecord, debug: Path | None, attempt: Attempt | None = None
) -> Path:
    """Put debug symbols, wheel and record into ``output``, all of them or none.

    Everything is written beside and made durable before anything gets its name, and what stood there stays until then.
    After an error in between, or a death, ``complete`` does the rest. Whoever publishes a wheel holds its target's
    lock. ``attempt`` says whether anybody waits for it, and is told before it is published. Raises OSError.
    """
    attempt = attempt or Attempt()
    place = output / wheel.name
    output.mkdir(parents=True, exist_ok=True)
    complete(output, wheel.name)
    _sweep(place)
    token = secrets.token_hex(4)
    try:
        with open(_waiting(debug_path(place), token), "xb") as writer:
            # An empty file says that there are none, so that those of the wheel before go.
            _fill(writer.fileno(), debug, attempt)
        with open(_waiting(place, token), "xb") as writer:
            _fill(writer.fileno(), wheel, attempt)
        with open(_waiting(record_path(place), token), "xb") as writer:
            writer.write(record.to_json().encode())
            writer.flush()
            os.fsync(writer.fileno())
        fsync_folder(output)
        attempt.decide()
        os.replace(_waiting(record_path(place), token), _note(place, token))
    except BaseException:
        # Its own alone: one that nobody waited for any more may come to this while another publishes.
        with suppress(OSError):
            for path in (debug_path(place), place, record_path(place)):
                _remove(_waiting(path, token))
        raise
    _give_names(place, token)
    return place


def complete(output: Path, wheel: str | None = None, warn: Callable[[str], None] | None = None) -> None:
    """Give the files of publications that were cut short their names: all, or those of one ``wheel``.

    It does no harm where another builder does the same meanwhile. ``warn`` is told of what cannot be put; without it
    OSError is raised.
    """
    try:
        names = os.listdir(output)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        note = _NOTE.fullmatch(name)
        if note is None or wheel not in (None, note["wheel"]):
            continue
        try:
            _give_names(output / note["wheel"], note["token"])
        except OSError as error:
            if warn is None:
                raise
            warn(f"{note['wheel']} is finished and cannot be put in its place: {error.strerror}")


def _give_names(place: Path, token: str) -> None:
    """Put what waits in its place, the record last: until then the note is there, and all of this can be done again."""
    fsync_folder(place.parent)
    with suppress(FileNotFoundError):
        os.replace(_waiting(place, token), place)
    debug = _waiting(debug_path(place), token)
    with suppress(FileNotFoundError):
        if debug.lstat().st_size:
            os.replace(debug, debug_path(place))
        else:
            _remove(debug_path(place))
            _remove(debug)
    _remove(old_debug_path(place))
    fsync_folder(place.parent)
    with suppress(FileNotFoundError):
        os.replace(_note(place, token), record_path(place))
    fsync_folder(place.parent)


def _fill(descriptor: int, source: Path | None, attempt: Attempt) -> None:
    """Copy a file, durably."""
    if source is not None:
        with open(source, "rb") as reader, open(descriptor, "wb", closefd=False) as writer:
            shutil.copyfileobj(_Watched(reader, attempt), writer, 1 << 20)
    os.fsync(descriptor)


class _Watched:
    """A file that is read for as long as somebody waits for it."""

    def __init__(self, stream: BinaryIO, attempt: Attempt) -> None:
        self._stream = stream
        self._attempt = attempt

    def read(self, size: int = -1, /) -> bytes:
        """Read at most ``size`` bytes. Raises KeyboardInterrupt as ``Attempt.go_on`` does."""
        self._attempt.go_on()
        return self._stream.read(size)


def _waiting(place: Path, token: str) -> Path:
    """Where a file of the publication ``token`` waits for its name."""
    return place.with_name(f".{place.name}.{token}")


def _note(place: Path, token: str) -> Path:
    """The record of a wheel, which waits and says that all else does."""
    return place.with_name(f".{record_path(place).name}.{token}.whole")


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _sweep(place: Path) -> None:
    """Remove what waits beside a wheel and is not whole."""
    for name in os.listdir(place.parent):
        if name.startswith(f".{place.name}."):
            _remove(place.with_name(name))
