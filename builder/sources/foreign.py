"""Repositories that are not the builder's: a user's clone, a folder that sources are fetched from.

A repository's own files name programs: filters, a file system monitor, hooks, the fetch of a missing object
(https://git-scm.com/docs/git-config). Whoever may write there would run them as this user, and git's own guard against
it (``safe.directory``) would lock out folders that rightly belong to somebody else. So git never runs in such a
repository. What it holds is read through a repository of the builder's own: a folder with copies of HEAD and the refs,
links to the object store, and a configuration of three lines.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from builder.sources import gitcli as git

#: The most that is read of a file with one line: HEAD, ``.git`` of a linked work tree, one ref (bytes).
_LINE = 4096
#: The most that is read of a list: alternates, patterns of ignored files, shallow commits, packed refs (bytes).
_LIST = 64 << 20
#: How many object stores may borrow from one another, as in git itself (object-file.c, link_alt_odb_entry).
_DEPTH = 5
#: Seconds for each question to a repository: a pipe in place of a pack would be waited for without end.
PATIENCE = 600.0


class Unreadable(Exception):  # noqa: N818 - internal; callers turn it into what they say
    """The repository has no commit that can be read; the text says why."""


@dataclass(frozen=True)
class Foreign:
    """A repository that is not ours. ``git_dir`` has the HEAD, ``common`` the refs and objects (gitrepository-layout).

    They are one folder except in a linked work tree.
    """

    git_dir: Path
    common: Path


def find(folder: Path, *, bare: bool = False) -> Foreign | None:
    """The repository of the work tree ``folder``; with ``bare`` also ``folder`` itself. None where there is none.

    Parents are not searched. A ``.git`` file leads to the repository of a linked work tree or a submodule.
    """
    places = [folder / ".git", folder] if bare else [folder / ".git"]
    for place in places:
        git_dir = place
        if place.is_file():
            said = _text(place, _LINE)
            if said is None or not said.startswith("gitdir: "):
                continue
            git_dir = place.parent / said.removeprefix("gitdir: ").rstrip("\n")
        shared = _text(git_dir / "commondir", _LINE)
        common = git_dir / shared.rstrip("\n") if shared is not None else git_dir
        if os.path.lexists(git_dir / "HEAD") and (common / "objects").is_dir():
            return Foreign(git_dir.absolute(), common.absolute())
    return None


@contextmanager
def borrowed(repository: Foreign) -> Iterator[Path]:
    """A bare repository of our own with what ``repository`` holds, for the length of the block. Raises Unreadable."""
    lent = Lent(repository)
    try:
        yield lent.path
    finally:
        lent.remove()


class Lent:
    """A bare repository of our own at ``path`` with what ``repository`` holds; it goes with this object at the latest.

    Making it raises Unreadable.
    """

    def __init__(self, repository: Foreign) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="torch-npu-builder."))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        try:
            _fill(self.path, repository)
        except OSError as error:
            self.remove()
            raise Unreadable(f"{error.filename}: {error.strerror}") from error
        except BaseException:
            self.remove()
            raise


def head(folder: Path) -> tuple[str, str]:
    """What HEAD of the work tree ``folder`` names (empty where it is detached), and its commit. Raises Unreadable."""
    repository = find(folder)
    if repository is None:
        raise Unreadable(f"{folder} is no git repository")
    with borrowed(repository) as place:
        return head_of(place)


def head_of(place: Path) -> tuple[str, str]:
    """What HEAD of the borrowed repository names (empty where it is detached), and its commit. Raises Unreadable."""
    try:
        commit = git.run(["rev-parse", "--verify", "HEAD"], git_dir=place, timeout=PATIENCE)
    except git.GitFailed as error:
        raise Unreadable(f"its HEAD cannot be read: {error.reason}") from error
    try:
        name = git.run(["symbolic-ref", "--quiet", "HEAD"], git_dir=place, timeout=PATIENCE)
    except git.GitFailed:
        name = b""
    return name.decode(errors="replace").strip(), commit.decode().strip()


def _fill(place: Path, repository: Foreign) -> None:
    first = _head_text(repository.git_dir / "HEAD")
    (place / "HEAD").write_text(first)
    (place / "refs").mkdir()
    sample = first
    for name, data in _refs(repository.common / "refs"):
        path = place / "refs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data)
        sample = data if data[:4] != "ref:" else sample
    for name in ("packed-refs", "shallow", "info/exclude"):
        listed = _text(repository.common / name, _LIST)
        if listed is not None:
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(listed, errors="surrogateescape")
            # Its last line is "<id> <name>", or "^<id>" for a tag.
            sample = listed.rstrip("\n").rpartition("\n")[2].lstrip("^") if name == "packed-refs" else sample
    extensions = ""
    if len(sample.split(" ")[0].strip()) == 64:
        extensions += "\tobjectFormat = sha256\n"
    if (repository.common / "reftable").is_dir():
        extensions += "\trefStorage = reftable\n" + _reftables(repository, place)
    version = f"\trepositoryFormatVersion = {1 if extensions else 0}\n"
    (place / "config").write_text(
        f"[core]\n{version}\tbare = true\n[uploadpack]\n\tallowAnySHA1InWant = true\n"
        + (f"[extensions]\n{extensions}" if extensions else "")
    )
    stores = list(_stores(repository.common / "objects"))
    for number, store in enumerate(stores):
        _link(store, place / ("objects" if number == 0 else f"objects-{number}"))
    (place / "objects" / "info").mkdir()
    more = "".join(f"{place / f'objects-{number}'}\n" for number in range(1, len(stores)))
    (place / "objects" / "info" / "alternates").write_text(more)


def _head_text(path: Path) -> str:
    # git once made HEAD a symlink, and still reads such ones.
    with suppress(OSError):
        return f"ref: {os.readlink(path)}\n"
    data = _text(path, _LINE)
    if data is None:
        raise Unreadable("its HEAD cannot be read")
    return data


def _refs(top: Path) -> Iterator[tuple[str, str]]:
    """Each ref below the folder ``top`` that is a file of its own: its name relative to it, its text."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with suppress(OSError), os.scandir(top / prefix) as found:
            for entry in found:
                name = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                elif (data := _text(Path(entry.path), _LINE)) is not None:
                    yield name, data


def _reftables(repository: Foreign, place: Path) -> str:
    """Copy the tables that hold the refs (git 2.45 and later); the configuration that they need besides."""
    if repository.git_dir != repository.common:
        raise Unreadable("it is a linked work tree whose refs are kept in reftables")
    line = ""
    (place / "reftable").mkdir()
    for table in (repository.common / "reftable").iterdir():
        data = _read(table, _LIST)
        if data is not None:
            (place / "reftable" / table.name).write_bytes(data)
            # Version 2 of the header says which ids these are (https://git-scm.com/docs/reftable).
            if data[:5] == b"REFT\x02" and data[24:28] == b"s256":
                line = "\tobjectFormat = sha256\n"
    return line


def _stores(objects: Path) -> Iterator[Path]:
    """The object store, and those that it borrows from.

    Another user's may only lead to stores of his own: this user may be able to read what he cannot.
    """
    waiting = [(objects, 0)]
    seen: set[Path] = set()
    while waiting:
        store, depth = waiting.pop(0)
        store = store.resolve()
        if store in seen:
            continue
        seen.add(store)
        yield store
        owner = store.stat().st_uid
        listed = _text(store / "info" / "alternates", _LIST) if depth < _DEPTH else None
        for line in (listed or "").splitlines():
            other = store / line
            if not line or line.startswith("#") or not other.is_dir():
                continue
            if owner in (0, os.geteuid()) or other.stat().st_uid == owner:
                waiting.append((other, depth + 1))


def _link(store: Path, place: Path) -> None:
    """Let ``place`` hold the objects of ``store`` and not its ``info``, which leads to other stores."""
    place.mkdir()
    for name in os.listdir(store):
        if name == "pack" or re.fullmatch(r"[0-9a-f]{2}", name):
            (place / name).symlink_to(store / name)


def _text(path: Path, limit: int) -> str | None:
    data = _read(path, limit)
    return None if data is None else data.decode(errors="surrogateescape")


def _read(path: Path, limit: int) -> bytes | None:
    """The content of a regular file of at most ``limit`` bytes; None for anything else, also a symlink or a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            return None
        return stream.read(limit)
