"""Lock files as anybody may have left them: one error in words, nothing endless."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.core.errors import RequestError
from builder.planning.lockfile import read_lock
from builder.target.fingerprint import fingerprint

TARGET = "v2.5.1-7.1.0-py3.11-x86_64"
COMMIT = "a" * 40


def entry(sources: Any = ..., **changes: Any) -> dict[str, Any]:
    """A target of a lock, whose fingerprint fits whatever its inputs are."""
    if sources is ...:
        sources = {"torch_npu": COMMIT, "op_plugin": {"source": "commit", "commit": COMMIT}, "patches": []}
    inputs = {"target": TARGET, "sources": sources}
    made = {
        "branch": "v2.5.1-7.1.0",
        "fingerprint": fingerprint(inputs),
        "base_image": {"name": "i/old:1", "digest": None},
        "inputs": inputs,
        **changes,
    }
    return {key: value for key, value in made.items() if value is not ...}


def lock_of(folder: Path, *entries: dict[str, Any], **changes: Any) -> Path:
    """A lock file of ``entries``."""
    path = folder / "builder.lock.yaml"
    targets = {TARGET.replace("3.11", f"3.{11 - number}"): one for number, one in enumerate(entries)}
    path.write_text(yaml.safe_dump({"schema": 1, "targets": targets, **changes}))
    return path


def refused(path: Path) -> str:
    """What is said of a lock that is none."""
    with pytest.raises(RequestError) as caught:
        read_lock(path)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_lock_is_read(tmp_path: Path) -> None:
    lock = read_lock(lock_of(tmp_path, entry(), entry()))
    assert lock.pins() == {"v2.5.1-7.1.0": {"torch_npu": COMMIT, "op_plugin": COMMIT}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (entry(branch=None), "targets.*branch"),
        (entry(branch=["x"]), "targets.*branch"),
        (entry(base_image=...), "targets.*base_image: .*Field required"),
        (entry(base_image={"digest": 5}), "targets.*base_image.digest"),
        (entry(inputs=[]), "targets.*inputs"),
        (entry(inputs={}), "do not have the fingerprint"),
        (entry(sources=None), "sources"),
        (entry(sources={"torch_npu": "--upload-pack=x", "op_plugin": None}), "sources.torch_npu"),
        (entry(sources={"torch_npu": COMMIT, "op_plugin": {"source": "folder", "commit": ""}}), "op_plugin.source"),
    ],
)
def test_entries_of_odd_types_are_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_lock(lock_of(tmp_path, changed))


@pytest.mark.parametrize("targets", [None, [], {}, "x", {"x": None}, float("nan")])
def test_targets_that_are_none_are_told(tmp_path: Path, targets: Any) -> None:
    assert "not a lock file of the builder: " in refused(lock_of(tmp_path, targets=targets))


@pytest.mark.parametrize("schema", [None, 2, [1], {"a": "b" * 1000}])
def test_another_schema_is_named(tmp_path: Path, schema: Any) -> None:
    message = refused(lock_of(tmp_path, entry(), schema=schema))
    assert "this builder knows 1" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("a: &a [*a]\n", ":1: .*aliases are not allowed"),
        ("a: &a [x, x]\nb: [*a, *a]\n", ":2: .*aliases are not allowed"),
        ("? [a, b]\n: c\n", "unhashable"),
        ("schema: " + "9" * 100_000 + "\n", "4300"),
        ("schema: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
        ("schema: 2026-99-99\n", "month must be in"),
        ("schema: !!int x\n", "invalid literal"),
        ('"\\ud800": 1\n', "names no schema"),
        ('"\\Uffffffff": 1\n', "too large"),
        ("\0", "not allowed"),
        ("", "names no schema"),
    ],
)
def test_what_is_hardly_yaml_is_no_lock(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "builder.lock.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=said):
        read_lock(path)


def test_what_is_no_file_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "builder.lock.yaml"
    os.mkfifo(path)
    assert refused(path).endswith("cannot be read: not a regular file")
    path.unlink()
    with path.open("wb") as stream:
        stream.truncate(3 << 30)
    assert "cannot be read: more than" in refused(path)
