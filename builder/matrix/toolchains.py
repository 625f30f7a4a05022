"""What compiles: toolchains of release lines, what provides each gcc, and PyTorch as a build dependency."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from builder.matrix import patterns
from builder.matrix.base import Arch, Frozen, Image, Name, Python, PyTorch, Sentence, Sha256, wrong

Gcc = Annotated[str, Field(pattern=patterns.GCC)]
Minor = Annotated[str, Field(pattern=patterns.MINOR)]


class Toolchain(Frozen):
    """What compiles a release line on one architecture, and the C++ ABI that torch has there."""

    arch: Arch = Field(description="The architecture of the base image")
    gcc: Gcc = Field(description="Compared with the environment as major.minor")
    manylinux: Annotated[str, Field(pattern=patterns.MANYLINUX)] = Field(
        description="The policy that the wheel must satisfy"
    )
    base_image: Image = Field(description="Reference without digest, of an image that has this gcc or its toolset")
    base_image_digest: Sha256 | None = Field(default=None, description="Pins base_image; null where unknown")
    cxx11_abi: Literal[0, 1] = Field(description="_GLIBCXX_USE_CXX11_ABI of torch and therefore of torch_npu")
    gcc_toolset: Annotated[str, Field(pattern=patterns.TOOLSET)] | None = Field(
        default=None, description="The toolset of the base that holds gcc; null where gcc is the system's"
    )
    source: Sentence = Field(description="Where these facts are from")

    @model_validator(mode="after")
    def _toolset_holds_gcc(self) -> "Toolchain":
        if self.gcc_toolset and self.gcc_toolset.rpartition("-")[2] != self.gcc.split(".")[0]:
            raise wrong(f"a toolset that holds gcc {self.gcc}, not {self.gcc_toolset}")
        return self

    @property
    def gcc_minor(self) -> str:
        """``major.minor`` of gcc, which is what the builder compares."""
        return gcc_minor(self.gcc)

    @property
    def platform(self) -> str:
        """The wheel's platform tag and the value of ``AUDITWHEEL_PLAT``: ``manylinux_2_17_x86_64``."""
        return f"{self.manylinux}_{self.arch}"


class Base(Frozen):
    """A family of base images, known by /etc/os-release, whose packages hold the same compilers."""

    ids: tuple[Name, ...] = Field(
        min_length=1, description="ID in /etc/os-release: the distribution, and those that are compatible with it"
    )
    version: Annotated[str, Field(pattern=patterns.OS_VERSION)] = Field(
        description="VERSION_ID in /etc/os-release, or the leading numbers of it"
    )
    suite: Name | None = Field(
        default=None, description="The suite of which docker/bases/debian.sh makes such a base here; null where none"
    )
    python: Python | None = Field(default=None, description="The Python that such a base has without --python")


class Package(Frozen):
    """What holds one line of gcc on a base."""

    package: Annotated[str, Field(pattern=patterns.PACKAGED)] = Field(
        description="A toolset of Enterprise Linux (gcc-toolset-11), or a package of Debian (gcc-11)"
    )
    version: Gcc | None = Field(
        default=None, description="The release of gcc that it holds, where that is another than upstream's"
    )


class CompilerRow(Frozen):
    """One line of gcc as ``toolchains.yaml`` writes it: bases by name."""

    version: Gcc = Field(description="The release that upstream's wheels were compiled with")
    provided_by: Mapping[Name, Package] = Field(min_length=1, description="For each base that has it: what holds it")
    from_source: tuple[Name, ...] = Field(default=(), description="Bases whose distribution has no package of it")
    cmake_minimum: Minor = Field(description="The oldest CMake that all release lines of this gcc accept")
    source: Sentence


@dataclass(frozen=True)
class Provider:
    """One line of gcc on one base: ``package`` holds its release ``version``; None where no package does."""

    name: str
    base: Base
    package: str | None
    version: str | None


@dataclass(frozen=True)
class Compiler:
    """One line of gcc, and how to have it on each base."""

    minor: str
    version: str
    providers: tuple[Provider, ...]
    cmake_minimum: str
    source: str

    @property
    def packaged(self) -> tuple[Provider, ...]:
        """Where a package holds it: bases with the line itself first, then those with a neighbour of it."""
        found = [provider for provider in self.providers if provider.package is not None]
        return tuple(sorted(found, key=lambda provider: not self.is_held_by(provider)))

    def offer(self, provider: Provider) -> str:
        """What ``provider`` has, in words: ``gcc-toolset-11``, ``gcc-11 (11.3.0)`` or ``source``."""
        if provider.package is None:
            return "source"
        if provider.version == self.version:
            return provider.package
        accepted = "" if self.is_held_by(provider) else ", needs --allow-toolchain-mismatch"
        return f"{provider.package} ({provider.version}{accepted})"

    def is_held_by(self, provider: Provider) -> bool:
        """True where ``provider`` has exactly this line, and no other one in its place."""
        return provider.version is not None and gcc_minor(provider.version) == self.minor


class ToolchainFile(Frozen):
    """``toolchains.yaml``."""

    bases: Mapping[Name, Base] = Field(default={}, description="Base images by what they call themselves")
    compilers: Mapping[Minor, CompilerRow] = Field(default={}, description="By major.minor of gcc")
    toolchains: Mapping[Name, Toolchain]

    def resolved(self) -> dict[str, Compiler]:
        """The compilers with their bases as values, by major.minor of gcc."""
        return {
            minor: Compiler(minor, row.version, tuple(self._providers(row)), row.cmake_minimum, row.source)
            for minor, row in self.compilers.items()
        }

    def _providers(self, row: CompilerRow) -> Iterator[Provider]:
        for name, base in self.bases.items():
            held = row.provided_by.get(name)
            package, version = (held.package, held.version or row.version) if held else (None, None)
            yield Provider(name, base, package, version)


class TorchBuild(Frozen):
    """PyTorch of one version as a build dependency: what to require, and the wheels that exist."""

    requirements: Mapping[Arch, Annotated[str, Field(pattern=patterns.TORCH)]] = Field(
        description="What upstream's build images install, by architecture; +cpu means PyTorch's own CPU index"
    )
    wheels: Mapping[Arch, Mapping[Python, tuple[Sha256, ...]]] = Field(
        default={}, description="Each wheel on PyPI, with its SHA-256"
    )
    cpu_index: Mapping[Arch, Mapping[Python, tuple[Sha256, ...]]] = Field(
        default={}, description="Wheels of PyTorch's CPU index, as far as documents of upstream state their SHA-256"
    )
    source: Sentence

    def hashes(self, index: str, arch: Arch, python: str) -> tuple[str, ...]:
        """SHA-256 of the wheels that ``index`` (``pypi`` or ``cpu-index``) has; empty where none is known."""
        table = {"pypi": self.wheels, "cpu-index": self.cpu_index}.get(index, {})
        return table.get(arch, {}).get(python, ())

    @property
    def pythons(self) -> frozenset[str]:
        """Pythons for which any architecture has a wheel."""
        return frozenset(python for wheels in self.wheels.values() for python in wheels)


class TorchFile(Frozen):
    """``torch.yaml``."""

    torch: Mapping[PyTorch, TorchBuild]

    @model_validator(mode="after")
    def _requirements_of_their_version(self) -> "TorchFile":
        for version, build in self.torch.items():
            for requirement in build.requirements.values():
                if re.split(r"==|\+", requirement)[1] != version:
                    raise wrong(f"requirements of torch {version} to require it, not {requirement}")
        return self


def gcc_minor(version: str) -> str:
    """``major.minor`` of a gcc version."""
    return ".".join(version.split(".")[:2])
