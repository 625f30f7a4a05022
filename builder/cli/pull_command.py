"""The command ``pull``: what builds of targets need, fetched and made beforehand, so that they need no network."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from builder.compilation.ccache import stored_bytes
from builder.core.build_options import BuildOptions
from builder.core.workspace import Workspace
from builder.environments.select import size_of_image
from builder.executors.local import Policy, exit_code, run_targets
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.progress.reporter import Reporter
from builder.sources.checkout import PreparedTree, SubmoduleSource, TreeRequest
from builder.sources.mirrors import Mirror
from builder.target.build import Purpose, TargetBuild
from builder.target.deadlines import deadline

#: What is listed, in the order in which it is listed.
_KINDS = ("mirror", "base image", "environment", "PyTorch")


def pull_targets(
    targets: Sequence[Target],
    matrix: Matrix,
    workspace: Workspace,
    options: BuildOptions,
    reporter: Reporter,
    policy: Policy,
) -> int:
    """Fetch what builds of ``targets`` need, list what stands, and return the exit code.

    What several targets share is fetched and made once. No tree is prepared: the mirrors hold all that one is made of.
    """
    pulled = Pulled()
    # A tree that stands says nothing of what a new one would need.
    options = replace(options, rebuild=True)
    purpose = Purpose("pull", pulled.steps)
    run = run_targets(targets, matrix, workspace, options, reporter, replace(policy, purpose=purpose))
    if pulled.held:
        reporter.table(_table(pulled.held), always=True)
    return exit_code(run.targets)


class Pulled:
    """What the targets of a run have brought. Threads share it."""

    def __init__(self) -> None:
        #: What each is, and its name or place; the first target that needed it comes first.
        self.held: dict[tuple[str, str], None] = {}
        self._lock = threading.Lock()

    def steps(self, build: TargetBuild) -> None:
        """Fetch and make for one target. Raises BuilderError."""
        build.note(f"pulling what {build.target.id} needs, run {build.run_id}")
        with build.phase("prepare"), deadline(build.options.limit_of("prepare")):
            request = build.gatherer.fetch(build.target)
        with build.phase("image"), deadline(build.options.limit_of("image")):
            environment = build.environment()
        mirrors = [("mirror", str(mirror.path)) for mirror in _mirrors(request)]
        with self._lock:
            self.held.update(dict.fromkeys([*mirrors, *environment.held]))
        build.result.status = "pulled"
        names = ", ".join(f"{what} {Path(name).name}" for what, name in [*mirrors, *environment.held])
        build.result.reason = f"on this machine: {names}"


def _mirrors(request: TreeRequest | PreparedTree) -> Iterator[Mirror]:
    if isinstance(request, PreparedTree):
        return
    yield request.torch_npu
    if request.overlay is not None and request.overlay.mirror is not None:
        yield request.overlay.mirror
    yield from _of_submodules(request.submodules)


def _of_submodules(submodules: Sequence[SubmoduleSource]) -> Iterator[Mirror]:
    for submodule in submodules:
        yield submodule.mirror
        yield from _of_submodules(submodule.children)


def _table(held: dict[tuple[str, str], None]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("name or place", overflow="fold")
    table.add_column("size", no_wrap=True, justify="right")
    for kind in _KINDS:
        for what, name in held:
            if what == kind:
                place = Path(name)
                size = stored_bytes(place) if place.is_absolute() else size_of_image(name)
                table.add_row(what, escape(name), "" if size is None else _size(size))
    return table


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
