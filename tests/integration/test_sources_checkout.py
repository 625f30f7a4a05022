"""From real repositories to a prepared tree, its copies, and what becomes of edits and failures."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from builder.core.errors import BuilderError, FailureKind, RequestError, TargetError
from builder.progress.reporter import Reporter
from builder.sources import manifest, patch_forecast
from builder.sources.checkout import (
    OverlaySource,
    SubmoduleSource,
    TreeRequest,
    describe,
    load_prepared,
    prepare,
)
from builder.sources.custom_ops import CustomOps
from builder.sources.manifest import Change
from builder.sources.mirrors import Mirror, Mirrors, Repository
from builder.sources.patches import Applied, find_series

TARGET = "v1.0-1.0-py3.11-x86_64"
BUILD_SH = "".join(
    f"cp -rf ${{CODE_ROOT_PATH}}/{entry} ${{PYTORCH_THIRD_PATH}}/\n" for entry in ("op_plugin", "*.sh", "test")
)
FUNCTIONS = "all_version: [v2.1]\ncustom:\n- func: a(Tensor x) -> Tensor\n"


def repository(path: Path, files: dict[str, str], pins: dict[str, str] | None = None, branch: str = "main") -> str:
    """Make or extend a repository; returns the commit."""

    def git(*argv: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *argv],
            cwd=path, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    if not path.exists():
        path.mkdir(parents=True)
        git("init", "--quiet", f"--initial-branch={branch}")
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
        if name.endswith(".sh"):
            (path / name).chmod(0o755)
    git("add", "--all")
    for place, commit in (pins or {}).items():
        git("update-index", "--add", "--cacheinfo", f"160000,{commit},{place}")
    git("commit", "--quiet", "--message=x")
    return git("rev-parse", "HEAD")


class World:
    """A torch_npu with nested submodules and an op-plugin, in mirrors of a workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workspace = root / "build"
        self.upstream = root / "upstream"
        self.output = io.StringIO()
        self.reporter = Reporter(Console(file=self.output, width=500))
        self.place = self.workspace / "pytorch" / TARGET
        inner = repository(self.upstream / "inner", {"inner.h": "inner"})
        fmt = repository(self.upstream / "fmt", {"fmt.h": "fmt"}, {"deps/inner": inner})
        pinned = repository(self.upstream / "op-plugin", {"op_plugin/pinned.cpp": "pinned"})
        op_plugin = repository(
            self.upstream / "op-plugin",
            {
                "ci/build.sh": BUILD_SH, "gencode.sh": "echo", "test/t.py": "t", "README.md": "not laid",
                "op_plugin/ops/opapi/A.cpp": "one\ntwo\nthree\n",
                "op_plugin/config/op_plugin_functions.yaml": FUNCTIONS,
            },
        )  # fmt: skip
        commit = repository(
            self.upstream / "torch_npu",
            {"setup.py": "one\ntwo\nthree\n", "ci/build.sh": "build\n"},
            {"third_party/fmt": fmt, "third_party/op-plugin": pinned, "third_party/unused": "1" * 40},
            branch="v1.0-1.0",
        )
        self.request = TreeRequest(
            TARGET, "v1.0-1.0", self.mirror("torch_npu", commit), commit,
            (SubmoduleSource("third_party/fmt", self.mirror("fmt", fmt), fmt,
                             (SubmoduleSource("deps/inner", self.mirror("inner", inner), inner),)),),
            OverlaySource(mirror=self.mirror("op-plugin", op_plugin), commit=op_plugin),
            pinned_op_plugin=pinned,
        )  # fmt: skip

    def mirror(self, name: str, commit: str) -> Mirror:
        mirrors = Mirrors(self.workspace / "mirrors", self.reporter)
        mirror = mirrors.open(Repository(name, (str(self.upstream / name),)))
        mirror.commit(commit)
        return mirror

    def patch(self, repository: str, path: str, old: str = "two", *, condition: str = "", name: str = "p") -> None:
        folder = self.root / "patches" / "v1.*" / repository
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "series", "a", encoding="utf-8") as series:
            series.write(f"{name}.patch {condition}\n")
        new = "patched" if name == "p" else name
        text = f"--- a/{path}\n+++ b/{path}\n@@ -1,3 +1,3 @@\n one\n-{old}\n+{new}\n three\n"
        (folder / f"{name}.patch").write_text(text)
        key = "torch_npu_patches" if repository == "torch_npu" else "op_plugin_patches"
        found = find_series([self.root / "patches"], "v1.0-1.0", repository, options=())
        self.request = replace(self.request, **{key: found})  # type: ignore[arg-type]

    def beside(self) -> list[str]:
        return [name for name in sorted(os.listdir(self.place.parent)) if not name.endswith(".lock")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def files(root: Path) -> set[str]:
    return set(manifest.take(root))


def test_a_prepared_tree_holds_what_was_asked_for(world: World) -> None:
    prepared = prepare(world.request, world.place, world.reporter)
    assert files(world.place) == {
        "setup.py", "ci/build.sh", "third_party/fmt/fmt.h", "third_party/fmt/deps/inner/inner.h", "third_party/unused",
        "third_party/op-plugin/gencode.sh", "third_party/op-plugin/test/t.py",
        "third_party/op-plugin/op_plugin/pinned.cpp", "third_party/op-plugin/op_plugin/ops/opapi/A.cpp",
        "third_party/op-plugin/op_plugin/config/op_plugin_functions.yaml",
    }  # fmt: skip
    assert os.access(world.place / "third_party/op-plugin/gencode.sh", os.X_OK)
    assert not (world.place / "third_party/fmt/.git").exists()
    record = json.loads((world.place / ".git" / "torch-npu-builder.json").read_text())
    assert record == prepared.record.to_json()
    request = world.request
    assert request.overlay is not None
    assert record["commits"] == {
        "torch_npu": request.commit, "op-plugin": request.overlay.commit,
        "op-plugin (pinned)": request.pinned_op_plugin,
        "third_party/fmt": request.submodules[0].commit,
        "third_party/fmt/deps/inner": request.submodules[0].children[0].commit,
    }  # fmt: skip
    assert record["overlay"]["entries"] == ["op_plugin", "gencode.sh", "test"]
    assert prepared.changes() == []
    assert world.beside() == [TARGET]


def test_the_repository_is_on_its_branch_and_finds_its_objects_elsewhere_too(world: World, tmp_path: Path) -> None:
    prepare(world.request, world.place, world.reporter)
    # As in a container: the tree at <root>/work/pytorch, the mirrors at <root>/mirrors.
    (tmp_path / "container" / "work").mkdir(parents=True)
    shutil.copytree(world.place, tmp_path / "container" / "work" / "pytorch", symlinks=True)
    shutil.copytree(world.workspace / "mirrors", tmp_path / "container" / "mirrors")
    shutil.rmtree(world.workspace)
    shutil.rmtree(world.upstream)
    said = subprocess.run(
        ["git", "log", "-1", "--format=%H %D"], check=True, capture_output=True, text=True,
        cwd=tmp_path / "container" / "work" / "pytorch",
    ).stdout  # fmt: skip
    assert said == f"{world.request.commit} HEAD -> v1.0-1.0\n"


def test_a_tree_at_another_depth_is_refused(world: World) -> None:
    with pytest.raises(TargetError, match="not at the places that a build environment gives them"):
        prepare(world.request, world.workspace / "deeper" / "pytorch" / TARGET, world.reporter)


def test_the_same_request_gives_the_same_digest(world: World, tmp_path: Path) -> None:
    first = prepare(world.request, world.place, world.reporter)
    second = prepare(world.request, world.place.with_name("other"), world.reporter)
    assert first.digest == second.digest
    world.patch("torch_npu", "setup.py")
    assert prepare(world.request, world.place, world.reporter).digest != first.digest


def test_a_tree_is_found_again_and_compared_with_a_request(world: World) -> None:
    assert load_prepared(world.place) is None
    prepare(world.request, world.place, world.reporter)
    loaded = load_prepared(world.place)
    assert loaded is not None
    assert loaded.differs(describe(world.request)) == []
    world.patch("op-plugin", "op_plugin/ops/opapi/A.cpp")
    assert loaded.differs(describe(world.request)) == ["patches", "series"]


def test_edits_are_seen_and_never_copied_unasked(world: World) -> None:
    prepared = prepare(world.request, world.place, world.reporter)
    (world.place / "setup.py").write_text("edited")
    (world.place / "new.txt").write_text("new")
    (world.place / "third_party/fmt/fmt.h").unlink()
    changes = [
        Change("new.txt", "added"), Change("setup.py", "modified"), Change("third_party/fmt/fmt.h", "removed"),
    ]  # fmt: skip
    copy = world.workspace / "compile" / TARGET
    assert prepared.changes() == changes
    with pytest.raises(TargetError, match="has been changed since it was prepared") as caught:
        prepared.copy_to(copy)
    assert caught.value.kind is FailureKind.CHANGED_TREE
    assert "modified setup.py" in (caught.value.details or "")
    assert not copy.exists()
    assert prepared.copy_to(copy, keep_changes=True) == tuple(changes)
    assert (copy / "setup.py").read_text() == "edited"
    assert (world.place / "new.txt").exists()


def test_a_commit_made_by_hand_is_a_change(world: World) -> None:
    prepared = prepare(world.request, world.place, world.reporter)
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", "mine"],
        cwd=world.place, check=True,
    )  # fmt: skip
    assert Change(".git/HEAD", "modified") in prepared.changes()


def test_a_copy_is_fresh_whole_and_dated(world: World) -> None:
    prepared = prepare(world.request, world.place, world.reporter)
    copy = world.workspace / "compile" / TARGET
    (copy / "build").mkdir(parents=True)
    (copy / "setup.py").write_text("spoilt by a build")
    assert prepared.copy_to(copy) == ()
    assert manifest.take(copy) == prepared.manifest
    assert not (copy / "build").exists()
    assert (copy / "setup.py").stat().st_ino != (world.place / "setup.py").stat().st_ino
    times = {int(path.lstat().st_mtime) for path in copy.rglob("*")}
    assert times == {prepared.record.commit_time}
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=copy, check=True, capture_output=True, text=True).stdout
    assert said.strip() == world.request.commit
    (copy / "setup.py").write_text("spoilt")
    assert prepared.changes() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda git: (git / "torch-npu-builder.json").unlink(),
        lambda git: (git / "torch-npu-builder.json").write_text("{"),
        lambda git: (git / "torch-npu-builder.json").write_text('{"schema": 1}'),
        lambda git: (git / "torch-npu-builder.manifest").write_text("other"),
        lambda git: shutil.rmtree(git),
    ],
)
def test_a_tree_without_a_whole_record_counts_as_changed(world: World, damage: Callable[[Path], object]) -> None:
    prepare(world.request, world.place, world.reporter)
    damage(world.place / ".git")
    with pytest.raises(TargetError, match="is not a tree that the builder prepared") as caught:
        load_prepared(world.place)
    assert caught.value.kind is FailureKind.CHANGED_TREE
    assert (world.place / "setup.py").exists()


def test_patches_of_both_repositories_are_applied(world: World) -> None:
    world.patch("torch_npu", "setup.py")
    world.patch("op-plugin", "op_plugin/ops/opapi/A.cpp")
    prepared = prepare(world.request, world.place, world.reporter)
    for name in ("setup.py", "third_party/op-plugin/op_plugin/ops/opapi/A.cpp"):
        assert (world.place / name).read_text() == "one\npatched\nthree\n"
    assert [patch.name for patch in prepared.record.patches] == [
        "v1.*/torch_npu/p.patch", "v1.*/op-plugin/p.patch",
    ]  # fmt: skip


@pytest.mark.parametrize("local", [False, True])
def test_the_record_says_which_patches_were_taken_and_which_were_not(world: World, local: bool) -> None:
    if local:
        world.request = replace(world.request, overlay=OverlaySource.local(world.upstream / "op-plugin"))
    before = describe(world.request)
    world.patch("torch_npu", "setup.py", condition="[where it applies]")
    world.patch("torch_npu", "setup.py", old="else", condition="[where it applies]", name="other")
    world.patch("torch_npu", "setup.py", condition="[with pch]", name="headers")
    world.patch("op-plugin", "op_plugin/ops/opapi/A.cpp", condition="[where it applies]")
    world.patch("op-plugin", "op_plugin/ops/opapi/B.cpp", condition="[where it applies]", name="other")
    described = describe(world.request)
    prepared = prepare(world.request, world.place, world.reporter)
    assert [patch.name for patch in prepared.record.patches] == [
        "v1.*/torch_npu/p.patch", "v1.*/op-plugin/p.patch",
    ]  # fmt: skip
    assert prepared.record.patches == described.patches == prepared.record.origin.patches
    assert [(item.name, item.reason) for item in prepared.record.patches_passed_over] == [
        ("v1.*/torch_npu/other.patch", "setup.py holds other lines"),
        ("v1.*/torch_npu/headers.patch", "it is for builds with pch"),
        ("v1.*/op-plugin/other.patch", "op_plugin/ops/opapi/B.cpp: No such file or directory"),
    ]  # fmt: skip
    assert described.differs(before) == ["patches", "series"]
    assert load_prepared(world.place).differs(describe(world.request)) == []  # type: ignore[union-attr]


def test_a_patch_that_no_file_takes_changes_no_wheel(world: World) -> None:
    before = describe(world.request)
    world.patch("torch_npu", "setup.py", old="else", condition="[where it applies]")
    after = describe(world.request)
    assert after.patches == before.patches
    assert after.series != before.series


def test_patches_for_op_plugin_can_be_passed_over_where_there_is_none(world: World) -> None:
    world.request = replace(world.request, overlay=None)
    world.patch("op-plugin", "op_plugin/ops/opapi/A.cpp", condition="[where it applies]")
    prepared = prepare(world.request, world.place, world.reporter)
    assert prepared.record.patches == ()
    assert [item.reason for item in prepared.record.patches_passed_over] == ["v1.0-1.0 is built without op-plugin"]
    world.patch("op-plugin", "op_plugin/ops/opapi/A.cpp", name="must")
    with pytest.raises(RequestError, match=r"patches for op-plugin were given, .* is built without op-plugin"):
        describe(world.request)
    with pytest.raises(RequestError, match=r"patches for op-plugin were given, .* is built without op-plugin"):
        prepare(world.request, world.place, world.reporter)


def test_line_ends_that_git_gives_files_do_not_keep_patches_away(world: World) -> None:
    commit = repository(world.upstream / "torch_npu", {".gitattributes": "*.py text eol=crlf\n"}, branch="v1.0-1.0")
    world.request = replace(world.request, torch_npu=world.mirror("torch_npu", commit), commit=commit)
    world.patch("torch_npu", "setup.py", condition="[where it applies]")
    prepared = prepare(world.request, world.place, world.reporter)
    assert [patch.name for patch in prepared.record.patches] == ["v1.*/torch_npu/p.patch"]
    assert (world.place / "setup.py").read_bytes() == b"one\r\npatched\r\nthree\r\n"


def test_a_tree_that_takes_other_patches_than_were_foreseen_is_no_tree(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.patch("torch_npu", "setup.py", condition="[where it applies]")
    monkeypatch.setattr(patch_forecast, "at_commit", lambda *_: Applied())
    with pytest.raises(
        TargetError, match=r"took other patches than its commits do: .*p\.patch instead of none"
    ) as caught:
        prepare(world.request, world.place, world.reporter)
    assert caught.value.kind is FailureKind.PATCH
    assert not world.place.exists()


def test_custom_operators_are_laid_last(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "op_plugin_functions.yaml").write_text("- func: npu_mine(Tensor x) -> Tensor\n")
    (tmp_path / "mine" / "Mine.cpp").write_text("mine")
    world.request = replace(world.request, custom_ops=CustomOps.read(tmp_path / "mine"))
    prepared = prepare(world.request, world.place, world.reporter)
    assert prepared.record.custom_operators == ("npu_mine",)
    assert (world.place / "third_party/op-plugin/op_plugin/ops/opapi/Mine.cpp").read_text() == "mine"
    text = (world.place / "third_party/op-plugin/op_plugin/config/op_plugin_functions.yaml").read_text()
    assert "- func: npu_mine(Tensor x) -> Tensor\n  op_api: all_version\n" in text


def test_the_pinned_op_plugin_can_stay_whole(world: World) -> None:
    request = world.request
    assert request.overlay is not None
    assert request.overlay.mirror is not None
    whole = SubmoduleSource("third_party/op-plugin", request.overlay.mirror, request.overlay.commit)
    world.request = replace(request, overlay=None, submodules=(*request.submodules, whole))
    world.patch("op-plugin", "op_plugin/ops/opapi/A.cpp")
    prepare(world.request, world.place, world.reporter)
    assert (world.place / "third_party/op-plugin/README.md").read_text() == "not laid"
    assert "patched" in (world.place / "third_party/op-plugin/op_plugin/ops/opapi/A.cpp").read_text()


def test_a_local_op_plugin_is_laid_with_its_edits(world: World) -> None:
    folder = world.upstream / "op-plugin"
    assert OverlaySource.local(folder).dirty is False
    (folder / "op_plugin" / "mine.cpp").write_text("uncommitted")
    (folder / "build" / "pytorch").mkdir(parents=True)
    (folder / "evil").symlink_to("/etc")  # not laid, so it does no harm
    overlay = OverlaySource.local(folder)
    assert overlay.dirty is True
    world.request = replace(world.request, overlay=overlay)
    prepared = prepare(world.request, world.place, world.reporter)
    assert (world.place / "third_party/op-plugin/op_plugin/mine.cpp").read_text() == "uncommitted"
    assert not (world.place / "third_party/op-plugin/build").exists()
    described = prepared.record.overlay
    assert described is not None
    assert (described.source, described.dirty, described.commit) == ("folder", True, overlay.commit)
    (folder / "op_plugin" / "mine.cpp").write_text("edited again")
    with pytest.raises(TargetError, match="changed while the build began"):
        prepare(world.request, world.place, world.reporter)
    (folder / "op_plugin" / "out").symlink_to("/etc")
    world.request = replace(world.request, overlay=OverlaySource.local(folder))
    with pytest.raises(TargetError, match="the symlink op_plugin/out leads out"):
        prepare(world.request, world.place, world.reporter)


def failing(world: World, how: str) -> type[BuilderError]:
    if how == "patch":
        world.patch("torch_npu", "setup.py", old="nothing")
    elif how == "op-plugin patch":
        world.patch("op-plugin", "op_plugin/ops/opapi/A.cpp", old="nothing")
    elif how == "no recipe":
        commit = repository(world.upstream / "op-plugin", {"ci/build.sh": "make\n"})
        world.request = replace(
            world.request, overlay=OverlaySource(mirror=world.mirror("op-plugin", commit), commit=commit)
        )
    elif how == "symlink":
        (world.upstream / "torch_npu" / "evil").symlink_to("/etc/passwd")
        commit = repository(world.upstream / "torch_npu", {})
        world.request = replace(world.request, torch_npu=world.mirror("torch_npu", commit), commit=commit)
    elif how == "submodule outside":
        bad = replace(world.request.submodules[0], path="../outside")
        world.request = replace(world.request, submodules=(bad,))
    elif how == "no op-plugin":
        world.patch("op-plugin", "op_plugin/ops/opapi/A.cpp")
        world.request = replace(world.request, overlay=None)
        return RequestError
    return TargetError


@pytest.mark.parametrize(
    "how", ["patch", "op-plugin patch", "no recipe", "symlink", "submodule outside", "no op-plugin"]
)
def test_after_a_failure_the_old_tree_stands_and_nothing_else(world: World, how: str) -> None:
    before = prepare(world.request, world.place, world.reporter)
    (world.place / "edited").write_text("by hand")
    expected = failing(world, how)
    with pytest.raises(expected):
        prepare(world.request, world.place, world.reporter)
    assert world.beside() == [TARGET]
    assert not (world.place.parent.parent / "outside").exists()
    loaded = load_prepared(world.place)
    assert loaded is not None
    assert loaded.record == before.record
    assert loaded.changes() == [Change("edited", "added")]


def test_a_full_disk_is_said_and_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builder.sources.manifest.shutil.copyfile", full)
    with pytest.raises(BuilderError, match="the disk is full") as caught:
        prepare(world.request, world.place, world.reporter)
    assert caught.value.exit_code == 3
    assert world.beside() == []


def test_what_a_killed_run_left_is_cleared(world: World) -> None:
    prepare(world.request, world.place, world.reporter)
    stale = world.place.with_name(f".{TARGET}.preparing-12345678")
    (stale / "half").mkdir(parents=True)
    stale.with_name(f"{stale.name}.op-plugin-1234").mkdir()
    prepare(world.request, world.place, world.reporter)
    assert world.beside() == [TARGET]


def test_a_run_killed_between_two_renames_loses_nothing(world: World) -> None:
    prepared = prepare(world.request, world.place, world.reporter)
    world.place.rename(world.place.with_name(f".{TARGET}.preparing-12345678.old"))
    loaded = load_prepared(world.place)
    assert loaded is not None
    assert loaded.digest == prepared.digest
    assert world.beside() == [TARGET]
