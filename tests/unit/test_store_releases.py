"""Releases in a store: transactions, the latest pointer, waivers, writers at the same time, pruning."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_support import KINDS, everything, make_store

from builder.core.digests import sha256_of
from builder.core.errors import FailureKind, RequestError, TargetError
from builder.releases import Release, fill_command, latest, next_name, prune, read_manifest, releases, verify
from builder.releases import channel as channel_module
from builder.releases.manifest import order
from builder.store import Store, open_store
from builder.store.folder import FolderStore

A, B, C = "v2.5.1-7.1.0-py3.9-x86_64", "v2.5.1-7.1.0-py3.10-x86_64", "v2.5.1-7.1.0-py3.11-aarch64"


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    with make_store(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[Path]]:
    """Makes a target's wheel and record."""

    def make(target: str, content: str = "") -> list[Path]:
        wheel = tmp_path / "dist" / f"torch_npu-{target}.whl"
        wheel.parent.mkdir(exist_ok=True)
        wheel.write_text(f"wheel of {target} {content}")
        record = wheel.with_name(wheel.name + ".json")
        record.write_text(f"record of {target} {content}")
        return [wheel, record]

    return make


def begin(store: Store, name: str = "2026-11-21", *, required: tuple[str, ...] = (A, B)) -> Release:
    release = Release(store, "nightly", name)
    release.expect(required)
    release.expect([C], required=False)
    return release


def test_a_complete_release_becomes_the_latest(store: Store, files: Any) -> None:
    release = begin(store)
    for target in (A, B, C):
        release.add(target, files(target), fingerprint="f" * 64, status="skipped" if target == C else "built")
    assert latest(store, "nightly") is None
    assert releases(store, "nightly")[0].manifest is None  # the manifest is written last
    manifest = release.commit()
    assert manifest.complete
    assert manifest.holes == []
    assert latest(store, "nightly") == read_manifest(store, "nightly", "2026-11-21") == manifest
    written = json.loads(store.read("nightly/2026-11-21/manifest.json") or b"")
    assert {key: written[key] for key in ("schema", "release", "channel", "complete", "waived")} == {
        "schema": 1, "release": "2026-11-21", "channel": "nightly", "complete": True, "waived": {},
    }  # fmt: skip
    wheel, record = files(A)
    listed = [{"name": file.name, "sha256": sha256_of(file), "size": file.stat().st_size} for file in (wheel, record)]
    (entry,) = (entry for entry in written["expected"] if entry["target"] == A)
    assert entry == {
        "target": A, "required": True, "status": "built", "wheel": wheel.name, "sha256": sha256_of(wheel),
        "size": wheel.stat().st_size, "fingerprint": "f" * 64, "reason": "", "command": fill_command(A),
        "files": listed,
    }  # fmt: skip
    assert [entry["status"] for entry in written["expected"] if entry["target"] == C] == ["skipped"]
    pointer = json.loads(store.read("nightly/latest.json") or b"")
    assert pointer == {
        "schema": 1, "release": "2026-11-21", "manifest": "nightly/2026-11-21/manifest.json",
        "sha256": store.digest("nightly/2026-11-21/manifest.json"),
    }  # fmt: skip
    assert verify(store, manifest) == []
    if isinstance(store, FolderStore):
        assert os.readlink(store.root / "nightly" / "latest") == "2026-11-21"


def test_a_hole_in_what_is_required_keeps_latest_where_it_is(store: Store, files: Any) -> None:
    whole = begin(store, "2026-11-20")
    for target in (A, B):
        whole.add(target, files(target))
    whole.commit()
    release = begin(store)
    release.add(A, files(A))
    release.fail(B, "compile: first error", command="python -m builder --target b --jobs 1")
    manifest = release.commit()
    assert not manifest.complete
    assert not manifest.green
    assert [(hole.target, hole.status, hole.reason, hole.command) for hole in manifest.holes] == [
        (B, "failed", "compile: first error", "python -m builder --target b --jobs 1"),
        (C, "missing", "nothing was reported of it", fill_command(C)),
    ]
    pointed = latest(store, "nightly")
    assert pointed is not None
    assert pointed.release == "2026-11-20"


def test_holes_in_what_is_not_required_let_latest_move(store: Store, files: Any) -> None:
    release = begin(store)
    for target in (A, B):
        release.add(target, files(target))
    manifest = release.commit()
    assert (manifest.complete, manifest.green) == (False, True)
    assert latest(store, "nightly") == manifest


def test_a_release_of_nothing_is_not_green(store: Store) -> None:
    release = Release(store, "nightly", "2026-11-21")
    with pytest.raises(RequestError, match="expects no target"):
        release.commit()
    release.expect([A], required=False)
    assert not release.commit().green
    release.expect([A])
    release.waive(A, "nobody needs it")
    assert not release.commit().green
    assert latest(store, "nightly") is None


def test_a_waiver_names_the_hole_and_why(store: Store, files: Any) -> None:
    release = begin(store)
    release.add(A, files(A))
    release.fail(B, "no wheel of torch")
    assert latest(store, "nightly") is None
    for reason in ("", "  "):
        with pytest.raises(RequestError, match="needs its reason"):
            release.waive(B, reason)
        with pytest.raises(RequestError, match="needs its reason"):
            release.fail(B, reason)
    release.waive(B, "torch comes next week")
    manifest = release.commit()
    assert manifest.waived == {B: "torch comes next week"}
    assert (manifest.complete, manifest.green) == (False, True)
    hole = manifest.of(B)
    assert hole is not None
    assert (hole.status, hole.required) == ("waived", True)
    assert hole.reason == "torch comes next week (failed: no wheel of torch)"
    assert hole.command == fill_command(B)
    assert latest(store, "nightly") == manifest
    # Filled in, it needs no waiver.
    release.add(B, files(B))
    manifest = release.commit()
    assert manifest.waived == {}
    assert latest(store, "nightly") == manifest


def test_a_later_run_fills_the_hole(store: Store, files: Any) -> None:
    release = begin(store)
    release.add(A, files(A))
    release.fail(B, "network")
    created = release.commit().created
    later = Release(store, "nightly", "2026-11-21")
    assert [hole.target for hole in later.manifest().blocking] == [B]
    entry = later.add(B, files(B), fingerprint="e" * 64)
    assert (entry.status, entry.fingerprint) == ("built", "e" * 64)
    manifest = later.commit()
    assert manifest.created == created
    assert manifest.blocking == []
    assert latest(store, "nightly") == manifest


def test_what_was_added_survives_the_death_of_the_builder(store: Store, files: Any) -> None:
    """No commit: the process ended after the first target."""
    begin(store).add(A, files(A))
    later = begin(store)
    assert [hole.target for hole in later.manifest().holes] == [B, C]
    later.add(B, files(B))
    assert later.commit().green


def test_a_dead_builders_unreported_wheel_may_be_replaced(store: Store, files: Any) -> None:
    """It died between the wheel and the journal, and the next build has other bytes."""
    release = begin(store)
    wheel = files(A, "of the dead")[0]
    store.put(wheel, f"nightly/2026-11-21/{wheel.name}", sha256_of(wheel))
    release.add(A, files(A, "of the living"))
    assert verify(store, release.manifest()) == []


def test_a_release_keeps_what_it_holds(store: Store, files: Any) -> None:
    release = begin(store)
    release.add(A, files(A))
    entry = release.manifest().of(A)
    release.fail(A, "a second attempt failed")
    assert release.manifest().of(A) == entry
    assert release.add(A, files(A), fingerprint="other") == entry
    with pytest.raises(TargetError, match="already holds other files") as caught:
        release.add(A, files(A, "changed"))
    assert caught.value.kind is FailureKind.VERIFY
    assert verify(store, release.manifest()) == []
    # Nor may another target take the name of its wheel.
    stranger = files(A, "of another target")
    with pytest.raises(TargetError, match="already holds another content"):
        release.add(B, stranger)
    other_writer = Release(store, "nightly", "2026-11-21")
    other_writer.fail(A, "a third attempt failed")
    assert other_writer.manifest().of(A) == entry


def test_of_two_wheels_for_one_target_the_first_counts(
    store: Store, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writers, neither of which knows of the other's wheel; whichever journal is read first."""
    release = begin(store)
    one, two = Release(store, "nightly", "2026-11-21"), Release(store, "nightly", "2026-11-21")
    before = release.manifest()
    for writer, name in ((two, "first"), (one, "second")):
        wheel = files(A)[0].with_name(f"{name}.whl")
        wheel.write_text(name)
        monkeypatch.setattr(writer, "manifest", lambda: before)
        writer.add(A, [wheel])
    for _ in range(2):
        entry = release.manifest().of(A)
        assert entry is not None
        assert entry.wheel == "first.whl"
        # Now the other journal comes first.
        one._journal.started, two._journal.started = two._journal.started, one._journal.started
        one._save()
        two._save()


def test_wrong_targets_and_files(store: Store, files: Any, tmp_path: Path) -> None:
    release = begin(store)
    wheel, record = files(A)
    for call in (
        lambda: release.add("v9.9.9-py3.9-x86_64", [wheel]),
        lambda: release.fail("v9.9.9-py3.9-x86_64", "why"),
        lambda: release.waive("v9.9.9-py3.9-x86_64", "why"),
    ):
        with pytest.raises(RequestError, match="is not a target of the release"):
            call()
    for wrong in ([], [record], [wheel, files(B)[0]]):
        with pytest.raises(RequestError, match="needs one wheel"):
            release.add(A, wrong)
    with pytest.raises(RequestError, match="cannot be called 'latest'"):
        Release(store, "nightly", "latest")
    with pytest.raises(TargetError, match="did not arrive whole"):
        release.add(A, [wheel], sha256="0" * 64)
    assert [entry.status for entry in release.manifest().expected] == ["missing"] * 3


@pytest.mark.parametrize("how", ["gone", "shorter", "other"])
def test_latest_does_not_move_to_lost_or_damaged_files(store: Store, files: Any, how: str) -> None:
    release = begin(store)
    release.add(A, files(A))
    name = f"nightly/2026-11-21/{files(A)[0].name}"
    content = store.read(name) or b""
    if how == "gone":
        store.remove(name)
    else:
        store.write(name, content[:-1] if how == "shorter" else b"W" + content[1:])
    later = Release(store, "nightly", "2026-11-21")
    later.add(B, files(B))
    with pytest.raises(TargetError, match="latest was not moved") as caught:
        later.commit()
    assert A in str(caught.value.details)
    assert latest(store, "nightly") is None
    # Adding it again puts it right.
    later.add(A, files(A))
    assert latest(store, "nightly") is None
    assert later.commit() == latest(store, "nightly")
    assert store.read(name) == content


def test_latest_never_moves_back(store: Store, files: Any) -> None:
    old = begin(store, "2026-11-20", required=(A,))
    old.commit()
    new = begin(store, "2026-11-21", required=(A,))
    new.add(A, files(A))
    new.commit()
    old.add(A, files(A))
    assert old.commit().green
    pointed = latest(store, "nightly")
    assert pointed is not None
    assert pointed.release == "2026-11-21"


def test_latest_does_not_fall_back_to_an_older_release(store: Store, files: Any) -> None:
    for name in ("2026-11-20", "2026-11-21"):
        release = begin(store, name, required=(A,))
        release.add(A, files(A))
        release.commit()
    store.remove(f"nightly/2026-11-21/{files(A)[0].name}")
    later = Release(store, "nightly", "2026-11-21")
    later.add(C, files(C))
    before = store.read("nightly/latest.json")
    with pytest.raises(TargetError, match="latest was not moved"):
        later.commit()
    assert store.read("nightly/latest.json") == before


def test_latest_follows_its_release_when_that_is_filled(store: Store, files: Any) -> None:
    release = begin(store)
    for target in (A, B):
        release.add(target, files(target))
    release.commit()
    release.add(C, files(C))
    assert latest(store, "nightly") != release.manifest()
    assert release.commit() == latest(store, "nightly")


def test_a_writer_that_died_before_the_pointer_is_put_right(store: Store, files: Any) -> None:
    release = begin(store)
    for target in (A, B):
        release.add(target, files(target))
    release.commit()
    release.add(C, files(C))
    release._write_manifest()
    with pytest.raises(TargetError, match="is not the one that latest"):
        latest(store, "nightly", patience=0.1)
    again = Release(store, "nightly", "2026-11-21").commit()
    assert latest(store, "nightly") == again


def test_a_published_release_requires_nothing_new(store: Store, files: Any) -> None:
    release = begin(store, required=(A,))
    release.add(A, files(A))
    release.commit()
    with pytest.raises(RequestError, match=f"can no longer require {B}"):
        release.expect([A, B])
    release.expect([A, B], required=False)
    assert release.commit() == latest(store, "nightly")
    required = {entry.target for entry in release.manifest().expected if entry.required}
    assert required == {A}


def test_required_anywhere_is_required(store: Store) -> None:
    release = Release(store, "nightly", "1")
    release.expect([A], required=False)
    Release(store, "nightly", "1").expect([A], commands={A: "make it"})
    Release(store, "nightly", "1").expect([A], required=False)
    (entry,) = release.manifest().expected
    assert entry.required


def test_writers_without_a_lock_lose_nothing(tmp_path: Path, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight writers fill one release at once; whichever writes last, all targets are in the manifest."""
    pytest.importorskip("fsspec")
    monkeypatch.setattr(channel_module, "ROUNDS", 200)
    monkeypatch.setattr("builder.releases.release.ROUNDS", 200)
    url = f"memory://{tmp_path.name}/many"
    targets = [f"t{number}" for number in range(8)]
    prepared = {target: files(target) for target in targets}
    Release(open_store(url), "nightly", "1").expect(targets)
    barrier = threading.Barrier(len(targets))
    problems: list[BaseException] = []

    def fill(target: str) -> None:
        try:
            release = Release(open_store(url), "nightly", "1")
            barrier.wait()
            release.add(target, prepared[target])
            release.commit()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=fill, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    store = open_store(url)
    manifest = read_manifest(store, "nightly", "1")
    assert manifest.complete
    assert latest(store, "nightly") == manifest


def test_two_writers_one_after_the_others_reading(store: Store, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow writer has read, the fast one reads and writes, then the slow one writes what it knew."""
    slow = begin(store)
    slow.add(A, files(A))
    fast = Release(store, "nightly", "2026-11-21")
    honest = store.write
    overtaken = []

    def write(name: str, data: bytes) -> None:
        if name.endswith("manifest.json") and not overtaken:
            overtaken.append(name)
            fast.add(B, files(B))
            fast._write_manifest()
        honest(name, data)

    monkeypatch.setattr(store, "write", write)
    slow._write_manifest()
    assert overtaken
    assert [entry.there for entry in read_manifest(store, "nightly", "2026-11-21").expected] == [
        entry.target != C for entry in slow.manifest().expected
    ]


def test_two_pointers_one_after_the_others_reading(store: Store, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the old release is about to be the latest, a newer one becomes it."""
    old, new = begin(store, "2026-11-20", required=(A,)), begin(store, "2026-11-21", required=(A,))
    for release in (old, new):
        release.add(A, files(A))
    honest = store.write
    overtaken = []

    def write(name: str, data: bytes) -> None:
        if name.endswith("latest.json") and not overtaken:
            overtaken.append(name)
            new._write_manifest()
            channel_module.move_latest(store, "nightly")
        honest(name, data)

    monkeypatch.setattr(store, "write", write)
    old.commit()
    assert overtaken
    pointed = latest(store, "nightly")
    assert pointed is not None
    assert pointed.release == "2026-11-21"


_TARGET = {"target": A, "required": True, "status": "missing", "command": "x"}
_WHOLE = {"schema": 1, "release": "2026-11-21", "channel": "nightly", "created": "", "complete": True, "expected": []}


def _manifest(**changes: Any) -> bytes:
    return json.dumps({**_WHOLE, **changes}).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "cannot be read"),
        (b"[]", "no schema 1"),
        (b'{"schema": 2}', "schema 2, this builder knows 1"),
        (b'{"schema": 1, "release": "2026-11-21"}', "cannot be read: channel"),
        (b"\xff\xfe", "cannot be read"),
        (_manifest(expected=[{**_TARGET, "wheel": "../../x.whl"}]), "wheel: .*cannot be a name"),
        (_manifest(expected=[{**_TARGET, "target": "../x"}]), "target: .*cannot be a name"),
        (_manifest(expected=[{**_TARGET, "status": "fine"}]), "status"),
        (_manifest(release="1"), "is that of nightly/1"),
    ],
)
def test_a_manifest_that_is_not_ours(store: Store, files: Any, content: bytes, says: str) -> None:
    store.write("nightly/2026-11-21/manifest.json", content)
    with pytest.raises(RequestError, match=says):
        read_manifest(store, "nightly", "2026-11-21")
    # It is no obstacle to others, and nothing that may be removed.
    release = begin(store, "2026-11-20", required=(A,))
    release.add(A, files(A))
    assert release.commit() == latest(store, "nightly")
    assert list(prune(store, "nightly", 1).left) == ["2026-11-21"]
    assert store.read("nightly/2026-11-21/manifest.json") == content


def test_a_newer_builders_latest_is_not_overtaken(store: Store, files: Any) -> None:
    release = begin(store, "2026-11-20", required=(A,))
    release.add(A, files(A))
    release.commit()
    pointer = json.loads(store.read("nightly/latest.json") or b"")
    newer = json.dumps({**pointer, "release": "2026-11-21"}).encode()
    store.write("nightly/latest.json", newer)
    store.write("nightly/2026-11-21/manifest.json", b'{"schema": 2}')
    release.commit()
    assert store.read("nightly/latest.json") == newer
    store.remove("nightly/2026-11-21/manifest.json")
    assert release.commit() == latest(store, "nightly")


def test_missing_releases_and_channels(store: Store) -> None:
    assert latest(store, "nightly") is None
    assert releases(store, "nightly") == []
    with pytest.raises(RequestError, match="there is no nightly/1/manifest"):
        read_manifest(store, "nightly", "1")
    assert prune(store, "nightly", 1).removed == []


# Pruning.


def make_releases(store: Store, files: Any, *names: str) -> None:
    for name in names:
        release = begin(store, name, required=(A,))
        release.add(A, files(A))
        release.commit()


def test_prune_keeps_the_newest(store: Store, files: Any) -> None:
    names = ["2026-11-09", "2026-11-10", "2026-11-10.2", "2026-11-10.10", "2026-12-01"]
    make_releases(store, files, *reversed(names))
    assert [found.name for found in releases(store, "nightly")] == names[::-1]
    done = prune(store, "nightly", 2)
    assert done.kept == ["2026-12-01", "2026-11-10.10"]
    assert sorted(done.removed) == names[:3]
    assert done.left == {}
    assert [entry.name for entry in store.entries("nightly") if entry.folder] == ["2026-11-10.10", "2026-12-01"]
    for name in done.kept:
        assert verify(store, read_manifest(store, "nightly", name)) == []
    assert prune(store, "nightly", 2).removed == []


def test_prune_keeps_what_latest_points_to(store: Store, files: Any) -> None:
    make_releases(store, files, "2026-11-18", "2026-11-19")
    for name in ("2026-11-20", "2026-11-21"):
        begin(store, name).commit()
    done = prune(store, "nightly", 1)
    assert done.kept == ["2026-11-21", "2026-11-19"]
    assert sorted(done.removed) == ["2026-11-18", "2026-11-20"]
    pointed = latest(store, "nightly")
    assert pointed is not None
    assert pointed.release == "2026-11-19"


@pytest.mark.parametrize("keep", [0, -1])
def test_prune_never_removes_all(store: Store, files: Any, keep: int) -> None:
    make_releases(store, files, "1", "2")
    before = everything(store)
    with pytest.raises(RequestError, match="would remove them all"):
        prune(store, "nightly", keep)
    assert everything(store) == before


def test_prune_leaves_what_is_not_a_release(store: Store, files: Any) -> None:
    make_releases(store, files, "2026-11-20", "2026-11-21")
    store.write("nightly/notes/readme.txt", b"a person's")
    store.write("nightly/readme.txt", b"a person's")
    store.write("other/2026-01-01/readme.txt", b"another channel")
    begin(store, "2026-01-01").add(A, files(A))  # being made, not committed
    done = prune(store, "nightly", 1)
    assert done.removed == ["2026-11-20"]
    assert set(done.left) == {"notes", "2026-01-01"}
    assert all("no manifest" in reason for reason in done.left.values())
    for name in ("nightly/notes/readme.txt", "nightly/readme.txt", "other/2026-01-01/readme.txt"):
        assert store.read(name)
    assert Release(store, "nightly", "2026-01-01").manifest().of(A).there  # type: ignore[union-attr]


def test_a_removal_cut_short_is_finished_later(store: Store, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_releases(store, files, "2026-11-20", "2026-11-21")
    honest = store._remove_folder

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_remove_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(store, "nightly", 1)
    left = everything(store, "nightly/2026-11-20")
    assert "nightly/2026-11-20/pruned.json" in left
    assert "nightly/2026-11-20/manifest.json" not in left
    assert len(left) > 2
    monkeypatch.setattr(store, "_remove_folder", honest)
    assert [found.name for found in releases(store, "nightly") if found.manifest] == ["2026-11-21"]
    with pytest.raises(RequestError, match="is being removed"):
        Release(store, "nightly", "2026-11-20")
    # It was to go: keeping more from now on does not bring it back.
    done = prune(store, "nightly", 5)
    assert (done.removed, done.kept) == (["2026-11-20"], ["2026-11-21"])
    assert everything(store, "nightly/2026-11-20") == []


def test_a_tombstone_of_another_place_removes_nothing(store: Store) -> None:
    for name, content in {
        "moved": {"schema": 1, "channel": "nightly", "release": "elsewhere", "pruned": ""},
        "newer": {"schema": 2},
        "odd": {"pruned": True},
    }.items():
        store.write(f"nightly/{name}/pruned.json", json.dumps(content).encode())
        store.write(f"nightly/{name}/kept", b"x")
    assert set(prune(store, "nightly", 1).left) == {"moved", "newer", "odd"}
    assert len(everything(store)) == 6


def test_prune_stops_at_a_pointer_it_cannot_read(store: Store, files: Any) -> None:
    make_releases(store, files, "1", "2")
    store.write("nightly/latest.json", b"{")
    before = everything(store)
    with pytest.raises(RequestError, match=r"latest\.json .* cannot be read"):
        prune(store, "nightly", 1)
    assert everything(store) == before


def test_a_link_among_the_releases_is_not_followed(tmp_path: Path, files: Any) -> None:
    store = open_store(str(tmp_path / "store"))
    make_releases(store, files, "2026-11-20", "2026-11-21")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "store" / "nightly" / "2026-11-20", elsewhere)
    (tmp_path / "store" / "nightly" / "2026-11-19").symlink_to(elsewhere)
    assert prune(store, "nightly", 1).removed == ["2026-11-20"]
    assert (elsewhere / "manifest.json").exists()


def test_names_in_order_and_free_ones(store: Store) -> None:
    names = ["rc1", "2026-11-21.10", "2026-11-21", "2026-11-21.2", "2026-11-22"]
    created = {"rc1": "2026-11-21T23:00:00Z"}
    assert sorted(names, key=lambda name: order(name, created.get(name, "2030"))) == [
        "2026-11-21", "2026-11-21.2", "2026-11-21.10", "rc1", "2026-11-22",
    ]  # fmt: skip
    assert next_name(store, "nightly", "2026-11-21") == "2026-11-21"
    for expected in ("2026-11-21.2", "2026-11-21.3"):
        begin(store, next_name(store, "nightly", "2026-11-21"))
        assert next_name(store, "nightly", "2026-11-21") == expected
