"""The builder's side: its command ``build``, or its launcher over the files of a sample."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any, Protocol

from builder.compilation import ccache, pch_stats
from builder.core.errors import FailureKind, TargetError
from builder.core.results import Run
from builder.core.untrusted import remove_tree
from builder.core.workspace import Workspace
from builder.environments.interface import Opened
from builder.target.build import BuildContext, TargetBuild
from builder.target.compile_spec import CompileSpec
from builder.target.resolve_sources import Gatherer

from .measured import Measured, Peak
from .sample import Sample, compile_sample, configured
from .subject import Subject

ROOT = Path(__file__).resolve().parents[2]
#: Variables of the builder that say where this machine gets things; the others would change what is measured.
_KEPT = ("BUILDER_CA_BUNDLE", "BUILDER_TORCH_INDEX_URL")


class Builder(Protocol):
    """Builds again and again in one workspace, whose compile cache fills."""

    def build(self, python: str) -> Measured:
        """Build from the sources as they are now, with no wheel standing. Raises TargetError where that fails."""


class CommandBuilder:
    """Runs ``python -m builder build``; numbers are those of result.json."""

    def __init__(self, subject: Subject, root: Path, *, pch: bool) -> None:
        self._subject = subject
        self._root = root
        self._pch = pch
        root.mkdir(parents=True)

    def build(self, python: str) -> Measured:
        """See ``Builder``."""
        workspace = self._root / "build"
        before = set(workspace.glob("runs/*/result.json"))
        output = self._root / f"dist-{secrets.token_hex(4)}"
        peak = Peak(workspace, "runs/*/*/headers")
        with peak.watching():
            code, said = _run_builder(
                [
                    "build",
                    *self._subject.command_line(pch=self._pch),
                    f"--python={python}",
                    f"--workspace={workspace}",
                    f"--output={output}",
                    "--quiet",
                ],
                self._root,
            )
        results = set(workspace.glob("runs/*/result.json")) - before
        result = json.loads(results.pop().read_text(encoding="utf-8")) if len(results) == 1 else None
        if code or result is None or [target["status"] for target in result["targets"]] != ["built"]:
            raise TargetError(
                f"the builder ended with exit code {code}, and built nothing", kind=FailureKind.COMPILE, details=said
            )
        remove_tree(output)
        return measured_by(result, peak.bytes)


def measured_by(result: dict[str, Any], header_bytes: int) -> Measured:
    """The numbers of a result.json with one target that was built."""
    target = result["targets"][0]
    phase = next(phase for phase in target["phases"] if phase["name"] == "compile")
    counts = target["cache"] or {}
    return Measured(
        cpu_seconds=phase.get("cpu_seconds"),
        seconds=phase["seconds"],
        peak_memory=phase.get("peak_memory"),
        command_seconds=result["seconds"],
        files=target["files_compiled"],
        hits=counts.get("hits"),
        misses=counts.get("misses"),
        headers=target.get("headers"),
        generation=target.get("generation"),
        cache_bytes=counts.get("size"),
        header_bytes=header_bytes if target.get("headers") else None,
    )


def _run_builder(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run the command line; its exit code and the end of what it said. Ctrl-C ends it first, tidily."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BUILDER_") or name in _KEPT}
    with open(folder / "output.txt", "w+b") as output:
        # In a group of its own: it hears of Ctrl-C once, from here, however this process heard of it.
        process = subprocess.Popen(
            [sys.executable, "-m", "builder", *arguments],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait()
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
        output.seek(0)
        return code, "\n".join(output.read().decode(errors="replace").splitlines()[-30:])


class SampleBuilder:
    """Configures as a build does, then compiles the files of a sample with the builder's launcher and flags."""

    def __init__(self, subject: Subject, root: Path, sample: Sample, *, pch: bool) -> None:
        self._subject = subject
        self._workspace = Workspace(root=root, output=root / "dist")
        self._workspace.create()
        self._sample = sample
        self._pch = pch

    def build(self, python: str) -> Measured:
        """See ``Builder``."""
        reporter, options, matrix = self._subject.silent(), self._subject.options(pch=self._pch), self._subject.matrix()
        run = Run(self._workspace.runs)
        gatherer = Gatherer(matrix, self._workspace, options, reporter)
        target = self._subject.target(matrix, python)
        result = run.target(target.id)
        build = TargetBuild(target, BuildContext(matrix, self._workspace, options, reporter, run, gatherer), result)
        tree = build.gatherer.gather(target)
        build.fresh_copy(tree)
        with build.ready_to_compile(tree, build.environment(quiet=True), accept_mismatch=True) as (opened, plan):
            sources, folder = self._configure(build, opened, plan)
            peak = Peak(build.out, pch_stats.FOLDER)
            with peak.watching():
                outcome, seconds = compile_sample(
                    opened,
                    plan.among_compilers(opened.paths, plan.python),
                    sources,
                    folder,
                    build.out,
                    self._subject.jobs,
                    plan.environment(opened.paths),
                    plan.limits,
                )
        counts = ccache.read_counts(build.out)
        found = pch_stats.read_counts(build.out) if plan.pch else None
        measured = Measured(
            cpu_seconds=outcome.cpu_seconds,
            seconds=outcome.seconds,
            peak_memory=outcome.peak_memory,
            files=counts.files,
            hits=counts.hits,
            misses=counts.misses,
            headers=found.to_json() if found else None,
            cache_bytes=build.caches.size(plan.store),
            header_bytes=peak.bytes if found else None,
            sources=seconds,
            shared_header_seconds=shared_seconds(build.out) if found else None,
        )
        build.scratch.remove()
        remove_tree(run.folder)
        return measured

    def _configure(self, build: TargetBuild, opened: Opened, plan: CompileSpec) -> tuple[list[str], str]:
        """Run upstream's script to its first compile; the sources of the sample, and the build folder inside."""
        lines = deque[str](maxlen=30)
        opened.run(
            plan.command(opened.paths),
            env={**plan.environment(opened.paths), "BUILDER_STOP_AT_COMPILE": "1"},
            cwd=opened.paths.tree,
            on_line=lines.append,
            limits=plan.limits,
        )
        tree = build.scratch.path
        folder, sources = configured(tree, opened.paths.tree, lines)
        return self._sample.of(tree, opened.paths.tree, sources), folder


def shared_seconds(out: Path) -> float:
    """The CPU seconds of the headers in ``out`` that fall to the files compiled there, if whole groups share them.

    A group's size is what the launcher planned with; its header's cost is what the launcher noted.
    """
    sizes: dict[str, int] = {}
    for path in (out / pch_stats.FOLDER).glob("plan-*.json"):
        groups = json.loads(path.read_text(encoding="utf-8"))["plan"]["groups"]
        sizes.update((group["key"], len(group["members"])) for group in groups)
    used: Counter[str] = Counter()
    cost: defaultdict[str, float] = defaultdict(float)
    log = out / pch_stats.HEADERS_LOG
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        event, group, _, seconds, _ = line.split()
        if event == "used":
            used[group] += 1
        elif event in {"made", "refused"}:
            cost[group] += float(seconds)
    return sum(seconds * used[group] / sizes[group] for group, seconds in cost.items())
