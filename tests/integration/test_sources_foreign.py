"""Repositories that are not the builder's: nothing that their settings name runs, and what they hold is found out."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from pathlib import Path

import pytest
from mirrors_support import Upstream, opened, said
from rich.console import Console
from sources_support import facts_of_a_tree

from builder.core.errors import TargetError
from builder.progress.reporter import Reporter
from builder.sources.mirrors import Mirrors, Repository
from builder.sources.overlay import OverlaySource
from builder.sources.prepared_tree import PreparedTree, repository_at, save

SCRIPT = "cp -rf ${CODE_ROOT_PATH}/op_plugin ${PYTORCH_THIRD_PATH}/\n"


class Clone(Upstream):
    """An op-plugin folder of somebody else, whose settings name a program wherever git takes one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        (path / "ci").mkdir()
        (path / "op_plugin").mkdir()
        self.commit(**{"ci/build.sh": SCRIPT, "op_plugin/a.cpp": "one\ntwo\n", ".gitignore": "*.o\n"})

    def booby_trap(self) -> Path:
        """Returns the file that stands when one of the programs has run."""
        sprung = self.path.parent / "sprung"
        trap = self.path.parent / "trap"
        trap.write_text(f'#!/bin/sh\necho "$0 $@" >> {sprung}\nexit 1\n')
        trap.chmod(0o755)
        hooks = self.path.parent / "hooks"
        hooks.mkdir()
        for name in ("post-index-change", "reference-transaction", "post-checkout", "fsmonitor-watchman"):
            (hooks / name).symlink_to(trap)
        included = self.path.parent / "included"
        included.write_text(f'[filter "y"]\n\tclean = {trap}\n\trequired\n')
        for key, value in {
            "core.fsmonitor": trap, "core.hooksPath": hooks, "core.sshCommand": trap, "core.alternateRefsCommand": trap,
            "core.gitProxy": trap, "diff.external": trap, "diff.x.command": trap, "diff.x.textconv": trap,
            "filter.x.clean": trap, "filter.x.smudge": trap, "filter.x.process": trap, "filter.x.required": "true",
            "include.path": included, "uploadpack.packObjectsHook": trap, "credential.helper": trap,
            "remote.origin.url": f"file://{self.path}", "remote.origin.uploadpack": trap,
            "remote.origin.promisor": "true", "extensions.partialClone": "origin",
            "core.repositoryFormatVersion": "1",
        }.items():  # fmt: skip
            self.git("config", key, str(value))
        (self.path / ".gitattributes").write_text("*.cpp filter=x diff=x\n*.sh filter=y\n")
        return sprung

    def spring(self) -> None:
        """Let plain git ask about the folder, which must spring the trap: else the trap is none."""
        subprocess.run(["git", "status"], cwd=self.path, check=False, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "theirs")


def lost(clone: Clone) -> str:
    """Take an object away that git would fetch from the promisor remote; returns the commit."""
    commit = clone.git("rev-parse", "HEAD")
    blob = clone.git("rev-parse", "HEAD:op_plugin/a.cpp")
    (clone.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    return commit


def test_nothing_of_an_op_plugin_folder_runs(clone: Clone) -> None:
    sprung = clone.booby_trap()
    # Touched, so that git has to ask the filter.
    (clone.path / "op_plugin" / "a.cpp").write_text("edited\n")
    (clone.path / "ci" / "build.sh").write_text(SCRIPT)
    source = OverlaySource.local(clone.path)
    assert not sprung.exists(), sprung.read_text()
    assert (source.commit, source.dirty) == (clone.git("rev-parse", "HEAD"), True)
    clone.spring()
    assert sprung.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_nothing_of_another_users_op_plugin_folder_runs(clone: Clone) -> None:
    sprung = clone.booby_trap()
    (clone.path / "op_plugin" / "a.cpp").write_text("edited\n")
    commit = clone.git("-c", "core.fsmonitor=false", "rev-parse", "HEAD")
    for path in (clone.path, *clone.path.rglob("*")):
        os.lchown(path, 12345, 12345)
    assert OverlaySource.local(clone.path).commit == commit
    assert not sprung.exists(), sprung.read_text()


def test_nothing_of_a_submodule_runs(tmp_path: Path, clone: Clone) -> None:
    outer = Clone(tmp_path / "outer")
    outer.git("submodule", "--quiet", "add", str(clone.path), "op_plugin/sub")
    outer.commit()
    inner = outer.path / "op_plugin" / "sub"
    assert OverlaySource.local(outer.path).dirty is False
    sprung = clone.booby_trap()
    theirs = (clone.path / ".git" / "config").read_text()
    with open(outer.path / ".git" / "modules" / "op_plugin" / "sub" / "config", "a") as config:
        config.write(theirs[theirs.index("fsmonitor") - 1 :].join(["[core]\n", ""]))
    (inner / "op_plugin" / "a.cpp").write_text("edited\n")
    source = OverlaySource.local(outer.path)
    assert not sprung.exists(), sprung.read_text()
    assert "1 edited (op_plugin/sub/op_plugin/a.cpp)" in source.note
    outer.spring()
    assert sprung.exists()


@pytest.mark.parametrize("url", ["{}", "file://{}", "{}/.git"])
def test_nothing_of_a_repository_that_is_fetched_from_runs(tmp_path: Path, clone: Clone, url: str) -> None:
    commit = clone.git("rev-parse", "HEAD")
    sprung = clone.booby_trap()
    mirror = opened(tmp_path, url.format(clone.path))
    assert mirror.branch("main") == commit
    assert mirror.read(commit, "op_plugin/a.cpp") == b"one\ntwo\n"
    assert not sprung.exists(), sprung.read_text()


def test_no_object_is_fetched_by_the_programs_of_a_partial_clone(tmp_path: Path, clone: Clone) -> None:
    commit = lost(clone)
    sprung = clone.booby_trap()
    mirror = opened(tmp_path, clone.path, retries=0)
    with pytest.raises(TargetError, match="could not be fetched") as caught:
        mirror.commit(commit)
    assert OverlaySource.local(clone.path).commit == commit
    assert not sprung.exists(), sprung.read_text()
    assert "lacks objects of its own history" in (caught.value.details or "")


def test_nothing_of_a_tree_that_a_person_works_in_runs(tmp_path: Path, clone: Clone) -> None:
    commit = clone.git("rev-parse", "HEAD")
    mirror = Mirrors(tmp_path / "w" / "mirrors", Reporter(Console(file=io.StringIO()))).open(
        Repository("x", (str(clone.path),))
    )
    mirror.commit(commit)
    tree = tmp_path / "w" / "pytorch" / "target"
    tree.mkdir(parents=True)
    repository_at(tree, objects=mirror.path / "objects", branch="v1", commit=commit, shallow=mirror.path / "shallow")
    prepared = save(tree, facts_of_a_tree(commit).model_copy(update={"head": "refs/heads/v1"}))
    sprung = clone.booby_trap()
    (tree / ".git" / "config").write_text((clone.path / ".git" / "config").read_text())
    assert prepared.changes() == []
    prepared.copy_to(tmp_path / "w" / "compile" / "target")
    (tree / ".git" / "HEAD").write_text(f"{commit}\n")
    assert [change.path for change in PreparedTree(tree, prepared.record, prepared.manifest).changes()] == [".git/HEAD"]
    assert not sprung.exists(), sprung.read_text()


# -- what counts as an edit ------------------------------------------------------------------------------------


def test_an_unchanged_clone_is_clean_and_needs_no_word(clone: Clone) -> None:
    (clone.path / "op_plugin" / "a.o").write_text("ignored")
    (clone.path / ".git" / "info" / "exclude").write_text("notes\n")
    (clone.path / "notes").write_text("ignored by this clone alone")
    # As another checkout or a copy leaves it: other times, the same bytes.
    os.utime(clone.path / "op_plugin" / "a.cpp", (1, 1))
    source = OverlaySource.local(clone.path)
    assert (source.commit, source.dirty, source.note) == (clone.git("rev-parse", "HEAD"), False, "")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda root: (root / "op_plugin/a.cpp").write_text("x"), "1 edited (op_plugin/a.cpp)"),
        (lambda root: (root / "op_plugin/a.cpp").chmod(0o755), "1 edited (op_plugin/a.cpp)"),
        (lambda root: (root / "op_plugin/a.cpp").unlink(), "1 missing (op_plugin/a.cpp)"),
        (lambda root: (root / "new.cpp").write_text("x"), "1 new (new.cpp)"),
        (
            lambda root: (root / "op_plugin/a.cpp").write_bytes(b"one\r\ntwo\r\n"),
            "1 with other line endings (op_plugin/a.cpp)",
        ),
    ],
)
def test_edits_are_told_by_kind(clone: Clone, change: object, note: str) -> None:
    assert callable(change)
    change(clone.path)
    source = OverlaySource.local(clone.path)
    commit = clone.git("rev-parse", "HEAD")
    assert source.dirty is True
    assert source.note == (
        f"op-plugin in {clone.path} is taken as it is; its files are not those of commit {commit[:12]}: {note}"
    )


def test_what_git_lfs_put_there_is_told_from_an_edit(clone: Clone) -> None:
    data = b"\0large\n"
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(data).hexdigest()}\nsize 7\n"
    clone.commit(**{"op_plugin/a.bin": pointer})
    (clone.path / "op_plugin" / "a.bin").write_bytes(data)
    assert "1 in place of a pointer of Git LFS (op_plugin/a.bin)" in OverlaySource.local(clone.path).note


def test_an_edit_that_replaces_a_folder_by_a_link_is_seen(clone: Clone, tmp_path: Path) -> None:
    (clone.path / "op_plugin").rename(clone.path / "elsewhere")
    (clone.path / "op_plugin").symlink_to("elsewhere")
    note = OverlaySource.local(clone.path).note
    assert "1 missing (op_plugin/a.cpp)" in note
    assert "2 new (elsewhere/a.cpp, op_plugin)" in note


def test_replaced_and_grafted_objects_have_no_say(clone: Clone, tmp_path: Path) -> None:
    first = clone.git("rev-parse", "HEAD")
    (clone.path / "op_plugin" / "a.cpp").write_text("edited")
    second = clone.commit()
    clone.git("replace", first, second)
    clone.git("reset", "--quiet", "--soft", first)
    (clone.path / ".git" / "info" / "grafts").write_text(f"{second}\n")
    source = OverlaySource.local(clone.path)
    assert (source.commit, source.dirty) == (first, True)
    clone.git("branch", "second", second)
    mirror = opened(tmp_path, clone.path)
    assert mirror.describe(first, mirror.branch("second")) == 1


# -- repositories of other shapes ------------------------------------------------------------------------------


def test_linked_work_trees_are_clones_too(clone: Clone, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    clone.git("worktree", "add", "--quiet", "-b", "mine", str(linked))
    assert (linked / ".git").is_file()
    commit = clone.git("rev-parse", "HEAD")
    source = OverlaySource.local(linked)
    assert (source.commit, source.dirty) == (commit, False)
    assert opened(tmp_path, linked).branch("mine") == commit


def test_packed_refs_and_shallow_clones(clone: Clone, tmp_path: Path) -> None:
    clone.commit()
    clone.git("pack-refs", "--all")
    shallow = tmp_path / "shallow"
    clone.git("clone", "--quiet", "--depth=1", f"file://{clone.path}", str(shallow))
    commit = clone.git("rev-parse", "HEAD")
    for place in (clone.path, shallow):
        source = OverlaySource.local(place)
        assert (source.commit, source.dirty) == (commit, False)
        assert opened(tmp_path / place.name, place).branch("main") == commit


def test_a_clone_that_borrows_from_another_of_the_same_owner(clone: Clone, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    clone.git("clone", "--quiet", "--shared", str(clone.path), str(shared))
    assert OverlaySource.local(shared).dirty is False
    assert opened(tmp_path, shared).branch("main") == clone.git("rev-parse", "HEAD")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_another_users_clone_cannot_lend_what_is_not_its_owners(clone: Clone, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    clone.git("clone", "--quiet", "--shared", str(clone.path), str(shared))
    for path in (shared, *shared.rglob("*")):
        os.lchown(path, 12345, 12345)
    with pytest.raises(TargetError, match="could not be fetched"):
        opened(tmp_path, shared, retries=0).branch("main")
    source = OverlaySource.local(shared)
    assert (source.commit, source.dirty) == (clone.git("rev-parse", "HEAD"), True)
    assert "could not be compared with a commit" in source.note


def test_a_repository_with_ids_of_sha256(tmp_path: Path) -> None:
    root = tmp_path / "long"
    (root / "ci").mkdir(parents=True)
    (root / "op_plugin").mkdir()
    (root / "ci" / "build.sh").write_text(SCRIPT)
    (root / "op_plugin" / "a.cpp").write_text("a")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for argv in (["init", "--quiet", "--object-format=sha256"], ["add", "--all"], ["commit", "--quiet", "-m", "x"]):
        subprocess.run([*git, *argv], cwd=root, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True).stdout
    source = OverlaySource.local(root)
    assert (source.commit, source.dirty) == (commit.strip(), False)


@pytest.mark.parametrize(
    ("damage", "trouble"),
    [
        (lambda git: (git / "HEAD").write_text("nonsense\n"), "its HEAD cannot be read"),
        (lambda git: ((git / "HEAD").unlink(), os.mkfifo(git / "HEAD")), "its HEAD cannot be read"),
        (lambda git: (git / "HEAD").write_text("ref: refs/heads/unborn\n"), "its HEAD cannot be read"),
    ],
)
def test_a_repository_that_cannot_be_read_is_told_and_laid_all_the_same(
    clone: Clone, damage: object, trouble: str
) -> None:
    assert callable(damage)
    damage(clone.path / ".git")
    source = OverlaySource.local(clone.path)
    assert (source.commit, source.dirty) == ("", True)
    assert f"it could not be compared with a commit: {trouble}" in source.note


def test_a_folder_without_a_repository_is_no_host(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    mirror = opened(tmp_path, tmp_path / "plain", retries=0)
    with pytest.raises(TargetError, match="could not be fetched"):
        mirror.branch("main")
    assert f"{tmp_path / 'plain'}: it does not appear to be a git repository" in said(mirror)
