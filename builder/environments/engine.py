"""The container engine: finding it, naming what it lacks, and turning its failures into messages."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import FailureKind, MachineError, TargetError
from builder.live import patience as waiting
from builder.live import registered

if TYPE_CHECKING:
    import docker

#: On every image and container that the builder makes.
LABEL = "torch-npu-builder"
#: Who is making it: ``host:pid:start``; tells the leftovers of a killed builder from work going on.
OWNER_LABEL = f"{LABEL}.owner"

#: Seconds for which an engine's answer holds: every target asks, and some engines are far away.
HOLDS = 30.0
#: Seconds that an engine which answered before is waited for: it is being restarted. Ending its
#: containers takes it up to 15, an upgrade of its package longer.
RESTART = 120.0

#: The engine's interface of Docker 20.10, which later ones still speak.
_API = "1.41"

#: Platforms of the engine by architecture of a target.
PLATFORMS = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
ENGINE_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

#: What an engine says that could not give a container its network: no fault of what was to run in it.
_NO_NETWORK = re.compile(r"failed to (?:create endpoint|set up container networking)", re.IGNORECASE)


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


class _Asked:
    """What is known of the engine at one place. ``lock`` is held while it is asked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: It stays for the life of the process, also while it does not answer: its client connects anew by itself.
        self.engine: DockerEngine | None = None
        self.answer: DockerEngine | NoEngine | None = None
        self.when = 0.0
        #: Containers that could not be removed because it went away.
        self.left: list[Any] = []
        #: Whether it is worth waiting for.
        self.answered = False


_asked: dict[tuple[str, str], _Asked] = {}
_asked_lock = threading.Lock()


def find_engine(env: Mapping[str, str] | None = None) -> DockerEngine | NoEngine:
    """The engine at DOCKER_HOST, of the context named by DOCKER_CONTEXT, or of the current context.

    Cheap to ask for: an answer holds for some seconds, and threads share one client. An engine that
    answered before and does not now is waited for; KeyboardInterrupt ends that.
    """
    env = os.environ if env is None else env
    key = (env.get("DOCKER_HOST", ""), env.get("DOCKER_CONTEXT", ""))
    with _asked_lock:
        asked = _asked.setdefault(key, _Asked())
    answer = _answer(asked, env)
    if isinstance(answer, NoEngine) and asked.answered:
        until = time.monotonic() + RESTART
        with waiting() as rest:
            while isinstance(answer, NoEngine) and time.monotonic() < until:
                rest(0.5)
                answer = _answer(asked, env, afresh=True)
        # The other targets need not wait for it as well.
        asked.answered = isinstance(answer, DockerEngine)
    return answer


def _answer(asked: _Asked, env: Mapping[str, str], *, afresh: bool = False) -> DockerEngine | NoEngine:
    with asked.lock:
        if asked.answer is None or afresh or time.monotonic() - asked.when > HOLDS:
            asked.answer = _ask(asked, env)
            asked.when = time.monotonic()
        if not isinstance(asked.answer, DockerEngine):
            return asked.answer
        asked.answered = True
        with _asked_lock:
            left, asked.left = asked.left, []
    for container in left:
        remove_container(container)
    return asked.answer


def _ask(asked: _Asked, env: Mapping[str, str]) -> DockerEngine | NoEngine:
    import requests
    from docker.errors import DockerException

    client: docker.DockerClient | None = None
    url = env.get("DOCKER_HOST", "")
    try:
        if asked.engine is not None:
            url = asked.engine.url
            # An engine that is ending still answers those who are connected.
            _try_socket(url)
            asked.engine.client.ping()
            return asked.engine
        url, client = _connect(env)
        client.api.hooks["response"].append(_note_response)
        client.ping()
        asked.engine = DockerEngine(client, url, client.info())
        return asked.engine
    except NoContextError as error:
        return error.args[0]  # type: ignore[no-any-return]
    except (DockerException, requests.RequestException, OSError, ValueError) as error:
        if client is not None:
            client.close()
        return _why(url or _default(), error)


#: What the engine answered each thread last.
_answers = threading.local()


def _note_response(response: Any, **_: Any) -> None:
    _answers.response = response


@contextmanager
def listening() -> Iterator[None]:
    """A block that reads the streamed answer which this thread has just been given, which another thread can end.

    However the block ends, the connection is closed: an engine gives up a build that nobody listens to.
    """
    response = _answers.response

    def stop() -> None:
        # Read to its end meanwhile, or of a transport that has nothing to shut down.
        with suppress(OSError, ValueError, RuntimeError, AttributeError):
            response.raw.shutdown()

    try:
        with registered(stop):
            yield
    finally:
        response.close()


def ask_again() -> None:
    """An engine may have gone away: whoever asks next gets a new answer."""
    with _asked_lock:
        for asked in _asked.values():
            asked.when = float("-inf")


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


def is_own_fault(said: str) -> bool:
    """True where an engine's message is about the engine itself, whatever it was asked to do."""
    return _NO_NETWORK.search(said) is not None


@contextmanager
def engine_errors(doing: str, *, kind: FailureKind = FailureKind.ENGINE) -> Iterator[None]:
    """Turn whatever the SDK raises inside the block into one TargetError; a refusal for the engine's own reasons is
    of kind ENGINE, any other one of ``kind``.
    """
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
        kind = FailureKind.ENGINE if is_own_fault(text) else kind
        raise TargetError(f"{doing}: the container engine refused: {text}", kind=kind) from error
    except (DockerException, requests.RequestException, HTTPError, ConnectionError) as error:
        ask_again()
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
    """Remove a container whatever its state; gone already is fine.

    Another thread may be removing it: then this waits (at most ``patience`` seconds) until it is gone.
    Where the engine went away it is removed when that is found again.
    """
    import requests
    from docker.errors import APIError, DockerException, NotFound

    until = time.monotonic() + patience
    try:
        while time.monotonic() < until:
            try:
                container.remove(force=True, v=True)
            except NotFound:
                return
            except APIError:
                # "Removal is already in progress": asked again, it ends in NotFound.
                time.sleep(0.05)
    except (DockerException, requests.RequestException):
        with _asked_lock:
            for asked in _asked.values():
                if asked.engine is not None and asked.engine.client is container.client:
                    asked.left.append(container)
                    asked.when = float("-inf")


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
