"""How the files of a work tree differ from its commit, byte for byte.

``git status`` would ask the repository's own filters and programs (see ``foreign``), and calls a file unchanged whose
bytes are others than the commit's: one with the line endings of ``core.autocrlf``, or one that Git LFS put in the place
of its pointer. What is laid over a tree is bytes. So they are compared here, and such files are told apart in words.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from builder.sources import foreign
from builder.sources import gitcli as git

#: How deep submodules may stand in one another.
_DEPTH = 10
#: How many paths of a kind are named.
_NAMED = 3
#: The largest file whose other line endings are recognised (bytes): it is held in memory.
_TEXT = 32 << 20


@dataclass
class State:
    """A work tree and its commit (empty where there is none); ``trouble`` says why it could not be compared.

    The paths of each kind: edited, missing, new (and named by no ``.gitignore``), other line endings alone, Git LFS.
    """

    commit: str = ""
    trouble: str = ""
    edited: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    line_endings: list[str] = field(default_factory=list)
    lfs: list[str] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """True where the work tree is not known to hold the commit's bytes and nothing else."""
        found = (self.edited, self.missing, self.new, self.line_endings, self.lfs)
        return bool(self.trouble) or not self.commit or any(found)

    def describe(self) -> str:
        """How it differs from the commit, in words; empty where it does not or has none."""
        if self.trouble:
            return f"it could not be compared with a commit: {self.trouble}"
        kinds = (
            ("edited", self.edited), ("missing", self.missing), ("new", self.new),
            ("with other line endings", self.line_endings), ("in place of a pointer of Git LFS", self.lfs),
        )  # fmt: skip
        counted = [f"{len(paths)} {what} ({_some(paths)})" for what, paths in kinds if paths]
        return f"its files are not those of commit {self.commit[:12]}: {', '.join(counted)}" if counted else ""


def _some(paths: list[str]) -> str:
    more = len(paths) - _NAMED
    return ", ".join(sorted(paths)[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def compare(folder: Path) -> State | None:
    """The state of the work tree ``folder``; None for a folder without a repository of its own."""
    repository = foreign.find(folder)
    if repository is None:
        return None
    state = State()
    try:
        state.commit = _compare(folder, repository, state, "", 0)
    except foreign.Unreadable as error:
        state.trouble = str(error)
    except git.GitFailed as error:
        state.trouble = error.reason
    except subprocess.TimeoutExpired as error:
        state.trouble = f"no answer from git within {error.timeout:g} s"
    return state


def _compare(folder: Path, repository: foreign.Foreign, state: State, prefix: str, depth: int) -> str:
    with foreign.borrowed(repository) as place:
        _, commit = foreign.head_of(place)
        if not prefix:
            # Known also where the files cannot be compared.
            state.commit = commit
        listed = git.run(["ls-tree", "-r", "-z", "--full-tree", commit], git_dir=place, timeout=foreign.PATIENCE)
        tracked: dict[str, tuple[str, str]] = {}
        for item in filter(None, listed.split(b"\0")):
            head, _, listed_path = item.partition(b"\t")
            mode, _, name = head.decode().split(" ")
            tracked[os.fsdecode(listed_path)] = (mode, name)
        others = _untracked(folder, place, commit)
    state.new += [f"{prefix}{path}" for path in others]
    for path in _really_there(folder, tracked):
        mode, name = tracked.pop(path)
        if mode == "160000":
            _submodule(folder / path, name, state, f"{prefix}{path}/", depth)
        else:
            _file(folder / path, mode, name, state, f"{prefix}{path}")
    # A submodule that was not fetched is no edit.
    state.missing += [f"{prefix}{path}" for path, (mode, _) in tracked.items() if mode != "160000"]
    return commit


def _untracked(folder: Path, place: Path, commit: str) -> list[str]:
    """The files that the commit has not and no ``.gitignore`` names. git lists names for it, and reads no file."""
    index = {"GIT_INDEX_FILE": str(place / "index")}
    git.run(["read-tree", commit], git_dir=place, env=index, timeout=foreign.PATIENCE)
    listed = git.run(
        [f"--work-tree={folder}", "ls-files", "--others", "--exclude-standard", "-z"],
        git_dir=place, cwd=folder, env=index, timeout=foreign.PATIENCE,
    )  # fmt: skip
    return [os.fsdecode(path) for path in listed.split(b"\0") if path]


def _really_there(folder: Path, tracked: Iterable[str]) -> list[str]:
    """Those of ``tracked`` that stand in ``folder`` itself, not behind a symlink in place of a folder."""
    wanted = set(tracked)
    folders = {path[:end] for path in wanted for end, letter in enumerate(path) if letter == "/"} | {""}
    there = []
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(str(folder / prefix)) as found:
            for entry in found:
                path = f"{prefix}/{entry.name}" if prefix else entry.name
                if path in wanted:
                    there.append(path)
                elif path in folders and entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
    return sorted(there)


def _submodule(folder: Path, commit: str, state: State, prefix: str, depth: int) -> None:
    if not folder.is_dir() or folder.is_symlink():
        state.edited.append(prefix.rstrip("/"))
        return
    repository = foreign.find(folder) if depth < _DEPTH else None
    if repository is not None and _compare(folder, repository, state, prefix, depth + 1) != commit:
        state.edited.append(prefix.rstrip("/"))


def _file(path: Path, mode: str, name: str, state: State, shown: str) -> None:
    there, data = _content(path)
    wanted = mode if mode == "120000" else "100755" if int(mode, 8) & 0o100 else "100644"
    if there == wanted and _blob(data, name) == name:
        return
    if there != wanted or there == "120000":
        state.edited.append(shown)
    elif len(data) <= _TEXT and _blob(data.replace(b"\r\n", b"\n"), name) == name:
        state.line_endings.append(shown)
    elif _blob(_pointer(data), name) == name:
        state.lfs.append(shown)
    else:
        state.edited.append(shown)


def _content(path: Path) -> tuple[str, bytes]:
    """The mode that git would give what stands at ``path``, and its content; empty where it is no file or symlink."""
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            return "120000", os.fsencode(os.readlink(path))
        if stat.S_ISREG(found.st_mode):
            # A pipe may have taken its place meanwhile.
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
                return "100755" if found.st_mode & stat.S_IXUSR else "100644", stream.read()
    except OSError:
        pass
    return "", b""


def _blob(data: bytes, like: str) -> str:
    """The id that git gives a file with this content, of the same kind as the id ``like``."""
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % len(data))
    digest.update(data)
    return digest.hexdigest()


def _pointer(data: bytes) -> bytes:
    """What Git LFS commits in the place of such a file (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""
    oid = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()
