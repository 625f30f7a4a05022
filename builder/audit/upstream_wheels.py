"""What release lines state, against upstream's released wheels: the second witness. Nothing here reads anything.

A check gets one release line with the wheels that were released from it. The same difference in several versions
is one drift that names them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from builder.audit.drift import Correction, Difference, Drift, Facts, Note, Outcome, shown
from builder.audit.facts import row_correction
from builder.audit.matrix_checks import place_in
from builder.matrix.base import ARCHITECTURES, python_key
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine
from builder.wheels.upstream_wheels import ReleasedFile, ReleasedWheel, TorchWheel

#: The first PyTorch whose torch_npu wheels upstream released on PyPI.
FIRST_ON_INDEX = (2, 1)
INDEX = "the package index"


@dataclass(frozen=True)
class Index:
    """What was read of a package index: all files of torch_npu by name, the content of one wheel for each version and
    architecture, PyTorch's wheels, and for each commit in a wheel the branches that hold it (None: unknown commit)."""

    files: Sequence[ReleasedFile]
    wheels: Sequence[ReleasedWheel]
    torch: Sequence[TorchWheel]
    commits: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    supported: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def versions(self) -> list[Version]:
        """Every released version, from old to new."""
        return sorted({Version(file.version) for file in self.files})


@dataclass(frozen=True)
class Released:
    """One release line and what was released from it."""

    line: ReleaseLine
    files: Sequence[ReleasedFile]
    wheels: Sequence[ReleasedWheel]
    commits: Mapping[str, frozenset[str] | None]


@dataclass(frozen=True)
class Mismatch:
    """One wheel that says something else; those with equal texts become one drift."""

    wheel: ReleasedFile
    stated: str
    found: str
    keys: tuple[str, ...]


Check = Callable[[Released], Iterator[Mismatch | None]]
#: Facts that the wheels of a release line state. Each item of a check is one comparison, None where they agree.
WHEEL_FACTS: Facts[Check] = Facts()


def compare(matrix: Matrix, lines: Sequence[ReleaseLine], index: Index, outcome: Outcome, *, complete: bool) -> None:
    """Compare ``lines`` with the index, into ``outcome``. ``complete``: all lines of the matrix are among them."""
    for line in lines:
        own = {Version(version) for version in line.released}
        seen = Released(
            line,
            [file for file in index.files if Version(file.version) in own],
            [wheel for wheel in index.wheels if Version(wheel.file.version) in own],
            index.commits,
        )
        for fact in WHEEL_FACTS.values():
            found = list(fact.check(seen))
            drift = _merged(matrix, line, fact.name, [item for item in found if item is not None])
            outcome.add(fact.name, drift, compared=len(found))
        outcome.notes += _notes(seen)
    listed = [*_missing(matrix, lines, index), *(_without_line(matrix, index) if complete else ())]
    outcome.add("released", [item for item in listed if item is not None], compared=len(listed))
    torch = list(_torch(matrix, lines, index))
    outcome.add("torch_wheels", [item for item in torch if item is not None], compared=len(torch))


#: Audited with the wheels too, but not wheel by wheel.
INDEX_FACTS = {
    "released": "Every version on the index stands in released of exactly one line, and each of these is on the index.",
    "torch_wheels": "wheels of torch.yaml are those of PyTorch that the index has, with their SHA-256, and no others.",
}


@WHEEL_FACTS("gcc", of="libtorch_npu.so")
def _gcc(seen: Released) -> Iterator[Mismatch | None]:
    """The compiler that .comment of libtorch_npu.so names is the toolchain's."""
    for wheel, arch in _wheels(seen):
        stated = seen.line.toolchains[arch].gcc  # type: ignore[index]
        yield _unless(wheel.gcc == stated, wheel.file, stated, wheel.gcc, ("toolchains", arch))


@WHEEL_FACTS("manylinux", of="file names")
def _manylinux(seen: Released) -> Iterator[Mismatch | None]:
    """The policy in the file names is the toolchain's."""
    for file in seen.files:
        if file.arch in seen.line.toolchains:
            stated = seen.line.toolchains[file.arch].manylinux  # type: ignore[index]
            yield _unless(file.manylinux == stated, file, stated, file.manylinux, ("toolchains", file.arch))


@WHEEL_FACTS("wheel_cxx11_abi", of="libtorch_npu.so")
def _cxx11_abi(seen: Released) -> Iterator[Mismatch | None]:
    """The C++ ABI of libtorch_npu.so is the toolchain's."""
    for wheel, arch in _wheels(seen):
        stated = seen.line.toolchains[arch].cxx11_abi  # type: ignore[index]
        if wheel.cxx11_abi is not None:
            yield _unless(wheel.cxx11_abi == stated, wheel.file, stated, wheel.cxx11_abi, ("toolchains", arch))


@WHEEL_FACTS("wheel_pythons", of="file names")
def _pythons(seen: Released) -> Iterator[Mismatch | None]:
    """Every Python that a wheel was released for is one of the line's."""
    for file in seen.files:
        stated = shown(seen.line.pythons)
        yield _unless(file.python in seen.line.pythons, file, stated, f"a wheel for {file.python}", ("pythons",))


@WHEEL_FACTS("wheel_requirement", of="METADATA")
def _requirement(seen: Released) -> Iterator[Mismatch | None]:
    """The torch that METADATA requires is the line's."""
    for wheel, arch in _wheels(seen):
        stated = seen.line.torch_requirement.get(arch)  # type: ignore[call-overload]
        found = _torch_of(wheel)
        same = found == stated or (stated == "torch==<version>" and found is not None and _exactly(found, seen.line))
        yield _unless(same, wheel.file, stated, found, ("torch_requirement",))


@WHEEL_FACTS("wheel_version", of="METADATA")
def _version(seen: Released) -> Iterator[Mismatch | None]:
    """METADATA names the version that the file name has."""
    for wheel, _ in _wheels(seen):
        same = _parsed(wheel.version) == Version(wheel.file.version)
        yield _unless(same, wheel.file, wheel.file.version, wheel.version, ("released",))


@WHEEL_FACTS("wheel_commit", of="torch_npu/version.py")
def _commit(seen: Released) -> Iterator[Mismatch | None]:
    """The commit that the wheel was built from is on the line's branch, where the mirror has it."""
    for wheel, _ in _wheels(seen) if seen.line.source == "branch" else ():
        branches = seen.commits.get(wheel.git_version or "")
        if branches is not None:
            on = ", ".join(sorted(branches)) or "no branch"
            found = f"{(wheel.git_version or '')[:12]} on {on}"
            yield _unless(seen.line.branch in branches, wheel.file, f"on {seen.line.branch}", found, ("released",))


def _wheels(seen: Released) -> Iterator[tuple[ReleasedWheel, str]]:
    """The wheels of architectures that the line has, each with its architecture."""
    for wheel in seen.wheels:
        if wheel.file.arch in seen.line.toolchains:
            yield wheel, wheel.file.arch


def _unless(same: bool, file: ReleasedFile, stated: object, found: object, keys: tuple[str, ...]) -> Mismatch | None:
    return None if same else Mismatch(file, shown(stated), shown(found), keys)


def _merged(matrix: Matrix, line: ReleaseLine, fact: str, found: Iterable[Mismatch]) -> list[Drift]:
    """One drift for each architecture and pair of texts, naming all versions."""
    groups: dict[tuple[str, str, str, tuple[str, ...]], list[ReleasedFile]] = {}
    for item in found:
        groups.setdefault((item.wheel.arch, item.stated, item.found, item.keys), []).append(item.wheel)
    drift = []
    for (arch, stated, text, keys), files in groups.items():
        versions = ", ".join(dict.fromkeys(file.version for file in sorted(files, key=lambda f: Version(f.version))))
        place = matrix.place_of(line.branch, *keys)
        drift.append(
            Drift(
                line=line.branch,
                fact=fact,
                stated=f"{arch}: {stated}",
                found=shown(f"{arch}: {text} ({versions})"),
                place=place,
                source=files[0].filename,
            )
        )
    return drift


def _notes(seen: Released) -> Iterator[Note]:
    """What wheels do not tell, or tell of the past only."""
    for version in sorted({file.version for file in seen.files}, key=Version):
        files = [file for file in seen.files if file.version == version]
        for arch in seen.line.architectures:
            pythons = {file.python for file in files if file.arch == arch}
            missing = [python for python in seen.line.pythons if python not in pythons]
            if not pythons:
                yield Note(seen.line.branch, "wheel_pythons", f"{version} was not released for {arch}")
            elif missing:
                yield Note(seen.line.branch, "wheel_pythons", f"{version} on {arch} has no wheel for {shown(missing)}")
    for wheel in seen.wheels:
        if wheel.cxx11_abi is None:
            name = f"{wheel.file.version} for {wheel.file.arch}"
            yield Note(seen.line.branch, "wheel_cxx11_abi", f"{name} does not tell its C++ ABI")
    # Both architectures are built from one commit.
    built = dict.fromkeys((wheel.file.version, wheel.git_version or "Unknown") for wheel in seen.wheels)
    for version, commit in built:
        branches = seen.commits.get(commit)
        if branches is None:
            text = f"{version} is of {commit[:12]}, which the mirror does not have"
            yield Note(seen.line.branch, "wheel_commit", text)
        elif seen.line.source == "unknown":
            text = f"{version} is of {commit[:12]}, which is on {shown(tuple(sorted(branches)))}"
            yield Note(seen.line.branch, "wheel_commit", text)


def _missing(matrix: Matrix, lines: Sequence[ReleaseLine], index: Index) -> Iterator[Drift | None]:
    """Every version that a line says was released is on the index, since upstream releases there."""
    there = set(index.versions())
    for line in lines:
        for position, version in enumerate(line.released if line.pytorch_key >= FIRST_ON_INDEX else ()):
            place = matrix.place_of(line.branch, "released", position)
            found = "no such version on the index"
            same = Version(version) in there
            yield None if same else Drift(line.branch, "released", version, found, place, INDEX)


def _without_line(matrix: Matrix, index: Index) -> Iterator[Drift | None]:
    """Every version on the index is one that exactly one line released."""
    owners: dict[Version, list[ReleaseLine]] = {}
    for line in matrix.releases:
        for text in line.released:
            owners.setdefault(Version(text), []).append(line)
    added: dict[str, list[str]] = {}
    for version in index.versions():
        lines = owners.get(version, [])
        if len(lines) == 1:
            yield None
        elif lines:
            names = ", ".join(line.branch for line in lines)
            place = matrix.place_of(lines[-1].branch, "released")
            yield Drift(lines[-1].branch, "released", f"{version} by one line", f"{version} by {names}", place, INDEX)
        else:
            yield _unowned(matrix, index, version, added)


def _unowned(matrix: Matrix, index: Index, version: Version, added: dict[str, list[str]]) -> Drift:
    """A version that no line released. Its commit tells the line where only one release line can be meant.

    ``added`` collects such versions by line: the correction of a second one must hold the first one too.
    """
    wheels = [wheel for wheel in index.wheels if Version(wheel.file.version) == version]
    found: frozenset[str] = frozenset()
    for wheel in wheels:
        found |= index.commits.get(wheel.git_version or "") or frozenset()
    lines = [
        line
        for line in matrix.releases
        if line.branch in found and line.channel == "release" and line.pytorch_key == version.release
    ]
    if len(lines) != 1:
        on = f", built from a commit on {', '.join(sorted(found))}" if found else ""
        place = str(matrix.directory)
        return Drift(str(version), "released", "of no line", shown(f"{version} on the index{on}"), place, INDEX)
    line = lines[0]
    added.setdefault(line.branch, []).append(str(version))
    value = sorted((*line.released, *added[line.branch]), key=Version)
    difference = Difference(shown(line.released), f"{version} on the index", ("released",), sure=True, value=value)
    return Drift(
        line=line.branch,
        fact="released",
        stated=difference.stated,
        found=difference.found,
        place=matrix.place_of(line.branch, "released"),
        source=wheels[0].file.filename,
        correction=row_correction(matrix, line.branch, difference),
    )


def _torch(matrix: Matrix, lines: Sequence[ReleaseLine], index: Index) -> Iterator[Drift | None]:
    """Each cell of torch.yaml that lines use, against the index, and cells that it lacks."""
    there: dict[tuple[str, str, str], list[TorchWheel]] = {}
    for wheel in index.torch:
        version = _parsed(wheel.version)
        if version is not None and version.local is None and not version.is_prerelease:
            there.setdefault((str(version), wheel.arch, wheel.python), []).append(wheel)
    for pytorch in dict.fromkeys(line.pytorch for line in lines):
        group = [line for line in lines if line.pytorch == pytorch]
        pythons = {python for line in group for python in line.pythons}
        buildable = [line for line in group if line.refusal is None]
        wanted = {python for line in buildable for python in (*line.pythons, *index.supported.get(line.branch, ()))}
        for arch in ARCHITECTURES:
            recorded = group[0].torch.wheels.get(arch, {})
            for python in sorted(pythons | wanted, key=python_key):
                wheels = there.get((pytorch, arch, python), [])
                if python in recorded or (wheels and python in wanted):
                    yield _cell(matrix, pytorch, arch, python, recorded.get(python), wheels)


def _cell(
    matrix: Matrix, pytorch: str, arch: str, python: str, recorded: Sequence[str] | None, wheels: Sequence[TorchWheel]
) -> Drift | None:
    """One cell of torch.yaml, corrected to the hashes that the index has; one without any wheel is for a person."""
    keys = ("torch", pytorch, "wheels", arch, python)
    hashes = [f"sha256:{wheel.sha256}" for wheel in wheels if wheel.sha256 is not None]
    new = [digest for digest in hashes if digest not in (recorded or ())]
    # A wheel whose hash the index does not tell may be any of those that are recorded.
    told = bool(wheels) and len(hashes) == len(wheels)
    gone = [digest for digest in recorded or () if told and digest not in hashes]
    if wheels and not new and not gone and recorded is not None:
        return None
    document = matrix.documents.get("torch")
    value = [*(digest for digest in recorded or () if digest not in gone), *new]
    found = "no such wheel on the index" if not wheels else _brief(hashes if gone else new) or "a wheel without a hash"
    return Drift(
        line=f"torch-{pytorch}",
        fact="torch_wheels",
        stated=f"{arch} {python}: {_brief(recorded) if recorded is not None else 'no wheel'}",
        found=shown(f"{arch} {python}: {found}"),
        place=place_in(matrix, "torch", *keys),
        source=wheels[0].filename if wheels else INDEX,
        correction=Correction(document.path, keys, value) if document is not None and (new or gone) else None,
    )


def _brief(hashes: Sequence[str]) -> str:
    """Enough of each hash to tell it from others."""
    return ", ".join(digest[: len("sha256:") + 12] for digest in hashes)


def _torch_of(wheel: ReleasedWheel) -> str | None:
    """The requirement on torch, as ``NAME`` and specifier; None where there is none."""
    for text in wheel.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name.lower() == "torch":
            return f"torch{requirement.specifier}"
    return None


def _exactly(requirement: str, line: ReleaseLine) -> bool:
    """True where the requirement is one of the line's PyTorch, with or without local version."""
    return re.fullmatch(rf"torch=={re.escape(line.pytorch)}(\.\*)?(\+\w+)?", requirement) is not None


def _parsed(text: str) -> Version | None:
    """A version without its local part's meaning; None for what is none."""
    try:
        return Version(text)
    except InvalidVersion:
        return None
