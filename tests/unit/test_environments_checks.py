"""What the machine has: the engine's absence, architectures, memory, interpreters, each with its next step."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from builder.core.errors import EXIT_MACHINE_LACKS, MachineError
from builder.environments import checks
from builder.environments.docker_engine import NoEngine, engine, find_engine
from builder.environments.interpreters import find_interpreter, need_interpreter, search


def test_a_missing_engine_is_named_with_the_next_step(tmp_path: Path) -> None:
    env = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    found = find_engine(env)
    assert isinstance(found, NoEngine)
    assert "none.sock" in found.reason
    assert "named by DOCKER_HOST" in found.reason
    assert found.hint == "start that engine, or correct DOCKER_HOST"
    assert not found.absent, "it was named: auto must not pass it over"
    with pytest.raises(MachineError) as raised:
        engine(env)
    assert raised.value.exit_code == EXIT_MACHINE_LACKS
    assert raised.value.hint is not None
    assert "--environment host" in raised.value.hint
    check = checks.check_engine(found)
    assert (check.status, check.text) == ("fail", found.reason)
    # Where nothing is, builds go to the host.
    assert checks.check_engine(NoEngine("nothing", "install one")).status == "warn"


def test_a_context_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    found = find_engine({"DOCKER_CONTEXT": "nowhere-7"})
    assert isinstance(found, NoEngine)
    assert "nowhere-7" in found.reason


def test_architectures_follow_binfmt(tmp_path: Path) -> None:
    own = os.uname().machine
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[own]
    none = NoEngine("", "")

    def of(arch: str) -> checks.Check:
        return next(check for check in checks.check_architectures(none, tmp_path) if arch in check.name)

    assert of(own).status == "ok"
    missing = of(other)
    assert missing.status == "warn"
    assert missing.advice is not None
    assert "qemu-user-static" in missing.advice
    entry = tmp_path / f"qemu-{other}"
    entry.write_text("enabled\ninterpreter /usr/bin/qemu\nflags: OC\n")
    assert of(other).status == "warn"
    entry.write_text("enabled\ninterpreter /usr/bin/qemu\nflags: OCF\n")
    assert of(other).status == "ok"
    entry.write_text("disabled\ninterpreter /usr/bin/qemu\nflags: OCF\n")
    assert of(other).status == "warn"


def test_little_disk_and_memory_fail_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "free_bytes", lambda _: 3 << 30)
    disk = checks.check_disk(tmp_path)
    assert (disk.status, "3.0 GiB" in disk.text) == ("fail", True)
    monkeypatch.setattr(checks, "free_bytes", lambda _: 400 << 30)
    assert checks.check_disk(tmp_path).status == "ok"
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        2097152 kB\n")
    assert checks.check_memory(meminfo).status == "fail"
    meminfo.write_text("MemTotal:     4194304000 kB\n")
    assert checks.check_memory(meminfo).status == "ok"


def test_git_is_found_and_its_absence_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert checks.check_git().status == "ok"
    old = tmp_path / "git"
    old.write_text("#!/bin/sh\necho git version 1.8.3\n")
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checks.check_git().status == "fail"
    old.unlink()
    assert checks.check_git().text == "git is missing"


def test_an_interpreter_that_does_not_serve_is_named_with_its_reason(tmp_path: Path) -> None:
    program = tmp_path / "python3.77"
    program.write_text('#!/bin/sh\necho \'["3.76.1", true, true, "\'$(uname -m)\'", "x", ""]\'\n')
    program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYENV_ROOT": str(tmp_path / "none")}
    found, reasons = search("3.77", env)
    assert found is None
    assert reasons == [f"{program} is Python 3.76.1"]
    with pytest.raises(MachineError) as raised:
        need_interpreter("3.77", env)
    assert str(program) in str(raised.value.details)
    program.write_text('#!/bin/sh\necho \'["3.77.1", false, true, "\'$(uname -m)\'", "x", ""]\'\n')
    assert search("3.77", env)[1] == [f"{program} lacks its headers (Python.h)"]


def test_the_newest_pyenv_release_wins(tmp_path: Path) -> None:
    for release in ("3.77.2", "3.77.10", "3.7.7"):
        program = tmp_path / "versions" / release / "bin" / "python3.77"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\necho \'["{release}", true, true, "\'$(uname -m)\'", "x", ""]\'\n')
        program.chmod(0o755)
    found = find_interpreter("3.77", {"PATH": "/usr/bin:/bin", "PYENV_ROOT": str(tmp_path)})
    assert found is not None
    assert (found.version, found.origin) == ("3.77.10", "pyenv")


def test_nothing_heavy_is_imported_with_the_package() -> None:
    import subprocess

    script = (
        "import sys, builder.environments.docker, builder.environments.host, builder.environments.checks\n"
        "print([name for name in ('docker', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
