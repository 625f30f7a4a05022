"""What an environment is: a place with fixed paths where commands of a build run.

``docker.py`` makes one of a container, ``host.py`` of this machine. ``build.py`` knows only this page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue


@dataclass(frozen=True)
class Paths:
    """Absolute paths as commands inside the environment see them (DESIGN section 4)."""

    tree: str = "/work/pytorch"
    mirrors: str = "/mirrors"
    torch: str = "/opt/torch"
    cache: str = "/cache"
    out: str = "/out"
    slots: str = "/slots"
    remote: str = "/remote"
    generated: tuple[str, ...] = ()
    launcher: str = "/opt/launcher"
    codegen: str = "/opt/codegen"
    cann: str = "/usr/local/Ascend/ascend-toolkit"

    @property
    def written(self) -> tuple[str, ...]:
        """The folders that a build may write."""
        return (self.tree, self.out, self.cache, self.slots, self.remote)


@dataclass(frozen=True)
class Toolset:
    """The package that holds the wanted gcc on one distribution, as /etc/os-release names it.

    ``os_id`` is its ID; ``os_version`` its VERSION_ID or the leading numbers of that; ``package`` a toolset of
    Enterprise Linux (``gcc-toolset-11``, ``devtoolset-9``) or a package of Debian (``gcc-11``).
    """

    os_id: str
    os_version: str
    package: str

    def is_for(self, os_id: str | None, os_version: str | None) -> bool:
        """True on a system that calls itself so: ``8`` is for ``8`` and ``8.10``, not for ``80``."""
        return is_release(self.os_id, self.os_version, os_id, os_version)


def is_release(wanted_id: str, wanted_version: str, os_id: str | None, os_version: str | None) -> bool:
    """True where ID and VERSION_ID of an /etc/os-release are those, the version by its leading numbers."""
    wanted = wanted_version.split(".")
    return os_id == wanted_id and (os_version or "").split(".")[: len(wanted)] == wanted


@dataclass(frozen=True)
class EnvironmentRequest:
    """All that decides what an environment holds: the same request gives the same environment.

    ``torch`` is the requirement without local version (``2.5.1``), ``torch_local`` that version where the index wants
    one (``+cpu``); ``requirements`` are pinned
    requirement lines for the interpreter's own site-packages; ``toolsets`` say which package gives the wanted gcc on
    which distribution, none where it has to be built from source; ``image_mirrors`` are other places of ``base_image``,
    asked first (``bases``); ``base_made_by`` is for messages alone: the options that make a base for it here.
    """

    arch: str
    python: str
    torch: str
    torch_source: str  # "cpu-index", "pypi" or "find-links"
    requirements: tuple[str, ...]
    base_image: str
    base_image_digest: str | None = None
    gcc: str = ""
    toolsets: tuple[Toolset, ...] = ()
    find_links: tuple[Path, ...] = ()
    torch_hashes: tuple[str, ...] = ()
    torch_local: str = ""
    image_mirrors: tuple[str, ...] = ()
    base_made_by: str = field(default="", compare=False)


@dataclass(frozen=True)
class Folders:
    """Folders of this machine that an environment shows at its fixed paths.

    A build may write below ``tree``, ``out``, ``cache`` (its own compile cache and no other; None: it sees none yet),
    ``slots`` (what all compilers of a run lock; None where a build counts for itself) and ``remote`` (the socket of a
    remote cache); everything else is read-only. ``generated`` are folders of generated code.
    """

    tree: Path
    mirrors: Path
    out: Path
    launcher: Path
    codegen: Path
    cache: Path | None = None
    slots: Path | None = None
    remote: Path | None = None
    generated: tuple[Path, ...] = ()
    cann: Path | None = None

    def shown(self, paths: Paths) -> list[tuple[Path, str, bool]]:
        """Each folder that is there: on this machine, inside, and whether it is read-only."""
        places = [
            (self.tree, paths.tree, False),
            (self.cache, paths.cache, False),
            (self.out, paths.out, False),
            (self.slots, paths.slots, False),
            (self.remote, paths.remote, False),
            (self.mirrors, paths.mirrors, True),
            (self.launcher, paths.launcher, True),
            (self.codegen, paths.codegen, True),
            *((here, place, True) for here, place in zip(self.generated, paths.generated, strict=True)),
            (self.cann, paths.cann, True),
        ]
        return [(here, place, fixed) for here, place, fixed in places if here is not None]

    @property
    def paths(self) -> Paths:
        """Where they stand in an environment that has fixed paths."""
        return Paths(generated=tuple(f"/generated/{number}" for number in range(len(self.generated))))

    @property
    def written(self) -> list[Path]:
        """The folders that a build may write."""
        return [here for here, _, fixed in self.shown(self.paths) if not fixed]


@dataclass(frozen=True)
class Limits:
    """What a command may take; None means no limit.

    ``memory`` is in bytes, ``timeout`` in seconds, ``disk`` the bytes by which the folders that it may write may grow.
    """

    memory: int | None = None
    processes: int = 4096
    timeout: float | None = None
    disk: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a command ended. ``cpu_seconds`` covers all its children; None where it was not measured.

    ``disk_growth`` is by how many bytes the folders have grown that it may write, measured where that was limited;
    ``excess`` says by which of its limits on disk it was ended, or would have been.
    """

    exit_code: int
    seconds: float
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    timed_out: bool = False
    out_of_memory: bool = False
    disk_growth: int | None = None
    excess: str | None = None

    @property
    def failed(self) -> bool:
        """True where it did not end well, or not by itself."""
        return self.exit_code != 0 or self.timed_out or self.excess is not None


class Opened(Protocol):
    """An environment with folders in place, for one target.

    ``base_env`` holds what every command gets (PATH, PYTHONPATH, HOME and the like); what the caller
    passes to ``run`` goes over it, and its git configuration is added to it. ``warnings`` are what there is to say of
    the folders.
    """

    paths: Paths
    base_env: Mapping[str, str]
    warnings: tuple[str, ...]

    def show_cache(self, folder: Path) -> None:
        """Let commands from now on see ``folder``, which is made where it is absent, as the compile cache.

        Which one it is depends on the compiler that an environment turns out to have. Raises OSError.
        """

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        on_line: Callable[[str], None],
        limits: Limits,
    ) -> Outcome:
        """Run ``argv`` to its end. Each line of output (both streams) goes to ``on_line`` as it comes.

        On KeyboardInterrupt and on a timeout everything that was started is killed within seconds,
        and the container is removed. Raises TargetError of kind ENGINE when the engine goes away.
        """

    def interactive(self, *, env: Mapping[str, str], cwd: str) -> int:
        """Open a shell on the user's terminal; return its exit code."""


@dataclass(frozen=True)
class Ready:
    """An environment that exists: what it is, and how to open it.

    ``facts`` goes into the wheel's record: image name and digest, or the host's tools. ``identity`` names those
    facts that can change a wheel; they are part of the fingerprint.
    """

    kind: str  # "docker" or "host"
    facts: Mapping[str, JsonValue]
    open: Callable[[Folders], AbstractContextManager[Opened]]
    fixed_paths: bool = True
    build_user: tuple[int, int] | None = None
    identity: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    #: What a build there can reach that one in a container cannot, in words: told once a run, before its first compile.
    exposure: tuple[str, ...] = ()
    #: What stands on this machine for it: what each is, and its name or place.
    held: tuple[tuple[str, str], ...] = ()
    #: The folder on this machine that holds the environment's torch package, for whoever reads its libraries.
    pytorch: Path | None = None
