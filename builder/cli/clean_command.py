"""The ``clean`` command: what dead runs left, and on request what can be made again.

The workers of a cluster of this machine have workspaces of their own below ``<workspace>/workers``; they are cleaned
in the same way. What killed runs left in ``<workspace>/store`` goes too.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from builder.core.errors import EXIT_OK, MachineError, RequestError, TargetError
from builder.core.untrusted import remove_tree
from builder.core.workspace import Workspace
from builder.environments.docker_engine import NoEngine, find_engine
from builder.environments.orphans import remove_leftovers
from builder.environments.pytorch import packages_folder
from builder.environments.pytorch_store import remove_unused
from builder.executors.run_lifecycle import lock_of
from builder.progress.reporter import Reporter
from builder.sources.checkout import load_prepared
from builder.wheels.provenance import beside, rename_old_debug

#: What belongs to all targets: never removed while a build of any of them runs.
SHARED = ("cache", "mirrors", "images", "runs")


@dataclass(frozen=True)
class Place:
    """A workspace whose idle targets and runs are held, so that nobody begins with them.

    ``idle`` are targets, ``dead`` ids of runs, ``busy`` whatever is at work, in words.
    """

    workspace: Workspace
    idle: Sequence[str]
    dead: Sequence[str]
    busy: Sequence[str]

    @property
    def trees(self) -> list[Path]:
        """Prepared trees that nobody works on."""
        return [self.workspace.trees / name for name in self.idle if (self.workspace.trees / name).is_dir()]


def clean_workspace(workspace: Workspace, also: Sequence[str], reporter: Reporter) -> int:
    """Remove compile copies, containers, half-made images and what dead runs left, and the kinds named in ``also``.

    Nothing of a running build is touched. Trees that were changed by hand stay, and are named: a person's
    work is never removed by ``clean``. Raises MachineError when a running build needs what should go,
    RequestError when mirrors should go while changed trees need them.
    """
    with ExitStack() as held:
        places = [_held(each, held) for each in _workspaces(workspace)]
        busy = sorted({name for place in places for name in place.busy})
        shared = [name for name in SHARED if name in also]
        if busy and shared:
            raise MachineError(
                f"{workspace.root} is in use: {', '.join(busy)}",
                hint=f"wait for it to end, or clean without --{' --'.join(shared)}",
            )
        trees = [tree for place in places for tree in place.trees] if {"trees", "mirrors"} & set(also) else []
        changed = [tree for tree in trees if not _is_untouched(tree)]
        if changed and "mirrors" in also:
            raise RequestError(
                "trees with changes made by hand share objects with the mirrors: "
                + ", ".join(str(tree) for tree in changed),
                hint="save the changes and remove those folders, then clean --mirrors again",
            )
        for tree in changed:
            reporter.warning(f"kept {tree}: it was changed by hand")
        for place in places:
            _remove([place.workspace.scratch / name for name in place.idle], reporter)
        _remove([tree for tree in trees if tree not in changed], reporter)
        for place in places:
            _remove(_kinds(place.workspace, also), reporter)
        for place in places[1:] if "cache" in also else ():
            _remove_copies(place.workspace.output, workspace.output, reporter)
        for wheel in sorted(workspace.output.glob("*.whl")):
            if (renamed := rename_old_debug(wheel)) is not None:
                reporter.message(
                    f"renamed its debug symbols to {renamed}, as pip before 24 took them for a distribution"
                )
        _remove([workspace.root / "store" / "runs" / run for run in places[0].dead], reporter)
        found = find_engine()
        if isinstance(found, NoEngine):
            reporter.warning(f"containers and images were not looked at: {found.reason}")
        for name in remove_leftovers(images="images" in also):
            reporter.message(f"removed {name}")
        if "packages" in also:
            removed, used = remove_unused(packages_folder())
            for folder in removed:
                reporter.message(f"removed {folder}")
            for folder in used:
                reporter.warning(f"kept {folder}: a build uses it")
    reporter.message("nothing else was left to remove")
    return EXIT_OK


def _workspaces(workspace: Workspace) -> Iterator[Workspace]:
    """The workspace, then those of the workers of a cluster of this machine."""
    yield workspace
    workers = workspace.root / "workers"
    for folder in sorted(workers.iterdir()) if workers.is_dir() else ():
        if folder.is_dir() and not folder.is_symlink():
            yield Workspace(folder, folder / "dist")


def _held(workspace: Workspace, held: ExitStack) -> Place:
    """Hold the locks of all targets that nobody builds and of all runs that are over, until ``held`` ends."""
    locks = workspace.root / "locks"
    known = {path.stem for path in locks.glob("*.lock")} if locks.is_dir() else set()
    targets = {name.removeprefix("target-") for name in known if name.startswith("target-")}
    targets |= {
        folder.name
        for parent in (workspace.scratch, workspace.trees)
        if parent.is_dir()
        for folder in parent.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
    }
    runs = {name.removeprefix(lock_of("")) for name in known if name.startswith(lock_of(""))}
    idle = [name for name in sorted(targets) if _hold(workspace, f"target-{name}", held)]
    dead = [name for name in sorted(runs) if _hold(workspace, lock_of(name), held)]
    busy = [f"a build of {name}" for name in sorted(targets.difference(idle))]
    # A run that builds is known by its targets already; one that plans, or waits for other machines, is not.
    busy = busy or [f"the run {name}" for name in sorted(runs.difference(dead))]
    return Place(workspace, idle, dead, busy)


def _hold(workspace: Workspace, lock: str, held: ExitStack) -> bool:
    try:
        held.enter_context(workspace.locked(lock, wait_seconds=0))
    except MachineError:
        return False
    return True


def _kinds(workspace: Workspace, also: Sequence[str]) -> list[Path]:
    folders = {
        "cache": [workspace.cache, workspace.manifests, workspace.verified],
        "mirrors": [workspace.mirrors],
        "images": [workspace.environments],
        "runs": [workspace.runs],
    }
    return [folder for name, those in folders.items() if name in also for folder in those]


def _is_untouched(tree: Path) -> bool:
    try:
        prepared = load_prepared(tree)
    except TargetError:
        return False  # something stands there that the builder did not make
    return prepared is None or not prepared.changes()


def _remove_copies(own: Path, output: Path, reporter: Reporter) -> None:
    """Remove a worker's own copies of wheels that stand in the output folder; others may be all there is."""
    for wheel in sorted(own.glob("*.whl")):
        published = output / wheel.name
        if published.is_file() and filecmp.cmp(wheel, published, shallow=False):
            for path in (*beside(wheel), wheel):
                path.unlink(missing_ok=True)
            reporter.message(f"removed {wheel}")
        else:
            reporter.warning(f"kept {wheel}: it is not in {output}")


def _remove(folders: Sequence[Path], reporter: Reporter) -> None:
    for folder in folders:
        if folder.exists():
            remove_tree(folder)
            reporter.message(f"removed {folder}")
