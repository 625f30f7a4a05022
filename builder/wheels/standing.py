"""Which wheels stand: the newest of each target with its record, and whether it is the file that was verified.

A skip is as good as its reading of the wheel: name, size, SHA-256, and the archive's directory. What was read once of
a file that has not changed since is remembered, so that hundreds of standing wheels cost no minutes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builder.core.digests import sha256_of_stream
from builder.core.errors import TargetError
from builder.core.untrusted import open_inside
from builder.core.workspace import atomic_write
from builder.wheels.contents import archive_faults
from builder.wheels.inspect import Wheel
from builder.wheels.publication import complete
from builder.wheels.record import RecordError, WheelRecord, read_record

#: How far clocks of machines may be apart.
CLOCKS_APART = timedelta(minutes=10)
#: Nanoseconds that a file must have rested before what was read of it is remembered: a change within the same tick of
#: the clock would not show. https://git-scm.com/docs/racy-git
_RESTED = 2_000_000_000
#: Files that are remembered, and bytes of the note.
_REMEMBERED = 10_000
_NOTE_LIMIT = 16 << 20

Standing = dict[str, tuple[Path, WheelRecord]]


def records(output: Path, warn: Callable[[str], None] = lambda _: None) -> Standing:
    """The newest wheel of each target in ``output`` with its record; ``warn`` is told what is passed over, and why.

    A record from the future is warned about, and is older than all others. What a dead builder has finished and not
    put in its place is put there first.
    """
    complete(output, warn=warn)
    found: Standing = {}
    latest = datetime.now(timezone.utc) + CLOCKS_APART
    for path in sorted(output.glob("[!.]*.whl.json")):
        wheel = path.with_name(path.name.removesuffix(".json"))
        try:
            record = read_record(wheel)
        except RecordError as error:
            warn(f"passed over: {error.message}")
            continue
        except OSError as error:
            warn(f"passed over: {path.name} cannot be read: {error.strerror}")
            continue
        if record.finished_at > latest:
            warn(f"{path.name} is dated {record.finished}, which is to come: it counts as older than all others")
        other = found.get(record.target)
        if other is None or _age(record, latest) > _age(other[1], latest):
            found[record.target] = (wheel, record)
    return found


def _age(record: WheelRecord, latest: datetime) -> tuple[bool, datetime]:
    return record.finished_at <= latest, record.finished_at


def fault_of(wheel: Path, record: WheelRecord, digests: Digests | None = None) -> str | None:
    """What is wrong with a wheel that its record says was verified; None for a whole one."""
    try:
        with open_inside(wheel.parent, wheel.name) as stream:
            state = os.fstat(stream.fileno())
            if (record.wheel, record.size) != (wheel.name, state.st_size):
                return f"{wheel.name} is not the file that was verified"
            known = digests.known(stream) if digests is not None else None
            if (known or sha256_of_stream(stream)) != record.sha256:
                return f"{wheel.name} is not the file that was verified"
            if known is None:
                # Also where the file is what its record says: it may be no wheel of this builder at all.
                with Wheel(wheel, open(os.dup(stream.fileno()), "rb")) as opened:
                    fault = next(archive_faults(opened), None)
                if fault is not None:
                    return f"{wheel.name}: {fault}"
                if digests is not None:
                    digests.remember(stream, record.sha256)
    except TargetError as error:
        return error.message
    except OSError as error:
        return f"{wheel.name}: {error.strerror}"
    return None


class _State(BaseModel):
    """A file as it was when it was read: device, inode, bytes, and both times in nanoseconds."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, stream: BinaryIO) -> _State:
        state = os.fstat(stream.fileno())
        return cls(
            device=state.st_dev,
            inode=state.st_ino,
            size=state.st_size,
            modified=state.st_mtime_ns,
            changed=state.st_ctime_ns,
        )


class _Read(_State):
    """What was read of it."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    version: int = Field(alias="schema", ge=1, le=1)
    files: list[_Read] = Field(max_length=_REMEMBERED)


class Digests:
    """SHA-256 of wheels that were read and found whole, by the state of the file; for several threads.

    ``path`` is the note in which they are kept from run to run, in a folder that no build can write to. It only saves
    time: one that cannot be read is empty, and one that cannot be written is left.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._files: dict[_State, str] = {}
        self._changed = False
        with suppress(OSError, ValidationError), open_inside(path.parent, path.name) as stream:
            for file in _Note.model_validate_json(stream.read(_NOTE_LIMIT)).files:
                self._files[_State(**file.model_dump(exclude={"sha256"}))] = file.sha256

    def known(self, stream: BinaryIO) -> str | None:
        """The digest of an open file that has not changed since it was read."""
        with self._lock:
            return self._files.get(_State.of(stream))

    def remember(self, stream: BinaryIO, sha256: str) -> None:
        """Remember the digest of an open file, unless it was changed a moment ago."""
        state = _State.of(stream)
        if time.time_ns() - max(state.modified, state.changed) < _RESTED:
            return
        with self._lock:
            self._files[state] = sha256
            self._changed = True

    def save(self) -> None:
        """Keep what was read, as far as the disk lets it; the newest files where there are too many."""
        with self._lock:
            if not self._changed:
                return
            files = [_Read(**state.model_dump(), sha256=sha256) for state, sha256 in self._files.items()]
            self._changed = False
        note = _Note(schema=1, files=files[-_REMEMBERED:])
        with suppress(OSError):
            atomic_write(self._path, note.model_dump_json(by_alias=True) + "\n")
