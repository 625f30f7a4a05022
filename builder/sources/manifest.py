"""What a folder holds, file by file: the record against which a change by hand is seen."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from builder.core.errors import FULL, FailureKind, TargetError
from builder.core.machine_limits import cores
from builder.sources.export import escapes

#: The repository of a tree is judged by its HEAD, not file by file.
REPOSITORY = ".git"

#: Path -> (kind, digest). The kind is ``file``, ``executable``, ``symlink`` or ``folder`` (an empty one);
#: the digest is the SHA-256 of a file's bytes, the target of a symlink, nothing for a folder.
Manifest = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Change:
    """A path that is not as it was recorded. ``kind`` is ``added``, ``removed`` or ``modified``."""

    path: str
    kind: str


def walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str] | None]]:
    """Every file, symlink and empty folder below ``root`` but its repository: relative path, entry.

    The entry of an empty folder is None. Folders reached through symlinks are not entered. Raises TargetError of kind
    SOURCE where folders are so deep that they have no path.
    """
    pending = [_listed(str(root), "")]
    while pending:
        for path, entry in pending[-1]:
            if entry is not None and entry.is_dir(follow_symlinks=False):
                pending.append(_listed(entry.path, f"{path}/"))
                break
            yield path, entry
        else:
            pending.pop()


def _listed(folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str] | None]]:
    """What is directly in ``folder``, with paths that begin with ``prefix``; an empty one stands for itself."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise TargetError(
            f"{folder[:100]}... is nested too deeply", kind=FailureKind.SOURCE, hint="remove that folder"
        ) from error
    if prefix and not entries:
        yield prefix.rstrip("/"), None
    for entry in entries:
        if prefix or entry.name != REPOSITORY:
            yield f"{prefix}{entry.name}", entry


def take(root: Path) -> Manifest:
    """The manifest of ``root``. Raises TargetError of kind SOURCE for sockets, pipes and devices."""
    with ThreadPoolExecutor(max_workers=min(8, cores() + 2)) as pool:
        listed = list(walk(root))
        described = pool.map(lambda item: _describe(root, *item), listed, chunksize=64)
        return {path: value for (path, _), value in zip(listed, described, strict=True)}


def _describe(root: Path, path: str, entry: os.DirEntry[str] | None) -> tuple[str, str]:
    if entry is None:
        return "folder", ""
    if entry.is_symlink():
        return "symlink", os.readlink(entry.path)
    if not entry.is_file(follow_symlinks=False):
        raise TargetError(f"{root / path} is neither file, folder nor symlink", kind=FailureKind.SOURCE)
    with open(entry.path, "rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return "executable" if mode & stat.S_IXUSR else "file", digest.hexdigest()


def serialize(manifest: Mapping[str, tuple[str, str]]) -> bytes:
    """One line for each path, in order: kind, digest, path. Line breaks in paths are escaped."""
    lines = [f"{kind} {_quote(digest)}\t{_quote(path)}\n" for path, (kind, digest) in sorted(manifest.items())]
    return "".join(lines).encode("utf-8", "surrogateescape")


def parse(data: bytes) -> Manifest:
    """The reverse of ``serialize``. Raises ValueError for anything else."""
    manifest: Manifest = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n")[:-1]:
        head, tab, path = line.partition("\t")
        kind, space, digest = head.partition(" ")
        if not tab or not space or kind not in {"file", "executable", "symlink", "folder"}:
            raise ValueError(line)
        manifest[_unquote(path)] = (kind, _unquote(digest))
    return manifest


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def _unquote(text: str) -> str:
    return text.replace("\\\\", "\0").replace("\\n", "\n").replace("\\t", "\t").replace("\0", "\\")


def digest_of(data: bytes) -> str:
    """SHA-256 of ``data``, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_of_folder(root: Path) -> str:
    """SHA-256 over the manifest of ``root`` as it is now."""
    return digest_of(serialize(take(root)))


def tree_size(root: Path) -> int:
    """Bytes of all regular files below ``root``, its repository left out."""
    return sum(os.lstat(root / path).st_size for path, _ in walk(root))


def compare(recorded: Mapping[str, tuple[str, str]], present: Mapping[str, tuple[str, str]]) -> list[Change]:
    """What is different in ``present``, by path."""
    changes = [Change(path, "removed") for path in recorded.keys() - present.keys()]
    changes += [Change(path, "added") for path in present.keys() - recorded.keys()]
    changes += [
        Change(path, "modified") for path in recorded.keys() & present.keys() if recorded[path] != present[path]
    ]
    return sorted(changes, key=lambda change: (change.path, change.kind))


def copy_entry(source: Path, destination: Path) -> None:
    """Copy one file or symlink; never linked to its source, for upstream's scripts edit files in place.

    Permissions become 0755 or 0644. Raises ValueError for anything that is neither.
    """
    status = os.lstat(source)
    if stat.S_ISLNK(status.st_mode):
        destination.symlink_to(os.readlink(source))
    elif stat.S_ISREG(status.st_mode):
        shutil.copyfile(source, destination, follow_symlinks=False)
        destination.chmod(0o755 if status.st_mode & stat.S_IXUSR else 0o644)
    else:
        raise ValueError(f"{source} is neither file nor symlink")


def copy_folder(
    source: Path, destination: Path, *, what: str, kind: FailureKind, skip: Callable[[str], bool] = lambda _: False
) -> None:
    """Copy ``source`` to the new folder ``destination``; ``skip`` is asked with each path relative to ``source``.

    Raises TargetError of ``kind`` naming a symlink that leads out of ``source``, or a socket, pipe or device.
    """
    real = Path(os.path.realpath(source))
    destination.mkdir(parents=True, exist_ok=True)
    for folder, folders, files in os.walk(real):
        relative = Path(folder).relative_to(real)
        folders[:] = [name for name in sorted(folders) if not skip((relative / name).as_posix())]
        for name in folders:
            path = Path(folder, name)
            if not path.is_symlink():
                (destination / relative / name).mkdir(exist_ok=True)
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*links, *sorted(files)):
            path = Path(folder, name)
            shown = (relative / name).as_posix()
            if skip(shown):
                continue
            if path.is_symlink() and escapes(path, real):
                raise TargetError(f"{what}: the symlink {shown} leads out of it, to {os.readlink(path)!r}", kind=kind)
            try:
                copy_entry(path, destination / relative / name)
            except ValueError:
                raise TargetError(f"{what}: {shown} is neither file, folder nor symlink", kind=kind) from None
            except OSError as error:
                raise full_disk(error, destination) or TargetError(
                    f"{what}: {shown} cannot be copied: {error.strerror or error}", kind=kind
                ) from error


def full_disk(error: OSError, place: Path) -> TargetError | None:
    """The error to show where ``error`` says that the disk is full, else None."""
    if error.errno not in FULL:
        return None
    return TargetError(f"the disk is full: {place} could not be written", kind=FailureKind.DISK)


def set_times(root: Path, seconds: int) -> None:
    """Give everything below ``root``, and ``root`` itself, one time of change."""
    for folder, folders, files in os.walk(root, topdown=False):
        for name in (*files, *folders):
            os.utime(Path(folder, name), (seconds, seconds), follow_symlinks=False)
    os.utime(root, (seconds, seconds))
