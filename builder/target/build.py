"""One target, from source to wheel. ``TargetBuild.run`` reads like the path of a target, top to bottom."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from builder import __version__
from builder.compilation import ccache, codegen_cache, compile_manifest, pch_stats, remote_cache_proxy
from builder.compilation.output_parser import OutputReader
from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, FailureKind, TargetError
from builder.core.results import Phase, Run, TargetResult, most_frequent
from builder.core.trust import Trust
from builder.core.untrusted import remove_tree
from builder.core.workspace import Workspace, resource
from builder.environments.interface import Folders, Opened, Outcome, Ready
from builder.environments.probe import Probed, probe
from builder.environments.select import Machine, ready_environment
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.progress.reporter import Reporter
from builder.sources.build_scripts import BuildScript, SetupScript
from builder.sources.checkout import PreparedTree, load_prepared
from builder.sources.manifest import digest_of_folder
from builder.sources.ordering import order_is_fixed
from builder.target import compile_spec
from builder.target.build_caches import BuildCaches
from builder.target.build_log import BuildLog
from builder.target.build_tree import Scratch
from builder.target.compile_spec import CompileSpec
from builder.target.deadlines import deadline, machine_errors
from builder.target.diagnosis import check_generated, compile_failure
from builder.target.error_origin import tell_by_origin
from builder.target.inputs import Inputs, environment_request, inputs_of
from builder.target.repair_and_publish import Compiled, Finish
from builder.target.resolve_sources import Gatherer


@dataclass(frozen=True)
class BuildContext:
    """What all targets of a run share."""

    matrix: Matrix
    workspace: Workspace
    options: BuildOptions
    reporter: Reporter
    run: Run
    gatherer: Gatherer
    #: Set when the run is to end: no phase starts any more.
    stopping: threading.Event = field(default_factory=threading.Event)
    #: The folder of the compiler slots of all targets that build at once; None where each target counts for itself.
    shared_slots: Path | None = None
    #: Refuses inputs that were not agreed on (a lock).
    accept: Callable[[Target, Inputs], None] | None = None
    #: What targets before have found out: after one in a container none is built on the host.
    machine: Machine = field(default_factory=Machine)
    #: What is done with each target.
    purpose: Purpose = field(default_factory=lambda: BUILD)


def build_target(target: Target, context: BuildContext, result: TargetResult) -> None:
    """Do with one target what the run is for, and fill in ``result``. No error leaves this function."""
    build = TargetBuild(target, context, result)
    try:
        places = context.workspace.written
        with context.workspace.locked(f"target-{target.id}", wait_seconds=0), machine_errors(*places):
            context.purpose.steps(build)
    except BuilderError as error:
        phase = result.phases[-1].name if result.phases else "start"
        # While the run ends, its command was killed, whatever that looked like to the build.
        interrupted = TargetError("interrupted", kind=FailureKind.INTERRUPTED, phase=phase)
        result.fail(interrupted if context.stopping.is_set() else build.explained(error))
    except KeyboardInterrupt:
        # An environment whose command was stopped from the main thread raises it in the thread that waited for it.
        phase = result.phases[-1].name if result.phases else "start"
        result.fail(TargetError("interrupted", kind=FailureKind.INTERRUPTED, phase=phase))
    except Exception as error:
        # A defect, or an upstream branch like none before: the other targets still get their turn.
        build.note(traceback.format_exc())
        phase = result.phases[-1].name if result.phases else "start"
        message = f"{type(error).__name__}: {error}"
        result.fail(TargetError(message, kind=FailureKind.INTERNAL, phase=phase, log=result.log))


class TargetBuild:
    """The steps of one target. Each step is a method; what a later step needs is handed on by value."""

    def __init__(self, target: Target, context: BuildContext, result: TargetResult) -> None:
        self.target = target
        self.matrix = context.matrix
        self.workspace = context.workspace
        self.options = context.options
        self.reporter = context.reporter.for_target(target.id)
        self.gatherer = context.gatherer
        self.context = context
        self.result = result
        self.run_id = context.run.id
        self.scratch = Scratch(context.workspace, target)
        self.out = context.run.folder / target.id
        self.started = datetime.now(timezone.utc)
        self.trust = compile_spec.trust_of(target, self.options)

    def run(self) -> None:
        """From the matrix row to the wheel in the output folder. Raises BuilderError."""
        self.note(f"{self.target.id} by torch-npu-builder {__version__}, run {self.run_id}")
        finish = Finish(
            self.target, self.options, self.scratch, self.out, self.workspace.output, self.result, self._warn
        )
        with self.phase("prepare"), deadline(self.options.limit_of("prepare")):
            tree = self.gatherer.gather(self.target)
            changes = self.fresh_copy(tree)
            scripts = self.scratch.scripts()
        with self.phase("image"), deadline(self.options.limit_of("image")):
            environment = self.environment()
        with self.opened(environment) as opened:
            with self.phase("toolchain"):
                inputs = self.inputs(tree, changes, environment)
                probed, spec = self.toolchain(opened, tree, inputs, scripts)
            with self.phase("compile") as phase:
                outcome = self._compile(opened, tree, scripts[1], spec)
                phase.measured(outcome.cpu_seconds, outcome.peak_memory, outcome.disk_growth)
            with self.phase("repair"):
                wheel = finish.repair(opened, scripts[1], spec)
        with self.phase("verify"), deadline(self.options.limit_of("verify")):
            verified = finish.verified(wheel, tree, spec, environment)
        with self.phase("publish"), deadline(self.options.limit_of("publish")):
            compiled = Compiled(tree, changes, inputs, environment, probed, spec)
            finish.publish(wheel, compiled, verified, run=self.run_id, started=self.started)
        self.scratch.remove()
        remove_tree(self.out)
        remove_tree(wheel.parent)

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """One step, measured and told of; none begins once the run is to end."""
        if self.context.stopping.is_set():
            raise TargetError("interrupted", kind=FailureKind.INTERRUPTED, phase=name)
        with self.result.phase(name) as phase, self.reporter.phase(name):
            yield phase

    def toolchain(
        self,
        opened: Opened,
        tree: PreparedTree,
        inputs: Inputs,
        scripts: tuple[BuildScript, SetupScript],
    ) -> tuple[Probed, CompileSpec]:
        """What the environment holds, and how to compile there; notes the fingerprint of ``inputs``.

        Raises TargetError where that is not what the matrix, or a lock, wants.
        """
        probed = probe(opened, self.target.python)
        spec = self._compile_spec(probed, *scripts, tree.record.commit_time)
        self.result.fingerprint = inputs.fingerprint
        if self.context.accept is not None:
            self.context.accept(self.target, inputs)
        return probed, self._prepared(opened, spec)

    @property
    def prepared_tree(self) -> Path:
        """Where the target's prepared tree stands, or would."""
        return self.workspace.trees / self.target.id

    def shell(self) -> int:
        """Open the target's environment on the terminal, with the tree that a failed build left or a fresh one."""
        # Whoever types there can put anything into the cache.
        self.trust = Trust.UNKNOWN
        if not self.scratch.path.exists():
            self.fresh_copy(self.gatherer.gather(self.target))
        left = load_prepared(self.scratch.path)
        assert left is not None  # noqa: S101  (it exists, and a damaged one raises)
        with self.ready_to_compile(left, self.environment(), accept_mismatch=True) as (opened, spec):
            path = f"{opened.paths.launcher}:{opened.base_env['PATH']}"
            first = f". {opened.paths.cann}/set_env.sh; " if spec.cann else ""
            self.reporter.message(f"the build runs: umask 022; {first}bash ci/build.sh {' '.join(spec.arguments)}")
            return opened.interactive(env={**spec.environment(opened.paths), "PATH": path}, cwd=opened.paths.tree)

    @contextmanager
    def ready_to_compile(
        self, tree: PreparedTree, environment: Ready, *, accept_mismatch: bool = False
    ) -> Iterator[tuple[Opened, CompileSpec]]:
        """The environment over the copy of ``tree`` that stands, and how it is compiled there. Raises TargetError."""
        script, setup = self.scratch.scripts()
        with self.opened(environment) as opened:
            probed = probe(opened, self.target.python)
            epoch = tree.record.commit_time
            spec = self._compile_spec(probed, script, setup, epoch, accept_mismatch=accept_mismatch)
            yield opened, self._prepared(opened, spec)

    def explained(self, error: BuilderError) -> BuilderError:
        """The error, noted in the log, and with the way to look around where a tree was left to look at."""
        self.note("\n".join(filter(None, [f"error: {error.message}", error.details])))
        if isinstance(error, TargetError):
            with suppress(BuilderError):
                tree = load_prepared(self.prepared_tree)
                tell_by_origin(error, self.options, tree.record.commits if tree is not None else {})
        if isinstance(error, TargetError) and self.scratch.path.exists() and error.phase not in {"prepare", "image"}:
            error.hint = f"{error.hint}; 'python -m builder shell {self.target.id}' opens the same environment"
        return error

    def note(self, text: str) -> None:
        """Write to the target's log, as far as the disk lets it."""
        with suppress(OSError), open(self.result.log, "a", encoding="utf-8") as log:
            log.write(text.rstrip() + "\n")

    def fresh_copy(self, tree: PreparedTree) -> list[str]:
        """Copy the prepared tree to where upstream's scripts may spoil it; returns what a person changed in it."""
        changes = self.scratch.fill(tree, self.options)
        if changes:
            self.trust = compile_spec.trust_of(self.target, self.options, changed=True)
            self._warn(f"built with {len(changes)} change(s) made by hand in {tree.path}")
        return changes

    def environment(self, *, quiet: bool = False) -> Ready:
        """The target's environment, made where it is absent; ``quiet`` leaves out its warnings."""
        ready = ready_environment(
            self.options.environment,
            environment_request(self.target, self.options, self.matrix.sources),
            docker=resource("docker"),
            host=self.workspace.environments,
            log=self.result.log.with_suffix(".image.log"),
            reporter=self.reporter,
            offline=self.options.offline,
            machine=self.context.machine,
        )
        for warning in () if quiet else ready.warnings:
            self._warn(warning)
        for warning in () if quiet else ready.exposure:
            self._warn_once(warning)
        return ready

    def counted(self, spec: CompileSpec) -> ccache.CompileCounts:
        """What the compile cache and precompiled headers did, noted in the result, also of a build that failed."""
        counts = ccache.read_counts(self.out)
        self.result.files_compiled = counts.files
        size = self.caches.size(spec.store) if spec.cached else None
        self.result.cache = counts.use(size=size, limit=spec.cache_size if spec.cached else None)
        if spec.pch:
            found = pch_stats.read_counts(self.out)
            self.result.headers = found
            if found.summary():
                self.reporter.message(found.summary())
        return counts

    def compiler_warnings(self, reader: OutputReader) -> None:
        """What compilers warned of, noted in the result, also of a build that failed."""
        found = reader.warnings.most_common()
        self.result.compiler_warnings = dict(found)
        if found:
            self.reporter.message(f"compilers warned: {most_frequent(self.result.compiler_warnings)}")

    def _keep_manifest(self, opened: Opened, spec: CompileSpec) -> None:
        """Keep what the compiles took in, so that misses can be explained later."""
        if not spec.cached or self.result.cache is None:
            return
        folder = compile_manifest.folder_of(self.workspace, spec.store)
        size = self.result.cache.size or 0
        problem = compile_spec.keep_manifest(
            opened, spec, out=self.out, folder=folder, target=self.target.id, run=self.run_id, size=size
        )
        if problem is not None:
            self._warn(f"`cache explain` will know nothing of this build: {problem}")

    @contextmanager
    def opened(self, environment: Ready) -> Iterator[Opened]:
        """The environment over the copy of the prepared tree."""
        line = self.target.release.branch
        instead = self.context.run.folder / "cache"
        self.caches = BuildCaches.usable(self.workspace.cache, instead, self.trust, line, self._warn)
        # What an earlier attempt has left there could be anything.
        remove_tree(self.out)
        (self.out / "slots").mkdir(parents=True)
        url = os.environ.get(remote_cache_proxy.VARIABLE)
        remote_folder = self.result.log.with_suffix(".remote") if url or self.trust.higher else None
        folders = Folders(
            tree=self.scratch.path,
            mirrors=self.workspace.mirrors,
            out=self.out,
            launcher=ccache.LAUNCHER,
            codegen=codegen_cache.INSIDE,
            slots=self.context.shared_slots,
            remote=remote_folder,
            generated=self.caches.generated(),
            cann=self.options.cann_home,
        )
        served = remote_cache_proxy.served(url, self.trust, remote_folder, self.reporter)
        with served as self.remote_cache, environment.open(folders) as opened:
            for warning in opened.warnings:
                self._warn_once(warning)
            yield opened

    def _prepared(self, opened: Opened, spec: CompileSpec) -> CompileSpec:
        """Adapt the compile spec to tree and cache, and show the environment the cache of its compiler."""
        self.caches.show(opened, spec.store, self.remote_cache)
        return compile_spec.prepared(opened, spec, tree=self.scratch.path, out=self.out, warn=self._warn)

    def _warn(self, text: str) -> None:
        self.result.warnings.append(text)
        self.reporter.warning(text)

    def _warn_once(self, text: str, *, note: str | None = None) -> None:
        """Warn of what is the same for all targets of a run: noted with each of them, told once, or as ``note``."""
        self.result.warnings.append(text)
        if not self.context.machine.is_new(text):
            return
        if note is None:
            self.reporter.warning(text)
        else:
            self.reporter.message(note)

    def _compile_spec(
        self,
        probed: Probed,
        script: BuildScript,
        setup: SetupScript,
        epoch: int,
        *,
        accept_mismatch: bool = False,
    ) -> CompileSpec:
        """How the compile is run; raises TargetError where the toolchain is not the matrix's."""
        mismatches = compile_spec.toolchain_mismatches(self.target, probed)
        if mismatches and not (self.options.allow_toolchain_mismatch or accept_mismatch):
            raise compile_spec.wrong_toolchain(self.target, mismatches, probed, self.matrix.compilers)
        if mismatches:
            text = "; ".join(mismatches)
            note = f"not the matrix's toolchain, which a demonstration may have: {text}"
            self._warn_once(text, note=note if self.context.purpose.demonstrates else None)
        compile_spec.check_torch(self.target, probed)
        limits = compile_spec.limits(self.options)
        jobs = compile_spec.jobs_for(self.options)
        return CompileSpec(
            arguments=script.arguments(self.target.python, self.options.components),
            epoch=epoch,
            repair=compile_spec.repair_plan(
                self.target, setup, meets_policy=compile_spec.meets_policy(self.target, probed)
            ),
            jobs=jobs,
            slots=0 if setup.reads_max_jobs and self.context.shared_slots is None else jobs,
            shared_slots=self.context.shared_slots is not None,
            limits=limits,
            cann=self.options.cann_home is not None,
            extra=dict(self.target.release.environment),
            store=ccache.store_name(self.trust, self.target.release.branch, self.target.arch, str(probed.gcc)),
            python=probed.python_path,
            python_include=probed.python_include,
            cache_size=ccache.DEFAULT_LIMIT if self.options.cache_size is None else self.options.cache_size,
            cached=self.options.cached,
            order_is_fixed=order_is_fixed(self.scratch.path, self.target.release.branch, [resource("patches")]),
            pch=self.options.pch,
            cmake=probed.cmake,
            mismatch=compile_spec.accepted_gcc(self.target, probed, self.matrix.compilers),
        )

    def inputs(self, tree: PreparedTree, changes: list[str], environment: Ready) -> Inputs:
        """Everything that can change the wheel: the parts of the fingerprint."""
        identity = {name: environment.facts[name] for name in environment.identity}
        changed_tree = digest_of_folder(self.scratch.path) if changes else None
        return inputs_of(self.target, tree.record.origin, identity, self.options, changed_tree=changed_tree)

    def _compile(self, opened: Opened, tree: PreparedTree, setup: SetupScript, spec: CompileSpec) -> Outcome:
        """Run upstream's ci/build.sh; returns what it took."""
        reader = OutputReader(opened.paths.written)
        started = time.time()
        operators = tree.record.custom_operators
        checked = False
        with (
            BuildLog(self.result.log) as log,
            self.reporter.task(f"{self.target.id} compile", total=100) as task,
        ):

            def on_line(line: str) -> None:
                nonlocal checked
                log.line(line)
                reader.feed(line)
                if not checked and not reader.generating:
                    # Two hours of compiling stale code would follow: look now.
                    checked = True
                    check_generated(self.scratch.path, reader, setup, operators, started)
                task.update(completed=reader.percent, detail=reader.activity)

            try:
                outcome = opened.run(
                    spec.command(opened.paths),
                    env={**spec.environment(opened.paths), **self.remote_cache.variables(opened.paths.remote)},
                    cwd=opened.paths.tree,
                    on_line=on_line,
                    limits=spec.limits,
                )
            finally:
                counts = self.counted(spec)
                self.compiler_warnings(reader)
        self._keep_manifest(opened, spec)
        reader.finish()
        if outcome.failed:
            raise compile_failure(reader, outcome, spec.limits.timeout, cmake=spec.cmake, mismatch=spec.mismatch)
        if not checked:
            check_generated(self.scratch.path, reader, setup, operators, started)
        self.keep_generated()
        self.reporter.message(f"{counts.summary()} in {outcome.seconds:.0f} s")
        return outcome

    def keep_generated(self) -> None:
        """Note what became of code generation, and cache its result. Only for generated files that were looked at."""
        generation = codegen_cache.outcome(self.out)
        if generation is not None:
            self.result.generation = generation
        self.caches.keep_generated(self.out)


@dataclass(frozen=True)
class Purpose:
    """What a run does with each of its targets: ``name`` is the command, ``steps`` carries it out.

    ``publishes``: wheels come of it, so that targets whose wheels stand have nothing to be done. ``demonstrates``: any
    toolchain will do.
    """

    name: str
    steps: Callable[[TargetBuild], None]
    publishes: bool = False
    demonstrates: bool = False


BUILD: Purpose = Purpose("build", TargetBuild.run, publishes=True)
