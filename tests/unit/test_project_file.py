"""Project files: whose values hold where, what wins over them, and errors that name file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from builder.__main__ import run
from builder.cli.main import cli
from builder.cli.project_file import read_project_file
from builder.core.errors import EXIT_BAD_REQUEST, RequestError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def options(capsys: pytest.CaptureFixture[str], command: str = "build") -> dict[str, tuple[Any, str]]:
    assert run(["explain", "--options", command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["options"]
    return {row["option"]: (row["value"], row["from"]) for row in rows}


def test_each_value_and_where_it_is_from(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "torch-npu-builder.toml").write_text(
        'pytorch = ["v2.5.1-7.1.0", "2.7"]\njobs = 3\nmemory = "2G"\nquiet = true\n\n[build]\nparallel = 2\njobs = 4\n'
    )
    monkeypatch.setenv("BUILDER_MEMORY", "3G")
    found = options(capsys)
    assert found["--pytorch"] == (["v2.5.1-7.1.0", "2.7"], "torch-npu-builder.toml:1")
    assert found["--jobs"] == (4, "torch-npu-builder.toml:8")
    assert found["--parallel"] == (2, "torch-npu-builder.toml:7")
    assert found["--memory"] == (3 << 30, "BUILDER_MEMORY")
    assert found["--quiet"] == (True, "torch-npu-builder.toml:4")
    assert found["--pch"] == ("auto", "default")
    assert options(capsys, "rehearse")["--jobs"] == (3, "torch-npu-builder.toml:2")
    assert options(capsys, "cache stats")["--quiet"] == (True, "torch-npu-builder.toml:4")


def test_commands_take_the_values_and_the_command_line_wins(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "torch-npu-builder.toml").write_text('pytorch = "v2.5.1-7.1.0"\n[list]\npython = ["3.9", "3.10"]\n')

    def ids(*more: str) -> set[str]:
        assert run(["list", "--json", "--arch=x86_64", *more]) == 0
        return {target["id"] for target in json.loads(capsys.readouterr().out)}

    assert ids() == {"v2.5.1-7.1.0-py3.9-x86_64", "v2.5.1-7.1.0-py3.10-x86_64"}
    assert ids("--python=3.11") == {"v2.5.1-7.1.0-py3.11-x86_64"}


def test_a_table_of_pyproject_toml(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyproject = folder / "pyproject.toml"
    pyproject.write_text(
        "[project]\nname = 'x'\n\n[tool.torch-npu-builder]\njobs = 2\n\n[tool.torch-npu-builder.plan]\narch = 'all'\n"
    )
    assert options(capsys)["--jobs"] == (2, "pyproject.toml:5")
    assert options(capsys, "plan")["--arch"] == (["all"], "pyproject.toml:8")
    (folder / "torch-npu-builder.toml").write_text("jobs = 5\n")
    assert options(capsys)["--jobs"] == (5, "torch-npu-builder.toml:1")
    (folder / "torch-npu-builder.toml").unlink()
    pyproject.write_text("not TOML at all, but nothing of ours\n")
    assert options(capsys)["--jobs"] == (None, "default")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("jobs = \n", ["torch-npu-builder.toml:1:8: not TOML"]),
        ("\njbos = 3\n", ["torch-npu-builder.toml:2: 'jbos'", "'jobs'"]),
        ("[bulid]\njobs = 3\n", ["torch-npu-builder.toml:1", "'bulid'", "'build'"]),
        ("[list]\njobs = 3\n", ["torch-npu-builder.toml:2: 'jobs' is no option of the command list"]),
        ("quiet = 'yes'\n", ["torch-npu-builder.toml:1: 'yes': expected true or false"]),
        ("jobs = [1, 2]\n", ["torch-npu-builder.toml:1: expected one value"]),
        ("jobs = true\n", ["torch-npu-builder.toml:1: True: expected text or a number"]),
        ("python = [{a = 1}]\n", ["torch-npu-builder.toml:1"]),
        ("jobs = 0\n", ["torch-npu-builder.toml:1", "--jobs", "x>=1"]),
        ('base-image = "a\\u001bb"\n', ["torch-npu-builder.toml:1", "control character"]),
        ("json = true\n[list.x]\n", ["torch-npu-builder.toml", "'x'"]),
        ("a = " + "[" * 3000 + "\n", ["torch-npu-builder.toml"]),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str], content: str, says: list[str]
) -> None:
    (folder / "torch-npu-builder.toml").write_text(content)
    assert run(["build", "--pytorch=2.5", "--dry-run", "--offline"]) == EXIT_BAD_REQUEST
    said = " ".join(capsys.readouterr().err.split())
    for each in says:
        assert each in said
    assert "Traceback" not in said


def test_not_a_file_not_text_too_large(folder: Path) -> None:
    file = folder / "torch-npu-builder.toml"
    os.mkfifo(file)
    with pytest.raises(RequestError, match="is no file"):
        read_project_file(folder, cli)
    file.unlink()
    file.write_bytes(b"# \xff\n")
    with pytest.raises(RequestError, match=r"toml:1: the file is not UTF-8"):
        read_project_file(folder, cli)
    with open(file, "wb") as stream:
        stream.truncate(1 << 33)
    with pytest.raises(RequestError, match="larger than 1 MiB"):
        read_project_file(folder, cli)


def test_a_file_above_does_not_count(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "torch-npu-builder.toml").write_text("jobs = 5\n")
    assert options(capsys)["--jobs"] == (None, "default")


def test_every_option_of_every_command_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("build", "nightly", "ledger rebuild", "completion"):
        options(capsys, command)
    assert run(["explain", "--options", "bulid"]) == EXIT_BAD_REQUEST
    assert "'build'" in capsys.readouterr().err
    assert run(["explain"]) == EXIT_BAD_REQUEST
    assert run(["explain", "v2.5.1-7.1.0", "--options"]) == EXIT_BAD_REQUEST
