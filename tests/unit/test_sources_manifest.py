"""Manifests: what a folder holds, and what is different."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.core.errors import FailureKind, TargetError
from builder.sources import manifest
from builder.sources.manifest import Change


def test_a_manifest_survives_being_written(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    (tmp_path / "tab\tand\nbreak\\n").write_text("y")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").write_text("z")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "link").symlink_to("plain")
    taken = manifest.take(tmp_path)
    assert {path: kind for path, (kind, _) in taken.items()} == {
        "plain": "file", "tab\tand\nbreak\\n": "file", "empty": "folder", "run": "executable", "link": "symlink",
    }  # fmt: skip
    assert manifest.parse(manifest.serialize(taken)) == taken


def test_every_kind_of_change_is_seen(tmp_path: Path) -> None:
    for name in ("same", "edited", "gone", "mode", "link"):
        (tmp_path / name).write_text("1")
    (tmp_path / ".git").mkdir()
    before = manifest.take(tmp_path)
    (tmp_path / "edited").write_text("2")
    (tmp_path / "gone").unlink()
    (tmp_path / "mode").chmod(0o755)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("same")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "new").write_text("1")
    (tmp_path / ".git" / "index").write_text("not judged")
    assert manifest.compare(before, manifest.take(tmp_path)) == [
        Change("edited", "modified"), Change("gone", "removed"), Change("link", "modified"), Change("mode", "modified"),
        Change("sub/new", "added"),
    ]  # fmt: skip


def test_a_damaged_manifest_is_no_manifest() -> None:
    for data in (b"file\n", b"what 12\tpath\n"):
        with pytest.raises(ValueError, match=r".*"):
            manifest.parse(data)


def test_copies_share_nothing_with_their_source(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "a" / "in").symlink_to("file")
    manifest.copy_folder(tmp_path / "a", tmp_path / "b", what="a", kind=FailureKind.SOURCE)
    assert manifest.take(tmp_path / "a") == manifest.take(tmp_path / "b")
    assert (tmp_path / "a" / "file").stat().st_ino != (tmp_path / "b" / "file").stat().st_ino
    (tmp_path / "a" / "out").symlink_to(tmp_path / "b")
    with pytest.raises(TargetError, match="the symlink out leads out of it"):
        manifest.copy_folder(tmp_path / "a", tmp_path / "c", what="a", kind=FailureKind.SOURCE)
