"""What each compile of a build took in, kept for the few last builds of a release line.

It is written inside the environment (launcher/compile_manifest.py), where the files are, and kept outside of the
folders that a build can write. It explains misses (``cache_misses``); nothing that is built depends on it.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from builder.core.untrusted import open_inside
from builder.core.workspace import Workspace, atomic_write

#: In the results folder of a build: what the launcher's two steps write (see launcher/compile_manifest.py).
INPUTS, MANIFEST = "inputs", "compile-manifest.json.gz"
#: The one name of the interpreter's headers, and the file that says which sources see the package version.
PYTHON_INCLUDE, VERSION_DEFINE = "python-include", "version-define"
#: Seconds for either step; on all 983 files of a release line the longer takes three.
TIMEOUT = 300.0
#: Compile manifests that are kept of each target, and of each cache.
KEPT_OF_TARGET, KEPT = 2, 12
#: Bytes of the largest manifest, packed and unpacked; that of 983 files has 0.4 and 2 MB.
_LARGEST_PACKED, _LARGEST = 32 << 20, 256 << 20
_SUFFIX = ".json.gz"
_NAME = re.compile(r"\d{8}T\d{6}\.(?P<run>[^.]+)\.(?P<target>[^/]+)\.json\.gz")
_Number = Annotated[int, Field(ge=0)]


class DamagedError(Exception):
    """A manifest that cannot be read: cut off, or not one."""


class CompiledObject(BaseModel):
    """One object: what became of its compile, and numbers of its command and of the files that it read.

    ``files`` holds pairs of a first number and how many follow without a gap; None where no list was found.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    object: str
    result: str
    arguments: _Number
    files: tuple[_Number, ...] | None

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The numbers of the files that it read, as first numbers and counts."""
        runs = self.files or ()
        return list(zip(runs[::2], runs[1::2], strict=True))


class CompileManifest(BaseModel):
    """One build. ``files`` are path, digest (None where it could not be read) and whether it mentions the clock."""

    model_config = ConfigDict(frozen=True)

    target: str
    run: str
    built: AwareDatetime
    size: _Number
    limit: _Number
    tree: str
    python_include: str
    inputs: tuple[str, ...]
    files: tuple[tuple[str, str | None, bool], ...]
    arguments: tuple[tuple[str, ...], ...]
    objects: tuple[CompiledObject, ...]

    @model_validator(mode="after")
    def _numbers_exist(self) -> CompileManifest:
        for each in self.objects:
            if each.arguments >= len(self.arguments):
                raise ValueError("a number of a command that is not there")
            if len(each.files or ()) % 2 or any(first + count > len(self.files) for first, count in each.runs):
                raise ValueError("a number of a file that is not there")
        return self

    @cached_property
    def by_source(self) -> dict[tuple[str, str], CompiledObject]:
        """Objects by source and their own path."""
        return {(each.source, each.object): each for each in self.objects}


@dataclass(frozen=True)
class Kept:
    """A manifest on disk, of a target's build in a run."""

    path: Path
    run: str
    target: str

    def read(self) -> CompileManifest:
        """Its content. Raises DamagedError."""
        return _parse(_unpacked(self.path.parent, self.path.name))


def folder_of(workspace: Workspace, store: str) -> Path:
    """Where the manifests of a cache (``ccache.store_name``) are kept: not in the cache, which builds can write."""
    return workspace.manifests / store


def before_command(
    python: str, launcher: str, *, tree: str, torch: str, out: str, cache: str | None, read: Sequence[str] = ()
) -> list[str]:
    """What runs in the environment before a build; ``cache`` is None where none is used.

    ``read`` are the files and folders that a build reads without a word where it cannot.
    """
    paths = ["--tree", tree, "--torch", f"{torch}/torch/include", "--out", out, "--cache", cache or ""]
    paths += [word for path in read for word in ("--read", path)]
    return [python, "-S", "-E", f"{launcher}/compile_manifest.py", "before", *paths]


def after_command(python: str, launcher: str, *, tree: str, out: str, log: str) -> list[str]:
    """What runs in the environment after a build, whether it failed or not."""
    return [python, "-S", "-E", f"{launcher}/compile_manifest.py", "after", "--tree", tree, "--out", out, "--log", log]


def parse_before(lines: Iterable[str]) -> tuple[str, str] | None:
    """The state of the cache folder that the first step found (see ``try_cache`` there), and why; None: it broke."""
    for line in lines:
        if line.startswith("before: "):
            try:
                found = json.loads(line.removeprefix("before: "))
                return str(found["state"]), str(found["why"])
            except (ValueError, KeyError, TypeError, RecursionError):
                return None
    return None


def parse_unreadable(lines: Iterable[str]) -> list[str]:
    """What of ``read`` the first step could not read: paths as the environment sees them."""
    for line in lines:
        if line.startswith("unreadable: "):
            with suppress(ValueError, RecursionError):
                found = json.loads(line.removeprefix("unreadable: "))
                return [str(path) for path in found] if isinstance(found, list) else []
    return []


def without(unreadable: Sequence[str]) -> str | None:
    """What to say of files that a build cannot read; None where there are none."""
    if not unreadable:
        return None
    more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
    return (
        f"builds cannot read {unreadable[0]!r}{more}, and do without: a umask such as 077 was set when it was made; "
        "'chmod -R go+rX' on its folder here (in the workspace, or where the builder is installed) helps"
    )


def keep(out: Path, folder: Path, *, target: str, run: str, built: datetime, size: int, limit: int) -> Kept | None:
    """Keep the manifest that a build left in ``out``, and drop those that are too many. Raises DamagedError, OSError.

    ``built`` is when the build ended, ``size`` and ``limit`` the bytes of its cache. None where nothing was compiled.
    """
    more = {"target": target, "run": run, "built": built.isoformat(timespec="seconds"), "size": size, "limit": limit}
    values = _unpacked(out, MANIFEST) | more
    if not _parse(values).objects:
        return None
    path = folder / f"{built.astimezone(timezone.utc):%Y%m%dT%H%M%S}.{run}.{target}{_SUFFIX}"
    atomic_write(path, gzip.compress(json.dumps(values, separators=(",", ":")).encode("utf-8", "replace"), 6, mtime=0))
    _prune(folder)
    return Kept(path, run, target)


def kept(folder: Path) -> list[Kept]:
    """The manifests in ``folder``, the newest first: a name begins with when the build ended."""
    try:
        names = sorted((path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)
    except OSError:
        return []
    matches = [match for name in names if (match := _NAME.fullmatch(name))]
    return [Kept(folder / match[0], match["run"], match["target"]) for match in matches]


def stores_with(workspace: Workspace, target: str) -> list[str]:
    """Names of the caches that know a build of ``target``, the one of its last build first."""
    found = [
        (each.path.name, name)
        for name in stores(workspace)
        for each in kept(folder_of(workspace, name))
        if each.target == target
    ]
    return list(dict.fromkeys(name for _, name in sorted(found, reverse=True)))


def stores(workspace: Workspace) -> list[str]:
    """Names of the caches of which builds are known."""
    root = workspace.manifests
    return sorted(folder.relative_to(root).as_posix() for folder in root.glob("*/*") if folder.is_dir())


def _prune(folder: Path) -> None:
    """Remove the oldest manifests, first those of targets that have several."""
    everything = kept(folder)
    of_target: dict[str, int] = {}
    good: list[Kept] = []
    for each in everything:
        of_target[each.target] = of_target.get(each.target, 0) + 1
        if of_target[each.target] <= KEPT_OF_TARGET:
            good.append(each)
    stay = {each.path for each in good[:KEPT]}
    for each in everything:
        if each.path not in stay:
            each.path.unlink(missing_ok=True)


def _unpacked(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a packed file; a build could have put anything there."""
    try:
        with open_inside(folder, name) as stream:
            packed = stream.read(_LARGEST_PACKED + 1)
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        text = unpacker.decompress(packed, _LARGEST)
        if len(packed) > _LARGEST_PACKED or not unpacker.eof:
            raise DamagedError(f"{folder / name} is cut off, or too large")
        values = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise DamagedError(f"{folder / name} is not a manifest: {error}") from error
    except OSError as error:
        raise DamagedError(f"{folder / name}: {error.strerror or error}") from error
    if not isinstance(values, dict):
        raise DamagedError(f"{folder / name} is not a manifest")
    return values


def _parse(values: dict[str, Any]) -> CompileManifest:
    try:
        return CompileManifest.model_validate(values)
    except (ValidationError, RecursionError) as error:
        raise DamagedError(f"not a manifest: {str(error).splitlines()[0]}") from error
