"""What a plan of the whole matrix costs, as ratios to asking the same repositories for their heads.

By default the repositories are the miniature upstream with a branch for every release line of the matrix, made for the
measurement. ``--sources`` names others, and ``--workspace`` a workspace whose mirrors have them already; lines that
cannot be planned from those mirrors are left out and counted. Options after ``--`` go to ``plan``.

Two plans are measured: one that takes heads from mirrors, and one that asks the hosts again, as ``git ls-remote`` does.
On one machine ``git ls-remote`` costs next to nothing; over a network each question to a host takes as long as
everything else together, so the number of questions is what counts, and it is printed too.

Each case is a fresh process. The cases take turns, and each is judged by its median.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from builder.cli.demo_upstream import DEFAULT_LINE, OP_PLUGIN_BRANCH, materialise
from builder.core.workspace import resource
from builder.matrix.loader import load_matrix

ROOT = Path(__file__).resolve().parent.parent
BUILDER = [sys.executable, "-m", "builder"]
ALL = ["--target=*", "--channel=all", "--arch=all"]
#: Repositories whose branches a plan resolves; submodules are pinned by commit.
WITH_HEADS = ("torch_npu", "op-plugin")


@dataclass(frozen=True)
class Upstream:
    """Where release lines come from: options for the builder."""

    sources: Path
    matrix: Path | None = None

    @property
    def options(self) -> list[str]:
        """For every command that takes a matrix."""
        return [f"--sources={self.sources}", *([f"--matrix={self.matrix}"] if self.matrix else [])]

    def heads(self) -> list[str]:
        """The first host of each repository that has branches to resolve."""
        repositories = load_matrix(self.matrix, self.sources).sources
        return [repositories.urls(name)[0] for name in WITH_HEADS]


def every_line(folder: Path) -> Upstream:
    """The miniature upstream below ``folder`` with a branch for each release line that can be built.

    The matrix beside it differs from the shipped one in that each line needs only the submodule that the miniature has.
    """
    made = materialise(folder / "miniature")
    lines = [line for line in load_matrix().releases if line.refusal is None]
    for repository, like, branches in (
        (made.torch_npu, DEFAULT_LINE, {line.branch for line in lines}),
        (made.op_plugin, OP_PLUGIN_BRANCH, {line.op_plugin for line in lines if line.op_plugin}),
    ):
        git = ["git", f"--git-dir={repository / '.git'}"]
        known = subprocess.run(
            [*git, "branch", "--format=%(refname:short)"], capture_output=True, text=True, check=True
        )
        for branch in sorted(branches - set(known.stdout.split())):
            subprocess.run([*git, "branch", "--quiet", branch, like], check=True)
    matrix = folder / "matrix"
    shutil.copytree(resource("matrices"), matrix, dirs_exist_ok=True)
    for file in matrix.glob("pytorch-*.yaml"):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for row in (content.get("defaults") or {}, *content["releases"]):
            if row.get("submodules", {}).get("required"):
                row["submodules"]["required"] = ["nlohmann-json"]
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return Upstream(made.sources_file, matrix)


def seconds(commands: Sequence[Sequence[str]], folder: Path) -> float:
    """Wall-clock seconds of processes one after the other, started in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    for command in commands:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        if done.returncode:
            said = "\n".join(done.stderr.decode(errors="replace").splitlines()[-20:])
            raise SystemExit(f"{' '.join(command)[:500]} failed:\n{said}")
    return time.perf_counter() - begin


def in_turns(cases: dict[str, list[list[str]]], runs: int, folder: Path) -> dict[str, float]:
    """The median seconds of each case, which is one or more commands; each runs once before it is measured."""
    for commands in cases.values():
        seconds(commands, folder)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, commands in cases.items():
            times[name].append(seconds(commands, folder))
    return {name: statistics.median(values) for name, values in times.items()}


def show(title: str, medians: dict[str, float], base: str) -> None:
    """Print the table: milliseconds, and the ratio to the case ``base``."""
    table = Table(title=title, box=None, title_justify="left")
    table.add_column("case")
    for heading in ("milliseconds", "ratio"):
        table.add_column(heading, justify="right")
    for name, value in medians.items():
        table.add_row(name, f"{value * 1000:.1f}", f"{value / medians[base]:.2f}")
    Console(width=110).print(table)


def planned(plan: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """What a plan says of its targets."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*plan, "--json"], cwd=folder, env=environment, stdout=subprocess.PIPE, check=False)
    # 1: some of them cannot be built.
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(plan)[:500]} failed")
    return list(json.loads(done.stdout))


def unplanned(plan: Sequence[str], folder: Path) -> tuple[int, list[str]]:
    """How many targets a plan has, and the release lines among them that its mirrors do not have."""
    targets = planned(plan, folder)
    lost = {target["branch"] for target in targets if target["action"] == "error"}
    return sum(target["branch"] not in lost for target in targets), sorted(lost)


def fetches(plan: list[str], folder: Path) -> int:
    """How often a command asks a host: counted by a program called git that stands before git in PATH."""
    programs, log = folder / "programs", folder / "fetches"
    programs.mkdir()
    counting = programs / "git"
    counting.write_text(
        f'#!/bin/sh\ncase " $* " in *" fetch "*) echo >> {shlex.quote(str(log))};; esac\n'
        f'exec {shlex.quote(shutil.which("git") or "git")} "$@"\n'
    )
    counting.chmod(0o755)
    log.touch()
    seconds([["env", f"PATH={programs}{os.pathsep}{os.environ['PATH']}", *plan]], folder)
    return len(log.read_text().splitlines())


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, help="YAML file with URLs or paths of repositories")
    parser.add_argument("--workspace", type=Path, help="workspace whose mirrors are complete (default: filled first)")
    parser.add_argument("--no-refresh", action="store_true", help="leave out the plan that asks the hosts again")
    parser.add_argument("--runs", type=int, default=5, help="processes of each case (default: 5)")
    parser.add_argument("options", nargs="*", help="more options for plan, after --")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plan-") as temporary:
        folder = Path(temporary)
        upstream = Upstream(chosen.sources.resolve()) if chosen.sources else every_line(folder)
        workspace = chosen.workspace.resolve() if chosen.workspace else folder / "build"
        places = [f"--workspace={workspace}", f"--output={folder / 'dist'}"]
        plan = [*BUILDER, "plan", *ALL, *upstream.options, *places, "--quiet", *chosen.options]
        # Fills the mirrors, too.
        count, lost = unplanned(plan, folder)
        plan += [f"--skip={','.join(lost)}"] if lost else []
        base = f"git ls-remote --heads of {' and '.join(WITH_HEADS)}"
        cases = {
            base: [["git", "ls-remote", "--heads", "--", url] for url in upstream.heads()],
            "list --json: start, load the matrix, print": [[*BUILDER, "list", *ALL, *upstream.options, "--json"]],
            "plan: heads from mirrors": [[*plan, "--json"]],
        }
        if not chosen.no_refresh:
            refresh = [*plan, "--refresh", "--json"]
            cases["plan --refresh: heads from their hosts"] = [refresh]
            print(f"plan --refresh runs git fetch {fetches(refresh, folder)} times")
        show(
            f"A plan of {count} targets ({len(lost)} release lines left out): medians of {chosen.runs} runs",
            in_turns(cases, chosen.runs, folder),
            base,
        )


if __name__ == "__main__":
    main()
