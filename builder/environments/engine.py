"""The container engine: finding it, naming what it lacks, and turning its failures into messages."""

from __future__ import annotations

import os
import socket
import time
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

#: The engine's interface of Docker 20.10, which later ones still speak.
_API = "1.41"

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


#: One client for each engine, for the life of the process: threads share its connections.
_engines: dict[tuple[str, str], DockerEngine] = {}


def find_engine(env: Mapping[str, str] | None = None) -> DockerEngine | NoEngine:
    """The engine at DOCKER_HOST, of the context named by DOCKER_CONTEXT, or of the current context."""
    import requests
    from docker.errors import DockerException

    env = os.environ if env is None else env
    key = (env.get("DOCKER_HOST", ""), env.get("DOCKER_CONTEXT", ""))
    known = _engines.pop(key, None)
    client = known.client if known is not None else None
    url = known.url if known is not None else key[0]
    try:
        if client is None:
            url, client = _connect(env)
        client.ping()
        return _engines.setdefault(key, known or DockerEngine(client, url, client.info()))
    except NoContextError as error:
        return error.args[0]  # type: ignore[no-any-return]
    except (DockerException, requests.RequestException, OSError, ValueError) as error:
        if client is not None:
            client.close()
        return _why(url or key[0] or _default(), error)


class NoContextError(Exception):
    """The named or current context does not exist; its argument is the NoEngine that says so."""


def _connect(env: Mapping[str, str]) -> tuple[str, docker.DockerClient]:
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    import docker

    if env.get("DOCKER_HOST"):
        _try_socket(env["DOCKER_HOST"])
        return env["DOCKER_HOST"], docker.DockerClient(version=_API, **kwargs_from_env(environment=dict(env)))
    name = env.get("DOCKER_CONTEXT") or None
    # The SDK returns None for a context that does not exist; its type says otherwise.
    context: Any = ContextAPI.get_context(name)
    if context is None:
        raise NoContextError(
            NoEngine(
                f"the docker context {name!r} does not exist" if name else "the current docker context is gone",
                "'docker context ls' lists them; unset DOCKER_CONTEXT for the default",
            )
        )
    _try_socket(str(context.Host))
    return str(context.Host), docker.DockerClient(base_url=context.Host, version=_API, tls=context.TLSConfig or False)


def _try_socket(url: str) -> None:
    """Connect once by hand: the SDK leaves a socket open when nothing listens at it."""
    if url.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as attempt:
            attempt.settimeout(10)
            attempt.connect(url.removeprefix("unix://"))


def _default() -> str:
    return "unix:///var/run/docker.sock"


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


def remove_container(container: Any, patience: float = 10.0) -> None:
    """Remove a container whatever its state; gone already is fine, and so is an engine that went away.

    Another thread may be removing it: then this waits (at most ``patience`` seconds) until it is gone.
    """
    import requests
    from docker.errors import APIError, DockerException, NotFound

    until = time.monotonic() + patience
    with suppress(DockerException, requests.RequestException):
        while time.monotonic() < until:
            try:
                container.remove(force=True, v=True)
            except NotFound:
                return
            except APIError:
                # "Removal is already in progress": asked again, it ends in NotFound.
                time.sleep(0.05)


@contextmanager
def streamed(raw: Any) -> Iterator[Iterator[bytes]]:
    """The output on a socket that the SDK attached to a container or exec without terminal.

    The SDK leaves such sockets to the garbage collector; a build makes many.
    """
    from docker.utils.socket import frames_iter

    try:
        yield (data for _, data in frames_iter(raw, tty=False))  # type: ignore[no-untyped-call]
    finally:
        close_attached(raw)


def close_attached(raw: Any) -> None:
    """Close a socket of ``attach_socket`` or ``exec_start`` with all that it stands on."""
    under, response = getattr(raw, "_sock", None), getattr(raw, "_response", None)
    # The response first: it flushes what the socket still holds.
    for part in (response, raw, under):
        if part is not None:
            with suppress(OSError, ValueError):
                part.close()
