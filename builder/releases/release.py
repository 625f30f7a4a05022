"""One release: expected targets, their results, and the commit that publishes the manifest."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from builder.core.digests import sha256_of
from builder.core.errors import FailureKind, MachineError, RequestError, TargetError
from builder.releases.channel import ROUNDS, move_latest, read_pointer
from builder.releases.manifest import (
    JOURNAL,
    MANIFEST,
    TOMBSTONE,
    Expectation,
    File,
    Journal,
    Manifest,
    Outcome,
    Target,
    Waiver,
    merge,
    now,
    parse,
    read_journals,
    to_bytes,
)
from builder.store import Store, check_part


def fill_command(target: str) -> str:
    """Return the command line that builds one target."""
    return f"python -m builder --target {shlex.quote(target)}"


class Release:
    """``<channel>/<name>/`` in a store, new or continued; any number of builders may work on it.

    What ``expect``, ``add``, ``fail`` and ``waive`` record is in the store when they return, and survives the
    death of this process; ``commit`` writes the manifest, which is what others read.
    """

    def __init__(self, store: Store, channel: str, name: str) -> None:
        self.store = store
        self.channel = check_part(channel, "channel")
        self.name = check_part(name, "release")
        if name == "latest":
            raise RequestError("a release cannot be called 'latest': that is what the newest one is found under")
        self.folder = f"{channel}/{name}"
        self._refuse_pruned()
        began = datetime.now(timezone.utc)
        self._journal = Journal(
            writer=f"{began:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}", started=began.isoformat(timespec="microseconds")
        )
        #: Files that this process has put and read back: name in the store, SHA-256.
        self._verified: set[tuple[str, str]] = set()

    def expect(
        self, targets: Iterable[str], *, required: bool = True, commands: Mapping[str, str] | None = None
    ) -> None:
        """Add targets that the release expects; a target that any writer requires is required.

        ``commands`` gives, by target, the command that builds it, if that is not ``fill_command``. Raises
        RequestError for a new required target of a release that ``latest`` points to.
        """
        standing = self.manifest()
        names = [check_part(target, "target") for target in targets]
        added = [name for name in names if (old := standing.of(name)) is None or (required and not old.required)]
        if required and added and (pointer := read_pointer(self.store, self.channel)) and pointer.release == self.name:
            raise RequestError(
                f"{self.folder} is published as latest: it can no longer require {', '.join(added)}",
                hint="begin another release for them, or expect them without requiring them",
            )
        for name in added:
            command = (commands or {}).get(name) or fill_command(name)
            self._journal.expected[name] = Expectation(required=required, command=command)
        if added:
            self._save()

    def add(
        self,
        target: str,
        files: Sequence[Path],
        *,
        fingerprint: str | None = None,
        sha256: str | None = None,
        status: Literal["built", "skipped"] = "built",
        reason: str = "",
    ) -> Target:
        """Add a target's files, exactly one of them a wheel; ``skipped`` is a wheel that was built earlier.

        ``sha256`` is the wheel's, if the caller knows it already. Adding the same files again only replaces those
        that were lost or damaged in the store. Raises TargetError (VERIFY) when the release holds other files for
        this target, or a file does not arrive whole; RequestError for a target that is not expected.
        """
        manifest = self.manifest()
        standing = self._entry(manifest, target)
        wheels = [file for file in files if file.suffix == ".whl"]
        if len(wheels) != 1:
            raise RequestError(f"{target} needs one wheel, {len(wheels)} were given: {[file.name for file in files]}")
        # The wheel comes first in the manifest and last into the store: who sees it sees its record too.
        ordered = [wheels[0], *sorted((file for file in files if file != wheels[0]), key=lambda file: file.name)]
        described = tuple(
            File(
                name=check_part(file.name),
                sha256=sha256 if sha256 and file == wheels[0] else sha256_of(file),
                size=file.stat().st_size,
            )
            for file in ordered
        )
        if standing.there and standing.files != described:
            raise TargetError(
                f"{self.folder} already holds other files for {target} ({standing.wheel})",
                kind=FailureKind.VERIFY,
                hint="a release keeps what it holds: put the new wheel into another release",
            )
        others = {file.name for entry in manifest.expected if entry.target != target for file in entry.files}
        for file, entry in reversed(list(zip(ordered, described, strict=True))):
            name = f"{self.folder}/{entry.name}"
            # What no other target claims is damaged, or was left by a builder that died before it could say so.
            self.store.put(file, name, entry.sha256, replace=entry.name not in others)
            self._verified.add((name, entry.sha256))
        if not standing.there:
            self._journal.outcomes[target] = Outcome(
                status=status, at=now(), fingerprint=fingerprint, reason=reason, files=described
            )
            self._save()
        return self._expected(target)

    def fail(self, target: str, reason: str, command: str | None = None, *, fingerprint: str | None = None) -> None:
        """Record why a target is missing, and the command that builds it; a target that is there stays.

        ``fingerprint`` is that of the failed build, if it got far enough to have one.
        """
        _check_reason(target, reason)
        if self._expected(target).there:
            return
        self._journal.outcomes[target] = Outcome(
            status="failed", at=now(), fingerprint=fingerprint, reason=reason, command=command
        )
        self._save()

    def waive(self, target: str, reason: str) -> None:
        """Allow the release to do without a target; the manifest carries the reason."""
        _check_reason(target, reason)
        self._expected(target)
        self._journal.waived[target] = Waiver(reason=reason, at=now())
        self._save()

    def manifest(self) -> Manifest:
        """Merge the journals now in the store into a manifest, committed or not."""
        return self._merge(read_journals(self.store, self.channel, self.name))

    def commit(self) -> Manifest:
        """Write the manifest, and move ``latest`` to the newest release that is green and whole.

        Raises TargetError (VERIFY) when only lost or damaged files keep this release from becoming ``latest``;
        the manifest is written then, and ``latest`` does not point to it.
        """
        with self.store.locked(self.channel):
            manifest = self._write_manifest()
            damaged = move_latest(self.store, self.channel, self._verified)
        if self.name in damaged:
            raise TargetError(
                f"latest was not moved to {self.folder} in {self.store.url}: files are not what its manifest says",
                kind=FailureKind.VERIFY,
                hint="add the targets named above again: lost files return, damaged ones are replaced",
                details="\n".join(damaged[self.name]),
            )
        return manifest

    def _write_manifest(self) -> Manifest:
        """Write the merged journals, and again until no other writer has changed a journal meanwhile.

        Of two writers without a lock, the one that reads the journals later has read the other's: either it
        writes last, or the other finds its journal when it looks again, and writes once more.
        """
        name = f"{self.folder}/{MANIFEST}"
        for _ in range(ROUNDS):
            journals = read_journals(self.store, self.channel, self.name)
            manifest = self._merge(journals)
            if not manifest.expected:
                raise RequestError(f"the release {self.folder} expects no target", hint="say what it is to hold first")
            self._refuse_pruned()
            data = manifest.to_bytes()
            if self.store.read(name) != data:
                self.store.write(name, data)
            if read_journals(self.store, self.channel, self.name) == journals:
                return manifest
        raise MachineError(f"other builders keep changing {self.folder} in {self.store.url}", hint="run it again")

    def _merge(self, journals: Mapping[str, bytes]) -> Manifest:
        known = [parse(Journal, data, f"{name} in {self.store.url}") for name, data in journals.items()]
        return merge(self.channel, self.name, known)

    def _expected(self, target: str) -> Target:
        return self._entry(self.manifest(), target)

    def _entry(self, manifest: Manifest, target: str) -> Target:
        found = manifest.of(check_part(target, "target"))
        if found is None:
            raise RequestError(
                f"{target} is not a target of the release {self.folder}", hint="only expected targets can be filled in"
            )
        return found

    def _save(self) -> None:
        self.store.write(f"{self.folder}/{JOURNAL}/{self._journal.writer}.json", to_bytes(self._journal))

    def _refuse_pruned(self) -> None:
        if self.store.size(f"{self.folder}/{TOMBSTONE}") is not None:
            raise RequestError(f"the release {self.folder} in {self.store.url} is being removed", hint="begin another")


def _check_reason(target: str, reason: str) -> None:
    if not reason.strip():
        raise RequestError(f"a hole needs its reason: none was given for {target}")
