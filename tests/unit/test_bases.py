"""Scripts that make base images refuse what they cannot make before they touch anything."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEBIAN, LOAD, ENTERPRISE = (
    ROOT / name for name in ("docker/bases/debian.sh", "docker/bases/load.sh", "tests/bases/enterprise.sh")
)


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        (DEBIAN, ["--suite", "buster"], "--suite buster: expected bookworm, bullseye or trixie"),
        (DEBIAN, ["--suite", "trixie", "--with-bullseye-python"], "--with-bullseye-python belongs to bookworm"),
        (DEBIAN, ["--gcc", "11.3"], "--gcc 11.3: expected a major version, for example 11"),
        (DEBIAN, ["--gcc", "11,make"], "--gcc 11,make: expected a major version"),
        (DEBIAN, ["--gcc"], "--gcc needs a value"),
        (DEBIAN, ["--python", "3.11"], "--python 3.11: expected VERSION=PREFIX"),
        (DEBIAN, ["--python", "3.11=/nowhere"], "there is no /nowhere/bin/python3.11"),
        (DEBIAN, ["--compiler", "11"], "unknown option --compiler"),
        (ENTERPRISE, ["--release", "9"], "--release 9: expected 7 or 8"),
        (ENTERPRISE, ["--release"], "--release needs a value"),
        (ENTERPRISE, ["full"], "unknown option full"),
        (LOAD, ["--arch", "mips", "x.tar"], "--arch 'mips': expected amd64 or arm64"),
        (LOAD, ["--arch", "amd64", "--tag", "x"], "no layer stands before --tag x"),
        (LOAD, ["--tag", "x"], "--arch is missing before --tag x"),
        (LOAD, ["--arch", "amd64", "--env", 'A="'], "holds a quote, a backslash or a line break"),
        (LOAD, ["--arch", "amd64", "--label", "A=\n"], "holds a quote, a backslash or a line break"),
        (LOAD, ["--speed", "1"], "unknown option --speed"),
        (LOAD, ["--arch"], "--arch needs a value"),
        (LOAD, [], "--tag is missing"),
    ],
)
def test_wrong_requests_are_told_before_anything_is_made(script: Path, arguments: list[str], says: str) -> None:
    done = subprocess.run(["sh", str(script), *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{script.name}: error: ")
    assert says in done.stderr


@pytest.mark.parametrize("script", [DEBIAN, ENTERPRISE])
def test_every_option_is_in_the_help(script: Path) -> None:
    shown = subprocess.run(["sh", str(script), "--help"], capture_output=True, text=True, check=True).stdout
    # Patterns of a case begin a line and end in a parenthesis.
    cases = re.findall(r"^ +(--[a-z-]+(?: \| --?[a-z-]+)*)\)", script.read_text(), re.MULTILINE)
    options = {option for case in cases for option in case.split(" | ")} - {"-h"}
    assert len(options) > 3
    assert all(re.search(rf"^  {option} ", shown, re.MULTILINE) for option in options - {"--help"}), options
