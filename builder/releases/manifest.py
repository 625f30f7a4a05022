"""The records of a release: a journal for each writer, and the manifest that merges them.

Each writer has its own journal, so that two writers never overwrite each other, even where a store has
no locks. The manifest is computed from the journals and from nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from builder.core.errors import RequestError
from builder.store import Store, check_part

#: Version of manifest, journal and latest.json.
SCHEMA = 1
MANIFEST = "manifest.json"
JOURNAL = "journal"
#: Stands in a release from the moment its removal begins.
TOMBSTONE = "pruned.json"
LATEST = "latest.json"

Status = Literal["built", "skipped", "failed", "waived", "missing"]


def now() -> str:
    """Return the current time as RFC 3339 in microseconds, so that reports sort by time."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _part(value: str) -> str:
    try:
        return check_part(value)
    except RequestError as error:
        raise ValueError(error.message) from None


#: A file name or a target: it can name nothing outside its folder.
Part = Annotated[str, AfterValidator(_part)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Document(BaseModel):
    """What all documents of a release have in common."""

    # Keys that a later builder adds within the same schema do not stop this one.
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class File(Document):
    """One file of a release; ``size`` in bytes."""

    name: Part
    sha256: Sha256
    size: int = Field(ge=0)


class Expectation(Document):
    """A target that a release expects, and the command that builds it."""

    required: bool = True
    command: str


class Outcome(Document):
    """The result of a target at the time ``at``; it is there if it has files, the wheel first."""

    status: Literal["built", "skipped", "failed"]
    at: str
    fingerprint: str | None = None
    reason: str = ""
    command: str | None = None
    files: tuple[File, ...] = ()


class Waiver(Document):
    """The reason why a release may do without a target."""

    reason: str
    at: str


class Journal(Document):
    """What one writer has reported; only that writer changes it."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    writer: Part
    started: str
    expected: dict[Part, Expectation] = {}
    outcomes: dict[Part, Outcome] = {}
    waived: dict[Part, Waiver] = {}


class Target(Document):
    """A target in a manifest; its files are there if and only if the status is ``built`` or ``skipped``."""

    target: Part
    required: bool
    status: Status
    wheel: Part | None = None
    sha256: Sha256 | None = None
    size: int | None = None
    fingerprint: str | None = None
    reason: str = ""
    command: str
    files: tuple[File, ...] = ()

    @property
    def there(self) -> bool:
        """True when the release holds its wheel."""
        return self.wheel is not None


class Manifest(Document):
    """A release: every expected target and its result."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    release: Part
    channel: Part
    created: str
    complete: bool
    expected: tuple[Target, ...]
    waived: dict[Part, str] = {}

    @property
    def holes(self) -> list[Target]:
        """Targets that are not there, waived ones too."""
        return [target for target in self.expected if not target.there]

    @property
    def blocking(self) -> list[Target]:
        """Required targets that are neither there nor waived: they keep ``latest`` where it is."""
        return [target for target in self.holes if target.required and target.status != "waived"]

    @property
    def green(self) -> bool:
        """True when nothing blocks and at least one target is there."""
        return not self.blocking and any(target.there for target in self.expected)

    def of(self, target: str) -> Target | None:
        """Return the entry of one target; None if the release does not expect it."""
        return next((entry for entry in self.expected if entry.target == target), None)

    def to_bytes(self) -> bytes:
        """Serialize the manifest as it is stored; equal content gives equal bytes."""
        return to_bytes(self)


AnyDocument = TypeVar("AnyDocument", bound=Document)


def to_bytes(document: Document) -> bytes:
    """Serialize a document as readable JSON."""
    return (json.dumps(document.model_dump(by_alias=True), indent=2, ensure_ascii=False) + "\n").encode()


def parse(kind: type[AnyDocument], data: bytes, place: str) -> AnyDocument:
    """Parse a document; ``place`` names it in messages. Raises RequestError if it is damaged or not the builder's."""
    try:
        content = json.loads(data)
        schema = content.get("schema") if isinstance(content, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise RequestError(
                f"{place} has schema {schema}, this builder knows {SCHEMA}",
                hint="a newer builder wrote it: use that one",
            )
        if schema != SCHEMA:
            raise RequestError(f"{place} is not of this builder's making: it has no schema {SCHEMA}")
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{place} cannot be read: {key}: {first['msg']}") from None
    except ValueError as error:
        raise RequestError(f"{place} cannot be read: {error}") from None


def merge(channel: str, release: str, journals: Iterable[Journal]) -> Manifest:
    """Merge the journals of a release, in any order, into its manifest."""
    known = sorted(journals, key=lambda journal: (journal.started, journal.writer))
    expected: dict[str, Expectation] = {}
    outcomes: dict[str, list[Outcome]] = {}
    waivers: dict[str, Waiver] = {}
    for journal in known:
        for name, new in journal.expected.items():
            old = expected.get(name)
            expected[name] = new if old is None else old.model_copy(update={"required": old.required or new.required})
        for name, outcome in journal.outcomes.items():
            outcomes.setdefault(name, []).append(outcome)
        for name, waiver in journal.waived.items():
            if name not in waivers or waivers[name].at < waiver.at:
                waivers[name] = waiver
    targets = tuple(
        _target(name, expected[name], outcomes.get(name, []), waivers.get(name)) for name in sorted(expected)
    )
    return Manifest(
        release=release,
        channel=channel,
        created=known[0].started if known else now(),
        complete=bool(targets) and all(target.there for target in targets),
        expected=targets,
        waived={target.target: waivers[target.target].reason for target in targets if target.status == "waived"},
    )


def _target(name: str, expectation: Expectation, outcomes: list[Outcome], waiver: Waiver | None) -> Target:
    # What is there stays: a release never takes back a wheel. Otherwise the last word counts.
    there = [outcome for outcome in outcomes if outcome.files]
    last = min(there, key=_moment) if there else max(outcomes, key=_moment, default=None)
    common: dict[str, Any] = {"target": name, "required": expectation.required}
    command = (last.command if last is not None else None) or expectation.command
    if last is not None and last.files:
        wheel = last.files[0]
        return Target(
            **common, status=last.status, wheel=wheel.name, sha256=wheel.sha256, size=wheel.size,
            fingerprint=last.fingerprint, reason=last.reason, command=command, files=last.files,
        )  # fmt: skip
    reason = last.reason if last is not None else "nothing was reported of it"
    status: Status = last.status if last is not None else "missing"
    if waiver is not None:
        status, reason = "waived", f"{waiver.reason} ({status}: {reason})"
    fingerprint = last.fingerprint if last is not None else None
    return Target(**common, status=status, fingerprint=fingerprint, reason=reason, command=command)


def _moment(outcome: Outcome) -> tuple[str, str]:
    return outcome.at, outcome.files[0].sha256 if outcome.files else ""


def read_manifest(store: Store, channel: str, release: str) -> Manifest:
    """Read the manifest of a release. Raises RequestError if it is missing or not this builder's."""
    name = f"{check_part(channel, 'channel')}/{check_part(release, 'release')}/{MANIFEST}"
    data = store.read(name)
    if data is None:
        raise RequestError(f"there is no {name} in {store.url}", hint="check channel and release")
    return parse_manifest(store, channel, release, data)


def parse_manifest(store: Store, channel: str, release: str, data: bytes) -> Manifest:
    """Parse ``data``, read from the folder of that release, as its manifest. Raises RequestError."""
    place = f"{channel}/{release}/{MANIFEST} in {store.url}"
    manifest = parse(Manifest, data, place)
    if (manifest.channel, manifest.release) != (channel, release):
        raise RequestError(f"{place} is that of {manifest.channel}/{manifest.release}: it was moved")
    return manifest


def read_journals(store: Store, channel: str, release: str) -> Mapping[str, bytes]:
    """Read every journal of a release: content by name in the store."""
    folder = f"{channel}/{release}/{JOURNAL}"
    found = {}
    for entry in store.entries(folder):
        if not entry.folder and entry.name.endswith(".json"):
            data = store.read(f"{folder}/{entry.name}")
            if data is not None:
                found[f"{folder}/{entry.name}"] = data
    return found


def order(release: str, created: str = "") -> tuple[Any, ...]:
    """Return a sort key from old to new: the date in the name, else that of creation, then the name, 2 before 10."""
    dated = re.match(r"\d{4}-\d\d-\d\d", release)
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", release))
    return (dated[0] if dated else created[:10], parts)
