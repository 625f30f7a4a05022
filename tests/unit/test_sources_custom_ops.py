"""Custom operators: reading a user's folder, and inserting it into op-plugin's YAML byte by byte."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from builder.core.errors import RequestError, TargetError
from builder.progress.reporter import Reporter
from builder.sources.custom_ops import CustomOps, insert

UPSTREAM = """all_version: [v2.1, v2.5]   # two
official:
  - func: abs(Tensor self) -> Tensor
    acl_op:   all_version

custom:
  # the first one
  - func: npu_first(Tensor self,  int n=1) -> Tensor
    op_api: [v2.1, newest]   # odd   spacing
    tags: "quoted"

symint:
  - func: npu_first(Tensor self, SymInt n=1) -> Tensor
tocpu:
  - func: _bare_name
"""
OPERATOR = "  - func: npu_add_custom(Tensor x, Tensor y) -> Tensor\n"


@pytest.fixture
def op_plugin(tmp_path: Path) -> Path:
    tree = tmp_path / "op-plugin"
    (tree / "op_plugin" / "config").mkdir(parents=True)
    (tree / "op_plugin" / "ops" / "opapi").mkdir(parents=True)
    functions(tree).write_text(UPSTREAM)
    return tree


def functions(tree: Path) -> Path:
    return tree / "op_plugin" / "config" / "op_plugin_functions.yaml"


def folder(tmp_path: Path, text: str = OPERATOR, name: str = "mine") -> Path:
    place = tmp_path / name
    place.mkdir(exist_ok=True)
    (place / "op_plugin_functions.yaml").write_text(text)
    (place / "AddCustom.cpp").write_text("// code\n")
    return place


def reporter() -> tuple[Reporter, io.StringIO]:
    stream = io.StringIO()
    return Reporter(Console(file=stream, width=1000)), stream


def test_a_declaration_is_inserted_and_nothing_else_changes(tmp_path: Path, op_plugin: Path) -> None:
    shown, stream = reporter()
    assert insert(CustomOps.read(folder(tmp_path)), op_plugin, shown) == ("npu_add_custom",)
    text = functions(op_plugin).read_text()
    added = OPERATOR + "    op_api: all_version\n\n"
    assert text == UPSTREAM.replace("custom:\n", "custom:\n" + added)
    assert (op_plugin / "op_plugin/ops/opapi/AddCustom.cpp").read_text() == "// code\n"
    assert "npu_add_custom names neither acl_op nor op_api" in stream.getvalue()
    assert "line 1" in stream.getvalue()


def test_twice_inserts_once(tmp_path: Path, op_plugin: Path) -> None:
    ops = CustomOps.read(folder(tmp_path, OPERATOR * 2))
    insert(ops, op_plugin, reporter()[0])
    once = functions(op_plugin).read_bytes()
    assert insert(ops, op_plugin, reporter()[0]) == ()
    assert functions(op_plugin).read_bytes() == once


def test_fields_comments_and_overloads_arrive(tmp_path: Path, op_plugin: Path) -> None:
    text = (
        "custom:\n- func: npu_x(Tensor x) -> Tensor\n  acl_op: all_version\n"
        "- func: npu_x.out(Tensor x, *, Tensor(a!) out) -> Tensor(a!)  # why\n  op_api: [v2.1, newest]\n"
        "  gen_opapi:\n    exec: aclnnX, x\n"
    )
    ops = CustomOps.read(folder(tmp_path, text))
    assert ops.operators == ("npu_x", "npu_x.out")
    insert(ops, op_plugin, reporter()[0])
    custom = yaml.safe_load(functions(op_plugin).read_text())["custom"]
    assert custom[0] == {"func": "npu_x(Tensor x) -> Tensor", "acl_op": "all_version"}
    assert custom[1]["gen_opapi"] == {"exec": "aclnnX, x"}
    assert custom[2]["func"].startswith("npu_first(")
    assert "# why" in functions(op_plugin).read_text()


def test_an_empty_section_and_windows_line_ends(tmp_path: Path, op_plugin: Path) -> None:
    functions(op_plugin).write_bytes(b"official:\r\n- func: a(Tensor x) -> Tensor\r\ncustom:\r\n")
    insert(CustomOps.read(folder(tmp_path)), op_plugin, reporter()[0])
    data = functions(op_plugin).read_bytes()
    assert data.count(b"\n") == data.count(b"\r\n")
    assert yaml.safe_load(data)["custom"][0]["op_api"] == "all_version"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "  - func: npu_first(Tensor self) -> Tensor\n",
            r"two signatures: npu_first\(Tensor self\).*line 8 \(under custom\)",
        ),
        ("  - func: abs(Tensor self) -> Tensor\n", r"declared otherwise in .*line 3 \(under official\)"),
        (
            "  - func: npu_first(Tensor self, int n=1) -> Tensor\n    acl_op: all_version\n",
            r"declared otherwise in .*line 8 \(under custom\)",
        ),
    ],
)
def test_a_name_that_is_declared_otherwise_is_an_error(tmp_path: Path, op_plugin: Path, text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        insert(CustomOps.read(folder(tmp_path, text)), op_plugin, reporter()[0])
    assert functions(op_plugin).read_text() == UPSTREAM
    assert not list((op_plugin / "op_plugin/ops/opapi").iterdir())


def test_spacing_alone_is_no_other_signature(tmp_path: Path, op_plugin: Path) -> None:
    functions(op_plugin).write_text(
        UPSTREAM.replace("symint:\n  - func: npu_first(Tensor self, SymInt n=1) -> Tensor\n", "")
    )
    text = "- func: npu_first( Tensor self,int n = 1 )->Tensor\n  op_api:\n  - v2.1\n  - newest\n  tags: quoted\n"
    assert insert(CustomOps.read(folder(tmp_path, text)), op_plugin, reporter()[0]) == ()


def test_a_source_whose_name_is_taken_is_an_error(tmp_path: Path, op_plugin: Path) -> None:
    (op_plugin / "op_plugin/ops/opapi/AddCustom.cpp").write_text("// upstream's\n")
    with pytest.raises(RequestError, match=r"op-plugin has another op_plugin/ops/opapi/AddCustom\.cpp"):
        insert(CustomOps.read(folder(tmp_path)), op_plugin, reporter()[0])
    assert functions(op_plugin).read_text() == UPSTREAM


def test_old_release_lines_are_refused(tmp_path: Path, op_plugin: Path) -> None:
    (op_plugin / "op_plugin/ops/opapi").rmdir()
    with pytest.raises(RequestError, match=r"too old for --custom-ops.*op_plugin/ops/opapi"):
        insert(CustomOps.read(folder(tmp_path)), op_plugin, reporter()[0])


def test_an_upstream_file_without_the_section_is_the_targets_failure(tmp_path: Path, op_plugin: Path) -> None:
    functions(op_plugin).write_text("official:\n  - func: a(Tensor x) -> Tensor\n")
    with pytest.raises(TargetError, match="no list 'custom:'"):
        insert(CustomOps.read(folder(tmp_path)), op_plugin, reporter()[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- func: npu_x(Tensor x -> Tensor\n", "line 1.*is not of the form"),
        ("- func: npu_x(Tensor x) -> Tensor\n   op_api: [\n", "line 2, column"),
        ("\n- op_api: all_version\n", "line 2.*no 'func'"),
        ("- npu_x\n", "line 1.*a declaration"),
        ("", "there is no declaration"),
        ("just text\n", "a list of declarations"),
        ("official:\n  - func: a(Tensor x) -> Tensor\n", "not under 'official'"),
        ("- func: npu_x(Tensor x) -> Tensor\n- func: npu_x(Tensor y) -> Tensor\n", "npu_x twice: line 1.*line 2"),
        ("- func: npu_x(Tensor x) -> Tensor\n  op_api: a\n  op_api: b\n", "line 3: 'op_api' appears a second time"),
        ("- func: " + "[" * 100_000, "nested too deeply"),
        ("- func: &a [*a]\n", "aliases make it endless"),
        (
            "a: &a [x, x]\n" + "".join(f"{k}: &{k} [{', '.join([f'*{j}'] * 90)}]\n" for j, k in pairwise("abcdef")),
            "aliases make it endless",
        ),
        ('- func: "\\Uffffffff"\n', "line 1"),
    ],
)
def test_a_bad_file_is_an_error_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        CustomOps.read(folder(tmp_path, text))


def test_a_bad_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no folder of custom operators"):
        CustomOps.read(tmp_path / "nosuch")
    place = folder(tmp_path)
    (place / "AddCustom.cpp").unlink()
    with pytest.raises(RequestError, match=r"no \*\.cpp that implements npu_add_custom"):
        CustomOps.read(place)
    (place / "AddCustom.cpp").symlink_to("/etc/hostname")
    with pytest.raises(RequestError, match=r"AddCustom\.cpp leads out"):
        CustomOps.read(place)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"has no op_plugin_functions\.yaml"):
        CustomOps.read(tmp_path / "empty")


def test_the_digest_follows_declarations_and_sources(tmp_path: Path) -> None:
    place = folder(tmp_path)
    first = CustomOps.read(place).digest
    assert CustomOps.read(folder(tmp_path, name="other")).digest == first
    (place / "AddCustom.cpp").write_text("// other\n")
    assert CustomOps.read(place).digest != first


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(3 << 30)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize("name", ["op_plugin_functions.yaml", "AddCustom.cpp"])
@pytest.mark.parametrize(
    ("change", "said"),
    [(_pipe, "has no"), (_link, "has no|leads out of"), (_huge, "cannot be read: more than")],
    ids=["pipe", "link to itself", "3 GB"],
)
def test_what_is_no_file_of_operators_is_told(
    tmp_path: Path, name: str, change: Callable[[Path], None], said: str
) -> None:
    place = folder(tmp_path)
    change(place / name)
    with pytest.raises(RequestError, match=said):
        CustomOps.read(place)
