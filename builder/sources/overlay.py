"""op-plugin's sources, laid over a torch_npu tree as op-plugin's own ``ci/build.sh`` does it.

Which entries it copies differs by era: 5.0.rc3 leaves out ``test/``, the 26.x lines add
``torchnpugen/``. So the list is read from the script of the very op-plugin that is laid.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.untrusted import read_regular, remove_tree
from builder.core.workspace import expanded, real
from builder.sources import manifest as manifests
from builder.sources import worktree
from builder.sources.export import escapes
from builder.sources.mirrors import Mirror
from builder.sources.prepared_record import OverlayIdentity

SCRIPT = "ci/build.sh"
#: Bytes that are read of it.
_LARGEST_SCRIPT = 1 << 20

_COPY = re.compile(
    r"^\s*cp\s+(?:-\w+\s+)*[\"']?\$\{?CODE_ROOT_PATH\}?[\"']?/(?P<entry>[^\s\"';&|]+)[\"']?"
    r"\s+[\"']?\$\{?PYTORCH_THIRD_PATH\}?[\"']?/?\.?[\"']?\s*(?:[;#].*)?$"
)
_ENTRY = re.compile(r"[A-Za-z0-9._*?-]+(?:/[A-Za-z0-9._*?-]+)*/?")
#: What a local op-plugin folder may hold beside its sources: its history and earlier builds.
_NOT_SOURCES = {".git", "build", "dist"}


@dataclass(frozen=True)
class OverlaySource:
    """Where the overlay comes from: ``mirror`` and ``commit``, or a local ``folder`` as it is.

    For a folder, ``commit`` is its HEAD (empty outside git), ``dirty`` says whether it holds other bytes than that
    commit (``worktree`` says what counts), ``note`` says so to people, and ``digest`` is the SHA-256 over what would be
    laid. ``recipe`` None means: read it from the source's own ``ci/build.sh``.
    """

    mirror: Mirror | None = None
    commit: str = ""
    folder: Path | None = None
    dirty: bool = False
    digest: str = ""
    recipe: tuple[str, ...] | None = None
    note: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if (self.mirror is None) == (self.folder is None):
            raise ValueError("an overlay comes either from a mirror or from a folder")

    @classmethod
    def local(cls, folder: Path) -> OverlaySource:
        """The op-plugin sources in ``folder``, uncommitted edits included.

        Raises RequestError when it is no op-plugin folder, TargetError of kind OVERLAY when its script
        names no entries or an entry cannot be laid.
        """
        folder = expanded(folder).absolute()
        script = folder / SCRIPT
        if not script.is_file():
            raise RequestError(
                f"{folder} is not an op-plugin checkout: it has no {SCRIPT}",
                hint="--op-plugin takes 'branch', 'pinned', a branch or commit, or the folder of a checkout",
            )
        try:
            text = read_regular(script, _LARGEST_SCRIPT).decode(errors="replace")
        except OSError as error:
            raise RequestError(f"{script} cannot be read: {error.strerror}", hint="restore the checkout") from error
        recipe = read_recipe(text, str(script))
        # Only a repository of its own: a plain folder inside another checkout has no commit.
        found = worktree.compare(folder)
        note = found.describe() if found is not None else ""
        return cls(
            commit=found.commit if found is not None else "",
            folder=folder,
            dirty=found is None or found.differs,
            digest=_digest(folder, recipe),
            recipe=recipe,
            note=f"op-plugin in {folder} is taken as it is; {note}" if note else "",
        )

    def describe(self) -> OverlayIdentity:
        """What identifies the overlay, for the record and the fingerprint. Paths of this machine stay out."""
        if self.mirror is not None:
            return OverlayIdentity(source="commit", commit=self.commit)
        return OverlayIdentity(source="folder", commit=self.commit, dirty=self.dirty, digest=self.digest)


def read_recipe(build_sh: str, where: str = f"op-plugin's {SCRIPT}") -> tuple[str, ...]:
    """The entries that op-plugin's ``ci/build.sh`` (its text) copies into ``third_party/op-plugin``.

    Entries are relative to op-plugin, may hold ``*`` and ``?``, and come in the script's order. ``where``
    names the script in messages. Raises TargetError of kind OVERLAY when there are none, or one is not plain.
    """
    entries: list[str] = []
    for number, line in enumerate(build_sh.replace("\\\n", " ").splitlines(), 1):
        found = _COPY.match(line)
        if found is None:
            continue
        entry = found["entry"]
        if not _ENTRY.fullmatch(entry) or {"..", ".", ".git"} & set(entry.rstrip("/").lower().split("/")):
            raise TargetError(
                f"{where}, line {number}: {entry!r} cannot be laid over torch_npu", kind=FailureKind.OVERLAY
            )
        entries.append(entry.rstrip("/"))
    if not entries:
        raise TargetError(
            f"{where} does not say what it copies into third_party/op-plugin: no line of the form "
            "'cp -rf ${CODE_ROOT_PATH}/<entry> ${PYTORCH_THIRD_PATH}/'",
            kind=FailureKind.OVERLAY,
        )
    return tuple(dict.fromkeys(entries))


def recipe_in(sources: Path, where: str) -> tuple[str, ...]:
    """What the script of op-plugin's ``sources`` lays; ``where`` names it in messages.

    Raises TargetError of kind OVERLAY where there is none, and as ``read_recipe`` does.
    """
    script = sources / SCRIPT
    if not script.is_file():
        raise TargetError(f"{where}: there is no such file", kind=FailureKind.OVERLAY)
    return read_recipe(script.read_text(encoding="utf-8", errors="replace"), where)


def at_commit(commit: str) -> str:
    """What messages call the script of op-plugin at ``commit``."""
    return f"op-plugin at {commit[:12]}, {SCRIPT}"


def names_in(source: Path) -> Callable[[str], list[str]]:
    """What a folder of ``source`` (relative to it, empty for itself) holds, for ``expand``."""

    def names(folder: str) -> list[str]:
        base = source / folder
        return [path.name for path in base.iterdir()] if base.is_dir() else []

    return names


def expand(names_of: Callable[[str], Iterable[str]], recipe: Sequence[str]) -> tuple[str, ...]:
    """The files and folders of op-plugin that ``recipe`` means, in its order; ``names_of`` gives what a folder holds.

    As in a shell, ``*`` does not match a leading dot. Raises TargetError of kind OVERLAY for an entry that
    matches nothing: upstream's script would stop there too.
    """
    found: dict[str, None] = {}
    for entry in recipe:
        if entry.startswith("/") or ".." in entry.split("/"):
            raise TargetError(f"the overlay entry {entry!r} leads out of op-plugin", kind=FailureKind.OVERLAY)
        folder, _, pattern = entry.rpartition("/")
        names = sorted(names_of(folder))
        if "*" in pattern or "?" in pattern:
            names = [
                name
                for name in names
                if fnmatch.fnmatchcase(name, pattern) and name.startswith(".") == pattern.startswith(".")
            ]
        else:
            names = [name for name in names if name == pattern]
        if not names:
            raise TargetError(f"op-plugin has no {entry!r}, which its {SCRIPT} lays", kind=FailureKind.OVERLAY)
        for name in names:
            found[f"{folder}/{name}" if folder else name] = None
    return tuple(found)


def lay(source: Path, destination: Path, recipe: Sequence[str]) -> tuple[str, ...]:
    """Empty ``destination`` and copy what ``recipe`` means out of ``source``; return the entries laid.

    ``cp -rf X/a/b Y/`` gives ``Y/b``: only the last part of an entry's path remains. Raises TargetError of
    kind OVERLAY for a symlink that leads out of ``source``, and for a socket, pipe or device, naming it.
    """
    entries = expand(names_in(source), recipe)
    remove_tree(destination)
    destination.mkdir(parents=True)
    for entry in entries:
        path = source / entry
        if path.is_symlink() and not _inside(path, source):
            raise TargetError(f"the overlay entry {entry} is a symlink that leads out", kind=FailureKind.OVERLAY)
        target = destination / path.name
        if path.is_dir():
            manifests.copy_folder(
                path, target, what=f"op-plugin's {entry}", kind=FailureKind.OVERLAY,
                skip=lambda name: name.rsplit("/", 1)[-1] == ".git",
            )  # fmt: skip
        elif path.is_file():
            manifests.copy_entry(path.resolve(), target)
        else:
            raise _no_entry(entry)
    return entries


def copy_sources(folder: Path, destination: Path, recipe: Sequence[str]) -> None:
    """Copy a local op-plugin folder to work on: all but its history and the builds that stand in it.

    Raises TargetError of kind OVERLAY for a symlink that leads out, a socket, pipe or device in what ``recipe``
    lays. Elsewhere in the folder these do no harm and are left out.
    """
    top = real(folder)
    laid = set(expand(names_in(folder), recipe))

    def skip(path: str) -> bool:
        entry = top / path
        if path in _NOT_SOURCES or path.rsplit("/", 1)[-1] == ".git":
            return True
        if any(path == top or path.startswith(f"{top}/") for top in laid):
            return False
        if entry.is_symlink():
            return escapes(entry, top)
        return not entry.is_dir() and not entry.is_file()

    manifests.copy_folder(folder, destination, what=f"op-plugin in {folder}", kind=FailureKind.OVERLAY, skip=skip)


def _no_entry(entry: str) -> TargetError:
    return TargetError(f"the overlay entry {entry} is neither file, folder nor symlink", kind=FailureKind.OVERLAY)


def _inside(path: Path, root: Path) -> bool:
    return real(path).is_relative_to(real(root))


def _digest(folder: Path, recipe: Sequence[str]) -> str:
    """SHA-256 over what would be laid, found without copying it."""
    lines = []
    for entry in expand(names_in(folder), recipe):
        path = folder / entry
        if not path.is_dir() and not path.is_file():
            raise _no_entry(entry)
        listed = manifests.take(path) if path.is_dir() else {"": ("file", manifests.digest_of(path.read_bytes()))}
        lines.append(manifests.serialize({f"{entry}/{name}": value for name, value in listed.items()}))
    return manifests.digest_of(b"".join(lines))
