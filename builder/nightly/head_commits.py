"""Which commits a night builds: the heads of its branches, asked for once and fixed from then on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, FailureKind, TargetError
from builder.core.workspace import Workspace
from builder.executors.local import gatherer
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine, Target
from builder.planning.lockfile import Lock
from builder.progress.reporter import Reporter
from builder.sources.mirrors import Mirror, Mirrors, Repository
from builder.target.inputs import Inputs
from builder.target.resolve_sources import Gatherer
from builder.target.tree_request import OP_PLUGIN, TORCH_NPU

#: Commits by branch of torch_npu and by what Gatherer calls the repository: ``torch_npu``, ``op_plugin``.
Commits = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Heads(Lock):
    """A lock that fixes commits and nothing else: all targets of a night are built from the same heads."""

    commits: Commits = field(default_factory=dict)

    def pins(self) -> dict[str, dict[str, str]]:
        """The commits, as ``Gatherer`` takes them."""
        return {branch: dict(commits) for branch, commits in self.commits.items()}

    def check(self, target: Target, inputs: Inputs) -> None:
        """Any input is fine: a night takes what there is."""


class HeadFinder:
    """Asks hosts for heads: one fetch of each repository, however many branches and channels want something of it."""

    def __init__(self, matrix: Matrix, workspace: Workspace, reporter: Reporter, *, offline: bool) -> None:
        self._matrix = matrix
        self._reporter = reporter
        self._sources = matrix.sources
        self._mirrors = Mirrors(workspace.mirrors, reporter, offline=offline)
        self._fetched: dict[str, Mirror] = {}

    def find(
        self, lines: Iterable[ReleaseLine], op_plugin: str
    ) -> tuple[dict[str, dict[str, str]], dict[str, BuilderError]]:
        """The commits of ``lines`` with op-plugin as asked for (``branch``, ``pinned``, a branch), and what failed.

        Raises TargetError where no host answers, and where no line at all has its commits.
        """
        found: dict[str, dict[str, str]] = {}
        failed: dict[str, BuilderError] = {}
        for line in lines:
            try:
                found[line.branch] = self._commits(line, op_plugin)
            except TargetError as error:
                if error.kind is FailureKind.NETWORK:
                    raise
                failed[line.branch] = error
        if failed and not found:
            raise next(iter(failed.values()))
        return found, failed

    def gatherer(self, workspace: Workspace, options: BuildOptions, lock: Lock) -> Gatherer:
        """What finds the sources of the commits that ``lock`` fixes."""
        return gatherer(self._matrix, workspace, options, self._reporter, lock)

    def _commits(self, line: ReleaseLine, op_plugin: str) -> dict[str, str]:
        torch_npu, commit = self._head(TORCH_NPU, line.branch)
        if op_plugin == "pinned":
            modules = (m.commit for m in torch_npu.submodules(commit) if self._sources.find(m.url) == OP_PLUGIN)
            laid = next(modules, None)
        else:
            branch = line.op_plugin if op_plugin == "branch" else op_plugin
            laid = None if branch is None else self._head(OP_PLUGIN, branch)[1]
        return {"torch_npu": commit, **({} if laid is None else {"op_plugin": laid})}

    def _head(self, repository: str, branch: str) -> tuple[Mirror, str]:
        mirror = self._fetched.get(repository)
        if mirror is not None:
            return mirror, mirror.branch(branch)
        mirror = self._mirrors.open(Repository(repository, self._sources.urls(repository)))
        commit = mirror.branch(branch, refresh=True)
        # Only now: after a failure the next branch must not be taken for fresh.
        self._fetched[repository] = mirror
        return mirror, commit
