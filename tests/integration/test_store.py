"""The store under kill -9, and a real S3 interface on loopback: what is visible is whole at every moment."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from store_support import S3, everything, serve_s3

from builder.core.digests import sha256_of
from builder.core.errors import BuilderError, FailureKind, RequestError, TargetError
from builder.releases import Release, latest, prune, read_manifest, releases, verify
from builder.store import Store, interface, open_store, retry
from builder.store.remote import RemoteStore

KILLS = 10
SECRET = "a-secret-of-the-tests-0123456789"

# Puts files whose names are their checksums, one after the other, until it is killed.
PUTTING = """
import sys
from pathlib import Path
from builder.store import open_store
from builder.core.digests import sha256_of
from builder.store.remote import RemoteStore
kind, place, *files = sys.argv[1:]
store = RemoteStore(place) if kind == "renaming" else open_store(place)
print("begun", flush=True)
while True:
    for file in map(Path, files):
        digest = sha256_of(file)
        store.remove(f"n/{digest}.whl")
        store.put(file, f"n/{digest}.whl", digest)
"""

# Makes one release after the other, and prunes, until it is killed.
RELEASING = """
import sys
from pathlib import Path
from builder.releases import Release, prune, releases
from builder.store import open_store
store, folder = open_store(sys.argv[1]), Path(sys.argv[2])
print("begun", flush=True)
prune(store, "nightly", 3)
done = [int(found.name) for found in releases(store, "nightly") if found.manifest and found.manifest.complete]
number = max(done, default=0)
while True:
    number += 1
    release = Release(store, "nightly", str(number))
    release.expect(["a", "b"])
    for target in ("a", "b"):
        wheel = folder / f"{target}-{number}.whl"
        wheel.write_bytes(f"{target} {number}".encode() * 1000)
        release.add(target, [wheel])
    release.commit()
    prune(store, "nightly", 3)
"""


@contextmanager
def killed_later(script: str, *arguments: str, seconds: float) -> Iterator[None]:
    """Run a script in a process of its own; after the block it gets ``seconds`` more at most, then SIGKILL."""
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield
        time.sleep(seconds)
        assert process.poll() is None, "it ended before it was killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Watcher:
    """Looks again and again, in a thread, until the block ends; problems and the number of looks are kept."""

    def __init__(self, look: Callable[[], list[str]]) -> None:
        self.problems: list[str] = []
        self.looks = 0
        self._look = look
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self.problems += self._look()
            except Exception as error:
                self.problems.append(f"{type(error).__name__}: {error}")
            self.looks += 1

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def whole(store: Store) -> Callable[[], list[str]]:
    """A look at every visible file of folder ``n``: its content must be what its name says."""

    def look() -> list[str]:
        problems = []
        for entry in store.entries("n"):
            digest = store.digest(f"n/{entry.name}")
            if digest is not None and f"{digest}.whl" != entry.name:
                problems.append(f"{entry.name} has {digest}")
        return problems

    return look


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    """Files of different sizes, up to that of a wheel."""
    made = []
    for number, size in enumerate((1, 300_000, 8_000_000, 24_000_000)):
        path = tmp_path / f"{number}.whl"
        path.write_bytes(os.urandom(size))
        made.append(path)
    return made


# S3 on loopback.


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3]:
    """One server for all tests of this file."""
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Credentials by environment variables, and none of this machine's own."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "FSSPEC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFTHETESTS")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield
    if find_spec("s3fs") is not None:
        from s3fs import S3FileSystem

        S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3_server: S3, s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    name = f"bucket-{secrets.token_hex(6)}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"


# kill -9.


@pytest.mark.parametrize("kind", ["folder", "renaming", "s3"])
def test_killed_at_any_moment_every_visible_file_is_whole(
    kind: str, wheels: list[Path], tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "s3":
        place = f"{request.getfixturevalue('bucket')}/store"
    else:
        if kind == "renaming":
            pytest.importorskip("fsspec")
        place = str(tmp_path / "store") if kind == "folder" else f"file://{tmp_path}/store"
    store = RemoteStore(place) if kind == "renaming" else open_store(place)

    def hidden() -> int:
        return len([name for name in everything(store) if "/." in name])

    kills = 0
    with Watcher(whole(store)) as watcher:
        # Until some of them were killed in the middle of an upload: otherwise the test says nothing.
        while kills < KILLS or hidden() < 2:
            with killed_later(PUTTING, kind, place, *map(str, wheels), seconds=secrets.randbelow(400) / 1000):
                kills += 1
            assert kills < 20 * KILLS
    assert watcher.problems == []
    assert watcher.looks > 3
    # The same command afterwards does what is left.
    for wheel in wheels:
        store.put(wheel, f"n/{sha256_of(wheel)}.whl", sha256_of(wheel))
    assert whole(store)() == []
    assert len(store.entries("n")) == len(wheels)
    # A day later.
    monkeypatch.setattr(interface, "STALE_AFTER", -1)
    assert store.sweep("n") >= 2
    assert everything(store) == sorted(f"n/{sha256_of(wheel)}.whl" for wheel in wheels)


def test_killed_at_any_moment_latest_is_a_whole_release(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    (tmp_path / "dist").mkdir()
    seen: list[int] = []

    def look() -> list[str]:
        manifest = latest(store, "nightly")
        if manifest is None:
            return []
        problems = [] if manifest.complete else ["not complete"]
        problems += verify(store, manifest)
        if problems and latest(store, "nightly") != manifest:
            return []  # it has moved on meanwhile, and the old one may be gone
        if seen and int(manifest.release) < seen[-1]:
            problems.append(f"moved back from {seen[-1]} to {manifest.release}")
        seen.append(int(manifest.release))
        return problems

    moments = [0.05 + secrets.randbelow(450) / 1000 for _ in range(KILLS)]
    with Watcher(look) as watcher:
        for moment in moments:
            with killed_later(RELEASING, str(tmp_path / "store"), str(tmp_path / "dist"), seconds=moment):
                pass
    assert watcher.problems == []
    assert len(set(seen)) > KILLS
    # What dead processes left is cleared by the next pruning: only whole releases, and at most one in the making.
    done = prune(store, "nightly", 3)
    found = releases(store, "nightly")
    assert [one.name for one in found if one.manifest] == done.kept
    assert 3 <= len(done.kept) <= 4
    assert len(done.left) <= 1
    pointed = latest(store, "nightly")
    assert pointed is not None
    assert os.readlink(tmp_path / "store" / "nightly" / "latest") in {one.name for one in found}


def test_many_processes_fill_one_release(tmp_path: Path) -> None:
    """Eight processes, one folder, one target each: the manifest names them all."""
    place = str(tmp_path / "store")
    targets = [f"t{number}" for number in range(8)]
    Release(open_store(place), "nightly", "1").expect(targets)
    script = (
        "import sys; from pathlib import Path\n"
        "from builder.releases import Release; from builder.store import open_store\n"
        "wheel = Path(sys.argv[2]); release = Release(open_store(sys.argv[1]), 'nightly', '1')\n"
        "release.add(wheel.stem, [wheel]); release.commit()\n"
    )
    processes = []
    for target in targets:
        wheel = tmp_path / f"{target}.whl"
        wheel.write_text(target)
        processes.append(subprocess.Popen([sys.executable, "-c", script, place, str(wheel)]))
    assert [process.wait() for process in processes] == [0] * len(targets)
    store = open_store(place)
    manifest = read_manifest(store, "nightly", "1")
    assert manifest.complete
    assert latest(store, "nightly") == manifest


# S3.


def test_s3_from_put_to_prune(bucket: str, wheels: list[Path], tmp_path: Path) -> None:
    store = open_store(f"{bucket}/folder/of/releases")
    store.check()
    assert everything(store) == []
    for name in ("2026-11-19", "2026-11-20", "2026-11-21"):
        release = Release(store, "nightly", name)
        release.expect(["a", "b"])
        for target, wheel in zip(("a", "b"), wheels[1:], strict=False):
            release.add(target, [wheel])
        manifest = release.commit()
        assert latest(store, "nightly") == manifest
    assert store.put(wheels[1], f"nightly/2026-11-21/{wheels[1].name}", sha256_of(wheels[1])) is False
    with pytest.raises(TargetError, match="another content"):
        store.put(wheels[2], f"nightly/2026-11-21/{wheels[1].name}", sha256_of(wheels[2]))
    done = prune(store, "nightly", 1)
    assert (done.kept, sorted(done.removed), done.left) == (["2026-11-21"], ["2026-11-19", "2026-11-20"], {})
    assert all(name.startswith("nightly/2026-11-21/") or name == "nightly/latest.json" for name in everything(store))
    store.get(f"nightly/2026-11-21/{wheels[2].name}", tmp_path / "back.whl", sha256_of(wheels[2]))
    assert sha256_of(tmp_path / "back.whl") == sha256_of(wheels[2])
    # Another builder's files are seen at once: nothing is remembered of a listing.
    open_store(f"{bucket}/folder/of/releases").write("nightly/note", b"x")
    assert "note" in [entry.name for entry in store.entries("nightly")]


def test_large_files_travel_in_parts(bucket: str, tmp_path: Path) -> None:
    path = tmp_path / "large.whl"
    path.write_bytes(os.urandom(1 << 20) * 110)
    digest = sha256_of(path)
    store = open_store(bucket)
    assert store.put(path, "n/large.whl", digest)
    assert store.digest("n/large.whl") == digest
    assert everything(store) == ["n/large.whl"]


def _said(error: BuilderError) -> str:
    return f"{error.message} | {error.hint} | {error.details}"


def test_a_bucket_that_is_not_there_is_not_made(bucket: str, wheels: list[Path]) -> None:
    store = open_store(f"{bucket}-misspelt/folder")
    for attempt in (store.check, lambda: store.put(wheels[0], "n/a.whl", sha256_of(wheels[0]))):
        with pytest.raises(RequestError, match="has no place for this") as caught:
            attempt()
        assert "never buckets" in _said(caught.value)
    import s3fs

    assert f"{bucket}-misspelt".removeprefix("s3://") not in s3fs.S3FileSystem(skip_instance_cache=True).ls("")


def test_no_network(s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(TargetError, match="was not reached") as caught:
            open_store("s3://bucket").check()
    assert caught.value.kind is FailureKind.NETWORK


def test_no_credentials(s3_server: S3, s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(RequestError, match="needs credentials") as caught:
        open_store("s3://bucket").check()
    assert "AWS_ACCESS_KEY_ID" in _said(caught.value)


def test_a_server_that_refuses(s3_environment: None, monkeypatch: pytest.MonkeyPatch, wheels: list[Path]) -> None:
    with serve_s3(INITIAL_NO_AUTH_ACTION_COUNT="0") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        store = open_store("s3://bucket/folder")
        for attempt in (
            store.check,
            lambda: store.put(wheels[0], "n/a.whl", sha256_of(wheels[0])),
            lambda: store.read("n/a"),
            lambda: prune(store, "nightly", 1),
        ):
            with pytest.raises(RequestError, match="does not allow") as caught:
                attempt()
            assert SECRET not in _said(caught.value)
            assert "AKIAOFTHETESTS" not in _said(caught.value)


class BadLine:
    """A way to a server of this machine. It breaks each connection after some bytes of requests, until it is mended."""

    def __init__(self, port: int, after: int) -> None:
        self.bad = True
        self.broken = 0
        self._server, self._after = port, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server)) as server:
            back = threading.Thread(target=self._carry, args=(server, client, None))
            back.start()
            self._carry(client, server, self._after)
            back.join()

    def _carry(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                if left is not None:
                    left -= len(data)
                    if left <= 0 and self.bad:
                        self.broken += 1
                        break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> BadLine:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would not wake who waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_line_that_breaks_in_the_middle_of_uploads(
    bucket: str, s3_server: S3, wheels: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setattr(retry, "FIRST_WAIT", 0.05)
    # The packages below have patience of their own, which would take long here.
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    wheel, digest = wheels[2], sha256_of(wheels[2])
    name = f"n/{digest}.whl"
    straight = open_store(f"{bucket}/store")
    straight.check()
    for mended_after in (retry.ATTEMPTS - 1, retry.ATTEMPTS):
        straight.remove(name)
        with BadLine(int(s3_server.url.rpartition(":")[2]), after=1_000_000) as line, Watcher(whole(straight)) as look:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{line.port}")
            s3fs.S3FileSystem.clear_instance_cache()
            store = open_store(f"{bucket}/store")
            told: list[str] = []

            def tell(text: str, line: BadLine = line, told: list[str] = told, mended_after: int = mended_after) -> None:
                told.append(text)
                line.bad = len(told) < mended_after

            store.warn = tell
            if mended_after < retry.ATTEMPTS:
                assert store.put(wheel, name, digest)
            else:
                with pytest.raises(TargetError, match="was not reached") as caught:
                    store.put(wheel, name, digest)
                assert caught.value.kind is FailureKind.NETWORK
            assert len(told) == retry.ATTEMPTS - 1
            assert line.broken >= len(told)
            there = [entry.name for entry in straight.entries("n")]
        assert there == ([f"{digest}.whl"] if mended_after < retry.ATTEMPTS else [])
        assert look.problems == []
        assert look.looks > 1


def test_a_server_that_loses_data(bucket: str, wheels: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server holds is read back, not what was sent."""
    store = open_store(bucket)
    assert isinstance(store, RemoteStore)
    honest = store._upload

    def losing(local: Path, name: str) -> None:
        honest(local, name)
        store._fs.pipe_file(store._path(name), local.read_bytes()[:-1])

    monkeypatch.setattr(store, "_upload", losing)
    with pytest.raises(TargetError, match="did not arrive whole"):
        store.put(wheels[1], "n/a.whl", hashlib.sha256(wheels[1].read_bytes()).hexdigest())
    assert everything(store) == []
