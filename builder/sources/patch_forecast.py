"""Which patches and custom operators a tree will take, found out before it is made: a plan needs the names of patches
for the fingerprint, and must not promise a build that op-plugin's declarations refuse.

Only the files that the patches name are read, into a folder of their own; there git itself applies the patches, so
that the answer is the one that the tree gives.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePath

from builder.sources import custom_ops
from builder.sources import gitcli as git
from builder.sources import patches as series
from builder.sources.custom_ops import CONFIG, SOURCES, CustomOps
from builder.sources.overlay import SCRIPT, expand, names_in, recipe_in
from builder.sources.overlay import at_commit as at_script
from builder.sources.patches import Applied, PassedOver, Patch

_LISTED = re.compile(rb"(?P<mode>\d{6}) blob (?P<object>[0-9a-f]+)\t(?P<path>.*)", re.DOTALL)


def at_commit(patches: Sequence[Patch], repository: Path, commit: str) -> Applied:
    """Which of ``patches`` are taken at ``commit`` of the bare ``repository``. Raises as ``patches.apply`` does."""
    return _at_commit(tuple(patches), repository, commit)


@lru_cache(maxsize=256)
def _at_commit(patches: tuple[Patch, ...], repository: Path, commit: str) -> Applied:
    # All Pythons of a release line ask the same.
    return forecast(patches, _files_at(repository, commit, touched(patches)))


def in_folder(patches: Sequence[Patch], folder: Path) -> Applied:
    """Which of ``patches`` are taken in a copy of ``folder``. Raises as ``patches.apply`` does."""
    return forecast(patches, _files_in(folder, touched(patches)))


def operators_at_commit(operators: CustomOps, patches: Sequence[Patch], repository: Path, commit: str) -> None:
    """Raise what ``custom_ops.insert`` would in a copy of ``commit`` of the bare ``repository`` with ``patches``."""
    files = _files_at(repository, commit, _concerned(operators, patches))
    place = git.run(["ls-tree", "-d", "-z", "--full-tree", commit, "--", SOURCES], git_dir=repository)
    _take(operators, patches, files, has_place=bool(place))


def operators_in_folder(operators: CustomOps, patches: Sequence[Patch], folder: Path) -> None:
    """As ``operators_at_commit``, in a copy of ``folder``."""
    files = _files_in(folder, _concerned(operators, patches))
    _take(operators, patches, files, has_place=(folder / SOURCES).is_dir())


def overlay_at_commit(patches: Sequence[Patch], repository: Path, commit: str) -> None:
    """Raise what laying op-plugin by its own script would, at ``commit`` of a bare ``repository`` with ``patches``."""
    files = _files_at(repository, commit, tuple(sorted({SCRIPT, *touched(patches)})))
    if SCRIPT not in files and git.run(["ls-tree", "-z", "--full-tree", commit, "--", SCRIPT], git_dir=repository):
        # A link: what it leads to is known once it is checked out.
        return
    with _laid(files) as folder:
        series.apply(patches, folder)
        patched = names_in(folder)

        def names(place: str) -> set[str]:
            laid = {PurePath(name).name for name in files if name.rpartition("/")[0] == place}
            return (_names_at(repository, commit, place) - laid) | set(patched(place))

        expand(names, recipe_in(folder, at_script(commit)))


def _names_at(repository: Path, commit: str, folder: str) -> set[str]:
    """What the folder (empty: the top) holds at ``commit``; nothing where there is no such folder."""
    literal = {"GIT_LITERAL_PATHSPECS": "1"}
    below = ["--", f"{folder}/"] if folder else []
    listed = git.run(["ls-tree", "-z", "--full-tree", "--name-only", commit, *below], git_dir=repository, env=literal)
    return {PurePath(os.fsdecode(name)).name for name in listed.split(b"\0") if name}


def _concerned(operators: CustomOps, patches: Sequence[Patch]) -> tuple[str, ...]:
    """The files that decide whether op-plugin takes ``operators``."""
    sources = (f"{SOURCES}/{name}" for name, _ in operators.sources)
    return tuple(sorted({CONFIG, *sources, *touched(patches)}))


def _take(operators: CustomOps, patches: Sequence[Patch], files: Mapping[str, bytes], *, has_place: bool) -> None:
    with _laid(files) as folder:
        series.apply(patches, folder)
        if has_place:
            # Only those of its files that concern the operators have been laid: there may be none.
            (folder / SOURCES).mkdir(parents=True, exist_ok=True)
        custom_ops.check(operators, folder)


def nowhere(patches: Sequence[Patch], reason: str) -> Applied:
    """What becomes of ``patches`` for a repository that a tree does without, where none of them must be taken."""
    return Applied((), tuple(PassedOver(patch, reason) for patch in patches))


def touched(patches: Iterable[Patch]) -> tuple[str, ...]:
    """The files that the wanted ones of ``patches`` read or write, relative to the top of their repository."""
    return tuple(sorted({name for patch in patches if patch.wanted for name in series.files(patch)}))


def forecast(patches: Sequence[Patch], files: Mapping[str, bytes]) -> Applied:
    """Which of ``patches`` are taken where ``files`` (path to content) are all that they name and the tree holds."""
    for patch in patches:
        series.check(patch)
    likely = _likely(patches, files)
    if not likely:
        return Applied()
    with _laid(files) as folder:
        return series.apply(likely, folder)


@contextmanager
def _laid(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A temporary folder that holds ``files``."""
    with tempfile.TemporaryDirectory(prefix="torch-npu-builder.") as place:
        for name, data in files.items():
            path = Path(place, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield Path(place)


def _files_in(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The content of those of ``names`` that are regular files below ``folder``."""
    found = {}
    for name in names:
        path = folder / name
        if path.is_file() and not path.is_symlink():
            found[name] = path.read_bytes()
    return found


def _likely(patches: Sequence[Patch], files: Mapping[str, bytes]) -> list[Patch]:
    """Those of ``patches`` that git has to be asked about: most conditional ones are for other lines.

    A line that a patch removes must be in its file, or come from a patch before it.
    """
    there = {name: set(data.split(b"\n")) for name, data in files.items()}
    found = []
    for patch in patches:
        changes = list(series.changed_lines(patch))
        misses = (line not in there.get(name, set()) for name, sign, line in changes if sign == b"-")
        if not patch.wanted or (patch.where_it_applies and any(misses)):
            continue
        found.append(patch)
        for name, sign, line in changes:
            if sign == b"+":
                there.setdefault(name, set()).add(line)
    return found


def _files_at(repository: Path, commit: str, names: Sequence[str]) -> dict[str, bytes]:
    """The content of those of ``names`` that are regular files at ``commit``."""
    if not names:
        return {}
    literal = {"GIT_LITERAL_PATHSPECS": "1"}
    listed = git.run(["ls-tree", "-z", "--full-tree", commit, "--", *names], git_dir=repository, env=literal)
    entries = [found for item in listed.split(b"\0") if (found := _LISTED.fullmatch(item)) is not None]
    regular = {os.fsdecode(entry["path"]): entry["object"].decode() for entry in entries if entry["mode"] != b"120000"}
    objects = {name: regular[name] for name in names if name in regular}
    wanted = "".join(f"{item}\n" for item in objects.values()).encode()
    said = git.run(["cat-file", "--batch"], git_dir=repository, data=wanted)
    files: dict[str, bytes] = {}
    for name in objects:
        head, _, rest = said.partition(b"\n")
        size = int(head.split(b" ")[2])
        files[name], said = rest[:size], rest[size + 1 :]
    return files
