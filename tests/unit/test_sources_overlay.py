"""The list of what op-plugin lays over torch_npu, read from its own script; and laying it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.sources.overlay import OverlaySource, expand, lay, names_in, read_recipe

SCRIPT = """#!/bin/bash
CODE_ROOT_PATH=x
    # cp -rf ${CODE_ROOT_PATH}/commented ${PYTORCH_THIRD_PATH}/
    cp -rf ${CODE_ROOT_PATH}/op_plugin ${PYTORCH_THIRD_PATH}/
    cp -rf ${CODE_ROOT_PATH}/*.sh ${PYTORCH_THIRD_PATH}/
    cp -rf "${CODE_ROOT_PATH}"/codegen "${PYTORCH_THIRD_PATH}/"
    cp -rf ${PYTORCH_PATH}/dist ${CODE_ROOT_PATH}
"""


@pytest.fixture
def op_plugin(tmp_path: Path) -> Path:
    root = tmp_path / "op-plugin"
    for name in ("op_plugin/ops/a.cpp", "codegen/gen.py", "gencode.sh", ".hidden.sh", "ci/build.sh", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(SCRIPT if name == "ci/build.sh" else name)
    (root / "gencode.sh").chmod(0o755)
    return root


def test_the_recipe_is_what_the_script_copies() -> None:
    assert read_recipe(SCRIPT) == ("op_plugin", "*.sh", "codegen")


@pytest.mark.parametrize("extra", ["test", "torchnpugen"])
def test_the_recipe_follows_the_era(extra: str) -> None:
    assert read_recipe(f"{SCRIPT}cp -rf ${{CODE_ROOT_PATH}}/{extra} ${{PYTORCH_THIRD_PATH}}/\n")[-1] == extra


def test_a_script_that_copies_nothing_is_an_error_that_names_it() -> None:
    with pytest.raises(TargetError, match=r"ci/build\.sh does not say what it copies") as caught:
        read_recipe("#!/bin/bash\nmake\n")
    assert caught.value.kind is FailureKind.OVERLAY


def test_a_recipe_cannot_leave_op_plugin() -> None:
    with pytest.raises(TargetError, match=r"line 1: '\.\./etc'"):
        read_recipe("cp -rf ${CODE_ROOT_PATH}/../etc ${PYTORCH_THIRD_PATH}/")
    with pytest.raises(TargetError, match="leads out"):
        expand(names_in(Path("/")), ("../etc",))


def test_laying_empties_the_place_and_lays_only_the_recipe(op_plugin: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "old").mkdir(parents=True)
    assert lay(op_plugin, place, read_recipe(SCRIPT)) == ("op_plugin", "gencode.sh", "codegen")
    assert sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()) == [
        "codegen/gen.py", "gencode.sh", "op_plugin/ops/a.cpp",
    ]  # fmt: skip
    assert os.access(place / "gencode.sh", os.X_OK)


def test_an_entry_that_is_missing_is_named(op_plugin: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="has no 'torchnpugen'"):
        lay(op_plugin, tmp_path / "place", ("torchnpugen",))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../outside", "../../.."])
def test_a_symlink_that_leads_out_is_refused_by_name(op_plugin: Path, tmp_path: Path, target: str) -> None:
    (op_plugin / "op_plugin" / "ops" / "evil").symlink_to(target)
    with pytest.raises(TargetError, match="the symlink ops/evil leads out") as caught:
        lay(op_plugin, tmp_path / "place", ("op_plugin",))
    assert caught.value.kind is FailureKind.OVERLAY


def test_an_entry_that_is_itself_a_symlink_out_is_refused(op_plugin: Path, tmp_path: Path) -> None:
    (op_plugin / "x.sh").symlink_to("/etc/passwd")
    with pytest.raises(TargetError, match=r"x\.sh is a symlink that leads out"):
        lay(op_plugin, tmp_path / "place", ("*.sh",))


def test_pipes_are_refused_by_name(op_plugin: Path, tmp_path: Path) -> None:
    os.mkfifo(op_plugin / "codegen" / "pipe")
    with pytest.raises(TargetError, match="pipe is neither file"):
        lay(op_plugin, tmp_path / "place", ("codegen",))


def test_a_local_folder_is_described_by_its_content(op_plugin: Path) -> None:
    first = OverlaySource.local(op_plugin)
    assert (first.commit, first.dirty) == ("", True)
    (op_plugin / "README.md").write_text("not laid")
    assert OverlaySource.local(op_plugin).digest == first.digest
    (op_plugin / "codegen" / "gen.py").write_text("laid")
    assert OverlaySource.local(op_plugin).digest != first.digest


def test_a_folder_that_is_no_op_plugin_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not an op-plugin checkout"):
        OverlaySource.local(tmp_path)


def test_a_pipe_among_what_is_laid_is_told_before_it_is_read(op_plugin: Path) -> None:
    os.mkfifo(op_plugin / "pipe.sh")
    with pytest.raises(TargetError, match=r"pipe\.sh is neither file"):
        OverlaySource.local(op_plugin)


def test_a_link_to_itself_leads_nowhere(op_plugin: Path, tmp_path: Path) -> None:
    (op_plugin / "loop.sh").symlink_to("loop.sh")
    with pytest.raises(TargetError, match=r"loop\.sh is neither file"):
        lay(op_plugin, tmp_path / "place", ("*.sh",))


def test_a_script_that_is_nothing_but_a_length_is_told(op_plugin: Path) -> None:
    with (op_plugin / "ci" / "build.sh").open("wb") as stream:
        stream.truncate(3 << 30)
    with pytest.raises(RequestError, match=r"build\.sh cannot be read: more than"):
        OverlaySource.local(op_plugin)
