"""The releases of a channel: list them, find and move the latest, prune old ones."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from pydantic import Field

from builder.core.errors import FailureKind, MachineError, RequestError, TargetError
from builder.releases.manifest import (
    LATEST,
    MANIFEST,
    SCHEMA,
    TOMBSTONE,
    Document,
    Manifest,
    Part,
    Sha256,
    now,
    order,
    parse,
    parse_manifest,
    to_bytes,
)
from builder.store import Store, check_part

#: How often a writer looks whether others have written meanwhile, before it gives up.
ROUNDS = 20


class Pointer(Document):
    """``latest.json``: the newest usable release, and the checksum of its manifest."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    release: Part
    manifest: str
    sha256: Sha256


class Tombstone(Document):
    """``pruned.json``: this release is being removed."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    channel: Part
    release: Part
    pruned: str


@dataclass(frozen=True)
class Found:
    """A folder of a channel: a release with its manifest and the manifest's SHA-256, or the problem with it."""

    name: str
    manifest: Manifest | None
    sha256: str = ""
    problem: str = ""
    empty: bool = False


@dataclass
class Pruned:
    """The result of ``prune``: releases removed and kept, and folders left alone, each with the reason."""

    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def releases(store: Store, channel: str) -> list[Found]:
    """List the folders of a channel: releases from new to old, then the others by name, without empty ones."""
    found: list[Found] = []
    others: list[Found] = []
    for entry in store.entries(check_part(channel, "channel")):
        if not entry.folder:
            continue
        one = _look(store, channel, entry.name)
        if one.manifest is not None:
            found.append(one)
        elif not one.empty:
            others.append(one)
    found.sort(key=lambda one: order(one.name, one.manifest.created if one.manifest else ""), reverse=True)
    return found + others


def _look(store: Store, channel: str, name: str) -> Found:
    try:
        if store.size(f"{channel}/{check_part(name)}/{TOMBSTONE}") is not None:
            return Found(name, None, problem="its removal has begun")
        data = store.read(f"{channel}/{name}/{MANIFEST}")
        if data is None:
            problem = "it holds no manifest: a release in the making, or not a release"
            # A removal can die between its last file and the folder itself.
            return Found(name, None, problem=problem, empty=not store.entries(f"{channel}/{name}"))
        return Found(name, parse_manifest(store, channel, name, data), hashlib.sha256(data).hexdigest())
    except RequestError as error:
        return Found(name, None, problem=error.message)


def next_name(store: Store, channel: str, stem: str) -> str:
    """Return the first free name among ``stem``, ``stem.2``, ``stem.3``, ... in the channel."""
    taken = {entry.name for entry in store.entries(check_part(channel, "channel"))}
    number = 1
    while (name := check_part(stem if number == 1 else f"{stem}.{number}", "release")) in taken:
        number += 1
    return name


def read_pointer(store: Store, channel: str) -> Pointer | None:
    """Read latest.json without checking the release; None if nothing has been published yet."""
    name = f"{check_part(channel, 'channel')}/{LATEST}"
    data = store.read(name)
    return None if data is None else parse(Pointer, data, f"{name} in {store.url}")


def latest(store: Store, channel: str, *, patience: float = 2.0) -> Manifest | None:
    """Return the manifest that ``latest`` points to, its checksum verified; None before the first release.

    A manifest is replaced shortly before its pointer, so a mismatch is retried for ``patience`` seconds.
    Raises TargetError (VERIFY) if they still differ then.
    """
    end = time.monotonic() + patience
    while True:
        pointer = read_pointer(store, channel)
        if pointer is None:
            return None
        data = store.read(f"{channel}/{pointer.release}/{MANIFEST}")
        if data is not None and hashlib.sha256(data).hexdigest() == pointer.sha256:
            return parse_manifest(store, channel, pointer.release, data)
        if time.monotonic() >= end:
            stands = "is not there" if data is None else "is not the one that latest.json names"
            raise TargetError(
                f"{channel}/{pointer.release}/{MANIFEST} in {store.url} {stands}",
                kind=FailureKind.VERIFY,
                hint="a writer died between the two: the next run of that release puts it right",
            )
        time.sleep(0.1)


def verify(store: Store, manifest: Manifest, known: Collection[tuple[str, str]] = ()) -> list[str]:
    """List what is wrong with the files of a release; empty if all exist with the right size and checksum.

    For files in ``known`` (name in the store, SHA-256), which the caller has read back, only the size is checked.
    """
    return list(_problems(store, manifest, known))


def _problems(store: Store, manifest: Manifest, known: Collection[tuple[str, str]]) -> Iterator[str]:
    for target in manifest.expected:
        for file in target.files:
            name = f"{manifest.channel}/{manifest.release}/{file.name}"
            size = store.size(name)
            if size is None:
                yield f"{target.target}: {file.name} is not there"
            elif size != file.size:
                yield f"{target.target}: {file.name} has {size} bytes, the manifest says {file.size}"
            elif (name, file.sha256) not in known and store.digest(name) != file.sha256:
                yield f"{target.target}: {file.name} has another SHA-256 than the manifest says"


def move_latest(store: Store, channel: str, known: Collection[tuple[str, str]] = ()) -> dict[str, list[str]]:
    """Point ``latest`` to the newest release that is green and whole; never to an older one than now.

    The pointer is computed from the manifests alone, and again after each write, so that two writers without
    a lock end with the same pointer, whichever writes last. Returns the problems of newer releases that would
    otherwise have been chosen. ``known``: see ``verify``. Raises MachineError after ROUNDS attempts.
    """
    damaged: dict[str, list[str]] = {}
    for _ in range(ROUNDS):
        standing = read_pointer(store, channel)
        wish = _newest(store, channel, standing, known, damaged)
        if wish is None or wish == standing:
            if standing is not None:
                store.point(f"{channel}/latest", standing.release)
            return damaged
        store.write(f"{channel}/{LATEST}", to_bytes(wish))
    raise MachineError(f"other builders keep moving {channel}/{LATEST} in {store.url}", hint="run the command again")


def _newest(
    store: Store,
    channel: str,
    standing: Pointer | None,
    known: Collection[tuple[str, str]],
    damaged: dict[str, list[str]],
) -> Pointer | None:
    known_releases = [found for found in releases(store, channel) if found.manifest is not None]
    if (
        standing is not None
        and standing.release not in {found.name for found in known_releases}
        and store.size(f"{channel}/{standing.release}/{MANIFEST}") is not None
    ):
        # A newer builder's, or damaged: what cannot be read is not overtaken.
        return None
    for found in known_releases:
        if found.manifest is not None and found.manifest.green and found.name not in damaged:
            name = f"{channel}/{found.name}/{MANIFEST}"
            pointer = Pointer(release=found.name, manifest=name, sha256=found.sha256)
            if pointer == standing:
                return pointer
            problems = verify(store, found.manifest, known)
            if not problems:
                return pointer
            damaged[found.name] = problems
        if standing is not None and standing.release == found.name:
            # Older ones do not take its place, whatever has become of it.
            return None
    return None


def prune(store: Store, channel: str, keep: int) -> Pruned:
    """Remove all but the newest ``keep`` releases of a channel, and never the one that ``latest`` points to.

    Only folders with a manifest that this builder can read are removed. A tombstone is written first and
    removed last, and the manifest is removed right after the tombstone is written, so that the next call
    finishes a removal that was interrupted. Raises RequestError when ``keep`` is below 1.
    """
    if keep < 1:
        raise RequestError(f"to keep {keep} releases would remove them all", hint="keep at least 1")
    done = Pruned()
    with store.locked(check_part(channel, "channel")):
        pointer = read_pointer(store, channel)
        number = 0
        for found in releases(store, channel):
            if found.manifest is None:
                problem = _finish(store, channel, found)
                if problem is None:
                    done.removed.append(found.name)
                else:
                    done.left[found.name] = problem
                continue
            number += 1
            if number <= keep or (pointer is not None and pointer.release == found.name):
                done.kept.append(found.name)
                continue
            tombstone = Tombstone(channel=channel, release=found.name, pruned=now())
            store.write(f"{channel}/{found.name}/{TOMBSTONE}", to_bytes(tombstone))
            store.remove(f"{channel}/{found.name}/{MANIFEST}")
            store.remove_folder(f"{channel}/{found.name}", last=TOMBSTONE)
            done.removed.append(found.name)
    return done


def _finish(store: Store, channel: str, found: Found) -> str | None:
    """Finish an interrupted removal; return the reason if ``found`` is not one."""
    try:
        data = store.read(f"{channel}/{check_part(found.name)}/{TOMBSTONE}")
        if data is None:
            return found.problem
        tombstone = parse(Tombstone, data, f"{channel}/{found.name}/{TOMBSTONE} in {store.url}")
    except RequestError as error:
        return error.message
    if (tombstone.channel, tombstone.release) != (channel, found.name):
        return "its tombstone is that of another release"
    store.remove(f"{channel}/{found.name}/{MANIFEST}")
    store.remove_folder(f"{channel}/{found.name}", last=TOMBSTONE)
    return None
