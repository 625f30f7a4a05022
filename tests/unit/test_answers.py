"""Answers that are kept: never stale, never another user's, and the same as without them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from builder.__main__ import run
from builder.cli import answers
from builder.cli.answers import KEPT, Answers, key_of, names, remembered
from builder.core.workspace import resource


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resource("matrices"), tmp_path / "matrix"))


@pytest.fixture
def kept(tmp_path: Path) -> Answers:
    return Answers(tmp_path / "kept")


def test_an_answer_is_printed_and_kept(kept: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        with remembered(kept, "a" * 64) as known:
            assert known is (number == 1)
            if not known:
                print("été", flush=True)
        assert capsys.readouterr().out == "été\n"


def test_what_fails_is_not_kept(kept: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    plain = sys.stdout
    with pytest.raises(ValueError, match="no"), remembered(kept, "a" * 64):
        raise ValueError(print("half") or "no")
    assert sys.stdout is plain
    assert kept.get("a" * 64) is None


def test_a_key_changes_with_everything_that_an_answer_depends_on(matrix: Path, tmp_path: Path) -> None:
    sources = tmp_path / "own.yaml"
    sources.write_text("repositories: {}\n")
    keys = [key_of(matrix, [sources], ["list"]), key_of(matrix, [sources], ["explain"]), key_of(matrix, [], ["list"])]
    for file in (matrix / "torch.yaml", sources):
        file.write_text(file.read_text() + "# a word\n")
        keys.append(key_of(matrix, [sources], ["list"]))
    (matrix / "pytorch-2.2.yaml").unlink()
    keys.append(key_of(matrix, [sources], ["list"]))
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert key_of(matrix, [sources], ["list"]) == keys[-1]
    assert key_of(tmp_path / "absent", [], ["list"]) is None
    assert key_of(matrix, [tmp_path / "absent.yaml"], ["list"]) is None


def test_a_key_changes_with_the_builder_itself(matrix: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "builder"
    for part in answers._CODE:
        shutil.copytree(Path(answers.__file__).parents[1] / part, package / part)
    monkeypatch.setattr(answers, "__file__", str(package / "cli" / "answers.py"))
    before = key_of(matrix, [], [])
    (package / "matrix" / "model.py").write_text("# another\n")
    assert key_of(matrix, [], []) != before


@pytest.mark.parametrize("harm", ["writable", "folder writable", "link", "cut", "changed", "fifo", "huge"])
def test_an_answer_that_may_not_be_ours_is_not_read(kept: Answers, tmp_path: Path, harm: str) -> None:
    folder, key = tmp_path / "kept", "a" * 64
    kept.put(key, "answer\n")
    file = folder / key
    assert kept.get(key) == "answer\n"
    if harm == "writable":
        file.chmod(0o666)
    elif harm == "folder writable":
        folder.chmod(0o777)
    elif harm == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-2])
    elif harm == "changed":
        file.write_bytes(file.read_bytes().replace(b"answer", b"ANSWER"))
    elif harm == "fifo":
        file.unlink()
        os.mkfifo(file, 0o600)
    else:
        with open(file, "ab") as stream:
            stream.truncate(1 << 33)
    assert kept.get(key) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_user_s_answer_is_not_read(kept: Answers, tmp_path: Path) -> None:
    kept.put("a" * 64, "answer\n")
    os.chown(tmp_path / "kept" / ("a" * 64), 61000, 61000)
    assert kept.get("a" * 64) is None


def test_the_oldest_make_room(kept: Answers, tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        kept.put(f"{number:064}", "x")
        os.utime(tmp_path / "kept" / f"{number:064}", (number, number))
    kept.put("f" * 64, "x")
    assert len(os.listdir(tmp_path / "kept")) == KEPT
    assert kept.get(f"{0:064}") is None
    assert kept.get("f" * 64) == "x"


def test_without_a_place_everything_is_answered_anew(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for nowhere in (Answers(None), Answers(tmp_path / "file" / "below")):
        with remembered(nowhere, "a" * 64) as known:
            assert not known
            print("said")
        assert capsys.readouterr().out == "said\n"
        assert names(nowhere, "b" * 64, lambda: ["one"]) == ["one"]


def test_commands_answer_the_same_and_see_each_change(
    matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command in (["list", "--pytorch=2.7"], ["list", "--json"], ["explain", "v2.7.1-7.3.0"]):
        said = []
        for _ in range(2):
            assert run([*command, f"--matrix={matrix}"]) == 0
            said.append(capsys.readouterr().out)
        assert said[0] == said[1] != ""
    assert len(os.listdir(tmp_path / "cache" / "torch-npu-builder" / "answers")) == 3
    torch = matrix / "torch.yaml"
    torch.write_text(torch.read_text() + "wrong: [\n")
    assert run(["list", "--pytorch=2.7", f"--matrix={matrix}"]) == 2
    assert "torch.yaml" in capsys.readouterr().err
