"""What the refs of a bare repository said: read at once, so that hundreds of questions cost three processes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from builder.sources import gitcli as git

#: The setting that holds where the branches of a mirror came from.
ORIGIN = "builder.origin"
#: Refs by commit: whatever one of them names is never pruned, and was seen to be whole.
KEPT = "refs/builder/"


@dataclass(frozen=True)
class Snapshot:
    """Commits by full name of the ref, and where the branches came from; None before the first fetch."""

    commits: dict[str, str]
    origin: str | None


class Refs:
    """The branches and kept commits of the bare repository at ``path``, as they were when first asked for.

    A commit that is named and not there is left out. ``forget`` makes the next question read anew. Threads may ask at
    once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None

    def branch(self, name: str) -> str | None:
        """The commit of a branch."""
        return self._read().commits.get(f"refs/heads/{name}")

    def keeps(self, commit: str) -> bool:
        """True for a commit that has a ref of its own."""
        return f"{KEPT}{commit}" in self._read().commits

    @property
    def origin(self) -> str | None:
        """Where the branches came from."""
        return self._read().origin

    def forget(self) -> None:
        """Something has moved refs: read them again."""
        # Under the lock: a reading that began before would else be taken for one that began after.
        with self._lock:
            self._snapshot = None

    def note_kept(self, commit: str) -> None:
        """``commit`` has got a ref of its own."""
        with self._lock:
            if self._snapshot is not None:
                self._snapshot.commits[f"{KEPT}{commit}"] = commit

    def _read(self) -> Snapshot:
        with self._lock:
            if self._snapshot is None:
                self._snapshot = Snapshot(_commits(self._path), _origin(self._path))
            return self._snapshot


def _commits(path: Path) -> dict[str, str]:
    try:
        listed = git.run(["for-each-ref", "--format=%(objectname) %(refname)", "refs/heads/", KEPT], git_dir=path)
        refs = [line.split(" ", 1) for line in listed.decode(errors="replace").splitlines()]
        ids = "".join(f"{commit}\n" for commit in dict.fromkeys(commit for commit, _ in refs))
        checked = git.run(["cat-file", "--batch-check=%(objectname) %(objecttype)"], git_dir=path, data=ids.encode())
    except git.GitFailed:
        # Damaged, so nothing can be told to be here; the fetch that follows says what is wrong with it.
        return {}
    present = {line[:40] for line in checked.decode().splitlines() if line[41:] == "commit"}
    return {name: commit for commit, name in refs if commit in present}


def _origin(path: Path) -> str | None:
    try:
        return git.run(["config", "--get", ORIGIN], git_dir=path).decode().strip()
    except git.GitFailed:
        return None
