"""Entries of the cache: one zip file for each generation, named ``<key>.<SHA-256 of the file>.zip``.

It holds ``entry.json`` (inputs, the files that were read, what was done to the tree, by which Python, in which time)
and the files that were written, ``files/<number>``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

from .key import SCHEMA, differences
from .tree import SKIPPED, Item, Unfit, digest

DESCRIPTION = "entry.json"
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
            if archive.getinfo(DESCRIPTION).file_size > LARGEST_DESCRIPTION:
                raise Unfit("its description is too large")
            described: dict[str, Any] = json.loads(archive.read(DESCRIPTION).decode())
        if described["schema"] != SCHEMA or (named and path.name.split(".")[0] != described["key"]):
            raise Unfit("another builder has made it")
        paths = [item["path"] for item in (*described["outputs"], *described["folders"])]
        for name in (*paths, *described["removed"], *described["removed_folders"]):
            parts = set(name.split("/"))
            if not SKIPPED.isdisjoint(parts) or not {"", ".", ".."}.isdisjoint(parts):
                raise Unfit(f"it names {name!r}")
        for part in ("inputs", "read", "python", "seconds", "cpu_seconds"):
            described[part]
        return described
    except (OSError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise Unfit(f"it is damaged: {error!r}") from error


def write_entry(path: Path, root: Path, described: dict[str, Any]) -> None:
    """Write an entry whose files are those of ``root``; the same entry gives the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        text = json.dumps(described, sort_keys=True)
        archive.writestr(zipfile.ZipInfo(DESCRIPTION), text, zipfile.ZIP_DEFLATED)
        for number, item in enumerate(described["outputs"]):
            data = (root / item["path"]).read_bytes()
            archive.writestr(zipfile.ZipInfo(f"files/{number}"), data, zipfile.ZIP_DEFLATED)


def find_entry(cache: Path, key: str, held: dict[str, str]) -> tuple[Path | None, list[str]]:
    """The entry of ``key`` whose files that were read are as ``held`` has them; else why none of them fits."""
    reasons = []
    for path in sorted(cache.glob(f"{key}.*.zip")):
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


def nearest(cache: Path, described: dict[str, Any]) -> list[str]:
    """What differs from the newest entry that there is; nothing where there is none."""
    for path in sorted(cache.glob("*.zip"), key=lambda each: each.stat().st_mtime, reverse=True)[:1]:
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
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
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
