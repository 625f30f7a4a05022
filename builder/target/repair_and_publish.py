"""What follows a compile: the wheel repaired, verified, and published with its record."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from builder import __version__
from builder.compilation.output_parser import OutputReader
from builder.core.build_options import BuildOptions
from builder.core.cancellation import abandonable, attempted
from builder.core.digests import sha256_of
from builder.core.errors import FailureKind, TargetError
from builder.core.results import TargetResult
from builder.environments.interface import Opened, Ready
from builder.environments.probe import Probed
from builder.matrix.model import Target
from builder.sources.build_scripts import SetupScript
from builder.sources.checkout import PreparedTree
from builder.sources.version import suffix_of
from builder.target import compile_spec
from builder.target.build_log import BuildLog
from builder.target.build_tree import Scratch
from builder.target.compile_spec import CompileSpec
from builder.target.diagnosis import cut_short
from builder.target.inputs import Inputs
from builder.wheels import provenance
from builder.wheels.findings import Severity
from builder.wheels.loading import Surroundings
from builder.wheels.publication import publish_wheel
from builder.wheels.record import SCHEMA, WheelRecord, record_path, refusing
from builder.wheels.repair import auditwheel_command, built_wheel, take_wheel
from builder.wheels.standing import records
from builder.wheels.surroundings import cann_of_tree, torch_of
from builder.wheels.verify import Expectation, Verified, verify

#: Lines of auditwheel's that an error carries.
LINES = 15


@dataclass(frozen=True)
class Compiled:
    """What a wheel was compiled from, where and how: what its record tells.

    ``changes`` are those that a person made in the tree, ``inputs`` the parts of the fingerprint, ``probed`` what the
    environment turned out to hold.
    """

    tree: PreparedTree
    changes: Sequence[str]
    inputs: Inputs
    environment: Ready
    probed: Probed
    spec: CompileSpec


@dataclass(frozen=True)
class Finish:
    """The last steps of one target; ``out`` is where its build may write, ``output`` where wheels are published."""

    target: Target
    options: BuildOptions
    scratch: Scratch
    out: Path
    output: Path
    result: TargetResult
    warn: Callable[[str], None]

    def repair(self, opened: Opened, setup: SetupScript, spec: CompileSpec) -> Path:
        """The one wheel of the build, as a manylinux wheel."""
        if spec.repair.by_upstream:
            return self._taken(self.scratch.path, "dist")
        wheel = built_wheel(self.scratch.path, "dist")
        lines = deque[str](maxlen=LINES)
        reader = OutputReader(opened.paths.written)
        reader.generating = False
        with BuildLog(self.result.log) as log:

            def on_line(line: str) -> None:
                log.line(line)
                lines.append(line)
                reader.feed(line)

            outcome = opened.run(
                auditwheel_command(
                    f"{opened.paths.tree}/dist/{wheel}",
                    f"{opened.paths.out}/repaired",
                    spec.repair.platform,
                    setup.excluded_libraries,
                ),
                env={**spec.variables(), "AUDITWHEEL_PLAT": spec.repair.platform},
                cwd=opened.paths.out,
                on_line=on_line,
                limits=spec.limits,
            )
        if outcome.failed:
            said = cut_short(reader, outcome, spec.limits.timeout, what="repair")
            if said is None:
                said = TargetError(
                    f"auditwheel cannot make {wheel} {spec.repair.platform}: {(lines or ['it said nothing'])[-1]}",
                    kind=FailureKind.REPAIR,
                    details="\n".join(lines),
                )
                said.conclusive = bool(lines)
            raise said
        return self._taken(self.out, "repaired")

    def _taken(self, root: Path, folder: str) -> Path:
        """A copy of the wheel where the build could not write: what is verified is what is published."""
        return take_wheel(root, folder, self.result.log.with_suffix(".wheel"))

    def verified(self, wheel: Path, tree: PreparedTree, spec: CompileSpec, environment: Ready) -> Verified:
        """Hold the wheel's own facts against what was asked for, and its symbols against who will offer them.

        Raises TargetError (VERIFY).
        """
        commits = tree.record.commits
        expected = Expectation(
            python_tag=self.target.tag,
            arch=self.target.arch,
            pytorch=self.target.release.pytorch,
            platform=spec.repair.platform,
            git_version=commits["torch_npu"],
            version_suffix=suffix_of(self.options.version_suffix, commits),
            last_size=self._last_size(),
            requires_torch=bool(self.target.release.torch_requirement),
        )
        operators = tuple(tree.record.custom_operators)

        def check() -> Verified:
            # What the build linked with: its stubs of CANN stand in the copy of the tree that it spoils.
            return verify(
                wheel,
                expected,
                Surroundings(
                    torch=torch_of(environment.pytorch) if environment.pytorch is not None else None,
                    cann=cann_of_tree(self.scratch.path),
                    custom_operators=operators,
                ),
            )

        found = abandonable(check, f"the reading of {wheel}")
        for one in found.findings:
            if one.rule.severity is Severity.WARNING:
                self.warn(f"{one}; {one.rule.advice}")
        return found

    def _last_size(self) -> int | None:
        """Bytes of the last wheel of this target that stands in the output folder."""
        last = records(self.output).get(self.target.id)
        return last[1].size if last is not None else None

    def publish(self, wheel: Path, compiled: Compiled, verified: Verified, *, run: str, started: datetime) -> None:
        """Put the wheel, its debug symbols and its record into the output folder."""
        debug = self.result.log.with_suffix(".debug.tar.gz")
        epoch = compiled.tree.record.commit_time
        has_debug = attempted(
            lambda attempt: provenance.archive_debug_symbols(
                self.scratch.path, "build/dbg", debug, epoch, self.warn, attempt
            ),
            "the packing of debug symbols",
        )
        self.result.sha256 = abandonable(lambda: sha256_of(wheel), f"the reading of {wheel}")
        replaced = provenance.other_fingerprint(self.output / wheel.name, self.result.fingerprint)
        if replaced is not None:
            self.warn(f"{wheel.name} replaces one that was built from other inputs (fingerprint {replaced[:12]})")
        record = self._record(wheel, compiled, verified, run, started)
        self.result.wheel = attempted(
            lambda attempt: publish_wheel(wheel, self.output, record, debug if has_debug else None, attempt),
            f"the disk of {self.output}",
        )
        debug.unlink(missing_ok=True)
        self.result.status = "built"
        self.result.reason = "built from source"

    def _record(self, wheel: Path, compiled: Compiled, verified: Verified, run: str, started: datetime) -> WheelRecord:
        """What the wheel's record says. Raises RecordError where the wheel, or its build, gave what none may hold."""
        tree, inputs, probed, spec = compiled.tree, compiled.inputs, compiled.probed, compiled.spec
        made, result = tree.record, self.result
        with refusing(record_path(wheel).name):
            return WheelRecord(
                schema=SCHEMA,
                wheel=wheel.name,
                sha256=str(result.sha256),
                size=wheel.stat().st_size,
                fingerprint=str(result.fingerprint),
                version=verified.version,
                platforms=list(verified.platforms),
                requires=list(verified.requires),
                git_version=verified.git_version,
                needs_cann=verified.needs.cann,
                target=self.target.id,
                inputs=inputs.to_json(),
                tree=tree.digest if not compiled.changes else inputs.changes_by_hand,
                commits=made.commits,
                overlay=None if made.overlay is None else made.overlay.to_json(),
                patches=[patch.to_json() for patch in made.patches],
                patches_passed_over=[patch.to_json() for patch in made.patches_passed_over],
                custom_operators=list(made.custom_operators),
                changes_by_hand=list(compiled.changes),
                compiler=f"gcc {probed.gcc}",
                arguments=list(spec.arguments),
                variables=dict(spec.variables()),
                cann=None if inputs.cann is None else dict(inputs.cann),
                tools=probed.tools(),
                platform=spec.repair.platform,
                mismatches=compile_spec.toolchain_mismatches(self.target, probed),
                environment=dict(compiled.environment.facts),
                warnings=list(result.warnings),
                files_compiled=result.files_compiled,
                cache=None if result.cache is None else result.cache.to_json(),
                headers=None if result.headers is None else result.headers.to_json(),
                phases=[phase.to_json() for phase in result.phases if phase.seconds],
                run=run,
                started=started.isoformat(timespec="seconds"),
                finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                builder=__version__,
            )
