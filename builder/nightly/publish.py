"""From finished wheels to a published night."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.core.digests import sha256_of
from builder.core.errors import FailureKind, TargetError
from builder.matrix.channels import ChosenChannel
from builder.nightly.previous import Failure, Wheel, write_failures
from builder.progress.reporter import Reporter
from builder.releases import Manifest, Release
from builder.store import Store
from builder.store.folder import FolderStore
from builder.target.deadlines import deadline
from builder.wheels.provenance import OLD_DEBUG_SUFFIX, debug_path, new_debug_name, rename_old_debug
from builder.wheels.record import WheelRecord, record_path


@dataclass(frozen=True)
class Ready:
    """A wheel of a night: its files on this machine, the wheel first, as ``Release.add`` takes them."""

    files: tuple[Path, ...]
    sha256: str
    fingerprint: str | None
    status: Literal["built", "skipped"]
    reason: str = ""

    @property
    def wheel(self) -> Path:
        """The wheel itself."""
        return self.files[0]


@dataclass(frozen=True)
class Hole:
    """Why a target is not in a night, and the fingerprint of the build that failed, where there was one."""

    reason: str
    fingerprint: str | None = None


def from_bench(wheel: Path, record: WheelRecord) -> Ready:
    """A wheel that was built here. Raises TargetError (VERIFY) where its record is not beside it."""
    rename_old_debug(wheel)
    beside = [path for path in (record_path(wheel), debug_path(wheel)) if path.exists()]
    if record_path(wheel) not in beside:
        raise TargetError(f"{wheel.name} has no record", kind=FailureKind.VERIFY)
    return Ready((wheel, *beside), record.sha256, record.fingerprint, "built")


def from_night(store: Store, channel: str, wheel: Wheel, folder: Path) -> Ready:
    """A wheel of an earlier night, brought here where the store is elsewhere.

    Raises TargetError (VERIFY) where a file is lost or damaged.
    """
    entry = wheel.entry
    files = []
    for file in entry.files:
        name = f"{channel}/{wheel.night}/{file.name}"
        if isinstance(store, FolderStore) and not file.name.endswith(OLD_DEBUG_SUFFIX):
            if store.digest(name) != file.sha256:
                raise TargetError(f"{name} in {store.url} is damaged or lost", kind=FailureKind.VERIFY)
            files.append(store.root / name)
            continue
        # The next night has the name that no installer takes for a distribution.
        local = folder / new_debug_name(file.name)
        # What was brought before this night was interrupted need not come again.
        if not local.exists() or sha256_of(local) != file.sha256:
            store.get(name, local, file.sha256)
        files.append(local)
    return Ready(tuple(files), str(entry.sha256), entry.fingerprint, "skipped", wheel.origin)


def publish(
    release: Release,
    chosen: ChosenChannel,
    ready: Mapping[str, Ready],
    holes: Mapping[str, Hole],
    failures: Mapping[str, Failure],
    waive: Mapping[str, str],
    reporter: Reporter,
    limit: float,
) -> Manifest:
    """Put the wheels of a night into the store, then its manifest; ``latest`` moves if nothing required is missing.

    ``holes`` says why targets are not there, ``waive`` why the night may do without them. Called again after it was
    interrupted, it goes on with what is missing. No wheel may take longer than ``limit`` seconds.
    """
    ids = [target.id for target in chosen.targets]
    commands = {name: fill_command(chosen.name) for name in ids}
    release.expect([name for name in ids if name in chosen.required], commands=commands)
    release.expect([name for name in ids if name not in chosen.required], required=False, commands=commands)
    with reporter.task(f"publishing {release.folder}", total=len(ready)) as task:
        for number, (name, wheel) in enumerate(ready.items()):
            task.update(number, detail=wheel.wheel.name)
            with deadline(limit):
                release.add(
                    name,
                    wheel.files,
                    fingerprint=wheel.fingerprint,
                    sha256=wheel.sha256,
                    status=wheel.status,
                    reason=wheel.reason,
                )
    for name, hole in holes.items():
        release.fail(name, hole.reason, commands[name], fingerprint=hole.fingerprint)
    for name in holes.keys() & waive.keys():
        release.waive(name, waive[name])
    write_failures(release.store, release.channel, release.name, failures)
    return release.commit()


def fill_command(channel: str) -> str:
    """The command that fills the holes of a channel's newest night."""
    return f"python -m builder nightly {channel} --retry"
