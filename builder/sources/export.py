"""Reading what a commit holds, and writing it out as a folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.untrusted import remove_tree
from builder.sources import gitcli as git


@dataclass(frozen=True)
class Entry:
    """A file of a commit: git's mode (``100644``, ``100755``, ``120000``, ``160000``), object id, path."""

    mode: str
    object: str
    path: str


class TreeExport:
    """The reading half of a mirror: everything here answers from the objects in ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """What messages call the repository."""
        return self.path.name.removesuffix(".git")

    def read(self, commit: str, path: str) -> bytes:
        """The content of ``path`` (relative, ``/`` between parts) at ``commit``.

        Raises TargetError of kind SOURCE when that commit has no such file.
        """
        self._check(commit)
        try:
            return git.run(["cat-file", "blob", f"{commit}:{path}"], git_dir=self.path)
        except git.GitFailed as error:
            raise TargetError(
                f"{self.name} at {commit[:12]} has no file {path!r}", kind=FailureKind.SOURCE, details=error.reason
            ) from error

    def exists(self, commit: str, path: str) -> bool:
        """True when ``commit`` has a file or folder ``path``."""
        self._check(commit)
        try:
            git.run(["cat-file", "-e", f"{commit}:{path}"], git_dir=self.path)
        except git.GitFailed:
            return False
        return True

    def entries(self, commit: str) -> Iterator[Entry]:
        """Every file of ``commit``, in git's order."""
        self._check(commit)
        listed = git.run(["ls-tree", "-r", "-z", "--full-tree", commit], git_dir=self.path)
        for item in listed.split(b"\0"):
            if item:
                head, _, name = item.partition(b"\t")
                mode, _, sha = head.decode().split(" ")
                yield Entry(mode, sha, os.fsdecode(name))

    def commit_time(self, commit: str) -> int:
        """When the commit was made, in seconds since 1970."""
        self._check(commit)
        return int(git.run(["show", "--no-patch", "--format=%ct", commit], git_dir=self.path).decode().strip())

    def describe(self, a: str, b: str) -> int:
        """The number of commits that ``b`` has and ``a`` has not: how far ``a`` lies behind ``b``."""
        self._check(a)
        self._check(b)
        return int(git.run(["rev-list", "--count", f"{a}..{b}"], git_dir=self.path).decode())

    def export(self, commit: str, destination: Path) -> None:
        """Write every file of ``commit`` to the new or empty folder ``destination``.

        Not through an archive: ``export-ignore`` and ``export-subst`` must not apply. Submodules stay
        empty folders. Raises TargetError of kind SOURCE for a symlink that leads out of ``destination``;
        then nothing stays there.
        """
        self._check(commit)
        if destination.exists() and any(destination.iterdir()):
            raise RequestError(f"{destination} is not empty")
        destination.mkdir(parents=True, exist_ok=True)
        index = destination.with_name(f".{destination.name}.index-{secrets.token_hex(4)}")
        try:
            git.run(
                [f"--work-tree={destination}", "read-tree", "--reset", "-u", commit],
                git_dir=self.path, cwd=destination, env={"GIT_INDEX_FILE": str(index)},
            )  # fmt: skip
            check_links(destination, f"{self.name} at {commit[:12]}", kind=FailureKind.SOURCE)
        except git.GitFailed as error:
            remove_tree(destination)
            raise disk_or_source(error, f"{self.name} at {commit[:12]} cannot be checked out") from error
        except TargetError:
            remove_tree(destination)
            raise
        finally:
            index.unlink(missing_ok=True)
            index.with_name(f"{index.name}.lock").unlink(missing_ok=True)

    def _check(self, commit: str) -> None:
        if not git.is_commit(commit):
            raise RequestError(f"{commit!r} is not a full commit id")


def disk_or_source(error: git.GitFailed, message: str) -> TargetError:
    """The error for git that could not write or read a tree: the disk's fault or the source's."""
    full = "No space left" in error.output or "quota" in error.output
    return TargetError(f"{message}: {error.reason}", kind=FailureKind.DISK if full else FailureKind.SOURCE)


def escapes(link: Path, root: Path) -> bool:
    """True when following the symlink ``link`` can lead out of ``root`` (a real path), be it there or not."""
    target = os.readlink(link)
    if os.path.isabs(target):
        return True
    real = os.path.realpath(link)
    return real != str(root) and not real.startswith(f"{root}{os.sep}")


def check_links(root: Path, what: str, *, kind: FailureKind) -> None:
    """Raise TargetError of ``kind`` for a symlink below ``root`` that leads out of it."""
    real = Path(os.path.realpath(root))
    for folder, folders, files in os.walk(real):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and escapes(path, real):
                raise TargetError(
                    f"{what}: the symlink {path.relative_to(real)} leads out of the tree, to {os.readlink(path)!r}",
                    kind=kind,
                )
