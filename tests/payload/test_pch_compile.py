"""What the launcher's Python reads: commands, leading includes, plans, dependency files, its own log."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder.compilation import ccache

sys.path.insert(0, str(ccache.LAUNCHER))

import cache_lookup
import depfiles
import pch_log
import pch_plan
from compile_command import Command, Names, UnsuitableError, expand, split
from includes import is_guarded, leading_includes
from pragmas import Forbidden

SOURCE = "/work/pytorch/ops/Abs.cpp"
PLAIN = ["/usr/bin/c++", "-O2", "-I/inc", "-c", SOURCE, "-o", "Abs.cpp.o"]


def test_a_command() -> None:
    line = (
        '/usr/bin/c++ -DVERSION=\\"2.5.1\\" -D__FILENAME__=\'"Abs.cpp"\' -I/inc -iquote q -isystem /sys -D X=1 '
        "-Wl,-z,now -fPIC -pie -std=c++17 -MD -MT Abs.cpp.o -MF Abs.cpp.o.d -o Abs.cpp.o -c " + SOURCE
    )
    command = Command(split(line), "/build")
    assert (command.source, command.output, command.depfile) == (SOURCE, "Abs.cpp.o", "Abs.cpp.o.d")
    assert (command.quoted, command.folders) == (["q"], ["/inc", "/sys"])
    # What names this file, and what is written, is none of a header's business.
    assert command.flags == [
        *['-DVERSION="2.5.1"', "-I/inc", "-iquoteq", "-isystem/sys", "-DX=1"],
        *["-Wl,-z,now", "-fPIC", "-pie", "-std=c++17"],
    ]


def test_kinds() -> None:
    def kind(*more: str, source: str = SOURCE, cwd: str = "/build") -> str:
        name = os.path.basename(source)
        argv = ["/usr/bin/c++", f'-DNAME="{name}"', *more, "-c", source, "-o", f"{name}.o"]
        return Command(argv, cwd).kind

    assert kind("-O2", "-DA", "-I/inc") == kind("-O2", "-DA", "-I/inc", source="/work/pytorch/ops/Add.cpp")
    # ccache puts options of the preprocessor elsewhere, and leaves out those of the linker.
    assert kind("-O2", "-DA", "-I/inc", "-Wl,-z,now") == kind("-I/inc", "-O2", "-DA", "-fdiagnostics-color=always")
    assert len({kind(*flags) for flags in (["-O2"], ["-O1"], ["-DA"], ["-DA", "-UA"], ["-UA", "-DA"])}) == 5
    assert len({kind(*flags) for flags in (["-I/a", "-I/b"], ["-I/b", "-I/a"], ["-isystem/a", "-I/b"])}) == 3
    assert kind("-O2") != kind("-O2", cwd="/elsewhere")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["-g"], "option:-g"),
        (["-ggdb"], "option:-ggdb"),
        (["-include", "x.h"], "option:-include"),
        (["-imacros", "x.h"], "option:-imacros"),
        (["-x", "c++"], "option:-x"),
        (["-flto=thin"], "option:-flto"),
        (["-fprofile-generate"], "option:-fprofile-generate"),
        (["--coverage"], "option:--coverage"),
        (["-frandom-seed=1"], "option:-frandom-seed"),
        (["-Wp,-MD,x.d"], "option:-Wp,-MD,x.d"),
        (["-MMD", "-MF", "x.d"], "option:-MMD"),
        (["-MP"], "option:-MP"),
        (["-MD"], "dependencies"),
        (["@more"], "not-a-compile"),
        (["/work/pytorch/ops/Add.cpp"], "not-a-compile"),
        (['-D__FILE__="Abs.cpp"'], "redefines:__FILE__"),
        (["-D__COUNTER__=1"], "redefines:__COUNTER__"),
        (["--sysroot=/x"], "option:--sysroot"),
        (["-save-temps"], "option:-save-temps"),
        (["--unheard-of"], "option:--unheard-of"),
    ],
)
def test_commands_that_are_left_alone(change: list[str], reason: str) -> None:
    Command(PLAIN, "/build")
    with pytest.raises(UnsuitableError, match=f"^{reason}$"):
        Command([*PLAIN, *change], "/build")


def test_other_languages_and_links_are_left_alone() -> None:
    for argv in (
        ["cc", "-c", "a.c", "-o", "a.o"],
        ["c++", "-o", "a", "a.o"],
        ["c++", "-c", "a.cpp"],
        ["c++", "-E", "a.cpp", "-o", "a.ii"],
        ["c++"],
    ):
        with pytest.raises(UnsuitableError):
            Command(argv, "/build")


@pytest.mark.parametrize(
    "line",
    ["a b", "a  'b c' d", '-DX=\\"y\\"', "-D'X=\"a b\"'c", '"a \\"b\\" \\$c \\n"', "'$(notdir $(abspath $<))'", ""],
)
def test_splitting_is_the_shells(line: str) -> None:
    script = f'for word in {line}; do printf "%s\\0" "$word"; done'
    expected = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert split(line) == expected.split("\0")[:-1]


def test_functions_of_make() -> None:
    text = "'\"$(subst $(realpath /work/../work/pytorch)/,,$(abspath $<))\"' $(notdir $(abspath $<)) $(unknown x)"
    assert expand(text, SOURCE) == "'\"ops/Abs.cpp\"' Abs.cpp $(unknown x)"


@pytest.mark.parametrize("timestamp", [True, False])
def test_the_commands_that_make_runs(tmp_path: Path, timestamp: bool) -> None:
    """What make's functions give depends on what CMake makes the first prerequisite."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    tree, build = tmp_path / "tree", tmp_path / "tree" / "build"
    (tree / "ops").mkdir(parents=True)
    (tree / "ops" / "Abs.cpp").write_text("int main() { return 0; }\n")
    (tree / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(ops CXX)\nset(CMAKE_EXPORT_COMPILE_COMMANDS ON)\n"
        'set(CMAKE_CXX_FLAGS "-DNAME=\'\\"$(notdir $(abspath $<))\\"\'")\nadd_executable(ops ops/Abs.cpp)\n'
    )
    configure = [cmake, "-S", str(tree), "-B", str(build), "-G", "Unix Makefiles"]
    if not timestamp:
        configure.append("-DCMAKE_DEPENDS_USE_COMPILER=OFF")
    subprocess.run(configure, check=True, capture_output=True)
    shown = subprocess.run(
        ["make", "-C", str(build), "VERBOSE=1"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    (line,) = [text for text in shown if "Abs.cpp.o -c" in text]
    run = split(line.split("&&", 1)[-1].strip())
    (asked,) = cache_lookup.read_all(str(build), Names({}))
    assert asked.argv == run
    (known,) = pch_plan.read_commands(str(build / pch_plan.COMMANDS), Names({}))
    actual = Command(run, str(build))
    assert (known.kind, known.flags) == (actual.kind, actual.flags)


def test_names_do_what_the_launcher_does(tmp_path: Path) -> None:
    include = tmp_path / "python3.11"
    include.mkdir()
    (tmp_path / "version").write_text(f"VERSION\n{SOURCE}\n")
    variables = {
        "BUILDER_PYTHON_INCLUDE": str(include),
        "BUILDER_PYTHON_INCLUDE_AS": str(tmp_path / "include"),
        "BUILDER_VERSION_DEFINE": str(tmp_path / "version"),
    }
    show = tmp_path / "show"
    show.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    show.chmod(0o755)
    arguments = [
        *["-DVERSION=1", "-DVERSIONS=2", "-DA=-DVERSION=1", f"-I{include}", f"-I{include}/internal", f"-I{include}x"],
        *["-isystem", str(include), f"-isystem{include}", f"-DPATH={include}", "-I", f"{include}/cpython", "a b", ""],
    ]
    for source in (SOURCE, "/work/pytorch/other.cpp"):
        argv = [*arguments, "-c", source]
        printed = subprocess.run(
            [ccache.LAUNCHER / "ccache", show, *argv],
            env={
                "PATH": "/usr/bin:/bin",
                "BUILDER_CCACHE": "",
                "BUILDER_COMPILE_LOG": str(tmp_path / "log"),
                **variables,
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")[:-1]
        assert printed == Names(variables).apply(argv, source)
        assert ("-DVERSION=1" in printed) == (source == SOURCE)
        assert f"-I{tmp_path}/include" in printed
        assert f"-I{include}x" in printed
        assert f"-DPATH={include}" in printed


LICENCE = "/* a licence\n * #include <not.h>\n */\n// #include <nor.h>\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LICENCE + '#include "a.h"\n\n#include <b/c.h> // why\n#define X\n#include "d.h"\n', ['"a.h"', "<b/c.h>"]),
        ('#  include/* here */"a.h"/* and\n there */\n#include <b>', ['"a.h"', "<b>"]),
        ('#include "a.h" /* x */ rest\n/* y */\n', []),
        ('#include "a.h" /* x\n */ #include "b.h"\n', []),
        ("#include_next <a.h>\n", []),
        ("#include A_MACRO\n", []),
        ("#import <a.h>\n", []),
        ('#include "a.h"\r\n\r\n#include <b.h>\r\nint x;\r\n', ['"a.h"', "<b.h>"]),
        ('// line \\\n#include "not.h"\n#include "a.h"\n', ['"a.h"']),
        ('#pragma once\n#include "a.h"\n', []),
        ("#if 1\n#include <a.h>\n#endif\n", []),
        ('\\\n#include "a.h"\n', []),
        ("/* never closed\n#include <a.h>\n", []),
        ("\xa0#include <a.h>\n", []),
        ("", []),
    ],
)
def test_leading_includes(text: str, expected: list[str]) -> None:
    assert [include for include, _ in leading_includes(text)] == expected


def test_lines_of_leading_includes() -> None:
    assert leading_includes(LICENCE + '#include "a.h"\n\n#include <b.h>\n') == [('"a.h"', 6), ("<b.h>", 8)]


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("// x\n#pragma once\nint x;\n", True),
        ("#ifndef A_H\n#define A_H\n#if 1\n#endif\n#endif // A_H\n", True),
        ("/* x */\n#if !defined(A_H)\n#define A_H 1\n#endif\n\n", True),
        ("#ifndef A_H /* x */\n\n#define A_H\n#endif", True),
        ("int x;\n", False),
        ("#ifndef A_H\n#define B_H\n#endif\n", False),
        ("#ifndef A_H\n#define A_HH\n#endif\n", False),
        ("#ifndef A_H\n#define A_H\n#endif\nint x;\n", False),
        ("#ifndef A_H\n#define A_H\n#else\nint x;\n#endif\n", False),
        ("int x;\n#pragma once\n", False),
        ("#undef assert\n#ifdef NDEBUG\n#endif\n", False),
        ("#ifndef A_H\n#define A_H\n", False),
    ],
)
def test_guards(text: str, guarded: bool) -> None:
    assert is_guarded(text) is guarded


class Tree:
    """A folder of headers of a given size, and sources that include them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "inc").mkdir()
        self.entries: list[dict[str, str]] = []

    def header(self, name: str, size: int, includes: str = "") -> None:
        (self.root / "inc" / name).write_text(f"#pragma once\n{includes}\n/*{'x' * size}*/\n")

    def sources(self, count: int, *includes: str, flags: str = "", folder: str = "") -> None:
        (self.root / folder).mkdir(exist_ok=True)
        for number in range(count):
            name = self.root / folder / f"s{len(self.entries)}.cpp"
            name.write_text("".join(f"#include {include}\n" for include in includes) + f"int x{number};\n")
            command = f"/usr/bin/c++ {flags} -I{self.root}/inc -c {name} -o {name.name}.o"
            self.entries.append({"directory": str(self.root), "file": str(name), "command": command})

    def groups(self) -> list[tuple[int, list[str]]]:
        (self.root / pch_plan.COMMANDS).write_text(json.dumps(self.entries))
        plan = pch_plan.make_plan(str(self.root / pch_plan.COMMANDS), Names({}))
        # It is the same after it was written down.
        again = pch_plan.from_json(json.loads(json.dumps(plan.to_json())))
        assert again.to_json() == plan.to_json()
        return sorted((len(group.members), group.includes) for group in plan.groups.values())


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    class Gcc:
        is_gcc, folders, identity = True, [], "gcc 12"

        def __init__(self, path: str) -> None:
            assert path == "/usr/bin/c++"

    monkeypatch.setattr(pch_plan, "Compiler", Gcc)
    return Tree(tmp_path)


def test_groups_pay(tree: Tree) -> None:
    tree.header("big.h", 1_000_000)
    tree.header("little.h", 1000, '#include "big.h"')
    tree.header("more.h", 900_000)
    tree.header("tiny.h", 1000)
    tree.sources(20, '"big.h"')
    # A little more is not worth a header of its own, much more is; and two files never are.
    tree.sources(6, '"big.h"', "<little.h>")
    tree.sources(9, '"big.h"', '"more.h"')
    tree.sources(2, '"more.h"')
    tree.sources(30, '"tiny.h"')
    tree.sources(5)
    assert tree.groups() == [(9, ['"big.h"', '"more.h"']), (26, ['"big.h"'])]


def test_short_headers_before_long_rests_are_left_alone(tree: Tree) -> None:
    tree.header("big.h", 10_000_000)
    tree.header("half.h", 5_000_000)
    tree.header("third.h", 3_000_000)
    tree.sources(4, '"big.h"')
    tree.sources(6, '"half.h"')
    tree.sources(7, '"half.h"', '"nowhere.h"', flags="-O2")
    tree.sources(50, '"third.h"')
    # The six would save less than they cost; among themselves, the seven save three quarters of what they cost each.
    assert tree.groups() == [(4, ['"big.h"']), (7, ['"half.h"'])]


def test_groups_have_one_way_to_be_compiled(tree: Tree) -> None:
    tree.header("big.h", 1_000_000)
    tree.sources(4, '"big.h"', flags="-O1")
    tree.sources(5, '"big.h"', flags="-O2")
    tree.sources(6, '"big.h"', flags="-g")
    assert tree.groups() == [(4, ['"big.h"']), (5, ['"big.h"'])]


def test_includes_beside_the_source(tree: Tree) -> None:
    tree.header("big.h", 1_000_000)
    tree.sources(4, '"big.h"')
    tree.sources(4, '"big.h"', folder="sub")
    (tree.root / "sub/big.h").write_text(f"#pragma once\n/*{'y' * 1_000_000}*/")
    assert tree.groups() == [(4, [f'"{tree.root}/sub/big.h"']), (4, ['"big.h"'])]


def test_prefixes_end_at_what_is_included_again(tree: Tree) -> None:
    tree.header("big.h", 1_000_000)
    tree.header("more.h", 5_000_000)
    (tree.root / "inc/again.h").write_text("int again();\n")
    tree.sources(9, '"big.h"', '"again.h"', '"more.h"')
    tree.sources(9, "<nowhere.h>", '"more.h"')
    assert tree.groups() == [(9, ['"big.h"'])]


def test_a_plan_of_the_launchers_names(tree: Tree) -> None:
    tree.header("big.h", 1_000_000)
    tree.sources(4, '"big.h"', flags="-DVERSION=1 -I/usr/include/python3.11")
    (tree.root / "version").write_text("VERSION\n")
    (tree.root / pch_plan.COMMANDS).write_text(json.dumps(tree.entries))
    variables = {
        "BUILDER_PYTHON_INCLUDE": "/usr/include/python3.11",
        "BUILDER_PYTHON_INCLUDE_AS": "/out/python",
        "BUILDER_VERSION_DEFINE": str(tree.root / "version"),
    }
    plan = pch_plan.make_plan(str(tree.root / pch_plan.COMMANDS), Names(variables))
    source = tree.entries[0]["file"]
    launched = ["/usr/bin/c++", "-I/out/python", f"-I{tree.root}/inc", "-c", source, "-o", "s0.cpp.o"]
    group = plan.group_of(Command(launched, str(tree.root)))
    assert group is not None
    assert source in group.members
    as_written = split(tree.entries[0]["command"])
    assert plan.group_of(Command(as_written, str(tree.root))) is None


def test_dependency_files(tmp_path: Path) -> None:
    file = tmp_path / "x.d"
    listed = ["/src/a.cpp", *(f"/usr/include/{'long' * number}.h" for number in range(1, 9)), "/with\\ space.h"]
    depfiles.write(str(file), ["x.cpp.o"], listed)
    assert depfiles.names(str(file)) == (["x.cpp.o"], listed)
    assert depfiles.paths(listed)[-1] == "/with space.h"
    assert all(len(line) <= 74 for line in file.read_text().splitlines())
    file.write_text("no target")
    with pytest.raises(depfiles.UnexpectedError):
        depfiles.names(str(file))


def test_a_dependency_file_without_the_header() -> None:
    names = ("/out/h/h.h", "/out/h/h.h.gch", "/out/h.text/h.h")
    inside = ["/predef.h", "/one.h", "/two.h", "/one.h"]
    listed = ["/a.cpp", "/predef.h", "/out/h/h.h", "/out/h.text/h.h", *inside, "/one.h", "/own.h", "/two.h"]
    plain = ["/a.cpp", "/predef.h", "/one.h", "/two.h", "/one.h", "/own.h", "/two.h"]
    assert depfiles.without_header(listed, names, inside, ["/one.h"]) == plain
    for wrong in (["/a.cpp", "/predef.h", *inside], ["/a.cpp", "/out/h/h.h", "/one.h"]):
        with pytest.raises(depfiles.UnexpectedError):
            depfiles.without_header(wrong, names, inside, ["/one.h"])


def test_the_journal(tmp_path: Path) -> None:
    log, compiled = tmp_path / "headers.log", tmp_path / "compile.log"
    members = [f"/src/my file{number}.cpp" for number in range(12)]
    group = pch_plan.Group("key", [], [], 1000, 3.0, members)
    found = pch_log.Journal(str(log), str(compiled))
    assert (found.left(group), found.ratio(group)) == (12, 3.0)
    found.add("made", "key", members[0], 3.0)
    for number in range(5):
        found.add("plain", "key", members[number], 2.0, "being-made")
        found.add("used", "key", members[number + 5], 0.5)
    log.write_text(log.read_text() + "not a line\nused key\n")
    compiled.write_text(f"hit-direct {members[10]}\nmiss {members[0]}\nhit-direct /src/other.cpp\n")
    again = pch_log.Journal(str(log), str(compiled))
    assert (again.left(group), again.hits(group), again.compiled(group)) == (1, 1, 10)
    # 3 s for the header, 1.5 s saved for each.
    assert again.ratio(group) == 2.0
    assert not again.refused(group)
    for _ in range(6):
        again.add("fallback", "key", members[0], 2.5, "exit-1")
    assert again.refused(group)
    other = pch_plan.Group("other", [], [], 1, 3.0, [])
    again.add("making", "other", members[0], 0.0)
    assert not again.refused(other)
    # Nothing came of the first time, and it is tried a third time.
    again.add("making", "other", members[1], 0.0)
    assert again.refused(other)
    again.add("made", "other", members[1], 3.0)
    assert not again.refused(other)
    again.add("refused", "other", members[2], 1.0, "warns")
    assert again.refused(other)


def test_a_header_that_saves_nothing_does_not_pay(tmp_path: Path) -> None:
    found = pch_log.Journal(str(tmp_path / "headers.log"), None)
    found.add("made", "key", "a.cpp", 3.0)
    for number in range(5):
        found.add("plain", "key", f"a{number}.cpp", 0.5)
        found.add("used", "key", f"b{number}.cpp", 0.6)
    assert found.ratio(pch_plan.Group("key", [], [], 1, 3.0, [])) == float("inf")


PUSH, POP = "#pragma GCC diagnostic push\n", "#pragma GCC diagnostic pop\n"


@pytest.mark.parametrize(
    ("text", "warning", "forbidden"),
    [
        (f'{PUSH}#pragma GCC diagnostic ignored "-Wshadow"\n{POP}', "inc/a.h:1:2: warning: x [-Wshadow]", True),
        (f'{PUSH}#pragma GCC diagnostic ignored "-Wshadow"\n{POP}', "a.cpp:1:2: warning: x [-Wshadow]", False),
        (f'{PUSH}#pragma GCC diagnostic ignored "-Wshadow"\n{POP}', "inc/a.h:1:2: warning: x [-Wother]", False),
        ('#pragma GCC diagnostic ignored "-Wshadow"\n', "a.cpp:1:2: warning: x [-Wshadow]", True),
        ('IGNORE("-Wformat")\n', "/build/inc/a.h:1:2: warning: x [-Wformat=]", True),
        ('#define OFF _Pragma("GCC diagnostic ignored \\"-Wformat\\"")\n', "inc/a.h:1: warning: x [-Wformat=]", True),
        ('#pragma GCC system_header\nIGNORE("-Wshadow")\n', "inc/a.h:1:2: warning: x [-Wshadow]", False),
        ('#pragma clang diagnostic ignored "-Wshadow"\n', "a.cpp:1:2: warning: x [-Wshadow]", False),
        ('IGNORE("-Wshadow")\n', "inc/a.h:1:2: note: x [-Wshadow]", False),
        ('IGNORE("-Wshadow")\n', "\x1b[1minc/a.h:1:2:\x1b[m \x1b[35mwarning: \x1b[mx [\x1b[35m-Wshadow\x1b[m]", True),
    ],
)
def test_warnings_that_a_header_forbids(text: str, warning: str, forbidden: bool) -> None:
    found = Forbidden()
    assert not found.add(text)
    # As it is after it was written down.
    again = Forbidden(**json.loads(json.dumps(vars(found))))
    assert again.in_messages(f"first\n{warning}\nlast\n", "/build", ["inc/a.h", "/usr/include/b.h"]) is forbidden


@pytest.mark.parametrize("kind", ["warning", "error"])
def test_headers_that_ask_for_warnings(kind: str) -> None:
    text = f'{PUSH}# pragma GCC diagnostic {kind} "-Wshadow"\n{POP}'
    assert Forbidden().add(text)
    assert not Forbidden().add("#pragma GCC system_header\n" + text)
