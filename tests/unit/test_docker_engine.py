"""Asking for the engine: cheap, by one client, and patient with one that is being restarted."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.errors import APIError
from engine_support import Answer, Standin, plain

from builder.core.cancellation import stop_all
from builder.core.errors import FailureKind, MachineError, TargetError
from builder.environments import engine_calls, engine_client, engine_search
from builder.environments.docker_engine import (
    LABEL,
    DockerEngine,
    NoEngine,
    ask_again,
    commit,
    engine_errors,
    find_engine,
    patiently,
    remove_container,
    watched,
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    known: dict[Any, Any] = {}
    monkeypatch.setattr(engine_search, "_asked", known)
    found = Standin(tmp_path)
    found.start()
    yield found
    found.stop()
    for asked in known.values():
        if asked.engine is not None:
            asked.engine.close()


def found(place: Standin) -> DockerEngine:
    answer = find_engine(place.env)
    assert isinstance(answer, DockerEngine), answer
    return answer


def test_many_who_ask_are_answered_at_once_by_one_client(place: Standin) -> None:
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
    assert place.asked == {"/version": 1, "/info": 1}


def test_that_there_is_none_is_an_answer_too(place: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    place.stop()
    place.socket.unlink()
    asked = 0
    real = engine_client.place_of

    def place_of(env: Any) -> Any:
        nonlocal asked
        asked += 1
        return real(env)

    monkeypatch.setattr(engine_client, "place_of", place_of)
    assert all(isinstance(find_engine(place.env), NoEngine) for _ in range(20))
    assert asked == 1


def test_an_answer_does_not_hold_for_ever(place: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_search, "HOLDS", 0.0)
    monkeypatch.setattr(engine_search, "HOLDS_TIMES", 0.0)
    first = found(place)
    time.sleep(0.01)
    assert found(place) is first
    assert place.asked["/_ping"] == 1


def test_an_engine_that_is_restarted_is_waited_for(place: Standin) -> None:
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


def test_an_engine_that_stays_away_is_waited_for_once(place: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_search, "RESTART", 1.2)
    found(place)
    place.stop()
    ask_again()
    started = time.monotonic()
    answer = find_engine(place.env)
    assert isinstance(answer, NoEngine)
    assert "no container engine listens" in answer.reason
    assert time.monotonic() - started > 1.1
    started = time.monotonic()
    ask_again()
    assert isinstance(find_engine(place.env), NoEngine)
    assert time.monotonic() - started < 1


def test_an_engine_that_never_answered_is_not_waited_for(place: Standin) -> None:
    place.stop()
    started = time.monotonic()
    assert isinstance(find_engine(place.env), NoEngine)
    assert time.monotonic() - started < 5


def test_the_waiting_for_an_engine_can_be_ended(place: Standin) -> None:
    found(place)
    place.stop()
    ask_again()
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


def test_a_container_of_an_engine_that_went_away_is_removed_when_it_is_back(place: Standin) -> None:
    away = True
    container = Fickle(found(place), lambda: away)
    remove_container(container)
    assert not container.removed
    away = False
    found(place)
    assert container.removed


def plays(**more: Callable[[str], Answer]) -> Callable[[str, str], Answer]:
    """An engine of a current version that answers the named paths in another way."""

    def play(method: str, path: str) -> Answer:
        other = more.get(path.strip("/").replace("/", "_"))
        return plain(method, path) if other is None else other(method)

    return play


def said(version: str, least: str) -> Callable[[str], Answer]:
    return lambda _: (200, {"Version": "9.9", "ApiVersion": version, "MinAPIVersion": least})


@pytest.mark.parametrize(
    ("highest", "least", "spoken"),
    [("1.41", "1.12", "1.41"), ("1.43", "1.24", "1.43"), ("1.52", "1.44", engine_client.DEFAULT_DOCKER_API_VERSION)],
    ids=["20.10", "24", "29"],
)
def test_the_highest_version_that_both_speak_is_spoken(place: Standin, highest: str, least: str, spoken: str) -> None:
    place.play = plays(version=said(highest, least))
    answer = found(place)
    answer.client.ping()
    answer.patient(3).info()
    assert answer.api == spoken
    assert set(place.versions) == {spoken}


@pytest.mark.parametrize(
    ("play", "reason", "hint"),
    [
        (said("1.90", "1.80"), "wants API version 1.80 or later; the Docker SDK", "pip install --upgrade docker"),
        (said("1.40", "1.12"), "speaks API version 1.40; 1.41 or later is needed", "20.10"),
        (lambda _: (400, {"message": "client version 1.41 is too old"}), "client version 1.41 is too old", "says"),
        (lambda _: (500, {"message": "layer store is broken"}), "layer store is broken", "DOCKER_HOST"),
        (lambda _: (500, ["x"]), "does not answer as a container engine does", "DOCKER_HOST"),
        (lambda _: (502, {"error": "x"}), "does not answer as a container engine does", "DOCKER_HOST"),
        (lambda _: (200, "<html>hello"), "does not answer as a container engine does", "DOCKER_HOST"),
        (lambda _: (200, ["x"]), "does not answer as a container engine does", "DOCKER_HOST"),
        (lambda _: (200, {"Version": "1"}), "does not answer as a container engine does", "DOCKER_HOST"),
        (lambda _: b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer as a container engine does", "DOCKER_HOST"),
        (lambda _: b"", "does not answer as a container engine does", "DOCKER_HOST"),
    ],
    ids=[
        "too-new", "too-old", "400", "500", "500-list", "502-other", "html", "list", "no-version", "other-protocol",
        "closes",
    ],
)  # fmt: skip
def test_an_engine_that_refuses_or_talks_nonsense_is_an_error_that_says_what_it_said(
    place: Standin, play: Callable[[str], Answer], reason: str, hint: str
) -> None:
    place.play = plays(version=play)
    answer = find_engine(place.env)
    assert isinstance(answer, NoEngine)
    assert not answer.absent
    assert reason in answer.reason
    assert hint in answer.hint
    assert "systemctl start" not in answer.hint, "it runs"
    assert "--environment host" in str(answer.error.hint)


def test_an_engine_that_hangs_is_told_soon_and_asked_once(place: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_client, "QUESTION", 0.5)
    monkeypatch.setattr(engine_search, "HOLDS", 0.0)
    place.play = lambda *_: None
    started = time.monotonic()
    for _ in range(5):
        answer = find_engine(place.env)
        assert isinstance(answer, NoEngine)
    assert time.monotonic() - started < 3
    assert "takes connections and does not answer" in answer.reason
    assert "hangs" in answer.hint
    assert place.asked == {"/version": 1}


def test_an_engine_that_accepts_nobody_is_told_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_client, "QUESTION", 0.5)
    monkeypatch.setattr(engine_search, "_asked", {})
    path = tmp_path / "engine.sock"
    waiting = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        # As many as may queue.
        for _ in range(8):
            one = socket.socket(socket.AF_UNIX)
            waiting.append(one)
            one.setblocking(False)
            try:
                one.connect(str(path))
            except BlockingIOError:
                break
        else:
            pytest.fail("the queue has no end")
        started = time.monotonic()
        answer = find_engine({"DOCKER_HOST": f"unix://{path}"})
        assert time.monotonic() - started < 5
        for one in waiting:
            one.close()
    assert isinstance(answer, NoEngine)
    assert "no connection was accepted within" in answer.reason
    assert not answer.absent


def test_only_where_nothing_is_nothing_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_search, "_asked", {})
    default = engine_client.Place(f"unix://{tmp_path}/none.sock", False, None)
    monkeypatch.setattr(engine_client, "place_of", lambda _: default)
    answer = find_engine({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert isinstance(answer, NoEngine)
    assert answer.absent
    assert "apt-get install docker.io" in answer.hint
    (tmp_path / "podman").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "podman" / "podman.sock"))
        # Another one may be meant, and nobody said so.
        answer = find_engine({"XDG_RUNTIME_DIR": str(tmp_path), "DOCKER_TLS_VERIFY": "1"})
    assert isinstance(answer, NoEngine)
    assert answer.hint.startswith(f"DOCKER_HOST=unix://{tmp_path}/podman/podman.sock names")


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("unix:///run/x.sock", False),
        ("tcp://127.0.0.1:2375", False),
        ("tcp://localhost:2375", False),
        ("https://127.3.2.1:2376", False),
        ("tcp://192.0.2.7:2375", True),
        ("ssh://builder@127.0.0.1", True),
    ],
)
def test_an_engine_of_another_machine_is_known_by_its_address(url: str, remote: bool) -> None:
    assert engine_client.Place(url, False, "DOCKER_HOST").remote is remote


def test_an_engine_that_is_slow_with_an_answer_has_not_gone_away(
    place: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "QUESTION", 0.4)
    monkeypatch.setattr(engine_client, "CHANGE", 1.0)
    answer = found(place)
    slow = threading.Event()

    def late(_: str) -> Answer:
        first = not slow.is_set()
        slow.set()
        return None if first else (200, {"Id": "x"})

    place.play = plays(images_a_json=late)
    assert answer.client.api.inspect_image("a") == {"Id": "x"}
    assert place.asked["/images/a/json"] == 2

    place.play = plays(images_a_json=lambda _: None)
    with pytest.raises(TargetError, match="answers, but gave no answer to GET /images/a/json within 1 s") as raised:  # noqa: SIM117
        with engine_errors("looking for a", engine=answer):
            answer.client.api.inspect_image("a")
    assert raised.value.kind is FailureKind.ENGINE

    place.play = lambda *_: None
    with pytest.raises(TargetError, match="went away"), engine_errors("looking for a", engine=answer):
        answer.client.api.inspect_image("a")


def test_a_connection_that_breaks_in_the_middle_is_no_engine_that_went_away(place: Standin) -> None:
    answer = found(place)
    broken = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"Id": '
    place.play = plays(images_a_json=lambda _: broken)
    with pytest.raises(TargetError, match=r"broke off .* it answers again"), engine_errors("looking", engine=answer):
        answer.client.api.inspect_image("a")


def test_limits_fit_what_is_asked(place: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[str, Any]] = []
    answer = found(place)
    real = requests.Session.send

    def send(self: Any, request: Any, **kwargs: Any) -> Any:
        used.append((request.url.rpartition("/v1.43")[2].partition("?")[0], kwargs["timeout"]))
        return real(self, request, **kwargs)

    monkeypatch.setattr(requests.Session, "send", send)
    place.play = lambda *_: (200, {"StatusCode": 0, "Id": "x", "Warnings": []})
    api = answer.client.api
    api.ping()
    api.inspect_container("a")
    api.start("a")
    api.remove_container("a")
    api.wait("a")
    api.remove_image("a")
    answer.patient(7).api.inspect_container("a")
    answer.patient(None).api.commit("a")
    assert [limit for _, limit in used] == [10.0, 10.0, 60.0, 60.0, None, 300.0, 7, None]
    assert answer.patient(7) is answer.patient(7)


def gone_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_client, "QUESTION", 0.3)
    monkeypatch.setattr(engine_calls, "PULSE", 0.2)


def test_a_wait_without_limit_ends_when_the_engine_stalls(place: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    gone_soon(monkeypatch)
    answer = found(place)
    place.play = plays(containers_a_wait=lambda _: None)
    long = threading.Timer(2.0, lambda: setattr(place, "play", lambda *_: None))
    long.start()
    started = time.monotonic()
    with pytest.raises(TargetError, match="went away"), engine_errors("waiting", engine=answer):
        patiently(answer, "the wait", lambda: answer.client.api.wait("a"), None)
    # Not while it answered pings.
    assert 2.0 < time.monotonic() - started < 8
    assert place.asked["/_ping"] > 3


def test_a_block_that_waits_is_ended_when_the_engine_stalls(place: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    gone_soon(monkeypatch)
    answer = found(place)
    ended = threading.Event()
    with watched(answer, ended.set):
        assert not ended.wait(1.0), "it answers"
    place.play = lambda *_: None
    with pytest.raises(TargetError, match="went away"), engine_errors("x", engine=answer), watched(answer, ended.set):
        assert ended.wait(10)


class Committing:
    """An engine that makes an image of each commit, and answers it as the test says."""

    def __init__(self, place: Standin, *answers: Callable[[], Answer]) -> None:
        self.answers = list(answers)
        self.images = 0
        self.standing: dict[str, str] = {}
        place.play = self

    def __call__(self, method: str, path: str) -> Answer:
        if path == "/commit":
            self.images += 1
            return self.answers.pop(0)()
        if path == "/images/env:1/json" and self.standing:
            return (200, {"Id": "sha256:1", "Config": {"Labels": self.standing}})
        if path == "/containers/c/json":
            return (200, {"Id": "c"})
        return plain(method, path)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(engine_calls.secrets, "token_hex", lambda _: "7")
    monkeypatch.setattr(engine_calls, "GRACE", 2.0)
    return {f"{LABEL}.commit": "7"}


def test_a_commit_that_is_answered_too_late_is_no_failure(place: Standin, mark: dict[str, str]) -> None:
    answer = found(place)
    engine = Committing(place, lambda: None)
    # As a commit that takes a little longer than its limit.
    threading.Timer(2.0, engine.standing.update, [mark]).start()
    commit(answer, "c", "env", "1", [], 1.0)
    assert engine.images == 1


def test_a_commit_whose_connection_breaks_is_looked_for_before_it_is_repeated(
    place: Standin, mark: dict[str, str]
) -> None:
    answer = found(place)
    engine = Committing(place, lambda: b"")
    threading.Timer(1.0, engine.standing.update, [mark]).start()
    commit(answer, "c", "env", "1", [], 60.0)
    assert engine.images == 1

    # An image of that name that stood before is not this one.
    engine.standing = {f"{LABEL}.commit": "6"}
    engine.answers = [lambda: b"", lambda: (201, {"Id": "sha256:2"})]
    commit(answer, "c", "env", "1", [], 60.0)
    assert engine.images == 3


def test_a_commit_that_never_ends_is_told_with_its_limit(place: Standin, mark: dict[str, str]) -> None:
    answer = found(place)
    engine = Committing(place, lambda: None)
    with pytest.raises(TargetError, match=r"gave no answer to .*commit.* within 1 s") as raised:  # noqa: SIM117
        with engine_errors("making env:1", engine=answer):
            commit(answer, "c", "env", "1", [], 1.0)
    assert raised.value.kind is FailureKind.ENGINE
    assert engine.images == 1


def test_what_the_engine_says_to_a_commit_is_passed_on(place: Standin, mark: dict[str, str]) -> None:
    answer = found(place)
    Committing(place, lambda: (500, {"message": "no space left on device"}))
    with pytest.raises(TargetError, match="disk is full") as raised, engine_errors("making env:1", engine=answer):
        commit(answer, "c", "env", "1", [], 60.0)
    assert raised.value.kind is FailureKind.DISK


def test_an_engine_that_was_upgraded_is_spoken_to_anew(place: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    before = found(place)
    assert before.api == "1.43"
    newer = plays(version=said("1.52", "1.44"))

    def play(method: str, path: str) -> Answer:
        if path == "/_ping" and place.versions["1.45"] == 0:
            return (400, {"message": "client version 1.43 is too old"})
        return newer(method, path)

    place.play = play
    ask_again()
    after = found(place)
    assert after is not before
    assert after.api == engine_client.DEFAULT_DOCKER_API_VERSION
    before.close()


@pytest.mark.parametrize(
    "text",
    [
        'invalid mount config for type "bind": bind source path does not exist: /x',
        "Mounts denied: The path /x is not shared from the host and is not known to Docker.",
        "statfs /x: no such file or directory",
    ],
    ids=["docker", "desktop", "podman"],
)
def test_an_engine_that_does_not_see_a_folder_is_a_fault_of_the_machine(text: str) -> None:
    with pytest.raises(MachineError, match="does not see this machine's folders") as raised, engine_errors("x"):
        raise APIError("400", explanation=text)
    assert "doctor" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("env", "reason", "hint"),
    [
        ({"DOCKER_HOST": "ssh://x@192.0.2.7"}, "on another machine", "run the builder on that machine"),
        ({"DOCKER_HOST": "foo://x"}, "cannot be used: Invalid bind address protocol", "correct DOCKER_HOST"),
        ({"DOCKER_HOST": "tcp://127.0.0.1:1"}, "no container engine listens", "start that engine"),
        ({"DOCKER_HOST": "tcp://no-such.invalid:1"}, "cannot be reached", "run the builder on that machine"),
        (
            {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/nowhere"},
            "cannot be spoken to by TLS",
            "DOCKER_CERT_PATH",
        ),
    ],
    ids=["ssh", "no-protocol", "nobody", "no-host", "tls"],
)
def test_a_named_engine_that_cannot_be_reached_is_an_error(env: dict[str, str], reason: str, hint: str) -> None:
    answer = find_engine(env)
    assert isinstance(answer, NoEngine)
    assert not answer.absent
    assert reason in answer.reason
    assert hint in answer.hint


def test_an_engine_that_this_user_may_not_ask_is_an_error(place: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    # Root, as which tests may run, may ask every socket.
    monkeypatch.setattr(engine_client.Place, "try_socket", refuse)
    answer = find_engine(place.env)
    assert isinstance(answer, NoEngine)
    assert not answer.absent
    assert "may not use" in answer.reason
    assert "usermod -aG docker" in answer.hint
