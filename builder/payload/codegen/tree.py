"""What a tree holds, what a generation has done to it, and which of its files the generation has read."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

#: Files that generators seldom read, and that change every day: their content counts only where it was read.
SELDOM_READ = frozenset({".c", ".cc", ".cpp", ".cxx", ".h", ".hpp", ".md", ".py", ".pyi", ".rst"})
#: Folders whose files always count.
GENERATORS = frozenset({"codegen", "torchnpugen", "config", "templates", "scripts"})
#: Neither read nor written by generators: the repository, and what Python keeps beside its modules.
SKIPPED = frozenset({".git", "__pycache__"})
#: A time of access before all other times of a tree, in nanoseconds.
LONG_AGO = 10**9


class Item(NamedTuple):
    """A file, link or folder: its kind, its permissions, and what changes when it is written."""

    kind: str
    mode: int
    signature: tuple[int, ...]


class Unfit(Exception):  # noqa: N818 - a reason, told to the user
    """An entry that cannot be used, or a generation whose result cannot be kept."""


def scan(root: Path) -> dict[str, Item]:
    """Everything below ``root`` by its relative path, parents first, but for what is SKIPPED."""
    found: dict[str, Item] = {}

    def visit(folder: str, prefix: str) -> None:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.name in SKIPPED:
                    continue
                state = entry.stat(follow_symlinks=False)
                path, mode = prefix + entry.name, stat.S_IMODE(state.st_mode)
                if entry.is_dir(follow_symlinks=False):
                    found[path] = Item("folder", mode, ())
                    visit(entry.path, path + "/")
                    continue
                kind = "file" if stat.S_ISREG(state.st_mode) else "link" if entry.is_symlink() else "other"
                found[path] = Item(kind, mode, (state.st_ino, state.st_size, state.st_mtime_ns))

    visit(str(root), "")
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()


def contents(root: Path, listing: dict[str, Item]) -> dict[str, str]:
    """What each path of ``listing`` holds: its kind, and the digest of a file or the target of a link."""
    found = {}
    for path, item in listing.items():
        if item.kind == "file":
            found[path] = f"{'executable' if item.mode & stat.S_IXUSR else 'file'} {digest(root / path)}"
        elif item.kind == "link":
            found[path] = f"link {os.readlink(root / path)}"
        else:
            found[path] = item.kind
    return found


def changes(root: Path, before: dict[str, Item], after: dict[str, Item]) -> dict[str, Any]:
    """What was done to a tree: files written, folders made, files and folders removed.

    A file that was written with the bytes that it had counts as written. Raises Unfit for anything else.
    """
    outputs, folders = [], []
    for path, item in after.items():
        old = before.get(path)
        if old == item or (old is not None and old.kind == item.kind == "folder"):
            continue
        if item.kind == "folder":
            folders.append({"path": path, "mode": item.mode})
        elif item.kind == "file":
            outputs.append({"path": path, "mode": item.mode, "sha256": digest(root / path)})
        else:
            raise Unfit(f"it makes {path}, which is no file")
    gone = sorted(path for path in before if path not in after)
    return {
        "outputs": outputs,
        "folders": folders,
        "removed": [path for path in gone if before[path].kind != "folder"],
        "removed_folders": [path for path in gone if before[path].kind == "folder"],
    }


# -- which files are read --------------------------------------------------------------------------------------


def seldom_read(path: str) -> bool:
    """True for a file of which only the name counts as long as no generation reads it."""
    return os.path.splitext(path)[1] in SELDOM_READ and not GENERATORS.intersection(path.split("/")[:-1])


def watch(root: Path, listing: dict[str, Item]) -> bool:
    """Set back the times of access of the files that are seldom read: whatever program reads one moves it.

    False where the file system keeps no such times (``noatime``), or not this user's.
    """
    probe = root / ".codegen-probe"
    try:
        probe.write_bytes(b"read me")
        os.utime(probe, ns=(LONG_AGO, probe.stat().st_mtime_ns))
        probe.read_bytes()
        if probe.stat().st_atime_ns == LONG_AGO:
            return False
        for path, item in listing.items():
            if item.kind == "file" and seldom_read(path):
                os.utime(root / path, ns=(LONG_AGO, item.signature[2]))
    except OSError:
        return False
    finally:
        if probe.exists():
            probe.unlink()
    return True


def read_files(
    root: Path, before: dict[str, Item], after: dict[str, Item], held: dict[str, str], made: dict[str, Any]
) -> set[str]:
    """The files that are seldom read and were, or may have been: those that were written or are gone, and those
    whose content is in another file now, as some file systems copy without reading.
    """
    written = {item["sha256"] for item in made["outputs"]}
    found = set()
    for path, item in before.items():
        if item.kind == "file" and seldom_read(path):
            copied = held[path].split(" ")[1] in written
            if copied or after.get(path) != item or (root / path).stat().st_atime_ns != LONG_AGO:
                found.add(path)
    return found
