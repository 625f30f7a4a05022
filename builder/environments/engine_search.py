"""Finding the container engine: cheap to ask for, by one client, patient with one that is being restarted."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.core.cancellation import patience as waiting
from builder.core.errors import MachineError

if TYPE_CHECKING:
    import docker
    from builder.environments.engine_client import Place

#: Seconds for which an engine's answer holds: every target asks, and some engines are far away.
HOLDS = 30.0
#: How many times as long as it took an answer holds at least: who hangs is not asked by every target.
HOLDS_TIMES = 60.0
#: Seconds that an engine which answered before is waited for: it is being restarted. Ending its
#: containers takes it up to 15, an upgrade of its package longer.
RESTART = 120.0

#: Sockets of engines that serve one user, or that stand beside Docker's; a hint may name them.
OTHER_SOCKETS = ("docker.sock", "podman/podman.sock")


@dataclass(frozen=True)
class DockerEngine:
    """An engine that answered. ``url`` is where; ``info`` is what it says about itself.

    ``client`` gives each call the time that fits it: questions seconds, changes a minute; see :meth:`patient`.
    """

    client: docker.DockerClient
    url: str
    info: Mapping[str, Any]
    place: Place | None = None
    #: The API version that is spoken with it.
    api: str = ""
    _patient: dict[float | None, docker.DockerClient] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

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

    @property
    def remote(self) -> bool:
        """True where it runs on another machine, whose containers do not see this machine's folders."""
        return self.place is not None and self.place.remote

    def patient(self, seconds: float | None) -> docker.DockerClient:
        """A client all of whose calls may take ``seconds``; None for calls without limit, which belong into
        ``patiently`` or ``watched``. One for each limit is kept; it is closed with the engine.
        """
        if self.place is None:
            return self.client
        with self._lock:
            if seconds not in self._patient:
                self._patient[seconds] = self.place.client(self.api, seconds, fixed=True)
            return self._patient[seconds]

    def answers(self, tries: int = 1) -> bool:
        """Whether it answers a ping, on a connection of its own, within 10 s; asked up to ``tries`` times."""
        import requests
        from docker.errors import DockerException

        from builder.environments.engine_client import QUESTION

        for _ in range(tries):
            try:
                if self.place is not None:
                    self.place.try_socket()
                self.patient(QUESTION).ping()
                return True
            except (DockerException, requests.RequestException, OSError):
                continue
        return False

    def close(self) -> None:
        """Close all connections to it."""
        with self._lock:
            for client in (self.client, *self._patient.values()):
                client.close()
            self._patient.clear()


@dataclass(frozen=True)
class NoEngine:
    """No engine can be used: ``reason`` says why, ``hint`` what to do.

    ``absent`` is True where none is at all, so that ``auto`` means this host; False where one refuses, hangs or
    was named and is not there.
    """

    reason: str
    hint: str
    absent: bool = True

    @property
    def error(self) -> MachineError:
        """The same as an error, with what can be done without an engine."""
        return MachineError(self.reason, hint=f"{self.hint}; --environment host builds without an engine")


class _Asked:
    """What is known of the engine at one place. ``lock`` is held while it is asked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: It stays for the life of the process, also while it does not answer: its client connects anew by itself.
        self.engine: DockerEngine | None = None
        self.answer: DockerEngine | NoEngine | None = None
        #: Until when, of the monotonic clock, the answer holds.
        self.until = 0.0
        #: Containers that could not be removed because it went away.
        self.left: list[Any] = []
        #: Whether it is worth waiting for.
        self.answered = False
        #: Whether it answered no ping while it was waited for, and has not been asked since.
        self.gone = False


_asked: dict[tuple[str, ...], _Asked] = {}
_asked_lock = threading.Lock()

#: Variables that say where the engine is and how it is reached.
_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")


def find_engine(env: Mapping[str, str] | None = None) -> DockerEngine | NoEngine:
    """The engine at DOCKER_HOST, of the context named by DOCKER_CONTEXT, or of the current context.

    Cheap to ask for: an answer holds for some seconds, and threads share one client. An engine that
    answered before and does not now is waited for; KeyboardInterrupt ends that.
    """
    env = os.environ if env is None else env
    with _asked_lock:
        asked = _asked.setdefault(tuple(env.get(name, "") for name in _VARIABLES), _Asked())
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


def engine(env: Mapping[str, str] | None = None) -> DockerEngine:
    """The engine, or MachineError with the reason and the next step."""
    found = find_engine(env)
    if isinstance(found, NoEngine):
        raise found.error
    return found


def ask_again() -> None:
    """An engine may have gone away: whoever asks next gets a new answer."""
    with _asked_lock:
        for asked in _asked.values():
            asked.until = float("-inf")


def known_engines() -> list[DockerEngine]:
    """The engines that answered this process at some time."""
    with _asked_lock:
        return [asked.engine for asked in _asked.values() if asked.engine is not None]


def went_away(engine: DockerEngine) -> None:
    """Note that it answers no ping: nobody need ask it for anything before it has been found again."""
    for asked in _of(engine.client):
        asked.gone, asked.until = True, float("-inf")


def is_away(client: Any) -> bool:
    """Whether the engine of a client is known to answer no ping."""
    return any(asked.gone for asked in _of(client))


def left_behind(container: Any) -> None:
    """The engine of ``container`` went away before it was removed: it is when that is found again."""
    for asked in _of(container.client):
        with _asked_lock:
            asked.left.append(container)
        asked.until = float("-inf")


def _of(client: Any) -> list[_Asked]:
    with _asked_lock:
        return [asked for asked in _asked.values() if asked.engine is not None and asked.engine.client is client]


def _answer(asked: _Asked, env: Mapping[str, str], *, afresh: bool = False) -> DockerEngine | NoEngine:
    from builder.environments.engine_calls import remove_container

    with asked.lock:
        if asked.answer is None or afresh or time.monotonic() > asked.until:
            started = time.monotonic()
            asked.answer = _ask(asked, env)
            now = time.monotonic()
            asked.until = now + max(HOLDS, HOLDS_TIMES * (now - started))
        if not isinstance(asked.answer, DockerEngine):
            return asked.answer
        asked.answered, asked.gone = True, False
        with _asked_lock:
            left, asked.left = asked.left, []
    for container in left:
        remove_container(container)
    return asked.answer


def _ask(asked: _Asked, env: Mapping[str, str]) -> DockerEngine | NoEngine:
    from docker.errors import APIError

    from builder.environments.engine_client import CHANGE, QUESTION, UnusableError, negotiated, place_of

    place: Place | None = None
    client: docker.DockerClient | None = None
    try:
        if asked.engine is not None and asked.engine.place is not None:
            place = asked.engine.place
            # An engine that is ending still answers those who are connected.
            place.try_socket()
            try:
                asked.engine.patient(QUESTION).ping()
                return asked.engine
            except APIError as error:
                if error.status_code != 400:
                    raise
                # Another version of it has been installed meanwhile, which does not speak what the old one did.
                asked.engine = None
        place = place_of(env)
        place.try_socket()
        client = place.client("1.41", QUESTION, fixed=True)
        api = negotiated(client.version(api_version=False))
        client.close()
        client = place.client(api, QUESTION, fixed=True)
        info = client.info()
        found = DockerEngine(place.client(api, CHANGE, fixed=False), place.url, info, place, api)
        # Used by more than one thread: its connections note what they were answered last, by thread.
        found.client.api.hooks["response"].append(note_response)
        found._patient[QUESTION] = client
        asked.engine = found
        return found
    except UnusableError as error:
        if client is not None:
            client.close()
        return NoEngine(error.reason, error.hint, absent=False)
    except Exception as error:
        if client is not None:
            client.close()
        return why(place, env, error)


#: What the engine answered each thread last.
answers = threading.local()


def note_response(response: Any, **_: Any) -> None:
    """Remember a response for the thread that got it."""
    answers.response = response


def why(place: Place | None, env: Mapping[str, str], error: Exception) -> NoEngine:
    """What an error says that came while the engine at ``place`` was asked; one of no such kind is raised again.

    The SDK raises KeyError and TypeError over answers of another shape than an engine's.
    """
    import requests
    from docker.errors import APIError, DockerException, TLSParameterError
    from urllib3.exceptions import NewConnectionError

    url = env.get("DOCKER_HOST", "") if place is None else place.url
    named = "" if place is None or place.named is None else f" (named by {place.named})"
    at, text = f"the container engine at {url}{named}", str(error)
    correct = "correct DOCKER_HOST"
    if place is not None and place.named != "DOCKER_HOST":
        correct = "choose another docker context ('docker context ls' lists them), or set DOCKER_HOST"
    unreached = _within(error, NewConnectionError, requests.ConnectTimeout)
    if _within(error, PermissionError):
        reason = f"this user may not use {at}"
        hint = (
            "add the user to the group docker (usermod -aG docker USER, then log in again), "
            "or set DOCKER_HOST to a rootless engine"
        )
    elif _within(error, FileNotFoundError, ConnectionRefusedError):
        reason = f"no container engine listens at {url}{named}"
        if not named:
            return NoEngine(reason, _other_engine(env))
        hint = f"start that engine, or {correct}"
    elif unreached is not None:
        cause = _within(unreached, OSError)
        reason = f"{at} cannot be reached: {getattr(cause, 'strerror', None) or 'it takes no connection'}"
        hint = correct
    elif _within(error, requests.Timeout, TimeoutError):
        reason = f"{at} takes connections and does not answer ({text})"
        hint = (
            "it runs, but hangs: look into its log (journalctl -u docker), then restart it (systemctl restart docker)"
        )
    elif _within(error, requests.exceptions.SSLError, TLSParameterError):
        reason = f"{at} cannot be spoken to by TLS: {text}"
        hint = "check DOCKER_TLS_VERIFY and the certificates in DOCKER_CERT_PATH, or the docker context's"
    elif isinstance(error, APIError):
        reason = f"{at} refuses: {error.explanation or error}"
        hint = f"do what it says, or {correct}"
    elif isinstance(error, (requests.RequestException, ValueError, KeyError, TypeError)):
        reason = f"what listens at {url}{named} does not answer as a container engine does: {text}"
        hint = f"{correct}, or restart the engine (systemctl restart docker)"
    elif isinstance(error, (DockerException, OSError)):
        reason, hint = f"{at} cannot be used: {text}", correct
    else:
        raise error
    if place is not None and place.remote:
        reason = f"{reason}; it is on another machine, whose containers do not see this machine's folders"
        hint = f"run the builder on that machine (builds mount the workspace), or {correct}"
    return NoEngine(reason, hint, absent=False)


def _within(error: BaseException, *kinds: type[BaseException]) -> BaseException | None:
    """The first of those kinds that ``error`` is or was made of: libraries wrap them, in arguments and in causes."""
    seen: list[Any] = []
    left: list[Any] = [error]
    while left:
        one = left.pop(0)
        if isinstance(one, kinds):
            return one
        if isinstance(one, BaseException) and not any(one is other for other in seen):
            seen.append(one)
            left += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return None


def _other_engine(env: Mapping[str, str]) -> str:
    runtime = env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    for folder in (runtime, "/run"):
        for name in OTHER_SOCKETS:
            path = Path(folder, name)
            if str(path) != "/run/docker.sock" and path.is_socket():
                return f"DOCKER_HOST=unix://{path} names the one that may be there; or start Docker's"
    return (
        "install one (apt-get install docker.io, or dnf install moby-engine), start it "
        "(systemctl start docker), or set DOCKER_HOST"
    )
