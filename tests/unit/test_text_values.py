"""Text from the command line and the environment: trimmed, and free of what no value has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from builder import __main__ as program
from builder.cli.options import FOLDER, WORKSPACE, option, options, several
from builder.core.errors import EXIT_BAD_REQUEST, RequestError
from builder.core.process_start import clean_environment, is_on


@click.command()
@options(WORKSPACE, option("--base-image"), several("--python"), option("--find-links", type=FOLDER, multiple=True))
@click.pass_context
def command(ctx: click.Context, **values: Any) -> None:
    ctx.obj.update(values)


def read(*arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    done = CliRunner().invoke(command, list(arguments), env=env, obj=found)
    if done.exit_code:
        raise ValueError(done.output)
    return found


def test_values_are_trimmed_wherever_they_are_from(tmp_path: Path) -> None:
    wheels = f" {tmp_path}\n"
    env = {"BUILDER_BASE_IMAGE": "image:1\n", "BUILDER_WORKSPACE": f"{tmp_path}/x\n", "BUILDER_PYTHON": "3.9 3.10\n"}
    for found in (
        read(env={**env, "BUILDER_FIND_LINKS": wheels}),
        read(
            "--base-image",
            " image:1\r\n",
            "--workspace",
            f"{tmp_path}/x\n",
            "--python=3.9, 3.10 ",
            "--find-links",
            wheels,
        ),
    ):
        assert found["base_image"] == "image:1"
        assert found["workspace"] == tmp_path / "x"
        assert found["python"] == ("3.9", "3.10")
        assert found["find_links"] == (tmp_path.resolve(),)


@pytest.mark.parametrize("value", ["a\nb", "a\x1b[31mb", "a\x7fb", "\x01"])
def test_control_characters_are_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        read("--base-image", value)
    with pytest.raises(ValueError, match="control character"):
        read(env={"BUILDER_BASE_IMAGE": value})


def test_variables_that_are_no_options_are_cleaned_too() -> None:
    env = {"BUILDER_CA_BUNDLE": "/x\n", "BUILDER_REMOTE_CACHE_PASSWORD": " secret\n", "OTHER": "y\n"}
    clean_environment(env)
    assert env == {"BUILDER_CA_BUNDLE": "/x", "BUILDER_REMOTE_CACHE_PASSWORD": " secret", "OTHER": "y\n"}
    with pytest.raises(RequestError, match="BUILDER_CA_BUNDLE") as caught:
        clean_environment({"BUILDER_CA_BUNDLE": "/x\x1b[0m"})
    assert "unset" in str(caught.value.hint)
    with pytest.raises(RequestError) as caught:
        clean_environment({"BUILDER_REMOTE_CACHE_PASSWORD": "sec\x1bret"})
    assert "sec" not in caught.value.message


@pytest.mark.parametrize(
    ("value", "on"), [("0", False), ("false", False), ("no\n", False), ("", False), ("1", True), ("on", True)]
)
def test_a_switch_says_what_it_says(value: str, on: bool) -> None:
    assert is_on(value) is on


@pytest.mark.parametrize(("value", "traceback"), [("0", False), ("1", True), (None, False)])
def test_debug_shows_where_and_changes_no_exit_code(
    value: str | None,
    traceback: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUILDER_DEBUG", value) if value is not None else monkeypatch.delenv(
        "BUILDER_DEBUG", raising=False
    )
    assert program.run(["plan", "--pytorch=9.9.9"]) == EXIT_BAD_REQUEST
    said = capfd.readouterr().err
    assert ("Traceback" in said) is traceback
    assert "9.9.9" in said
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments", [("ledger", "rebuild", "--output="), ("cache", "clear", "--workspace=")])
def test_a_path_that_no_file_system_takes_is_the_users(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    *command, option_name = arguments
    assert program.run([*command, f"{option_name}{'x' * 100_000}"]) == EXIT_BAD_REQUEST
    said = capsys.readouterr().err
    assert "File name too long" in said
    assert "next step: give a path that the file system takes" in said
    assert len(said) < 1000
