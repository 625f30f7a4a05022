"""The compile cache as builds use it: the launcher, the real ccache, CMake and g++, on a small project.

Whatever happens to the cache, the objects are those of a compile without one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import pytest
from support import ccache_program, settle, unavailable

from builder.compilation import ccache, compile_manifest
from builder.compilation.cache_misses import Miss, groups_of, misses_of
from builder.compilation.ccache import CompileCounts
from builder.compilation.compile_manifest import CompileManifest
from builder.compilation.version_define import find_version_define
from builder.core.untrusted import remove_tree

CMAKE = """\
cmake_minimum_required(VERSION 3.18)
project(small CXX)
add_definitions(-DSMALL_NPU_VERSION="${SMALL_VERSION}")
include_directories(${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/first ${PROJECT_SOURCE_DIR}/second)
include_directories(${PYTHON_INCLUDE_DIR})
add_library(small OBJECT a.cpp b.cpp python.cpp version.cpp date.cpp)
"""
FILES = {
    "CMakeLists.txt": CMAKE,
    "common.h": "#pragma once\n#define COMMON 1\n",
    "second/hidden.h": "#pragma once\n#define HIDDEN 2\n",
    "a.cpp": '#include "common.h"\nint a() { return COMMON; }\n',
    "b.cpp": '#include "common.h"\n#include "hidden.h"\nint b() { return COMMON + HIDDEN; }\n',
    "python.cpp": "#include <Python.h>\nint python() { return PYTHON; }\n",
    "version.cpp": "const char* version() { return SMALL_NPU_VERSION; }\n",
    "date.cpp": "const char* date() { return __DATE__; }\n",
}
#: Files in a cache that are no entries.
OTHERS = {"stats", "CACHEDIR.TAG", ".cleaned", "ccache.conf"}


@dataclass(frozen=True)
class Built:
    """One build: the launcher's counts, the digests of its objects, and what its compiles took in."""

    counts: CompileCounts
    objects: dict[str, str]
    manifest: CompileManifest
    output: str

    def misses(self, *earlier: Built) -> dict[str, Miss]:
        """Its misses by file name, explained by earlier builds, the newest first."""
        found = misses_of(self.manifest, [each.manifest for each in earlier])
        return {Path(miss.source).name: miss for miss in found}


@dataclass
class Project:
    """A tree with a results folder for each build, all at the same paths, as in an environment."""

    root: Path
    python: str = "3.11"
    version: str = "1.0"
    epoch: int = 1_700_000_000
    store: str = "cache/v1-x86_64-gcc12.2"
    cached: bool = True
    path: str = field(default_factory=lambda: os.environ["PATH"])

    @property
    def tree(self) -> Path:
        """The sources."""
        return self.root / "tree"

    @property
    def out(self) -> Path:
        """The results of the build that runs."""
        return self.root / "out"

    def write(self, **files: str) -> None:
        """Write files of the tree; ``__`` in a keyword stands for a slash, ``_`` for a dot."""
        for name, text in files.items():
            path = self.tree / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def variables(self, *, read_only: bool = False) -> dict[str, str]:
        """The variables of a build, as CompileSpec puts them together."""
        found = dict(
            ccache.environment(
                cache=str(self.root / self.store),
                launcher=str(ccache.LAUNCHER),
                compile_log=str(self.out / "compile.log"),
                slots=0,
                slot_folder=str(self.out),
                temporary=str(self.out / "ccache"),
                inputs=str(self.out / compile_manifest.INPUTS),
                read_only=read_only,
            )
        )
        return found | {
            "PATH": self.path,
            "BUILDER_CCACHE": ccache_program() if self.cached else "",
            "BUILDER_PYTHON_INCLUDE": str(self.root / f"python{self.python}"),
            "BUILDER_PYTHON_INCLUDE_AS": str(self.out / compile_manifest.PYTHON_INCLUDE),
            "BUILDER_VERSION_DEFINE": str(self.out / compile_manifest.VERSION_DEFINE),
            # Else a Python that starts compilers would set another locale for them (PEP 538).
            "LC_ALL": "C.UTF-8",
            "SOURCE_DATE_EPOCH": str(self.epoch),
            "TZ": "UTC",
        }

    def build(self, *, generator: str = "Unix Makefiles") -> Built:
        """Configure and compile a fresh build folder; nothing of the build before is there but the cache."""
        shutil.rmtree(self.tree / "build", ignore_errors=True)
        self.out.mkdir(exist_ok=True)
        for path in self.out.iterdir():
            remove_tree(path)
        (self.out / "ccache").mkdir()
        define = find_version_define(self.tree)
        assert define is not None
        (self.out / compile_manifest.VERSION_DEFINE).write_text(define.text(str(self.tree)))
        folder = str(self.root / self.store) if self.cached else None
        places = {"tree": str(self.tree), "out": str(self.out)}
        first = compile_manifest.before_command(
            sys.executable, str(ccache.LAUNCHER), torch=str(self.root / "torch"), cache=folder, **places
        )
        env = self.variables()
        done = self._run(first, env)
        state = compile_manifest.parse_before(done.splitlines())
        assert state is not None, done
        if state[0] == "read-only":
            env = self.variables(read_only=True)
        elif state[0] == "unusable":
            env["BUILDER_CCACHE"] = ""
        configure = [
            "cmake", "-S", str(self.tree), "-B", str(self.tree / "build"), "-G", generator,
            "-DCMAKE_CXX_COMPILER_FORCED=1",
            f"-DSMALL_VERSION={self.version}", f"-DPYTHON_INCLUDE_DIR={self.root / f'python{self.python}'}",
        ]  # fmt: skip
        output = done + self._run(configure, env)
        output += self._run(["cmake", "--build", str(self.tree / "build"), "-j2"], env)
        last = compile_manifest.after_command(
            sys.executable, str(ccache.LAUNCHER), log=str(self.out / "compile.log"), **places
        )
        output += self._run(last, env)
        objects = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (self.tree / "build").rglob("*.cpp.o")
        }
        number = len(list((self.root / "kept").glob("*"))) if (self.root / "kept").exists() else 0
        kept = compile_manifest.keep(
            self.out,
            self.root / "kept",
            target=f"v1-py{self.python}-x86_64",
            run=f"{number:03}",
            built=datetime.now(timezone.utc),
            size=0,
            limit=ccache.DEFAULT_LIMIT,
        )
        assert kept is not None
        return Built(ccache.read_counts(self.out), objects, kept.read(), output)

    def plain(self) -> dict[str, str]:
        """The objects of a build without any cache, of the sources as they are now."""
        return dataclasses.replace(self, cached=False).build().objects

    def _run(self, argv: list[str], env: dict[str, str]) -> str:
        done = subprocess.run(
            argv, env=env, cwd=self.root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for tool in ("cmake", "g++", "make"):
        if shutil.which(tool) is None:
            unavailable(f"there is no {tool}")
    ccache_program()
    for name, text in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for python in ("3.10", "3.11"):
        folder = tmp_path / f"python{python}"
        folder.mkdir()
        (folder / "Python.h").write_text(f"#define PYTHON {python.replace('.', '')}\n")
    (tmp_path / "torch").mkdir()
    settle()
    return Project(tmp_path)


def inside(project: Project, mounts: str) -> subprocess.Popen[str]:
    """A build of the project in a mount namespace of its own, after ``mounts`` (a shell command)."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        unavailable("only root can mount here")
    script = (
        "import importlib.util, json, sys; from pathlib import Path\n"
        f"sys.path[:0] = {[path for path in sys.path if path]!r}\n"
        f"spec = importlib.util.spec_from_file_location('this', {__file__!r})\n"
        "this = sys.modules['this'] = importlib.util.module_from_spec(spec); spec.loader.exec_module(this)\n"
        f"built = this.Project(Path({str(project.root)!r})).build()\n"
        "print('RESULT' + json.dumps([built.objects, built.counts.use().to_json(), built.output]))\n"
    )
    argv = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$0" -c "$1"', sys.executable, script]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, str], dict[str, int], str]:
    """Objects, counts and output of a build in a namespace."""
    out, error = process.communicate()
    assert process.returncode == 0, error
    objects, counts, output = json.loads(out.partition("RESULT")[2])
    return objects, counts, output


def kinds(misses: dict[str, Miss]) -> dict[str, str]:
    return {name: miss.kind for name, miss in misses.items()}


@pytest.mark.parametrize("generator", ["Unix Makefiles", "Ninja"])
def test_the_same_again_is_all_hits_and_another_python_misses_its_own_files(project: Project, generator: str) -> None:
    if generator == "Ninja" and shutil.which("ninja") is None:
        unavailable("there is no ninja")
    first = project.build(generator=generator)
    assert (first.counts.files, first.counts.misses, first.counts.hits) == (5, 5, 0)
    assert set(kinds(first.misses()).values()) == {"first"}
    again = project.build(generator=generator)
    assert (again.counts.direct, again.counts.misses) == (5, 0)
    assert again.objects == first.objects
    project.python = "3.10"
    other = project.build(generator=generator)
    assert (other.counts.direct, other.counts.misses) == (4, 1)
    assert kinds(other.misses(again, first)) == {"python.cpp": "python"}
    assert other.objects == project.plain()


@pytest.mark.parametrize("generator", ["Unix Makefiles", "Ninja"])
def test_what_a_rehearsal_compiles_the_build_finds(project: Project, generator: str) -> None:
    if generator == "Ninja" and shutil.which("ninja") is None:
        unavailable("there is no ninja")
    # The commands of a configured tree, and no object of it anywhere.
    project.build(generator=generator)
    shutil.rmtree(project.root / project.store)
    for made in (project.tree / "build").rglob("*.cpp.o*"):
        made.unlink()
    (project.out / "compile.log").unlink()
    script = [sys.executable, "-S", "-E", str(ccache.LAUNCHER / "compile_sample.py"), str(project.tree / "build")]
    told = project._run([*script, "--files=3", f"--since={2**40}"], project.variables()).splitlines()
    assert json.loads(told[0]) == {"sources": 3, "of": 5}
    assert [json.loads(line)["status"] for line in told[1:-1]] == [0, 0, 0]
    assert ccache.read_counts(project.out).misses == 3
    settle()
    built = project.build(generator=generator)
    assert (built.counts.direct, built.counts.misses) == (3, 2)
    assert built.objects == project.plain()


def test_each_input_is_named_by_the_file_that_missed_for_it(project: Project) -> None:
    first = project.build()
    project.write(common_h="#pragma once\n#define COMMON 3\n")
    settle()
    header = project.build()
    missed = header.misses(first)
    assert kinds(missed) == {"a.cpp": "header", "b.cpp": "header"}
    assert missed["a.cpp"].difference.changed == (str(project.tree / "common.h"),)
    texts = [group.text for group in groups_of(missed.values(), header.manifest)]
    assert texts == ["common.h changed"]
    project.write(a_cpp='#include "common.h"\nint a() { return -COMMON; }\n')
    settle()
    source = project.build()
    assert kinds(source.misses(header, first)) == {"a.cpp": "source"}
    project.write(CMakeLists_txt=CMAKE + "set_source_files_properties(b.cpp PROPERTIES COMPILE_OPTIONS -DMORE=1)\n")
    argument = project.build()
    missed = argument.misses(source, header, first)
    assert kinds(missed) == {"b.cpp": "argument"}
    assert missed["b.cpp"].difference.added_arguments == ("-DMORE=1",)
    project.version = "2.0"
    version = project.build()
    missed = version.misses(argument, source, header, first)
    assert kinds(missed) == {"version.cpp": "argument"}
    assert version.objects == project.plain()


def test_a_date_is_the_reason_where_nothing_else_differs(project: Project) -> None:
    first = project.build()
    project.epoch += 86400
    again = project.build()
    assert kinds(again.misses(first)) == {"date.cpp": "date"}
    assert again.objects["date.cpp.o"] != first.objects["date.cpp.o"]
    assert again.objects == project.plain()


def test_a_cleared_cache_explains_itself(project: Project) -> None:
    first = project.build()
    shutil.rmtree(project.root / project.store)
    again = project.build()
    assert set(kinds(again.misses(first)).values()) == {"evicted", "date"}


def test_a_new_header_that_hides_another_is_seen(project: Project) -> None:
    """No file that the compile read has changed: ccache alone would give the old object (test_hidden_headers)."""
    first = project.build()
    project.write(first__hidden_h="#pragma once\n#define HIDDEN 40\n")
    settle()
    again = project.build()
    assert again.objects == project.plain()
    missed = again.misses(first)
    assert missed["b.cpp"].kind == "include"
    assert "hidden.h" in missed["b.cpp"].difference.include


def test_a_header_that_changes_while_a_file_compiles_spoils_nothing(project: Project) -> None:
    """The object of the old header must not be found under the new one."""
    header, flag = project.tree / "common.h", project.root / "change"
    driver = project.root / "tools" / "c++"
    driver.parent.mkdir()
    driver.write_text(
        f'#!/bin/sh\n{shutil.which("g++")} "$@" || exit 1\ncase "$*" in *" -c "*a.cpp) if rm {flag} 2>/dev/null; then\n'
        # ccache 4.14 takes what happens within the first 100 ms for granular time stamps.
        f"sleep 0.3; printf '#pragma once\\n#define COMMON 7\\n' >{header}; fi ;; esac\n"
    )
    driver.chmod(0o755)
    project.path = f"{driver.parent}:{project.path}"
    settle()
    flag.touch()
    project.build()
    assert "COMMON 7" in header.read_text()
    settle()
    assert project.build().objects == project.plain()


def test_another_compiler_behind_the_same_driver_is_another_compiler(project: Project) -> None:
    """A driver that is byte for byte the same, with another compiler proper: ccache's own check looks at the driver."""
    tools = project.root / "tools"
    tools.mkdir()
    driver = tools / "c++"
    real = shutil.which("g++")
    driver.write_text(f'#!/bin/sh\nexec {real} -B {tools} "$@"\n')
    driver.chmod(0o755)
    project.path = f"{tools}:{project.path}"
    proper = subprocess.run([str(real), "-print-prog-name=cc1plus"], capture_output=True, text=True, check=True)
    wrapper = tools / "cc1plus"
    built = []
    for flag in ("-O0", "-O2"):
        wrapper.write_text(f'#!/bin/sh\nexec {proper.stdout.strip()} "$@" {flag}\n')
        wrapper.chmod(0o755)
        settle()
        built.append(project.build())
    assert built[1].counts.hits == 0
    assert set(kinds(built[1].misses(built[0])).values()) == {"compiler"}
    assert built[1].objects == project.plain()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "version", "foreign"])
def test_damaged_entries_are_compiled_again(project: Project, damage: str) -> None:
    first = project.build()
    store = project.root / project.store
    entries = [path for path in store.rglob("*") if path.is_file() and path.stat().st_size and path.name not in OTHERS]
    assert len(entries) == 10
    for path in entries:
        data = bytearray(path.read_bytes())
        if damage == "flipped":
            data[len(data) // 2] ^= 0xFF
        elif damage == "version":
            data[2] += 1  # the format of a ccache to come
        path.write_bytes(
            {"cut": data[: len(data) // 2], "empty": b"", "foreign": b"not of ccache"}.get(damage, bytes(data))
        )
    again = project.build()
    assert again.objects == first.objects
    assert again.counts.misses == 5
    assert project.build().counts.hits == 5


@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_a_cache_that_cannot_be_written_is_read(project: Project, kind: str) -> None:
    project.build()
    project.write(a_cpp='#include "common.h"\nint a() { return -COMMON; }\n')
    settle()
    store = project.root / project.store
    if kind == "read-only":
        mounts = f"mount --bind {store} {store} && mount -o remount,bind,ro {store}"
    else:
        # A file system of its own that has room for the entries, and then for nothing.
        mounts = (
            f"cp -a {store} {store}.copy && mount -t tmpfs -o size=1m none {store} && cp -a {store}.copy/. {store} && "
            f"(cat /dev/zero >{store}/filler 2>/dev/null; true)"
        )
    objects, counts, output = finished(inside(project, mounts))
    assert '"read-only"' in output
    assert (counts["hits"], counts["misses"]) == (4, 1)
    assert objects == project.plain()


def test_a_cache_that_fills_up_meanwhile_costs_nothing_but_speed(project: Project) -> None:
    store = project.root / project.store
    store.mkdir(parents=True)
    # Room for the first step's attempt and for little more.
    mounts = f"mount -t tmpfs -o size=24k,nr_inodes=24 none {store}"
    objects, counts, output = finished(inside(project, mounts))
    assert '"writable"' in output
    assert counts["failed"] == 0
    assert objects == project.plain()


@pytest.mark.parametrize("kind", ["file", "dangling"])
def test_without_a_usable_folder_everything_is_compiled(project: Project, kind: str) -> None:
    store = project.root / project.store
    store.parent.mkdir(parents=True)
    if kind == "file":
        store.write_text("in the way")
    else:
        store.symlink_to("/nonexistent/folder")
    built = project.build()
    assert '"unusable"' in built.output
    assert (built.counts.plain, built.counts.cached) == (5, False)
    assert built.objects == project.plain()


def test_two_builds_fill_one_cache_at_once(project: Project) -> None:
    """Both at the same paths, as two containers: they race for the same entries."""
    right = project.plain()
    root = project.root
    names = ("tree", "out", "kept")
    for number in "12":
        for name in names:
            shutil.copytree(root / name, root / f"{name}{number}")
    running = [
        inside(project, " && ".join(f"mount --bind {root}/{name}{number} {root}/{name}" for name in names))
        for number in "12"
    ]
    for process in running:
        objects, counts, _ = finished(process)
        assert objects == right
        assert counts["hits"] + counts["misses"] == 5
    assert project.build().counts.hits == 5
