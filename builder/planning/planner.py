"""What a run would do, target by target, and why: nothing is made, only found out.

A target is skipped when its fingerprint is that of a whole wheel in the output folder. Otherwise the plan says in
words what changed since that wheel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from pydantic import JsonValue

from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, MachineError
from builder.core.machine_limits import cores
from builder.core.workspace import Workspace, resource
from builder.environments.select import Machine, environment_identity, why_unknown
from builder.matrix.model import Target
from builder.progress.reporter import Reporter
from builder.sources import gitcli
from builder.sources.checkout import PreparedTree
from builder.sources.manifest import digest_of_folder
from builder.target.deadlines import deadline
from builder.target.fingerprint import fingerprint
from builder.target.inputs import Inputs, differences, environment_request, inputs_of
from builder.target.resolve_sources import Gatherer
from builder.target.tree_request import OP_PLUGIN, TORCH_NPU
from builder.wheels.record import WheelRecord
from builder.wheels.standing import Digests, fault_of, records

#: Names of repositories for people, by the part of the inputs that holds their commit.
_REPOSITORIES = {"sources.torch_npu": TORCH_NPU, "sources.op_plugin.commit": OP_PLUGIN}
#: Wheels that are read at once. More than cores would wait for the disk together.
_READERS = min(8, cores())


@dataclass(frozen=True)
class Planned:
    """What is to be done about one target: the ``action`` is ``build``, ``skip`` or ``error``, ``reason`` says why.

    ``error`` is the action of a target whose build would end before its compile, as far as that can be known:
    ``hint`` is the next step then.

    ``fingerprint`` and ``inputs`` are None where something of them is known only once it is made: a base image that
    has to be pulled, sources that cannot be found. ``wheel`` is the one that stands, whole or not.
    """

    target: Target
    action: str
    reason: str
    fingerprint: str | None = None
    inputs: Inputs | None = None
    commits: Mapping[str, str] = field(default_factory=dict)
    wheel: Path | None = None
    record: WheelRecord | None = None
    hint: str | None = None

    def describe(self) -> dict[str, object]:
        """The object that ``plan --json`` prints."""
        return {
            **self.target.describe(),
            "action": self.action,
            "reason": self.reason,
            "fingerprint": self.fingerprint,
            "commits": dict(self.commits),
            "wheel": None if self.wheel is None else self.wheel.name,
        }


class Planner:
    """Plans targets one by one; what they share is found out once."""

    def __init__(
        self,
        gatherer: Gatherer,
        workspace: Workspace,
        options: BuildOptions,
        reporter: Reporter,
        accept: Callable[[Target, Inputs], None] | None = None,
    ) -> None:
        """``accept`` raises BuilderError for inputs that were not agreed on (a lock)."""
        self._accept = accept
        self._gatherer = gatherer
        self._workspace = workspace
        self._options = options
        self._records = records(workspace.output, reporter.warning)
        self._digests = Digests(workspace.digests)
        self._machine = Machine()
        self._identities: dict[object, Mapping[str, JsonValue] | None] = {}
        self._moves = _Moves(workspace.mirrors)
        self._reporter = reporter

    def plan(self, targets: Sequence[Target]) -> list[Planned]:
        """The plan of ``targets``, in their order. Only the user's own request can be an error here, or an engine that
        is there and cannot be used.
        """
        # Not as a context, which would wait for a disk that does not answer.
        readers = ThreadPoolExecutor(_READERS, thread_name_prefix="wheels")
        with self._reporter.task("planning", total=len(targets)) as task:
            planned = []
            try:
                for number, target in enumerate(targets):
                    task.update(number, detail=target.id)
                    planned.append(readers.submit(self._with_whole_wheel, self._compared(target)))
                return [self._read(plan) for plan in planned]
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
                self._digests.save()

    def _read(self, plan: Future[Planned]) -> Planned:
        limit = self._options.limit_of("plan")
        try:
            return plan.result(limit)
        except futures.TimeoutError:
            raise MachineError(
                f"the wheels in {self._workspace.output} could not be read within {limit:g} s",
                hint="look whether their disk answers, or use another --output",
            ) from None

    def plan_target(self, target: Target) -> Planned:
        """The plan of one target."""
        return self._with_whole_wheel(self._compared(target))

    def _with_whole_wheel(self, plan: Planned) -> Planned:
        """The plan, after the wheel that makes a build needless has been read."""
        if plan.action != "skip" or plan.wheel is None or plan.record is None:
            return plan
        fault = _foreign(plan.wheel, plan.target) or fault_of(plan.wheel, plan.record, self._digests)
        return plan if fault is None else replace(plan, action="build", reason=f"its wheel is not whole: {fault}")

    def _compared(self, target: Target) -> Planned:
        """The plan by fingerprints: the wheel that it finds to stand has not been read yet."""
        wheel, record = self._records.get(target.id, (None, None))
        try:
            # As the phase of a build that finds the sources: a host may take a request and never answer it.
            with deadline(self._options.limit_of("plan")):
                decided = self._gatherer.decide(target)
                self._gatherer.check(decided)
                origin = self._gatherer.origin(decided)
                changed_tree = None
                if isinstance(decided, PreparedTree) and decided.changes(at_a_glance=True):
                    changed_tree = digest_of_folder(decided.path)
        except BuilderError as error:
            return Planned(target, "error", error.message, wheel=wheel, record=record, hint=error.hint)
        commits = {name.replace("_", "-") if name == "op_plugin" else name: c for name, c in origin.commits.items()}
        commits.update(origin.submodules)
        identity = self._identity(target)
        if identity is None:
            return Planned(target, "build", self._why_unknown(), commits=commits, wheel=wheel, record=record)
        inputs = inputs_of(target, origin, identity, self._options, changed_tree=changed_tree)
        digest = inputs.fingerprint
        try:
            if self._accept is not None:
                self._accept(target, inputs)
        except BuilderError as error:
            # A wheel of these inputs may stand: it is not the one that was asked for.
            return Planned(target, "error", error.message, digest, inputs, commits, wheel, record, error.hint)
        action, reason = self._decision(digest, inputs, wheel, record)
        return Planned(target, action, reason, digest, inputs, commits, wheel, record)

    def _why_unknown(self) -> str:
        why = why_unknown(self._options.environment, self._machine)
        return f"its environment is not known{'' if why.startswith(':') else ' '}{why}"

    def _identity(self, target: Target) -> Mapping[str, JsonValue] | None:
        request = environment_request(target, self._options)
        if request not in self._identities:
            self._identities[request] = environment_identity(
                self._options.environment,
                request,
                docker=resource("docker"),
                host=self._workspace.environments,
                offline=self._options.offline,
                machine=self._machine,
            )
        return self._identities[request]

    def _decision(self, digest: str, inputs: Inputs, wheel: Path | None, record: WheelRecord | None) -> tuple[str, str]:
        if wheel is None or record is None:
            return "build", "no wheel of it stands"
        if record.fingerprint == digest:
            if record.inputs is not None and fingerprint(record.inputs) != digest:
                return "build", "its record contradicts itself"
            if record.mismatches and not self._options.allow_toolchain_mismatch:
                return "build", f"its wheel was made with another toolchain: {'; '.join(record.mismatches)}"
            if self._options.rebuild:
                return "build", "--rebuild was given"
            return "skip", f"{wheel.name} stands"
        return "build", "; ".join(self.changes(record.inputs, inputs.to_json()))

    def changes(self, before: Mapping[str, JsonValue] | None, after: Mapping[str, JsonValue]) -> list[str]:
        """In words what differs between the inputs of a wheel and those of now."""
        if before is None:
            return ["its wheel was built by an older builder, which did not record what from"]
        return [_worded(name, old, new, self._moves) for name, old, new in differences(before, after)]


def _foreign(wheel: Path, target: Target) -> str | None:
    """What in a wheel's file name is not the target's."""
    try:
        name, _, _, tags = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename:
        return f"{wheel.name} is no name of a wheel"
    pythons, arch = {tag.interpreter for tag in tags}, f"_{target.arch}"
    fits = name == "torch-npu" and pythons == {target.tag} and all(tag.platform.endswith(arch) for tag in tags)
    return None if fits else f"{wheel.name} is not for {target.id}"


def _worded(name: str, old: Any, new: Any, moves: _Moves) -> str:
    if name in _REPOSITORIES:
        return f"{_REPOSITORIES[name]} {moves.of(_REPOSITORIES[name], old, new)}"
    if name.startswith("sources.submodules."):
        return f"{name.removeprefix('sources.submodules.')} {_moved(old, new)}"
    if name == "sources.patches":
        was, now = ({patch["name"]: patch["sha256"] for patch in series or ()} for series in (old, new))
        parts = [f"+{n}" for n in now if n not in was] + [f"-{n}" for n in was if n not in now]
        parts += [n for n in now if n in was and now[n] != was[n]]
        return f"patches changed: {' '.join(parts) or 'their order'}"
    if name == "changes_by_hand":
        return "the tree was changed by hand" if new else "changes made by hand are gone"
    if name.startswith("environment."):
        part = name.removeprefix("environment.")
        moved = f" from {old} to {new}" if part in {"environment", "fixed_paths"} else ""
        return f"the environment changed{moved}"
    if name == "recipe":
        return f"the builder's recipe changed from {old} to {new}"
    what = {"sources.custom_operators": "custom operators", "sources.op_plugin.digest": "the op-plugin folder"}
    label = what.get(name, name.removeprefix("sources.").replace(".", " ").replace("_", " "))
    if isinstance(old, (str, int, bool)) and isinstance(new, (str, int, bool)) and len(f"{old}{new}") < 60:
        return f"{label} changed from {old} to {new}"
    return f"{label} {'added' if old is None else 'removed' if new is None else 'changed'}"


def _moved(old: Any, new: Any) -> str:
    return f"{str(old)[:7] if old else 'none'} -> {str(new)[:7] if new else 'none'}"


class _Moves:
    """From one commit to another in words. All targets of a release line move alike, so commits are counted once."""

    def __init__(self, mirrors: Path) -> None:
        self._mirrors = mirrors
        self._counts: dict[tuple[str, str, str], tuple[int, int] | None] = {}

    def of(self, repository: str, old: Any, new: Any) -> str:
        """``3ec6c1f -> 91ab2c0, 4 commits``; without the number where the mirror cannot tell."""
        counts = self._count(repository, str(old), str(new)) if old and new else None
        if counts is None:
            return _moved(old, new)
        behind, ahead = counts
        commits = f"{ahead} commit{'' if ahead == 1 else 's'}"
        return f"{_moved(old, new)}, {commits}" + (f", {behind} taken back" if behind else "")

    def _count(self, repository: str, old: str, new: str) -> tuple[int, int] | None:
        key = (repository, old, new)
        if key not in self._counts:
            self._counts[key] = _distance(self._mirrors / f"{repository}.git", old, new)
        return self._counts[key]


def _distance(mirror: Path, old: str, new: str) -> tuple[int, int] | None:
    """How many commits only ``old`` has, and how many only ``new``; None where the mirror lacks one of them."""
    if not mirror.is_dir() or not (gitcli.is_commit(old) and gitcli.is_commit(new)):
        return None
    try:
        said = gitcli.run(["rev-list", "--count", "--left-right", f"{old}...{new}"], git_dir=mirror).split()
        return int(said[0]), int(said[1])
    except (gitcli.GitFailed, ValueError):
        return None
