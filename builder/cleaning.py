"""The ``clean`` command: what dead runs left, and on request what can be made again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from builder.console import Reporter
from builder.environments.engine import NoEngine, find_engine
from builder.environments.leftovers import remove_leftovers
from builder.errors import EXIT_OK, MachineError, RequestError, TargetError
from builder.sources.checkout import load_prepared
from builder.workspace import Workspace, remove_tree

#: What belongs to all targets: never removed while a build of any of them runs.
SHARED = ("cache", "mirrors", "images", "runs")


def clean_workspace(workspace: Workspace, also: Sequence[str], reporter: Reporter) -> int:
    """Remove compile copies, containers and half-made images, and the kinds named in ``also``.

    Nothing of a running build is touched. Trees that were changed by hand stay, and are named: a person's
    work is never removed by ``clean``. Raises MachineError when a running build needs what should go,
    RequestError when mirrors should go while changed trees need them.
    """
    with _idle_targets(workspace) as (idle, busy):
        shared = [name for name in SHARED if name in also]
        if busy and shared:
            raise MachineError(
                f"a build of {', '.join(busy)} runs in {workspace.root}",
                hint=f"wait for it to end, or clean without --{' --'.join(shared)}",
            )
        trees = _trees(workspace, idle) if {"trees", "mirrors"} & set(also) else []
        changed = [tree for tree in trees if not _is_untouched(tree)]
        if changed and "mirrors" in also:
            raise RequestError(
                "trees with changes made by hand share objects with the mirrors: "
                + ", ".join(tree.name for tree in changed),
                hint="save the changes and remove those folders, then clean --mirrors again",
            )
        for tree in changed:
            reporter.warning(f"kept {tree}: it was changed by hand")
        _remove([workspace.scratch / name for name in idle], reporter)
        _remove([tree for tree in trees if tree not in changed], reporter)
        folders = {
            "cache": workspace.cache,
            "mirrors": workspace.mirrors,
            "images": workspace.environments,
            "runs": workspace.runs,
        }
        _remove([folder for name, folder in folders.items() if name in also], reporter)
        if isinstance(find_engine(), NoEngine):
            reporter.warning("no container engine answers: containers and images were not looked at")
        for name in remove_leftovers(images="images" in also):
            reporter.message(f"removed {name}")
    reporter.message("nothing else was left to remove")
    return EXIT_OK


@contextmanager
def _idle_targets(workspace: Workspace) -> Iterator[tuple[list[str], list[str]]]:
    """Hold the locks of all targets that nobody builds; gives their names, and those of the others."""
    names = {
        folder.name
        for parent in (workspace.scratch, workspace.trees)
        if parent.is_dir()
        for folder in parent.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
    }
    idle: list[str] = []
    busy: list[str] = []
    with ExitStack() as held:
        for name in sorted(names):
            try:
                held.enter_context(workspace.locked(f"target-{name}", wait_seconds=0))
                idle.append(name)
            except MachineError:
                busy.append(name)
        yield idle, busy


def _trees(workspace: Workspace, idle: Sequence[str]) -> list[Path]:
    return [workspace.trees / name for name in idle if (workspace.trees / name).is_dir()]


def _is_untouched(tree: Path) -> bool:
    try:
        prepared = load_prepared(tree)
    except TargetError:
        return False  # something stands there that the builder did not make
    return prepared is None or not prepared.changes()


def _remove(folders: Sequence[Path], reporter: Reporter) -> None:
    for folder in folders:
        if folder.exists():
            remove_tree(folder)
            reporter.message(f"removed {folder}")
