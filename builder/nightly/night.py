"""One night of one channel, from the heads of its branches to the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date

from builder.core.build_options import BuildOptions
from builder.core.errors import EXIT_MACHINE_LACKS, EXIT_OK, BuilderError, FailureKind, TargetError
from builder.core.results import Run, TargetResult
from builder.core.trust import Trust
from builder.core.workspace import Workspace
from builder.executors.local import Policy
from builder.matrix.channels import ChosenChannel
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.nightly import decisions as deciding
from builder.nightly.decisions import Decider, Decision
from builder.nightly.head_commits import Commits, HeadFinder, Heads
from builder.nightly.previous import LASTING, Earlier, Failure
from builder.nightly.publish import Hole, Ready, from_bench, from_night, publish
from builder.nightly.report import Report, exit_code, show, show_plan, show_unpublished, write_report
from builder.nightly.staging import Bench
from builder.planning.planner import Planner
from builder.progress.reporter import Reporter
from builder.releases import Manifest, Release, next_name, prune
from builder.store import Store
from builder.wheels.record import WheelRecord, read_record


@dataclass(frozen=True)
class Wishes:
    """What was asked of this night: its ``day``, which was given by the user where ``exact``; waivers by target."""

    day: date
    exact: bool
    waive: Mapping[str, str]
    retry: bool


@dataclass(frozen=True)
class Plan:
    """What the night does. ``name`` is None where it would hold nothing new."""

    name: str | None
    commits: Commits
    decisions: tuple[Decision, ...]
    resumed: bool = False


class Night:
    """The steps of a night; ``run`` reads like the night, top to bottom."""

    def __init__(
        self,
        chosen: ChosenChannel,
        store: Store,
        matrix: Matrix,
        workspace: Workspace,
        options: BuildOptions,
        reporter: Reporter,
        policy: Policy,
        finder: HeadFinder,
        wishes: Wishes,
        engine: Callable[[Sequence[Target], Matrix, Workspace, BuildOptions, Reporter, Policy], Run],
    ) -> None:
        self._chosen = chosen
        self._name = chosen.name
        self._store = store
        self._matrix = matrix
        self._workspace = workspace
        self._refresh = options.refresh
        # Heads are asked for here, once; from then on their commits are fixed.
        trust = Trust(options.trust).at_most(Trust.NIGHTLY)
        self._options = replace(options, refresh=False, trust=trust.value)
        self._reporter = reporter
        self._policy = policy
        self._finder = finder
        self._wishes = wishes
        self._engine = engine
        self._bench = Bench(workspace, chosen.name)

    def show(self) -> int:
        """Print the plan; nothing is made but mirrors."""
        earlier = Earlier(self._store, self._name)
        plan = self._plan(earlier)
        show_plan(plan.decisions)
        self._reporter.message(
            f"{self._name}: it would be the night {plan.name} in {self._store.url}"
            if plan.name is not None
            else f"{self._name}: nothing new since the night {_newest(earlier).release}"
        )
        return EXIT_OK

    def run(self) -> int:
        """Build what changed, carry over the rest, publish, prune, report. Raises BuilderError."""
        with self._workspace.locked(f"nightly-{self._name}", wait_seconds=0):
            earlier = Earlier(self._store, self._name)
            plan = self._plan(earlier)
            if plan.name is None:
                return self._nothing_new(plan, earlier)
            if not plan.resumed:
                self._begin(plan, plan.name)
            ready, decisions = self._brought(plan.decisions, plan.name)
            run = self._built(plan.name, plan.commits, decisions)
            tried = len(run.targets)
            if tried and all(_machine_failed(result) for result in run.targets):
                show_unpublished(run, self._reporter)
                self._reporter.warning(f"{self._name}: nothing was published, because this machine could build nothing")
                return EXIT_MACHINE_LACKS
            with self._told(run):
                ready |= self._made(run)
                _complete(run, decisions, ready, earlier.newest)
                manifest = self._published(plan.name, run, decisions, ready)
            self._bench.clear()
            new = [name for name, wheel in ready.items() if wheel.status == "built"]
            return self._end(run, manifest, earlier, tried=tried, new=new)

    # -- what there is to do ------------------------------------------------------------------------------

    def _plan(self, earlier: Earlier) -> Plan:
        """The plan of the night that was interrupted, where there is one to go on with; else of a new one."""
        left = self._bench.unfinished()
        wanted = self._wishes.day if self._wishes.exact else None
        if left is not None and left.goes_on(self._store.url, wanted) and not self._refresh:
            decisions, commits = self._decisions(earlier, left.commits, with_finished=True)
            if any(decision.action in ("build", "take") for decision in decisions):
                self._reporter.message(f"{self._name}: going on with the night {left.name}")
                return Plan(left.name, commits, tuple(decisions), resumed=True)
        deciding.check_day(earlier.newest, self._wishes.day)
        decisions, commits = self._decisions(earlier, {}, with_finished=not self._options.rebuild)
        if not deciding.something_new(decisions, earlier.newest):
            return Plan(None, commits, tuple(decisions))
        if deciding.fills(decisions, self._chosen, earlier.newest, self._wishes.day):
            return Plan(_newest(earlier).release, commits, tuple(decisions))
        return Plan(next_name(self._store, self._name, self._wishes.day.isoformat()), commits, tuple(decisions))

    def _decisions(self, earlier: Earlier, commits: Commits, *, with_finished: bool) -> tuple[list[Decision], Commits]:
        """Decide for ``commits``, and the heads of branches that are not among them."""
        lines = dict.fromkeys(target.release for target in self._chosen.targets)
        missing = [line for line in lines if line.branch not in commits]
        found, lost = self._finder.find(missing, self._options.op_plugin)
        commits = {**commits, **found}
        workspace = self._bench.workspace()
        sources = self._finder.gatherer(workspace, self._options, self._lock(commits))
        planner = Planner(sources, workspace, self._options, self._reporter)
        finished = self._bench.finished() if with_finished else {}
        decider = Decider(planner, earlier, finished, self._options, retry=self._wishes.retry)
        return decider.decide(self._chosen.targets, lost), commits

    def _lock(self, commits: Commits) -> Heads:
        return Heads(self._bench.wheels, {}, commits)

    # -- building -----------------------------------------------------------------------------------------

    def _begin(self, plan: Plan, name: str) -> None:
        if not any(decision.action == "take" for decision in plan.decisions):
            self._bench.clear()
        self._bench.begin(name, self._store.url, plan.commits)

    def _brought(self, decisions: Sequence[Decision], name: str) -> tuple[dict[str, Ready], list[Decision]]:
        """Wheels for the night ``name`` that stand already, brought to this machine; those that it holds are left out.

        What turns out to be damaged is to be built after all.
        """
        ready: dict[str, Ready] = {}
        settled = []
        for decision in decisions:
            if decision.finished is not None:
                ready[decision.id] = from_bench(*decision.finished)
            elif decision.carried is not None and decision.carried.night != name:
                try:
                    ready[decision.id] = from_night(self._store, self._name, decision.carried, self._bench.carried)
                except TargetError as error:
                    if error.kind is not FailureKind.VERIFY:
                        raise
                    self._reporter.warning(f"{decision.id}: {error.message}")
                    settled.append(decision.rebuilt(error.message))
                    continue
            settled.append(decision)
        return ready, settled

    def _built(self, name: str, commits: Commits, decisions: Sequence[Decision]) -> Run:
        """The run over what is to be built; an empty one where nothing is."""
        targets = [decision.target for decision in decisions if decision.action == "build"]
        for decision in decisions:
            if decision.action == "build":
                self._reporter.message(f"{decision.id}: {decision.reason}")
        if not targets:
            return Run(self._workspace.runs)
        suffix = deciding.suffix_for(name) if self._chosen.channel.version == "night" else None
        return self._engine(
            targets,
            self._matrix,
            self._bench.workspace(),
            replace(self._options, version_suffix=suffix),
            self._reporter,
            replace(self._policy, locked=self._lock(commits), part=True),
        )

    def _made(self, run: Run) -> dict[str, Ready]:
        """The wheels of a run; also those of which a worker has found out that they stand here."""
        standing = self._bench.finished()
        found: dict[str, Ready] = {}
        for result in run.targets:
            left = standing.get(result.id)
            if result.wheel is not None:
                found[result.id] = from_bench(result.wheel, _record_of(result))
            elif result.status == "skipped" and left is not None and left[1].fingerprint == result.fingerprint:
                result.wheel, result.sha256 = left[0], left[1].sha256
                found[result.id] = from_bench(*left)
        return found

    def _published(self, name: str, run: Run, decisions: Sequence[Decision], ready: Mapping[str, Ready]) -> Manifest:
        """The night ``name`` in the store, with what is ready and the reasons for what is not."""
        open_ones = {one.id for one in decisions if one.action in ("build", "leave")} - ready.keys()
        holes = {one.id: Hole(one.reason, one.fingerprint) for one in run.targets if one.id in open_ones}
        release = Release(self._store, self._name, name)
        failures = self._failures(run, decisions, name)
        limit = self._options.limit_of("publish")
        return publish(release, self._chosen, ready, holes, failures, self._wishes.waive, self._reporter, limit)

    def _failures(self, run: Run, decisions: Sequence[Decision], name: str) -> dict[str, Failure]:
        """Failures that the same inputs would lead to again."""
        noted = {decision.id: decision.failure for decision in decisions if decision.failure is not None}
        inputs = {decision.id: decision.inputs for decision in decisions}
        for result in run.targets:
            made_from, error = inputs[result.id], result.error
            if result.id in noted or made_from is None or not isinstance(error, TargetError):
                continue
            if error.kind in LASTING and error.conclusive:
                noted[result.id] = Failure(made_from, error.kind.value, result.reason, name)
        return noted

    # -- the end ------------------------------------------------------------------------------------------

    @contextmanager
    def _told(self, run: Run) -> Iterator[None]:
        """Where the night ends before it is published, at least what was built for it is told: the engine has not."""
        try:
            yield
        except BaseException:
            show_unpublished(run, self._reporter)
            raise

    def _nothing_new(self, plan: Plan, earlier: Earlier) -> int:
        """Nothing to build: only a waiver, or a death just before the end, can be a reason to write anything."""
        manifest = _newest(earlier)
        self._reporter.message(f"{self._name}: nothing new since the night {manifest.release}")
        holes = {entry.target for entry in manifest.holes}
        waivers = {
            name: reason
            for name, reason in self._wishes.waive.items()
            if name in holes and manifest.waived.get(name) != reason
        }
        latest = earlier.latest()
        settled = not manifest.green or (latest is not None and latest.release == manifest.release)
        if waivers or not settled:
            release = Release(self._store, self._name, manifest.release)
            for name, reason in waivers.items():
                release.waive(name, reason)
            manifest = release.commit()
        self._bench.clear()
        run = Run(self._workspace.runs)
        _complete(run, plan.decisions, {}, earlier.newest)
        return self._end(run, manifest, earlier, tried=0, published=False)

    def _end(
        self,
        run: Run,
        manifest: Manifest,
        earlier: Earlier,
        *,
        tried: int,
        published: bool = True,
        new: Sequence[str] = (),
    ) -> int:
        for result in run.targets:
            entry = manifest.of(result.id)
            if result.status == "failed" and entry is not None and entry.status == "waived":
                result.skip(f"waived: {entry.reason}")
        pruned = self._pruned()
        latest = earlier.latest()
        report = Report(
            channel=self._name,
            night=manifest.release,
            store=self._store.url,
            published=published,
            latest=None if latest is None else latest.release,
            blocking=tuple(sorted(_missing(self._chosen.required, manifest))),
            pruned=tuple(pruned),
        )
        show(report, manifest, self._reporter, new)
        try:
            write_report(report, run)
            if not tried:  # an engine has said so
                self._reporter.message(f"result: {run.folder / 'result.json'}")
        except OSError as error:
            self._reporter.warning(f"the result of the night could not be written: {error.strerror}")
        return exit_code(report, manifest)

    def _pruned(self) -> list[str]:
        try:
            done = prune(self._store, self._name, self._chosen.channel.keep)
        except BuilderError as error:
            # The night stands; what is too much goes with the next one.
            self._reporter.warning(f"{self._name}: older nights were not removed: {error.message}")
            return []
        for name, problem in done.left.items():
            self._reporter.message(f"{self._name}/{name} in {self._store.url} is left alone: {problem}")
        return done.removed


def _newest(earlier: Earlier) -> Manifest:
    """The newest night, where it is known that there is one."""
    assert earlier.newest is not None  # noqa: S101
    return earlier.newest


def _missing(required: frozenset[str], manifest: Manifest) -> set[str]:
    """Required targets that are neither there nor waived."""
    entries = {name: manifest.of(name) for name in required}
    return {name for name, entry in entries.items() if entry is None or not (entry.there or entry.status == "waived")}


def _complete(run: Run, decisions: Sequence[Decision], ready: Mapping[str, Ready], newest: Manifest | None) -> None:
    """Add to ``run`` the targets that it has not built. ``newest`` is the night before."""
    built = {result.id for result in run.targets}
    for decision in decisions:
        if decision.id in built:
            continue
        result = run.target(decision.id)
        if decision.error is not None:
            result.fail(decision.error)
            noted = None if newest is None or decision.failure is None else newest.of(decision.id)
            result.fingerprint = None if noted is None else noted.fingerprint
            continue
        result.skip(decision.reason)
        wheel = ready.get(decision.id)
        if wheel is not None:
            result.wheel, result.sha256, result.fingerprint = wheel.wheel, wheel.sha256, wheel.fingerprint
        elif decision.carried is not None:
            result.sha256, result.fingerprint = decision.carried.entry.sha256, decision.carried.entry.fingerprint


def _record_of(result: TargetResult) -> WheelRecord:
    """The record beside the wheel of a finished build. Raises TargetError (VERIFY)."""
    assert result.wheel is not None  # noqa: S101
    try:
        return read_record(result.wheel)
    except OSError as error:
        raise TargetError(f"{result.wheel.name} has no record: {error.strerror}", kind=FailureKind.VERIFY) from error


def _machine_failed(result: TargetResult) -> bool:
    return result.error is not None and result.error.exit_code == EXIT_MACHINE_LACKS
