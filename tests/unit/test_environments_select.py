"""What a plan finds out about this machine: once for all its targets, and anew for the next plan."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.environments import select
from builder.environments.engine import NoEngine
from builder.environments.interpreters import Answers, asked_once, find_interpreter, search
from builder.environments.select import Machine


class Programs:
    """Interpreters that say what they are told to, and count how often they were started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"PATH": f"{folder}:/usr/bin:/bin", "PYENV_ROOT": str(folder / "none")}

    def put(self, python: str, *, version: str | None = None, headers: bool = True) -> Path:
        program = self.folder / f"python{python}"
        answer = f'["{version or python + ".1"}", {str(headers).lower()}, true, "{os.uname().machine}", "x"]'
        program.write_text(f"#!/bin/sh\necho >> {self.folder}/started\necho '{answer}'\n")
        program.chmod(0o755)
        return program

    @property
    def started(self) -> int:
        return len((self.folder / "started").read_text().splitlines())


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def test_an_interpreter_is_started_once_for_a_plan(programs: Programs) -> None:
    program = programs.put("3.77")
    answers: Answers = {}
    for _ in range(3):
        with asked_once(answers):
            found = find_interpreter("3.77", programs.env)
        assert found is not None
        assert (found.path, found.version) == (program, "3.77.1")
    assert programs.started == 1
    with asked_once({}):
        assert find_interpreter("3.77", programs.env) == found
    assert programs.started == 2, "the next plan asks again"


def test_one_that_does_not_serve_is_started_once_too(programs: Programs) -> None:
    programs.put("3.77", headers=False)
    answers: Answers = {}
    reasons = []
    for _ in range(2):
        with asked_once(answers):
            found, why = search("3.77", programs.env)
        assert found is None
        reasons.append(why)
    assert reasons[0] == reasons[1]
    assert "lacks its headers" in reasons[0][0]
    assert programs.started == 1
    programs.put("3.77")
    assert find_interpreter("3.77", programs.env) is not None, "outside of a plan nothing is remembered"


def test_what_auto_means_does_not_change_in_the_middle_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [NoEngine("it is starting", "wait")]
    monkeypatch.setattr(select, "find_engine", lambda: answers.pop())
    machine = Machine()
    assert [machine.chosen("auto") for _ in range(3)] == ["host"] * 3
    assert machine.chosen("docker") == "docker"
    monkeypatch.setattr(select, "find_engine", lambda: object())
    assert (machine.chosen("auto"), Machine().chosen("auto")) == ("host", "docker")
