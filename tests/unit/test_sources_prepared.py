"""The record of a prepared tree, as a person or a disk may have left it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from sources_support import facts_of_a_tree, origin_of

from builder.core.errors import FailureKind, TargetError
from builder.core.untrusted import remove_tree
from builder.sources import manifest
from builder.sources.prepared_tree import MANIFEST, RECORD, load_prepared, save

COMMIT = "a" * 40
ORIGIN = origin_of(COMMIT).to_json()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = tmp_path / "pytorch" / "target"
    (place / ".git").mkdir(parents=True)
    (place / "setup.py").write_text("\n")
    return place


def test_a_whole_record_is_read(tree: Path) -> None:
    saved = save(tree, facts_of_a_tree(COMMIT))
    loaded = load_prepared(tree)
    assert loaded is not None
    assert loaded.record == saved.record
    assert loaded.differs(origin_of(COMMIT)) == []


def test_what_another_version_notes_besides_is_kept(tree: Path) -> None:
    save(tree, facts_of_a_tree(COMMIT))
    rewrite(tree, more={"of": "another version"}, origin={**ORIGIN, "hosts": ["a"]})
    loaded = load_prepared(tree)
    assert loaded is not None
    assert loaded.record.to_json()["more"] == {"of": "another version"}
    assert loaded.differs(origin_of(COMMIT)) == ["hosts"]


def rewrite(tree: Path, **changes: Any) -> None:
    """Change parts of a tree's record; ``...`` leaves one out."""
    path = tree / ".git" / RECORD
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"origin": float("nan")}, "origin: "),
        ({"origin": ...}, "origin: Field required"),
        ({"origin": {**ORIGIN, "asked": None}}, "origin.asked: "),
        ({"origin": {**ORIGIN, "op_plugin": "x"}}, "origin.op_plugin: "),
        ({"origin": {**ORIGIN, "op_plugin": {}}}, "origin.op_plugin.source: Field required"),
        ({"origin": {**ORIGIN, "submodules": []}}, "origin.submodules: "),
        ({"origin": {**ORIGIN, "torch_npu": "--upload-pack=x"}}, "origin.torch_npu: "),
        ({"commits": {}}, "commits: torch_npu is missing"),
        ({"commits": {"torch_npu": 1}}, "commits.torch_npu: "),
        ({"commit_time": 1 << 70}, "commit_time: "),
        ({"commit_time": "0"}, "commit_time: "),
        ({"schema": 99}, "schema: "),
        ({"schema": ...}, "schema: Field required"),
        ({"patches": [{"name": "one"}]}, "patches.0.repository: Field required"),
        ({"custom_operators": None}, "custom_operators: "),
    ],
)
def test_a_record_of_odd_types_is_a_damaged_one(tree: Path, changes: dict[str, Any], said: str) -> None:
    save(tree, facts_of_a_tree(COMMIT))
    rewrite(tree, **changes)
    _refused(tree, said)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "null", "\0", '"\ud800"'])
def test_what_is_hardly_json_is_a_damaged_record(tree: Path, text: str) -> None:
    save(tree, facts_of_a_tree(COMMIT))
    (tree / ".git" / RECORD).write_bytes(text.encode("utf-8", "surrogatepass"))
    _refused(tree, "")


@pytest.mark.parametrize("name", [RECORD, MANIFEST])
def test_what_is_no_file_is_a_damaged_record(tree: Path, name: str) -> None:
    save(tree, facts_of_a_tree(COMMIT))
    (tree / ".git" / name).unlink()
    os.mkfifo(tree / ".git" / name)
    assert "not a regular file" in _refused(tree, "")


def _refused(tree: Path, said: str) -> str:
    with pytest.raises(TargetError) as caught:
        load_prepared(tree)
    assert caught.value.kind is FailureKind.CHANGED_TREE
    assert f"its record is damaged: {said}" in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


def _deep(folder: Path, number: int) -> None:
    """Make folders inside each other, the innermost with a file."""
    folder.mkdir()
    at = os.open(folder, os.O_RDONLY)
    for _ in range(number):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=at))
    os.close(at)


def test_folders_at_any_depth_are_walked(tmp_path: Path) -> None:
    _deep(tmp_path / "tree", 1500)
    found = manifest.take(tmp_path / "tree")
    remove_tree(tmp_path / "tree")
    assert list(found) == ["/".join("d" * 1500) + "/file"]


def test_folders_beyond_any_path_are_told(tmp_path: Path) -> None:
    _deep(tmp_path / "tree", 3000)
    try:
        with pytest.raises(TargetError, match="is nested too deeply") as caught:
            manifest.take(tmp_path / "tree")
    finally:
        remove_tree(tmp_path / "tree")
    assert len(caught.value.message) < 400
