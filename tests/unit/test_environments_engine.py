"""Asking for the engine: cheap, by one client, and patient with one that is being restarted."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest
import requests
from docker.errors import APIError

from builder.environments import engine as engines
from builder.environments.engine import DockerEngine, NoEngine, engine_errors, find_engine, remove_container
from builder.errors import FailureKind, TargetError
from builder.live import stop_all


class Server(ThreadingMixIn, UnixStreamServer):
    asked: Counter[str]

    def __init__(self, path: str) -> None:
        super().__init__(path, Handler)
        self._taken: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, str]:
        taken, _ = super().get_request()
        self._taken.append(taken)
        return taken, "unix"

    def end(self) -> None:
        """As an engine ends: nobody is listened to any more, and who is connected is cut off."""
        self.shutdown()
        for taken in self._taken:
            with suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)
        # Waits for the threads that answer, which close their connections.
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = "/" + self.path.rpartition("/")[2]
        server = self.server
        assert isinstance(server, Server)
        server.asked[path] += 1
        body = json.dumps({"ServerVersion": "7.7", "Architecture": "x86_64"} if path == "/info" else "OK").encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Place:
    """Where an engine can be started and stopped."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "engine.sock"
        self.env = {"DOCKER_HOST": f"unix://{self.socket}"}
        self.asked: Counter[str] = Counter()
        self._server: Server | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._server = Server(str(self.socket))
        self._server.asked = self.asked
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.end()
            self._server = None


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    known: dict[Any, Any] = {}
    monkeypatch.setattr(engines, "_asked", known)
    found = Place(tmp_path)
    found.start()
    yield found
    found.stop()
    for asked in known.values():
        if asked.engine is not None:
            asked.engine.client.close()


def found(place: Place) -> DockerEngine:
    answer = find_engine(place.env)
    assert isinstance(answer, DockerEngine), answer
    return answer


def test_many_who_ask_are_answered_at_once_by_one_client(place: Place) -> None:
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(find_engine(place.env))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    answers += [find_engine(place.env) for _ in range(50)]
    assert len(answers) == 66
    assert {id(answer) for answer in answers} == {id(found(place))}
    assert found(place).version == "7.7"
    assert place.asked == {"/_ping": 1, "/info": 1}


def test_that_there_is_none_is_an_answer_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.stop()
    place.socket.unlink()
    asked = 0
    real = engines._connect

    def connect(env: Any) -> Any:
        nonlocal asked
        asked += 1
        return real(env)

    monkeypatch.setattr(engines, "_connect", connect)
    assert all(isinstance(find_engine(place.env), NoEngine) for _ in range(20))
    assert asked == 1


def test_an_answer_does_not_hold_for_ever(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first = found(place)
    monkeypatch.setattr(engines, "HOLDS", 0.0)
    time.sleep(0.01)
    assert found(place) is first
    assert place.asked["/_ping"] == 2


def test_an_engine_that_is_restarted_is_waited_for(place: Place) -> None:
    first = found(place)
    place.stop()

    with pytest.raises(TargetError, match="went away") as raised, engine_errors("asking"):
        # As the SDK says it, which would leave a socket to the garbage collector.
        raise requests.ConnectionError("Connection refused")
    assert raised.value.kind is FailureKind.ENGINE
    timer = threading.Timer(1.0, place.start)
    timer.start()
    started = time.monotonic()
    # The failure has made the answer stale, although it is young.
    assert found(place) is first
    assert time.monotonic() - started > 0.9
    assert first.client.info()["ServerVersion"] == "7.7"
    timer.join()


NO_ENDPOINT = (
    "failed to create endpoint quirky_bell on network bridge: adding interface veth1a2b to bridge docker0 failed: "
    "could not find bridge docker0: route ip+net: no such network interface"
)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (NO_ENDPOINT, FailureKind.ENGINE),
        (f"failed to set up container networking: {NO_ENDPOINT}", FailureKind.ENGINE),
        ("invalid reference format", FailureKind.IMAGE),
        ("write /x: no space left on device", FailureKind.DISK),
    ],
)
def test_a_container_without_its_network_is_the_engine_s_failure(said: str, kind: FailureKind) -> None:
    with pytest.raises(TargetError) as raised, engine_errors("making x", kind=FailureKind.IMAGE):
        # The SDK's classes are untyped.
        raise APIError("500 Server Error", explanation=said)
    assert raised.value.kind is kind
    assert said in raised.value.message


def test_an_engine_that_stays_away_is_waited_for_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "RESTART", 1.2)
    found(place)
    place.stop()
    engines.ask_again()
    started = time.monotonic()
    answer = find_engine(place.env)
    assert isinstance(answer, NoEngine)
    assert "does not answer" in answer.reason
    assert time.monotonic() - started > 1.1
    started = time.monotonic()
    engines.ask_again()
    assert isinstance(find_engine(place.env), NoEngine)
    assert time.monotonic() - started < 1


def test_an_engine_that_never_answered_is_not_waited_for(place: Place) -> None:
    place.stop()
    started = time.monotonic()
    assert isinstance(find_engine(place.env), NoEngine)
    assert time.monotonic() - started < 5


def test_the_waiting_for_an_engine_can_be_ended(place: Place) -> None:
    found(place)
    place.stop()
    engines.ask_again()
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            find_engine(place.env)
        except KeyboardInterrupt as error:
            raised.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while not stop_all():
        assert time.monotonic() < end
        time.sleep(0.02)
    thread.join(5)
    assert raised


class Fickle:
    """A container that the engine cannot be asked to remove until it is back."""

    def __init__(self, engine: DockerEngine, away: Callable[[], bool]) -> None:
        self.client = engine.client
        self._away = away
        self.removed = False

    def remove(self, *, force: bool, v: bool) -> None:
        from docker.errors import NotFound

        assert force
        assert v
        if self._away():
            raise requests.ConnectionError("Connection aborted")
        if self.removed:
            # The SDK's classes are untyped.
            raise NotFound("No such container")
        self.removed = True


def test_a_container_of_an_engine_that_went_away_is_removed_when_it_is_back(place: Place) -> None:
    away = True
    container = Fickle(found(place), lambda: away)
    remove_container(container)
    assert not container.removed
    away = False
    found(place)
    assert container.removed
