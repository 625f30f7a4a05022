"""What a worker left in the store: fetched, checked, and published like a wheel that was built here."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from builder.cluster.messages import StoredFile
from builder.core.errors import BuilderError, FailureKind, TargetError
from builder.core.results import TargetResult
from builder.core.untrusted import open_inside, remove_tree
from builder.core.workspace import Workspace
from builder.progress.reporter import TargetReporter
from builder.sources.prepared_record import Origin
from builder.store import Store
from builder.target.fingerprint import fingerprint
from builder.wheels import provenance
from builder.wheels.publication import publish_wheel
from builder.wheels.record import RECORD_LIMIT, WheelRecord

#: Seconds to wait for another builder of this workspace that publishes the same target.
LOCK_WAIT = 60.0
#: What is in the store, by what it is.
Files = Mapping[str, StoredFile]


def fetch(
    files: Files, result: TargetResult, origin: Origin, store: Store, workspace: Workspace,
    reporter: TargetReporter,
) -> None:  # fmt: skip
    """Bring log and wheel of ``result`` here and publish the wheel; ``origin`` is what it had to be built from.

    Raises BuilderError where the store fails or what it holds is not what was asked for.
    """
    if not files:
        return
    with result.phase("download"), reporter.phase("download"):
        for what, log in (("image-log", result.log.with_suffix(".image.log")), ("log", result.log)):
            if what in files:
                _append(files[what], log, store, reporter)
        if "wheel" in files:
            _publish(files, result, origin, store, workspace, reporter)


def _append(file: StoredFile, log: Path, store: Store, reporter: TargetReporter) -> None:
    """Add a log to that of earlier attempts. That it cannot be had is no reason to lose a wheel."""
    part = log.with_name(f"{log.name}.part")
    try:
        store.get(file.name, part, file.sha256)
        with open(part, "rb") as source, open(log, "ab") as destination:
            shutil.copyfileobj(source, destination)
    except BuilderError as error:
        reporter.warning(f"its log did not come from the store: {error.message}")
    finally:
        part.unlink(missing_ok=True)


def _publish(
    files: Files, result: TargetResult, origin: Origin, store: Store, workspace: Workspace,
    reporter: TargetReporter,
) -> None:  # fmt: skip
    folder = result.log.with_suffix(".wheel")
    name = PurePosixPath(files["wheel"].name).name
    try:
        for what in ("record", "wheel", "debug"):
            if what in files:
                store.get(files[what].name, folder / what, files[what].sha256)
        record = _checked(folder / "record", name, files["wheel"].sha256, result, origin)
        wheel = (folder / "wheel").rename(folder / name)
        debug = folder / "debug"
        with workspace.locked(f"target-{result.id}", wait_seconds=LOCK_WAIT):
            replaced = provenance.other_fingerprint(workspace.output / name, result.fingerprint)
            if replaced is not None:
                text = f"{name} replaces one that was built from other inputs (fingerprint {replaced[:12]})"
                result.warnings.append(text)
                reporter.warning(text)
            result.wheel = publish_wheel(wheel, workspace.output, record, debug if debug.exists() else None)
        result.sha256 = files["wheel"].sha256
    finally:
        remove_tree(folder)


def _checked(path: Path, name: str, sha256: str, result: TargetResult, origin: Origin) -> WheelRecord:
    """The record of the wheel ``name``. Raises TargetError (VERIFY) where it is not the wheel that was asked for."""
    with open_inside(path.parent, path.name) as stream:
        data = stream.read(RECORD_LIMIT)
    record = WheelRecord.from_json(data, f"{name}.json")
    said = (record.target, record.wheel, record.sha256, record.fingerprint)
    sound = record.inputs is not None and fingerprint(record.inputs) == record.fingerprint
    if said != (result.id, name, sha256, result.fingerprint) or not sound:
        raise TargetError(f"{name} came with a record that is not its own", kind=FailureKind.VERIFY)
    sources = record.inputs.get("sources") if record.inputs is not None else None
    if not isinstance(sources, dict):
        raise TargetError(f"the record of {name} names no sources", kind=FailureKind.VERIFY)
    made_of = origin.to_json()
    other = [part for part, value in sources.items() if part not in made_of or value != made_of[part]]
    if other:
        raise TargetError(
            f"{name} was built from other sources than this machine asked for: {', '.join(other)}",
            kind=FailureKind.VERIFY,
            hint="the worker's builder comes with other patches, or another version of it; install the same everywhere",
        )
    return record
