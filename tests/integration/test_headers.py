"""Precompiled headers with a real compiler: same bytes, same messages, whatever happens to a header."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shells import oldest_python
from support import ccache_program, settle

from builder.compilation import ccache as compile_cache
from builder.compilation.pch_stats import HeaderCounts, read_counts

LAUNCHER = compile_cache.LAUNCHER
#: More than the least that a group must bring in, and parsed in a fifth of a second.
INCLUDES = "#include <map>\n#include <string>\n#include <vector>\n"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")]


class Project:
    """A configured tree: sources in two groups and some alone, and the launcher to compile them."""

    def __init__(self, root: Path, *, flags: str = "-O1 -Wall", python: str = sys.executable) -> None:
        self.root = root
        self.flags = flags
        self.python = python
        self.tree, self.build, self.out = root / "tree", root / "tree" / "build", root / "out"
        self.known = root / "known"
        self.launcher = LAUNCHER
        self.env: dict[str, str] = {}
        self.sources: list[str] = []
        (self.tree / "inc").mkdir(parents=True)
        self.build.mkdir()
        self.header("common.h", INCLUDES + "inline int twice(int value) { return value + value; }\n")

    def header(self, name: str, text: str) -> None:
        (self.tree / "inc" / name).write_text(f"#pragma once\n{text}")

    def source(self, name: str, text: str) -> None:
        (self.tree / name).write_text(text)
        self.sources.append(name)

    def group(self, count: int, start: str = "a", includes: str = '#include "common.h"') -> list[str]:
        names = [f"{start}{number}.cpp" for number in range(count)]
        for number, name in enumerate(names):
            # A map in the first: templates that are instantiated cost as much as all else.
            what = f"std::map<std::string, int> table{{{{__FILENAME__, {number}}}}}" if number == 0 else ""
            body = f"static {what or 'std::string table{__FILENAME__}'};\n"
            self.source(name, f"// {name}\n{includes}\n{body}int {start}{number}() {{ return twice(table.size()); }}\n")
        return names

    def command(self, name: str, suffix: str = "") -> list[str]:
        return [
            "g++",
            f"-I{self.tree}/inc",
            *shlex.split(self.flags),
            f'-D__FILENAME__="{name}"',
            *["-MD", "-MT", f"{name}.o", "-MF", f"{name}{suffix}.o.d"],
            *["-o", f"{name}{suffix}.o", "-c", f"{self.tree}/{name}"],
        ]

    def configure(self) -> None:
        entries = [
            {"directory": str(self.build), "file": f"{self.tree}/{name}", "command": shlex.join(self.command(name))}
            for name in self.sources
        ]
        (self.build / "compile_commands.json").write_text(json.dumps(entries))
        self.out.mkdir(exist_ok=True)
        # A header that is only just written is one that may have changed while it was read.
        time.sleep(0.1)

    def variables(self) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C",
            "BUILDER_CCACHE": "",
            "BUILDER_COMPILE_LOG": str(self.out / compile_cache.COMPILE_LOG),
            "BUILDER_PYTHON": self.python,
            "BUILDER_HEADERS": str(self.out / "headers"),
            "BUILDER_HEADERS_KNOWN": str(self.known),
            "CCACHE_DIR": str(self.root / "ccache"),
            "CCACHE_CONFIGPATH": f"{LAUNCHER}/ccache.conf",
            **self.env,
        }

    def instead_of_the_compiler(self, script: str) -> None:
        """Put a shell script where a compile finds ``g++``; the real one is /usr/bin/g++."""
        folder = self.root / "bin"
        folder.mkdir()
        (folder / "g++").write_text(f"#!/bin/sh\n{script}")
        (folder / "g++").chmod(0o755)
        self.env["PATH"] = f"{folder}:/usr/bin:/bin"

    def start(self, name: str) -> subprocess.Popen[str]:
        command = [str(self.launcher / "ccache"), *self.command(name)]
        return subprocess.Popen(command, cwd=self.build, env=self.variables(), stderr=subprocess.PIPE, text=True)

    def compile(self, *names: str) -> list[tuple[int, str]]:
        """Exit code and messages of each."""
        found = []
        for name in names or self.sources:
            with self.start(name) as process:
                _, messages = process.communicate()
                found.append((process.returncode, messages))
        return found

    def plain(self, name: str) -> tuple[int, str, bytes, str]:
        """What the compiler does by itself."""
        done = subprocess.run(
            self.command(name, ".plain"),
            cwd=self.build,
            env={**os.environ, "LC_ALL": "C"},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        output, listing = self.build / f"{name}.plain.o", self.build / f"{name}.plain.o.d"
        if done.returncode:
            return done.returncode, done.stderr, b"", ""
        return 0, done.stderr, output.read_bytes(), listing.read_text()

    def assert_same(self, *names: str) -> None:
        """Objects and dependency files are those of the plain compile, byte by byte."""
        for name in names or self.sources:
            _, _, output, listing = self.plain(name)
            assert (self.build / f"{name}.o").read_bytes() == output, name
            assert (self.build / f"{name}.o.d").read_text() == listing, name

    def counts(self) -> HeaderCounts:
        return read_counts(self.out)

    def headers(self) -> list[Path]:
        return list((self.out / "headers").glob("*/*.gch"))

    def new_run(self) -> None:
        shutil.rmtree(self.out)
        self.configure()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_same_bytes_with_and_without(project: Project) -> None:
    project.group(6)
    project.group(5, "b", '#include <iostream> // first\n/* and */ #include "common.h"')
    (project.tree / "near.h").write_text("#pragma once\n#include <deque>\n#include <common.h>\n")
    project.group(4, "c", '#include "near.h"')
    project.source("alone.cpp", "int alone() { return 1; }\n")
    project.configure()
    assert {code for code, _ in project.compile()} == {0}
    project.assert_same()
    counts = project.counts()
    assert (counts.groups, counts.made, counts.used, counts.plain) == (3, 3, 15, 1)
    assert not counts.fallbacks
    # The last source of a group takes its header away.
    assert project.headers() == []
    assert 0 < counts.used_seconds / counts.used < counts.header_seconds / counts.made


@pytest.mark.parametrize(
    ("version", "used"),
    [("2.7", 0), ("3.6", 0), ("3.7", 4), ("3.8", 4), ("3.9", 4), ("3.12", 4), ("3.13", 4)],
)
def test_every_interpreter_gives_the_same(project: Project, version: str, used: int) -> None:
    installed = [str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    found = installed[0] if installed else shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"no Python {version} on this machine")
    project.python = found
    project.group(4)
    project.configure()
    assert project.compile() == [(0, "")] * 4
    assert project.counts().used == used
    project.assert_same()


def test_no_interpreter_is_no_header(project: Project) -> None:
    project.group(4)
    project.configure()
    for python in ("/nonexistent/python", ""):
        project.python = python
        assert project.compile() == [(0, "")] * 4
    broken = project.root / "python"
    broken.write_text("#!/nonexistent/interpreter\n")
    broken.chmod(0o755)
    project.python = str(broken)
    assert {code for code, _ in project.compile()} == {0}
    project.assert_same()
    assert project.counts() == HeaderCounts()


def test_messages_and_exit_codes_are_those_of_the_plain_compile(project: Project) -> None:
    names = project.group(6)
    # A function that the compiler looks at in each source anew, in a header; and where that was included from.
    project.header("warning.h", '#include "common.h"\nstatic int nothing() {}\n')
    project.group(4, "w", '\n#include <deque>\n/* the third */\n#include "warning.h"')
    project.source("warns.cpp", '#include "common.h"\nint f(int value) { int unused; return value; }\n')
    project.source("broken.cpp", '#include "common.h"\nint f( { return 1; }\n')
    project.configure()
    project.compile(*names[:2])
    for name, code in (("warns.cpp", 0), ("broken.cpp", 1), ("w0.cpp", 0)):
        expected = project.plain(name)
        assert expected[0] == code
        assert expected[1]
        assert project.compile(name) == [(code, expected[1])]
    project.assert_same("warns.cpp", "w0.cpp", *names[:2])
    assert project.counts().fallbacks == {"exit-1": 1}


#: Warnings of each place: the source, a header behind the precompiled one, and templates and declarations within it.
WARN_LATE = '#include "common.h"\nstatic int nothing() {}\ninline int late(int value) { return old(value); }\n'
WARN_WITHIN = (
    "template <class T> [[deprecated]] constexpr T old(T value) { return value; }\n"
    "template <class T> int within(T value) { int unused; return old(value); }\n"
    "#define OLD(value) old(value)\n"
)
WARNING = {
    "own.cpp": "int f(int value) { int unused; return value; }\n",
    "declared.cpp": "int f(int value) { return old(value); }\n",
    "template.cpp": "int f(int value) { return within(value); }\nint g(int value) { return within(value + 1.5); }\n",
    "macro.cpp": "int f(int value) { return OLD(value); }\n",
    "late.cpp": '#include "late.h"\nint f(int value) { return late(value) + within(value); }\n',
    "system.cpp": "#include <late_sys.h>\nint f() { int a; return of_sys(1u) + of_late(2u) + gone(3) + gone_late(4); }",
}


@pytest.mark.parametrize("way", ["gcc", "coloured", "ccache"])
def test_warnings_are_no_reason_to_compile_again(project: Project, way: str) -> None:
    """Whatever warns where: one compile, with the header, and the words of the plain one."""
    # ccache always asks for colours, and takes them out again.
    project.flags = "-O1 -Wall -Wextra" + (" -fdiagnostics-color=always" if way == "coloured" else "")
    project.flags += f" -isystem {project.tree}/system"
    (project.tree / "system").mkdir()
    for name, end in (("sys", "gone"), ("late_sys", "gone_late")):
        (project.tree / "system" / f"{name}.h").write_text(
            f"#pragma once\ntemplate <class T> int of_{name.split('_')[0]}(T v) {{ int unused; return v < 3; }}\n"
            f"[[deprecated]] inline int {end}(int value) {{ return value; }}\n"
        )
    project.header("deep.h", INCLUDES + "#include <sys.h>\n" + WARN_WITHIN)
    project.header("common.h", '#include "deep.h"\ninline int twice(int value) { return value + value; }\n')
    project.header("late.h", WARN_LATE)
    names = project.group(6)
    for number, (name, text) in enumerate(WARNING.items()):
        # Where the include stands is told, too.
        project.source(name, "\n" * number + '#include "common.h"\n' + text)
    if way == "ccache":
        settle()
        project.env = {"BUILDER_CCACHE": ccache_program(), "CCACHE_DEPEND": "1"}
    project.configure()
    project.compile(*names[:2])
    for name in WARNING:
        code, expected, _, _ = project.plain(name)
        assert (code, "warning: " in expected) == (0, True), name
        assert project.compile(name) == [(0, expected)], name
    project.assert_same(*WARNING, *names[:2])
    counts = project.counts()
    assert (counts.used, dict(counts.fallbacks or {})) == (8, {})
    if way == "ccache":
        return
    # The comparison counts them among those that a header served, too, and finds the words to be the same.
    done = verify(project)
    files = [line for line in map(json.loads, done.stdout.splitlines()) if "file" in line]
    assert (done.returncode, len(files)) == (0, 12), done.stdout
    assert [line["fallback"] for line in files] == [None] * 12


def test_warnings_that_a_header_forbids(project: Project) -> None:
    """gcc forgets, in a precompiled header, which warnings were forbidden where: what it says wrongly is not told."""
    project.flags = "-O1 -Wall -Wextra"
    forbids = '#pragma GCC diagnostic {} "-W{}"\n'
    project.header(
        "common.h",
        INCLUDES
        + "[[deprecated]] inline int old(int value) { return value; }\n#pragma GCC diagnostic push\n"
        + forbids.format("ignored", "unused-variable")
        + "template <class T> int within(T value) { int nothing; return value; }\n#pragma GCC diagnostic pop\n"
        + forbids.format("ignored", "sign-compare")
        + "inline int twice(int value) { return value + value; }\n",
    )
    names = project.group(5)
    start = '#include "common.h"\n'
    project.source("within.cpp", start + "int f(int value) { return within(value); }\n")
    project.source("behind.cpp", start + "bool f(int value, unsigned other) { return value < other; }\n")
    project.source("told.cpp", start + "int f(int value) { int nothing; return old(value); }\n")
    project.configure()
    project.compile(*names)
    for name, warns in (("within.cpp", False), ("behind.cpp", False), ("told.cpp", True)):
        code, expected, _, _ = project.plain(name)
        assert (code, bool(expected)) == (0, warns)
        assert project.compile(name) == [(0, expected)]
    assert project.counts().fallbacks == {"pragma": 2}
    project.assert_same()


@pytest.mark.parametrize("kind", ["warning", "error"])
def test_a_header_that_asks_for_warnings_is_not_used(project: Project, kind: str) -> None:
    project.header(
        "common.h",
        INCLUDES
        + f'#pragma GCC diagnostic {kind} "-Wshadow"\ninline int twice(int value) {{ return value + value; }}\n',
    )
    project.group(5)
    project.source("shadow.cpp", '#include "common.h"\nint f(int value) { { int value = 1; return value; } }\n')
    project.configure()
    assert [code for code, _ in project.compile()] == [0] * 5 + [int(kind == "error")]
    assert project.counts().refused == {f"{project.tree}/inc/common.h asks for warnings": 1}


def test_a_header_that_gcc_refuses_is_a_reason(project: Project) -> None:
    names = project.group(6)
    # Made with exceptions, used without: that is another language.
    project.instead_of_the_compiler(
        'case " $* " in *" -include "*) set -- "$@" -fno-exceptions ;; esac\nexec /usr/bin/g++ "$@"\n'
    )
    project.configure()
    assert project.compile(*names[:2]) == [(0, "")] * 2
    assert project.counts().fallbacks == {"invalid": 2}
    project.assert_same(*names[:2])


def test_a_header_that_warns_is_not_used(project: Project) -> None:
    project.header("common.h", INCLUDES + "static int twice(int value) { int unused; return value + value; }\n")
    names = project.group(5)
    project.configure()
    assert project.compile() == [(0, project.plain(name)[1]) for name in names]
    counts = project.counts()
    assert (counts.made, counts.used, counts.plain) == (0, 0, 5)
    assert counts.refused == {"warns": 1}
    assert counts.header_seconds > 0


@pytest.mark.parametrize(
    "text",
    [
        "inline const char* where() { return __FILENAME__; }\n",
        "#ifdef __FILENAME__\ninline int kind() { return 1; }\n#else\ninline int kind() { return 2; }\n#endif\n",
        "#define WHERE (__FILENAME__)\n",
        "inline const char* base() { return __BASE_FILE__; }\n",
        "inline int level() { return __INCLUDE_LEVEL__; }\n",
    ],
    ids=["value", "condition", "macro", "base-file", "include-level"],
)
def test_what_a_header_knows_of_its_source(project: Project, text: str) -> None:
    project.header("common.h", INCLUDES + "inline int twice(int value) { return value + value; }\n" + text)
    project.group(6)
    project.configure()
    assert project.compile() == [(0, "")] * 6
    project.assert_same()
    assert project.counts().used == 0


def test_unusual_headers_give_the_same_bytes(project: Project) -> None:
    project.flags = "-O1"
    project.header(
        "common.h",
        INCLUDES
        + "#include <iostream>\n"
        + "#define JOINED(a, b) a##b\n#define NAMED(a, b) JOINED(a, b)\n"
        + "namespace { int NAMED(first, __COUNTER__) = 1; int NAMED(second, __COUNTER__) = 2; }\n"
        + "inline const char* file() { return __FILE__; }\ninline int line() { return __LINE__; }\n"
        + "static std::vector<int> initialised{1, 2, 3};\n"
        + "template <class T> struct Holder { static std::map<T, int> held; };\n"
        + "template <class T> std::map<T, int> Holder<T>::held;\n"
        + "inline int twice(int value) { static int calls; return value + value + ++calls; }\n",
    )
    names = project.group(4)
    for name in names:
        with open(project.tree / name, "a") as file:
            file.write(
                "int counter() { return __COUNTER__ + line() + file()[0]; }\n"
                f"int held() {{ return Holder<std::string>::held.size() + initialised[0]; }} // {name}\n"
            )
    project.configure()
    project.compile()
    project.assert_same()
    assert project.counts().used == 4


def test_a_header_without_a_guard_ends_the_prefix(project: Project) -> None:
    # Met again by every compile with the header: it would add a second initialiser, under another name.
    (project.tree / "inc" / "twice.h").write_text(
        "#define JOINED(a, b) a##b\n#define NAMED(a, b) JOINED(a, b)\n"
        "namespace { std::string NAMED(text, __COUNTER__) = std::string(20, 'x'); }\n"
        "#undef NAMED\n#undef JOINED\n"
    )
    project.group(5, includes='#include "common.h"\n#include "twice.h"')
    project.configure()
    project.compile()
    project.assert_same()
    assert project.counts().used == 5


@pytest.mark.parametrize("option", ["-g", "-include cstdio", "-flto", "-fprofile-arcs", "-D__FILE__='\"x\"' -w"])
def test_options_that_forbid_it(project: Project, option: str) -> None:
    project.flags += " " + option
    project.group(4)
    project.configure()
    assert {code for code, _ in project.compile()} == {0}
    counts = project.counts()
    assert (counts.made, counts.used, counts.plain) == (0, 0, 4)
    # The log says why.
    assert counts.reasons is not None
    assert [reason.split(":")[0] in ("option", "redefines") for reason in counts.reasons] == [True]


def test_a_header_that_changes_is_dropped(project: Project) -> None:
    names = project.group(10)
    project.configure()
    project.compile(*names[:2])
    project.header("common.h", INCLUDES + "inline int twice(int value) { return value * 5; }\n")
    project.compile(names[2])
    assert project.counts().fallbacks == {"changed": 1}
    time.sleep(0.1)
    # It is made anew, of what stands there now.
    project.compile(*names[3:])
    project.assert_same(*names[2:])
    counts = project.counts()
    assert (counts.made, counts.used) == (2, 9)


def test_a_header_that_is_lost_or_damaged(project: Project) -> None:
    names = project.group(12)
    project.configure()
    project.compile(names[0])
    (header,) = project.headers()
    # gcc finds another file than was made.
    header.write_bytes(header.read_bytes()[:-4096] + b"x" * 4096)
    project.compile(names[1])
    header.write_bytes(b"no header")
    project.compile(names[2])
    for path in project.headers():
        path.unlink()
    project.compile(*names[3:])
    project.assert_same()


def test_a_source_that_changes_after_the_plan(project: Project) -> None:
    names = project.group(5)
    project.configure()
    project.compile(names[0])
    (project.tree / names[1]).write_text(f"#define twice thrice\n{(project.tree / names[1]).read_text()}")
    project.compile(names[1])
    project.assert_same(names[1])
    assert project.counts().reasons == {"source-changed": 1}


def test_a_compiler_that_crashes(project: Project) -> None:
    project.instead_of_the_compiler('case "$*" in *=invalid-pch*) kill -SEGV $$ ;; esac\nexec /usr/bin/g++ "$@"\n')
    names = project.group(8)
    project.configure()
    assert project.compile() == [(0, "")] * 8
    project.assert_same()
    counts = project.counts()
    # After three in vain nobody tries any more.
    assert counts.fallbacks == {f"exit-{128 + signal.SIGSEGV}": 3}
    assert counts.plain == len(names) - 3


@pytest.fixture
def mounts() -> Iterator[Callable[[Path, str], None]]:
    """Mounts a file system in memory, with options, over a folder."""
    mounted: list[Path] = []

    def mount(place: Path, options: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"this user cannot mount: {done.stderr.strip()}")
        mounted.append(place)

    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("blocked", ["headers", "known"])
def test_folders_that_cannot_be_made(project: Project, blocked: str) -> None:
    project.group(4)
    project.configure()
    (project.out / "headers" if blocked == "headers" else project.known).write_text("a file, no folder")
    assert project.compile() == [(0, "")] * 4
    project.assert_same()
    assert project.counts().used == (0 if blocked == "headers" else 4)


def test_a_folder_that_cannot_be_written(project: Project, mounts: Callable[[Path, str], None]) -> None:
    project.group(4)
    project.configure()
    mounts(project.out, "ro")
    results = project.compile()
    assert {code for code, _ in results} == {0}
    project.assert_same()


def test_a_full_disk(project: Project, mounts: Callable[[Path, str], None]) -> None:
    mounts(project.out, "size=8m")
    project.group(4)
    project.configure()
    assert project.compile() == [(0, "")] * 4
    assert project.counts().reasons == {"no-room": 1, "few-left": 3}
    project.assert_same()


def test_a_disk_that_fills_up(project: Project, mounts: Callable[[Path, str], None]) -> None:
    # There seems to be room, but the header does not fit.
    mounts(project.out, "size=8m")
    launcher = project.root / "launcher"
    shutil.copytree(LAUNCHER, launcher)
    stored = launcher / "pch_store.py"
    stored.write_text(stored.read_text().replace("EXPECTED = 400 << 20", "EXPECTED = 1 << 20"))
    project.launcher = launcher
    project.group(5)
    project.configure()
    assert project.compile() == [(0, "")] * 5
    assert project.counts().refused == {"does not compile (1)": 1}
    project.assert_same()


def test_a_header_that_is_never_finished(project: Project) -> None:
    # The compile of a header is killed each time, as by a machine without memory.
    project.instead_of_the_compiler(
        'case "$*" in *c++-header*) kill -KILL $PPID; exit 1 ;; esac\nexec /usr/bin/g++ "$@"\n'
    )
    names = project.group(8)
    project.configure()
    codes = [code for code, _ in project.compile()]
    assert codes == [128 + signal.SIGKILL] * 2 + [0] * 6
    project.assert_same(*names[2:])
    assert project.counts().reasons == {"refused": 6}


def test_few_changes_are_compiled_plainly(project: Project) -> None:
    names = project.group(8)
    project.configure()
    project.compile()
    assert project.counts().made == 1
    # Another build with the same cache, in which these sources have changed, but no header.
    project.new_run()
    project.compile(names[0], names[5])
    counts = project.counts()
    assert (counts.made, counts.plain, counts.reasons) == (0, 2, {"same": 2})
    # Many: the header pays after all.
    project.compile(*names[1:5])
    assert (project.counts().made, project.counts().used) == (1, 3)
    # A header has changed: all are going to be compiled.
    project.new_run()
    project.header("common.h", INCLUDES + "inline int twice(int value) { return value + value + 1; }\n")
    time.sleep(0.1)
    project.compile(*names)
    assert (project.counts().made, project.counts().used) == (1, 8)
    project.assert_same()


def test_headers_take_turns_on_a_small_disk(project: Project) -> None:
    project.group(9)
    project.group(4, "b", '#include <deque>\n#include "common.h"')
    project.configure()
    project.env["BUILDER_HEADERS_LIMIT"] = "405"
    project.compile("b0.cpp", "a0.cpp", "b1.cpp", *(f"a{number}.cpp" for number in range(1, 9)), "b2.cpp")
    counts = project.counts()
    # b's header made way for a's, which is of more use; a's is gone with its last source.
    assert counts.made == 2
    assert counts.reasons == {"few-left": 2}
    project.assert_same(*(f"a{number}.cpp" for number in range(9)), "b0.cpp", "b1.cpp", "b2.cpp")


def test_compiles_at_once(project: Project) -> None:
    names = project.group(12)
    project.configure()
    running = [project.start(name) for name in names]
    results = [(process.communicate()[1], process.returncode) for process in running]
    assert results == [("", 0)] * 12
    project.assert_same()
    counts = project.counts()
    assert counts.made <= 1
    assert counts.used + counts.plain == 12


def test_killed_at_any_moment(project: Project) -> None:
    names = project.group(12)
    project.configure()
    for number, name in enumerate(names[:10]):
        process = subprocess.Popen(
            [str(LAUNCHER / "ccache"), *project.command(name)],
            cwd=project.build,
            env=project.variables(),
            start_new_session=True,
        )
        timer = threading.Timer(0.05 + 0.12 * number, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        process.wait()
        timer.cancel()
    assert project.compile() == [(0, "")] * 12
    project.assert_same()


def test_a_request_to_end_reaches_the_compiler(project: Project) -> None:
    slow = project.root / "bin"
    slow.mkdir()
    (slow / "g++").write_text(
        f'#!/bin/sh\n[ "$1" != -v ] || exec /usr/bin/g++ "$@"\necho $$ >>{project.root}/pids\nexec sleep 600\n'
    )
    (slow / "g++").chmod(0o755)
    names = project.group(4)
    project.configure()
    project.env["PATH"] = f"{slow}:/usr/bin:/bin"
    process = subprocess.Popen(
        [project.python, "-S", "-E", str(LAUNCHER / "pch_compile.py"), *project.command(names[0])],
        cwd=project.build,
        env={**project.variables(), "BUILDER_HEADERS": str(project.out / "headers")},
    )
    pids = project.root / "pids"
    while not pids.exists() or not pids.read_text().split():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text().split()[-1]), 0)


@pytest.mark.parametrize("depend", ["1", ""])
def test_the_cache_does_not_know_of_headers(project: Project, depend: str) -> None:
    names = project.group(6)
    project.source("warns.cpp", '#include "common.h"\nint f(int value) { int unused; return value; }\n')
    project.configure()
    # A file that is only just written is not trusted by ccache's direct mode.
    settle()
    project.env = {"BUILDER_CCACHE": ccache_program(), **({"CCACHE_DEPEND": "1"} if depend else {})}
    first = project.compile()
    assert (project.counts().made, project.counts().used) == (1, 7)
    expected = project.plain("warns.cpp")[1]
    assert expected
    assert first == [(0, "")] * 6 + [(0, expected)]
    project.assert_same()
    for headers in ("", str(project.out / "headers")):
        project.new_run()
        project.env["BUILDER_HEADERS"] = headers
        assert project.compile() == first
        found = compile_cache.read_counts(project.out)
        assert (found.hits, found.misses) == (7, 0)
        # A hit asks nobody about headers.
        assert project.counts() == HeaderCounts()
        project.assert_same()
    # And the other way round: what was cached without headers serves a build with them.
    shutil.rmtree(project.root / "ccache")
    project.new_run()
    project.env["BUILDER_HEADERS"] = ""
    project.compile(*names)
    project.new_run()
    project.env["BUILDER_HEADERS"] = str(project.out / "headers")
    project.compile(*names)
    assert compile_cache.read_counts(project.out).hits == 6


def test_pythons_share_what_does_not_include_python(project: Project) -> None:
    names = project.group(4)
    project.group(4, "p", '#include <Python.h>\n#include "common.h"')
    # Include folders of two interpreters, as each one's CMake writes them into the commands.
    for version in ("3.10", "3.11"):
        include = project.root / f"python{version}"
        include.mkdir()
        (include / "Python.h").write_text(f'#pragma once\n#define PY_VERSION "{version}"\n')
    settle()
    project.env = {"BUILDER_CCACHE": ccache_program(), "CCACHE_DEPEND": "1"}
    hits = []
    for version in ("3.10", "3.11", "3.10"):
        project.flags = f"-O1 -I{project.root}/python{version}"
        project.env["BUILDER_PYTHON_INCLUDE"] = f"{project.root}/python{version}"
        project.env["BUILDER_PYTHON_INCLUDE_AS"] = f"{project.out}/python-include"
        shutil.rmtree(project.out, ignore_errors=True)
        project.configure()
        assert project.compile() == [(0, "")] * 8
        hits.append((compile_cache.read_counts(project.out).hits, project.counts().made))
        for name in project.sources:
            # The plain compile reads the same headers under their own name.
            assert (project.build / f"{name}.o").read_bytes() == project.plain(name)[2]
    assert hits == [(0, 2), (len(names), 1), (8, 0)]


def test_without_dependency_files(project: Project) -> None:
    names = project.group(5)
    project.configure()
    for name in names:
        command = [word for word in project.command(name) if not word.startswith("-M") and not word.endswith(".o.d")]
        command.remove(f"{name}.o")
        subprocess.run([LAUNCHER / "ccache", *command], cwd=project.build, env=project.variables(), check=True)
    assert project.counts().used == 5
    for name in names:
        assert (project.build / f"{name}.o").read_bytes() == project.plain(name)[2]


def verify(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            project.python,
            "-S",
            "-E",
            LAUNCHER / "verify_objects.py",
            project.build,
            "--folder",
            project.root / "out",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        env=project.variables(),
    )


@pytest.mark.parametrize("python", ["this", "oldest"])
def test_verify(project: Project, python: str) -> None:
    if python == "oldest":
        project.python = oldest_python()
    project.group(6)
    project.group(4, "b", '#include <iostream>\n#include "common.h"')
    project.configure()
    results = project.root / "results.jsonl"
    done = verify(project, "--sample", "3", "--results", str(results))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    files = [line for line in lines if "file" in line]
    assert len(files) == 6
    assert all(line["same"] and line["fallback"] is None and line["with_cpu"] < line["plain_cpu"] for line in files)
    # It goes on where it was.
    assert verify(project, "--results", str(results), "--jobs", "2").returncode == 0
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert sorted(line["file"] for line in lines if "file" in line) == sorted(
        f"{project.tree}/{name}" for name in project.sources
    )


def test_verify_that_breaks_off_says_why(project: Project) -> None:
    project.group(4)
    project.configure()
    folder = project.root / "out"
    (folder / "results").mkdir()
    done = verify(project, "--results", str(folder / "results"))
    assert done.returncode not in (0, 2)
    assert "IsADirectoryError" in done.stderr
    assert "finished" not in done.stdout
    # In a worker, too: here an object disappears.
    project.instead_of_the_compiler(
        f'/usr/bin/g++ "$@" || exit\ncase "$*" in *a1.cpp*plain*) rm -f {folder}/compared.*.plain.o ;; esac\n'
    )
    done = verify(project)
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr
    assert "a worker failed in group" in done.stderr
    assert "finished" not in done.stdout


def test_verify_names_what_differs(project: Project) -> None:
    # A compiler that makes something else where a header is used.
    project.instead_of_the_compiler(
        'case "$*" in *a2.cpp*-Werror=invalid-pch*) set -- "$@" -Dnaming=other; esac\nexec /usr/bin/g++ "$@"\n'
    )
    project.group(4)
    with open(project.tree / "a2.cpp", "a") as file:
        file.write("\n#define NAME(x) #x\n#define TEXT(x) NAME(x)\nconst char* text() { return TEXT(naming); }\n")
    project.configure()
    done = verify(project)
    assert done.returncode == 1
    assert f"differs: {project.tree}/a2.cpp" in done.stderr.splitlines()
    assert [json.loads(line)["file"] for line in done.stdout.splitlines() if '"same": false' in line] == [
        f"{project.tree}/a2.cpp"
    ]


def test_verify_what_the_cache_answers(project: Project) -> None:
    ccache = ccache_program()
    # A compiler that another file makes give something else, of which ccache cannot know.
    project.instead_of_the_compiler(f'exec /usr/bin/g++ "$@" $(cat {project.root}/secret)\n')
    (project.root / "secret").write_text("")
    project.env |= {"BUILDER_CCACHE": ccache, "CCACHE_DEPEND": "1"}
    names = project.group(6)
    project.source("other.cpp", "#ifndef SECRET\n#define SECRET 1\n#endif\nint other() { return SECRET; }\n")
    project.configure()
    assert project.compile(*names, "other.cpp") == [(0, "")] * 7
    project.source("new.cpp", "int fresh() { return 0; }\n")
    project.configure()
    for name in project.sources:
        (project.build / f"{name}.o").unlink(missing_ok=True)

    done = verify(project, "--cached", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    files = [line for line in map(json.loads, done.stdout.splitlines()) if "file" in line]
    assert {line["file"]: line["same"] for line in files} == {
        **{f"{project.tree}/{name}": True for name in (*names, "other.cpp")},
        f"{project.tree}/new.cpp": None,
    }
    assert {line["group"] == "-" for line in files if "/a" in line["file"].removeprefix(str(project.tree))} == {False}
    # Nothing was compiled into the cache by asking.
    assert "new.cpp" not in (project.out / compile_cache.COMPILE_LOG).read_text()

    (project.root / "secret").write_text("-DSECRET=2")
    done = verify(project, "--cached")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == f"differs: {project.tree}/other.cpp"
    assert len(done.stderr.splitlines()) == 2
    (kept,) = (project.root / "out").glob("compared.*.cached.o")
    assert kept.read_bytes() != kept.with_name(kept.name.replace("cached", "plain")).read_bytes()
