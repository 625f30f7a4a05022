"""What the nights before this one hold: wheels that serve again, and failures that would come again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from pydantic import JsonValue

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.releases import Manifest, latest, releases
from builder.releases import Target as Entry
from builder.store import Store
from builder.target.fingerprint import fingerprint
from builder.target.inputs import VERSION_SUFFIX, Inputs
from builder.wheels.record import RecordError, WheelRecord

#: Beside a night's manifest: what its failed targets were made from.
FAILURES = "failures.json"
SCHEMA = 1
#: Failures that the same inputs lead to again, where a compiler, code generator or verifier (auditwheel, too) said so:
#: ``TargetError.conclusive``. They come after hours; other kinds come early or may pass.
LASTING = frozenset({FailureKind.CODE_GENERATION, FailureKind.COMPILE, FailureKind.REPAIR, FailureKind.VERIFY})
_KINDS = frozenset(kind.value for kind in LASTING)


@dataclass(frozen=True)
class Wheel:
    """A wheel of an earlier night: the night, its entry there, the wheel's record."""

    night: str
    entry: Entry
    record: WheelRecord

    @property
    def origin(self) -> str:
        """In words, where it is from."""
        # A wheel that was carried over before keeps what was said of it then.
        return self.entry.reason if self.entry.status == "skipped" else f"built in the night {self.night}"


@dataclass(frozen=True)
class Failure:
    """Why a target failed: its inputs' fingerprint, kind and message, and the night in which that happened."""

    fingerprint: str
    kind: str
    reason: str
    night: str


def without_suffix(inputs: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Recorded inputs but for what the wheel is called; of the same ones, two nights' wheels differ in nothing else."""
    return {name: value for name, value in inputs.items() if name != VERSION_SUFFIX}


class Earlier:
    """The published nights of a channel, from new to old. Records are read when they are asked for, each once."""

    def __init__(self, store: Store, channel: str) -> None:
        self._store = store
        self._channel = channel
        self.nights: list[Manifest] = [found.manifest for found in releases(store, channel) if found.manifest]
        self._records: dict[str, WheelRecord | None] = {}
        self._failures: dict[str, Failure] | None = None

    @property
    def newest(self) -> Manifest | None:
        """The newest night, green or not."""
        return self.nights[0] if self.nights else None

    def latest(self) -> Manifest | None:
        """The night that ``latest`` points to; None also where pointer and manifest do not agree."""
        try:
            return latest(self._store, self._channel)
        except TargetError:
            return None

    def serving(self, target: str, inputs: Inputs, *, accept_mismatch: bool) -> Wheel | None:
        """The newest wheel of ``target`` that was made from ``inputs`` (without suffix) and is still there."""
        wanted = inputs.fingerprint
        for wheel in self._wheels(target):
            made_from = wheel.record.inputs
            if made_from is None or fingerprint(without_suffix(made_from)) != wanted:
                continue
            name = f"{self._channel}/{wheel.night}/{wheel.entry.wheel}"
            if (accept_mismatch or not wheel.record.mismatches) and self._store.size(name) == wheel.entry.size:
                return wheel
        return None

    def last(self, target: str) -> Wheel | None:
        """The newest wheel of ``target``, whatever it was made from."""
        return next(self._wheels(target), None)

    def failure(self, target: str) -> Failure | None:
        """Why ``target`` is not in the newest night, where that will not pass by itself."""
        if self._failures is None:
            self._failures = self._read_failures()
        return self._failures.get(target)

    def _wheels(self, target: str) -> Iterator[Wheel]:
        for manifest in self.nights:
            entry = manifest.of(target)
            if entry is not None and entry.there:
                record = self._record(manifest.release, entry)
                if record is not None:
                    yield Wheel(manifest.release, entry, record)

    def _record(self, night: str, entry: Entry) -> WheelRecord | None:
        """The record of a wheel; the same wheel in several nights has the same one. None for one that is none."""
        key = str(entry.sha256)
        if key not in self._records:
            name = f"{entry.wheel}.json"
            found = None
            with suppress(RecordError, RequestError):
                found = WheelRecord.from_json(self._store.read(f"{self._channel}/{night}/{name}") or b"", name)
            whole = found is not None and (found.target, found.sha256) == (entry.target, entry.sha256)
            self._records[key] = found if whole else None
        return self._records[key]

    def _read_failures(self) -> dict[str, Failure]:
        if self.newest is None:
            return {}
        content: dict[str, Any] = {}
        with suppress(RequestError):
            content = _object(self._store.read(f"{self._channel}/{self.newest.release}/{FAILURES}"))
        names = [field.name for field in fields(Failure)]
        noted = content.get("failures") if content.get("schema") == SCHEMA else None
        return {
            target: Failure(**{name: str(values[name]) for name in names})
            for target, values in (noted if isinstance(noted, dict) else {}).items()
            if isinstance(values, dict) and set(names) <= set(values) and values["kind"] in _KINDS
        }


def write_failures(store: Store, channel: str, night: str, failures: Mapping[str, Failure]) -> None:
    """Note beside a night's manifest what its failed targets were made from."""
    content = {"schema": SCHEMA, "failures": {target: asdict(failure) for target, failure in failures.items()}}
    store.write(f"{channel}/{night}/{FAILURES}", (json.dumps(content, indent=2) + "\n").encode())


def _object(data: bytes | None) -> dict[str, Any]:
    """A JSON object; an empty one for whatever else stands there."""
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
