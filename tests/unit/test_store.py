"""The store: whole files only, names that stay inside, and what is said when it refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_support import KINDS, everything, make_store

from builder.core.digests import sha256_of
from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError, TargetError
from builder.releases import Release
from builder.store import Store, check_name, interface, open_store
from builder.store import folder as folder_module
from builder.store.errors import explain, redact
from builder.store.folder import FolderStore
from builder.store.interface import STALE_AFTER
from builder.store.remote import RemoteStore


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    with make_store(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def local(tmp_path: Path) -> Callable[..., tuple[Path, str]]:
    """Makes a local file; its path and SHA-256."""

    def make(name: str = "a.whl", content: bytes = b"wheel") -> tuple[Path, str]:
        path = tmp_path / "local" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path, hashlib.sha256(content).hexdigest()

    return make


# Putting files.


def test_put_is_whole_and_done_once(store: Store, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = local(content=b"x" * 100_000)
    assert store.put(path, "nightly/1/a.whl", digest) is True
    assert everything(store) == ["nightly/1/a.whl"]
    assert (store.size("nightly/1/a.whl"), store.digest("nightly/1/a.whl")) == (100_000, digest)

    def upload(*_: object) -> None:
        pytest.fail("what stands there is not uploaded again")

    monkeypatch.setattr(store, "_upload", upload)
    assert store.put(path, "nightly/1/a.whl", digest) is False


def test_an_empty_file_is_a_file(store: Store, local: Any) -> None:
    path, digest = local(content=b"")
    assert store.put(path, "empty", digest)
    assert store.read("empty") == b""
    assert store.put(path, "empty", digest) is False


def test_other_content_under_a_name_needs_to_be_asked_for(store: Store, local: Any) -> None:
    store.put(*_put(local, b"old"))
    # Of the same size, so that only the checksum tells them apart.
    for content in (b"new", b"longer"):
        path, name, digest = _put(local, content)
        with pytest.raises(TargetError, match="already holds another content under a") as caught:
            store.put(path, name, digest)
        assert caught.value.kind is FailureKind.VERIFY
        assert store.read("a.whl") == b"old"
    assert store.put(path, name, digest, replace=True)
    assert store.read("a.whl") == b"longer"
    assert everything(store) == ["a.whl"]


def _put(local: Any, content: bytes) -> tuple[Path, str, str]:
    path, digest = local(content=content)
    return path, "a.whl", digest


def test_a_wrong_checksum_publishes_nothing(store: Store, local: Any) -> None:
    path, digest = local()
    path.write_bytes(b"WHEEL")  # changed after it was hashed
    with pytest.raises(TargetError, match="did not arrive whole") as caught:
        store.put(path, "a.whl", digest)
    assert caught.value.kind is FailureKind.VERIFY
    assert everything(store) == []


def test_damage_on_the_way_is_found_by_reading_back(store: Store, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = local(content=b"x" * 1000)
    honest = store._upload

    def damaging(source: Path, name: str) -> None:
        bad = source.with_name("bad")
        bad.write_bytes(b"x" * 999 + b"y")
        honest(bad, name)

    monkeypatch.setattr(store, "_upload", damaging)
    with pytest.raises(TargetError, match="did not arrive whole"):
        store.put(path, "a.whl", digest)
    assert everything(store) == []


def test_what_is_being_uploaded_is_not_seen(store: Store, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = local()
    seen = []
    honest = store._verify

    def watching(*arguments: Any) -> None:
        seen.append((store.entries("n"), everything(store, "n")))
        honest(*arguments)

    monkeypatch.setattr(store, "_verify", watching)
    store.put(path, "n/a.whl", digest)
    ((visible, all_of_it),) = seen
    assert visible == []
    assert len(all_of_it) == 1
    assert all_of_it[0].startswith("n/.upload-")


def test_two_puts_of_other_content_at_once(store: Store, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other builder publishes after we looked, before we do."""
    path, digest = local()
    other, other_digest = local("other", b"other")
    honest = store._verify
    rival = [(other, other_digest)]

    def overtaken(*arguments: Any) -> None:
        honest(*arguments)
        if rival:
            store.put(rival[0][0], "a.whl", rival.pop()[1])

    monkeypatch.setattr(store, "_verify", overtaken)
    with pytest.raises(TargetError, match="another content"):
        store.put(path, "a.whl", digest)
    assert everything(store) == ["a.whl"]
    assert store.read("a.whl") == b"other"


def test_two_puts_of_the_same_content_at_once(store: Store, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = local()
    honest = store._verify
    rival = [path]

    def overtaken(*arguments: Any) -> None:
        honest(*arguments)
        if rival:
            store.put(rival.pop(), "a.whl", digest)

    monkeypatch.setattr(store, "_verify", overtaken)
    assert store.put(path, "a.whl", digest) is False
    assert everything(store) == ["a.whl"]


def test_dead_uploads_go_after_a_day(store: Store, local: Any) -> None:
    moment = int(time.time())
    old, young = (f"n/.upload-{at:08x}-0123abcd-a.whl" for at in (moment - STALE_AFTER - 60, moment - 60))
    for name in (old, young, "n/.other", "n/upload-00000000-0123abcd-a"):
        store._upload_bytes(b"half", name)
    store.put(local()[0], "n/a.whl", local()[1])
    assert everything(store, "n") == sorted([young, "n/.other", "n/a.whl", "n/upload-00000000-0123abcd-a"])
    assert store.sweep("n") == 0


def test_get_brings_whole_files_only(store: Store, local: Any, tmp_path: Path) -> None:
    path, digest = local(content=os.urandom(50_000))
    store.put(path, "n/a.whl", digest)
    back = tmp_path / "back" / "a.whl"
    store.get("n/a.whl", back, digest)
    assert sha256_of(back) == digest
    for name, wanted in (("n/a.whl", "0" * 64), ("n/none.whl", digest)):
        with pytest.raises(TargetError) as caught:
            store.get(name, tmp_path / "wrong" / "a.whl", wanted)
        assert caught.value.kind is FailureKind.VERIFY
        assert list((tmp_path / "wrong").iterdir()) == []


def test_what_is_too_large_to_be_one_is_no_small_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("n/latest.json", b"x" * 1000)
    monkeypatch.setattr(interface, "LARGEST", 1000)
    assert store.read("n/latest.json") == b"x" * 1000
    monkeypatch.setattr(interface, "LARGEST", 999)
    with pytest.raises(RequestError, match=r"n/latest.json in .* has more than 0 MiB"):
        store.read("n/latest.json")


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.symlink_to("/dev/zero"),
    ],
    ids=["pipe", "folder", "link", "device"],
)
def test_only_regular_files_are_read(tmp_path: Path, kind: str, make: Callable[[Path], None]) -> None:
    folder = tmp_path / "store" / "n"
    folder.mkdir(parents=True)
    make(folder / "latest.json")
    place = str(tmp_path / "store")
    store = open_store(place) if kind == "folder" else RemoteStore(f"file://{place}")
    with pytest.raises(RequestError, match=r"n/latest\.json in .* is no file"):
        store.read("n/latest.json")


def test_small_files_are_replaced_and_read(store: Store) -> None:
    assert store.read("n/latest.json") is None
    assert store.size("n/latest.json") is None
    assert store.digest("n/latest.json") is None
    for text in (b"one", b"three"):
        store.write("n/latest.json", text)
        assert store.read("n/latest.json") == text
    assert everything(store) == ["n/latest.json"]
    assert [tuple(entry) for entry in store.entries("n")] == [("latest.json", False, 5)]
    assert [tuple(entry) for entry in store.entries()] == [("n", True, 0)]
    assert store.entries("none") == []
    store.remove("n/latest.json")
    store.remove("n/latest.json")
    assert everything(store) == []


def test_a_removed_folder_loses_the_named_file_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("n/1/a", "n/1/z", "n/1/deep/er/b", "n/1/.upload-00000000-0123abcd-c", "n/2/a"):
        store._upload_bytes(b"x", name)
    store._upload_bytes(b"x", "n/1/last")
    honest = store._remove
    seen = []
    monkeypatch.setattr(store, "_remove", lambda name: (seen.append(everything(store, "n/1")), honest(name)))
    real_unlink = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        seen.append(everything(store, "n/1"))
        real_unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    store.remove_folder("n/1", last="last")
    assert seen[-1] == ["n/1/last"]
    monkeypatch.undo()
    assert everything(store) == ["n/2/a"]
    assert [entry.name for entry in store.entries("n")] == ["2"]
    store.remove_folder("n/1", last="last")


def test_check_tries_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.check()
    assert everything(store) == []
    monkeypatch.setattr(store, "_publish", lambda *_, **__: pytest.fail("a trial is not published"))
    store.check()

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Access Denied")

    monkeypatch.setattr(store, "_upload_bytes", refuse)
    with pytest.raises(RequestError, match="does not allow a trial file") as caught:
        store.check()
    assert caught.value.details == "PermissionError: [Errno 13] Access Denied"


# Names and places.

LEAVING = (
    "/etc/passwd", "../a", "a/../b", "a/..", ".", "", "a//b", "a/", "a\nb", "a\x00b", "a\x1b[0m", ".hidden",
    "n/.upload-x", "-option", "a b", "a\\b", "a:b", "a*", "ä", "x" * 201, "~root",
)  # fmt: skip


@pytest.mark.parametrize("name", LEAVING)
def test_names_that_try_to_leave(store: Store, local: Any, tmp_path: Path, name: str) -> None:
    path, digest = local()
    before = sorted(tmp_path.rglob("*"))
    for attempt in (
        lambda: store.put(path, name, digest),
        lambda: store.write(name, b"x"),
        lambda: store.read(name),
        lambda: store.get(name, tmp_path / "out" / "x", digest),
        lambda: store.remove(name),
        lambda: store.size(name),
        lambda: store.digest(name),
        lambda: store.remove_folder(name, last="x"),
        lambda: Release(store, name, "1"),
        lambda: Release(store, "nightly", name),
    ):
        with pytest.raises(RequestError):
            attempt()
    assert sorted(tmp_path.rglob("*")) == before


def test_names_of_wheels_stay_as_they_are() -> None:
    for name in (
        "nightly/2026-11-21/torch_npu-2.1.0.post13+gitb32f3-cp38-cp38-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
        "nightly/2026-11-21/journal/20261121T000000Z-0123abcd.json",
    ):
        assert check_name(name) == name


def test_a_folder_follows_no_links(tmp_path: Path, local: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    root = tmp_path / "store"
    (root / "real").mkdir(parents=True)
    (root / "away").symlink_to(outside)
    (root / "real" / "file").symlink_to(outside / "kept")
    store = open_store(str(root))
    path, digest = local()
    for attempt in (
        lambda: store.put(path, "away/a.whl", digest),
        lambda: store.write("away/deep/a", b"x"),
        lambda: store.read("away/kept"),
        lambda: store.read("real/file"),
        lambda: store.entries("away"),
        lambda: store.remove_folder("away", last="x"),
        lambda: store.put(path, "real/file", digest),
    ):
        with pytest.raises(BuilderError):
            attempt()
    assert store.entries("real") == []
    store.remove_folder("real", last="x")
    store.put(path, "a", digest)
    assert [(file.name, file.read_text()) for file in outside.iterdir()] == [("kept", "kept")]


def test_a_folder_store_may_itself_be_reached_by_a_link(tmp_path: Path, local: Any) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    path, digest = local()
    open_store(str(tmp_path / "store")).put(path, "n/a.whl", digest)
    assert (tmp_path / "disk" / "n" / "a.whl").exists()


def test_folders_and_file_urls_need_no_fsspec(tmp_path: Path, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    monkeypatch.chdir(tmp_path)
    path, digest = local()
    for place in ("relative/store", str(tmp_path / "absolute"), f"file://{tmp_path}/url%20with%20space"):
        store = open_store(place)
        assert isinstance(store, FolderStore)
        assert store.put(path, "a.whl", digest)
    assert (tmp_path / "relative" / "store" / "a.whl").exists()
    assert (tmp_path / "url with space" / "a.whl").exists()
    with pytest.raises(MachineError, match="needs a package") as caught:
        open_store("s3://bucket/folder")
    assert caught.value.hint == "pip install 'fsspec>=2024.6'"


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAKEY:wJalrXUtnFEMI@bucket/folder",
        "s3://AKIAKEY:wJal/rXUt/nFEMI@bucket/folder",
        "sftp://user:p%40ss-wJalrXUtnFEMI@host/srv",
        "sftp://user:p@ss-wJalrXUtnFEMI@host/srv",
        "file://user:wJalrXUtnFEMI@localhost/srv",
        "S3:/AKIAKEY:wJalrXUtnFEMI@bucket",
    ],
)
def test_a_url_with_a_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(RequestError) as caught:
        open_store(url)
    said = f"{caught.value.message} {caught.value.hint} {caught.value.details}"
    for part in ("wJal", "rXUt", "nFEMI", "AKIAKEY:"):
        assert part not in said


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("", "is not a store"),
        ("  ", "is not a store"),
        ("a\nb", "is not a store"),
        ("s3:/bucket/x", "neither a folder nor a URL"),
        ("s3://", "names no bucket"),
        ("file://relative/path", "names no absolute path"),
        ("file://host", "names no absolute path"),
        ("s3://bucket/x?sig=verysecret", "query or fragment"),
        ("s3://bucket/x#part", "query or fragment"),
        ("simplecache::s3://bucket", "neither a folder nor a URL|cannot be the URL|no kind of store"),
        ("zip://a::s3://bucket", "cannot be the URL"),
        ("s3://bucket/*", "cannot be the URL"),
        ("s3://bucket/../other", "cannot be the URL"),
        ("nothing://bucket", "no kind of store is called 'nothing'"),
    ],
)
def test_places_that_cannot_be_stores(place: str, says: str) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(RequestError, match=says) as caught:
        open_store(place)
    assert "verysecret" not in caught.value.message
    assert caught.value.hint


def test_a_place_that_cannot_be_written_in(tmp_path: Path, local: Any) -> None:
    pytest.importorskip("fsspec")
    path, digest = local()
    with pytest.raises(RequestError, match=r"has no place for this|cannot serve"):
        open_store(str(path)).put(path, "n/a.whl", digest)
    with pytest.raises(BuilderError):
        open_store("data://x").put(path, "n/a.whl", digest)


# What goes wrong, in words.


def _named(name: str, base: type[Exception] = Exception) -> Exception:
    return type(name, (base,), {"__module__": "elsewhere"})("said")


@pytest.mark.parametrize(
    ("error", "kind", "of"),
    [
        (OSError(errno.ENOSPC, "full"), TargetError, FailureKind.DISK),
        (OSError(errno.EDQUOT, "quota"), TargetError, FailureKind.DISK),
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), TargetError, FailureKind.NETWORK),
        (TimeoutError("slow"), TargetError, FailureKind.NETWORK),
        (OSError(errno.EBUSY, "SlowDown"), TargetError, FailureKind.NETWORK),
        (_named("ConnectionError"), TargetError, FailureKind.NETWORK),
        (_named("SSHException"), TargetError, FailureKind.NETWORK),
        (PermissionError("AccessDenied"), RequestError, None),
        (OSError(errno.EROFS, "read-only"), RequestError, None),
        (_named("NoCredentialsError"), RequestError, None),
        (FileNotFoundError("NoSuchBucket"), RequestError, None),
        (_named("ParamValidationError"), RequestError, None),
        (NotImplementedError(), RequestError, None),
        (ModuleNotFoundError("Install s3fs to access S3"), MachineError, None),
        (_named("SomethingElse"), MachineError, None),
    ],
)
def test_every_refusal_has_its_kind(error: Exception, kind: type[BuilderError], of: FailureKind | None) -> None:
    found = explain(error, "s3://bucket", "to put a.whl")
    assert type(found) is kind
    assert "s3://bucket" in found.message
    assert found.hint
    assert getattr(found, "kind", None) is of


def test_a_defect_is_not_put_down_to_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> int:
        raise KeyError("x")

    monkeypatch.setattr(store, "_size", broken)
    with pytest.raises(KeyError):
        store.size("a")


def test_messages_show_no_secrets(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv(
        "FSSPEC_S3", json.dumps({"client_kwargs": {"password": "deep-down"}, "endpoint_url": "http://h"})
    )
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=me;AccountKey=abcdef123456==")
    text = (
        "with wJalrXUtnFEMI/K7MDENG and deep-down and abcdef123456== at http://h and "
        "https://user:pa@ss@host/x and https://h/x?X-Amz-Signature=0a1b2c&X-Amz-Date=1&plain=yes&sig=9f9f"
    )

    def refuse(_: str) -> int:
        raise PermissionError(text)

    monkeypatch.setattr(store, "_size", refuse)
    with pytest.raises(RequestError) as caught:
        store.size("a")
    said = str(caught.value.details)
    for secret in ("wJalr", "deep-down", "abcdef123456", "pa@ss", "ss@host", "0a1b2c", "9f9f"):
        assert secret not in said
    assert "at http://h and" in said
    assert "plain=yes" in said
    # With --debug Python prints the chain of causes: the original must not be in it.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert redact("nothing to hide") == "nothing to hide"


# Folders in particular.


def test_without_hard_links_a_rename_serves(tmp_path: Path, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path / "store"))

    def unknown(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "link", unknown)
    path, digest = local()
    assert store.put(path, "a.whl", digest)
    store._upload(local("other", b"other")[0], ".upload")
    with pytest.raises(FileExistsError):
        store._publish(".upload", "a.whl", replace=False)
    assert store.read("a.whl") == b"wheel"


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module, "_settle", full)
    store = open_store(str(tmp_path / "store"))
    path, digest = local()
    with pytest.raises(TargetError, match="no space left in the store") as caught:
        store.put(path, "n/a.whl", digest)
    assert caught.value.kind is FailureKind.DISK
    assert everything(store) == []


def test_a_lock_that_is_held_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "LOCK_WAIT", 0.1)
    one, two = (open_store(str(tmp_path / "store")) for _ in range(2))
    with (
        one.locked("nightly"),
        pytest.raises(MachineError, match="another builder holds nightly"),
        two.locked("nightly"),
    ):
        pass
    with two.locked("nightly"):
        assert one.entries() == []


def test_a_vanishing_file_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    for name in ("a", "b"):
        store.write(name, b"x")
    scandir = os.scandir

    class Entries:
        def __init__(self, folder: Path) -> None:
            self.found = list(scandir(folder))

        def __enter__(self) -> Iterator[Any]:
            (tmp_path / "a").unlink(missing_ok=True)
            return iter(self.found)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Entries)
    assert [entry.name for entry in store.entries()] == ["b"]
