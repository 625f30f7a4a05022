"""The checks that a wheel passes before it may be published, and by which anybody can judge one.

Each family of rules reads the wheel by itself; what cannot be read ends its family, not the others. The rules with
their severities and advice are in ``findings``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from builder.core.errors import FailureKind, TargetError
from builder.wheels.contents import archive_faults, metadata_faults
from builder.wheels.elf import SharedObject
from builder.wheels.entry_points import entry_point_faults
from builder.wheels.findings import Finding, errors, finding
from builder.wheels.inspect import Wheel, parsing, shown
from builder.wheels.loading import Loading, Needs, Surroundings
from builder.wheels.policies import policy_of
from builder.wheels.upstream_wheels import compiler

#: ELF machines by architecture.
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
_VERSION_FILE = "torch_npu/version.py"
_LIBRARY = "torch_npu/lib/libtorch_npu.so"
#: What an extension that builds on torch_npu includes; setup.py copies it.
_HEADERS = "torch_npu/include/torch_npu/csrc/"
#: Findings that an error carries.
_TOLD = 20
#: How far the size of a wheel may be from the last one's.
_SIZE = 0.2
#: Places of the machine that built a library, in what it holds as text.
_BUILD_PLACE = re.compile(rb"/(?:home|root|tmp|Users)/[\w.+-]+/[\w.+/-]{3,160}")


@dataclass(frozen=True)
class Expectation:
    """What the wheel of a target must say of itself; what is None or empty is not asked for.

    ``platform`` is the tag asked of auditwheel; ``auto`` accepts any manylinux policy of the right
    architecture. ``git_version`` is the commit of the checkout, ``version_suffix`` what was added to its version,
    ``gcc`` the compiler that the matrix names, ``last_size`` the bytes of the target's last wheel. Wheels of some lines
    require no torch.
    """

    python_tag: str
    arch: str
    pytorch: str
    platform: str = "auto"
    git_version: str | None = None
    version_suffix: str = ""
    gcc: str | None = None
    last_size: int | None = None
    requires_torch: bool = True


@dataclass(frozen=True)
class Verified:
    """What was read on the way, for the wheel's record, and what was found that is no error."""

    version: str
    platforms: tuple[str, ...]
    requires: tuple[str, ...]
    files: int
    git_version: str
    needs: Needs = field(default_factory=Needs)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Judged:
    """All findings about one wheel, errors first; ``verified`` is None where it could not be read."""

    findings: tuple[Finding, ...]
    verified: Verified | None


def verify(path: Path, expected: Expectation, around: Surroundings | None = None) -> Verified:
    """Check a wheel against its target and what it will be loaded with.

    Raises TargetError (VERIFY) that lists the errors found.
    """
    judged = judge(path, expected, around)
    wrong = errors(judged.findings)
    if wrong or judged.verified is None:
        raise TargetError(
            f"{path.name} failed verification: {wrong[0]}",
            kind=FailureKind.VERIFY,
            hint=wrong[0].rule.advice,
            details="\n".join(f"{found.rule.id}: {found}" for found in wrong[:_TOLD]),
        )
    return replace(judged.verified, findings=tuple(judged.findings))


def judge(path: Path, expected: Expectation | None = None, around: Surroundings | None = None) -> Judged:
    """Find everything that is wrong with a wheel.

    Without ``expected``, its own file name says what it is for. Raises TargetError (VERIFY) for a file that is no
    wheel at all.
    """
    with Wheel(path) as wheel:
        # A wheel whose archive is wrong is not read further.
        found = [finding("archive", text) for text in islice(archive_faults(wheel), _TOLD)]
        if found:
            return Judged(tuple(found), None)
        expected = expected or expectation_of(wheel)
        families = _Families(wheel, expected, around or Surroundings())
        found = sorted(families.all(), key=lambda one: one.rule.severity.rank)
        verified = None if errors(found) else families.verified()
        return Judged(tuple(found), verified)


def expectation_of(wheel: Wheel) -> Expectation:
    """What a wheel must be by its own name. Raises TargetError (VERIFY) for one that is for nothing we build."""
    pythons = {tag.interpreter for tag in wheel.tags}
    arches = {arch for tag in wheel.tags for arch in MACHINES if tag.platform.endswith(f"_{arch}")}
    if len(pythons) != 1 or len(arches) != 1:
        raise wheel.broken(f"its tags are for {_show(wheel.tags)}, expected one CPython on x86_64 or aarch64")
    release = ".".join(str(part) for part in (*wheel.version.release, 0, 0)[:3])
    return Expectation(pythons.pop(), arches.pop(), release)


@dataclass
class _Families:
    wheel: Wheel
    expected: Expectation
    around: Surroundings
    libraries: dict[str, SharedObject] = field(default_factory=dict)

    def all(self) -> Iterator[Finding]:
        """The findings of each family; what cannot be read is one of the family's first rule."""
        families: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
            ("metadata", self._metadata),
            ("name", self._names),
            ("version-file", self._version_file),
            ("requires", self._requirements),
            ("entry-points", self._entry_points),
            ("headers", self._headers),
            ("machine", self._libraries),
            ("symbols", self._loading),
            ("build-paths", self._build_paths),
            ("record-file", self._record),
            ("size", self._size),
        )
        for rule, family in families:
            try:
                yield from family()
            except TargetError as error:
                yield finding(rule, error.message.removeprefix(f"{self.wheel.path.name}: "))

    def verified(self) -> Verified:
        """What the record tells of a wheel that is right."""
        wheel = self.wheel
        return Verified(
            version=str(wheel.version),
            platforms=tuple(sorted({tag.platform for tag in wheel.tags})),
            requires=tuple(str(text) for text in wheel.metadata.get_all("Requires-Dist", [])),
            files=len(wheel.files),
            git_version=wheel.assignments(_VERSION_FILE).get("git_version", ""),
            needs=self._surrounded().needs(),
        )

    def _metadata(self) -> Iterator[Finding]:
        return (finding("metadata", text) for text in metadata_faults(self.wheel))

    def _record(self) -> Iterator[Finding]:
        return (finding("record-file", text) for text in self.wheel.record_faults())

    def _entry_points(self) -> Iterator[Finding]:
        return (finding("entry-points", text) for text in entry_point_faults(self.wheel))

    def _names(self) -> Iterator[Finding]:
        wheel, expected = self.wheel, self.expected
        if wheel.name != "torch-npu":
            yield finding("name", f"the file name says {wheel.name}, expected torch_npu")
        if wheel.version.release[:3] != Version(expected.pytorch).release[:3]:
            yield finding("name", f"version {wheel.version} is not for PyTorch {expected.pytorch}")
        if expected.version_suffix not in str(wheel.version):
            yield finding(
                "name",
                f"version {wheel.version} lacks {expected.version_suffix}: setup.py takes the version from elsewhere",
            )
        for tag in wheel.tags:
            if tag.interpreter != expected.python_tag or not tag.abi.startswith(expected.python_tag):
                yield finding("tags", f"tag {tag} is not for {expected.python_tag}")
            if not tag.platform.startswith("manylinux") or not tag.platform.endswith(f"_{expected.arch}"):
                yield finding("tags", f"tag {tag} is not a manylinux tag of {expected.arch}")
        if expected.platform != "auto" and expected.platform not in {tag.platform for tag in wheel.tags}:
            yield finding("tags", f"tags {_show(wheel.tags)} lack {expected.platform}")
        if wheel.wheel_tags != wheel.tags:
            yield finding("tags", f"the file name says {_show(wheel.tags)}, WHEEL says {_show(wheel.wheel_tags)}")

    def _version_file(self) -> Iterator[Finding]:
        wheel, expected = self.wheel, self.expected
        if _VERSION_FILE not in wheel.files:
            yield finding("version-file", f"it lacks {_VERSION_FILE}")
            return
        stated = wheel.assignments(_VERSION_FILE)
        commit = stated.get("git_version")
        if expected.git_version is not None and commit != expected.git_version:
            said = shown(str(commit))
            yield finding(
                "version-file", f"{_VERSION_FILE} says git_version {said!r}, the checkout is {expected.git_version}"
            )
        if "__version__" in stated:
            with parsing(wheel.path.name, _VERSION_FILE):
                version = Version(stated["__version__"])
            if version != wheel.version:
                yield finding("version-file", f"{_VERSION_FILE} says {version}, the file name says {wheel.version}")

    def _requirements(self) -> Iterator[Finding]:
        found = []
        for text in self.wheel.metadata.get_all("Requires-Dist", []):
            with parsing(self.wheel.path.name, f"METADATA requires {shown(str(text))}"):
                requirement = Requirement(str(text))
            if requirement.name.lower() == "torch":
                found.append(requirement)
        wanted = Version(self.expected.pytorch)
        for requirement in found:
            pins = [pin for pin in requirement.specifier if pin.operator == "=="]
            with parsing(self.wheel.path.name, f"METADATA requires {shown(str(requirement))}"):
                right = len(pins) == 1 and Version(pins[0].version).public == wanted.public
            if not right:
                yield finding("requires", f"METADATA requires {shown(str(requirement))}, expected torch=={wanted}")
        if not found and self.expected.requires_torch:
            yield finding("requires", f"METADATA requires no torch, expected torch=={wanted}")

    def _headers(self) -> Iterator[Finding]:
        if not any(name.startswith(_HEADERS) and name.endswith(".h") for name in self.wheel.files):
            yield finding("headers", f"it lacks the headers below {_HEADERS}")

    def _libraries(self) -> Iterator[Finding]:
        expected = self.expected
        for path, library in self.wheel.libraries():
            self.libraries[path] = library
            if library.machine != MACHINES[expected.arch]:
                yield finding(
                    "machine", f"it is for {shown(library.machine)}, expected {MACHINES[expected.arch]}", path
                )
            cuda = [name for name in library.needed if "cuda" in name]
            if cuda:
                what = f"it needs {shown(', '.join(cuda))}: it was linked against a CUDA build of PyTorch"
                yield finding("cuda", what, path)
            outside = [part for part in library.rpath if not part.startswith("$ORIGIN")]
            if outside:
                yield finding("rpath", f"it looks for libraries in {shown(', '.join(outside))}", path)
            if library.executable_stack:
                yield finding("exec-stack", "it asks for an executable stack", path)
        if _LIBRARY not in self.libraries:
            yield finding("members", f"it lacks {_LIBRARY}")
        extension = f"torch_npu/_C.cpython-{expected.python_tag.removeprefix('cp')}"
        if not any(name.startswith(extension) for name in self.libraries):
            yield finding("members", f"it lacks the extension module {extension}*.so")
        yield from self._linking()

    def _linking(self) -> Iterator[Finding]:
        """How the plug-in's own library was made."""
        library = self.libraries.get(_LIBRARY)
        if library is None:
            return
        if not library.bind_now:
            yield finding(
                "bind-now", "its symbols are looked for when they are first used, not when it is loaded", _LIBRARY
            )
        gcc, wanted = compiler(library.compilers), self.expected.gcc
        if gcc is not None and wanted and Version(gcc).release[:2] != Version(wanted).release[:2]:
            yield finding("compiler", f"it was compiled by gcc {gcc}, the matrix names {wanted}", _LIBRARY)
        if library.debuglink is None:
            yield finding("debuglink", "it names no file of debug symbols", _LIBRARY)

    def _surrounded(self) -> Loading:
        policy = policy_of(frozenset(tag.platform for tag in self.wheel.tags), self.expected.arch)
        return Loading(self.libraries, replace(self.around, policy=self.around.policy or policy))

    def _loading(self) -> Iterator[Finding]:
        return self._surrounded().findings()

    def _build_paths(self) -> Iterator[Finding]:
        if _LIBRARY not in self.wheel.files:
            return
        found: dict[str, None] = {}
        for chunk in self.wheel.chunks(_LIBRARY):
            found |= dict.fromkeys(match.decode() for match in islice(_BUILD_PLACE.findall(chunk), _TOLD))
        if found:
            yield finding("build-paths", f"it holds {shown(next(iter(found)))}, and {len(found) - 1} more", _LIBRARY)

    def _size(self) -> Iterator[Finding]:
        last = self.expected.last_size
        size = self.wheel.ending.place + self.wheel.ending.size
        if last and abs(size - last) > _SIZE * last:
            yield finding("size", f"it has {size >> 10} KiB, the last one of its target {last >> 10} KiB")


def _show(tags: frozenset[object]) -> str:
    return shown(", ".join(sorted(str(tag) for tag in tags))) if tags else "nothing"
