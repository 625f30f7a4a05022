"""The ``clean`` command: what dead runs left, and on request what can be made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.console import Reporter
from builder.environments.leftovers import remove_leftovers
from builder.errors import EXIT_OK, RequestError
from builder.sources.checkout import load_prepared
from builder.workspace import Workspace, remove_tree


def clean_workspace(workspace: Workspace, also: Sequence[str], reporter: Reporter) -> int:
    """Remove compile copies, containers and half-made images, and the kinds named in ``also``.

    Trees that were changed by hand stay, and are named: a person's work is never removed by ``clean``.
    Raises RequestError when mirrors should go while such trees need them.
    """
    kept = _trees(workspace, reporter, remove="trees" in also or "mirrors" in also)
    if kept and "mirrors" in also:
        raise RequestError(
            f"{len(kept)} tree(s) with changes made by hand share objects with the mirrors: {', '.join(kept)}",
            hint="save the changes and remove those folders, then clean --mirrors again",
        )
    for folder, wanted in (
        (workspace.scratch, True),
        (workspace.cache, "cache" in also),
        (workspace.mirrors, "mirrors" in also),
        (workspace.environments, "images" in also),
        (workspace.runs, "runs" in also),
    ):
        if wanted and folder.exists():
            remove_tree(folder)
            reporter.message(f"removed {folder}")
    for name in remove_leftovers(images="images" in also):
        reporter.message(f"removed {name}")
    return EXIT_OK


def _trees(workspace: Workspace, reporter: Reporter, *, remove: bool) -> list[str]:
    """Remove the trees that nobody changed; the names of the others."""
    kept = []
    for folder in sorted(workspace.trees.iterdir()) if remove and workspace.trees.is_dir() else ():
        if _is_untouched(folder):
            remove_tree(folder)
            reporter.message(f"removed {folder}")
        else:
            reporter.warning(f"kept {folder}: it was changed by hand")
            kept.append(folder.name)
    return kept


def _is_untouched(folder: Path) -> bool:
    if folder.name.startswith("."):
        return True  # a staging folder of a run that died
    tree = load_prepared(folder)
    return tree is not None and not tree.changes()
