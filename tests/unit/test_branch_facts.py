"""What branches say about themselves: one small branch for each era, and each of its facts changed alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from builder.core.errors import FailureKind, TargetError
from builder.progress.reporter import Reporter
from builder.sources import gitcli
from builder.sources.branch_facts import BranchFacts, distance, read_branch, read_overlay
from builder.sources.mirrors import Mirror, Mirrors, Repository

PIN, OTHER = "1" * 40, "2" * 40


@dataclass(frozen=True)
class Branch:
    """The files of one commit, with ``pins`` for submodules and ``links`` for symlinks."""

    files: Mapping[str, str]
    pins: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, **pins: str) -> Branch:
        """A branch in one text: each file begins with ``==> path``. A pin is named after its folder in third_party."""
        parts = [part.partition("\n") for part in text.split("==> ")[1:]]
        named = {f"third_party/{name.replace('_', '-')}": commit for name, commit in pins.items()}
        return cls({path: content for path, _, content in parts}, named)

    def having(self, path: str, text: str | None) -> Branch:
        """The same with another text in ``path``; None leaves the file out."""
        files = {name: content for name, content in self.files.items() if name != path}
        return replace(self, files=files if text is None else {**files, path: text})

    def changed(self, path: str, old: str, new: str) -> Branch:
        """The same with every ``old`` in ``path``, where it must stand, become ``new``."""
        assert old in self.files[path], f"{old!r} in {path}"
        return self.having(path, self.files[path].replace(old, new))

    def pinning(self, name: str, commit: str) -> Branch:
        """The same with a submodule in third_party."""
        return replace(self, pins={**self.pins, f"third_party/{name}": commit})


class Repo:
    """A mirror that tests put commits into."""

    def __init__(self, folder: Path) -> None:
        self.mirror: Mirror = Mirrors(folder, Reporter(quiet=True), offline=True).open(Repository("upstream", ()))

    def commit(self, branch: Branch, *, parent: str | None = None) -> str:
        entries = [("100644", *file) for file in branch.files.items()]
        entries += [("120000", *link) for link in branch.links.items()]
        stream = "commit refs/heads/work\ncommitter a <a@b> 0 +0000\ndata 0\n\n"
        stream += f"from {parent}\n" if parent is not None else ""
        stream += "".join(
            f"M {mode} inline {path}\ndata {len(text.encode())}\n{text}\n" for mode, path, text in entries
        )
        stream += "".join(f"M 160000 {pin} {path}\n" for path, pin in branch.pins.items())
        gitcli.run(["fast-import", "--quiet", "--force"], git_dir=self.mirror.path, data=stream.encode())
        return gitcli.run(["rev-parse", "refs/heads/work"], git_dir=self.mirror.path).decode().strip()

    def read(self, branch: Branch) -> BranchFacts:
        return read_branch(self.mirror, "work", self.commit(branch))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return Repo(tmp_path_factory.mktemp("mirrors"))


#: The version is a literal, CMakeLists.txt alone decides the ABI, and lines end as on Windows.
LITERAL = Branch.of("""
==> ci/build.sh
SUPPORTED_PY_VERSION=(3.8 3.9)
        --python=*)
            ;;
        --tocpu=*)
            ;;
==> setup.py
import os
from setuptools import setup
VERSION = '1.11.0.post4'
def note_version():
    global VERSION
    if os.getenv("BUILD_WITHOUT_SHA") is None:
        VERSION += "+git" + "1234"
note_version()
flags = ['-O2']
if os.getenv('DEBUG', default='0').upper() in ['ON', '1']:
    flags = ['-O0']
for mode in flags:
    print(mode, '\\d')
setup(name='torch_npu', version=VERSION)
==> CMakeLists.txt
cmake_minimum_required(VERSION 3.12 FATAL_ERROR)
# find_program(CCACHE ccache)
# set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
if (NOT DEFINED BUILD_LIBTORCH)
  set(_GLIBCXX_USE_CXX11_ABI 0)
elseif (NOT DEFINED GLIBCXX_USE_CXX11_ABI)
  set(GLIBCXX_USE_CXX11_ABI 0)
endif()
set(CMAKE_CXX_FLAGS "${CMAKE_CXX_FLAGS} -D__FILE__='\\"$(notdir $(abspath $<))\\"'") # shorter
==> ci/docker/X86/Dockerfile
ARG LCOV=0
FROM images.example/old:1
RUN echo \\
    FROM d
==> ci/docker/ARM/Dockerfile
 FROM images.example/old-arm:1
""".replace("\n", "\r\n").replace("\r\n", "\n", 1))  # fmt: skip
LITERAL = replace(LITERAL, files={path.strip(): text for path, text in LITERAL.files.items()})

#: version.txt has the version; the ABI depends on the architecture.
TEXT = Branch.of("""
==> ci/build.sh
SUPPORTED_PY_VERSION=(3.9 3.10)
        --python=*)
        --disable_torchair)
        --disable_rpc)
==> version.txt
2.6.0.post3
==> setup.py
import os
import platform
from setuptools import setup
from codegen.paths import check
BASE_DIR = os.path.dirname(os.path.realpath(__file__))
check(os.path.join(BASE_DIR, "version.txt"))
with open(os.path.join(BASE_DIR, "version.txt")) as version_f:
    VERSION = version_f.read().strip()
USE_CXX11_ABI = False
if platform.machine() == "aarch64":
    USE_CXX11_ABI = True
if os.environ.get("_GLIBCXX_USE_CXX11_ABI") is not None:
    USE_CXX11_ABI = os.environ.get("_GLIBCXX_USE_CXX11_ABI") == "1"
    VERSION += "+cxx11-abi"
class Compile:
    def run(self):
        VERSION = os.getenv("MAX_JOBS", "4")
        requirements = ['-DGLIBCXX_USE_CXX11_ABI=1'] if USE_CXX11_ABI else []
if not os.path.exists(os.path.join(BASE_DIR, "README.md")):
    raise FileNotFoundError("README.md")
requirements = ['torch==2.6.0+cpu' if platform.machine() == 'x86_64' else 'torch==2.6.0']
if USE_CXX11_ABI:
    requirements = ['torch==2.6.0+cpu.cxx11.abi'] if platform.machine() == 'x86_64' else ['torch==2.6.0']
setup(version=VERSION, install_requires=requirements, cmdclass={'build_clib': Compile})
==> CMakeLists.txt
cmake_minimum_required(VERSION 3.18)
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE} CACHE PATH "launcher")
endif()
if (NOT DEFINED GLIBCXX_USE_CXX11_ABI)
  set(GLIBCXX_USE_CXX11_ABI 0)
endif()
==> .gitmodules
[submodule "third_party/op-plugin"]
    path = third_party/op-plugin
    url = https://code.example/op-plugin.git
    branch = 7.9.0
[submodule "fmt"]
    path = third_party/fmt
    url = https://code.example/fmt.git
[submodule "gone"]
    path = third_party/gone
    url = https://code.example/gone.git
==> ci/docker/X86/Dockerfile
FROM images.example/new:2
==> ci/docker/ARM/Dockerfile
FROM images.example/new-arm:2
""", op_plugin=PIN, fmt=OTHER)  # fmt: skip

#: The installed torch decides version and requirement; ninja, mold and mapped paths.
HELPER = "tools/setup_helpers/version.py"
INSTALLED = Branch.of("""
==> ci/build.sh
SUPPORTED_PY_VERSION=(3.10 3.14)
        --python=*)
        --torch=*)
        --enable_pgo=*)
==> version.txt
# what this tree can be
2.14.0

2.13.0.post1
==> tools/setup_helpers/version.py
import os
def get_version():
    version = os.environ.get("TORCH_VERSION")
    if version:
        return version.strip()
    import torch
    return torch.__version__.split("+")[0]
==> setup.py
import os
import shutil
from setuptools import setup
from tools.setup_helpers.version import get_version
VERSION = get_version()
USE_CXX11_ABI = True
if os.environ.get("_GLIBCXX_USE_CXX11_ABI") is not None and os.environ.get("_GLIBCXX_USE_CXX11_ABI") == "0":
    USE_CXX11_ABI = False
def _requires():
    wanted = os.environ.get("TORCH_VERSION", "")
    if not wanted:
        try:
            wanted = get_version().split("+")[0].split(".post")[0].split(".dev")[0]
        except ImportError:
            pass
    return ["torch==" + wanted] if wanted else []
arguments = ["-DGLIBCXX_USE_CXX11_ABI=1"] if USE_CXX11_ABI else []
if shutil.which("ninja"):
    arguments.append("-GNinja")
setup(version=VERSION, install_requires=[*_requires(), "numpy"])
==> CMakeLists.txt
cmake_minimum_required(VERSION 3.18.1 FATAL_ERROR)
project(P)
include(GNUInstallDirs)
include(${PROJECT_SOURCE_DIR}/cmake/speed.cmake)
add_compile_options(-fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=)
==> cmake/speed.cmake
find_program(CCACHE NAMES ccache)
set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
find_program(MOLD_LINKER mold)
if(MOLD_LINKER)
  add_link_options("-fuse-ld=mold")
endif()
==> .gitmodules
[submodule "third_party/op-plugin"]
    path = third_party/op-plugin
    url = https://code.example/op-plugin.git
==> ci/docker/X86/Dockerfile
ARG TAG=9
FROM --platform=linux/amd64 images.example/now:${TAG} AS final
""", op_plugin=PIN)  # fmt: skip

BARE = Branch({"README.md": "nothing to build here\n"})
FMT, GONE, PLUGIN = (
    (f"third_party/{name}", f"https://code.example/{name}.git") for name in ("fmt", "gone", "op-plugin")
)
ARM = {"aarch64": "images.example/new-arm:2"}


def both(value: object) -> dict[str, object]:
    return {"x86_64": value, "aarch64": value}


@pytest.mark.parametrize(("branch", "stated"), [
    (BARE, {"build_options": None}),
    (LITERAL, {
        "build_options": ("--tocpu",), "pythons": ("3.8", "3.9"), "package_version": "1.11.0.post4",
        "version_source": "setup.py", "cxx11_abi": both(0), "cmake_minimum": "3.12", "redefines_file": True,
        "ci_images": {"x86_64": "images.example/old:1", "aarch64": "images.example/old-arm:1"},
    }),
    (TEXT, {
        "build_options": ("--disable_rpc", "--disable_torchair"), "pythons": ("3.9", "3.10"),
        "package_version": "2.6.0.post3", "version_source": "version.txt", "cxx11_abi": {"x86_64": 0, "aarch64": 1},
        "torch_requirement": {"x86_64": "torch==2.6.0+cpu", "aarch64": "torch==2.6.0"}, "cmake_minimum": "3.18",
        "honours_max_jobs": True, "finds_ccache": True, "ci_images": {"x86_64": "images.example/new:2", **ARM},
        "op_plugin_branch": "7.9.0", "op_plugin_commit": PIN, "submodules": (FMT, PLUGIN),
    }),
    (INSTALLED, {
        "build_options": ("--enable_pgo", "--torch"), "pythons": ("3.10", "3.14"), "version_source": "torch",
        "version_choices": ("2.14.0", "2.13.0.post1"), "torch_requirement": both("torch==<version>"),
        "cxx11_abi": both(1), "cmake_minimum": "3.18.1", "finds_ccache": True, "maps_prefix": True,
        "uses_ninja": True, "uses_mold": True, "ci_images": {"x86_64": "images.example/now:9"},
        "op_plugin_commit": PIN, "submodules": (PLUGIN,),
    }),
], ids=["bare", "literal", "text", "installed"])  # fmt: skip
def test_each_era_is_understood(repo: Repo, branch: Branch, stated: dict[str, object]) -> None:
    commit = repo.commit(branch)
    found = asdict(read_branch(repo.mirror, "work", commit))
    told = {name: value for name, value in found.items() if value or name in stated}
    assert told == {"branch": "work", "commit": commit, **stated}


Case = tuple[Branch, Branch, dict[str, object]]


def within(path: str) -> Callable[..., Case]:
    """Makes cases that change one file: the branch, a text of the file, its new text, the facts that change."""
    return lambda before, old, new, **stated: (before, before.changed(path, old, new), stated)


build, setup, cmake, modules = map(within, ("ci/build.sh", "setup.py", "CMakeLists.txt", ".gitmodules"))
version, speed, helper, x86 = map(within, ("version.txt", "cmake/speed.cmake", HELPER, "ci/docker/X86/Dockerfile"))
CHANGES: list[Case] = [
    build(LITERAL, "--tocpu=*", "--disable_rpc", build_options=("--disable_rpc",)),
    build(LITERAL, "3.8 3.9", "3.9", pythons=("3.9",)),
    setup(LITERAL, ".post4", ".post5", package_version="1.11.0.post5"),
    setup(LITERAL.having("version.txt", "1.11.0.post4"), "'1.11.0.post4'", "open('version.txt').read()",
          version_source="version.txt"),
    (LITERAL, LITERAL.having("version.txt", "9.9"), {}),
    version(TEXT, ".post3", ".post4", package_version="2.6.0.post4"),
    version(TEXT, ".post3", ".post3+local"),
    # What is assigned last wins, as on the branch that has both.
    setup(TEXT, "class Compile", "VERSION = '2.6.0.post3'\nclass Compile", version_source="setup.py"),
    version(INSTALLED, "2.14.0\n", "2.15.0\n2.14.0\n", version_choices=("2.15.0", "2.14.0", "2.13.0.post1")),
    setup(INSTALLED, "N = get_version()", "N = '2.13.0'", version_source="setup.py", version_choices=(),
          package_version="2.13.0"),
    setup(TEXT, "['torch==2.6.0+cpu' if", "['torch==2.6.1+cpu' if",
          torch_requirement={"x86_64": "torch==2.6.1+cpu", "aarch64": "torch==2.6.0"}),
    setup(TEXT, "else ['torch==2.6.0']", "else ['numpy']", torch_requirement={"x86_64": "torch==2.6.0+cpu"}),
    setup(INSTALLED, '"torch=="', '"torch_ops=="', torch_requirement={}),
    setup(INSTALLED, '"torch=="', '"torch~="', torch_requirement=both("torch~=<version>")),
    setup(TEXT, 'if platform.machine() == "aarch64":', 'if platform.machine() != "riscv64":', cxx11_abi=both(1),
          torch_requirement={"x86_64": "torch==2.6.0+cpu.cxx11.abi", "aarch64": "torch==2.6.0"}),
    cmake(LITERAL, "_ABI 0)", "_ABI 1)", cxx11_abi=both(1)),
    cmake(LITERAL, "_ABI 0)", "_ABI ${X})", cxx11_abi={}),
    setup(INSTALLED.changed("CMakeLists.txt", "project(P)", "set(GLIBCXX_USE_CXX11_ABI 0)"),
          "_ABI = True", "_ABI = False", cxx11_abi=both(0)),
    setup(INSTALLED, "    if not wanted:", "    USE_CXX11_ABI = False\n    if not wanted:"),
    setup(INSTALLED, '== "0":', "== probe():"),
    setup(INSTALLED, "            pass", "            pass\n        else:\n            wanted = '3'",
          torch_requirement=both("torch==3")),
    cmake(TEXT, "VERSION 3.18", "VERSION 3.20", cmake_minimum="3.20"),
    setup(TEXT, "MAX_JOBS", "JOBS", honours_max_jobs=False),
    cmake(TEXT, "find_program(CCACHE ccache)", "find_program(CCACHE sccache)", finds_ccache=False),
    cmake(TEXT, "  set(CMAKE_CXX", "# set(CMAKE_CXX", finds_ccache=False),
    cmake(TEXT, "find_program(CCACHE ccache)", "#[[\nfind_program(CCACHE ccache)\n]]", finds_ccache=False),
    cmake(TEXT, "find_program(CCACHE ccache)", 'message("# ccache (")', finds_ccache=False),
    cmake(INSTALLED, "/speed.cmake", "/slow.cmake", finds_ccache=False, uses_mold=False),
    cmake(INSTALLED, "${PROJECT_SOURCE_DIR}/cmake/speed.cmake", "speed"),
    cmake(LITERAL, "-D__FILE__=", "-D__FILENAME__=", redefines_file=False),
    cmake(TEXT, "if(CCACHE)", "add_compile_options(-D__FILE__='x')\nif(CCACHE)", redefines_file=True),
    cmake(TEXT, "if(CCACHE)", 'message("without -D__FILE__=")\nif(CCACHE)'),
    cmake(INSTALLED, "-fmacro-prefix-map", "-ffile-prefix-map"),
    cmake(INSTALLED, "-fmacro-prefix-map", "-Wmacro-prefix-map", maps_prefix=False),
    setup(INSTALLED, "-GNinja", "-Wdev", uses_ninja=False),
    speed(INSTALLED, '  add_link_options("-fuse-ld=mold")', "  # -fuse-ld=mold", uses_mold=False),
    speed(INSTALLED, '"-fuse-ld=mold"', '"-B${MOLD_FOLDER}"'),
    speed(INSTALLED, "-fuse-ld=mold", "-fuse-ld=lld", uses_mold=False),
    x86(TEXT, ":2", ":3", ci_images={"x86_64": "images.example/new:3", **ARM}),
    x86(TEXT, "FROM", "FROM a:1\nFROM"),
    x86(TEXT, "FROM", "from"),
    x86(TEXT, "images.example/new:2", "images.example/new:2 AS one\nFROM one AS two\nFROM Two"),
    x86(TEXT, "FROM images.example", "ARG A='images'\nARG B\nFROM $A.${B:-example}"),
    x86(TEXT, "FROM images.example/new:2", "ARG T=2\nFROM a:$T\nARG T=3\nFROM images.example/new:$T"),
    x86(TEXT, "new:2", "new:2\nARG T=2\n# FROM c\nRUN echo \\\n    FROM d"),
    (TEXT, TEXT.having("ci/docker/X86/Dockerfile", None), {"ci_images": ARM}),
    modules(TEXT, "branch = 7.9.0", "branch = 7.9.1", op_plugin_branch="7.9.1"),
    modules(TEXT, "    branch = 7.9.0\n", "", op_plugin_branch=None),
    modules(TEXT, "example/fmt", "example/f", submodules=((FMT[0], "https://code.example/f.git"), PLUGIN)),
    (TEXT, TEXT.pinning("op-plugin", OTHER), {"op_plugin_commit": OTHER}),
    (TEXT, TEXT.pinning("fmt", PIN), {}),
    (TEXT, TEXT.pinning("gone", PIN), {"submodules": (FMT, GONE, PLUGIN)}),
]  # fmt: skip

NO_VERSION: dict[str, object] = {"package_version": None, "version_source": None}
NO_SETUP: dict[str, object] = {**NO_VERSION, "torch_requirement": {}, "cxx11_abi": {}, "honours_max_jobs": False}
NO_HELPER: dict[str, object] = {"version_source": None, "version_choices": (), "torch_requirement": {}}
UNTOLD = "setup.py: its text does not tell the version"
UNTOLD_TORCH = tuple(f"setup.py: its text does not tell what is required on {arch}" for arch in both(0))
UNTOLD_ABI = tuple(f"setup.py, CMakeLists.txt: their text does not tell the C++ ABI on {arch}" for arch in both(0))
#: Oddities, by what is said of them: the facts that become None or empty.
ODD: dict[tuple[str, ...], list[Case]] = {
    ("setup.py: not Python: line 2",): [setup(TEXT, "import platform", "import platform(", **NO_SETUP)],
    ("setup.py: not Python: ",): [
        setup(TEXT, "import platform", "import platform\0", **NO_SETUP),
        setup(TEXT, "VERSION = v", "def f():\n        return f()\n    VERSION = f()\n    v", **NO_SETUP),
    ],
    (UNTOLD,): [
        setup(LITERAL, "'1.11.0.post4'", "os.popen('date').read()", **NO_VERSION),
        setup(TEXT, "version=VERSION", "version=platform.machine()", **NO_VERSION),
        setup(LITERAL, "def n", "if os.path.exists('x'):\n VERSION = '3'\ndef n", **NO_VERSION),
        setup(LITERAL, "for mode in", "for VERSION in", **NO_VERSION),
        setup(LITERAL, "def n", "try:\n probe()\nexcept OSError:\n VERSION = '3'\ndef n", **NO_VERSION),
        setup(LITERAL, "setup(n", "def v(x='8'):\n return VERSION\nVERSION = v()\nsetup(n", **NO_VERSION),
        setup(TEXT, "version=VERSION", "version='1' if VERSION == '2' else '3'", **NO_VERSION),
    ],
    (UNTOLD, *UNTOLD_TORCH): [
        setup(LITERAL, "setup(name", "print(name", **NO_VERSION),
        (INSTALLED, INSTALLED.having(HELPER, None), NO_HELPER),
        helper(INSTALLED, "    if version:", "    if os.path.exists('x'):", **NO_HELPER),
    ],
    (f"{HELPER}: not Python: line 1", UNTOLD, *UNTOLD_TORCH): [helper(INSTALLED, "os\n", "os(\n", **NO_HELPER)],
    ("setup.py: 'latest' is not a version",): [setup(LITERAL, "'1.11.0.post4'", "'latest'", package_version=None)],
    ("version.txt: '",): [
        version(TEXT, "post3\n", "post3\n2.7.0\n", package_version=None),
        version(TEXT, "2.6.0.post3", "\N{SNOWMAN}", package_version=None),
        (TEXT, TEXT.having("version.txt", None), {"package_version": None}),
    ],
    UNTOLD_TORCH: [
        setup(TEXT, "setup(v", "for x in MORE:\n requirements.append(x)\nsetup(v", torch_requirement={}),
        setup(TEXT, "install_requires=requirements", "**more()", torch_requirement={}),
    ],
    UNTOLD_ABI: [
        setup(INSTALLED, "CXX11_ABI = True", "CXX11_ABI = probe()", cxx11_abi={}),
        setup(INSTALLED, "USE_CXX11_ABI =", "NEW_ABI =", cxx11_abi={}),
        cmake(LITERAL, "(_GLIBCXX_USE_CXX11_ABI 0", "(_GLIBCXX_USE_CXX11_ABI 1", cxx11_abi={}),
    ],
    ("ci/build.sh: ",): [build(TEXT, "SUPPORTED_PY_VERSION", "PYTHONS", build_options=None, pythons=())],
    ("ci/docker/X86/Dockerfile: its text does not tell the base image",): [
        x86(TEXT, "FROM", "RUN", ci_images=ARM), x86(TEXT, ":2", ":$TAG", ci_images=ARM),
    ],
    (".gitmodules: ",): [
        modules(TEXT, '"fmt"]', '"fmt"', op_plugin_branch=None, op_plugin_commit=None, submodules=()),
    ],
    ("version.txt: it is no plain file", "version.txt: '' is"): [
        (TEXT, replace(TEXT.having("version.txt", None), links={"version.txt": "setup.py"}), {"package_version": None}),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "case"), [((), case) for case in CHANGES] + [(said, case) for said, cases in ODD.items() for case in cases]
)
def test_what_changes_alone_changes_only_its_facts(repo: Repo, said: tuple[str, ...], case: Case) -> None:
    before, after, stated = case
    old, new = asdict(repo.read(before)), asdict(repo.read(after))
    unread = new.pop("unread")
    assert {name: value for name, value in new.items() if value != old[name] and name != "commit"} == stated
    assert [text.startswith(start) for text, start in zip(unread, said, strict=True)] == [True] * len(said), unread


def test_every_fact_is_changed_by_a_case() -> None:
    untouched = {field.name for field in fields(BranchFacts)} - {name for _, _, stated in CHANGES for name in stated}
    assert untouched == {"branch", "commit", "unread"}


def test_nothing_of_a_branch_is_run(repo: Repo, tmp_path: Path) -> None:
    trace = f"open({str(tmp_path / 'trace')!r}, 'w').write('run')\n"
    branch = INSTALLED.changed(HELPER, "import os\n", f"import os\n{trace}")
    branch = branch.changed("setup.py", "    if not", f"    {trace}    if not").changed(
        "setup.py", "VERSION =", f"{trace}VERSION ="
    )
    assert repo.read(branch).version_source == "torch"
    assert list(tmp_path.iterdir()) == []


def test_the_environment_of_the_reader_decides_nothing(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_GLIBCXX_USE_CXX11_ABI", "1")
    monkeypatch.setenv("TORCH_VERSION", "9.9")
    assert repo.read(TEXT).cxx11_abi == {"x86_64": 0, "aarch64": 1}
    assert repo.read(INSTALLED).version_source == "torch"


def test_a_branch_costs_few_processes(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, run = repo.commit(TEXT), Mock(side_effect=subprocess.Popen)
    monkeypatch.setattr(subprocess, "Popen", run)
    read_branch(repo.mirror, "work", commit)
    assert 1 <= run.call_count <= 5


OVERLAY = Branch.of("""
==> ci/build.sh
    cp -rf ${CODE_ROOT_PATH}/op_plugin ${PYTORCH_THIRD_PATH}/
    cp -rf ${CODE_ROOT_PATH}/*.sh ${PYTORCH_THIRD_PATH}/
    export BUILD_WITHOUT_SHA=1
==> op_plugin/config/op_plugin_functions.yaml
custom:
==> op_plugin/ops/opapi/Add.cpp
//
""")
STATED = {"overlay": ("op_plugin", "*.sh"), "custom_operators": True, "sets_build_without_sha": True}
NOT_SAID = "ci/build.sh: op-plugin's ci/build.sh"


@pytest.mark.parametrize(("said", "branch", "stated"), [
    ("", OVERLAY, {}),
    ("", OVERLAY.changed("ci/build.sh", "/*.sh ", "/test "), {"overlay": ("op_plugin", "test")}),
    ("", OVERLAY.changed("ci/build.sh", "export", "# export"), {"sets_build_without_sha": False}),
    ("", OVERLAY.changed("ci/build.sh", "export BUILD_WITHOUT_SHA=1", "unset BUILD_WITHOUT_SHA"),
     {"sets_build_without_sha": False}),
    ("", OVERLAY.having("op_plugin/ops/opapi/Add.cpp", None), {"custom_operators": False}),
    ("", OVERLAY.having("op_plugin/config/op_plugin_functions.yaml", None).having(
        "op_plugin/config/v2r1/op_plugin_functions.yaml", ""), {"custom_operators": False}),
    ("", OVERLAY.having("ci/build.sh", None), {"overlay": None, "sets_build_without_sha": False}),
    (NOT_SAID, OVERLAY.changed("ci/build.sh", "cp -rf", "mv"), {"overlay": None}),
    (NOT_SAID, OVERLAY.changed("ci/build.sh", "/*.sh ", "/../x "), {"overlay": None}),
])  # fmt: skip
def test_what_an_op_plugin_branch_says(repo: Repo, said: str, branch: Branch, stated: dict[str, object]) -> None:
    commit = repo.commit(branch)
    found = asdict(read_overlay(repo.mirror, "7.9.0", commit))
    assert [text[: len(said)] for text in found.pop("unread")] == ([said] if said else [])
    assert found == {"branch": "7.9.0", "commit": commit, **STATED, **stated}


def test_distance_counts_both_ways(repo: Repo) -> None:
    base = repo.commit(BARE)
    ahead = repo.commit(BARE.having("a", "1"), parent=base)
    for number in range(3):
        base = repo.commit(BARE.having("b", str(number)), parent=base)
    assert distance(repo.mirror, ahead, base) == (3, 1)
    assert distance(repo.mirror, base, ahead) == (1, 3)
    assert distance(repo.mirror, base, base) == (0, 0)


def test_distance_is_not_told_where_the_mirror_cannot_know_it(tmp_path: Path) -> None:
    own = Repo(tmp_path)
    old = own.commit(BARE)
    new = own.commit(BARE.having("a", "1"), parent=old)
    assert distance(own.mirror, PIN, new) is None
    assert distance(own.mirror, old, new) == (1, 0)
    (own.mirror.path / "shallow").write_text(f"{new}\n")
    assert distance(own.mirror, old, new) is None


@pytest.mark.parametrize("ask", [
    lambda mirror, kept: read_branch(mirror, "work", PIN),
    lambda mirror, kept: read_overlay(mirror, "work", PIN),
    lambda mirror, kept: distance(mirror, kept, PIN),
])  # fmt: skip
def test_a_commit_that_the_mirror_lacks(repo: Repo, ask: Callable[[Mirror, str], object]) -> None:
    with pytest.raises(TargetError, match=f"upstream lacks {PIN}") as caught:
        ask(repo.mirror, repo.commit(BARE))
    assert caught.value.kind is FailureKind.SOURCE
