"""The miniature upstream as git repositories: what ``demo`` and the tests build.

``examples/`` holds plain files. Here they become what the builder expects of the real upstream: a torch_npu
repository with three release lines, an op-plugin repository whose branch is one commit ahead of what torch_npu pins,
the submodules that are compiled in, and source distributions of the stand-in PyTorch. The same files give the same
commits and the same bytes every time and everywhere.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from builder.core.errors import MachineError
from builder.core.untrusted import remove_tree
from builder.core.workspace import atomic_write, resource

OP_PLUGIN_BRANCH = "7.1.0"
#: The default of ``--pytorch`` in a demonstration.
DEFAULT_LINE = "v2.5.1-7.1.0"

#: 2025-07-01 00:00:00 UTC: the date of every commit and of every file in an archive.
_EPOCH = 1751328000
#: Submodules that the miniature pins and that no repository of it provides, as nothing needs them.
_ABSENT_SUBMODULES = dict.fromkeys(("third_party/fmt", "third_party/googletest", "third_party/torch-mlir"), "a" * 40)
_IGNORED = ("__pycache__", ".DS_Store")

# The places of setup.py that differ from line to line.
_VERSION_FROM_FILE = """\
with open(os.path.join(BASE_DIR, "version.txt")) as version_f:
    VERSION = version_f.read().strip()
"""
_ABI_BY_REQUEST = """\
if os.environ.get("_GLIBCXX_USE_CXX11_ABI") == "1":
    USE_CXX11_ABI = True
    VERSION += "+cxx11-abi"
"""
_ABI_BY_MACHINE = """\
if platform.machine() == "aarch64":
    USE_CXX11_ABI = True
if os.environ.get("_GLIBCXX_USE_CXX11_ABI") is not None:
    USE_CXX11_ABI = os.environ.get("_GLIBCXX_USE_CXX11_ABI") == "1"
    if USE_CXX11_ABI and platform.machine() == "x86_64":
        VERSION += "+cxx11-abi"
"""


@dataclass(frozen=True)
class Line:
    """A release line of the miniature: facts as upstream's branch of the same name has them."""

    branch: str
    torch: str
    version: str
    pythons: str
    #: In setup.py itself, where the line has no version.txt.
    version_in_setup: bool = False
    #: On aarch64 the C++ ABI of 2011 is the default.
    new_abi_on_aarch64: bool = False


LINES = (
    Line("v2.1.0-7.1.0", "2.1.0", "2.1.0.post16", "3.8 3.9 3.10 3.11", version_in_setup=True),
    Line("v2.5.1-7.1.0", "2.5.1", "2.5.1.post3", "3.9 3.10 3.11"),
    Line("v2.6.0-7.1.0", "2.6.0", "2.6.0.post2", "3.9 3.10 3.11", new_abi_on_aarch64=True),
)


@dataclass(frozen=True)
class Miniature:
    """Where the parts of a materialised miniature upstream are."""

    root: Path
    #: Git repository with a branch for each of :data:`LINES`.
    torch_npu: Path
    #: Git repository with the branch :data:`OP_PLUGIN_BRANCH`; torch_npu pins the commit before its head.
    op_plugin: Path
    #: Git repository, the submodule that is compiled in.
    nlohmann: Path
    #: For pip's ``--find-links``: source distributions of the stand-in torch.
    wheelhouse: Path
    #: A sample operator for ``--custom-ops``.
    custom_ops: Path
    #: In the format of ``matrices/sources.yaml``, naming the repositories above.
    sources_file: Path


def materialise(destination: Path) -> Miniature:
    """Make the miniature upstream below ``destination`` (a folder that may exist) and return where its parts are.

    A second call with the same examples changes nothing; after a change of the examples everything is made anew.
    Raises MachineError when git is missing or fails, or when the installed examples are incomplete.
    """
    if shutil.which("git") is None:
        raise MachineError("git is not installed", hint="install git: the miniature upstream is git repositories")
    examples = resource("examples")
    destination = destination.resolve()
    made = Miniature(
        root=destination,
        torch_npu=destination / "torch_npu",
        op_plugin=destination / "op-plugin",
        nlohmann=destination / "nlohmann",
        wheelhouse=destination / "wheelhouse",
        custom_ops=destination / "custom_ops",
        sources_file=destination / "sources.yaml",
    )
    state = f"{_digest(examples)} {destination}\n"
    marker = destination / ".materialised"
    parts = (made.torch_npu, made.op_plugin, made.nlohmann, made.wheelhouse, made.custom_ops, made.sources_file)
    if marker.is_file() and marker.read_text(encoding="utf-8") == state and all(part.exists() for part in parts):
        return made
    # Without the marker a call that was cut short counts for nothing.
    marker.unlink(missing_ok=True)

    trees = {name: _read_tree(examples / name) for name in ("torch_npu", "op-plugin", "nlohmann", "torch")}
    _replace_folder(made.custom_ops, _read_tree(examples / "custom_ops"))
    commits = {"third_party/op-plugin": _make_op_plugin(made.op_plugin, trees["op-plugin"])}
    nlohmann = _Repository.create(made.nlohmann, "master")
    commits["third_party/nlohmann"] = nlohmann.commit("master", trees["nlohmann"], "header")
    nlohmann.check_out("master")
    _make_torch_npu(made.torch_npu, trees["torch_npu"], {**commits, **_ABSENT_SUBMODULES})

    remove_tree(made.wheelhouse)
    made.wheelhouse.mkdir()
    # Whatever the umask is: who unpacks PyTorch is another user where the builder is root.
    made.wheelhouse.chmod(0o755)
    for line in LINES:
        archive = made.wheelhouse / f"torch-{line.torch}.tar.gz"
        archive.write_bytes(_source_distribution(trees["torch"], line.torch))
        archive.chmod(0o644)
    folders = {"torch_npu": made.torch_npu, "op-plugin": made.op_plugin, "nlohmann-json": made.nlohmann}
    made.sources_file.write_text(
        "# Written with the miniature upstream: its repositories on this machine.\n"
        + yaml.safe_dump({"repositories": {name: {"urls": [str(path)]} for name, path in folders.items()}}),
        encoding="utf-8",
    )
    atomic_write(marker, state)
    return made


# A tree in memory: path below its root -> (content, whether it may be executed).
_Tree = dict[str, tuple[bytes, bool]]


def _read_tree(folder: Path) -> _Tree:
    if not folder.is_dir():
        raise MachineError(
            f"the miniature upstream lacks its folder {folder.name!r}",
            hint="install torch-npu-builder again; its wheel carries that folder",
        )
    return {
        str(path.relative_to(folder)): (path.read_bytes(), _is_program(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part in _IGNORED for part in path.parts) and path.suffix not in (".pyc", ".so")
    }


def _is_program(path: Path) -> bool:
    # By name, not by mode: an installed wheel keeps no modes, and the commits must come out the same.
    return path.suffix == ".sh"


def _digest(examples: Path) -> str:
    """SHA-256 over this module and every file of the examples."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name, (content, _) in _read_tree(examples).items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _replace_folder(folder: Path, tree: _Tree) -> None:
    remove_tree(folder)
    for name, (content, _) in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _edited(tree: _Tree, name: str, old: str, new: str) -> _Tree:
    """The tree with one place of one file replaced; a place that is not there once is a defect of the examples."""
    content, program = tree[name]
    if content.count(old.encode()) != 1:
        raise MachineError(f"examples: {name} does not hold {old!r} exactly once")
    return {**tree, name: (content.replace(old.encode(), new.encode()), program)}


def _without(tree: _Tree, name: str) -> _Tree:
    return {path: entry for path, entry in tree.items() if path != name}


def _make_op_plugin(path: Path, head: _Tree) -> str:
    """Two commits: all but the newest operator, then the operator. Returns the first, which torch_npu pins."""
    earlier = _without(head, "op_plugin/ops/opapi/ScaleKernelNpuOpApi.cpp")
    earlier = _edited(
        earlier,
        "op_plugin/config/op_plugin_functions.yaml",
        "  - func: npu_scale(Tensor self, float factor=2.0) -> Tensor\n"
        "    op_api: all_version\n    exposed: all_version\n\n",
        "",
    )
    repository = _Repository.create(path, OP_PLUGIN_BRANCH)
    pinned = repository.commit(OP_PLUGIN_BRANCH, earlier, "operators")
    repository.commit(OP_PLUGIN_BRANCH, head, "npu_scale", parent=pinned)
    repository.check_out(OP_PLUGIN_BRANCH)
    return pinned


def _make_torch_npu(path: Path, base: _Tree, submodules: dict[str, str]) -> None:
    """One branch for each release line; the examples hold the default line."""
    repository = _Repository.create(path, DEFAULT_LINE)
    default = next(line for line in LINES if line.branch == DEFAULT_LINE)
    for line in LINES:
        tree = _edited(base, "setup.py", f"torch=={default.torch}", f"torch=={line.torch}")
        supported = "SUPPORTED_PY_VERSION=({})"
        tree = _edited(tree, "ci/build.sh", supported.format(default.pythons), supported.format(line.pythons))
        if line.version_in_setup:
            tree = _without(tree, "version.txt")
            tree = _edited(tree, "setup.py", _VERSION_FROM_FILE, f"VERSION = '{line.version}'\n")
        else:
            tree = _edited(tree, "version.txt", default.version, line.version)
        if line.new_abi_on_aarch64:
            tree = _edited(tree, "setup.py", _ABI_BY_REQUEST, _ABI_BY_MACHINE)
        repository.commit(line.branch, tree, f"release line {line.branch}", submodules=submodules)
    repository.check_out(DEFAULT_LINE)


class _Repository:
    """A git repository that is written to without a work tree, and without the user's configuration."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, branch: str) -> _Repository:
        """An empty repository at ``path``, in place of whatever is there."""
        remove_tree(path)
        path.mkdir(parents=True)
        repository = cls(path)
        # --template= : no hooks or excludes of the machine.
        repository.git("init", "--quiet", "--template=", f"--initial-branch={branch}", ".")
        # A builder fetches pinned commits that no branch points at.
        repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
        return repository

    def commit(
        self,
        branch: str,
        tree: _Tree,
        message: str,
        *,
        parent: str | None = None,
        submodules: dict[str, str] | None = None,
    ) -> str:
        """Point ``branch`` at a commit that holds exactly ``tree`` and the submodules. Returns the commit."""
        index = []
        for name, (content, program) in tree.items():
            blob = self.git("hash-object", "-w", "--stdin", stdin=content)
            index.append(f"{'100755' if program else '100644'} {blob}\t{name}\n")
        index.extend(f"160000 {commit}\t{path}\n" for path, commit in (submodules or {}).items())
        self.git("read-tree", "--empty")
        self.git("update-index", "--index-info", stdin="".join(index).encode())
        parents = ("-p", parent) if parent is not None else ()
        commit = self.git("commit-tree", self.git("write-tree"), *parents, "-m", message)
        self.git("update-ref", f"refs/heads/{branch}", commit)
        return commit

    def check_out(self, branch: str) -> None:
        """Fill the work tree, so that a person who looks into the folder finds files."""
        self.git("symbolic-ref", "HEAD", f"refs/heads/{branch}")
        self.git("reset", "--quiet", "--hard")

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run git here; returns its output. Raises MachineError with git's own words when it fails."""
        identity = {
            f"GIT_{role}_{field}": value
            for role in ("AUTHOR", "COMMITTER")
            for field, value in (("NAME", "miniature"), ("EMAIL", "miniature@example.org"), ("DATE", f"{_EPOCH} +0000"))
        }
        # Variables such as GIT_DIR, set when a git hook runs us, would lead into another repository.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        clean = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env={**inherited, **identity, **clean},
            input=stdin,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise MachineError(
                f"git {arguments[0]} failed while the miniature upstream was made in {self.path}",
                hint="check the disk and the version of git (2.28 or later)",
                details=done.stderr.decode(errors="replace").strip(),
            )
        return done.stdout.decode().strip()


def _source_distribution(tree: _Tree, version: str) -> bytes:
    """``torch-<version>.tar.gz`` as pip takes it: the same bytes every time."""
    tree = _edited(tree, "version.txt", "2.5.1", version)
    metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\nSummary: A stand-in for PyTorch\n"
    tree["PKG-INFO"] = (metadata.encode(), False)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, (content, program) in sorted(tree.items()):
            entry = tarfile.TarInfo(f"torch-{version}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), _EPOCH, 0o755 if program else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(archive.getvalue(), mtime=0)
