"""Entries of the cache: one zip file for each generation, named ``<key>.<SHA-256 of the file>.zip``.

It holds ``entry.json`` (inputs, the files that were read, what was done to the tree, by which Python, in which time)
and the files that were written, ``files/<number>``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .key import SCHEMA, differences
from .tree import SKIPPED, Item, Unfit, digest

DESCRIPTION = "entry.json"
#: Files of an entry: their most, and the bytes that all of them may unpack to. Upstream's have 600 and 60 MB.
MOST_FILES, MOST_BYTES = 20_000, 1 << 30
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: What reading a zip file and JSON raises for what somebody has made up.
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    MemoryError,
    RuntimeError,  # zipfile: an encrypted member, an unknown compression; json: lists nested without end
    zipfile.BadZipFile,
    zlib.error,
)
LARGEST_DESCRIPTION = 64 << 20
#: Beside the files of a tree while they are put into it: what is left of it tells of a tree that is spoilt.
STAGING = ".codegen-staging"


def read_entry(path: Path, *, named: bool = True) -> dict[str, Any]:
    """What an entry says. Raises Unfit for one that is damaged, of another builder, or names a path outside of a tree.

    ``named`` False takes one that does not have its name yet.
    """
    try:
        if named and path.name.split(".")[1:] != [digest(path), "zip"]:
            raise Unfit("it is damaged")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MOST_FILES or sum(member.file_size for member in members) > MOST_BYTES:
                raise Unfit("it is too large")
            if archive.getinfo(DESCRIPTION).file_size > LARGEST_DESCRIPTION:
                raise Unfit("its description is too large")
            described: dict[str, Any] = json.loads(archive.read(DESCRIPTION).decode())
        if described["schema"] != SCHEMA or (named and path.name.split(".")[0] != described["key"]):
            raise Unfit("another builder has made it")
        _check_types(described)
        paths = [item["path"] for item in (*described["outputs"], *described["folders"])]
        for name in (*paths, *described["removed"], *described["removed_folders"]):
            parts = set(name.split("/"))
            if not SKIPPED.isdisjoint(parts) or not {"", ".", ".."}.isdisjoint(parts):
                raise Unfit(f"it names {name!r}")
        return described
    except _DAMAGE as error:
        raise Unfit(f"it is damaged: {error!r}") from error


def _check_types(described: dict[str, Any]) -> None:
    """Raise ValueError, TypeError or LookupError where a value is none that ``Generation.described`` writes."""
    lists = [described[name] for name in ("outputs", "folders", "removed", "removed_folders")]
    items = [*described["outputs"], *described["folders"]]
    sound = (
        all(isinstance(each, list) for each in lists)
        and all(isinstance(each, str) for each in [*lists[2], *lists[3], *(item["path"] for item in items)])
        and all(type(item["mode"]) is int and 0 <= item["mode"] <= 0o777 for item in items)
        and all(_DIGEST.fullmatch(item["sha256"]) for item in described["outputs"])
        and _DIGEST.fullmatch(described["key"])
        and isinstance(described["inputs"], dict)
        and isinstance(described["read"], dict)
        and all(isinstance(value, str) for value in described["read"].values())
        and isinstance(described["python"], str)
        and all(isinstance(described[name], (int, float)) for name in ("seconds", "cpu_seconds"))
    )
    if not sound:
        raise ValueError("a value that is none of an entry")


def write_entry(path: Path, root: Path, described: dict[str, Any]) -> None:
    """Write an entry whose files are those of ``root``; the same entry gives the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        text = json.dumps(described, sort_keys=True)
        archive.writestr(zipfile.ZipInfo(DESCRIPTION), text, zipfile.ZIP_DEFLATED)
        for number, item in enumerate(described["outputs"]):
            data = (root / item["path"]).read_bytes()
            archive.writestr(zipfile.ZipInfo(f"files/{number}"), data, zipfile.ZIP_DEFLATED)


def find_entry(caches: Sequence[Path], key: str, held: dict[str, str]) -> tuple[Path | None, list[str]]:
    """The first entry of ``key`` whose files that were read are as ``held`` has them; else why none of them fits."""
    reasons = []
    for path in (path for cache in caches for path in sorted(cache.glob(f"{key}.*.zip"))):
        try:
            read = read_entry(path)["read"]
        except Unfit as error:
            reasons.append(f"{path.name}: {error}")
            continue
        changed = [name for name, value in sorted(read.items()) if held.get(name) != value]
        if not changed:
            return path, []
        reasons += changed
    return None, reasons


def nearest(caches: Sequence[Path], described: dict[str, Any]) -> list[str]:
    """What differs from the newest entry that there is; nothing where there is none."""
    found = [path for cache in caches for path in cache.glob("*.zip")]
    for path in sorted(found, key=lambda each: each.stat().st_mtime, reverse=True)[:1]:
        try:
            return differences(read_entry(path)["inputs"], described)
        except Unfit as error:
            return [f"{path.name}: {error}"]
    return []


def restore(root: Path, listing: dict[str, Item], path: Path) -> dict[str, Any]:
    """Do to the tree what an entry says was done, and return what it says.

    Raises Unfit as long as nothing was changed, OSError when the tree is spoilt (``STAGING`` stays then).
    """
    described = read_entry(path)
    outputs = described["outputs"]
    for name in [*(item["path"] for item in outputs), *described["removed"]]:
        parts = name.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts))]
        if any(listing[folder].kind != "folder" for folder in above if folder in listing):
            raise Unfit(f"{name} is not in a folder here")
        if name in listing and listing[name].kind == "folder":
            raise Unfit(f"{name} is a folder here")
    staging = root / STAGING
    try:
        _stage(staging, path, outputs)
    except _DAMAGE as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise Unfit(f"it cannot be read: {error!r}") from error
    for item in described["folders"]:
        (root / item["path"]).mkdir(exist_ok=True)
        (root / item["path"]).chmod(item["mode"])
    for number, item in enumerate(outputs):
        os.replace(staging / str(number), root / item["path"])
    for name in described["removed"]:
        if os.path.lexists(root / name):
            (root / name).unlink()
    for name in described["removed_folders"]:
        if os.path.lexists(root / name):
            shutil.rmtree(root / name)
    staging.rmdir()
    return described


def _stage(staging: Path, path: Path, outputs: list[dict[str, Any]]) -> None:
    """Unpack the files of an entry under their numbers. Raises ValueError for one that is not what the entry says."""
    staging.mkdir()
    with zipfile.ZipFile(path) as archive:
        for number, item in enumerate(outputs):
            data = archive.read(f"files/{number}")
            if hashlib.sha256(data).hexdigest() != item["sha256"]:
                raise ValueError(item["path"])
            (staging / str(number)).write_bytes(data)
            (staging / str(number)).chmod(item["mode"])
