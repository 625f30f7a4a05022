"""What is compiled: a release line with two Pythons, its sources, and the changes that are made to them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from builder.core.build_options import BuildOptions
from builder.core.errors import MachineError, RequestError
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.progress.reporter import Reporter

#: Names of op-plugin's folders inside its repository.
_OPERATORS = "op_plugin/ops/opapi/"
#: Where op-plugin lies in a tree.
OP_PLUGIN = "third_party/op-plugin"
#: A day: a commit of the next night.
_LATER = 24 * 3600
#: What a change adds. A declaration may stand twice, so that the end of a header is as good a place as any.
NEW_FUNCTION = "\nvoid torch_npu_builder_benchmark() {}\n"
NEW_DECLARATION = "\nstruct TorchNpuBuilderBenchmark;\n"


class Sources:
    """A repository of this benchmark's own, over the objects of the real one; its branch gets new commits here."""

    def __init__(self, url: str, path: Path, branch: str) -> None:
        self.path = path
        self.branch = branch
        shared = ["--shared"] if Path(url).is_dir() else []
        _git(None, "clone", "--quiet", "--bare", *shared, "--", url, str(path))
        self._git("config", "uploadpack.allowAnySHA1InWant", "true")
        self._base = self._git("rev-parse", "--verify", f"refs/heads/{branch}^{{commit}}")

    def files(self) -> list[str]:
        """Paths of all files."""
        return self._git("ls-tree", "-r", "--name-only", "-z", self._base).rstrip("\0").split("\0")

    def append(self, file: str, text: str) -> None:
        """Let the branch be a commit after the first one, in which ``text`` follows the content of ``file``."""
        content = self._git("cat-file", "blob", f"{self._base}:{file}", strip=False) + text
        mode = self._git("ls-tree", self._base, "--", file).split()[0]
        blob = self._git("hash-object", "-w", "--stdin", stdin=content)
        index = {"GIT_INDEX_FILE": str(self.path / "benchmark.index")}
        self._git("read-tree", self._base, variables=index)
        self._git("update-index", "--cacheinfo", f"{mode},{blob},{file}", variables=index)
        self._commit(self._git("write-tree", "--missing-ok", variables=index))

    def commit_nothing(self) -> None:
        """Let the branch be a commit of the next day with the same files."""
        self._commit(f"{self._base}^{{tree}}")

    def restore(self) -> None:
        """Let the branch be what it was at first."""
        self._git("update-ref", f"refs/heads/{self.branch}", self._base)

    def _commit(self, tree: str) -> None:
        date = int(self._git("show", "--no-patch", "--format=%ct", self._base)) + _LATER
        who = {
            f"GIT_{role}_{part}": value
            for role in ("AUTHOR", "COMMITTER")
            for part, value in (("NAME", "benchmark"), ("EMAIL", "benchmark@example.org"), ("DATE", f"{date} +0000"))
        }
        commit = self._git("commit-tree", tree, "-p", self._base, "-m", "benchmark", variables=who)
        self._git("update-ref", f"refs/heads/{self.branch}", commit)

    def _git(
        self, *arguments: str, stdin: str = "", variables: dict[str, str] | None = None, strip: bool = True
    ) -> str:
        said = _git(self.path, *arguments, stdin=stdin, variables=variables)
        return said.strip() if strip else said


def _git(repository: Path | None, *arguments: str, stdin: str = "", variables: dict[str, str] | None = None) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    trust = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    place = [f"--git-dir={repository}"] if repository is not None else []
    # Bytes that are no UTF-8 come back as they were.
    done = subprocess.run(
        ["git", *place, *arguments],
        env={**inherited, **trust, "LC_ALL": "C", **(variables or {})},
        input=stdin.encode("utf-8", "surrogateescape"),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise MachineError(f"git {arguments[0]} failed", details=done.stderr.decode(errors="replace").strip())
    return done.stdout.decode("utf-8", "surrogateescape")


@dataclass
class Subject:
    """A release line with its first and second Python, and all options that both sides are given.

    ``torch_npu`` and ``op_plugin`` are where its sources come from; ``source`` and ``header`` the files of op-plugin
    that are changed. ``jobs`` is how many compilers run at once, on either side.
    """

    line: str
    pythons: tuple[str, str]
    base_image: str
    torch_source: str
    scratch: Path
    real: bool
    jobs: int
    matrix_folder: Path | None = None
    sources: Path | None = None
    find_links: tuple[Path, ...] = ()
    source: str = ""
    header: str = "op_plugin/utils/OpUtils.h"

    def __post_init__(self) -> None:
        """Make the repositories. Raises RequestError for what the release line does not have."""
        known = load_matrix(self.matrix_folder, self.sources)
        line = known.release(self.line)
        if line is None or line.op_plugin is None:
            raise RequestError(f"no release line with an op-plugin branch is called {self.line!r}", hint="see 'list'")
        self.arch = os.uname().machine
        self.torch_npu = Sources(known.sources.urls("torch_npu")[0], self.scratch / "torch_npu.git", self.line)
        self.op_plugin = Sources(known.sources.urls("op-plugin")[0], self.scratch / "op-plugin.git", line.op_plugin)
        files = self.op_plugin.files()
        operators = sorted(file for file in files if file.startswith(_OPERATORS) and file.endswith(".cpp"))
        self.source = self.source or operators[len(operators) // 2]
        for file in (self.source, self.header):
            if file not in files:
                raise RequestError(f"branch {line.op_plugin} of op-plugin has no {file}", hint="--source, --header")

    def matrix(self) -> Matrix:
        """The matrix, with the sources of this benchmark."""
        matrix = load_matrix(self.matrix_folder, self.sources)
        sources = matrix.sources.with_override("torch_npu", str(self.torch_npu.path))
        return replace(matrix, sources=sources.with_override("op-plugin", str(self.op_plugin.path)))

    def target(self, matrix: Matrix, python: str) -> Target:
        """The target for a Python, on this machine's architecture. Raises RequestError where there is none."""
        for target in matrix.targets():
            if (target.release.branch, target.python, target.arch) == (self.line, python, self.arch):
                return target
        raise RequestError(f"{self.line} has no Python {python} on {self.arch}", hint="see 'list'")

    def options(self, *, pch: bool) -> BuildOptions:
        """What ``command_line`` says, for the builder's own functions."""
        return BuildOptions(
            environment="docker",
            base_image=self.base_image,
            torch_source=self.torch_source,
            find_links=self.find_links,
            jobs=self.jobs,
            refresh=True,
            allow_toolchain_mismatch=True,
            pch=pch,
        )

    def command_line(self, *, pch: bool) -> list[str]:
        """Options of the command ``build``."""
        return [
            f"--pytorch={self.line}",
            *([f"--matrix={self.matrix_folder}"] if self.matrix_folder else []),
            *([f"--sources={self.sources}"] if self.sources else []),
            f"--torch-npu-url={self.torch_npu.path}",
            f"--op-plugin-url={self.op_plugin.path}",
            "--environment=docker",
            f"--base-image={self.base_image}",
            f"--torch-source={self.torch_source}",
            *(f"--find-links={folder}" for folder in self.find_links),
            f"--jobs={self.jobs}",
            "--allow-toolchain-mismatch",
            "--refresh",
            f"--pch={'auto' if pch else 'off'}",
        ]

    def silent(self) -> Reporter:
        """Messages of the builder's functions; only warnings are shown."""
        return Reporter(quiet=True)
