"""Why a compile failed, and the next step that is told."""

from __future__ import annotations

import dataclasses

import pytest

from builder.compilation.output import OutputReader
from builder.diagnosis import compile_failure
from builder.environments.base import Outcome
from builder.errors import FailureKind, TargetError
from builder.matrix.loader import load_matrix
from builder.matrix.selection import parse_target_id
from builder.recipe import accepted_gcc

#: As CMake 4.0 and 3.18 print it.
TOO_NEW = """\
running build
CMake Error at third_party/tensorpipe/third_party/googletest/CMakeLists.txt:4 (cmake_minimum_required):
  Compatibility with CMake < 3.5 has been removed from CMake.

  Update the VERSION argument <min> value.  Or, use the <min>...<max> syntax
  to tell CMake that the project requires at least <min> but has been updated
  to work with policies introduced by <max> or earlier.
"""
TOO_OLD = """\
running build
CMake Error at CMakeLists.txt:1 (cmake_minimum_required):
  CMake 3.18 or higher is required.  You are running version 3.12.4
"""
COMPILER = "running build\na.cpp:3:9: error: {}CLOCK_MONOTONIC_RAW{} was not declared in this scope\n"
OLD_GCC = "gcc is 12.2.0, which may be why"


def failure(text: str, *, cmake: str | None = None, mismatch: str | None = None, **outcome: object) -> TargetError:
    reader = OutputReader()
    for line in text.splitlines():
        reader.feed(line)
    reader.finish()
    ended = dataclasses.replace(Outcome(2, 1.0), **outcome)  # type: ignore[arg-type]
    return compile_failure(reader, ended, 10.0, cmake=cmake, mismatch=mismatch)


def test_a_cmake_that_is_too_new_is_named_with_what_helps() -> None:
    error = failure(TOO_NEW, cmake="4.0.2", mismatch=OLD_GCC)
    assert (error.kind, error.message.split(" at ")[0]) == (FailureKind.COMPILE, "CMake Error")
    assert "CMake here is 4.0.2, and third-party parts of lines up to 2.7.1 ask for one below 4" in str(error.hint)
    assert 'CMAKE_POLICY_VERSION_MINIMUM: "3.5"' in str(error.hint)
    assert "Compatibility with CMake < 3.5" in str(error.details)
    assert OLD_GCC not in str(error.hint)


def test_any_failure_of_cmake_names_its_version() -> None:
    assert str(failure(TOO_OLD, cmake="3.12.4").hint).endswith("; CMake here is 3.12.4")
    assert failure(TOO_OLD).hint == FailureKind.COMPILE.advice
    assert "CMake here" not in str(failure(COMPILER.format("'", "'"), cmake="3.25.1").hint)


@pytest.mark.parametrize("quotes", ["''", "\u2018\u2019"])
def test_an_accepted_gcc_may_be_the_reason(quotes: str) -> None:
    """Whatever the locale lets the compiler quote with."""
    error = failure(COMPILER.format(*quotes), mismatch=OLD_GCC)
    assert error.message == COMPILER.format(*quotes).splitlines()[1]
    assert error.hint == f"{FailureKind.COMPILE.advice}; {OLD_GCC}"
    # It is none where memory was, or time.
    assert failure("running build\n", mismatch=OLD_GCC, out_of_memory=True).hint == FailureKind.OUT_OF_MEMORY.advice
    assert failure("running build\n", mismatch=OLD_GCC, timed_out=True).hint == FailureKind.TIMEOUT.advice


def test_what_is_said_of_an_accepted_gcc() -> None:
    matrix = load_matrix()
    target = parse_target_id(matrix, "v2.7.1-7.3.0-py3.11-x86_64")
    system = {"system": "Debian GNU/Linux 12 (bookworm)", "os_id": "debian", "os_version": "12"}
    facts = {"gcc": "12.2.0", "glibc": "2.36", **system}
    told = str(accepted_gcc(target, facts, matrix.compilers))
    assert told.startswith("gcc is 12.2.0, which may be why: v2.7.1-7.3.0 is made for 11.2")
    assert "the nearest to gcc 11.2 on Debian GNU/Linux 12 (bookworm) is gcc-11" in told
    assert "docker/bases/debian.sh --suite bookworm --gcc 11" in told
    assert "--base-image" in told
    assert accepted_gcc(target, {**facts, "gcc": "11.2.1 20220127"}, matrix.compilers) is None
    unknown = str(accepted_gcc(target, {"gcc": "12.2.0", "system": None}, matrix.compilers))
    assert "knows no package" in unknown
