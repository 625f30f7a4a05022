"""The checks that a wheel passes before it may be published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from builder.errors import FailureKind, TargetError
from builder.wheels.inspect import Wheel

_MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}


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
    """Check a wheel against its target. Raises TargetError (VERIFY) that lists every fault found."""
    with Wheel(path) as wheel:
        faults = [*_names(wheel, expected), *_version_file(wheel, expected), *_libraries(wheel, expected)]
        faults += wheel.record_faults()
        if faults:
            raise TargetError(
                f"{path.name} failed verification: {faults[0]}",
                kind=FailureKind.VERIFY,
                details="\n".join(faults[:20]),
            )
        return Verified(
            version=str(wheel.version),
            platforms=tuple(sorted({tag.platform for tag in wheel.tags})),
            requires=tuple(wheel.metadata.get_all("Requires-Dist", [])),
            files=len(wheel.files),
            git_version=wheel.assignments("torch_npu/version.py")["git_version"],
        )


def _names(wheel: Wheel, expected: Expectation) -> Iterator[str]:
    if wheel.name != "torch-npu":
        yield f"the file name says {wheel.name}, expected torch_npu"
    try:
        stated = Version(wheel.metadata.get("Version", ""))
    except InvalidVersion as error:
        yield f"METADATA: {error}"
    else:
        if stated != wheel.version:
            yield f"the file name says version {wheel.version}, METADATA says {stated}"
    if wheel.dist_info.split("-")[1:2] != [f"{wheel.version}.dist"]:
        yield f"the folder {wheel.dist_info} does not carry version {wheel.version}"
    if wheel.wheel_tags != wheel.tags:
        yield f"the file name says {_show(wheel.tags)}, WHEEL says {_show(wheel.wheel_tags)}"
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


def _version_file(wheel: Wheel, expected: Expectation) -> Iterator[str]:
    stated = wheel.assignments("torch_npu/version.py") if "torch_npu/version.py" in wheel.files else {}
    commit = stated.get("git_version")
    if commit != expected.git_version:
        yield f"torch_npu/version.py says git_version {commit!r}, the checkout is {expected.git_version}"
    if stated.get("__version__") is not None and Version(stated["__version__"]) != wheel.version:
        yield f"torch_npu/version.py says {stated['__version__']}, the file name says {wheel.version}"


def _libraries(wheel: Wheel, expected: Expectation) -> Iterator[str]:
    names = set()
    for library in wheel.libraries():
        names.add(library.path)
        if library.machine != _MACHINES[expected.arch]:
            yield f"{library.path} is for {library.machine}, expected {_MACHINES[expected.arch]}"
        cuda = [name for name in library.needed if "cuda" in name]
        if cuda:
            yield f"{library.path} needs {', '.join(cuda)}: it was linked against a CUDA build of PyTorch"
    if "torch_npu/lib/libtorch_npu.so" not in names:
        yield "it lacks torch_npu/lib/libtorch_npu.so"
    extension = f"torch_npu/_C.cpython-{expected.python_tag.removeprefix('cp')}"
    if not any(name.startswith(extension) for name in names):
        yield f"it lacks the extension module {extension}*.so"


def _show(tags: frozenset[object]) -> str:
    return ", ".join(sorted(str(tag) for tag in tags)) or "nothing"
