"""The pages: links lead somewhere, every page can be reached, and commands have the options that are shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from builder.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *(ROOT / name / "README.md" for name in ("examples", "benchmarks", "patches", "docker", "builder/payload")),
    ]
)
_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?:python -m builder|torch-npu-builder)(?= |$)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What headings are called in links, as GitHub and GitLab do it."""
    headings = re.findall(r"^#+ (.+?) *$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[tuple[Path, str]]:
    """The files of this project that a page links to, with the heading where one is meant."""
    found = []
    for target in _LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if "://" not in target:
            file, _, heading = target.partition("#")
            found.append(((page.parent / file).resolve() if file else page, heading))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for file, heading in links(page):
        assert file.exists(), f"{name_of(page)} links to {file}"
        assert not heading or heading in anchors(file), f"{name_of(page)} links to #{heading} of {file}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        new = {file for page in new if page.suffix == ".md" for file, _ in links(page)} - reached
    assert [name_of(page) for page in PAGES if page not in reached] == []


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of a page, as lists of words behind the program's name."""
    text = re.sub(r"\\\n\s*", " ", text)
    for line in text.splitlines():
        for match in _COMMAND.finditer(line):
            # Up to what belongs to the shell, is a comment, or ends the quotation.
            rest = re.split(r"`|\s#|\s[|>]|\s?&&|;|\$\(|\)", line[match.end() :])[0]
            yield [word.strip("'\",[]") for word in rest.split()]


def fault(words: list[str]) -> str | None:
    """What is wrong with a command line: a command or an option that there is not."""
    command: click.Command = cli
    if not words or words[0] in ("--help", "--version"):
        return None
    if words[0].startswith(("-", "...")):
        command = cli.commands["build"]
    while isinstance(command, click.Group):
        if not words or words[0] not in command.commands:
            return f"no command {words[:1]}"
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    return f"{command.name} has no option {unknown}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_those_of_the_command_line(page: Path) -> None:
    faults = [(words, why) for words in commands(page.read_text(encoding="utf-8")) if (why := fault(words))]
    assert faults == []


def test_a_wrong_command_would_be_noticed() -> None:
    text = (
        "see `python -m builder nightly x --dry-run`\n    python -m builder plan --pytorch=2.5 \\\n  --no-such 8 > x\n"
    )
    first, second = commands(text)
    assert (first, second) == (["nightly", "x", "--dry-run"], ["plan", "--pytorch=2.5", "--no-such", "8"])
    assert fault(first) is None
    assert fault(second) == "plan has no option ['--no-such']"
    assert fault(["nihgtly"]) == "no command ['nihgtly']"
    assert fault(["ledger", "rebuilt"]) == "no command ['rebuilt']"
    assert fault(["--pytorch=2.5", "--paralel", "2"]) == "build has no option ['--paralel']"


def test_every_session_of_the_project_is_there() -> None:
    sessions = re.findall(
        r"^def ([a-z]+)\(session: nox\.Session\)", (ROOT / "noxfile.py").read_text(), flags=re.MULTILINE
    )
    assert set(sessions) == {
        *("build", "unit", "tests", "hostile", "lint", "types", "demo", "docs", "package", "bench")
    }
