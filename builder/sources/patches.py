"""Patch series: which patches belong to a release line, and applying them whole or not at all.

``patches/<release line or glob>/{torch_npu,op-plugin}/series`` names patch files, one a line, in the
order in which they are applied, some of them under conditions; see ``patches/README.md``.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.process_start import has_control
from builder.core.untrusted import read_regular
from builder.core.workspace import real
from builder.sources import gitcli as git
from builder.sources.prepared_record import PassedOverPatch, PatchIdentity

REPOSITORIES = ("torch_npu", "op-plugin")
SERIES = "series"
#: Options of a build under which a series may have a patch taken: ``name.patch [with pch]``.
OPTIONS = frozenset({"pch"})
WHERE_IT_APPLIES = "where it applies"
#: Bytes that are read of a series and of a patch.
_LARGEST_SERIES, _LARGEST_PATCH = 1 << 20, 64 << 20

_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NAMED = re.compile(rb"(?:---|\+\+\+) (.*)|(?:rename|copy) (?:from|to) (.*)|diff --git (.*)")
_PATCH_FAILED = re.compile(r"error: patch failed: (.*):(\d+)\s*$", re.MULTILINE)
_ENTRY = re.compile(r"(?P<name>.*?)(?P<conditions>(?:\s+\[[^\[\]]*\])*)")
#: What git says of a patch that is whole, and of files that are others than it was made for.
_DOES_NOT_FIT = re.compile(
    r"patch failed: "
    r"|.*: (?:patch does not apply|No such file or directory|already exists in |wrong type|is a directory)"
    r"|the patch applies to .* does not match the current contents"
)


@dataclass(frozen=True)
class Patch:
    """One patch file: where it stands, the repository it is for, its bytes and their SHA-256.

    The bytes are read once, so that what was recorded is what is applied. ``where_it_applies``: it is passed over
    where the files are others than it was made for. ``option`` is the option of a build that it needs, ``wanted``
    says whether the build has it.
    """

    path: Path
    repository: str
    sha256: str
    data: bytes = field(repr=False)
    where_it_applies: bool = False
    option: str | None = None
    wanted: bool = True

    @property
    def name(self) -> str:
        """What messages and records call it: ``<release line>/<repository>/<file>``."""
        return "/".join(self.path.parts[-3:])

    def describe(self) -> PatchIdentity:
        """What identifies it, for the record and the fingerprint."""
        return PatchIdentity(repository=self.repository, name=self.name, sha256=self.sha256)


@dataclass(frozen=True)
class PassedOver:
    """A patch that was not taken, and why."""

    patch: Patch
    reason: str

    def describe(self) -> PassedOverPatch:
        """For the record of a tree."""
        return PassedOverPatch(repository=self.patch.repository, name=self.patch.name, reason=self.reason)


@dataclass(frozen=True)
class Applied:
    """What became of patches: those that were taken, in order, and those that were not."""

    taken: tuple[Patch, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()

    def __add__(self, other: Applied) -> Applied:
        return Applied(self.taken + other.taken, self.passed_over + other.passed_over)


@dataclass(frozen=True)
class Hunk:
    """A hunk of a patch: its file, its number in that file from 1, the line in the file, the line in the patch."""

    file: str
    number: int
    start: int
    line: int
    header: str


def find_series(
    patches_dirs: Sequence[Path], branch: str, repository: str, *, options: Collection[str]
) -> tuple[Patch, ...]:
    """The patches for ``repository`` (``torch_npu`` or ``op-plugin``) of the release line ``branch``, in order.

    Each folder of ``patches_dirs`` in turn; in it every folder whose name is ``branch`` or a glob that
    matches it, the less specific first, then by name. ``options`` are those of OPTIONS that the build has; patches
    that need another one are among the result and not ``wanted``.

    Raises RequestError for a series that names a missing file, one outside its folder or an unknown condition,
    and for a patch that touches files outside the repository.
    """
    if repository not in REPOSITORIES or not OPTIONS.issuperset(options):
        raise ValueError(repository, options)
    found: list[Patch] = []
    for folder in patches_dirs:
        if not folder.is_dir():
            raise RequestError(f"there is no folder of patches {folder}")
        matching = [entry for entry in folder.iterdir() if entry.is_dir() and fnmatch.fnmatchcase(branch, entry.name)]
        for line in sorted(matching, key=lambda entry: (_specificity(entry.name), entry.name)):
            for inner in sorted(line.iterdir()):
                if inner.is_dir() and inner.name not in REPOSITORIES:
                    raise RequestError(f"{inner}: patches are for {' or '.join(REPOSITORIES)}, not for {inner.name!r}")
                if inner.name in REPOSITORIES and not inner.is_dir():
                    raise RequestError(f"{inner} is no folder", hint=f"put a folder with a file {SERIES!r} there")
            found += _read_series(line / repository, repository, options)
    return tuple(found)


def offered(patches: Sequence[Patch]) -> tuple[PatchIdentity, ...]:
    """What a tree made with ``patches`` depends on, whatever is in its files: each wanted patch with its condition."""
    return tuple(
        patch.describe().model_copy(update={"condition": WHERE_IT_APPLIES} if patch.where_it_applies else {})
        for patch in patches
        if patch.wanted
    )


def _specificity(glob: str) -> tuple[bool, int]:
    """More literal characters are more specific, and no wildcard is the most."""
    literal = re.sub(r"\[[^\]]*\]|[*?]", "", glob)
    return literal == glob, len(literal)


def _read_series(folder: Path, repository: str, options: Collection[str]) -> Iterator[Patch]:
    series = folder / SERIES
    if not folder.is_dir():
        return
    if not os.path.lexists(series):
        if any(folder.glob("*.patch")):
            raise RequestError(f"{folder} holds patches but no file named {SERIES!r} that gives their order")
        return
    try:
        lines = read_regular(series, _LARGEST_SERIES).decode(errors="replace").splitlines()
    except OSError as error:
        raise RequestError(
            f"{series} cannot be read: {error.strerror}", hint="it is a text file that names a patch in each line"
        ) from error
    for number, text in enumerate(lines, 1):
        entry = _ENTRY.fullmatch(re.sub(r"(^|\s)#.*", "", text).strip())
        if entry is None or not entry["name"]:
            continue
        name = entry["name"]
        where = f"{series}, line {number}"
        where_it_applies, option = _conditions(entry["conditions"], where)
        if has_control(name):
            raise RequestError(f"{where}: {name!r} holds a control character", hint="name a patch file of this folder")
        path = folder / name
        if Path(name).is_absolute() or not real(path).is_relative_to(real(folder)):
            raise RequestError(f"{where}: {name!r} is outside of {folder}", hint="put the patch beside its series")
        try:
            data = read_regular(path, _LARGEST_PATCH)
        except OSError as error:
            raise RequestError(
                f"{where}: the patch {name[:200]!r} cannot be read: {error.strerror}",
                hint="name a patch file of this folder",
            ) from error
        patch = Patch(
            path, repository, hashlib.sha256(data).hexdigest(), data,
            where_it_applies=where_it_applies, option=option, wanted=option is None or option in options,
        )  # fmt: skip
        check(patch)
        yield patch


def _conditions(text: str, where: str) -> tuple[bool, str | None]:
    """The conditions ``[where it applies]`` and ``[with OPTION]`` of an entry; RequestError for any other."""
    where_it_applies, option = False, None
    for condition in re.findall(r"\[([^\[\]]*)\]", text):
        words = condition.split()
        if words == WHERE_IT_APPLIES.split():
            where_it_applies = True
        elif len(words) == 2 and words[0] == "with" and words[1] in OPTIONS and option is None:
            option = words[1]
        else:
            known = [f"[{WHERE_IT_APPLIES}]", *(f"[with {name}]" for name in sorted(OPTIONS))]
            raise RequestError(
                f"{where}: unknown condition [{condition}]", hint=f"a series knows {' and '.join(known)}"
            )
    return where_it_applies, option


def check(patch: Patch) -> None:
    """Raise RequestError when ``patch`` names a file outside the tree or in a repository, or is no patch."""
    found = False
    for number, line in _headers(patch.data):
        named = _NAMED.fullmatch(line)
        if named is None:
            continue
        found = True
        text = next(group for group in named.groups() if group is not None).decode(errors="replace")
        for name in _names(text, both=line.startswith(b"diff --git ")):
            parts = name.split("/")
            if name == "/dev/null":
                continue
            inner = parts if line.startswith((b"rename", b"copy")) else parts[1:]
            if name.startswith("/") or ".." in parts or "" in inner[:1] or any(p.lower() == ".git" for p in parts):
                raise RequestError(
                    f"{patch.path}, line {number}: the patch touches {name!r}, outside of {patch.repository}",
                    hint="a patch may touch only files of its repository, named a/<path> and b/<path>",
                )
    if not found:
        raise RequestError(f"{patch.path} is not a patch", hint="make it with 'git diff' or 'git format-patch'")


def files(patch: Patch) -> set[str]:
    """The files that ``patch`` names, relative to the top of its repository."""
    found = set()
    for _, line in _headers(patch.data):
        named = _NAMED.fullmatch(line)
        if named is None or line.startswith(b"diff --git "):
            continue
        text = next(group for group in named.groups() if group is not None).decode(errors="replace")
        for name in _names(text, both=False):
            if name != "/dev/null":
                found.add(name if line.startswith((b"rename", b"copy")) else name.partition("/")[2])
    return found


def _names(text: str, *, both: bool) -> list[str]:
    """The paths of one header line; git quotes unusual ones as C does."""

    def plain(quoted: str) -> str:
        octal = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), quoted.encode())
        return re.sub(rb"\\(.)", rb"\1", octal).decode(errors="replace")

    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', text) if '"' in text else []
    rest = re.sub(r'"(?:[^"\\]|\\.)*"', "", text).split("\t")[0].strip()
    names = [plain(name) for name in quoted]
    if rest:
        # Two unquoted paths with spaces cannot be told apart; each word is judged then, which is stricter.
        names += re.split(r" (?=b/)", rest, maxsplit=1) if both else [rest]
    return names


def _headers(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Every line that is not content of a hunk, with its number; ``@@`` lines are among them."""
    old = new = 0
    for number, line in enumerate(data.split(b"\n"), 1):
        if old > 0 or new > 0:
            old -= line[:1] in (b" ", b"-", b"", b"\t")
            new -= line[:1] in (b" ", b"+", b"", b"\t")
            continue
        hunk = _HUNK.match(line)
        if hunk is not None:
            old, new = int(hunk[2] or 1), int(hunk[4] or 1)
        yield number, line.rstrip(b"\r")


def hunks(patch: Patch) -> list[Hunk]:
    """All hunks of ``patch`` in order."""
    found: list[Hunk] = []
    file, number = "", 0
    for line_number, line in _headers(patch.data):
        named = re.match(rb"(---|\+\+\+) (.*)", line)
        hunk = _HUNK.match(line)
        if named is not None:
            names = _names(named[2].decode(errors="replace"), both=False)
            if names and names[0] != "/dev/null":
                file, number = names[0].partition("/")[2], 0
        elif hunk is not None:
            number += 1
            found.append(Hunk(file, number, int(hunk[1]), line_number, line.decode(errors="replace")))
    return found


def changed_lines(patch: Patch) -> Iterator[tuple[str, bytes, bytes]]:
    """Every line that ``patch`` removes or adds: its file, ``-`` or ``+``, and the line without its end."""
    text = patch.data.split(b"\n")
    for hunk in hunks(patch):
        counts = _HUNK.match(text[hunk.line - 1])
        assert counts is not None  # noqa: S101 - the hunk was found by it
        old, new = int(counts[2] or 1), int(counts[4] or 1)
        for line in text[hunk.line :]:
            if old <= 0 and new <= 0:
                break
            sign = line[:1]
            old -= sign in (b" ", b"-", b"", b"\t")
            new -= sign in (b" ", b"+", b"", b"\t")
            if sign in (b"-", b"+"):
                yield hunk.file, sign, line[1:]


def apply(patches: Sequence[Patch], tree: Path) -> Applied:
    """Apply ``patches`` in order to the files of ``tree``, with git; ``tree`` need not be a repository.

    Raises TargetError of kind PATCH that names the patch, its hunk, the file and the line; ``tree`` is
    then as before. RequestError for a patch that touches files outside of ``tree``.
    """
    for patch in patches:
        check(patch)
    taken: list[Patch] = []
    passed: list[PassedOver] = []
    for patch in patches:
        if not patch.wanted:
            passed.append(PassedOver(patch, f"it is for builds with {patch.option}"))
            continue
        failure, reason = _attempt(patch, tree)
        if failure is None:
            taken.append(patch)
        elif patch.where_it_applies and reason:
            passed.append(PassedOver(patch, reason))
        else:
            for earlier in reversed(taken):
                _git_apply(earlier, tree, "--reverse")
            raise failure
    return Applied(tuple(taken), tuple(passed))


def _attempt(patch: Patch, tree: Path) -> tuple[TargetError | None, str]:
    """Apply ``patch`` whole or not at all. The error, and why it does not fit; that is empty where it is damaged."""
    for name in sorted(files(patch)):
        # git takes a folder for a submodule, and the patch for applied.
        if (tree / name).is_dir() and not (tree / name).is_symlink():
            reason = f"{name} is a folder"
            return TargetError(f"the patch {patch.name} does not apply: {reason}", kind=FailureKind.PATCH), reason
    try:
        _git_apply(patch, tree)
    except git.GitFailed as error:
        failure = _failure(patch, error)
        failure.__cause__ = error
        return failure, _why_not(patch, tree, error) if patch.where_it_applies and _does_not_fit(error) else ""
    return None, ""


def _git_apply(patch: Patch, tree: Path, *options: str) -> None:
    # Outside a repository git takes paths as they are; inside one of a parent folder it would
    # silently skip every file, so parents are not searched. The tree's own one is the builder's, just made.
    git.run(
        ["apply", "--whitespace=nowarn", *options, "-"],
        cwd=tree,
        git_dir=tree / ".git" if (tree / ".git").is_dir() else None,
        env={"GIT_CEILING_DIRECTORIES": str(tree.resolve().parent), "GIT_WORK_TREE": "."},
        data=patch.data,
    )


def _does_not_fit(error: git.GitFailed) -> bool:
    """True where the files are others than the patch was made for, and nothing else is wrong."""
    said = [line.removeprefix("error: ") for line in error.output.splitlines() if line.startswith("error: ")]
    return bool(said) and "fatal: " not in error.output and all(_DOES_NOT_FIT.match(line) for line in said)


def _why_not(patch: Patch, tree: Path, error: git.GitFailed) -> str:
    """Why ``patch`` is passed over, in words."""
    failed = _PATCH_FAILED.search(error.output)
    if failed is None:
        return error.reason
    try:
        _git_apply(patch, tree, "--reverse", "--check")
    except git.GitFailed:
        return f"{failed[1]} holds other lines"
    return f"{failed[1]} has it already"


def _failure(patch: Patch, error: git.GitFailed) -> TargetError:
    message = f"the patch {patch.name} does not apply"
    failed = _PATCH_FAILED.search(error.output)
    corrupt = re.search(r"corrupt patch at (?:line |\S+:)(\d+)", error.output)
    if failed is not None:
        file, start = failed[1], int(failed[2])
        hunk = next((h for h in hunks(patch) if h.file == file and h.start == start), None)
        message += f" to {file}, line {start}"
        if hunk is not None:
            message += f": hunk {hunk.number} ({hunk.header}, line {hunk.line} of the patch)"
    elif corrupt is not None:
        message = f"the patch {patch.name} is damaged at its line {corrupt[1]}"
    else:
        message += f": {error.reason}"
    return TargetError(message, kind=FailureKind.PATCH, details=f"{patch.path}\n{error.output}")
