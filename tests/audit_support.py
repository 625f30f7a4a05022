"""A small matrix, the branches and wheels that agree with it, and ways to change one thing in them."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder.audit.facts import Pin, Seen
from builder.audit.upstream_wheels import Index
from builder.matrix.loader import Matrix, load_matrix
from builder.sources.branch_facts import BranchFacts, OverlayFacts
from builder.wheels.upstream_wheels import ReleasedFile, ReleasedWheel, TorchWheel

LINE = "v2.6.0-7.1.0"
NIGHTLY = "v2.6.0"
UNKNOWN = "v2.6.0-7.2.0"
LEGACY = "v1.5.0-3.0.0"
COMMIT = "c" * 40
PIN = "d" * 40
JSON_URL = "https://code.example/json.git"
PYTHONS = ("3.9", "3.10")
ARCHITECTURES = ("x86_64", "aarch64")


def torch_content(arch: str, python: str) -> bytes:
    """What stands for PyTorch's wheel of one cell."""
    return f"torch for {python} on {arch}".encode()


def torch_hash(arch: str, python: str) -> str:
    """Its SHA-256."""
    return hashlib.sha256(torch_content(arch, python)).hexdigest()


def _cells(arch: str) -> str:
    return "".join(f'        "{python}":\n          - sha256:{torch_hash(arch, python)}\n' for python in PYTHONS)


FILES = {
    "toolchains.yaml": """\
bases:
  manylinux2014: {ids: [centos], version: "7"}
  manylinux-2-28: {ids: [almalinux], version: "8"}
compilers:
  "9.3":
    version: "9.3.1"
    from_source: [manylinux-2-28]
    provided_by:
      manylinux2014: {package: devtoolset-9}
    cmake_minimum: "3.18"
    source: "a test"
  "11.2":
    version: "11.2.1"
    from_source: [manylinux2014]
    provided_by:
      manylinux-2-28: {package: gcc-toolset-11}
    cmake_minimum: "3.18"
    source: "a test"
  "14.2":
    version: "14.2.1"
    from_source: [manylinux2014]
    provided_by:
      manylinux-2-28: {package: gcc-toolset-14}
    cmake_minimum: "3.1"
    source: "a test"
toolchains:
  old-x86_64:
    arch: x86_64
    gcc: "9.3.1"
    manylinux: manylinux_2_17
    base_image: images.example/old:1
    base_image_digest: null
    cxx11_abi: 0
    source: "a test"
  new-aarch64:
    arch: aarch64
    gcc: "11.2.1"
    manylinux: manylinux_2_28
    base_image: images.example/new:1
    base_image_digest: null
    cxx11_abi: 1
    source: "a test"
""",
    "torch.yaml": f"""\
torch:
  "1.5.0":
    requirements:
      x86_64: torch==1.5.0+cpu
      aarch64: torch==1.5.0
    source: "a test"
  "2.6.0":
    requirements:
      x86_64: torch==2.6.0+cpu
      aarch64: torch==2.6.0
    wheels:
      x86_64:
{_cells("x86_64")}      aarch64:
{_cells("aarch64")}    source: "a test"
""",
    "lifecycle.yaml": """\
pytorch:
  "1.5.0": {maintained: "2021-01-01", rule: "stated", source: "a test"}
  "2.6.0": {maintained: "2025-01-01", rule: "stated", source: "a test"}
""",
    "sources.yaml": f"""\
repositories:
  torch_npu: {{urls: ["../upstream/torch_npu.git"]}}
  op-plugin: {{urls: ["../upstream/op-plugin.git"], aliases: ["https://code.example/op-plugin.git"]}}
  nlohmann-json: {{urls: ["{JSON_URL}"]}}
  libuv: {{urls: ["https://code.example/libuv.git"]}}
""",
    "decisions.yaml": """\
# What was decided.
accepted:
  - line: v2.6.0
    fact: uses_mold
    found: "true"
    reason: "switched off by hand"

left_out:
  - branch: ci-*
    reason: "no line"
""",
    "pytorch-1.5.yaml": """\
pytorch: "1.5"
releases:
  - branch: v1.5.0-3.0.0
    pytorch: "1.5.0"
    release: "3.0.0"
    legacy: "there is no script"
    package_version: "1.5.0.post2"
    released: ["1.5.0.post1"]
    cann: null
    op_plugin: null
    pythons: ["3.7"]
    toolchains:
      x86_64: old-x86_64
    sources:
      legacy: "a test"
      released: "a test"
      toolchains: "a test"
""",
    "pytorch-2.6.yaml": """\
# Lines of PyTorch 2.6.
pytorch: "2.6"
defaults:
  pytorch: "2.6.0"
  version_source: version.txt
  overlay: [op_plugin, "*.sh"]
  pythons: ["3.9", "3.10"]
  toolchains:
    x86_64: old-x86_64
    aarch64: new-aarch64
  build_options: ["--disable_rpc", "--disable_torchair"]
  torch_requirement:
    x86_64: "torch==2.6.0+cpu"
    aarch64: "torch==2.6.0"
  submodules:
    required: [nlohmann-json]
    full: [libuv]
  requirements: [setuptools==68.2.2, wheel==0.41.2, PyYAML==6.0.1, numpy==1.26.4]
  cmake_minimum: "3.18"
  honours_max_jobs: true
  custom_operators: true
  finds_ccache: true
  ci_images:
    x86_64: images.example/old:1
    aarch64: images.example/new:1
  sources:
    toolchains: "a test"
    legacy: "a test"

releases:
  - branch: v2.6.0  # where development goes on
    channel: nightly
    release: "development"
    package_version: "2.6.0.post9"
    cann: null
    op_plugin: "master"
    uses_ninja: true

  # The line that most tests change.
  - branch: v2.6.0-7.1.0
    release: "7.1.0"
    package_version: "2.6.0.post3"
    released: ["2.6.0", "2.6.0.post2"]
    cann: "8.2.RC1"
    op_plugin: "7.1.0"
    redefines_file: true
    sources:
      cann: "a test"
      released: "a test"

  - branch: v2.6.0-7.2.0
    source: unknown
    release: "7.2.0"
    package_version: "2.6.0.post5"
    released: ["2.6.0.post4"]
    cann: null
    op_plugin: null
    version_source: null
    overlay: null
    build_options: null
    submodules: {}
    requirements: []
    cmake_minimum: null
    honours_max_jobs: false
    custom_operators: false
    finds_ccache: false
    ci_images: {}
    sources:
      released: "a test"
""",
}


def write_matrix(folder: Path, file: str = "", old: str = "", new: str = "") -> Path:
    """The small matrix in ``folder``, with ``old``, which stands in ``file`` once, become ``new``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        if name == file:
            assert text.count(old) == 1, (old, text.count(old))
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder


def small_matrix(folder: Path, file: str = "", old: str = "", new: str = "") -> Matrix:
    """The small matrix, loaded."""
    return load_matrix(write_matrix(folder, file, old, new))


# -- as values --------------------------------------------------------------------------------------------

FACTS = BranchFacts(
    branch=LINE,
    commit=COMMIT,
    build_options=("--disable_rpc", "--disable_torchair"),
    # 3.8 has no wheel of torch.
    pythons=("3.8", "3.9", "3.10"),
    package_version="2.6.0.post3",
    version_source="version.txt",
    version_choices=(),
    torch_requirement={"x86_64": "torch==2.6.0+cpu", "aarch64": "torch==2.6.0"},
    cxx11_abi={"x86_64": 0, "aarch64": 1},
    cmake_minimum="3.18.0",
    honours_max_jobs=True,
    finds_ccache=True,
    redefines_file=True,
    maps_prefix=False,
    uses_ninja=False,
    uses_mold=False,
    ci_images={"x86_64": "images.example/old:1", "aarch64": "images.example/new:1"},
    op_plugin_branch="7.1.0",
    op_plugin_commit=PIN,
    submodules=(
        ("third_party/nlohmann", JSON_URL),
        ("third_party/op-plugin", "https://code.example/op-plugin.git"),
    ),
)
OVERLAY = OverlayFacts(
    branch="7.1.0", commit="e" * 40, overlay=("op_plugin", "*.sh"), custom_operators=True, sets_build_without_sha=True
)


def seen(matrix: Matrix, branch: str = LINE) -> Seen:
    """What is read of a branch that agrees with the small matrix."""
    line = matrix.release(branch)
    assert line is not None
    facts, pin = FACTS, Pin(PIN, known=True, behind=2, ahead=0)
    if branch == NIGHTLY:
        moved = {"package_version": "2.6.0.post9", "redefines_file": False, "uses_ninja": True, "uses_mold": True}
        facts = replace(facts, branch=NIGHTLY, op_plugin_branch=None, **moved)  # type: ignore[arg-type]
        pin = Pin(PIN, known=True, behind=40, ahead=3)
    names = {url: matrix.sources.find(url) for _, url in facts.submodules}
    direct = frozenset(name for name in names.values() if name is not None)
    return Seen(line, facts, OVERLAY, pin, names, direct)


def released_file(version: str, arch: str, python: str = "3.9") -> ReleasedFile:
    """A wheel of the small matrix's line on the index."""
    policy = "manylinux_2_17" if arch == "x86_64" else "manylinux_2_28"
    tag = "cp" + python.replace(".", "")
    name = f"torch_npu-{version}-{tag}-{tag}-{policy}_{arch}.whl"
    return ReleasedFile(version, python, arch, policy, name, f"https://index.example/{name}", "0" * 64, None)


def released_wheel(version: str, arch: str) -> ReleasedWheel:
    """What stands in it."""
    old = arch == "x86_64"
    return ReleasedWheel(
        file=released_file(version, arch),
        gcc="9.3.1" if old else "11.2.1",
        comments=(),
        requires=("numpy", "torch==2.6.0+cpu" if old else "torch==2.6.0"),
        version=version,
        git_version=COMMIT,
        cxx11_abi=0 if old else 1,
    )


def index() -> Index:
    """An index that agrees with the small matrix."""
    versions = ("2.6.0", "2.6.0.post2", "2.6.0.post4")
    cells = [(arch, python) for arch in ARCHITECTURES for python in PYTHONS]
    return Index(
        files=[released_file(version, arch, python) for version in versions for arch, python in cells],
        wheels=[released_wheel(version, arch) for version in versions for arch in ARCHITECTURES],
        torch=[
            TorchWheel("2.6.0", python, arch, f"torch-2.6.0-{python}-{arch}.whl", torch_hash(arch, python))
            for arch, python in cells
        ],
        commits={COMMIT: frozenset({LINE, NIGHTLY})},
        supported={LINE: ("3.8", "3.9", "3.10")},
    )


# -- as repositories --------------------------------------------------------------------------------------

Tree = dict[str, str]

SCRIPT = """\
SUPPORTED_PY_VERSION=(3.8 3.9 3.10)
while true; do
    case "${1}" in
        --python=*)
            shift
            ;;
        --disable_torchair)
            shift
            ;;
        --disable_rpc)
            shift
            ;;
    esac
done
"""
SETUP = """\
import os
import platform
from setuptools import setup
BASE_DIR = os.path.dirname(os.path.realpath(__file__))
with open(os.path.join(BASE_DIR, "version.txt")) as version_f:
    VERSION = version_f.read().strip()
USE_CXX11_ABI = False
if platform.machine() == "aarch64":
    USE_CXX11_ABI = True
class Compile:
    def run(self):
        arguments = ['-DGLIBCXX_USE_CXX11_ABI=1'] if USE_CXX11_ABI else []
        return arguments, os.getenv("MAX_JOBS")
requirements = ['torch==2.6.0+cpu' if platform.machine() == 'x86_64' else 'torch==2.6.0']
setup(version=VERSION, install_requires=requirements)
"""
CMAKE = """\
cmake_minimum_required(VERSION 3.18)
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()
set(GLIBCXX_USE_CXX11_ABI 0)
"""
REDEFINED = "set(CMAKE_CXX_FLAGS \"${CMAKE_CXX_FLAGS} -D__FILE__='x'\")\n"
MODULES = f"""\
[submodule "third_party/op-plugin"]
\tpath = third_party/op-plugin
\turl = https://code.example/op-plugin.git
\tbranch = 7.1.0
[submodule "third_party/nlohmann"]
\tpath = third_party/nlohmann
\turl = {JSON_URL}
"""
TORCH_NPU: Tree = {
    "ci/build.sh": SCRIPT,
    "setup.py": SETUP,
    "version.txt": "2.6.0.post3\n",
    "CMakeLists.txt": CMAKE + REDEFINED,
    ".gitmodules": MODULES,
    "ci/docker/X86/Dockerfile": "FROM images.example/old:1\n",
    "ci/docker/ARM/Dockerfile": "FROM images.example/new:1\n",
}
DEVELOPMENT: Tree = {
    **TORCH_NPU,
    "version.txt": "2.6.0.post9\n",
    "CMakeLists.txt": CMAKE,
    "setup.py": SETUP + "link = ['-fuse-ld=mold']\ngenerator = '-GNinja'\n",
    ".gitmodules": MODULES.replace("\tbranch = 7.1.0\n", ""),
}
OVERLAID: Tree = {
    "ci/build.sh": "cp -rf ${CODE_ROOT_PATH}/op_plugin ${PYTORCH_THIRD_PATH}/\n"
    "cp -rf ${CODE_ROOT_PATH}/*.sh ${PYTORCH_THIRD_PATH}/\n",
    "op_plugin/config/op_plugin_functions.yaml": "official: []\n",
    "op_plugin/ops/opapi/Add.cpp": "// add\n",
}


@dataclass
class Hosts:
    """The repositories of upstream below ``folder``, as bare repositories that tests commit to."""

    folder: Path
    pin: str = ""
    heads: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path) -> Hosts:
        """Branches that agree with the small matrix. The line's op-plugin branch is one commit past the pin."""
        hosts = cls(folder)
        for name in ("torch_npu", "op-plugin"):
            folder.mkdir(parents=True, exist_ok=True)
            hosts.git("init", "--quiet", "--bare", str(folder / f"{name}.git"))
        hosts.pin = hosts.commit("op-plugin", "master", OVERLAID)
        hosts.commit("op-plugin", "7.1.0", {**OVERLAID, "README.md": "later\n"}, parent=hosts.pin)
        hosts.commit("torch_npu", LINE, TORCH_NPU)
        hosts.commit("torch_npu", NIGHTLY, DEVELOPMENT)
        hosts.commit("torch_npu", LEGACY, {"README.md": "old\n"}, pins={})
        hosts.commit("torch_npu", "ci-test", {"README.md": "a test\n"}, pins={})
        return hosts

    def commit(
        self, name: str, branch: str, tree: Tree, *, parent: str = "", pins: dict[str, str] | None = None
    ) -> str:
        """Put ``branch`` to a commit of ``tree``, by default with torch_npu's submodules; return the commit."""
        if pins is None:
            pins = {} if name == "op-plugin" else {"third_party/op-plugin": self.pin, "third_party/nlohmann": COMMIT}
        stream = f"commit refs/heads/{branch}\ncommitter a <a@b.example> 0 +0000\ndata 0\n\n".encode()
        stream += f"from {parent}\ndeleteall\n".encode() if parent else b""
        for path, text in tree.items():
            stream += f"M 100644 inline {path}\ndata {len(text.encode())}\n{text}\n".encode()
        for path, pinned in pins.items():
            stream += f"M 160000 {pinned} {path}\n".encode()
        self.git("fast-import", "--quiet", "--force", repository=name, data=stream)
        self.heads[name, branch] = self.git("rev-parse", f"refs/heads/{branch}", repository=name)
        return self.heads[name, branch]

    def remove(self, name: str, branch: str) -> None:
        """Remove a branch."""
        self.git("update-ref", "-d", f"refs/heads/{branch}", repository=name)

    def git(self, *arguments: str, repository: str = "", data: bytes = b"") -> str:
        chosen = [f"--git-dir={self.folder / repository}.git"] if repository else []
        done = subprocess.run(["git", *chosen, *arguments], input=data, capture_output=True, check=True)
        return done.stdout.decode().strip()


def changed(tree: Tree, path: str, old: str, new: str) -> Tree:
    """``tree`` with ``old``, which stands in ``path`` once, become ``new``."""
    assert tree[path].count(old) == 1, (path, old)
    return {**tree, path: tree[path].replace(old, new)}
