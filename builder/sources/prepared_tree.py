"""A prepared tree: what it was made of, what has been changed in it since, and fresh copies of it.

``build/pytorch/<target>`` always holds the prepared tree, with a person's edits if there are any.
Compiles run in a copy, so that what upstream's scripts leave behind never looks like an edit.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from builder.core.errors import FailureKind, TargetError
from builder.core.untrusted import UntrustedFolder, remove_tree
from builder.core.workspace import atomic_json, atomic_write, fsync_folder
from builder.sources import foreign
from builder.sources import gitcli as git
from builder.sources import manifest as manifests
from builder.sources import signature as signatures
from builder.sources.manifest import Change
from builder.sources.prepared_record import Origin, PreparedFacts, TreeRecord

RECORD = "torch-npu-builder.json"
MANIFEST = "torch-npu-builder.manifest"
#: What the file system said of the tree when it was last found unchanged.
SEEN = "torch-npu-builder.seen"
#: Bytes of either file that are read; a manifest of 30,000 files has 4 MB.
LARGEST = 256 << 20
#: How many changed paths a message names.
SHOWN = 20


class PreparedTree:
    """The tree at ``path`` and the ``record`` that was written when it was prepared."""

    def __init__(self, path: Path, record: TreeRecord, manifest: manifests.Manifest) -> None:
        self.path = path
        self.record = record
        self.manifest = manifest

    @property
    def digest(self) -> str:
        """SHA-256 over the manifest: the same content gives the same digest on every machine."""
        return self.record.manifest

    def changes(self, *, at_a_glance: bool = False) -> list[Change]:
        """What a person has changed since the tree was prepared, HEAD included; empty when it is as it was.

        Every file is read, unless ``at_a_glance`` takes the file system's word for a tree that has not been touched
        since it was last read: enough to say what would be done, not to do it.
        """
        changes = self._changes_at_a_glance() if at_a_glance else self._changed_files()
        if _head(self.path) != (self.record.head, self.record.commits["torch_npu"]):
            changes.insert(0, Change(".git/HEAD", "modified"))
        return changes

    def _changes_at_a_glance(self) -> list[Change]:
        repository = self.path / manifests.REPOSITORY
        signature = signatures.sign(self.path, repository)
        if signatures.matches(repository / SEEN, signature, self.digest):
            return []
        changes = self._changed_files()
        if not changes:
            signatures.remember(repository / SEEN, signature, self.digest)
        return changes

    def _changed_files(self) -> list[Change]:
        return manifests.compare(self.manifest, manifests.take(self.path))

    def differs(self, origin: Origin) -> list[str]:
        """Which parts of ``origin`` are not what this tree was prepared from."""
        return self.record.origin.differs(origin)

    def copy_to(self, destination: Path, *, keep_changes: bool = False) -> tuple[Change, ...]:
        """Make ``destination`` a fresh copy of the recorded state, its repository included.

        What stood at ``destination`` is replaced only by a whole copy. Each file is a plain copy and
        every time of change is that of torch_npu's commit. Returns the changes by hand that the copy
        holds: none, unless ``keep_changes`` allows them.

        Raises TargetError of kind CHANGED_TREE when the tree has been changed and ``keep_changes`` is
        False, or when it changes during the copy; ``destination`` is then as before.
        """
        changes = self.changes()
        if changes and not keep_changes:
            raise changed(self.path, changes)
        with replacing(destination) as staging:
            manifests.copy_folder(
                self.path, staging, what=str(self.path), kind=FailureKind.SOURCE,
                skip=lambda path: path == manifests.REPOSITORY,
            )  # fmt: skip
            _copy_repository(self.path / manifests.REPOSITORY, staging / manifests.REPOSITORY)
            # Judged on the copy: a file saved while it was copied must not slip in.
            copied = manifests.compare(self.manifest, manifests.take(staging))
            if copied != [change for change in changes if change.path != ".git/HEAD"]:
                raise changed(self.path, copied)
            check_objects(staging, self.record.commits["torch_npu"])
            manifests.set_times(staging, self.record.commit_time)
        return tuple(changes)


def changed(path: Path, changes: list[Change]) -> TargetError:
    """The error for a tree that is not as it was recorded."""
    shown = [f"{change.kind:8} {change.path}" for change in changes[:SHOWN]]
    if len(changes) > SHOWN:
        shown.append(f"and {len(changes) - SHOWN} more")
    return TargetError(
        f"{path} has been changed since it was prepared ({len(changes)} path{'s' if len(changes) > 1 else ''})",
        kind=FailureKind.CHANGED_TREE,
        details="\n".join(shown),
    )


def save(tree: Path, facts: PreparedFacts) -> PreparedTree:
    """Record the content of ``tree`` in its repository: ``facts``, completed by the manifest's digest."""
    manifest = manifests.take(tree)
    data = manifests.serialize(manifest)
    record = TreeRecord.of(facts, manifest=manifests.digest_of(data), files=len(manifest))
    atomic_write(tree / manifests.REPOSITORY / MANIFEST, data)
    atomic_json(tree / manifests.REPOSITORY / RECORD, record.to_json())
    return PreparedTree(tree, record, manifest)


def load_prepared(destination: Path) -> PreparedTree | None:
    """The prepared tree at ``destination``; None when nothing stands there.

    Raises TargetError of kind CHANGED_TREE when something stands there that the builder has not
    recorded, or whose record is damaged: it may hold a person's work.
    """
    if _leftovers(destination):
        with _lock(destination):
            recover(destination)
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return None
    try:
        # A build could have written into the copy that it left.
        with UntrustedFolder(destination) as folder:
            record = TreeRecord.from_json(folder.read(f"{manifests.REPOSITORY}/{RECORD}", LARGEST))
            data = folder.read(f"{manifests.REPOSITORY}/{MANIFEST}", LARGEST)
        if manifests.digest_of(data) != record.manifest:
            raise ValueError(f"{MANIFEST} does not have the recorded digest")
        return PreparedTree(destination, record, manifests.parse(data))
    except FileNotFoundError as error:
        reason = f"it has no {Path(error.filename).name}"
    except (ValueError, OSError, RecursionError) as error:
        reason = f"its record is damaged: {error}"
    raise TargetError(
        f"{destination} is not a tree that the builder prepared: {reason}",
        kind=FailureKind.CHANGED_TREE,
        hint="--rebuild replaces it by a fresh one; move it away to keep it",
    )


def check_objects(tree: Path, commit: str) -> None:
    """Raise TargetError of kind SOURCE when the repository of ``tree`` cannot reach ``commit`` in the mirror."""
    repository = foreign.find(tree)
    try:
        if repository is None:
            raise foreign.Unreadable("it has no repository")
        # A person may have given it any settings.
        with foreign.borrowed(repository) as place:
            git.run(["cat-file", "-e", f"{commit}^{{tree}}"], git_dir=place)
    except (foreign.Unreadable, git.GitFailed) as error:
        raise TargetError(
            f"{tree} does not find commit {commit[:12]} in the mirrors",
            kind=FailureKind.SOURCE,
            hint="the trees and the mirrors must stand in one workspace, not behind symlinks to other places",
            details=error.reason if isinstance(error, git.GitFailed) else str(error),
        ) from error


def _head(tree: Path) -> tuple[str, str]:
    # A person works in the tree: the settings of its repository are theirs.
    try:
        return foreign.head(tree)
    except (foreign.Unreadable, subprocess.TimeoutExpired):
        return "", ""


def _copy_repository(source: Path, destination: Path) -> None:
    def skip(path: str) -> bool:
        # The lock is of an editor's git at work; what was seen of this tree says nothing of its copy.
        return path.endswith(".lock") or path == SEEN or path.startswith((".clock-", f".{SEEN}."))

    manifests.copy_folder(source, destination, what=str(source), kind=FailureKind.SOURCE, skip=skip)


# -- replacing a folder as a whole ------------------------------------------------------------------------


@contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """Give a new folder beside ``destination`` that takes its place when the block ends well.

    When it does not, ``destination`` is as before and the new folder is gone. What killed runs have
    left is cleared first. One process at a time; another one waits.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with _lock(destination):
        recover(destination)
        staging = destination.with_name(f".{destination.name}.preparing-{secrets.token_hex(4)}")
        old = staging.with_name(f"{staging.name}.old")
        try:
            staging.mkdir()
            yield staging
            if destination.exists() or destination.is_symlink():
                destination.rename(old)
            try:
                staging.rename(destination)
            except BaseException:
                if old.exists():
                    old.rename(destination)
                raise
            fsync_folder(destination.parent)
        except OSError as error:
            raise manifests.full_disk(error, destination) or error from error
        finally:
            for left in destination.parent.glob(f"{staging.name}*"):
                remove_tree(left)


def recover(destination: Path) -> None:
    """Clear what killed runs left beside ``destination``; put a tree back that was set aside. Needs the lock."""
    for left in sorted(_leftovers(destination), reverse=True):
        if left.name.endswith(".old") and not destination.exists():
            left.rename(destination)
        else:
            remove_tree(left)


def _leftovers(destination: Path) -> list[Path]:
    """What a run that was killed, or one at work, has beside ``destination``."""
    prefix = f".{destination.name}.preparing-"
    try:
        # Not by a glob: a folder of hundreds of trees is listed for each of them.
        with os.scandir(destination.parent) as found:
            return [Path(entry.path) for entry in found if entry.name.startswith(prefix)]
    except FileNotFoundError:
        return []


@contextmanager
def _lock(destination: Path) -> Iterator[None]:
    destination.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(destination.with_name(f".{destination.name}.lock")):
        yield


def repository_at(tree: Path, *, objects: Path, branch: str, commit: str, shallow: Path) -> None:
    """Make ``tree`` a work tree of its own repository, on ``branch`` at ``commit``.

    Its objects are those of the mirror (``objects``), named relative to the tree, so that they are
    found wherever tree and mirrors are mounted at the same distance.
    """
    git.run(["init", "--quiet", "--template=", f"--initial-branch={branch}", "--", str(tree)])
    repository = tree / manifests.REPOSITORY
    relative = os.path.relpath(objects, repository / "objects")
    # A container has the tree at /work/pytorch and the mirrors at /mirrors: exactly this far apart.
    if relative != f"../../../../mirrors/{objects.parent.name}/objects":
        raise TargetError(
            f"{tree} and {objects} are not at the places that a build environment gives them",
            kind=FailureKind.SOURCE,
            hint="trees belong into <workspace>/pytorch/ or <workspace>/compile/, mirrors into <workspace>/mirrors/",
        )
    atomic_write(repository / "objects" / "info" / "alternates", f"{relative}\n")
    if shallow.exists():
        atomic_write(repository / "shallow", shallow.read_bytes())
    check_objects(tree, commit)
    git.run(["update-ref", f"refs/heads/{branch}", commit], git_dir=repository)
    git.run([f"--work-tree={tree}", "read-tree", "--reset", "-u", "HEAD"], git_dir=repository, cwd=tree)
