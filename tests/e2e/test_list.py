"""``list``, ``explain`` and the selection of a build through the command line, on terminals and in pipes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len
from small_matrix import DAY, write_matrix
from support import CommandLine

from builder.__main__ import run
from builder.matrix.loader import load_matrix
from builder.matrix.model import ReleaseLine
from builder.matrix.selection import minors_and_pythons

ROOT = Path(__file__).parents[2]
AS_OF = f"--as-of={DAY}"


@pytest.fixture
def small(cli: CommandLine) -> str:
    """The option that gives the small matrix."""
    return f"--matrix={write_matrix(cli.folder / 'matrices')}"


def on_terminal(*arguments: str, columns: int, **environment: str) -> str:
    """What ``python -m builder`` writes to a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "FORCE_COLOR"}}
    with subprocess.Popen(
        [sys.executable, "-m", "builder", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=ROOT,
        env={**plain, "TERM": "xterm-256color", **environment},
    ) as process:
        os.close(slave)
        written = b""
        while True:
            try:
                part = os.read(master, 1 << 16)
            except OSError:  # Linux's way to say that nobody has the other end open any more
                break
            if not part:
                break
            written += part
    os.close(master)
    assert process.returncode == 0, written.decode()
    return written.decode().replace("\r\n", "\n")


def uncoloured(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("columns", [80, 100, 140])
@pytest.mark.parametrize("command", [["list", "--channel=all"], ["explain", "v2.6.0-7.1.0-py3.9-aarch64"]])
def test_on_a_terminal(command: list[str], columns: int) -> None:
    text = on_terminal(*command, columns=columns)
    assert "\x1b[" in text
    assert max(map(cell_len, uncoloured(text).splitlines())) <= columns
    assert re.search(r"^ *(release line +)?v2\.6\.0-7\.1\.0\b", uncoloured(text), flags=re.MULTILINE)


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("NO_COLOR", "1")])
def test_on_a_terminal_without_colour(name: str, value: str) -> None:
    text = on_terminal("list", columns=80, **{name: value})
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text)
    assert max(map(cell_len, uncoloured(text).splitlines())) <= 80
    assert "v2.6.0-7.1.0" in text


def test_in_a_pipe(cli: CommandLine) -> None:
    ran = cli("list", "--channel=all", env={"COLUMNS": "40"})
    assert ran.code == 0, ran.text
    assert "\x1b" not in ran.text
    rows = {line.split()[0]: line for line in ran.out.splitlines() if line}
    for line in load_matrix().releases:
        assert line.phase.describe() in rows[line.branch]


def test_a_reader_that_goes_away(cli: CommandLine) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m builder list --json --channel all | head -n 1"],
        cwd=cli.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["list", "--json"],
        ["list", "--markdown"],
        ["list", "--help"],
        ["explain", "v2.6.0-7.1.0"],
        ["explain", "v2.6.0-7.1.0", "--json"],
        ["completion", "bash"],
        ["plan", "--pytorch=2.6", "--offline", "--quiet"],
        ["history"],
        ["history", "--json"],
    ],
)
def test_a_closed_pipe_is_no_failure(cli: CommandLine, command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "builder", *command],
            cwd=cli.folder,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_plan_in_a_pipe_has_no_trailing_blanks(cli: CommandLine, small: str) -> None:
    plan = ["plan", "--pytorch=2.5", "--python=3.9", "--offline", small, AS_OF]
    ran = cli(*plan)
    assert ran.code == 1, ran.text
    lines = ran.out.splitlines()
    assert any(line.startswith("v2.5.1-7.1.0-py3.9-") for line in lines)
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("options", [["--python=3.12"], ["--skip=v2.5*"], ["--arch=aarch64"]])
def test_an_audit_narrowed_by_cells_keeps_development_branches(
    options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[set[str]] = []

    def run_audit(_matrix: object, lines: list[ReleaseLine], *_arguments: object, **_options: object) -> int:
        asked.append({line.branch for line in lines})
        return 0

    monkeypatch.setattr("builder.audit.command.run_audit", run_audit)
    matrix = f"--matrix={write_matrix(tmp_path)}"
    assert run(["audit", *options, matrix, AS_OF]) == 0
    assert run(["audit", *options, "--channel=release", matrix, AS_OF]) == 0
    assert {"master", "v2.7.1"} <= asked[0]
    assert asked[1] == {branch for branch in asked[0] if branch.count("-")}


def test_json(cli: CommandLine, small: str) -> None:
    ran = cli("list", "--json", "--cann=8.2.RC1", "--arch=aarch64", "--python=>=3.10,<3.11", small, AS_OF)
    assert [target["id"] for target in json.loads(ran.out)] == [
        f"{branch}-py3.10-aarch64" for branch in ("v2.1.0-7.1.0", "v2.5.1-7.1.0", "v2.6.0-7.1.0")
    ]
    ran = cli("explain", "v2.6.0-7.1.0", "--json", small, AS_OF)
    facts = json.loads(ran.out)
    assert facts["as_of"] == str(DAY)
    assert {fact["place"].partition(":")[0] for fact in facts["facts"] if fact["name"] == "CANN"} == {
        "matrices/pytorch-2.6.yaml"
    }


def test_the_command_of_the_project_s_page_makes_it(cli: CommandLine) -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    command = re.search(r"^    python -m builder (.+)$", page, flags=re.MULTILINE)
    assert command is not None
    ran = cli(*command[1].split())
    assert ran.code == 0, ran.text
    assert ran.out == page


@pytest.mark.parametrize(
    ("variable", "value", "branches"),
    [
        ("BUILDER_PYTORCH", "2.1", {"v2.1.0-6.0.0", "v2.1.0-7.1.0"}),
        ("BUILDER_RELEASE", "7.2.0,26.0.0", {"v2.6.0-7.2.0", "v2.7.1-26.0.0"}),
        ("BUILDER_CANN", "8.1.RC1", {"v2.5.1-7.0.0"}),
        ("BUILDER_STATUS", "unmaintained", {"v2.5.1-7.0.0", "v2.5.1-7.1.0"}),
        ("BUILDER_CHANNEL", "nightly", {"v2.1.0", "v2.5.1", "v2.7.1", "master"}),
        ("BUILDER_TARGET", "v2.5*-aarch64", {"v2.5.1-7.0.0", "v2.5.1-7.1.0"}),
        ("BUILDER_PYTHON", "3.7", {"v1.5.0-3.0.0", "v1.8.1-3.0.0"}),
    ],
)
def test_each_option_has_its_variable(
    cli: CommandLine, small: str, variable: str, value: str, branches: set[str]
) -> None:
    ran = cli("list", "--json", small, AS_OF, env={variable: value})
    assert {target["branch"] for target in json.loads(ran.out)} == branches
    option = f"--{variable.removeprefix('BUILDER_').lower()}={value}"
    assert cli("list", "--json", small, AS_OF, option).out == ran.out


def test_skip_and_the_day_have_variables_too(cli: CommandLine, small: str) -> None:
    ran = cli("list", "--json", small, env={"BUILDER_SKIP": "v2*", "BUILDER_AS_OF": "2020-01-01"})
    assert {(target["branch"], target["status"]) for target in json.loads(ran.out)} == {
        ("v1.5.0-3.0.0", "planned"),
        ("v1.8.1-3.0.0", "planned"),
    }


@pytest.mark.parametrize("day", ["2026-13-01", "2026-02-30", "20260101", "2026-W01-1", "today", ""])
def test_a_day_that_is_none(cli: CommandLine, day: str) -> None:
    ran = cli("list", f"--as-of={day}", env={"COLUMNS": "200"})
    assert ran.code == 2
    assert f"{day!r} is no day; expected YYYY-MM-DD" in ran.text


def dry(cli: CommandLine, *arguments: str) -> tuple[list[str], list[str]]:
    """The warnings of a build, and what it would build: nothing can be here, in an empty folder."""
    ran = cli("build", "--dry-run", "--offline", *arguments)
    assert ran.code == 1, ran.text
    targets = re.findall(r"^(\S+-py3\.\d+-\w+) +error\b", ran.out, flags=re.MULTILINE)
    return re.findall(r"warning: (.+)", ran.text), targets


def test_a_build_of_a_line_at_its_end_says_so(cli: CommandLine, small: str) -> None:
    line = ("--pytorch=2.1", "--python=3.9,3.10", "--arch=x86_64", small)
    targets = ["v2.1.0-7.1.0-py3.9-x86_64", "v2.1.0-7.1.0-py3.10-x86_64"]
    warning = "v2.1.0-7.1.0 is end-of-life since 2025-12-30: upstream takes no more changes"
    assert dry(cli, *line, AS_OF) == ([warning], targets)
    assert dry(cli, *line, AS_OF, "--quiet") == ([warning], targets)
    assert dry(cli, *line, "--as-of=2025-01-01") == ([], targets)


def test_a_build_of_a_glob_leaves_out_what_cannot_be_built(cli: CommandLine, small: str) -> None:
    warnings, targets = dry(cli, "--target=v2.7.1-26*-py3.10-x86_64", small, AS_OF)
    assert warnings == [
        "left out v2.7.1-26.1.0: wheels of it are released, but the branch that they were built from is not known"
    ]
    assert targets == ["v2.7.1-26.0.rc1-py3.10-x86_64", "v2.7.1-26.0.0-py3.10-x86_64"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--pytorch=1.5"], ["v1.5.0-3.0.0 cannot be built: the branch has no ci/build.sh", "v1.8.1-3.0.0"]),
        (["--status=maintained"], ["--pytorch is missing", "--target '*'"]),
        (["--pytorch=", "--cann=8.2.RC1"], ["--pytorch: '' cannot be the name"]),
        (
            ["--pytorch=2.6", "--cann=8.1.RC1"],
            ["--cann 8.1.RC1 leaves none of the 16 targets that --pytorch 2.6 selects"],
        ),
        (["--cann=8.2.RC2"], ["no release line is for CANN '8.2.RC2'", "did you mean 8.2.RC1"]),
        (["--target=v2.5.1-7.1.9*"], ["no target is called", "did you mean v2.5.1-7.1.0-py3"]),
    ],
)
def test_wrong_selections(cli: CommandLine, small: str, arguments: list[str], says: list[str]) -> None:
    ran = cli("build", *arguments, small, AS_OF)
    assert ran.code == 2
    assert "Traceback" not in ran.text
    for words in says:
        assert words in ran.text
    assert not cli.build.exists()


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("list --cann 8.2", "8.2.RC1"),
        ("list --status main", "maintained"),
        ("list --channel n", "nightly"),
        ("list --release 7.1", "7.1.0"),
        ("list --python 3.9,3.1", "3.9,3.11"),
        ("build --target v2.6.0-7.1.0-py3.9-a", "v2.6.0-7.1.0-py3.9-aarch64"),
        ("build --skip v2.6.0-7.1.0-py3.9-x", "v2.6.0-7.1.0-py3.9-x86_64"),
        ("explain v2.6.0-7.1", "v2.6.0-7.1.0"),
        ("build --pytorch mas", "master"),
    ],
)
def test_completion(cli: CommandLine, words: str, completed: str) -> None:
    typed = f"torch-npu-builder {words}"
    completing = {
        "_TORCH_NPU_BUILDER_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    assert f"plain,{completed}" in cli(env=completing).out.splitlines()


def test_the_demo_takes_only_what_it_can_use(cli: CommandLine) -> None:
    text = cli("demo", "--help").text
    assert "--pytorch" in text
    assert "--status" not in text


def test_nox_has_a_session_for_each_minor_and_python() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nox", "--list", "--nocolor"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    sessions = set(re.findall(r"^[*-] (\S+) ->", done.stdout, flags=re.MULTILINE))
    expected = {f"build-{minor}-py{python}" for minor, python in minors_and_pythons(load_matrix())}
    assert {name for name in sessions if name.startswith("build-")} == expected
    assert {"build", "tests", "lint", "types", "demo"} <= sessions
