"""Upstream's own ``ci/build.sh`` in the container that the builder would use, on the tree that it would prepare."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from builder.compilation.ccache import stored_bytes
from builder.core.errors import FailureKind, TargetError
from builder.core.results import Run
from builder.core.untrusted import remove_tree
from builder.core.workspace import Workspace
from builder.environments.interface import Folders, Limits, Opened, Outcome
from builder.environments.probe import probe
from builder.sources.build_scripts import read_build_script, read_setup_script
from builder.target import compile_spec
from builder.target.build import BuildContext, TargetBuild
from builder.target.resolve_sources import Gatherer

from .measured import Measured
from .sample import Sample, compile_sample, configured
from .subject import OP_PLUGIN, Subject

_BUILDING = re.compile(r"Building C(?:XX)? object")
_BUILD = 'umask 022; exec bash ci/build.sh "$@"'
#: Stands for make until CMake has ended, so that nothing is compiled yet; CMake's own tries go through.
_STOP = """#!/bin/sh
case $PWD in
    */CMakeTmp | */CMakeTmp/* | */CMakeScratch | */CMakeScratch/*) PATH=$BENCHMARK_PATH; export PATH; exec make "$@" ;;
esac
exit 1
"""
#: Puts PyTorch where an interpreter of its own would have it; libraries are not read while compiling.
_MOVE_TORCH = """
set -e
mkdir -p "$2/torch"
for file in "$1"/*; do
    case ${file##*/} in
        torch) ;;
        torchgen) cp -a "$file" "$2/" ;;
        *) ln -s "$file" "$2/" ;;
    esac
done
for file in "$1"/torch/*; do
    if [ "${file##*/}" = lib ]; then ln -s "$file" "$2/torch/"; else cp -a "$file" "$2/torch/"; fi
done
"""
#: Of a commit with the files of the one before: what changes in the tree of somebody who goes on there.
_NEW_COMMIT = """
export GIT_AUTHOR_NAME=benchmark GIT_AUTHOR_EMAIL=benchmark@example.org
export GIT_COMMITTER_NAME=benchmark GIT_COMMITTER_EMAIL=benchmark@example.org
git update-ref HEAD "$(git commit-tree 'HEAD^{tree}' -p HEAD -m benchmark)"
"""


class Upstream:
    """Compiles without the builder: no launcher, no cache but the one that is asked for, upstream's flags."""

    def __init__(self, subject: Subject, root: Path) -> None:
        self._subject = subject
        self._workspace = Workspace(root=root, output=root / "dist")
        self._workspace.create()
        self._matrix = subject.matrix()

    def fresh(self, python: str) -> UpstreamTree:
        """A new tree, as a fresh clone with op-plugin laid over it."""
        return self._tree(python, self._workspace.cache / "unused", ccache=False)

    def with_ccache(self, python: str, cache: Path) -> UpstreamTree:
        """A new tree whose compiles go through ccache with its default settings, in the folder ``cache``.

        PyTorch lies where the Python's own packages would be, as for somebody who installs it into the container.
        """
        return self._tree(python, cache, ccache=True)

    def _tree(self, python: str, cache: Path, *, ccache: bool) -> UpstreamTree:
        subject = self._subject
        reporter, options = subject.silent(), subject.options(pch=False)
        run = Run(self._workspace.runs)
        gatherer = Gatherer(self._matrix, self._workspace, options, reporter)
        target = subject.target(self._matrix, python)
        result = run.target(target.id)
        build = TargetBuild(
            target, BuildContext(self._matrix, self._workspace, options, reporter, run, gatherer), result
        )
        path = self._workspace.scratch / target.id
        remove_tree(path)
        gatherer.gather(target).copy_to(path)
        return UpstreamTree(subject, self._workspace, build, path, run.folder / "out", cache, ccache=ccache)


class UpstreamTree:
    """One tree, in which upstream's script runs once or again."""

    def __init__(
        self,
        subject: Subject,
        workspace: Workspace,
        build: TargetBuild,
        path: Path,
        out: Path,
        cache: Path,
        *,
        ccache: bool,
    ) -> None:
        self.path = path
        self._subject = subject
        self._workspace = workspace
        self._build = build
        self._out = out
        self._cache = cache
        self._ccache = ccache
        setup = read_setup_script((path / "setup.py").read_text())
        self._setup = setup
        self._script = read_build_script((path / "ci/build.sh").read_text(), branch=subject.line)

    def append(self, file: str, text: str) -> None:
        """Change a file of op-plugin where it lies."""
        with open(self.path / OP_PLUGIN / file, "a", encoding="utf-8") as stream:
            stream.write(text)

    def commit(self) -> None:
        """Make a new commit of the same files."""
        with self._opened() as opened:
            self._run(opened, ["sh", "-ec", _NEW_COMMIT], {}, lambda _: None)

    def compile(self) -> Measured:
        """Run ``ci/build.sh``. Raises TargetError where it fails."""
        files = 0
        with self._opened() as opened:
            variables = self._variables(opened)
            before = self._statistics(opened)

            def count(line: str) -> None:
                nonlocal files
                files += _BUILDING.search(line) is not None

            outcome = self._run(opened, ["bash", "-c", _BUILD, "build", *self._arguments()], variables, count)
            measured = _measured(outcome)
            measured.files = files
            self._count(measured, before, self._statistics(opened))
        return measured

    def sample(self, sample: Sample) -> Measured:
        """Let CMake configure, then compile the files of the sample; only that is measured."""
        with self._opened() as opened:
            stop = self._out / "programs" / "make"
            stop.parent.mkdir(exist_ok=True)
            stop.write_text(_STOP)
            stop.chmod(0o755)
            path = opened.base_env["PATH"]
            stopping = {"PATH": f"{opened.paths.out}/programs:{path}", "BENCHMARK_PATH": path}
            variables = {**self._variables(opened), "CMAKE_EXPORT_COMPILE_COMMANDS": "1"}
            command = ["bash", "-c", _BUILD, "build", *self._arguments()]
            lines = deque[str](maxlen=30)
            opened.run(
                command,
                env={**variables, **stopping},
                cwd=opened.paths.tree,
                on_line=lines.append,
                limits=self._limits(),
            )
            folder, sources = configured(self.path, opened.paths.tree, lines)
            before = self._statistics(opened)
            python = f"python{self._build.target.python}"
            chosen = sample.of(self.path, opened.paths.tree, sources)
            outcome, seconds = compile_sample(
                opened, [python], chosen, folder, self._out, self._subject.jobs, variables, self._limits()
            )
            measured = _measured(outcome)
            measured.files, measured.sources = len(seconds), seconds
            self._count(measured, before, self._statistics(opened))
        return measured

    def remove(self) -> None:
        """Remove the tree and what was written beside it."""
        remove_tree(self.path)
        remove_tree(self._out)

    def _arguments(self) -> tuple[str, ...]:
        return self._script.arguments(self._build.target.python, self._build.options.components)

    def _limits(self) -> Limits:
        return compile_spec.limits(self._build.options)

    def _variables(self, opened: Opened) -> dict[str, str]:
        """What the script gets besides the container's own: as many compilers, and who repairs the wheel."""
        target = self._build.target
        meets = compile_spec.meets_policy(target, probe(opened, target.python))
        variables = {
            **target.release.environment,
            "MAX_JOBS": str(self._subject.jobs),
            "AUDITWHEEL_PLAT": compile_spec.repair_plan(target, self._setup, meets_policy=meets).variable,
        }
        if not self._ccache:
            # The image has one for the builder, and upstream's CMake takes what it finds: upstream's own has none.
            return {**variables, "CCACHE_DISABLE": "1"}
        place = f"{opened.paths.out}/cp{target.python.replace('.', '')}/lib/python{target.python}/site-packages"
        if not (self._out / Path(place).relative_to(opened.paths.out)).exists():
            self._run(opened, ["sh", "-c", _MOVE_TORCH, "move", opened.paths.torch, place], {}, lambda _: None)
        return {
            **variables,
            "PYTHONPATH": place,
            "CCACHE_DIR": opened.paths.cache,
            # For lines whose CMake does not look for it.
            "CMAKE_C_COMPILER_LAUNCHER": "ccache",
            "CMAKE_CXX_COMPILER_LAUNCHER": "ccache",
        }

    def _statistics(self, opened: Opened) -> dict[str, int]:
        """What ccache has counted so far, by its own names."""
        lines: list[str] = []
        if self._ccache:
            self._run(opened, ["ccache", "--print-stats"], {"CCACHE_DIR": opened.paths.cache}, lines.append)
        pairs = (line.split() for line in lines)
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}

    def _count(self, measured: Measured, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        if self._ccache:
            grown = {name: number - before.get(name, 0) for name, number in after.items()}
            measured.hits = grown.get("direct_cache_hit", 0) + grown.get("preprocessed_cache_hit", 0)
            measured.misses = grown.get("cache_miss", 0)
            measured.cache_bytes = stored_bytes(self._cache)

    @contextmanager
    def _opened(self) -> Iterator[Opened]:
        nothing = self._workspace.root / "nothing"
        for folder in (nothing, self._out, self._cache):
            folder.mkdir(parents=True, exist_ok=True)
        folders = Folders(
            tree=self.path,
            mirrors=self._workspace.mirrors,
            out=self._out,
            launcher=nothing,
            codegen=nothing,
            cache=self._cache,
        )
        with self._build.environment(quiet=True).open(folders) as opened:
            yield opened

    def _run(
        self, opened: Opened, command: list[str], variables: Mapping[str, str], on_line: Callable[[str], None]
    ) -> Outcome:
        lines = deque[str](maxlen=30)

        def take(line: str) -> None:
            lines.append(line)
            on_line(line)

        outcome = opened.run(command, env=variables, cwd=opened.paths.tree, on_line=take, limits=self._limits())
        if outcome.exit_code:
            raise TargetError(
                f"upstream's way ends with exit code {outcome.exit_code}: {' '.join(command[-3:])[:200]}",
                kind=FailureKind.COMPILE,
                details="\n".join(lines),
            )
        return outcome


def _measured(outcome: Outcome) -> Measured:
    return Measured(cpu_seconds=outcome.cpu_seconds, seconds=outcome.seconds, peak_memory=outcome.peak_memory)
