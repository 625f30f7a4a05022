"""One target, from source to wheel. ``TargetBuild.run`` reads like the path of a target, top to bottom."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from builder import __version__, recipe
from builder.compilation import cache
from builder.compilation.output import OutputReader
from builder.console import Reporter
from builder.diagnosis import check_generated, compile_failure
from builder.environments.base import EnvironmentRequest, Folders, Opened, Ready
from builder.environments.probe import probe
from builder.environments.select import ready_environment
from builder.errors import BuilderError, FailureKind, MachineError, TargetError
from builder.fingerprint import fingerprint
from builder.gather import gather
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.options import BuildOptions
from builder.recipe import Recipe
from builder.results import Run, TargetResult
from builder.sources.checkout import PreparedTree
from builder.sources.upstream import SetupScript, read_build_script, read_setup_script
from builder.wheels import provenance
from builder.wheels.inspect import sha256
from builder.wheels.repair import auditwheel_command, built_wheel
from builder.wheels.verify import Expectation, Verified, verify
from builder.workspace import Workspace, free_bytes, remove_tree, resource

#: Bytes that must be free before a compile starts; a full disk in the middle costs hours.
MINIMUM_FREE = 256 << 20


@dataclass(frozen=True)
class BuildContext:
    """What all targets of a run share."""

    matrix: Matrix
    workspace: Workspace
    options: BuildOptions
    reporter: Reporter
    run: Run


def build_target(target: Target, context: BuildContext, result: TargetResult) -> None:
    """Build one target and fill in ``result``. Only KeyboardInterrupt and defects leave this function."""
    try:
        with context.workspace.locked(f"target-{target.id}", wait_seconds=0), _disk_errors():
            TargetBuild(target, context, result).run()
    except BuilderError as error:
        result.fail(error)
    except KeyboardInterrupt:
        phase = result.phases[-1].name if result.phases else "start"
        result.fail(TargetError("interrupted", kind=FailureKind.INTERRUPTED, phase=phase))
        raise


class TargetBuild:
    """The steps of one target. Each step is a method; what a later step needs is handed on by value."""

    def __init__(self, target: Target, context: BuildContext, result: TargetResult) -> None:
        self.target = target
        self.matrix = context.matrix
        self.workspace = context.workspace
        self.options = context.options
        self.reporter = context.reporter
        self.result = result
        self.run_id = context.run.id
        self.scratch = context.workspace.scratch / target.id
        self.out = context.run.folder / target.id
        self.started = datetime.now(timezone.utc)

    def run(self) -> None:
        """From the matrix row to the wheel in the output folder. Raises BuilderError."""
        with self.result.phase("prepare"):
            tree = gather(self.target, self.matrix, self.workspace, self.options, self.reporter)
            changes = self._changes(tree)
            script = read_build_script((tree.path / "ci/build.sh").read_text(), branch=self.target.release.branch)
            setup = read_setup_script((tree.path / "setup.py").read_text())
        with self.result.phase("image"):
            environment = self.environment()
        with self._opened(environment, tree) as opened:
            with self.result.phase("toolchain"):
                facts = probe(opened, self.target.python)
                plan = self._recipe(facts, script.arguments(self.target.python, self.options.components), setup, tree)
                inputs = self._inputs(tree, changes, environment, facts, plan)
                self.result.fingerprint = fingerprint(inputs)
            with self.result.phase("compile") as phase:
                phase.cpu_seconds = self._compile(opened, tree, setup, plan)
            with self.result.phase("repair"):
                wheel = self._repair(opened, setup, plan)
        with self.result.phase("verify"):
            verified = self._verify(wheel, tree, plan)
        with self.result.phase("publish"):
            self._publish(wheel, tree, inputs, environment, facts, verified)
        remove_tree(self.scratch)
        remove_tree(self.out)

    def shell(self) -> int:
        """Open the target's environment on the terminal, with the tree that a failed build left or a fresh one."""
        tree = gather(self.target, self.matrix, self.workspace, self.options, self.reporter)
        environment = self.environment()
        with self._opened(environment, tree, fresh=not self.scratch.exists()) as opened:
            facts = probe(opened, self.target.python)
            script = read_build_script((tree.path / "ci/build.sh").read_text(), branch=self.target.release.branch)
            setup = read_setup_script((tree.path / "setup.py").read_text())
            arguments = script.arguments(self.target.python, self.options.components)
            plan = self._recipe(facts, arguments, setup, tree)
            self.reporter.message(f"the build runs: bash ci/build.sh {' '.join(arguments)}")
            return opened.interactive(env=plan.environment(opened.paths), cwd=opened.paths.tree)

    def environment_request(self) -> EnvironmentRequest:
        """What the target's matrix row and the options ask of an environment."""
        release, toolchain, options = self.target.release, self.target.toolchain, self.options
        # On aarch64 PyPI's PyTorch is the CPU build; on x86_64 only PyTorch's own index has one.
        by_default = "cpu-index" if self.target.arch == "x86_64" else "pypi"
        source = options.torch_source or ("find-links" if options.find_links else by_default)
        return EnvironmentRequest(
            arch=self.target.arch,
            python=self.target.python,
            torch=release.pytorch,
            torch_source=source,
            requirements=release.requirements_for(self.target.python),
            base_image=options.base_image or toolchain.base_image,
            base_image_digest=None if options.base_image else toolchain.base_image_digest,
            gcc=toolchain.gcc,
            gcc_toolset=toolchain.gcc_toolset,
            find_links=options.find_links,
            # The hashes are those of released wheels; who brings a wheel of their own means another.
            torch_hashes=() if source == "find-links" else self.target.torch_hashes,
        )

    def _changes(self, tree: PreparedTree) -> list[str]:
        """What a person changed in the prepared tree, if the options allow it at all."""
        if free_bytes(self.workspace.root) < MINIMUM_FREE:
            raise MachineError(
                f"{self.workspace.root} has {free_bytes(self.workspace.root) >> 20} MiB free, "
                f"a compile needs at least {MINIMUM_FREE >> 20} MiB",
                hint=FailureKind.DISK.advice,
            )
        remove_tree(self.scratch)
        changes = tree.copy_to(self.scratch, keep_changes=self.options.keep_changes)
        if changes:
            self.result.warnings.append(f"built with {len(changes)} change(s) made by hand in {tree.path}")
            self.reporter.warning(f"{self.target.id}: {self.result.warnings[-1]}")
        return [f"{change.kind} {change.path}" for change in changes]

    def environment(self) -> Ready:
        return ready_environment(
            self.options.environment,
            self.environment_request(),
            docker=resource("docker"),
            host=self.workspace.environments,
            log=self.result.log.with_suffix(".image.log"),
            reporter=self.reporter,
            offline=self.options.offline,
        )

    @contextmanager
    def _opened(self, environment: Ready, tree: PreparedTree, *, fresh: bool = False) -> Iterator[Opened]:
        """The environment over the copy of the prepared tree: upstream's scripts may spoil the copy."""
        if fresh:
            tree.copy_to(self.scratch, keep_changes=self.options.keep_changes)
        self.workspace.cache.mkdir(parents=True, exist_ok=True)
        (self.out / "slots").mkdir(parents=True, exist_ok=True)
        folders = Folders(
            tree=self.scratch,
            mirrors=self.workspace.mirrors,
            cache=self.workspace.cache,
            out=self.out,
            launcher=cache.LAUNCHER,
            cann=self.options.cann_home,
        )
        with environment.open(folders) as opened:
            yield opened

    def _recipe(
        self, facts: Mapping[str, Any], arguments: tuple[str, ...], setup: SetupScript, tree: PreparedTree
    ) -> Recipe:
        """How the compile is run; raises TargetError where the toolchain is not the matrix's."""
        mismatches = recipe.toolchain_mismatches(self.target, facts)
        if mismatches and not self.options.allow_toolchain_mismatch:
            raise TargetError("; ".join(mismatches), kind=FailureKind.TOOLCHAIN)
        for mismatch in mismatches:
            self.result.warnings.append(mismatch)
            self.reporter.warning(f"{self.target.id}: {mismatch}")
        recipe.check_torch(self.target, facts)
        jobs = self.options.jobs or recipe.default_jobs(self.options.memory or recipe.machine_memory())
        return Recipe(
            arguments=arguments,
            epoch=int(tree.record["commit_time"]),
            repair=recipe.repair_plan(self.target, setup, meets_policy=recipe.meets_policy(self.target, facts)),
            jobs=jobs,
            slots=0 if setup.reads_max_jobs else jobs,
            limits=recipe.limits(self.options),
            cann=self.options.cann_home is not None,
            extra=dict(self.target.release.environment),
        )

    def _inputs(
        self,
        tree: PreparedTree,
        changes: list[str],
        environment: Ready,
        facts: Mapping[str, Any],
        plan: Recipe,
    ) -> dict[str, Any]:
        """Everything that can change the wheel: the fingerprint's parts, and most of the wheel's record."""
        return {
            "target": self.target.id,
            "tree": tree.digest,
            "commits": dict(tree.record["commits"]),
            "overlay": tree.record["overlay"],
            "patches": tree.record["patches"],
            "custom_operators": tree.record["custom_operators"],
            "changes_by_hand": changes,
            "environment": {name: environment.facts[name] for name in environment.identity},
            "compiler": f"gcc {facts['gcc']}",
            "torch": facts["torch"],
            "arguments": list(plan.arguments),
            "variables": plan.variables(),
            "cann": str(self.options.cann_home) if self.options.cann_home else None,
            "platform": plan.repair.platform,
        }

    def _compile(self, opened: Opened, tree: PreparedTree, setup: SetupScript, plan: Recipe) -> float | None:
        """Run upstream's ci/build.sh; returns the CPU seconds it took."""
        reader = OutputReader()
        started = time.time()
        operators = tree.record["custom_operators"]
        checked = False
        with (
            open(self.result.log, "a", encoding="utf-8", buffering=1) as log,
            self.reporter.task(f"{self.target.id} compile", total=100) as task,
        ):

            def on_line(line: str) -> None:
                nonlocal checked
                log.write(line + "\n")
                reader.feed(line)
                if not checked and not reader.generating:
                    # Two hours of compiling stale code would follow: look now.
                    checked = True
                    check_generated(self.scratch, reader, setup, operators, started)
                task.update(completed=reader.percent, detail=reader.activity)

            outcome = opened.run(
                plan.command(opened.paths),
                env=plan.environment(opened.paths),
                cwd=opened.paths.tree,
                on_line=on_line,
                limits=plan.limits,
            )
        reader.finish()
        counts = cache.read_counts(self.out / "compile.log")
        self.result.files_compiled = counts.files
        self.result.cache = {"hits": counts.hits, "misses": counts.misses}
        if outcome.exit_code != 0 or outcome.timed_out:
            raise compile_failure(reader, outcome, self.target.id, self.options.timeout)
        if not checked:
            check_generated(self.scratch, reader, setup, operators, started)
        self.reporter.message(f"{self.target.id}: {counts.summary()} in {outcome.seconds:.0f} s")
        return outcome.cpu_seconds

    def _repair(self, opened: Opened, setup: SetupScript, plan: Recipe) -> Path:
        """The one wheel of the build, as a manylinux wheel."""
        wheel = built_wheel(self.scratch / "dist")
        if plan.repair.by_upstream:
            return wheel
        lines: list[str] = []
        with open(self.result.log, "a", encoding="utf-8", buffering=1) as log:

            def on_line(line: str) -> None:
                log.write(line + "\n")
                lines.append(line)

            outcome = opened.run(
                auditwheel_command(
                    f"{opened.paths.tree}/dist/{wheel.name}",
                    f"{opened.paths.out}/repaired",
                    plan.repair.platform,
                    setup.excluded_libraries,
                ),
                env={**plan.variables(), "AUDITWHEEL_PLAT": plan.repair.platform},
                cwd=opened.paths.out,
                on_line=on_line,
                limits=plan.limits,
            )
        if outcome.exit_code != 0:
            raise TargetError(
                f"auditwheel cannot make {wheel.name} {plan.repair.platform}: {(lines or ['it said nothing'])[-1]}",
                kind=FailureKind.TIMEOUT if outcome.timed_out else FailureKind.REPAIR,
                details="\n".join(lines[-15:]),
            )
        return built_wheel(self.out / "repaired")

    def _verify(self, wheel: Path, tree: PreparedTree, plan: Recipe) -> Verified:
        return verify(
            wheel,
            Expectation(
                python_tag=self.target.tag,
                arch=self.target.arch,
                pytorch=self.target.release.pytorch,
                platform=plan.repair.platform,
                git_version=tree.record["commits"]["torch_npu"],
            ),
        )

    def _publish(
        self,
        wheel: Path,
        tree: PreparedTree,
        inputs: Mapping[str, Any],
        environment: Ready,
        facts: Mapping[str, Any],
        verified: Verified,
    ) -> None:
        debug = self.out / "debug.tar.gz"
        has_debug = provenance.archive_debug_symbols(self.scratch / "build/dbg", debug, int(tree.record["commit_time"]))
        self.result.sha256 = sha256(wheel)
        record = {
            "schema": provenance.SCHEMA,
            "wheel": wheel.name,
            "sha256": self.result.sha256,
            "size": wheel.stat().st_size,
            "fingerprint": self.result.fingerprint,
            "version": verified.version,
            "platforms": list(verified.platforms),
            "requires": list(verified.requires),
            "git_version": verified.git_version,
            **inputs,
            "environment": dict(environment.facts),
            "tools": dict(facts),
            "warnings": self.result.warnings,
            "files_compiled": self.result.files_compiled,
            "cache": self.result.cache,
            "phases": [phase.to_json() for phase in self.result.phases if phase.seconds],
            "run": self.run_id,
            "started": self.started.isoformat(timespec="seconds"),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "builder": __version__,
        }
        self.result.wheel = provenance.publish_wheel(wheel, self.workspace.output, record, debug if has_debug else None)
        self.result.status = "built"
        self.result.reason = "built from source"


@contextmanager
def _disk_errors() -> Iterator[None]:
    """A full disk is a failure of the machine with its own advice, wherever it shows."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" ({error.filename})" if error.filename else ""
        raise TargetError(f"no space left on device{place}", kind=FailureKind.DISK) from error
