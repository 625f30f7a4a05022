"""What a plan finds out about this machine: once for all its targets, and anew for the next plan."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.core.errors import EXIT_MACHINE_LACKS, FailureKind, MachineError, TargetError
from builder.environments import docker, host, select
from builder.environments.docker_engine import DockerEngine, NoEngine
from builder.environments.interface import EnvironmentRequest
from builder.environments.interpreters import Answers, asked_once, find_interpreter, search
from builder.environments.select import Machine, environment_identity, ready_environment
from builder.progress.reporter import Reporter


class Programs:
    """Interpreters that say what they are told to, and count how often they were started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"PATH": f"{folder}:/usr/bin:/bin", "PYENV_ROOT": str(folder / "none")}

    def put(self, python: str, *, version: str | None = None, headers: bool = True) -> Path:
        program = self.folder / f"python{python}"
        answer = f'["{version or python + ".1"}", {str(headers).lower()}, true, "{os.uname().machine}", "x", ""]'
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


def test_a_run_that_began_in_containers_does_not_go_on_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = DockerEngine(None, "unix:///x", {"ServerVersion": "7.7"})  # type: ignore[arg-type]
    away = NoEngine("nothing listens", "start it")
    answers: list[DockerEngine | NoEngine] = []
    monkeypatch.setattr(select, "find_engine", lambda: answers.pop(0))
    monkeypatch.setattr(docker, "ready_docker", lambda *_, **__: "container")
    monkeypatch.setattr(host, "ready_host", lambda *_, **__: "host")

    def ready(machine: Machine, kind: str = "auto") -> Any:
        request = EnvironmentRequest("x86_64", "3.11", "2.5.1", "pypi", (), "base", ())
        return ready_environment(
            kind, request, docker=tmp_path, host=tmp_path, log=tmp_path / "log", reporter=Reporter(quiet=True),
            offline=True, machine=machine,
        )  # fmt: skip

    run = Machine()
    answers[:] = [away, there, away, there]
    # Before there was one, a host is what auto means.
    assert [ready(run), ready(run)] == ["host", "container"]
    with pytest.raises(TargetError, match="is away: nothing listens") as raised:
        ready(run)
    assert raised.value.kind is FailureKind.ENGINE
    assert raised.value.kind.passing
    assert raised.value.exit_code == EXIT_MACHINE_LACKS
    assert raised.value.hint == "start it; then the same command builds what is left"
    assert ready(run) == "container", "it is back"
    assert ready(run, "host") == "host", "who asks for the host gets it"
    answers[:] = [away]
    assert ready(Machine()) == "host", "another run asks anew"


def test_an_engine_that_is_there_and_refuses_is_no_reason_for_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses = NoEngine("it is too old", "install a newer one", absent=False)
    monkeypatch.setattr(select, "find_engine", lambda: refuses)
    monkeypatch.setattr(host, "ready_host", lambda *_, **__: "host")
    request = EnvironmentRequest("x86_64", "3.11", "2.5.1", "pypi", (), "base", ())

    def ready(kind: str) -> Any:
        return ready_environment(
            kind, request, docker=tmp_path, host=tmp_path, log=tmp_path / "log", reporter=Reporter(quiet=True),
            offline=True, machine=Machine(),
        )  # fmt: skip

    def identity(kind: str) -> Any:
        return environment_identity(
            kind, request, docker=tmp_path, host=tmp_path, offline=True, machine=Machine()
        )  # fmt: skip

    calls: list[Callable[[], Any]] = [lambda: ready("auto"), lambda: identity("auto"), lambda: identity("docker")]
    for call in calls:
        with pytest.raises(MachineError, match="it is too old") as raised:
            call()
        assert raised.value.hint == "install a newer one; --environment host builds without an engine"
    assert ready("host") == "host"
    monkeypatch.setattr(select, "find_engine", lambda: NoEngine("nothing there", "install one"))
    assert ready("auto") == "host"
    assert identity("docker") is None
