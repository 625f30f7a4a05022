"""The stand-in for a shared compile cache: what a build may ask of it, and what it never learns."""

from __future__ import annotations

import io
import os
import socket
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from rich.table import Table

from builder.compilation import remote_cache_proxy, remote_cache_servers
from builder.compilation.remote_cache_proxy import ProtocolError, Served, read_command, served
from builder.compilation.remote_cache_servers import HttpRemote, RedisRemote, RemoteError, open_remote
from builder.core.errors import RequestError
from builder.core.trust import Trust
from builder.progress.reporter import Reporter
from builder.progress.state import Event, State

KEY = "ccache:a7f1cdhr8d4b1k3rqou8228piokj1mnd2"
LEVEL = Trust.NIGHTLY
#: Under which name the server has it.
STORED = "nightly-a7f1cdhr8d4b1k3rqou8228piokj1mnd2"


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
    monkeypatch.setattr(remote_cache_proxy, "open_remote", lambda url, env: made)
    return made


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def parsed(data: bytes) -> list[bytes]:
    stream = io.BytesIO(data)
    return read_command(stream.readline(64), stream)


class Connection:
    """What ccache is to the stand-in."""

    def __init__(self, place: Path, folder: str = "remote") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        descriptor = os.open(place / folder, os.O_RDONLY)
        self.socket.connect(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)

    def ask(self, data: bytes) -> bytes:
        self.socket.sendall(data)
        return self.socket.recv(1 << 20)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def stood_in(
    place: Path, told: Told | None = None, *, url: str | None = "redis://host"
) -> AbstractContextManager[Served]:
    """The stand-in for a build of LEVEL, with its socket below ``place``."""
    return served(url, LEVEL, place / "remote", Reporter(sink=told or Told()))


def test_entries_go_to_the_server_and_come_back(tmp_path: Path, shelf: Shelf) -> None:
    folder = tmp_path / ("a long name of a folder " * 5) / "remote"
    with served("redis://host", LEVEL, folder, Reporter(sink=Told())) as standing, Connection(folder.parent) as ccache:
        (variable,) = standing.variables("/remote").values()
        assert variable.startswith("redis+unix:/remote/socket|")
        assert "read-only" not in variable
        assert ccache.ask(command(b"GET", KEY.encode())) == b"$-1\r\n"
        assert ccache.ask(command(b"EXISTS", KEY.encode())) == b":0\r\n"
        value = bytes(range(256)) * 300 + b"\r\n*1\r\n"
        assert ccache.ask(command(b"SET", KEY.encode(), value)) == b"+OK\r\n"
        assert shelf.entries == {STORED: value}
        assert ccache.ask(command(b"EXISTS", KEY.encode())) == b":1\r\n"
        ccache.socket.sendall(command(b"GET", KEY.encode()))
        wanted = b"$%d\r\n%b\r\n" % (len(value), value)
        got = b""
        while len(got) < len(wanted):
            got += ccache.socket.recv(1 << 20)
        assert got == wanted
        assert (standing.hits, standing.misses, standing.stored) == (1, 1, 1)
        assert folder.stat().st_mode & 0o777 == 0o700, "other users of this machine could ask, too"
    assert list(folder.parent.iterdir()) == []
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
    with (
        stood_in(tmp_path),
        Connection(tmp_path) as ccache,
    ):
        assert ccache.ask(command(*words)).startswith(b"-ERR")
        assert ccache.socket.recv(10) == b"", "the connection stays open"
    assert shelf.asked == 0


def test_removing_is_passed_over(tmp_path: Path, shelf: Shelf) -> None:
    shelf.entries[STORED] = b"of another machine"
    with (
        stood_in(tmp_path),
        Connection(tmp_path) as ccache,
    ):
        assert ccache.ask(command(b"DEL", KEY.encode())) == b":0\r\n"
    assert shelf.entries == {STORED: b"of another machine"}


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
    with (
        stood_in(tmp_path, told) as standing,
        Connection(tmp_path) as ccache,
    ):
        for _ in range(3):
            assert ccache.ask(command(b"GET", KEY.encode())) == b"$-1\r\n"
            assert ccache.ask(command(b"EXISTS", KEY.encode())) == b":1\r\n"
            assert ccache.ask(command(b"SET", KEY.encode(), b"x")) == b"+OK\r\n"
        assert shelf.asked == 1, "a server that failed is asked again at once"
        assert len(told.warnings) == 1
        assert "redis://shelf fails: it is out of order" in told.warnings[0]
        # After a rest it is asked again, and serves.
        monkeypatch.setattr(remote_cache_proxy, "REST", 0.0)
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
            if ccache.ask(command(b"SET", key, value)) != b"+OK\r\n" or shelf.entries[f"nightly-{number:032}"] != value:
                wrong.append(number)

    with stood_in(tmp_path) as standing:
        threads = [threading.Thread(target=compile_one, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert standing.stored == len(shelf.entries) == 40


def test_too_many_connections_are_turned_away(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_cache_proxy, "CONNECTIONS", 2)
    with stood_in(tmp_path):
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


def test_what_a_killed_builder_left_is_replaced(tmp_path: Path, shelf: Shelf) -> None:
    dead = tmp_path / "remote"
    dead.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        descriptor = os.open(dead, os.O_RDONLY)
        left.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
    with served("redis://host", LEVEL, dead, Reporter(sink=Told())), Connection(tmp_path) as ccache:
        assert ccache.ask(command(b"PING")) == b"+OK\r\n"


# -- levels of trust -------------------------------------------------------------------------------------------


def test_a_level_is_given_what_higher_ones_have_stored_and_stores_at_its_own(tmp_path: Path, shelf: Shelf) -> None:
    name = STORED.partition("-")[2]
    for trust in Trust:
        shelf.entries[f"{trust.value}-{name}"] = trust.value.encode()
    for trust, best in ((Trust.RELEASE, "release"), (Trust.NIGHTLY, "release"), (Trust.UNKNOWN, "release")):
        with served("redis://host", trust, tmp_path / "x", Reporter(sink=Told())), Connection(tmp_path, "x") as ccache:
            assert best.encode() in ccache.ask(command(b"GET", KEY.encode()))
    del shelf.entries[f"release-{name}"]
    with served("redis://host", Trust.RELEASE, tmp_path / "x", Reporter(sink=Told())) as standing:
        with Connection(tmp_path, "x") as ccache:
            assert ccache.ask(command(b"GET", KEY.encode())) == b"$-1\r\n"
        assert (standing.hits, standing.misses) == (0, 1)
    with (
        served("redis://host", Trust.UNKNOWN, tmp_path / "x", Reporter(sink=Told())),
        Connection(tmp_path, "x") as ccache,
    ):
        assert b"nightly" in ccache.ask(command(b"GET", KEY.encode()))
        ccache.ask(command(b"SET", KEY.encode(), b"forged"))
    assert shelf.entries == {f"nightly-{name}": b"nightly", f"unknown-{name}": b"forged"}


def test_local_caches_of_higher_levels_are_read(tmp_path: Path) -> None:
    name = KEY.partition(":")[2]
    for number, levels in enumerate((2, 3, 4)):
        entry = tmp_path / f"cache{number}" / Path(*name[:levels]) / name[levels:]
        entry.parent.mkdir(parents=True)
        entry.write_bytes(b"of level %d" % levels)
    told = Told()
    for number, levels in enumerate((2, 3, 4)):
        with stood_in(tmp_path, told, url=None) as standing:
            standing.read_also([tmp_path / "absent", tmp_path / f"cache{number}"])
            (variable,) = standing.variables("/remote").values()
            assert variable.endswith("|read-only=true")
            with Connection(tmp_path) as ccache:
                assert ccache.ask(command(b"GET", KEY.encode())) == b"$10\r\nof level %d\r\n" % levels
                assert ccache.ask(command(b"GET", b"ccache:" + b"0" * 32)) == b"$-1\r\n"
                ccache.ask(command(b"SET", KEY.encode(), b"forged"))
    assert told.messages == ["1 entries came from compile caches that are trusted more"] * 3
    assert b"forged" not in {path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_an_entry_of_a_local_cache_that_leads_out_is_none(tmp_path: Path) -> None:
    name = KEY.partition(":")[2]
    (tmp_path / "secret").write_text("of the machine")
    (tmp_path / "cache" / name[0]).mkdir(parents=True)
    (tmp_path / "cache" / name[0] / name[1]).symlink_to(tmp_path)
    (tmp_path / name[2:]).symlink_to(tmp_path / "secret")
    with stood_in(tmp_path, url=None) as standing:
        standing.read_also([tmp_path / "cache"])
        with Connection(tmp_path) as ccache:
            assert ccache.ask(command(b"GET", KEY.encode())) == b"$-1\r\n"


def test_what_it_was_good_for_is_said_where_it_was_asked(tmp_path: Path, shelf: Shelf) -> None:
    told = Told()
    with stood_in(tmp_path, told):
        pass
    assert told.messages == []
    with (
        stood_in(tmp_path, told),
        Connection(tmp_path) as ccache,
    ):
        for words in ((b"GET", KEY.encode()), (b"SET", KEY.encode(), b"x"), (b"GET", KEY.encode())):
            ccache.ask(command(*words))
    assert told.messages == ["the remote compile cache redis://shelf had 1 of 2 entries, and was given 1"]


def test_a_setting_is_checked_before_anything_is_asked() -> None:
    remote_cache_proxy.check({})
    remote_cache_proxy.check({remote_cache_proxy.VARIABLE: ""})
    remote_cache_proxy.check({remote_cache_proxy.VARIABLE: "redis://nobody.example.org"})
    with pytest.raises(RequestError, match="BUILDER_REMOTE_CACHE: 'nonsense' is not the URL") as caught:
        remote_cache_proxy.check({remote_cache_proxy.VARIABLE: "nonsense"})
    assert "redis://host" in str(caught.value.hint)


def test_without_a_url_there_is_nothing(tmp_path: Path) -> None:
    with served(None, LEVEL, None, Reporter(sink=Told())) as standing:
        assert isinstance(standing, Served)
        standing.read_also([tmp_path])
        assert standing.variables("/remote") == {}
    with stood_in(tmp_path, url=None) as standing:
        standing.read_also([tmp_path / "absent"])
        assert standing.variables("/remote") == {}
    assert list(tmp_path.iterdir()) == []


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
    opened = open_remote(url, {remote_cache_servers.PASSWORD_VARIABLE: "hush"})
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
