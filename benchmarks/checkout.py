"""What the tree of a repository's tenth target costs, as ratios to a fresh shallow clone of the same repository.

By then the mirror has every object, and nothing is fetched any more. A prepared tree is more than a checkout: every
file is hashed for its record, so that changes made by hand are found later. Both are measured, the tree and the plain
checkout. By default the repository is the miniature torch_npu; ``--repository`` and ``--branch`` name another.

The clone comes from ``file://`` where the repository is a folder: git then makes and sends a pack, as a host would. The
cases take turns, and each is judged by its median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from plan import show

from builder.cli.demo_upstream import DEFAULT_LINE, materialise
from builder.core.untrusted import remove_tree
from builder.core.workspace import Workspace
from builder.progress.reporter import Reporter
from builder.sources.checkout import TreeRequest, prepare
from builder.sources.mirrors import Mirror, Mirrors, Repository
from builder.sources.prepared_tree import repository_at

#: The target whose tree is measured; those before it stand.
TENTH = 10


def timed(action: Callable[[Path], object], place: Path) -> float:
    """Wall-clock seconds of ``action``, which makes ``place`` anew."""
    remove_tree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    # What the case before has left to write is not this one's.
    os.sync()
    begin = time.perf_counter()
    action(place)
    return time.perf_counter() - begin


def cases(mirror: Mirror, url: str, branch: str, workspace: Workspace) -> dict[str, Callable[[], float]]:
    """What is measured, by name; the clone is the first."""
    commit = mirror.branch(branch)
    reporter = Reporter(quiet=True)

    def tree(number: int) -> Callable[[Path], object]:
        return lambda place: prepare(TreeRequest(f"target-{number}", branch, mirror, commit), place, reporter)

    def check_out(place: Path) -> None:
        repository_at(
            place, objects=mirror.path / "objects", branch=branch, commit=commit, shallow=mirror.path / "shallow"
        )

    def clone(place: Path) -> None:
        command = ["git", "clone", "--quiet", "--depth=1", "--no-tags", f"--branch={branch}", "--", url, str(place)]
        subprocess.run(command, check=True)

    for number in range(1, TENTH):
        timed(tree(number), workspace.trees / f"target-{number}")
    return {
        "git clone --depth 1": lambda: timed(clone, workspace.root / "clones" / "clone"),
        "prepared tree of the tenth target": lambda: timed(tree(TENTH), workspace.trees / f"target-{TENTH}"),
        "checkout of it alone": lambda: timed(check_out, workspace.trees / "checkout"),
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", help="URL or path of a repository (default: the miniature torch_npu)")
    parser.add_argument("--branch", default=DEFAULT_LINE, help=f"a branch of it (default: {DEFAULT_LINE})")
    parser.add_argument("--runs", type=int, default=7, help="measurements of each case (default: 7)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="checkout-") as temporary:
        folder = Path(temporary).resolve()
        url = chosen.repository or str(materialise(folder / "miniature").torch_npu)
        workspace = Workspace(folder / "build", folder / "dist")
        mirror = Mirrors(workspace.mirrors, Reporter(quiet=True)).open(Repository("torch_npu", (url,)))
        measured = cases(mirror, Path(url).resolve().as_uri() if Path(url).is_dir() else url, chosen.branch, workspace)
        times: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(chosen.runs):
            for name, measure in measured.items():
                times[name].append(measure())
        files = len(list(mirror.entries(mirror.branch(chosen.branch))))
        medians = {name: statistics.median(values) for name, values in times.items()}
        show(f"Trees of {files} files: medians of {chosen.runs} runs", medians, next(iter(medians)))


if __name__ == "__main__":
    main()
