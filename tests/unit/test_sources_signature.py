"""A tree that nobody has touched is not read again; one that somebody has, however carefully, is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sources_support import facts_of_a_tree

from builder.sources import manifest, prepared_tree, signature
from builder.sources.manifest import Change
from builder.sources.prepared_tree import SEEN, PreparedTree, load_prepared, save

FILES = ("setup.py", "torch_npu/csrc/a.cpp", "torch_npu/csrc/b.cpp", "ci/build.sh")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedTree:
    """A prepared tree whose files are at rest for as long as counts here."""
    monkeypatch.setattr(signature, "REST", 20_000_000)
    place = tmp_path / "pytorch" / "target"
    for name in FILES:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"// {name}\n")
    (place / "empty").mkdir()
    (place / "link").symlink_to("setup.py")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet", "--initial-branch=line"], ["commit", "--quiet", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *command], cwd=place, check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=place, check=True, capture_output=True, text=True).stdout
    saved = save(place, facts_of_a_tree(head.strip()))
    time.sleep(0.1)
    return saved


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose files were read."""
    taken: list[Path] = []
    plain = manifest.take
    monkeypatch.setattr(prepared_tree.manifests, "take", lambda root: (taken.append(root), plain(root))[1])
    return taken


def test_a_tree_at_rest_is_read_once(tree: PreparedTree, readings: list[Path]) -> None:
    for _ in range(3):
        assert tree.changes(at_a_glance=True) == []
    assert readings == [tree.path]
    loaded = load_prepared(tree.path)
    assert loaded is not None
    assert loaded.changes(at_a_glance=True) == []
    assert readings == [tree.path], "another process need not read it either"
    assert tree.changes() == []
    assert len(readings) == 2, "whoever does not only look reads every file"


def _same_size_and_times(path: Path) -> None:
    before = path.stat()
    path.write_text(path.read_text().upper())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat()[:9] == before[:9]


def _replaced(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_text(path.read_text().upper())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def _through_another_name(path: Path) -> None:
    beside = path.parents[3] / "hard link"
    beside.hardlink_to(path)
    _same_size_and_times(beside)
    beside.unlink()


EDITS: dict[str, tuple[Callable[[Path], object], list[Change]]] = {
    "saved": (lambda root: (root / FILES[1]).write_text("edited"), [Change(FILES[1], "modified")]),
    "same size and times": (lambda root: _same_size_and_times(root / FILES[1]), [Change(FILES[1], "modified")]),
    "another file in its place": (lambda root: _replaced(root / FILES[1]), [Change(FILES[1], "modified")]),
    "by a hard link": (lambda root: _through_another_name(root / FILES[1]), [Change(FILES[1], "modified")]),
    "executable": (lambda root: (root / FILES[0]).chmod(0o755), [Change(FILES[0], "modified")]),
    "added": (lambda root: (root / "new").write_text(""), [Change("new", "added")]),
    "removed": (lambda root: (root / FILES[0]).unlink(), [Change(FILES[0], "removed")]),
    "renamed": (
        lambda root: (root / FILES[0]).rename(root / "other.py"),
        [Change("other.py", "added"), Change(FILES[0], "removed")],
    ),
    "empty folder": (lambda root: (root / "void").mkdir(), [Change("void", "added")]),
    "no empty folder": (lambda root: (root / "empty").rmdir(), [Change("empty", "removed")]),
    "link": (
        lambda root: ((root / "link").unlink(), (root / "link").symlink_to(FILES[3])),
        [Change("link", "modified")],
    ),
    "swapped": (
        lambda root: (
            (root / FILES[1]).rename(root / "third"),
            (root / FILES[2]).rename(root / FILES[1]),
            (root / "third").rename(root / FILES[2]),
        ),
        [Change(FILES[1], "modified"), Change(FILES[2], "modified")],
    ),
}


@pytest.mark.parametrize("how", EDITS)
def test_no_edit_goes_unseen(tree: PreparedTree, how: str) -> None:
    assert tree.changes(at_a_glance=True) == []
    assert (tree.path / ".git" / SEEN).is_file()
    edit, changes = EDITS[how]
    edit(tree.path)
    for _ in range(2):
        assert tree.changes(at_a_glance=True) == changes
    assert tree.changes() == changes


def test_a_commit_made_by_hand_is_seen(tree: PreparedTree) -> None:
    assert tree.changes(at_a_glance=True) == []
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", "y"]
    subprocess.run(command, cwd=tree.path, check=True)
    assert tree.changes(at_a_glance=True) == [Change(".git/HEAD", "modified")]


def test_an_edit_that_is_taken_back_is_no_change(tree: PreparedTree, readings: list[Path]) -> None:
    assert tree.changes(at_a_glance=True) == []
    file = tree.path / FILES[0]
    text = file.read_text()
    file.write_text("edited")
    assert tree.changes(at_a_glance=True) != []
    file.write_text(text)
    time.sleep(0.1)
    assert tree.changes(at_a_glance=True) == []
    assert len(readings) == 3
    assert tree.changes(at_a_glance=True) == []
    assert len(readings) == 3


def test_files_that_were_just_written_are_read_again(
    tree: PreparedTree, readings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signature, "REST", 3_600_000_000_000)
    for _ in range(2):
        assert tree.changes(at_a_glance=True) == []
    assert len(readings) == 2
    assert not (tree.path / ".git" / SEEN).exists()


def test_what_changes_during_the_reading_is_not_remembered(tree: PreparedTree, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = manifest.take

    def take_and_edit(root: Path) -> manifest.Manifest:
        taken = plain(root)
        (root / FILES[0]).write_text("// setup.PY\n")
        return taken

    with monkeypatch.context() as patched:
        patched.setattr(prepared_tree.manifests, "take", take_and_edit)
        assert tree.changes(at_a_glance=True) == []
    assert tree.changes(at_a_glance=True) == [Change(FILES[0], "modified")]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"signature": 1}', "\0\0\0", "[" * 60_000, " " * 100_000])
def test_a_damaged_memory_is_none(tree: PreparedTree, readings: list[Path], content: str) -> None:
    (tree.path / ".git" / SEEN).write_text(content)
    assert tree.changes(at_a_glance=True) == []
    assert len(readings) == 1
    assert json.loads((tree.path / ".git" / SEEN).read_text())["content"] == tree.digest


def test_a_memory_of_other_content_is_none(tree: PreparedTree, readings: list[Path]) -> None:
    memory = tree.path / ".git" / SEEN
    assert tree.changes(at_a_glance=True) == []
    memory.write_text(memory.read_text().replace(tree.digest, "0" * 64))
    assert tree.changes(at_a_glance=True) == []
    assert len(readings) == 2


def test_a_copy_of_a_tree_is_read(tree: PreparedTree, readings: list[Path]) -> None:
    assert tree.changes(at_a_glance=True) == []
    copy = tree.path.with_name("copy")
    shutil.copytree(tree.path, copy, symlinks=True)
    (copy / FILES[0]).write_text("// setup.PY\n")
    shutil.copystat(tree.path / FILES[0], copy / FILES[0])
    loaded = load_prepared(copy)
    assert loaded is not None
    assert loaded.changes(at_a_glance=True) == [Change(FILES[0], "modified")]
    assert readings[1:] == [copy]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_tree_that_may_not_be_written_is_read_each_time(tree: PreparedTree, readings: list[Path]) -> None:
    (tree.path / ".git").chmod(0o555)
    try:
        for _ in range(2):
            assert tree.changes(at_a_glance=True) == []
    finally:
        (tree.path / ".git").chmod(0o755)
    assert len(readings) == 2


def test_nothing_is_left_beside_the_memory(tree: PreparedTree) -> None:
    before = set(os.listdir(tree.path / ".git"))
    tree.changes(at_a_glance=True)
    assert set(os.listdir(tree.path / ".git")) == before | {SEEN}


def test_where_nothing_stands_nothing_is_made(tmp_path: Path) -> None:
    for number in range(3):
        assert load_prepared(tmp_path / "pytorch" / f"target-{number}") is None
    assert list(tmp_path.iterdir()) == []


def test_a_copy_for_a_build_knows_nothing_of_it(tree: PreparedTree, tmp_path: Path) -> None:
    assert tree.changes(at_a_glance=True) == []
    tree.copy_to(tmp_path / "compile" / "target")
    assert SEEN not in os.listdir(tmp_path / "compile" / "target" / ".git")
