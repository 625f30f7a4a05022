"""Nights without compilers: a channel over the miniature upstream, and an engine whose wheels are a few bytes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from head_support import Branches, TableFinder, TableGatherer
from rich.console import Console
from support import MACHINE, CommandLine, Ran
from wheel_support import make_record, make_target_wheel

from builder.cli.demo_upstream import Miniature, materialise
from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, FailureKind, TargetError
from builder.core.results import Run
from builder.core.workspace import Workspace, resource
from builder.executors.local import Policy, gatherer
from builder.matrix.documents import read_document
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.nightly import run_nightly
from builder.planning import planner as planning
from builder.planning.planner import Planner
from builder.progress.reporter import Reporter
from builder.releases import Manifest, latest, releases, verify
from builder.sources.version import suffix_of
from builder.store import open_store
from builder.wheels.publication import publish_wheel
from builder.wheels.record import WheelRecord

#: Two Pythons of one line, one of another.
A, B, C = "v2.5.1-7.1.0-py3.10-x86_64", "v2.5.1-7.1.0-py3.11-x86_64", "v2.6.0-7.1.0-py3.11-x86_64"
#: The branch of op-plugin that the second line follows in these tests, so that a commit can be about one line only.
OTHER_BRANCH = "7.1.0-next"
FRIDAY, SATURDAY, SUNDAY = date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 22)


def git(repository: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run git in a repository of the miniature."""
    command = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout.strip()


def commit(repository: Path, branch: str, files: Mapping[str, str]) -> str:
    """Add a commit that writes ``files`` to a branch, without a work tree; its id."""
    git(repository, "read-tree", branch)
    for name, text in files.items():
        blob = git(repository, "hash-object", "-w", "--stdin", stdin=text)
        git(repository, "update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")
    made = git(repository, "commit-tree", git(repository, "write-tree"), "-p", branch, "-m", "a change")
    git(repository, "update-ref", f"refs/heads/{branch}", made)
    return made


def channel_matrix(matrix: Matrix, upstream: Miniature | None, folder: Path, channels: Mapping[str, Any]) -> Matrix:
    """``matrix`` with these channels, over the repositories of ``upstream`` if any.

    2.6 follows its own branch of op-plugin.
    """
    path = folder / "nightly.yaml"
    path.write_text(yaml.safe_dump({"channels": dict(channels)}, sort_keys=False))
    lines = [
        line.model_copy(update={"op_plugin": OTHER_BRANCH}) if line.branch == "v2.6.0-7.1.0" else line
        for line in matrix.releases
    ]
    sources = matrix.sources
    if upstream is not None:
        for name, place in (("torch_npu", upstream.torch_npu), ("op-plugin", upstream.op_plugin)):
            sources = sources.with_override(name, str(place))
        sources = sources.with_override("nlohmann-json", str(upstream.nlohmann))
    documents = {**matrix.documents, "nightly": read_document(path)}
    return replace(matrix, releases=tuple(lines), sources=sources, documents=documents)


def copy_of(made: Miniature, folder: Path) -> Miniature:
    """A copy that may be written to; quicker than making another one."""
    shutil.copytree(made.root, folder)
    places = {one.name: getattr(made, one.name) for one in fields(made)}
    return Miniature(**{name: folder / place.relative_to(made.root) for name, place in places.items()})


def know_the_environment() -> None:
    """Plans need no engine: every environment is called the same."""
    planning.environment_identity = lambda *_, **__: {"environment": "none"}  # type: ignore[attr-defined]


@dataclass
class FakeEngine:
    """Writes a wheel with its record where ``run_targets`` would, for what the planner says of a target.

    ``gatherer`` finds the sources, as ``builder.executors.local.gatherer`` does. ``failing`` maps targets to why they
    fail; ``recognised`` maps those that it says have a wheel of a fingerprint; ``built`` lists what was built;
    ``after`` is called after each target; ``policy`` is that of the last run.
    """

    gatherer: Callable[..., Any] = gatherer
    failing: dict[str, BuilderError] = field(default_factory=dict)
    recognised: dict[str, str] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    built: list[str] = field(default_factory=list)
    calls: int = 0
    after: Callable[[str], None] = lambda _: None

    def __call__(
        self,
        targets: Sequence[Target],
        matrix: Matrix,
        workspace: Workspace,
        options: BuildOptions,
        reporter: Reporter,
        policy: Policy,
    ) -> Run:
        self.calls += 1
        self.policy = policy
        workspace.create()
        run = Run(workspace.runs)
        sources = self.gatherer(matrix, workspace, options, reporter, policy.locked)
        planner = Planner(sources, workspace, options, reporter)
        for target in targets:
            result = run.target(target.id)
            planned = planner.plan_target(target)
            result.fingerprint = planned.fingerprint
            if policy.fail_fast and any(earlier.error for earlier in run.targets):
                result.skip("not started: another target failed")
                continue
            if target.id in self.recognised:
                result.skip("its wheel of the same inputs stands (the worker w1)")
                result.fingerprint = self.recognised[target.id]
                continue
            if target.id in self.failing:
                result.fail(self.failing[target.id])
                continue
            assert planned.inputs is not None, planned.reason
            suffix = suffix_of(options.version_suffix, planned.commits)
            wheel = make_target_wheel(run.folder, target, suffix, content=json.dumps(planned.inputs.to_json()))
            record = WheelRecord.model_validate(
                make_record(
                    wheel,
                    target=target.id,
                    fingerprint=planned.fingerprint,
                    inputs=planned.inputs.to_json(),
                    mismatches=[],
                    finished=datetime.now(timezone.utc).isoformat(),
                )
            )
            result.wheel = publish_wheel(wheel, workspace.output, record, None)
            result.sha256, result.status = record.sha256, "built"
            self.built.append(target.id)
            self.after(target.id)
        run.write()
        return run


def compile_error(text: str = "an error") -> TargetError:
    """A failure that the same inputs lead to again."""
    return TargetError(text, kind=FailureKind.COMPILE)


class World:
    """An upstream of its own, a workspace, and nights of one channel after the other."""

    def __init__(
        self, folder: Path, upstream: Miniature | None = None, matrix: Matrix | None = None, **channel: Any
    ) -> None:
        """The repositories of ``upstream`` are written to; without any there are only the heads of branches."""
        self.folder = folder
        self.branches = Branches({"torch_npu": ("v2.5.1-7.1.0", "v2.6.0-7.1.0"), "op-plugin": ("7.1.0", OTHER_BRANCH)})
        self.engine = FakeEngine()
        if upstream is None:
            self.engine.gatherer = lambda *given: TableGatherer(given[-1].pins())
        elif OTHER_BRANCH not in git(upstream.op_plugin, "branch", "--format=%(refname:short)").split():
            git(upstream.op_plugin, "branch", OTHER_BRANCH, "7.1.0")
        self._upstream = upstream
        self.workspace = Workspace(root=folder / "build", output=folder / "dist")
        self.said = io.StringIO()
        self._matrix = matrix if matrix is not None else load_matrix()
        self.options = BuildOptions()
        self.settle(**channel)

    def settle(self, **channel: Any) -> None:
        """Write the channel ``night`` anew."""
        wanted = {"targets": {"target": [A, B, C]}, "keep": 9, **channel}
        self.matrix = channel_matrix(self._matrix, self._upstream, self.folder, {"night": wanted})

    @property
    def upstream(self) -> Miniature:
        """The repositories."""
        assert self._upstream is not None, "this world has no repositories"
        return self._upstream

    @property
    def store(self) -> Any:
        """The store that the channel publishes to by default."""
        return open_store(str(self.workspace.output / "nightly"))

    def night(self, day: date, names: Sequence[str] = ("night",), **more: Any) -> int:
        """One call of the command; what it said is in ``said``, what it built in ``engine.built``."""
        self.said.seek(0)
        self.said.truncate()
        self.engine.built.clear()
        self.engine.calls = 0
        reporter = Reporter(Console(file=self.said, width=300))
        more = {"engine": self.engine, "options": self.options, "night": day, **more}
        if self._upstream is None:
            more["finder"] = TableFinder(self.branches, self.matrix, self.workspace, reporter)
        return run_nightly(self.matrix, list(names), self.workspace, reporter=reporter, **more)

    @property
    def text(self) -> str:
        """What the last night said."""
        return self.said.getvalue()

    @property
    def nights(self) -> list[str]:
        """Names of the published nights, the newest first."""
        return [found.name for found in releases(self.store, "night") if found.manifest]

    @property
    def latest(self) -> str | None:
        """The night that ``latest`` names."""
        found: Manifest | None = latest(self.store, "night")
        return None if found is None else found.release

    def manifest(self, night: str) -> Manifest:
        """The manifest of a night, whose files must all be whole."""
        found = next(one.manifest for one in releases(self.store, "night") if one.name == night)
        assert found is not None
        assert verify(self.store, found) == []
        return found

    def statuses(self, night: str) -> dict[str, str]:
        """What became of each target of a night."""
        return {entry.target: entry.status for entry in self.manifest(night).expected}

    def wheels(self, night: str) -> dict[str, str]:
        """Wheels of a night by target."""
        return {entry.target: entry.wheel for entry in self.manifest(night).expected if entry.wheel}

    def result(self) -> dict[str, Any]:
        """``result.json`` of the newest run."""
        newest = max(self.workspace.runs.iterdir(), key=lambda run: (run / "result.json").stat().st_mtime_ns)
        found: dict[str, Any] = json.loads((newest / "result.json").read_text())
        return {**found, "folder": newest}

    def head(self, repository: str, branch: str) -> str:
        """The commit that a branch is at."""
        if self._upstream is None:
            return self.branches.head(repository, branch)
        places = {"torch_npu": self._upstream.torch_npu, "op-plugin": self._upstream.op_plugin}
        return git(places[repository], "rev-parse", branch)

    def change_op_plugin(self, branch: str = "7.1.0", text: str = "") -> str:
        """A commit on a branch of op-plugin."""
        if self._upstream is None:
            return self.branches.change("op-plugin", branch)
        return commit(self.upstream.op_plugin, branch, {"op_plugin/note.txt": text or str(time.monotonic_ns())})


#: One night in a process of its own, to be killed: the arguments are folder, miniature, seconds each wheel takes.
KILLED = """
import sys, time
from pathlib import Path
from nightly_support import SATURDAY, World, know_the_environment
from builder.cli.demo_upstream import materialise

folder, upstream, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
know_the_environment()
world = World(folder, materialise(upstream))

def after(target):
    with open(folder / "built.log", "a") as log:
        log.write(target + chr(10))
    time.sleep(seconds)

world.engine.after = after
print("begun", flush=True)
sys.exit(world.night(SATURDAY))
"""

#: The same with a real engine: folder, miniature, base image, then the targets.
REAL = """
import sys
from pathlib import Path
from nightly_support import FRIDAY, World
from builder.executors.local import run_targets
from builder.cli.demo_upstream import materialise
from builder.core.build_options import BuildOptions

folder, upstream, base = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
world = World(folder, materialise(upstream), targets={"target": sys.argv[4:]})
world.options = BuildOptions(
    environment="docker", base_image=base, find_links=(world.upstream.wheelhouse,), allow_toolchain_mismatch=True
)
code = world.night(FRIDAY, engine=run_targets)
print(world.text, flush=True)
sys.exit(code)
"""


# -- nights through the command line ----------------------------------------------------------------------------

FIRST, SECOND = f"v2.5.1-7.1.0-py3.11-{MACHINE}", f"v2.6.0-7.1.0-py3.11-{MACHINE}"
KERNEL = "op_plugin/ops/aclops/AbsKernelNpu.cpp"


def write_channel(folder: Path, **settings: Any) -> Path:
    """A folder of matrix files with one channel, ``mini``."""
    matrix = folder / "matrix"
    if not matrix.exists():
        shutil.copytree(resource("matrices"), matrix)
        line = matrix / "pytorch-2.6.yaml"
        before, branch, after = line.read_text().partition("branch: v2.6.0-7.1.0\n")
        line.write_text(before + branch + after.replace('op_plugin: "7.1.0"', f'op_plugin: "{OTHER_BRANCH}"', 1))
    channel = {"targets": {"target": [FIRST, SECOND]}, "keep": 3, **settings}
    (matrix / "nightly.yaml").write_text(json.dumps({"channels": {"mini": channel}}, indent=2))
    return matrix


class Nights:
    """A channel over a miniature upstream of its own."""

    def __init__(self, cli: CommandLine, *options: str) -> None:
        """``options`` say at least where it is built."""
        self.cli = cli
        self.upstream: Miniature = materialise(cli.folder / "upstream")
        git(self.upstream.op_plugin, "branch", OTHER_BRANCH, "7.1.0")
        self.store = cli.folder / "dist" / "nightly" / "mini"
        self.step = cli.folder / "step.md"
        self.options = [
            f"--matrix={write_channel(cli.folder)}",
            f"--sources={self.upstream.sources_file}",
            f"--find-links={self.upstream.wheelhouse}",
            "--allow-toolchain-mismatch",
            "--parallel=2",
            *options,
        ]

    def __call__(self, day: str, *more: str) -> Ran:
        """One night; the step summary that it leaves is in ``step``."""
        self.step.unlink(missing_ok=True)
        return self.cli(
            "nightly", "mini", f"--night={day}", *self.options, *more, env={"GITHUB_STEP_SUMMARY": str(self.step)}
        )

    def manifest(self, day: str) -> dict[str, dict[str, Any]]:
        """The entries of a night by target."""
        found = json.loads((self.store / day / "manifest.json").read_text())
        return {entry["target"]: entry for entry in found["expected"]}

    @property
    def latest(self) -> str:
        """The night that ``latest`` names, by file and by link."""
        named = str(json.loads((self.store / "latest.json").read_text())["release"])
        assert os.readlink(self.store / "latest") == named
        return named

    def change(self, text: str) -> str:
        """A commit that adds a line to a kernel, on the branch of the second line; its id."""
        whole = git(self.upstream.op_plugin, "show", f"7.1.0:{KERNEL}")
        return commit(self.upstream.op_plugin, OTHER_BRANCH, {KERNEL: f"{whole}\n{text}\n"})
