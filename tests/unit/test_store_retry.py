"""A store behind a network that fails now and then: what passes is tried again, and nobody sees half of a file."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.releases import Release, latest, verify
from builder.store import open_store, retry
from builder.store.remote import RemoteStore

memory = pytest.importorskip("fsspec.implementations.memory")

CONTENT = b"a wheel " * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "nightly/1/a.whl"


class Network:
    """Fails the calls that ``fails`` names (by number, from 0); ``seen`` is what a reader saw before each call."""

    def __init__(self) -> None:
        self.fails: Any = lambda number: False
        self.error: Exception = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        self.calls: list[str] = []
        self.seen: list[dict[str, bytes]] = []

    def call(self, what: str) -> bool:
        """Note a call; True where it is to fail."""
        number = len(self.calls)
        self.calls.append(what)
        files = memory.MemoryFileSystem.store
        self.seen.append({name: bytes(file.getvalue()) for name, file in files.items() if "/." not in name})
        return bool(self.fails(number))


NETWORK = Network()


class FlakyFileSystem(memory.MemoryFileSystem):  # type: ignore[misc,name-defined]
    """In memory; calls that fail have been carried out by half, or altogether, before the connection is lost."""

    cachable = False

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        data = Path(lpath).read_bytes()
        if NETWORK.call("put"):
            self.pipe_file_whole(rpath, data[: len(data) // 2])
            raise NETWORK.error
        self.pipe_file_whole(rpath, data)

    def pipe_file_whole(self, path: str, value: bytes) -> None:
        """What the server does once it has got something."""
        super().pipe_file(path, value)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        if NETWORK.call("pipe"):
            self.pipe_file_whole(path, value[: len(value) // 2])
            raise NETWORK.error
        self.pipe_file_whole(path, value)

    def cp_file(self, path1: str, path2: str, **more: Any) -> None:
        lost = NETWORK.call("cp")
        super().cp_file(path1, path2, **more)
        if lost:  # the server has done it, its answer was lost
            raise NETWORK.error

    def rm_file(self, path: str) -> None:
        if NETWORK.call("rm"):
            raise NETWORK.error
        self._rm(path)

    def info(self, path: str, **more: Any) -> Any:
        if NETWORK.call("info"):
            raise NETWORK.error
        return super().info(path, **more)

    def ls(self, path: str, detail: bool = True, **more: Any) -> Any:
        if NETWORK.call("ls"):
            raise NETWORK.error
        return super().ls(path, detail=detail, **more)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        if NETWORK.call("cat"):
            raise NETWORK.error
        return bytes(super().open(path).read()[start:end])


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """A network that works, and waits that take no time."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.0)
    NETWORK.__init__()  # type: ignore[misc]
    memory.MemoryFileSystem.store.clear()
    memory.MemoryFileSystem.pseudo_dirs[:] = [""]
    yield NETWORK
    memory.MemoryFileSystem.store.clear()
    memory.MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def store(network: Network) -> RemoteStore:
    found = open_store("memory://bucket/store")
    assert isinstance(found, RemoteStore)
    found._fs = FlakyFileSystem()
    return found


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "a.whl"
    path.write_bytes(CONTENT)
    return path


def whole(network: Network) -> bool:
    """Whether every wheel that a reader could see at any moment was all of it."""
    return all(data == CONTENT for files in network.seen for name, data in files.items() if name.endswith(".whl"))


def calls_of_one_put(store: RemoteStore, network: Network, wheel: Path) -> list[str]:
    assert store.put(wheel, "nightly/0/a.whl", DIGEST)
    calls = list(network.calls)
    memory.MemoryFileSystem.store.clear()
    network.calls.clear()
    network.seen.clear()
    store._swept.clear()
    return calls


def test_whichever_call_is_lost_the_wheel_arrives_whole(store: RemoteStore, network: Network, wheel: Path) -> None:
    calls = calls_of_one_put(store, network, wheel)
    assert {"put", "cp", "rm", "info", "cat", "ls"} <= set(calls)
    for lost in range(len(calls)):
        told: list[str] = []
        store.warn = told.append
        memory.MemoryFileSystem.store.clear()
        network.calls.clear()
        network.seen.clear()
        store._swept.clear()
        network.fails = lambda number, lost=lost: number == lost
        stood = store.put(wheel, NAME, DIGEST)
        network.fails = lambda number: False
        # What a lost answer hid is found by the next attempt.
        assert stood is (calls[lost] not in ("cp", "rm")), calls[lost]
        assert len(told) == 1
        assert "memory://bucket/store was not reached" in told[0]
        assert "try 2 of" in told[0]
        assert whole(network)
        assert store.read(NAME) == CONTENT
        assert sorted(memory.MemoryFileSystem.store) == [f"/bucket/store/{NAME}"], "nothing hidden is left"


def test_a_network_that_does_not_come_back(store: RemoteStore, network: Network, wheel: Path) -> None:
    told: list[str] = []
    store.warn = told.append
    # The first call of each attempt is let through: the connection is lost in the upload.
    network.fails = lambda number: network.calls[number] == "put"
    with pytest.raises(TargetError, match="was not reached") as caught:
        store.put(wheel, NAME, DIGEST)
    assert caught.value.kind is FailureKind.NETWORK
    assert network.calls.count("put") == retry.ATTEMPTS
    assert len(told) == retry.ATTEMPTS - 1
    assert not any(files for files in network.seen), "half of a wheel was seen"
    assert not memory.MemoryFileSystem.store, "what was uploaded by half is removed"
    network.fails = lambda number: False
    assert store.put(wheel, NAME, DIGEST) is True


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EACCES, "Access Denied"), FileNotFoundError("NoSuchBucket"), OSError(errno.ENOSPC, "full")],
)
def test_what_does_not_pass_is_not_tried_again(
    store: RemoteStore, network: Network, wheel: Path, error: Exception
) -> None:
    network.error = error
    network.fails = lambda number: network.calls[number] == "put"
    with pytest.raises((RequestError, TargetError)):
        store.put(wheel, NAME, DIGEST)
    assert network.calls.count("put") == 1


def test_damage_is_not_tried_again(store: RemoteStore, network: Network, wheel: Path) -> None:
    wheel.write_bytes(b"changed after it was hashed")
    with pytest.raises(TargetError, match="did not arrive whole"):
        store.put(wheel, NAME, DIGEST)
    assert network.calls.count("put") == 1


def test_every_question_has_patience(store: RemoteStore, network: Network, wheel: Path, tmp_path: Path) -> None:
    store.put(wheel, NAME, DIGEST)
    questions = {
        "write": lambda: store.write("nightly/note", b"x"),
        "read": lambda: store.read(NAME) == CONTENT,
        "size": lambda: store.size(NAME) == len(CONTENT),
        "digest": lambda: store.digest(NAME) == DIGEST,
        "entries": lambda: [entry.name for entry in store.entries("nightly/1")] == ["a.whl"],
        "get": lambda: store.get(NAME, tmp_path / "back.whl", DIGEST),
        "sweep": lambda: store.sweep("nightly/1") == 0,
        "remove": lambda: store.remove("nightly/note"),
        "remove_folder": lambda: store.remove_folder("nightly/1", last="a.whl"),
    }
    for question, ask in questions.items():
        network.calls.clear()
        network.fails = lambda number: number == 0
        assert ask() in (None, True), question
        assert len(network.calls) > 1, question
    network.fails = lambda number: False
    assert (tmp_path / "back.whl").read_bytes() == CONTENT
    assert store.entries("nightly") == []
    # A trial is asked once: it is made before there is anything to lose.
    network.calls.clear()
    network.fails = lambda number: True
    with pytest.raises(TargetError, match="was not reached"):
        store.check()
    assert network.calls.count("pipe") == 1


def test_a_release_over_a_network_that_fails_again_and_again(store: RemoteStore, network: Network, wheel: Path) -> None:
    network.fails = lambda number: number % 23 == 0
    release = Release(store, "nightly", "1")
    release.expect(["t"])
    release.add("t", [wheel])
    manifest = release.commit()
    network.fails = lambda number: False
    assert len(network.calls) > 2 * 23
    assert manifest.complete
    assert latest(store, "nightly") == manifest
    assert verify(store, manifest) == []
    assert whole(network)
