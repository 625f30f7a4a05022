"""Restore the ledger from the records beside wheels."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from pydantic import JsonValue, ValidationError

from builder.core.errors import BuilderError, RequestError
from builder.core.untrusted import remove_tree
from builder.core.workspace import fsync_folder
from builder.ledger.database import explained, first_error, lock
from builder.ledger.entries import Count, Entry, Moment, PhaseEntry, Text
from builder.ledger.ledger import Ledger
from builder.progress.reporter import Reporter

#: The reason of restored entries: what the ledger said before is not known.
RESTORED = "restored from the wheel's record"

_PREFIX = ".ledger-"


class _Record(Entry):
    """The fields that a complete record beside a wheel must have."""

    wheel: Text
    sha256: Text
    fingerprint: Text
    phases: tuple[PhaseEntry, ...]
    finished: Moment
    size: Count


def rebuild(
    path: Path,
    output: Path,
    reporter: Reporter,
    read: Callable[[Path], Mapping[str, JsonValue]],
    *,
    missing_ok: bool = False,
) -> int:
    """Rebuild the ledger from the wheels' records in ``output``; return the number of targets restored.

    ``read`` returns the record beside a wheel, and raises BuilderError or OSError if there is none.
    Failed and skipped targets have no records. An existing ledger is moved aside, whatever its state. Broken records,
    and records without their wheel, are left out with a warning. Raises RequestError if ``output`` does not exist,
    unless ``missing_ok`` makes that an empty folder; MachineError when a builder is writing to the ledger.
    """
    if not output.is_dir() and not (missing_ok and not os.path.lexists(output)):
        raise RequestError(f"there is no folder of wheels {output}", hint="name the folder that has them with --output")
    path = path.absolute()
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        release = lock(path, alone=True)
        try:
            for left in path.parent.glob(f"{_PREFIX}*"):
                remove_tree(left)  # by a rebuild that was killed
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=_PREFIX) as folder:
                entries = list(_read_records(output, reporter, read))
                fresh = Path(folder, path.name)
                with Ledger.open(fresh) as ledger:
                    ledger.add(*entries)
                aside = _move_aside(path)
                os.replace(fresh, path)
            fsync_folder(path.parent)
        finally:
            release()
    if aside is not None:
        reporter.message(f"the ledger that was there is now {aside}")
    return len({(entry.run, entry.id) for entry in entries})


def _read_records(output: Path, reporter: Reporter, read: Callable[[Path], Mapping[str, JsonValue]]) -> Iterator[Entry]:
    for name in sorted(file.name for file in output.glob("*.whl.json")):
        try:
            yield _entry(read(output / name.removesuffix(".json")), output)
        except ValidationError as error:
            reporter.warning(f"{output / name} is left out: {first_error(error)}")
        except BuilderError as error:
            reporter.warning(f"{output / name} is left out: {error.message}")
        except OSError as error:
            reporter.warning(f"{output / name} is left out: {error.strerror or error}")
        except ValueError as error:
            reporter.warning(f"{output / name} is left out: {error}")


def _entry(record: Mapping[str, JsonValue], output: Path) -> Entry:
    """Convert a record to an entry. Raises ValueError or OSError unless its wheel stands beside it."""
    more = {"id": record["target"], "status": "built", "reason": RESTORED, "log": None, "failure": None}
    entry = _Record.model_validate({**record, **more})
    try:
        wheel = (output / entry.wheel).stat()
    except FileNotFoundError:
        raise ValueError("its wheel is gone") from None
    if not stat.S_ISREG(wheel.st_mode) or wheel.st_size != entry.size:
        raise ValueError(f"its wheel has {wheel.st_size} bytes, not {entry.size}")
    return Entry.model_validate(entry.model_dump(exclude={"size"}))


def _move_aside(path: Path) -> Path | None:
    """Rename the ledger and SQLite's files beside it; return the new name, or None if there was no ledger."""
    now = datetime.now(timezone.utc)
    aside = path.with_name(f"{path.stem}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}{path.suffix}")
    existed = os.path.lexists(path)
    # The database goes last: a log that stayed alone would be read into the next one.
    for suffix in ("-wal", "-shm", ""):
        if os.path.lexists(f"{path}{suffix}"):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside if existed else None
