"""The connection to a container engine: where it is, the API version that both sides speak, each call's limit.

Imports the SDK, which takes a while: import this module inside functions.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.context import ContextAPI
from docker.utils import kwargs_from_env

import docker

#: Seconds for an answer about what is: ping, version, info, inspect, lists.
QUESTION = 10.0
#: Seconds for a change that an engine makes at once: create, start, remove.
CHANGE = 60.0
#: Seconds for the removal of an image: it waits for whatever the engine unpacks and commits meanwhile (seen: 70).
REMOVAL = 300.0
#: Docker 20.10 speaks it. What the builder asks of an engine (``platform`` of a container) came with it.
OLDEST = (1, 41)

#: Requests that read data, or wait: no questions, although they are GET.
_LONG = re.compile(r"/(?:get|export|archive|logs|events|df|stats|attach/ws)$")


class UnusableError(Exception):
    """What is at the place cannot be used: why, and the next step."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class Place:
    """Where an engine should be. ``named`` is what names it; None for the place where engines are by default."""

    url: str
    tls: Any
    named: str | None

    @property
    def socket(self) -> Path | None:
        """The Unix socket of an engine on this machine."""
        return Path(self.url.removeprefix("unix://")) if self.url.startswith("unix://") else None

    @property
    def remote(self) -> bool:
        """True for an engine of another machine, which does not see this machine's folders."""
        parts = urlsplit(self.url)
        return parts.scheme == "ssh" or (self.socket is None and not _is_here(parts.hostname or "localhost"))

    def client(self, version: str, limit: float | None, *, fixed: bool) -> docker.DockerClient:
        """A client that asks for ``version`` of the API. With ``fixed`` every call may take ``limit`` seconds (None:
        no limit), otherwise as long as fits it, and ``limit`` where nothing else is known.
        """
        return Client(_Api(self.url, version, limit, self.tls, fixed=fixed))

    def try_socket(self) -> None:
        """Connect once by hand: the SDK leaves a socket open when nothing listens at it. Raises OSError."""
        if self.socket is None:
            return
        until = time.monotonic() + QUESTION
        while True:
            with socket.socket(socket.AF_UNIX) as attempt:
                attempt.settimeout(QUESTION)
                try:
                    attempt.connect(str(self.socket))
                    return
                except BlockingIOError:
                    # So many wait to be accepted that no more may queue (connect(2) on a Unix socket).
                    if time.monotonic() > until:
                        raise TimeoutError(f"no connection was accepted within {QUESTION:g} s") from None
            time.sleep(0.2)


class Client(docker.DockerClient):
    """The SDK's client on an API client of the caller's."""

    def __init__(self, api: docker.APIClient) -> None:
        self.api = api


class _Api(docker.APIClient):
    """The SDK's API client with limits that fit what is asked, instead of 60 s for everything, and without its own
    additions to containers.
    """

    def __init__(self, url: str, version: str, limit: float | None, tls: Any, *, fixed: bool) -> None:
        # requests sets the attributes of its sessions by their names, before and after.
        self._fixed = fixed
        super().__init__(base_url=url, version=version, timeout=limit, tls=tls)  # type: ignore[arg-type]

    def create_container(self, *args: Any, **kwargs: Any) -> Any:
        """Create a container with the variables that are named, and no others.

        The SDK adds the proxies of the user's ``~/.docker/config.json`` with their passwords, and a commit keeps them.
        """
        return super().create_container(*args, **{**kwargs, "use_config_proxy": False})

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send one request; a question that stays unanswered by an engine that answers others is asked again."""
        question = self._is_question(request, kwargs.get("timeout"))
        if question:
            kwargs["timeout"] = QUESTION
        elif self._removes_image(request, kwargs.get("timeout")):
            kwargs["timeout"] = REMOVAL
        try:
            return super().send(request, **kwargs)
        except requests.ReadTimeout as error:
            if not question or not self._answers(request):
                raise _late(request, kwargs.get("timeout")) from error
        # It has much to do: who loads it must not be told that it went away.
        kwargs["timeout"] = CHANGE
        try:
            return super().send(request, **kwargs)
        except requests.ReadTimeout as error:
            raise _late(request, CHANGE) from error

    def _is_question(self, request: requests.PreparedRequest, limit: Any) -> bool:
        path = (request.url or "").partition("?")[0]
        asks = request.method in ("GET", "HEAD") and not _LONG.search(path)
        # Where the SDK sets another limit than its client's, it knows why.
        return not self._fixed and asks and limit == self.timeout

    def _removes_image(self, request: requests.PreparedRequest, limit: Any) -> bool:
        removes = request.method == "DELETE" and "/images/" in (request.url or "")
        return not self._fixed and removes and limit == self.timeout

    def _answers(self, unanswered: requests.PreparedRequest) -> bool:
        """Whether the engine that did not answer a request answers a ping."""
        ping = requests.Request("GET", urlunsplit((*urlsplit(unanswered.url or "")[:2], "/_ping", "", "")))
        try:
            return super().send(self.prepare_request(ping), timeout=QUESTION).ok
        except requests.RequestException:
            return False


def _late(request: requests.PreparedRequest, limit: Any) -> requests.ReadTimeout:
    path = re.sub(r"^/v[0-9.]+", "", urlsplit(request.url or "").path)
    return requests.ReadTimeout(f"no answer to {request.method} {path} within {limit:g} s", request=request)


def place_of(env: Mapping[str, str]) -> Place:
    """The place that DOCKER_HOST names, else the context of DOCKER_CONTEXT, else the current context.

    Raises UnusableError for a context that does not exist, and what the SDK raises for values that it cannot read.
    """
    if env.get("DOCKER_HOST"):
        found = kwargs_from_env(environment=dict(env))
        return Place(found.get("base_url", env["DOCKER_HOST"]), found.get("tls", False), "DOCKER_HOST")
    name = env.get("DOCKER_CONTEXT") or None
    # The SDK returns None for a context that does not exist; its type says otherwise.
    context: Any = ContextAPI.get_context(name)
    if context is None:
        raise UnusableError(
            f"the docker context {name!r} does not exist" if name else "the current docker context is gone",
            "'docker context ls' lists them; unset DOCKER_CONTEXT for the default",
        )
    named = None if context.Name == "default" else f"the docker context {context.Name!r}"
    return Place(str(context.Host), context.TLSConfig or False, named)


def negotiated(said: Any) -> str:
    """The highest API version that both the engine and the SDK speak, from the engine's answer to ``/version``.

    Raises UnusableError where there is none, and ValueError for an answer that is no engine's.
    """
    if not isinstance(said, Mapping):
        raise ValueError("its version is no JSON object")
    highest, lowest = _version(said.get("ApiVersion")), _version(said.get("MinAPIVersion") or "1.12")
    ours = _version(DEFAULT_DOCKER_API_VERSION)
    if lowest > ours:
        raise UnusableError(
            f"the container engine {said.get('Version', '')} wants API version {_text(lowest)} or later; "
            f"the Docker SDK {docker.__version__} here speaks up to {_text(ours)}",
            "install a newer SDK (pip install --upgrade docker)",
        )
    if highest < OLDEST:
        raise UnusableError(
            f"the container engine {said.get('Version', '')} speaks API version {_text(highest)}; "
            f"{_text(OLDEST)} or later is needed",
            "install Docker Engine 20.10 or later, or podman 4 or later",
        )
    return _text(min(highest, ours))


def _version(text: Any) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)\.(\d+)", str(text))
    if found is None:
        raise ValueError(f"its API version is {text!r}")
    return int(found[1]), int(found[2])


def _text(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


def _is_here(host: str) -> bool:
    """Whether ``host`` is this machine: one can listen at one of its addresses."""
    try:
        addresses = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, _, _, address in addresses:
        # An address of a family that is switched off here says nothing about the others.
        with suppress(OSError), socket.socket(family, kind) as attempt:
            attempt.bind(address)
            return True
    return False
