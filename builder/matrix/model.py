"""What can be built: the rows of the matrix as frozen, checked values.

The YAML files hold ``ReleaseRow`` (a toolchain is a name); the loader turns each into a ``ReleaseLine``
(toolchains, PyTorch and the phase of life are values). A field whose description begins with a file in brackets
is read off the branch: ``audit`` compares it, and that file is its source unless the row names another.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StrictBool, ValidationInfo, field_validator, model_validator

from builder.matrix import patterns
from builder.matrix.base import (
    ARCHITECTURES,
    Arch,
    Frozen,
    Image,
    Name,
    Package,
    Pinned,
    Python,
    PyTorch,
    Ref,
    Sentence,
    project_of,
    python_key,
    wrong,
)
from builder.matrix.lifecycle import Phase, Status
from builder.matrix.toolchains import Compiler, Minor, Toolchain, TorchBuild

#: What upstream's setup.py and code generation import beside torch, by normalised project name.
BUILD_REQUIREMENTS = ("setuptools", "wheel", "pyyaml", "numpy")

#: Facts that no branch states: a row says itself where they are from.
NEEDS_SOURCE = ("cann", "ascendhub", "released", "toolchains", "legacy")


class Submodules(Frozen):
    """Short names (of ``sources.yaml``) of the submodules that the build needs, at any depth.

    op-plugin is not among them: the builder always lays it over the tree itself.
    """

    required: tuple[Name, ...] = Field(default=(), description="Needed by every build")
    full: tuple[Name, ...] = Field(default=(), description="Needed besides with --components full")


class _Release(Frozen):
    branch: Ref = Field(description="The torch_npu branch; the release line's name")
    source: Literal["branch", "unknown"] = Field(
        default="branch", description="unknown: wheels are released, but no branch is known that they were built from"
    )
    channel: Literal["release", "nightly"] = Field(
        default="release", description="nightly: a development branch, whose facts move"
    )
    legacy: Sentence | None = Field(default=None, description="Why the builder cannot build this line; null if it can")
    pytorch: PyTorch
    release: Annotated[str, Field(pattern=patterns.RELEASE)] = Field(description="The plugin release")
    package_version: Package = Field(
        description="[setup.py, version.txt] What the branch's next build is called, without local version"
    )
    version_source: Literal["setup.py", "version.txt", "torch"] | None = Field(
        default=None, description="[setup.py] Where the package version stands; torch: it follows the installed torch"
    )
    released: tuple[Package, ...] = Field(default=(), description="Versions released from this line")
    cann: Annotated[str, Field(pattern=patterns.CANN)] | None = Field(
        description="The CANN version that the line is for; null on development branches"
    )
    ascendhub: Annotated[str, Field(pattern=patterns.HUB)] | None = Field(
        default=None, description="Tag of the AscendHub image of this line, where upstream made one"
    )
    op_plugin: Ref | None = Field(description="[.gitmodules] The op-plugin branch; null for lines that have none")
    overlay: tuple[Annotated[str, Field(pattern=patterns.ENTRY)], ...] | None = Field(
        default=None, description="[op-plugin: ci/build.sh] What op-plugin's script lays over torch_npu"
    )
    custom_operators: StrictBool = Field(
        default=False, description="[op-plugin: op_plugin/] It has config/op_plugin_functions.yaml and ops/opapi"
    )
    pythons: tuple[Python, ...] = Field(
        min_length=1, description="[ci/build.sh] SUPPORTED_PY_VERSION, cut with the Pythons that torch has wheels for"
    )
    build_options: tuple[Annotated[str, Field(pattern=patterns.OPTION)], ...] | None = Field(
        default=None, description="[ci/build.sh] Its options besides --python; null where there is no ci/build.sh"
    )
    torch_requirement: Mapping[Arch, Annotated[str, Field(pattern=patterns.TORCH)]] = Field(
        default={}, description="[setup.py] What the wheel requires; empty where it requires nothing"
    )
    submodules: Submodules = Field(default=Submodules(), description="[.gitmodules] Names of sources.yaml")
    requirements: tuple[Pinned, ...] = Field(default=(), description="For the interpreter's own site-packages")
    requirements_by_python: Mapping[Python, tuple[Pinned, ...]] = Field(
        default={}, description="Replace lines of requirements for one Python"
    )
    cmake_minimum: Minor | None = Field(default=None, description="[CMakeLists.txt] cmake_minimum_required")
    honours_max_jobs: StrictBool = Field(default=False, description="[setup.py] It reads MAX_JOBS")
    finds_ccache: StrictBool = Field(default=False, description="[CMakeLists.txt] It looks ccache up itself")
    redefines_file: StrictBool = Field(default=False, description="[CMakeLists.txt] It redefines __FILE__ per file")
    uses_ninja: StrictBool = Field(default=False, description="[setup.py] It takes ninja where it finds it")
    uses_mold: StrictBool = Field(default=False, description="[setup.py] It links with mold where it finds it")
    ci_images: Mapping[Arch, Image] = Field(default={}, description="[ci/docker] What upstream's images start from")
    environment: Mapping[
        Annotated[str, Field(pattern=patterns.VARIABLE)], Annotated[str, Field(pattern=patterns.VALUE, max_length=500)]
    ] = Field(default={}, description="Extra environment of the compile")
    sources: Mapping[Name, Sentence] = Field(description="Where a fact is from, by the fact's key")

    @field_validator("pythons")
    @classmethod
    def _pythons_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise wrong("each Python once")
        return tuple(sorted(value, key=python_key))

    @field_validator("package_version", "released")
    @classmethod
    def _package_of_pytorch(cls, value: str | tuple[str, ...], info: ValidationInfo) -> str | tuple[str, ...]:
        pytorch = info.data.get("pytorch")
        for version in (value,) if isinstance(value, str) else value:
            if pytorch and not re.match(re.escape(pytorch) + r"(?![0-9])", version):
                raise wrong(f"a package version of PyTorch {pytorch}")
        return value

    @model_validator(mode="after")
    def _branch_says_the_same(self) -> "_Release":
        parts = re.fullmatch(r"v([0-9.]+)-(.+)", self.branch)
        if parts and self.channel == "release" and parts.groups() != (self.pytorch, self.release):
            raise wrong(
                f"branch {self.branch} to agree with pytorch {self.pytorch} and release {self.release}, "
                f"that is v{self.pytorch}-{self.release}"
            )
        return self

    @model_validator(mode="after")
    def _sources_name_facts(self) -> "_Release":
        unknown = sorted(set(self.sources) - set(type(self).model_fields))
        if unknown:
            raise wrong(f"sources to name keys of a release line, not {', '.join(unknown)}")
        missing = [name for name in NEEDS_SOURCE if getattr(self, name, None) and name not in self.sources]
        if missing:
            raise wrong(f"sources to say where {', '.join(missing)} is from")
        return self

    @model_validator(mode="after")
    def _can_be_built_or_says_why_not(self) -> "_Release":
        if self.refusal is None and self.build_options is None:
            raise wrong("build_options, because the builder runs ci/build.sh; or legacy, with the reason")
        return self

    @model_validator(mode="after")
    def _every_python_has_its_requirements(self) -> "_Release":
        unknown = sorted(set(self.requirements_by_python) - set(self.pythons), key=python_key)
        if unknown:
            raise wrong(f"requirements_by_python to name Pythons of this line only, not {', '.join(unknown)}")
        for python in self.pythons if self.refusal is None else ():
            pinned = {project_of(line): line.partition("==")[2] for line in self.requirements_for(python)}
            missing = [name for name in BUILD_REQUIREMENTS if name not in pinned]
            if missing:
                raise wrong(f"requirements to pin {', '.join(missing)} for Python {python}")
            # torch up to 2.2 was compiled against numpy 1 and cannot load numpy 2 (PyTorch 2.3 release notes).
            if self.pytorch_key < (2, 3) and int(pinned["numpy"].split(".")[0]) >= 2:
                raise wrong(f"numpy below 2 beside PyTorch {self.pytorch} (Python {python})")
        return self

    @property
    def refusal(self) -> str | None:
        """Why this line cannot be built; None where it can."""
        if self.legacy is not None:
            return self.legacy
        if self.source == "unknown":
            return "wheels of it are released, but the branch that they were built from is not known"
        return None

    @property
    def pytorch_key(self) -> tuple[int, ...]:
        """PyTorch's version as numbers."""
        return tuple(int(part) for part in self.pytorch.split("."))

    @property
    def minor(self) -> str:
        """PyTorch's minor version: ``2.5`` of ``2.5.1``."""
        return ".".join(self.pytorch.split(".")[:2])

    @property
    def order(self) -> tuple[tuple[int, ...], bool, tuple[tuple[int, int, str], ...]]:
        """Sorts release lines from old to new: by PyTorch, then release; ``6.0.rc3`` before ``6.0.0``,
        and development branches before every numbered release."""
        return self.pytorch_key, self.channel == "release", tuple(_part_key(part) for part in self.release.split("."))

    def requirements_for(self, python: str) -> tuple[str, ...]:
        """Pinned requirement lines for ``python`` (``3.9``): the common ones, each replaced where it has its own."""
        lines = {project_of(line): line for line in self.requirements}
        lines.update({project_of(line): line for line in self.requirements_by_python.get(python, ())})
        return tuple(lines.values())

    def submodules_for(self, components: str) -> tuple[str, ...]:
        """Short names of the submodules to fetch, at any depth, for ``op-plugin`` or ``full`` components."""
        extra = self.submodules.full if components == "full" else ()
        return tuple(dict.fromkeys((*self.submodules.required, *extra)))

    def source_of(self, fact: str) -> str:
        """Where the fact under this key is from: what the row says, else the file of the branch that states it."""
        if fact in self.sources:
            return self.sources[fact]
        description = type(self).model_fields[fact].description or ""
        file = re.match(r"\[(?:(op-plugin): )?([^\]]+)\]", description)
        if file is None:
            return "this row"
        if file[1] and self.op_plugin is None:
            return "this row: the line has no op-plugin"
        return f"{file[2]} of op-plugin {self.op_plugin}" if file[1] else f"{file[2]} of {self.branch}"


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
    compilers: Mapping[Arch, Compiler]
    torch: TorchBuild
    phase: Phase

    def __hash__(self) -> int:
        return hash(self.branch)

    @property
    def status(self) -> Status:
        """Its phase of life on the day that the matrix was loaded for."""
        return self.phase.status

    @property
    def architectures(self) -> tuple[Arch, ...]:
        """Architectures of this line, x86_64 first."""
        return tuple(arch for arch in ARCHITECTURES if arch in self.toolchains)


class ReleaseFile(Frozen):
    """``pytorch-<minor>.yaml``."""

    pytorch: Minor = Field(description="The minor version of every line in this file")
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
    def compiler(self) -> Compiler | None:
        """The line of gcc of its toolchain, and where that comes from; None where the matrix says nothing of it."""
        return self.release.compilers.get(self.arch)

    @property
    def tag(self) -> str:
        """The wheel's Python tag: ``cp39``."""
        return "cp" + self.python.replace(".", "")

    @property
    def requirements(self) -> tuple[str, ...]:
        """Pinned requirement lines for the interpreter's own site-packages."""
        return self.release.requirements_for(self.python)

    @property
    def torch_index(self) -> str:
        """Where upstream's images take torch from: ``cpu-index`` (PyTorch's own) or ``pypi``."""
        return "cpu-index" if self.torch_local else "pypi"

    @property
    def torch_local(self) -> str:
        """The local version that PyTorch's CPU index gives its wheels for this target: ``+cpu`` or nothing."""
        _, plus, local = self.release.torch.requirements.get(self.arch, "").partition("+")
        return plus + local

    @property
    def torch_hashes(self) -> tuple[str, ...]:
        """``sha256:...`` of each torch wheel that is known for this target, of either index."""
        torch = self.release.torch
        found = (torch.hashes(index, self.arch, self.python) for index in ("cpu-index", "pypi"))
        return tuple(dict.fromkeys(digest for hashes in found for digest in hashes))

    @property
    def torch_on_index(self) -> bool:
        """False where no index has a torch wheel for this target, so that the user has to bring one."""
        return self.python in self.release.torch.wheels.get(self.arch, {})

    def describe(self) -> dict[str, JsonValue]:
        """The object that ``list --json`` prints for this target (DESIGN section 4)."""
        line, toolchain = self.release, self.toolchain
        return {
            "id": self.id,
            "release": line.release,
            "branch": line.branch,
            "channel": line.channel,
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
            "released": list(line.released),
            "cxx11_abi": toolchain.cxx11_abi,
            "torch": line.torch.requirements.get(self.arch),
            "torch_on_index": self.torch_on_index,
            "status": line.status,
            "status_since": line.phase.since.isoformat() if line.phase.since else None,
            "buildable": line.refusal is None,
            "refusal": line.refusal,
        }
