"""The checks that a wheel passes before it may be published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from packaging.version import Version

from builder.core.errors import FailureKind, TargetError
from builder.wheels.contents import archive_faults, metadata_faults
from builder.wheels.inspect import Wheel, parsing, shown

_MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
_VERSION_FILE = "torch_npu/version.py"
#: Faults that are told of.
_TOLD = 20


@dataclass(frozen=True)
class Expectation:
    """What the wheel of a target must say of itself.

    ``platform`` is the tag asked of auditwheel; ``auto`` accepts any manylinux policy of the right
    architecture. ``git_version`` is the commit of the checkout, ``version_suffix`` what was added to its version.
    """

    python_tag: str
    arch: str
    pytorch: str
    platform: str
    git_version: str
    version_suffix: str = ""


@dataclass(frozen=True)
class Verified:
    """What was read on the way, for the wheel's record."""

    version: str
    platforms: tuple[str, ...]
    requires: tuple[str, ...]
    files: int
    git_version: str


def verify(path: Path, expected: Expectation) -> Verified:
    """Check a wheel against its target. Raises TargetError (VERIFY) that lists the faults found."""
    with Wheel(path) as wheel:
        # A wheel whose archive is wrong is not read further.
        _refuse(path, archive_faults(wheel))
        _refuse(path, _all_faults(wheel, expected))
        return Verified(
            version=str(wheel.version),
            platforms=tuple(sorted({tag.platform for tag in wheel.tags})),
            requires=tuple(str(text) for text in wheel.metadata.get_all("Requires-Dist", [])),
            files=len(wheel.files),
            git_version=wheel.assignments(_VERSION_FILE)["git_version"],
        )


def _refuse(path: Path, found: Iterator[str]) -> None:
    faults = list(islice(found, _TOLD))
    if faults:
        raise TargetError(
            f"{path.name} failed verification: {faults[0]}", kind=FailureKind.VERIFY, details="\n".join(faults)
        )


def _all_faults(wheel: Wheel, expected: Expectation) -> Iterator[str]:
    """The faults of each family of rules; what cannot be read ends its family, not the others."""
    for family in (
        metadata_faults(wheel),
        _names(wheel, expected),
        _version_file(wheel, expected),
        _libraries(wheel, expected),
        wheel.record_faults(),
    ):
        try:
            yield from family
        except TargetError as error:
            yield error.message.removeprefix(f"{wheel.path.name}: ")


def _names(wheel: Wheel, expected: Expectation) -> Iterator[str]:
    if wheel.name != "torch-npu":
        yield f"the file name says {wheel.name}, expected torch_npu"
    if wheel.version.release[:3] != Version(expected.pytorch).release[:3]:
        yield f"version {wheel.version} is not for PyTorch {expected.pytorch}"
    if expected.version_suffix not in str(wheel.version):
        yield f"version {wheel.version} lacks {expected.version_suffix}: setup.py takes the version from elsewhere"
    for tag in wheel.tags:
        if tag.interpreter != expected.python_tag or not tag.abi.startswith(expected.python_tag):
            yield f"tag {tag} is not for {expected.python_tag}"
        if not tag.platform.startswith("manylinux") or not tag.platform.endswith(f"_{expected.arch}"):
            yield f"tag {tag} is not a manylinux tag of {expected.arch}"
    if expected.platform != "auto" and expected.platform not in {tag.platform for tag in wheel.tags}:
        yield f"tags {_show(wheel.tags)} lack {expected.platform}"
    if wheel.wheel_tags != wheel.tags:
        yield f"the file name says {_show(wheel.tags)}, WHEEL says {_show(wheel.wheel_tags)}"


def _version_file(wheel: Wheel, expected: Expectation) -> Iterator[str]:
    stated = wheel.assignments(_VERSION_FILE) if _VERSION_FILE in wheel.files else {}
    commit = stated.get("git_version")
    if commit != expected.git_version:
        yield f"{_VERSION_FILE} says git_version {shown(str(commit))!r}, the checkout is {expected.git_version}"
    if "__version__" in stated:
        with parsing(wheel.path.name, _VERSION_FILE):
            version = Version(stated["__version__"])
        if version != wheel.version:
            yield f"{_VERSION_FILE} says {version}, the file name says {wheel.version}"


def _libraries(wheel: Wheel, expected: Expectation) -> Iterator[str]:
    names = set()
    for library in wheel.libraries():
        names.add(library.path)
        if library.machine != _MACHINES[expected.arch]:
            yield f"{library.path} is for {shown(library.machine)}, expected {_MACHINES[expected.arch]}"
        cuda = [name for name in library.needed if "cuda" in name]
        if cuda:
            yield f"{library.path} needs {shown(', '.join(cuda))}: it was linked against a CUDA build of PyTorch"
    if "torch_npu/lib/libtorch_npu.so" not in names:
        yield "it lacks torch_npu/lib/libtorch_npu.so"
    extension = f"torch_npu/_C.cpython-{expected.python_tag.removeprefix('cp')}"
    if not any(name.startswith(extension) for name in names):
        yield f"it lacks the extension module {extension}*.so"


def _show(tags: frozenset[object]) -> str:
    return shown(", ".join(sorted(str(tag) for tag in tags))) if tags else "nothing"
