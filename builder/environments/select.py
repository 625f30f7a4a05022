"""Which environment a target is compiled in: what the user said, else a container unless no engine is there."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from builder.core.errors import FailureKind, MachineError, TargetError
from builder.environments.docker_engine import NoEngine, find_engine
from builder.environments.interface import EnvironmentRequest, Ready
from builder.environments.interpreters import Answers, asked_once
from builder.environments.network import NetworkSettings
from builder.progress.reporter import Reporter

#: PyTorch's own index of CPU builds; upstream's Dockerfiles install torch for x86_64 from it.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


_telling = threading.Lock()


@dataclass
class Machine:
    """What one plan, or one run, has found out about this machine."""

    #: The kind of environment that ``auto`` stands for: in a plan for all targets, in a run once it was a container.
    kind: str | None = None
    interpreters: Answers = field(default_factory=dict)
    #: What people were told of it.
    told: set[str] = field(default_factory=set)

    def is_new(self, text: str) -> bool:
        """True the first time that ``text`` is to be told, of however many targets at once."""
        with _telling:
            new = text not in self.told
            self.told.add(text)
        return new

    def chosen(self, kind: str) -> str:
        """``docker`` or ``host``: ``auto`` is the host only where no engine is. Raises MachineError where one is that
        refuses or hangs, or where one was named that does not answer.
        """
        if kind != "auto":
            return kind
        if self.kind is None:
            found = find_engine()
            if isinstance(found, NoEngine) and not found.absent:
                raise found.error
            self.kind = "host" if isinstance(found, NoEngine) else "docker"
        return self.kind


def network_settings(find_links: tuple[Path, ...], *, offline: bool) -> NetworkSettings:
    """The settings of this process's variables, with PyTorch's CPU index."""
    return NetworkSettings.from_environment(
        os.environ,
        torch_index_url=os.environ.get("BUILDER_TORCH_INDEX_URL", TORCH_CPU_INDEX),
        find_links=find_links,
        offline=offline,
    )


def environment_identity(
    kind: str, request: EnvironmentRequest, *, docker: Path, host: Path, offline: bool, machine: Machine
) -> Mapping[str, JsonValue] | None:
    """What ``ready_environment`` would make of ``request``, as far as it can change a wheel, without making it.

    ``machine`` is what was found out for earlier requests. None where it is not known yet: the base image is not in
    the engine, or an engine or interpreter is missing. Raises MachineError where an engine is there or was named, and
    cannot be used.
    """
    settings = network_settings(request.find_links, offline=offline)
    kind = machine.chosen(kind)
    if kind == "docker":
        found = find_engine()
        if isinstance(found, NoEngine) and not found.absent:
            raise found.error
    try:
        if kind == "docker":
            from builder.environments.docker import docker_identity

            return docker_identity(request, settings=settings, resources=docker)
        from builder.environments.host import host_identity

        with asked_once(machine.interpreters):
            return host_identity(request, settings=settings, workspace_environments=host, resources=docker)
    except MachineError:
        return None


def why_unknown(kind: str, machine: Machine) -> str:
    """Why ``environment_identity`` gave None, in words that follow ``its environment is not known``."""
    if machine.chosen(kind) != "docker":
        return "before this machine has what it is made of"
    found = find_engine()
    return f": {found.reason}" if isinstance(found, NoEngine) else "before its base image is here"


def missing_for_environment(
    kind: str, request: EnvironmentRequest, *, docker: Path, host: Path, reporter: Reporter, machine: Machine
) -> list[str]:
    """What ``ready_environment`` would have to fetch for ``request``, in words; nothing is made or fetched.

    Raises what ``ready_environment`` would raise before it fetches anything.
    """
    settings = network_settings(request.find_links, offline=True)
    if machine.chosen(kind) == "docker":
        from builder.environments.missing import missing_docker

        return missing_docker(request, settings=settings, resources=docker, reporter=reporter)
    from builder.environments.missing import missing_host

    return missing_host(request, settings=settings, workspace_environments=host, resources=docker)


def base_image_digest(kind: str, request: EnvironmentRequest) -> str | None:
    """``sha256:...`` under which a registry has the base image of ``request``; None for one that was made here."""
    found = find_engine()
    if kind == "host" or isinstance(found, NoEngine):
        return None
    from builder.environments.base_images import registry_digest

    return registry_digest(found, request)


def ready_environment(
    kind: str,
    request: EnvironmentRequest,
    *,
    docker: Path,
    host: Path,
    log: Path,
    reporter: Reporter,
    offline: bool,
    machine: Machine,
) -> Ready:
    """Make the environment of ``request`` unless it stands. ``kind`` is ``docker``, ``host`` or ``auto``.

    ``docker`` is the folder of the Dockerfile, ``host`` where environments of this host are kept, ``log``
    where the output of making one goes, ``machine`` is the run's own. Raises MachineError where the wanted kind cannot
    be had, TargetError (IMAGE) where it cannot be made, (ENGINE) where ``auto`` has meant containers in this run and
    the engine is away now: the rest of the run is not built in another way than its beginning.
    """
    settings = network_settings(request.find_links, offline=offline)
    if kind == "auto":
        found = find_engine()
        if isinstance(found, NoEngine) and not found.absent and machine.kind != "docker":
            raise found.error
        if not isinstance(found, NoEngine):
            reporter.message(f"building in a container: engine {found.version} answers")
            kind = machine.kind = "docker"
        elif machine.kind == "docker":
            raise TargetError(
                f"the container engine that this run builds with is away: {found.reason}",
                kind=FailureKind.ENGINE,
                hint=f"{found.hint}; then the same command builds what is left",
            )
        else:
            reporter.message(f"building on this host: {found.reason}")
            kind = "host"
    if kind == "docker":
        from builder.environments.docker import ready_docker

        return ready_docker(request, settings=settings, resources=docker, log=log, reporter=reporter)
    from builder.environments.host import ready_host

    return ready_host(
        request, settings=settings, resources=docker, workspace_environments=host, log=log, reporter=reporter
    )


def size_of_image(name: str) -> int | None:
    """Return the size of an image in bytes, layers that it shares included; None if the engine has no such image."""
    found = find_engine()
    if isinstance(found, NoEngine):
        return None
    from builder.environments.images import image_size

    return image_size(found, name)
