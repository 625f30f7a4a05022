"""Many targets on this machine at once, with a result file and a summary that always come.

Targets run in threads: their work is done by git, the engine and compilers. The main thread hands them out and hears
of their ends, so that Ctrl-C reaches it at once; it then kills what the others run.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from builder.compilation import remote_cache_proxy
from builder.core.build_options import BuildOptions
from builder.core.cancellation import stop_all
from builder.core.errors import FailureKind, MachineError
from builder.core.machine_limits import available_memory
from builder.core.results import Run, TargetResult
from builder.core.untrusted import remove_tree
from builder.core.workspace import Workspace
from builder.environments.orphans import remove_leftovers
from builder.executors.run_lifecycle import exit_code as exit_code
from builder.executors.run_lifecycle import recorded, settle, slots_of, why
from builder.executors.schedule import Expectation, Schedule
from builder.executors.summary import show_failure, show_plan, show_plan_errors
from builder.ledger import BuildLedger
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.planning.lockfile import Lock
from builder.planning.offline_check import find_missing, refusal
from builder.planning.planner import Planned, Planner
from builder.progress.reporter import Reporter
from builder.target.build import BUILD, BuildContext, Purpose, TargetBuild, build_target
from builder.target.build_tree import Scratch
from builder.target.compile_spec import jobs_for
from builder.target.deadlines import machine_errors
from builder.target.resolve_sources import Gatherer, check_request
from builder.wheels.provenance import rename_old_debug

#: How often a target is tried whose failure may pass, the first time included.
ATTEMPTS = 3
#: Seconds after which a target that did not fit is looked at again: memory is freed by others, too.
PATIENCE = 5.0
#: Bytes that a build may write at least, however little earlier ones have written: cold builds write more.
LEAST_DISK = 8 << 30


#: What fetches all that a run without network needs, where nothing better is known.
PULL = "python -m builder pull, with the same selection"


@dataclass(frozen=True)
class Policy:
    """How a run treats its targets, and what it does with them. ``parallel`` of them at once; ``fail_fast`` starts no
    more after a failure.

    ``part`` says that the run belongs to something larger, as a night, which tells at its own end where wheels are, and
    tells ``$GITHUB_STEP_SUMMARY``. ``pull`` is the command that fetches what a run without network lacks.
    """

    parallel: int = 1
    fail_fast: bool = False
    locked: Lock | None = None
    part: bool = False
    purpose: Purpose = BUILD
    pull: str = PULL


#: What builds the targets of a run: ``run_targets``, or another engine that takes and gives the same.
Engine = Callable[[Sequence[Target], Matrix, Workspace, BuildOptions, Reporter, Policy], Run]


def build_targets(
    targets: Sequence[Target],
    matrix: Matrix,
    workspace: Workspace,
    options: BuildOptions,
    reporter: Reporter,
    policy: Policy,
    *,
    engine: Engine,
    dry_run: bool = False,
) -> int:
    """Build every target that has no whole wheel of the same inputs; return the exit code."""
    if dry_run:
        planned = plan_targets(targets, matrix, workspace, options, reporter, policy.locked)
        show_plan(planned)
        return show_plan_errors(planned, reporter)
    return exit_code(engine(targets, matrix, workspace, options, reporter, policy).targets)


def plan_targets(
    targets: Sequence[Target],
    matrix: Matrix,
    workspace: Workspace,
    options: BuildOptions,
    reporter: Reporter,
    locked: Lock | None = None,
) -> list[Planned]:
    """What a run over ``targets`` would do. Mirrors are fetched where they lack something; nothing else is made."""
    check_request(targets, options)
    workspace.create()
    sources = gatherer(matrix, workspace, options, reporter, locked)
    accept = locked.check if locked is not None else None
    planned = Planner(sources, workspace, options, reporter, accept).plan(targets)
    if not options.offline:
        return planned
    wanted = [plan.target for plan in planned if plan.action != "skip"]
    lacking = find_missing(wanted, sources, workspace, options, reporter)
    for number, plan in enumerate(planned):
        if plan.target.id in lacking:
            error = lacking[plan.target.id].error()
            planned[number] = replace(plan, action="error", reason=error.message, hint=error.hint)
    return planned


def gatherer(
    matrix: Matrix, workspace: Workspace, options: BuildOptions, reporter: Reporter, locked: Lock | None
) -> Gatherer:
    """What finds the sources of a run: those of the lock, where there is one."""
    return Gatherer(matrix, workspace, options, reporter, locked.pins() if locked is not None else None)


def run_targets(
    targets: Sequence[Target],
    matrix: Matrix,
    workspace: Workspace,
    options: BuildOptions,
    reporter: Reporter,
    policy: Policy | None = None,
) -> Run:
    """Build the targets, or do what the policy says with them; the run's result file is up to date after each of them,
    also after Ctrl-C.
    """
    policy = policy or Policy()
    check_request(targets, options)
    remote_cache_proxy.check()
    workspace.create()
    if options.environment != "host":
        for name in remove_leftovers():
            reporter.message(f"removed {name}, which a killed builder left")
    run = Run(workspace.runs, policy.purpose.name)
    slots = slots_of(run.folder) if policy.parallel > 1 else None
    jobs = run.jobs = jobs_for(options)
    context = BuildContext(
        matrix=matrix,
        workspace=workspace,
        options=replace(options, jobs=jobs),
        reporter=reporter,
        run=run,
        gatherer=gatherer(matrix, workspace, options, reporter, policy.locked),
        shared_slots=slots,
        accept=policy.locked.check if policy.locked is not None else None,
        purpose=policy.purpose,
    )
    with (
        recorded(run, targets, workspace, reporter, part=policy.part) as ledger,
        machine_errors(*workspace.written),
    ):
        try:
            LocalRun(context, policy, ledger).over(targets)
        finally:
            if slots is not None:
                remove_tree(slots)
    return run


class LocalRun:
    """One run: who is waiting, who is at work, who is done."""

    def __init__(self, context: BuildContext, policy: Policy, ledger: BuildLedger) -> None:
        self._context = context
        self._policy = policy
        self._ledger = ledger
        self._reporter = context.reporter
        self._ended: queue.SimpleQueue[tuple[Target, TargetResult]] = queue.SimpleQueue()
        self._options: dict[str, BuildOptions] = {}
        self._expected: Mapping[str, Expectation] = {}

    def over(self, targets: Sequence[Target]) -> None:
        """Skip what stands, build the rest. KeyboardInterrupt leaves it when all is stopped."""
        results = {target.id: self._context.run.target(target.id) for target in targets}
        skipped = self._not_needed(targets)
        stand = {plan.target.id for plan in skipped}
        wanted = [target for target in targets if target.id not in stand]
        expected = self._expected = self._expectations(wanted)
        self._reporter.run_started(
            self._context.run.id,
            [target.id for target in targets],
            {name: expectation.seconds for name, expectation in expected.items()},
            parallel=self._policy.parallel,
        )
        broken: BaseException | None = None
        try:
            for plan in skipped:
                self._skipped(plan, results[plan.target.id])
            self._write()
            self._check_offline(wanted, results)
            self._drive(Schedule(wanted, expected, free_memory=available_memory), results)
        except BaseException as error:
            broken = error
            self._not_started(results, why(error))
            raise
        finally:
            self._reporter.run_finished(self._context.run.seconds, exit_code(self._context.run.targets, broken))

    def _not_needed(self, targets: Sequence[Target]) -> list[Planned]:
        """The plans of targets of which nothing is to be done, because their wheels stand."""
        context = self._context
        if not context.purpose.publishes:
            return []
        planner = Planner(context.gatherer, context.workspace, context.options, self._reporter, context.accept)
        return [plan for plan in planner.plan(targets) if plan.action == "skip"]

    def _check_offline(self, targets: Sequence[Target], results: Mapping[str, TargetResult]) -> None:
        """Raise BuilderError where a run without network lacks anything: for all targets, before the first begins."""
        context = self._context
        if not context.options.offline or self._policy.part:
            return
        lacking = find_missing(targets, context.gatherer, context.workspace, context.options, self._reporter)
        for target in targets:
            if target.id in lacking:
                results[target.id].fail(lacking[target.id].error())
                self._finished(results[target.id], show=False)
        if lacking:
            raise refusal(lacking, of=len(targets), pull=self._policy.pull)

    def _skipped(self, planned: Planned, result: TargetResult) -> None:
        result.skip(planned.reason)
        if planned.wheel is not None:
            rename_old_debug(planned.wheel)
        result.fingerprint = planned.fingerprint
        result.wheel = planned.wheel
        result.sha256 = None if planned.record is None else planned.record.sha256
        self._ledger.record(self._context.run.id, result)
        self._reporter.target_finished(result.id, result.status, 0.0, result.reason)

    def _expectations(self, targets: Sequence[Target]) -> dict[str, Expectation]:
        """What earlier builds say of each target; its cache counts as warm where it was built before.

        Of what is no build they say nothing.
        """
        if not self._context.purpose.publishes:
            return {}
        estimates = self._ledger.estimates()
        found = {}
        for target in targets:
            estimate = estimates.of(target.id)
            best = estimate.best(warm=self._ledger.last_built(target.id) is not None) if estimate else None
            disk = estimate.disk_growth if estimate else None
            found[target.id] = Expectation(best.seconds, best.peak_memory, disk) if best else Expectation()
        return found

    def _drive(self, schedule: Schedule, results: Mapping[str, TargetResult]) -> None:
        running: dict[str, threading.Thread] = {}
        failed = False
        try:
            while schedule.left or running:
                while len(running) < self._policy.parallel and not (failed and self._policy.fail_fast):
                    target = schedule.next()
                    if target is None:
                        break
                    running[target.id] = self._thread(target, results[target.id])
                    running[target.id].start()
                if not running:
                    break
                try:
                    target, result = self._ended.get(timeout=PATIENCE)
                except queue.Empty:
                    continue
                running[target.id].join()
                if self._try_again(target, result):
                    schedule.again(target)
                else:
                    schedule.done(target)
                    failed = failed or result.error is not None
                    self._finished(result)
                # Not before: what is interrupted until here is told of by _stop.
                del running[target.id]
        except BaseException as error:
            # Ctrl-C, or a defect: no thread may go on when nobody waits for it any more.
            self._stop(running, results, why(error))
            raise
        self._not_started(results, "not started: another target failed, and --fail-fast was given")

    def _thread(self, target: Target, result: TargetResult) -> threading.Thread:
        options = self._options.get(target.id, self._context.options)
        wrote = self._expected.get(target.id, Expectation()).disk
        if options.disk is None and wrote is not None:
            options = replace(options, disk=max(LEAST_DISK, 3 * wrote))
        context = replace(self._context, options=options)
        self._reporter.target_started(target.id)

        def work() -> None:
            try:
                build_target(target, context, result)
            finally:
                self._ended.put((target, result))

        return threading.Thread(target=work, name=target.id, daemon=True)

    def _try_again(self, target: Target, result: TargetResult) -> bool:
        kind = getattr(result.error, "kind", None)
        if not isinstance(kind, FailureKind) or not kind.passing or result.attempts >= ATTEMPTS:
            return False
        if getattr(result.error, "tried", False):
            return False
        options = self._options.get(target.id, self._context.options)
        how = ""
        if kind is FailureKind.OUT_OF_MEMORY:
            if options.jobs == 1:
                return False
            self._options[target.id] = replace(options, jobs=max(1, (options.jobs or 2) // 2))
            how = f" with {self._options[target.id].jobs} jobs"
        self._reporter.warning(f"{target.id}: {result.reason}; trying again{how}")
        result.again()
        return True

    def _finished(self, result: TargetResult, *, show: bool = True) -> None:
        self._write()
        self._ledger.record(self._context.run.id, result)
        self._reporter.target_finished(result.id, result.outcome, result.seconds, result.reason)
        if result.error is not None and show:
            self._show_failure(result)

    def _write(self) -> None:
        """Bring the result file up to date, as far as the disk lets it: a full one is told as a target's failure."""
        with suppress(OSError):
            self._context.run.write()

    def _show_failure(self, result: TargetResult) -> None:
        show_failure(result, self._reporter)

    def _stop(self, running: Mapping[str, threading.Thread], results: Mapping[str, TargetResult], reason: str) -> None:
        """Kill what runs and wait until every target has noticed."""
        self._context.stopping.set()
        while alive := [thread for thread in running.values() if thread.is_alive()]:
            stop_all()
            for thread in alive:
                thread.join(timeout=0.5)
        for name in running:
            result = results[name]
            settle(result, reason)
            self._ledger.record(self._context.run.id, result)
            self._reporter.target_finished(name, result.outcome, result.seconds, result.reason)

    def _not_started(self, results: Mapping[str, TargetResult], reason: str) -> None:
        for result in results.values():
            if settle(result, reason):
                self._reporter.target_finished(result.id, result.outcome, result.seconds, result.reason)


def open_shell(target: Target, matrix: Matrix, workspace: Workspace, options: BuildOptions, reporter: Reporter) -> int:
    """Open the target's environment on the terminal: with the tree as a failed build left it, else a fresh one.

    A tree that was left is opened with the options of the build that left it. Raises MachineError without a terminal,
    before anything is prepared.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise MachineError("a shell needs a terminal", hint="run this command in one")
    left = Scratch(workspace, target).options_of_last_build()
    if left is not None:
        options = left
        reporter.message(f"opening the tree that the last build of {target.id} left, with the options of that build")
    check_request([target], options)
    workspace.create()
    run = Run(workspace.runs)
    context = BuildContext(
        matrix, workspace, options, reporter, run, gatherer(matrix, workspace, options, reporter, None)
    )
    with workspace.locked(f"target-{target.id}", wait_seconds=0):
        return TargetBuild(target, context, run.target(target.id)).shell()
