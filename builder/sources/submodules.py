"""Submodules of a commit: what its tree pins, completed by what ``.gitmodules`` says of it."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from builder.core.errors import FailureKind, TargetError
from builder.sources import gitcli as git

_GITMODULES = ".gitmodules"


@dataclass(frozen=True)
class Submodule:
    """One submodule of a commit: an entry of ``.gitmodules`` that has a pinned commit in the tree.

    ``url`` is what ``.gitmodules`` says, made absolute against the repository's first host when it
    is relative; ``branch`` and ``update`` (``none``, ``checkout``...) are None where they are not set.
    """

    path: str
    url: str
    commit: str
    branch: str | None = None
    update: str | None = None


def read_submodules(repository: Path, name: str, urls: Sequence[str], commit: str) -> tuple[Submodule, ...]:
    """The submodules that ``commit`` of the bare ``repository`` pins, by path.

    ``name`` is what messages call the repository, ``urls`` are its hosts. Entries without a pinned commit are left
    out. Raises TargetError of kind SOURCE for a commit that is not there, a ``.gitmodules`` that git cannot read, a
    path that leaves the tree and a pinned commit without URL.
    """
    where = f"{name} at {commit[:12]}"
    pinned, has_settings = _pinned(repository, where, commit)
    if not pinned or not has_settings:
        return ()
    found = []
    for entry in _settings(repository, where, commit):
        path = entry.get("path", "").rstrip("/")
        if path not in pinned:
            continue
        if path.startswith(("/", "-")) or {"..", ".", "", ".git"} & set(path.lower().split("/")):
            raise TargetError(f"{_GITMODULES} of {where} names the path {path!r}", kind=FailureKind.SOURCE)
        if not entry.get("url"):
            raise TargetError(f"{_GITMODULES} of {where} gives no url for {path}", kind=FailureKind.SOURCE)
        url = _absolute(entry["url"], urls)
        found.append(Submodule(path, url, pinned[path], entry.get("branch"), entry.get("update")))
    return tuple(sorted(found, key=lambda submodule: submodule.path))


def _pinned(repository: Path, where: str, commit: str) -> tuple[dict[str, str], bool]:
    """The pinned commits of a tree by path, and whether it has settings of submodules."""
    try:
        listed = git.run(["ls-tree", "-r", "-z", "--full-tree", commit], git_dir=repository).split(b"\0")
    except git.GitFailed as error:
        raise TargetError(f"{where} cannot be read: {error.reason}", kind=FailureKind.SOURCE) from error
    pinned = {}
    for item in listed:
        # Of thousands of files these few matter.
        if item.startswith(b"160000 "):
            head, _, path = item.partition(b"\t")
            pinned[os.fsdecode(path)] = head.decode().split(" ")[2]
    return pinned, any(item.endswith(b"\t" + _GITMODULES.encode()) for item in listed)


def _settings(repository: Path, where: str, commit: str) -> list[dict[str, str]]:
    """The sections of ``.gitmodules``, which git itself reads."""
    try:
        listed = git.run(["config", f"--blob={commit}:{_GITMODULES}", "--null", "--list"], git_dir=repository)
    except git.GitFailed as error:
        raise TargetError(
            f"{_GITMODULES} of {where} cannot be read: {error.reason}", kind=FailureKind.SOURCE
        ) from error
    settings: dict[str, dict[str, str]] = {}
    for item in listed.decode(errors="replace").split("\0"):
        key, _, value = item.partition("\n")
        section, _, rest = key.partition(".")
        name, _, variable = rest.rpartition(".")
        if section == "submodule" and name:
            settings.setdefault(name, {})[variable] = value
    return list(settings.values())


def _absolute(url: str, urls: Sequence[str]) -> str:
    if not url.startswith(("./", "../")) or not urls:
        return url
    base = urls[0]
    if "://" in base:
        parts = urlsplit(base)
        return urlunsplit(parts._replace(path=posixpath.normpath(posixpath.join(parts.path, url))))
    host, colon, path = base.partition(":") if not base.startswith("/") else ("", "", base)
    return f"{host}{colon}{posixpath.normpath(posixpath.join(path, url))}"
