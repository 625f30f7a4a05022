"""The command ``rehearse``: would these targets still build? Everything up to the compile, then a few sources.

Nothing is linked, packed or published. The sources are compiled by ``launcher/compile_sample.py`` inside the
environment, so that the build that may follow finds them in its compile cache.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from builder.compilation.output_parser import OutputReader
from builder.core.untrusted import remove_tree
from builder.environments.interface import Limits, Opened, Outcome
from builder.sources.checkout import PreparedTree
from builder.sources.custom_ops import SOURCES, CustomOps
from builder.target.build import Purpose, TargetBuild
from builder.target.build_log import BuildLog
from builder.target.compile_spec import CompileSpec
from builder.target.configure import configure
from builder.target.deadlines import deadline
from builder.target.diagnosis import compile_failure, sources_failure

#: Sources that are compiled of each target unless the user says otherwise, beside generated and custom ones.
FILES = 20
#: Characters of a line that are read; a real one is shorter (launcher/compile_sample.py).
_LONGEST = 1 << 20


class Line(BaseModel):
    """A line that ``launcher/compile_sample.py`` prints."""

    model_config = ConfigDict(frozen=True)

    sources: NonNegativeInt | None = None
    of: NonNegativeInt = 0
    file: str | None = None
    status: int = 0
    output: str = ""
    finished: bool = False


@dataclass
class Sample:
    """The sources that are compiled: ``total`` of the ``of`` that a build compiles, and what came of them so far."""

    total: int = 0
    of: int = 0
    done: int = 0
    finished: bool = False
    failed: dict[str, OutputReader] = field(default_factory=dict)
    #: What the compilers of all of them said, for its warnings.
    warned: OutputReader = field(default_factory=OutputReader)
    #: What came beside: of a launcher that cannot run, or an engine that ended it.
    stray: OutputReader = field(default_factory=OutputReader)

    def take(self, text: str, tree: str) -> Line:
        """Take in a line; ``tree`` is the tree's folder as the environment sees it."""
        try:
            line = Line.model_validate_json(text) if text.startswith("{") and len(text) < _LONGEST else Line()
        except ValidationError:
            line = Line()
        if line.sources is not None:
            self.total, self.of = line.sources, line.of
        elif line.file is not None:
            self.done += 1
            for said in line.output.splitlines():
                self.warned.feed(said)
            if line.status != 0:
                self.failed[_below(line.file, tree)] = _read(line.output.splitlines(), tree)
        elif line.finished:
            self.finished = True
        else:
            self.stray.feed(text)
        return line


def rehearsal(files: int = FILES) -> Purpose:
    """What a run of rehearsals does with each target: ``files`` of its sources are compiled."""
    return Purpose("rehearse", Rehearsal(files).steps)


@dataclass(frozen=True)
class Rehearsal:
    """The steps of one target; ``steps`` reads like those of a build, top to bottom, as far as they go."""

    files: int

    def steps(self, build: TargetBuild) -> None:
        """Prepare, configure, compile the sample. Raises BuilderError; what a failure leaves is for ``shell``."""
        stood = build.prepared_tree.exists()
        try:
            self._rehearse(build)
        except BaseException:
            if build.context.stopping.is_set():
                _clean(build, tree=not stood)
            raise
        _clean(build, tree=not stood)

    def _rehearse(self, build: TargetBuild) -> None:
        build.note(f"a rehearsal of {build.target.id}, run {build.run_id}: {self.files} sources, no wheel")
        with build.phase("prepare"), deadline(build.options.limit_of("prepare")):
            tree = build.gatherer.gather(build.target)
            changes = build.fresh_copy(tree)
            scripts = build.scratch.scripts()
        with build.phase("image"), deadline(build.options.limit_of("image")):
            environment = build.environment()
        with ExitStack() as stack:
            opened = stack.enter_context(build.opened(environment))
            with build.phase("toolchain"):
                inputs = build.inputs(tree, changes, environment)
                _, spec = build.toolchain(opened, tree, inputs, scripts)
            with build.phase("configure") as phase:
                outcome = configure(build, opened, tree, scripts[1], spec)
                phase.measured(outcome.cpu_seconds, outcome.peak_memory, outcome.disk_growth)
            with build.phase("compile") as phase:
                sample = Sample()
                outcome = self._compile(build, opened, tree, spec, sample)
                phase.measured(outcome.cpu_seconds, outcome.peak_memory, outcome.disk_growth)
                _judge(sample, outcome, spec.limits, spec.mismatch)
        build.result.status = "rehearsed"
        build.result.reason = f"{sample.total} of {sample.of} sources compile; no wheel was made"

    def _compile(
        self, build: TargetBuild, opened: Opened, tree: PreparedTree, spec: CompileSpec, sample: Sample
    ) -> Outcome:
        """Have the environment compile the sample; what came of it is in ``sample``, its messages are in the log."""
        paths = opened.paths
        command = [spec.python, "-S", "-E", f"{paths.launcher}/compile_sample.py", f"{paths.tree}/build"]
        command += ["--files", str(self.files), "--since", str(spec.epoch), "--jobs", str(spec.jobs)]
        for source in custom_sources(build, tree):
            command += ["--always", f"{paths.tree}/{source}"]
        sample.stray.generating = sample.warned.generating = False
        started = time.monotonic()
        with (
            BuildLog(build.result.log) as log,
            build.reporter.task(f"{build.target.id} compile") as task,
        ):

            def on_line(text: str) -> None:
                line = sample.take(text, paths.tree)
                if line.file is not None:
                    what = "failed" if line.status else "compiled"
                    log.line("\n".join([f"{what} {line.file}", *line.output.splitlines()]))
                    detail = PurePosixPath(line.file).name
                    task.update(total=sample.total, completed=sample.done, detail=detail)
                elif line.sources is None and not line.finished:
                    log.line(text)

            try:
                outcome = opened.run(
                    spec.among_compilers(paths, *command),
                    env={**spec.environment(paths), **build.remote_cache.variables(paths.remote)},
                    cwd=paths.tree,
                    on_line=on_line,
                    limits=spec.limits,
                )
            finally:
                counts = build.counted(spec)
                build.compiler_warnings(sample.warned)
        build.reporter.message(f"{counts.summary()} in {time.monotonic() - started:.0f} s")
        return outcome


def custom_sources(build: TargetBuild, tree: PreparedTree) -> Sequence[str]:
    """The sources of the user's own operators, below the tree's folder."""
    if build.options.custom_ops is None:
        return ()
    ends = {f"{SOURCES}/{name}" for name, _ in CustomOps.read(build.options.custom_ops).sources}
    return sorted(name for name in tree.manifest if any(name == end or name.endswith(f"/{end}") for end in ends))


def _judge(sample: Sample, outcome: Outcome, limits: Limits, mismatch: str | None = None) -> None:
    """Raise TargetError where a source does not compile, or the compiles did not come to their end."""
    if outcome.timed_out or outcome.out_of_memory or outcome.excess or not (sample.finished or sample.failed):
        raise compile_failure(sample.stray, outcome, limits.timeout, mismatch=mismatch, what="the rehearsal")
    if sample.failed:
        raise sources_failure(sample.failed, sample.done, mismatch=mismatch)


def _clean(build: TargetBuild, *, tree: bool) -> None:
    """Remove the copies; the prepared ``tree`` too where this rehearsal has made it and it is as it was made."""
    build.scratch.remove()
    remove_tree(build.out)
    if tree:
        remove_tree(build.prepared_tree)


def _read(lines: Sequence[str], tree: str) -> OutputReader:
    reader = OutputReader((tree,))
    reader.generating = False
    for line in lines:
        reader.feed(line)
    reader.finish()
    return reader


def _below(path: str, tree: str) -> str:
    return path[len(tree) + 1 :] if path.startswith(f"{tree}/") else path
