"""What compiles: toolchains of release lines, what provides each gcc, and PyTorch as a build dependency."""

import re
from collections.abc import Mapping
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


class Compiler(Frozen):
    """One line of gcc, and how to have it on each base."""

    version: Gcc = Field(description="The release that upstream's wheels were compiled with")
    provided_by: Mapping[Name, Sentence] = Field(
        min_length=1, description="For each base (manylinux2014, debian-bookworm, ...): package, toolset or source"
    )
    cmake_minimum: Minor = Field(description="The oldest CMake that all release lines of this gcc accept")
    source: Sentence


class ToolchainFile(Frozen):
    """``toolchains.yaml``."""

    compilers: Mapping[Minor, Compiler] = Field(default={}, description="By major.minor of gcc")
    toolchains: Mapping[Name, Toolchain]


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
