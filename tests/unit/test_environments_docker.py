"""What of containers needs no engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from builder.environments.ownership import give


class Owners:
    """Takes the place of chown and lstat: all belongs to root, and it is noted who was given what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[str] = []
        self._stat = os.stat
        monkeypatch.setattr(os, "chown", self.chown)

    def chown(self, name: str, uid: int, gid: int, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        assert (uid, gid) == (61000, 61000)
        assert not follow_symlinks
        self._stat(name, dir_fd=dir_fd, follow_symlinks=False)
        self.given.append(os.path.basename(name))


def fill(folder: Path) -> None:
    (folder / "1" / "2").mkdir(parents=True)
    for name in ("1/stays", "1/2/entry", "1/2/entry.tmp.1", "9"):
        (folder / name).write_text("")


def test_everything_below_is_given_and_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    fill(cache)
    elsewhere.mkdir()
    (elsewhere / "secret").write_text("")
    (cache / "link").symlink_to(elsewhere)
    owners = Owners(monkeypatch)
    give(cache, (61000, 61000))
    assert sorted(owners.given) == sorted([".", "1", "2", "stays", "entry", "entry.tmp.1", "9", "link"])


def test_what_another_build_removes_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    fill(cache)
    owners = Owners(monkeypatch)
    vanishing = {"entry.tmp.1": cache / "1" / "2" / "entry.tmp.1"}
    real: Any = os.chown

    def vanish(path: Any, *arguments: Any, **options: Any) -> Any:
        if (gone := vanishing.pop(str(path), None)) is not None:
            gone.unlink()
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "chown", vanish)
    give(cache, (61000, 61000))
    assert not vanishing
    assert sorted(owners.given) == sorted([".", "1", "2", "stays", "entry", "9"])


def test_a_whole_folder_that_vanishes_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    fill(cache)
    owners = Owners(monkeypatch)
    real = owners.chown

    def vanish(path: str, *arguments: Any, **options: Any) -> None:
        real(path, *arguments, **options)
        if path == "2":
            (cache / "1" / "2").rename(tmp_path / "away")

    monkeypatch.setattr(os, "chown", vanish)
    give(cache, (61000, 61000))
    assert sorted(owners.given) == sorted([".", "1", "2", "stays", "9"])


def test_a_folder_that_a_build_replaces_by_a_link_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    fill(cache)
    elsewhere.mkdir()
    (elsewhere / "secret").write_text("")
    owners = Owners(monkeypatch)
    real = owners.chown

    def replace(path: str, *arguments: Any, **options: Any) -> None:
        real(path, *arguments, **options)
        if path == "2":
            (cache / "1" / "2").rename(tmp_path / "away")
            (cache / "1" / "2").symlink_to(elsewhere)

    monkeypatch.setattr(os, "chown", replace)
    give(cache, (61000, 61000))
    assert "secret" not in owners.given


def test_a_folder_that_is_not_there_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        give(tmp_path / "none", (61000, 61000))
