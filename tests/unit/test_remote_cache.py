"""The stand-in for a shared compile cache: what a build may ask of it, and what it never learns."""

from __future__ import annotations

import io
import os
import socket
import threading
from pathlib import Path

import pytest
from rich.table import Table

from builder.compilation import remote, remotes
from builder.compilation.remote import ProtocolError, Served, read_command, served
from builder.compilation.remotes import HttpRemote, RedisRemote, RemoteError, open_remote
from builder.console import Reporter
from builder.errors import RequestError
from builder.progress.state import Event, State

KEY = "ccache:a7f1cdhr8d4b1k3rqou8228piokj1mnd2"


class Told:
    """Keeps warnings and messages."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.messages: list[str] = []

    def handle(self, event: Event, state: State) -> None:
        if event.name in {"warning", "message"}:
            (self.warnings if event.name == "warning" else self.messages).append(str(event["text"]))

    def table(self, table: Table) -> None: ...

    def close(self) -> None: ...


class Shelf:
    """A server in memory that can fail."""

    place = "redis://shelf"

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.asked = 0
        self.fails = False
        self.closed = False

    def _ask(self) -> None:
        self.asked += 1
        if self.fails:
            raise RemoteError("it is out of order")

    def get(self, key: str, most: int) -> bytes | None:
        self._ask()
        return self.entries.get(key)

    def has(self, key: str) -> bool:
        self._ask()
        return key in self.entries

    def put(self, key: str, value: bytes) -> None:
        self._ask()
        self.entries[key] = value

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    made = Shelf()
    monkeypatch.setattr(remote, "open_remote", lambda url, env: made)
    return made


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def parsed(data: bytes) -> list[bytes]:
    stream = io.BytesIO(data)
    return read_command(stream.readline(64), stream)


class Connection:
    """What ccache is to the stand-in."""

    def __init__(self, cache: Path) -> None:
        (folder,) = cache.glob(".remote-*")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        descriptor = os.open(folder, os.O_RDONLY)
        self.socket.connect(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)

    def ask(self, data: bytes) -> bytes:
        self.socket.sendall(data)
        return self.socket.recv(1 << 20)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_entries_go_to_the_server_and_come_back(tmp_path: Path, shelf: Shelf) -> None:
    cache = tmp_path / ("a long name of a folder " * 5) / "cache"
    with served("redis://host", cache, Reporter(sink=Told())) as standing, Connection(cache) as ccache:
        assert standing.variables("/cache")["CCACHE_REMOTE_STORAGE"].startswith("redis+unix:/cache/.remote-")
        assert ccache.ask(command(b"GET", KEY.encode())) == b"$-1\r\n"
        assert ccache.ask(command(b"EXISTS", KEY.encode())) == b":0\r\n"
        value = bytes(range(256)) * 300 + b"\r\n*1\r\n"
        assert ccache.ask(command(b"SET", KEY.encode(), value)) == b"+OK\r\n"
        assert shelf.entries == {KEY: value}
        assert ccache.ask(command(b"EXISTS", KEY.encode())) == b":1\r\n"
        ccache.socket.sendall(command(b"GET", KEY.encode()))
        wanted = b"$%d\r\n%b\r\n" % (len(value), value)
        got = b""
        while len(got) < len(wanted):
            got += ccache.socket.recv(1 << 20)
        assert got == wanted
        assert (standing.hits, standing.misses, standing.stored) == (1, 1, 1)
        (folder,) = cache.glob(".remote-*")
        assert folder.stat().st_mode & 0o777 == 0o700, "other users of this machine could ask, too"
    assert list(cache.iterdir()) == []
    assert shelf.closed


@pytest.mark.parametrize(
    "words",
    [
        (b"FLUSHALL",),
        (b"CONFIG", b"SET", b"dir"),
        (b"EVAL", KEY.encode(), b"0"),
        (b"GET", b"secrets"),
        (b"GET", b"ccache:../../etc/passwd0000000000000000"),
        (b"SET", b"other:a7f1cdhr8d4b1k3rqou8228piokj1mnd2", b"x"),
        (b"GET", KEY.encode(), b"x"),
        (b"GET", KEY.encode() + b"\n"),
        (b"SET", KEY.encode()),
        (b"KEYS", b"*"),
        (b"AUTH", b"guess"),
    ],
)
def test_nothing_else_of_the_server_is_within_reach(tmp_path: Path, shelf: Shelf, words: tuple[bytes, ...]) -> None:
    with served("redis://host", tmp_path, Reporter(sink=Told())), Connection(tmp_path) as ccache:
        assert ccache.ask(command(*words)).startswith(b"-ERR")
        assert ccache.socket.recv(10) == b"", "the connection stays open"
    assert shelf.asked == 0


def test_removing_is_passed_over(tmp_path: Path, shelf: Shelf) -> None:
    shelf.entries[KEY] = b"of another machine"
    with served("redis://host", tmp_path, Reporter(sink=Told())), Connection(tmp_path) as ccache:
        assert ccache.ask(command(b"DEL", KEY.encode())) == b":0\r\n"
    assert shelf.entries == {KEY: b"of another machine"}


@pytest.mark.parametrize(
    "data",
    [
        b"GET x\r\n",
        b"*0\r\n",
        b"*4\r\n",
        b"*-1\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$3\r\nGE",
        b"*1\r\n$3\r\nGETxx",
        b"*1\r\n$99999999999\r\n",
        b"*1\n$3\nGET\n",
        b"\xff" * 100,
    ],
)
def test_what_ccache_never_says_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parsed(data)
    assert parsed(command(b"PING")) == [b"PING"]


def test_a_server_that_fails_costs_one_warning_and_no_waiting(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    shelf.fails = True
    with served("redis://host", tmp_path, Reporter(sink=told)) as standing, Connection(tmp_path) as ccache:
        for _ in range(3):
            assert ccache.ask(command(b"GET", KEY.encode())) == b"$-1\r\n"
            assert ccache.ask(command(b"EXISTS", KEY.encode())) == b":1\r\n"
            assert ccache.ask(command(b"SET", KEY.encode(), b"x")) == b"+OK\r\n"
        assert shelf.asked == 1, "a server that failed is asked again at once"
        assert len(told.warnings) == 1
        assert "redis://shelf fails: it is out of order" in told.warnings[0]
        # After a rest it is asked again, and serves.
        monkeypatch.setattr(remote, "REST", 0.0)
        standing._rests_until = 0.0
        shelf.fails = False
        assert ccache.ask(command(b"SET", KEY.encode(), b"x")) == b"+OK\r\n"
        assert ccache.ask(command(b"GET", KEY.encode())) == b"$1\r\nx\r\n"
        assert standing.stored == 1


def test_many_compilers_at_once(tmp_path: Path, shelf: Shelf) -> None:
    wrong: list[object] = []

    def compile_one(number: int) -> None:
        key, value = b"ccache:%032d" % number, b"%d" % number * 10000
        with Connection(tmp_path) as ccache:
            if ccache.ask(command(b"SET", key, value)) != b"+OK\r\n" or shelf.entries[key.decode()] != value:
                wrong.append(number)

    with served("redis://host", tmp_path, Reporter(sink=Told())) as standing:
        threads = [threading.Thread(target=compile_one, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert standing.stored == len(shelf.entries) == 40


def test_too_many_connections_are_turned_away(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONNECTIONS", 2)
    with served("redis://host", tmp_path, Reporter(sink=Told())):
        with Connection(tmp_path) as one, Connection(tmp_path) as two:
            assert one.ask(command(b"PING")) == two.ask(command(b"PING")) == b"+OK\r\n"
            with Connection(tmp_path) as three:
                assert three.socket.recv(10) == b""
        # Their places are free again.
        for _ in range(50):
            with Connection(tmp_path) as later:
                try:
                    if later.ask(command(b"PING")) == b"+OK\r\n":
                        break
                except OSError:
                    continue
        else:
            pytest.fail("no place became free")


def test_what_a_killed_builder_left_is_removed_and_nothing_else(tmp_path: Path, shelf: Shelf) -> None:
    dead = tmp_path / ".remote-dead0000"
    dead.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        descriptor = os.open(dead, os.O_RDONLY)
        left.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
    with served("redis://host", tmp_path, Reporter(sink=Told())):
        (living,) = tmp_path.glob(".remote-*")
        assert living != dead
        with served("redis://host", tmp_path, Reporter(sink=Told())):
            assert living.exists()
            assert len(list(tmp_path.glob(".remote-*"))) == 2


def test_what_it_was_good_for_is_said_where_it_was_asked(tmp_path: Path, shelf: Shelf) -> None:
    told = Told()
    with served("redis://host", tmp_path, Reporter(sink=told)):
        pass
    assert told.messages == []
    with served("redis://host", tmp_path, Reporter(sink=told)), Connection(tmp_path) as ccache:
        for words in ((b"GET", KEY.encode()), (b"SET", KEY.encode(), b"x"), (b"GET", KEY.encode())):
            ccache.ask(command(*words))
    assert told.messages == ["the remote compile cache redis://shelf had 1 of 2 entries, and was given 1"]


def test_a_setting_is_checked_before_anything_is_asked() -> None:
    remote.check({})
    remote.check({remote.VARIABLE: ""})
    remote.check({remote.VARIABLE: "redis://nobody.example.org"})
    with pytest.raises(RequestError, match="BUILDER_REMOTE_CACHE: 'nonsense' is not the URL") as caught:
        remote.check({remote.VARIABLE: "nonsense"})
    assert "redis://host" in str(caught.value.hint)


def test_without_a_url_there_is_nothing(tmp_path: Path) -> None:
    with served(None, tmp_path / "cache", Reporter(sink=Told())) as standing:
        assert isinstance(standing, Served)
        assert standing.variables("/cache") == {}
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("url", "kind", "place"),
    [
        ("redis://cache.example.org", RedisRemote, "redis://cache.example.org"),
        ("redis://cache.example.org:7000/3", RedisRemote, "redis://cache.example.org:7000/3"),
        ("rediss://[::1]:7000", RedisRemote, "rediss://[::1]:7000"),
        ("https://cache.example.org/ccache/", HttpRemote, "https://cache.example.org/ccache"),
    ],
)
def test_urls(url: str, kind: type, place: str) -> None:
    opened = open_remote(url, {remotes.PASSWORD_VARIABLE: "hush"})
    assert isinstance(opened, kind)
    assert opened.place == place
    opened.close()


@pytest.mark.parametrize(
    "url",
    [
        "cache.example.org",
        "redis://",
        "redis+unix:/run/redis.sock",
        "redis://host/name",
        "redis://host:port",
        "redis://host:99999",
        "http://host/x?token=hush",
        "file:///tmp/cache",
        "redis://:hush@host",
        "redis:hush@host",
        "user:hush@host",
        "https://user:hush@host/x",
        "http://host/x\n",
    ],
)
def test_wrong_urls_are_refused_without_their_secrets(url: str) -> None:
    with pytest.raises(RequestError) as caught:
        open_remote(url, {})
    assert "hush" not in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint
