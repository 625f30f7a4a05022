"""The fingerprint: changing one input changes it, changing nothing does not; and the words for what changed."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sources_support import origin_of

from builder.core.build_options import BuildOptions
from builder.core.errors import MachineError
from builder.matrix.loader import load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.planning.planner import _Moves, _worded
from builder.sources.prepared_record import Origin
from builder.target import cann_toolkit
from builder.target import inputs as inputs_module
from builder.target.fingerprint import fingerprint
from builder.target.inputs import differences, environment_request, inputs_of

MADE_OF: dict[str, Any] = {
    "asked": {"components": "op-plugin", "op_plugin": "branch", "torch_npu": "branch", "host": "somewhere"},
    "branch": "v2.5.1-7.1.0",
    "submodules": {"third_party/nlohmann": "b" * 40},
    "op_plugin": {"source": "commit", "commit": "c" * 40},
    "patches": [{"repository": "torch_npu", "name": "one.patch", "sha256": "1"}],
}
ORIGIN = origin_of("a" * 40, **MADE_OF)
ENVIRONMENT = {"environment": "docker", "image_digest": "d"}


@pytest.fixture(scope="module")
def target() -> Target:
    return parse_target_id(load_matrix(), "v2.5.1-7.1.0-py3.9-x86_64")


def build(
    target: Target,
    origin: Origin = ORIGIN,
    environment: dict[str, Any] = ENVIRONMENT,
    options: BuildOptions = BuildOptions(),  # noqa: B008
    changed_tree: str | None = None,
) -> dict[str, Any]:
    return inputs_of(target, origin, environment, options, changed_tree=changed_tree).to_json()


def with_origin(**changes: Any) -> Callable[[Target], dict[str, Any]]:
    return lambda target: build(target, origin_of(**{"commit": "a" * 40, **MADE_OF, **changes}))


def with_line(**changes: Any) -> Callable[[Target], dict[str, Any]]:
    def change(target: Target) -> dict[str, Any]:
        return build(dataclasses.replace(target, release=target.release.model_copy(update=changes)))

    return change


def with_toolchain(**changes: Any) -> Callable[[Target], dict[str, Any]]:
    def change(target: Target) -> dict[str, Any]:
        toolchain = target.toolchain.model_copy(update=changes)
        line = target.release.model_copy(update={"toolchains": {**target.release.toolchains, target.arch: toolchain}})
        return build(dataclasses.replace(target, release=line))

    return change


CHANGES: dict[str, Callable[[Target], dict[str, Any]]] = {
    "torch_npu commit": with_origin(commit="f" * 40),
    "op-plugin commit": with_origin(op_plugin={"source": "commit", "commit": "f" * 40}),
    "op-plugin folder": with_origin(op_plugin={"source": "folder", "commit": "", "dirty": True, "digest": "x"}),
    "no overlay": with_origin(op_plugin=None),
    "submodule commit": with_origin(submodules={"third_party/nlohmann": "f" * 40}),
    "another submodule": with_origin(submodules={**MADE_OF["submodules"], "third_party/fmt": "f" * 40}),
    "patch content": with_origin(patches=[{"repository": "torch_npu", "name": "one.patch", "sha256": "2"}]),
    "no patches": with_origin(patches=[]),
    "custom operators": with_origin(custom_operators={"operators": [], "digest": "x"}),
    "image": lambda target: build(target, environment={"environment": "docker", "image_digest": "e"}),
    "kind of environment": lambda target: build(target, environment={"environment": "host", "image_digest": "d"}),
    "components": lambda target: build(target, options=BuildOptions(components="full")),
    "changes by hand": lambda target: build(target, changed_tree="9" * 64),
    "variables of the line": with_line(environment={"USE_XNNPACK": "0"}),
    "gcc": with_toolchain(gcc="10.2.1"),
    "manylinux": with_toolchain(manylinux="manylinux_2_28"),
    "C++ ABI": with_toolchain(cxx11_abi=1),
    "Python": lambda target: build(dataclasses.replace(target, python="3.10")),
    "architecture": lambda target: build(dataclasses.replace(target, arch="aarch64")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changing_one_input_changes_the_fingerprint(target: Target, name: str) -> None:
    assert fingerprint(CHANGES[name](target)) != fingerprint(build(target))


def test_the_recipe_and_the_toolkit_are_inputs(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fingerprint(build(target))
    (tmp_path / "set_env.sh").write_text("export A=1\n")
    options = BuildOptions(cann_home=tmp_path)
    with_toolkit = fingerprint(build(target, options=options))
    (tmp_path / "set_env.sh").write_text("export A=2\n")
    assert len({plain, with_toolkit, fingerprint(build(target, options=options))}) == 3
    monkeypatch.setattr(inputs_module, "RECIPE_VERSION", 999)
    assert fingerprint(build(target)) != plain


def test_every_byte_of_the_toolkit_is_an_input(target: Target, tmp_path: Path) -> None:
    header = tmp_path / "include" / "acl.h"
    header.parent.mkdir()
    header.write_text("int a;")
    (tmp_path / "set_env.sh").touch()
    (tmp_path / "latest").symlink_to("include")
    os.mkfifo(tmp_path / "pipe")
    options = BuildOptions(cann_home=tmp_path)
    found = [fingerprint(build(target, options=options))]
    assert found[0] == fingerprint(build(target, options=options))
    # As long as the one before; within a moment a file system gives both the same time.
    header.write_text("int b;")
    cann_toolkit._digest.cache_clear()
    found.append(fingerprint(build(target, options=options)))
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("elsewhere")
    found.append(fingerprint(build(target, options=options)))
    assert len(set(found)) == 3


def test_a_toolkit_that_cannot_be_read_is_told(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "set_env.sh").touch()
    # Root, who may run the tests, reads everything.
    monkeypatch.setattr(cann_toolkit, "sha256_of", refused)
    with pytest.raises(MachineError, match=r"set_env\.sh cannot be read: Permission denied"):
        build(target, options=BuildOptions(cann_home=tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(jobs=7, memory=1 << 30, timeout=5.0),
        BuildOptions(offline=True, refresh=True),
        BuildOptions(environment="docker"),
        BuildOptions(allow_toolchain_mismatch=True),
    ],
)
def test_what_cannot_change_the_wheel_is_no_input(target: Target, options: BuildOptions) -> None:
    assert fingerprint(build(target, options=options)) == fingerprint(build(target))
    asked = ORIGIN.model_copy(update={"asked": {**ORIGIN.asked, "op_plugin": "7.1.0"}})
    assert fingerprint(build(target, asked)) == fingerprint(build(target))


def test_differences_name_each_part(target: Target) -> None:
    before, after = build(target), CHANGES["op-plugin commit"](target)
    assert list(differences(before, after)) == [("sources.op_plugin.commit", "c" * 40, "f" * 40)]
    assert list(differences(before, before)) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torch_npu commit", "torch_npu aaaaaaa -> fffffff"),
        ("op-plugin commit", "op-plugin ccccccc -> fffffff"),
        ("submodule commit", "third_party/nlohmann bbbbbbb -> fffffff"),
        ("another submodule", "third_party/fmt none -> fffffff"),
        ("patch content", "patches changed: one.patch"),
        ("no patches", "patches changed: -one.patch"),
        ("custom operators", "custom operators added"),
        ("image", "the environment changed"),
        ("kind of environment", "the environment changed from docker to host"),
        ("components", "components changed from op-plugin to full"),
        ("changes by hand", "the tree was changed by hand"),
        ("gcc", "toolchain gcc changed from 9.3 to 10.2"),
    ],
)
def test_changes_in_words(target: Target, tmp_path: Path, name: str, words: str) -> None:
    moves = _Moves(tmp_path)
    found = [_worded(part, old, new, moves) for part, old, new in differences(build(target), CHANGES[name](target))]
    assert words in found


def test_what_makes_a_base_here_can_be_called_from_where_the_user_is(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.target.compile_spec.os.uname", lambda: SimpleNamespace(machine="x86_64"))
    monkeypatch.chdir(tmp_path)
    request = environment_request(target, BuildOptions())
    command = request.base_made_by.split("'")[1].split()
    assert command[1:] == ["--suite", "bullseye", "--gcc", "9"]
    assert subprocess.run([command[0], "--help"], capture_output=True, check=True).stdout
    assert "--base-image torch-npu-builder/base:bullseye-gcc9-x86_64 and --allow" in request.base_made_by
    assert "too new for manylinux_2_17" in request.base_made_by
    # It is advice, and decides nothing.
    assert dataclasses.replace(request, base_made_by="") == request
