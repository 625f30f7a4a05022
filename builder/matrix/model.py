"""What can be built: the rows of the matrix as frozen, checked values.

The YAML files hold ``ReleaseRow`` (a toolchain is a name); the loader turns each into a
``ReleaseLine`` (a toolchain is a ``Toolchain``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from builder.matrix import patterns
from builder.matrix.repositories import Repository as Repository
from builder.matrix.repositories import SourceTable as SourceTable

Arch = Literal["x86_64", "aarch64"]
ARCHITECTURES: tuple[Arch, ...] = ("x86_64", "aarch64")
Components = Literal["op-plugin", "full"]
Status = Literal["planned", "development", "maintained", "unmaintained", "end-of-life"]

Ref = Annotated[str, Field(pattern=patterns.REF, max_length=100)]
Name = Annotated[str, Field(pattern=patterns.NAME, max_length=60)]
PyTorch = Annotated[str, Field(pattern=patterns.PYTORCH)]
Python = Annotated[str, Field(pattern=patterns.PYTHON)]
Sha256 = Annotated[str, Field(pattern=patterns.DIGEST)]
Pinned = Annotated[str, Field(pattern=patterns.PINNED, max_length=100)]
Sentence = Annotated[str, Field(pattern=patterns.TEXT, max_length=500)]

#: What upstream's setup.py and code generation import beside torch, by normalised project name.
BUILD_REQUIREMENTS = ("setuptools", "wheel", "pyyaml", "numpy")


def project_of(requirement: str) -> str:
    """The normalised project name of a requirement line ``NAME==VERSION``."""
    return re.sub(r"[-_.]+", "-", requirement.partition("==")[0]).lower()


def python_key(python: str) -> tuple[int, ...]:
    """Sorts ``3.9`` before ``3.10``."""
    return tuple(int(part) for part in python.split("."))


def wrong(message: str) -> PydanticCustomError:
    """An error of a rule that spans fields. The loader adds file, line and column."""
    return PydanticCustomError("rule", "{reason}", {"reason": message})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Toolchain(_Frozen):
    """What compiles a release line on one architecture, and the C++ ABI that torch has there."""

    arch: Arch = Field(description="The architecture of the base image")
    gcc: Annotated[str, Field(pattern=patterns.GCC)] = Field(description="Compared with the environment as major.minor")
    manylinux: Annotated[str, Field(pattern=patterns.MANYLINUX)] = Field(
        description="The policy that the wheel must satisfy"
    )
    base_image: Annotated[str, Field(pattern=patterns.IMAGE, max_length=255)] = Field(
        description="Reference without digest"
    )
    base_image_digest: Sha256 | None = Field(default=None, description="Pins base_image; null where unknown")
    cxx11_abi: Literal[0, 1] = Field(description="_GLIBCXX_USE_CXX11_ABI of torch and therefore of torch_npu")
    gcc_toolset: Annotated[str, Field(pattern=patterns.TOOLSET)] | None = Field(
        default=None, description="The toolset of the base that holds gcc; null where gcc is the system's"
    )
    source: Sentence = Field(description="Where these facts are from")

    @property
    def gcc_minor(self) -> str:
        """``major.minor`` of gcc, which is what the builder compares."""
        return ".".join(self.gcc.split(".")[:2])

    @property
    def platform(self) -> str:
        """The wheel's platform tag and the value of ``AUDITWHEEL_PLAT``: ``manylinux_2_17_x86_64``."""
        return f"{self.manylinux}_{self.arch}"


class ToolchainFile(_Frozen):
    """``toolchains.yaml``."""

    toolchains: Mapping[Name, Toolchain]


class Submodules(_Frozen):
    """Short names (of ``sources.yaml``) of the submodules that the build needs, at any depth.

    op-plugin is not among them: the builder always lays it over the tree itself.
    """

    required: tuple[Name, ...] = Field(description="Needed by every build")
    full: tuple[Name, ...] = Field(default=(), description="Needed besides with --components full")


class _Release(_Frozen):
    branch: Ref = Field(description="The torch_npu branch; the release line's name")
    pytorch: PyTorch
    release: Annotated[str, Field(pattern=patterns.RELEASE)] = Field(description="The plugin release")
    package_version: Annotated[str, Field(pattern=patterns.PACKAGE)] = Field(
        description="What the branch's next build is called, without local version"
    )
    cann: Annotated[str, Field(pattern=patterns.CANN)]
    op_plugin: Ref | None = Field(description="The op-plugin branch; null for lines that have none")
    pythons: tuple[Python, ...] = Field(
        min_length=1, description="Accepted by ci/build.sh and served by torch's wheels"
    )
    submodules: Submodules
    requirements: tuple[Pinned, ...] = Field(description="For the interpreter's own site-packages")
    requirements_by_python: Mapping[Python, tuple[Pinned, ...]] = Field(
        default={}, description="Replace lines of requirements for one Python"
    )
    torch_hashes: Mapping[Arch, Mapping[Python, tuple[Sha256, ...]]] = Field(
        default={}, description="Known torch wheels of this version, whichever index serves them"
    )
    honours_max_jobs: StrictBool = Field(description="setup.py reads MAX_JOBS")
    finds_ccache: StrictBool = Field(description="CMakeLists.txt looks ccache up itself")
    custom_operators: StrictBool = Field(description="op-plugin has config/op_plugin_functions.yaml and ops/opapi")
    status: Status
    environment: Mapping[
        Annotated[str, Field(pattern=patterns.VARIABLE)], Annotated[str, Field(pattern=patterns.VALUE, max_length=500)]
    ] = Field(default={}, description="Extra environment of the compile")
    sources: tuple[Sentence, ...] = Field(min_length=1, description="Where the facts of this row are from")

    @field_validator("pythons")
    @classmethod
    def _pythons_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise wrong("each Python once")
        return tuple(sorted(value, key=python_key))

    @field_validator("package_version")
    @classmethod
    def _package_of_pytorch(cls, value: str, info: ValidationInfo) -> str:
        pytorch = info.data.get("pytorch")
        if pytorch and not re.match(re.escape(pytorch) + r"(?![0-9])", value):
            raise wrong(f"a package version of PyTorch {pytorch}")
        return value

    @model_validator(mode="after")
    def _branch_says_the_same(self) -> _Release:
        parts = re.fullmatch(r"v([0-9.]+)-(.+)", self.branch)
        if parts and parts.groups() != (self.pytorch, self.release):
            raise wrong(
                f"branch {self.branch} to agree with pytorch {self.pytorch} and release {self.release}, "
                f"that is v{self.pytorch}-{self.release}"
            )
        return self

    @model_validator(mode="after")
    def _every_python_has_its_requirements(self) -> _Release:
        unknown = sorted(set(self.requirements_by_python) - set(self.pythons), key=python_key)
        if unknown:
            raise wrong(f"requirements_by_python to name Pythons of this line only, not {', '.join(unknown)}")
        for python in self.pythons:
            pinned = {project_of(line): line.partition("==")[2] for line in self.requirements_for(python)}
            missing = [name for name in BUILD_REQUIREMENTS if name not in pinned]
            if missing:
                raise wrong(f"requirements to pin {', '.join(missing)} for Python {python}")
            # torch up to 2.2 was compiled against numpy 1 and cannot load numpy 2 (PyTorch 2.3 release notes).
            if self.pytorch_key < (2, 3) and int(pinned["numpy"].split(".")[0]) >= 2:
                raise wrong(f"numpy below 2 beside PyTorch {self.pytorch} (Python {python})")
        return self

    @property
    def pytorch_key(self) -> tuple[int, ...]:
        """PyTorch's version as numbers."""
        return tuple(int(part) for part in self.pytorch.split("."))

    @property
    def minor(self) -> str:
        """PyTorch's minor version: ``2.5`` of ``2.5.1``."""
        return ".".join(self.pytorch.split(".")[:2])

    @property
    def order(self) -> tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]:
        """Sorts release lines from old to new: by PyTorch, then release; ``6.0.rc3`` before ``6.0.0``,
        and a development branch (whose release is a word) before every numbered release."""
        return self.pytorch_key, tuple(_part_key(part) for part in self.release.split("."))

    def requirements_for(self, python: str) -> tuple[str, ...]:
        """Pinned requirement lines for ``python`` (``3.9``): the common ones, each replaced where it has its own."""
        lines = {project_of(line): line for line in self.requirements}
        lines.update({project_of(line): line for line in self.requirements_by_python.get(python, ())})
        return tuple(lines.values())

    def submodules_for(self, components: str) -> tuple[str, ...]:
        """Short names of the submodules to fetch, at any depth, for ``op-plugin`` or ``full`` components."""
        extra = self.submodules.full if components == "full" else ()
        return tuple(dict.fromkeys((*self.submodules.required, *extra)))


def _part_key(part: str) -> tuple[int, int, str]:
    if part.isdigit():
        return (2, int(part), "")
    candidate = re.fullmatch(r"rc([0-9]+)", part, flags=re.IGNORECASE)
    return (1, int(candidate[1]), "") if candidate else (0, 0, part)


class ReleaseRow(_Release):
    """A release line as ``pytorch-*.yaml`` writes it: toolchains by name."""

    toolchains: Mapping[Arch, Name] = Field(
        min_length=1, description="For each architecture, a name of toolchains.yaml"
    )


class ReleaseLine(_Release):
    """A release line, complete: one torch_npu branch and all that it fixes."""

    toolchains: Mapping[Arch, Toolchain] = Field(min_length=1)

    def __hash__(self) -> int:
        return hash(self.branch)

    @property
    def architectures(self) -> tuple[Arch, ...]:
        """Architectures of this line, x86_64 first."""
        return tuple(arch for arch in ARCHITECTURES if arch in self.toolchains)


class ReleaseFile(_Frozen):
    """``pytorch-<minor>.yaml``."""

    pytorch: Annotated[str, Field(pattern=patterns.MINOR)] = Field(
        description="The minor version of every line in this file"
    )
    releases: tuple[ReleaseRow, ...]


@dataclass(frozen=True)
class Target:
    """The unit of work: release line x Python x architecture."""

    release: ReleaseLine
    python: str
    arch: Arch

    @property
    def id(self) -> str:
        """``v2.5.1-7.1.0-py3.9-x86_64``."""
        return f"{self.release.branch}-py{self.python}-{self.arch}"

    @property
    def toolchain(self) -> Toolchain:
        """What compiles this target."""
        return self.release.toolchains[self.arch]

    @property
    def tag(self) -> str:
        """The wheel's Python and ABI tag: ``cp39``."""
        return "cp" + self.python.replace(".", "")

    @property
    def requirements(self) -> tuple[str, ...]:
        """Pinned requirement lines for the interpreter's own site-packages."""
        return self.release.requirements_for(self.python)

    @property
    def torch_hashes(self) -> tuple[str, ...]:
        """``sha256:...`` of each known torch wheel for this target; empty where none is recorded."""
        return self.release.torch_hashes.get(self.arch, {}).get(self.python, ())

    def describe(self) -> dict[str, object]:
        """The object that ``list --json`` prints for this target (DESIGN section 4)."""
        line, toolchain = self.release, self.toolchain
        return {
            "id": self.id,
            "release": line.release,
            "branch": line.branch,
            "pytorch": line.pytorch,
            "python": self.python,
            "arch": self.arch,
            "cann": line.cann,
            "gcc": toolchain.gcc,
            "manylinux": toolchain.manylinux,
            "base_image": toolchain.base_image,
            "base_image_digest": toolchain.base_image_digest,
            "op_plugin": line.op_plugin,
            "package_version": line.package_version,
            "cxx11_abi": toolchain.cxx11_abi,
            "status": line.status,
        }
