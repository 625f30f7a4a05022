"""The container engine: finding it, naming what it lacks, and turning its failures into messages."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import FailureKind, MachineError, TargetError

if TYPE_CHECKING:
    import docker

#: On every image and container that the builder makes.
LABEL = "torch-npu-builder"
#: Who is making it: ``host:pid:start``; tells the leftovers of a killed builder from work going on.
OWNER_LABEL = f"{LABEL}.owner"

#: Platforms of the engine by architecture of a target.
PLATFORMS = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
ENGINE_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class DockerEngine:
    """An engine that answered. ``url`` is where; ``info`` is what it says about itself."""

    client: docker.DockerClient
    url: str
    info: Mapping[str, Any]

    @property
    def version(self) -> str:
        """The engine's version."""
        return str(self.info.get("ServerVersion", "unknown"))

    @property
    def arch(self) -> str:
        """The engine's own architecture, in the words of a target (``x86_64``, ``aarch64``)."""
        machine = str(self.info.get("Architecture", ""))
        return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)

    @property
    def rootless(self) -> bool:
        """True where root inside a container is the invoking user outside."""
        return any("name=rootless" in str(option) for option in self.info.get("SecurityOptions") or ())


@dataclass(frozen=True)
class NoEngine:
    """No engine answered: ``reason`` says why, ``hint`` what to do."""

    reason: str
    hint: str


def find_engine(env: Mapping[str, str] | None = None) -> DockerEngine | NoEngine:
    """The engine at DOCKER_HOST, of the context named by DOCKER_CONTEXT, or of the current context."""
    import requests
    from docker.context import ContextAPI
    from docker.errors import DockerException

    import docker

    env = os.environ if env is None else env
    url = env.get("DOCKER_HOST", "")
    try:
        if url:
            client = docker.DockerClient.from_env(environment=dict(env))
        else:
            name = env.get("DOCKER_CONTEXT") or None
            context = ContextAPI.get_context(name)
            if context is None:
                return NoEngine(
                    f"the docker context {name!r} does not exist" if name else "the current docker context is gone",
                    "'docker context ls' lists them; unset DOCKER_CONTEXT for the default",
                )
            url = str(context.Host)
            client = docker.DockerClient(base_url=url, tls=context.TLSConfig or False)
        client.ping()
        return DockerEngine(client, url, client.info())
    except (DockerException, requests.RequestException, OSError, ValueError) as error:
        return _why(url, error)


def _why(url: str, error: Exception) -> NoEngine:
    text = str(error)
    path = Path(url.removeprefix("unix://")) if url.startswith("unix://") else None
    if "Permission denied" in text:
        return NoEngine(
            f"this user may not use the container engine at {url}",
            "add the user to the group docker (usermod -aG docker USER, then log in again), "
            "or set DOCKER_HOST to a rootless engine",
        )
    if path is not None and not path.exists():
        return NoEngine(
            f"no container engine listens at {url}",
            "install one (apt-get install docker.io, or dnf install moby-engine), start it "
            "(systemctl start docker), or set DOCKER_HOST",
        )
    return NoEngine(
        f"the container engine at {url or 'the default place'} does not answer: {text}",
        "start it (systemctl start docker), or correct DOCKER_HOST or the docker context",
    )


def engine(env: Mapping[str, str] | None = None) -> DockerEngine:
    """The engine, or MachineError with the reason and the next step."""
    found = find_engine(env)
    if isinstance(found, NoEngine):
        raise MachineError(found.reason, hint=f"{found.hint}; --environment host builds without an engine")
    return found


@contextmanager
def engine_errors(doing: str, *, kind: FailureKind = FailureKind.ENGINE) -> Iterator[None]:
    """Turn whatever the SDK raises inside the block into one TargetError."""
    import requests
    from docker.errors import APIError, DockerException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except APIError as error:
        text = str(error.explanation or error)
        if "bind source path does not exist" in text:
            raise MachineError(
                f"the container engine does not see this machine's folders ({text})",
                hint="use an engine that runs on this machine; builds mount the workspace into containers",
            ) from error
        if "no space left on device" in text:
            raise TargetError(f"{doing}: the engine's disk is full ({text})", kind=FailureKind.DISK) from error
        raise TargetError(f"{doing}: the container engine refused: {text}", kind=kind) from error
    except (DockerException, requests.RequestException, HTTPError, ConnectionError) as error:
        raise TargetError(f"{doing}: the container engine went away ({error})", kind=FailureKind.ENGINE) from error


def owner() -> str:
    """This process, for OWNER_LABEL."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def owner_lives(value: str) -> bool:
    """Whether the process that ``owner()`` named still runs; one of another machine is taken to live."""
    host, _, rest = value.rpartition(":")[0].rpartition(":")
    started = value.rpartition(":")[2]
    if host != socket.gethostname():
        return bool(host)
    return rest.isdigit() and _started(int(rest)) == started


def _started(pid: int) -> str:
    """When the process started, in ticks since the machine did; empty when there is none."""
    try:
        # The command name stands in parentheses and may hold anything, spaces too.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def labels(**more: str) -> dict[str, str]:
    """Labels that tell the builder's own containers and images from everything else."""
    return {LABEL: "1", OWNER_LABEL: owner(), **{f"{LABEL}.{name}": value for name, value in more.items()}}


def remove_container(container: Any) -> None:
    """Remove a container whatever its state; gone already is fine, and so is an engine that went away."""
    import requests
    from docker.errors import DockerException

    with suppress(DockerException, requests.RequestException):
        container.remove(force=True, v=True)
