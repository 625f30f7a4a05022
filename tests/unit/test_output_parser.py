"""Reading a build's output: progress, silent code-generation failures, the first error."""

from __future__ import annotations

import pytest

from builder.compilation.output_parser import LONGEST, OutputReader, missing_outputs


def read(*lines: str) -> OutputReader:
    reader = OutputReader()
    for line in lines:
        reader.feed(line)
    reader.finish()
    return reader


@pytest.mark.parametrize(("line", "percent"), [("[ 42%] Building CXX object a.o", 42.0), ("[12/48] Building", 25.0)])
def test_progress_of_make_and_ninja(line: str, percent: float) -> None:
    assert read("running build", line).percent == percent


def test_activity_is_what_a_person_recognises() -> None:
    assert read().activity == "code generation"
    assert read("running build").activity == "configuring"
    line = "[ 42%] Building CXX object CMakeFiles/torch_npu.dir/csrc/NPUFunctions.cpp.o"
    assert read("running build", line, "warning: noise").activity == "NPUFunctions.cpp"
    assert read("running build", "[ 99%] Linking CXX shared library x.so").activity == "Linking CXX shared library x.so"


def test_traceback_during_code_generation_is_a_failure() -> None:
    reader = read(
        "Traceback (most recent call last):",
        '  File "gen.py", line 1, in <module>',
        "    raise RuntimeError('x')",
        "RuntimeError: could not find ATen function",
        "running build",
    )
    assert reader.generation_failure == "RuntimeError: could not find ATen function"


def test_traceback_that_is_cut_off_still_counts() -> None:
    assert read("Traceback (most recent call last):", "  File x", "running build").generation_failure is not None


@pytest.mark.parametrize(
    "line",
    [
        "/opt/python/cp311-cp311/bin/python3.11: No module named codegen.gen_backend_stubs",
        "gencode.sh: line 4: test/x.yaml: No such file or directory",
        "sed: can't read test/test_v2r5_ops/unsupported_ops_info.yaml: No such file or directory",
    ],
)
def test_failed_step_of_a_shell_script_is_a_failure(line: str) -> None:
    assert read(line, "running build").generation_failure == line


def test_warnings_and_later_tracebacks_are_not_code_generation_failures() -> None:
    reader = read(
        "/work/pytorch/codegen/utils.py:81: UserWarning: Warning: owner does not match the current user.",
        "  warnings.warn(x)",
        "running build",
        "Traceback (most recent call last):",
        "ValueError: later",
    )
    assert reader.generation_failure is None
    assert reader.error == "ValueError: later"


def test_the_first_compiler_error_wins_over_what_make_says() -> None:
    reader = read(
        "running build",
        "make[2]: *** [x.o] Error 1",
        "/work/pytorch/a.cpp:7:3: error: 'foo' was not declared in this scope",
        "/work/pytorch/b.cpp:9:1: error: second",
    )
    assert reader.error == "/work/pytorch/a.cpp:7:3: error: 'foo' was not declared in this scope"


@pytest.mark.parametrize(
    "line",
    [
        "/usr/bin/ld: a.o: undefined reference to `aclInit'",
        "collect2: error: ld returned 1 exit status",
        "c++: fatal error: Killed signal terminated program cc1plus",
        "CMake Error at CMakeLists.txt:3 (find_package):",
    ],
)
def test_linker_driver_and_cmake_errors(line: str) -> None:
    assert read("running build", line).error == line


def test_a_killed_compiler_and_a_full_disk_are_seen_however_long_ago() -> None:
    noise = ["x"] * 50
    assert read("c++: fatal error: Killed signal terminated program cc1plus", *noise).killed
    assert read("/tmp/cc.s: fatal error: No space left on device", *noise).disk_full
    assert not read(*noise).killed


def test_a_missing_optional_program_is_no_failed_generation() -> None:
    assert read("/bin/sh: 1: ccache: not found", "running build").generation_failure is None


def test_missing_and_stale_outputs() -> None:
    found = missing_outputs(["a.cpp", "b.cpp", "c.cpp"], {"a.cpp": 100.0, "b.cpp": 50.0, "c.cpp": None}, 90.0)
    assert found == ["b.cpp (stale)", "c.cpp (missing)"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("/w/a.cpp:3:9: warning: unused variable \u2018x\u2019 [-Wunused-variable]", "unused-variable"),
        ("/w/a.cpp:3:9: warning: unused variable 'x' [-Wunused-variable]", "unused-variable"),
        ("a.cpp:3: warning: 'int f()' is deprecated [-Wdeprecated-declarations]", "deprecated-declarations"),
        ("a b.cpp:3:1: warning: '%d' [-Wformat=]", "format"),
        ("a.cpp:3:1: warning: enough [-Wimplicit-fallthrough=3]", "implicit-fallthrough"),
        ("\x1b[1ma.cpp:3:9:\x1b[m \x1b[1;35m\x1b[Kwarning: \x1b[m\x1b[Kx [\x1b[1;35m-Wshadow\x1b[m\x1b[K]", "shadow"),
        ('<command-line>:0:1: warning: "X" redefined', "other"),
        ("cc1plus: warning: unrecognized command line option '-Wno-x'", "other"),
        ("cc1plus: warning: command-line option '-Wx' is valid for C [-Wcpp]", "cpp"),
        ("/opt/rh/bin/g++: warning: a.o: linker input file unused", "other"),
        ("x86_64-linux-gnu-gcc-11: warning: x", "other"),
        ("a.cpp:3:9: error: unused variable 'x' [-Werror=unused-variable]", None),
        ("a.cpp:3:9: note: warning: x [-Wshadow]", None),
        ("/usr/bin/ld: warning: x.o: missing .note.GNU-stack section", None),
        ("make[2]: warning:  Clock skew detected.", None),
        ("Makefile:12: warning: overriding recipe for target 'x'", None),
        ("CMakeFiles/a.dir/build.make:7: warning: overriding recipe for target 'x'", None),
        ("warning: no files found matching '*.h'", None),
        ("CMake Warning at a.cmake:3 (message): warning: x", None),
    ],
)
def test_what_compilers_warn_of_is_counted_by_kind(line: str, kind: str | None) -> None:
    assert dict(read("running build", line).warnings) == ({} if kind is None else {kind: 1})


def test_kinds_of_warnings_are_bounded() -> None:
    lines = [f"a.cpp:1:1: warning: x [-Wkind{number}]" for number in range(1000)]
    found = read(*lines, *lines).warnings
    assert (sum(found.values()), len(found) <= 61, found["kind0"]) == (2000, True, 2)


def test_an_excerpt_ends_where_pythons_own_traceback_begins() -> None:
    error = ["CMake Error at CMakeLists.txt:1 (no_such_command):", '  Unknown CMake command "no_such_command".']
    trace = ["Traceback (most recent call last):", '  File "setup.py", line 1, in <module>', "CalledProcessError: x"]
    assert read("running build", *error, *trace, "-- Configuring incomplete, errors occurred!").excerpt == error
    # One that came before, of code generation, does not count.
    assert read(*trace, "running build", *error).excerpt == error


def test_an_excerpt_ends_before_the_traceback_of_setup_py() -> None:
    """CMake fails, and Python says so in its own way: that is no part of the error."""
    reader = OutputReader()
    lines = [
        "running build",
        "CMake Error at csrc/CMakeLists.txt:1 (no_such_command):",
        '  Unknown CMake command "no_such_command".',
        "-- Configuring incomplete, errors occurred!",
        "Traceback (most recent call last):",
        '  File "setup.py", line 1, in <module>',
        "subprocess.CalledProcessError: Command 'cmake' returned non-zero exit status 1.",
    ]
    for line in lines:
        reader.feed(line)
    reader.finish()
    assert reader.excerpt == lines[1:4]
    assert reader.error == lines[1]


@pytest.mark.parametrize("line", ["x" * (1 << 18), "a:" * (1 << 17), "g++ " + "-Ix/y " * 40_000, "[" * (1 << 18)])
def test_lines_that_are_made_to_be_long_cost_little(line: str) -> None:
    # A pattern that takes time by the square of the length would be at it for minutes: pytest's own limit ends it.
    reader = OutputReader(("/out",))
    for end in ("", ": Permission denied", ": error: x", " warning: x [-Wy]"):
        for _ in range(20):
            reader.feed(line + end)
    assert all(len(text) <= LONGEST for text in reader.tail)
