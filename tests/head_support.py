"""Branches without git: what a night asks of hosts, answered from a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha1
from typing import Any

from sources_support import origin_of

from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, TargetError
from builder.core.workspace import Workspace
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.nightly.head_commits import HeadFinder
from builder.planning.lockfile import Lock
from builder.progress.reporter import Reporter
from builder.sources.mirrors import Mirror
from builder.sources.prepared_record import Origin


class Branches:
    """The heads of the branches of repositories, which is all that most nights need of an upstream."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        """``names`` are the branches by repository; those of one begin at the same commit."""
        self._changes = 0
        self._heads: dict[tuple[str, str], str] = {}
        for repository, branches in names.items():
            self._heads |= dict.fromkeys(((repository, branch) for branch in branches), self._commit())

    def head(self, repository: str, branch: str) -> str:
        """The commit that a branch is at. Raises TargetError (SOURCE) where there is no such branch."""
        try:
            return self._heads[repository, branch]
        except KeyError:
            raise TargetError(f"{repository} has no branch '{branch}'", kind=FailureKind.SOURCE) from None

    def change(self, repository: str, branch: str) -> str:
        """Move a branch to a new commit, and return that."""
        self.head(repository, branch)
        self._heads[repository, branch] = commit = self._commit()
        return commit

    def _commit(self) -> str:
        self._changes += 1
        return sha1(str(self._changes).encode(), usedforsecurity=False).hexdigest()


class TableFinder(HeadFinder):
    """Finds heads in a table; all else is decided as with hosts."""

    def __init__(self, branches: Branches, matrix: Matrix, workspace: Workspace, reporter: Reporter) -> None:
        super().__init__(matrix, workspace, reporter, offline=True)
        self._branches = branches

    def _head(self, repository: str, branch: str) -> tuple[Mirror, str]:
        mirror: Any = None  # only asked for the commits of submodules, which a table has not
        return mirror, self._branches.head(repository, branch)

    def gatherer(self, _workspace: Workspace, _options: BuildOptions, lock: Lock) -> Any:
        """The commits of ``lock`` in the place of trees."""
        return TableGatherer(lock.pins())


class TableGatherer:
    """What a plan asks ``Gatherer`` for, where sources are commits and nothing else."""

    def __init__(self, pins: Mapping[str, Mapping[str, str]]) -> None:
        self._pins = pins

    def decide(self, target: Target) -> Mapping[str, str]:
        """The commits of a target's branch. Raises TargetError (SOURCE) where the lock has none of it."""
        try:
            return self._pins[target.release.branch]
        except KeyError:
            raise TargetError(f"no commits of {target.release.branch}", kind=FailureKind.SOURCE) from None

    def check(self, _decided: Mapping[str, str]) -> None:
        """Any commits can be built."""

    def origin(self, decided: Mapping[str, str]) -> Origin:
        """What ``checkout.describe`` would say of the commits."""
        laid = {"source": "commit", "commit": decided["op_plugin"]} if "op_plugin" in decided else None
        return origin_of(decided["torch_npu"], op_plugin=laid)
