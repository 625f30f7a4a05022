"""Faults of the machine are told as the machine's, and no night takes them for the sources'."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from nightly_support import FRIDAY, SATURDAY, World
from nightly_support import C as TARGET

from builder.cluster.messages import SentError
from builder.compilation.output_parser import OutputReader
from builder.core.errors import EXIT_MACHINE_LACKS, FailureKind, TargetError
from builder.environments.image_inputs import Log, script_failure
from builder.environments.interface import Outcome, Paths
from builder.environments.network import NetworkSettings
from builder.matrix.loader import load_matrix
from builder.sources.build_scripts import SetupScript
from builder.target.deadlines import machine_errors
from builder.target.diagnosis import check_generated, compile_failure, sources_failure
from builder.wheels.repair import take_wheel

GENERATION = "Traceback (most recent call last):\n  File 'gen.py', line 1, in <module>\n"
COMPILING = "running build\n"


def read(text: str) -> OutputReader:
    reader = OutputReader(Paths().written)
    for line in text.splitlines():
        reader.feed(line)
    reader.finish()
    return reader


def failure(text: str, code: int = 1) -> TargetError:
    return compile_failure(read(text), Outcome(code, 1.0), None)


@pytest.mark.parametrize(
    "text",
    [
        GENERATION + "PermissionError: [Errno 13] Permission denied: '/work/pytorch/torch_npu/csrc/aten/x.cpp'",
        GENERATION + "OSError: [Errno 30] Read-only file system: '/out/codegen'",
        GENERATION + "OSError: [Errno 5] Input/output error",
        "sed: couldn't open temporary file ./sedAb12Cd: Permission denied",
        "mkdir: cannot create directory '/work/pytorch/build': Read-only file system",
        "ci/build.sh: line 12: /out/log: Permission denied",
        COMPILING + "cc1plus: fatal error: /work/pytorch/a.h: Permission denied\ncompilation terminated.",
        COMPILING + "a.cpp:1:10: fatal error: opening dependency file build/a.d: Input/output error",
        COMPILING + "/usr/bin/ld: cannot open output file /work/pytorch/build/x.so: Permission denied",
        COMPILING + "error: could not create 'build': Permission denied",
    ],
)
def test_folders_of_a_build_that_fail_are_the_machines(text: str) -> None:
    error = failure(text)
    assert (error.kind, error.exit_code) == (FailureKind.MACHINE, EXIT_MACHINE_LACKS)
    assert any(word in error.message for word in ("Permission denied", "Read-only", "Input/output"))
    assert "YAML" not in str(error.hint)


@pytest.mark.parametrize("text", ["cp: error writing 'a': Disk quota exceeded", COMPILING + "No space left on device"])
def test_a_full_disk_is_the_machines(text: str) -> None:
    error = failure(text)
    assert (error.kind, error.exit_code) == (FailureKind.DISK, EXIT_MACHINE_LACKS)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # What a source has no business with, or says before the machine fails.
        ("cp: cannot create regular file '/usr/lib/x': Permission denied", FailureKind.CODE_GENERATION),
        (GENERATION + "KeyError: 'func'\nrm: cannot remove 'x': Permission denied", FailureKind.CODE_GENERATION),
        (COMPILING + "a.cpp:1:1: error: expected ';'\nrm: cannot remove 'x': Permission denied", FailureKind.COMPILE),
        (COMPILING + 'a.cpp:1:1: error: "Permission denied" was not declared', FailureKind.COMPILE),
        (COMPILING + "git@example.org: Permission denied (publickey).\nmake: *** [x] Error 1", FailureKind.COMPILE),
    ],
)
def test_a_fault_of_the_sources_stays_theirs(text: str, kind: FailureKind) -> None:
    error = failure(text)
    assert error.kind is kind
    assert error.conclusive


def test_a_compile_error_after_a_fault_of_the_machine_says_nothing_for_sure() -> None:
    error = failure(COMPILING + "cp: cannot create 'x.h': Permission denied\na.cpp:1:1: error: x.h is wrong")
    assert (error.kind, error.conclusive) == (FailureKind.COMPILE, False)
    assert "error: x.h is wrong" in error.message
    assert "cp: cannot create 'x.h': Permission denied" in str(error.hint)


@pytest.mark.parametrize("text", ["", COMPILING])
def test_an_end_without_a_word_says_nothing_of_the_sources(text: str) -> None:
    assert not failure(text, 127).conclusive


def test_generated_files_that_could_not_be_written_are_the_machines(tmp_path: Path) -> None:
    """Upstream's script goes on to the compile after such an error, so that this is looked at first."""
    reader = read("cp: cannot create regular file 'csrc/x.cpp': Permission denied\nrunning build")
    setup = SetupScript(frozenset(), (), ("csrc/x.cpp",), reads_max_jobs=True)
    with pytest.raises(TargetError) as caught:
        check_generated(tmp_path, reader, setup, (), 0.0)
    assert caught.value.kind is FailureKind.MACHINE


def test_a_source_that_cannot_be_read_is_no_failure_of_the_source() -> None:
    failed = {"a.cpp": read(COMPILING + "cc1plus: fatal error: /work/pytorch/a.cpp: Permission denied")}
    assert sources_failure(failed, 3).kind is FailureKind.MACHINE


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_errors_of_the_builders_own_files_are_the_machines(number: int) -> None:
    with pytest.raises(TargetError, match=f"/x: {os.strerror(number)}") as caught, machine_errors():
        raise OSError(number, os.strerror(number), "/x")
    assert (caught.value.kind, caught.value.exit_code) == (FailureKind.MACHINE, EXIT_MACHINE_LACKS)
    with pytest.raises(FileNotFoundError), machine_errors():
        raise FileNotFoundError(errno.ENOENT, "x")


def test_an_error_of_a_full_disk_says_once_where_and_how_much_is_free(tmp_path: Path) -> None:
    places = (tmp_path / "build", tmp_path / "dist")
    with pytest.raises(TargetError) as caught, machine_errors(*places), machine_errors(*places):
        raise OSError(errno.ENOSPC, "No space left on device", "/x")
    free = r"\d+ MiB free"
    assert re.fullmatch(
        rf"no space left on device \(/x\); {places[0]} has {free}; {places[1]} has {free}", caught.value.message
    )
    with pytest.raises(TargetError, match=r"^x$"), machine_errors(*places):
        raise TargetError("x", kind=FailureKind.COMPILE)


def test_a_script_without_room_is_told_as_that(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", NetworkSettings(), lambda _: None)
    log.line("Error: [Errno 28] No space left on device")
    error = script_failure("the tools cannot be installed", log, hint="read the log")
    log.close()
    assert (error.kind, error.hint) == (FailureKind.DISK, FailureKind.DISK.advice)
    assert error.message == "the tools cannot be installed: no space left on device"


def test_a_wheel_that_is_not_there_is_no_word_of_a_compiler(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    with pytest.raises(TargetError) as caught:
        take_wheel(tmp_path, "dist", tmp_path / "taken")
    assert not caught.value.conclusive


def test_what_is_known_of_a_failure_comes_back_from_a_worker() -> None:
    error = failure("", 127)
    assert SentError.of(error).conclusive is False
    assert SentError.of(failure(GENERATION + "KeyError: 'x'")).conclusive


@pytest.mark.parametrize("text", ["sed: couldn't open temporary file ./sedAb12Cd: Permission denied", COMPILING])
def test_a_night_does_not_remember_a_machines_fault(tmp_path: Path, text: str) -> None:
    world = World(tmp_path, None, load_matrix())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builder.planning.planner.environment_identity", lambda *_, **__: {"environment": "none"})
        world.engine.failing[TARGET] = failure(text)
        assert world.night(FRIDAY) != 0
        world.engine.failing.clear()
        world.change_op_plugin()  # of the other line
        assert world.night(SATURDAY) == 0
    assert TARGET in world.engine.built
