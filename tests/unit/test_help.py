"""What ``--help`` says: at 80 columns, options by subject, examples that can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from builder.cli.help import OWN, SECTIONS, Command, Group, Option
from builder.cli.main import cli


def commands(group: click.Group = cli, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Each command with its name behind the program's, groups among them."""
    for own, command in group.commands.items():
        yield f"{name} {own}".strip(), command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {own}".strip())


ALL = dict(commands())


def shown(*words: str) -> str:
    return CliRunner().invoke(cli, [*words, "--help"], terminal_width=80, prog_name="torch-npu-builder").output


@pytest.mark.parametrize("name", ["", *ALL])
def test_help_fits_80_columns(name: str) -> None:
    lines = shown(*name.split()).splitlines()
    assert lines[0].startswith(f"Usage: torch-npu-builder {name}".strip())
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("name", ALL)
def test_options_stand_by_subject(name: str) -> None:
    command = ALL[name]
    options = [each for each in command.params if isinstance(each, Option)]
    assert {each.section for each in options} <= {None, *SECTIONS}
    text = shown(*name.split())
    titles = re.findall(r"^(\S[^:\n]*):$", text, flags=re.MULTILINE)
    assert [title for title in titles if title in SECTIONS] == sorted(set(titles) & set(SECTIONS), key=SECTIONS.index)
    for each in options:
        section = text.split(f"\n{each.section or OWN}:\n")[1].split("\n\n")[0]
        assert re.search(rf"^  (-\w, )?{each.opts[0]}\b", section, flags=re.MULTILINE), each.opts


def test_every_command_can_be_found_in_the_overview() -> None:
    text = shown()
    for name, command in cli.commands.items():
        assert isinstance(command, (Command, Group))
        assert command.section != OWN, f"{name} stands in no section of the overview"
        assert re.search(rf"^  {name} ", text, flags=re.MULTILINE)
    common = text.split("Options of a build")[1].split("\n\n")[0]
    assert re.findall(r"^  --([a-z-]+)", common, flags=re.MULTILINE)[:3] == ["pytorch", "python", "arch"]


def test_a_command_that_belongs_to_no_section_would_be_noticed() -> None:
    assert Command("new").section == OWN


@pytest.mark.parametrize("name", ["", *ALL])
def test_examples_can_be_typed(name: str) -> None:
    """Each is taken as it stands by the command that it is an example of."""
    command = ALL[name] if name else cli
    for example in getattr(command, "examples", ()):
        line = re.split(r"\s{2,}", example)[0]  # what stands behind it says what it does
        program, *words = shlex.split(line)
        assert program == "torch-npu-builder"
        group: click.Group = cli
        context = cli.make_context(program, words)
        while True:
            # click keeps the command's own words here before it is called.
            _, found, rest = group.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None
            context = found.make_context(found.name, rest, parent=context)
            if not isinstance(found, click.Group):
                break
            group = found
        assert not name or found is command


def test_commands_that_people_type_have_examples() -> None:
    without = {name for name, command in ALL.items() if not getattr(command, "examples", ())}
    assert without <= {"ledger", "ledger rebuild", "doctor", "cache", "cache stats", "completion"}


@pytest.mark.parametrize(
    ("words", "incomplete", "expected", "not_expected"),
    [
        ("", "--py", "--pytorch", "--json"),
        ("", "bui", "build", "--pytorch"),
        ("--pytorch 2.5", "--dry", "--dry-run", "--json"),
        ("list", "--js", "--json", "--jobs"),
        ("", "--vers", "--version", "--verbose"),
    ],
)
def test_options_without_a_command_complete_as_those_of_a_build(
    words: str, incomplete: str, expected: str, not_expected: str
) -> None:
    from click.shell_completion import ShellComplete

    found = ShellComplete(cli, {}, "torch-npu-builder", "X").get_completions(words.split(), incomplete)
    values = [item.value for item in found]
    assert expected in values
    assert not_expected not in values
    assert len(values) == len(set(values))
