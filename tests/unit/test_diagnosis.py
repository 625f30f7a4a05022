"""Why a compile failed, and the next step that is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from builder.compilation.output_parser import OutputReader
from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, TargetError
from builder.environments.interface import Outcome
from builder.environments.probe import Probed
from builder.matrix.loader import load_matrix
from builder.matrix.selection import parse_target_id
from builder.target.compile_spec import accepted_gcc
from builder.target.diagnosis import compile_failure, sources_failure
from builder.target.error_origin import tell_by_origin

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
    facts = Probed(gcc="12.2.0", glibc="2.36", **system)
    told = str(accepted_gcc(target, facts, matrix.compilers))
    assert told.startswith("gcc is 12.2.0, which may be why: v2.7.1-7.3.0 is made for 11.2")
    assert "the nearest to gcc 11.2 on Debian GNU/Linux 12 (bookworm) is gcc-11" in told
    assert "docker/bases/debian.sh --suite bookworm --gcc 11" in told
    assert "--base-image" in told
    assert accepted_gcc(target, facts.model_copy(update={"gcc": "11.2.1 20220127"}), matrix.compilers) is None
    unknown = str(accepted_gcc(target, Probed(gcc="12.2.0"), matrix.compilers))
    assert "knows no package" in unknown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3.8 is an unsupported python version, we suggest 3.9\n", "3.8 is an unsupported python version"),
        ("/tmp/set_env.sh: line 3: cd: /opt/x: No such file or directory\n", "set_env.sh: line 3"),
        ("ci/build.sh: line 43: python3.8: command not found\n", "python3.8: command not found"),
        (
            'Traceback (most recent call last):\n  File "setup.py"\n    import torch\nImportError: no libtorch.so\n',
            "ImportError: no libtorch.so",
        ),
        ("", "without a word"),
    ],
)
def test_what_fails_before_code_generation_is_not_its_fault(text: str, said: str) -> None:
    error = failure(text)
    assert error.kind is FailureKind.TOOLCHAIN, "which is not remembered of the sources"
    assert error.message.startswith("ci/build.sh ended with exit code 2 before the compile began: ")
    assert said in error.message
    assert error.hint == FailureKind.COMPILE.advice


@pytest.mark.parametrize(
    "text",
    [
        "generate_code.sh: line 4: test/x.yaml: No such file or directory\n",
        'Traceback (most recent call last):\n  File "setup.py"\n    generate_code(D)\nRuntimeError: 1\n',
        'Traceback (most recent call last):\n  File "codegen/gen_backend_stubs.py", line 1\nKeyError: func\n',
    ],
)
def test_what_code_generation_says_is_its_fault(text: str) -> None:
    assert failure(text).kind is FailureKind.CODE_GENERATION


def test_the_first_error_is_told_once() -> None:
    error = failure("running build\na.cpp:3:9: error: no b\n    3 | b();\n      | ^\n")
    assert error.message == "a.cpp:3:9: error: no b"
    assert error.details == "    3 | b();\n      | ^"
    readers = {}
    for name in ("a.cpp", "c.cpp"):
        readers[name] = OutputReader()
        readers[name].feed(f"{name}:3:9: error: no b")
        readers[name].feed("    3 | b();")
    both = sources_failure(readers, 2)
    assert f"{both.message}\n{both.details}".count("a.cpp:3:9: error: no b") == 1
    assert "c.cpp: c.cpp:3:9: error: no b" in str(both.details)


INSIDE = "/work/pytorch/third_party/op-plugin"


@pytest.mark.parametrize("place", [INSIDE, "third_party/op-plugin", "/home/ann/build/compile/x/third_party/op-plugin"])
def test_errors_in_the_users_own_files_name_them(tmp_path: Path, place: str) -> None:
    folder, operators = tmp_path / "op-plugin", tmp_path / "operators"
    source = folder / "op_plugin" / "ops" / "opapi" / "Add.cpp"
    source.parent.mkdir(parents=True)
    operators.mkdir()
    source.touch()
    (operators / "Mine.cpp").touch()
    options = BuildOptions(op_plugin=str(folder), custom_ops=operators)
    text = f"running build\nIn file {place}/op_plugin/ops/opapi/Add.cpp:1:\n"
    for name, theirs in (("Add.cpp", source), ("Mine.cpp", operators / "Mine.cpp")):
        error = failure(f"{text}{place}/op_plugin/ops/opapi/{name}:3:9: error: no b\n  in {place}/x.h\n")
        tell_by_origin(error, options, COMMITS)
        assert error.message == f"{theirs}:3:9: error: no b"
        assert error.details == f"  in {place}/x.h", "of a file that is none of theirs"
        assert error.hint == FailureKind.COMPILE.advice


COMMITS = {"op-plugin": "a" * 40, "op-plugin (pinned)": "b" * 40}


@pytest.mark.parametrize(
    ("options", "commits", "place", "told"),
    [
        (BuildOptions(), COMMITS, INSIDE, True),
        (BuildOptions(), COMMITS, "/work/pytorch/torch_npu", False),
        (BuildOptions(op_plugin="pinned"), COMMITS, INSIDE, False),
        (BuildOptions(), {"op-plugin": "a" * 40, "op-plugin (pinned)": "a" * 40}, INSIDE, False),
        (BuildOptions(), {}, INSIDE, False),
    ],
)
def test_an_error_in_op_plugin_names_the_commit_that_torch_npu_pins(
    options: BuildOptions, commits: dict[str, str], place: str, *, told: bool
) -> None:
    error = failure(f"running build\n{place}/a.cpp:3:9: error: no b\n")
    tell_by_origin(error, options, commits)
    assert ("torch_npu pins bbbbbbb: --op-plugin pinned" in str(error.hint)) is told
