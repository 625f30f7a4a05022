"""What a night does about each of its targets, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal

from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, FailureKind, RequestError, TargetError
from builder.matrix.channels import ChosenChannel
from builder.matrix.model import Target
from builder.nightly.previous import Earlier, Failure, Wheel, without_suffix
from builder.planning.planner import Planned, Planner
from builder.releases import Manifest
from builder.target.fingerprint import fingerprint
from builder.target.inputs import Inputs
from builder.target.resolve_sources import check_request
from builder.wheels.record import WheelRecord
from builder.wheels.standing import fault_of

#: ``build``; ``take`` a wheel that this night made before it was interrupted; ``carry`` one over from an earlier
#: night; ``leave`` a hole.
Action = Literal["build", "take", "carry", "leave"]
Finished = Mapping[str, tuple[Path, WheelRecord]]


@dataclass(frozen=True)
class Decision:
    """What is done about one target. ``inputs`` is the fingerprint of its inputs but for the version's suffix."""

    target: Target
    action: Action
    reason: str
    inputs: str | None = None
    carried: Wheel | None = None
    finished: tuple[Path, WheelRecord] | None = None
    error: BuilderError | None = None
    failure: Failure | None = None

    @property
    def id(self) -> str:
        """The target's id."""
        return self.target.id

    def rebuilt(self, reason: str) -> Decision:
        """The same target, to be built after all."""
        return replace(self, action="build", reason=reason, carried=None)


class Decider:
    """Decides target by target. ``finished`` are the wheels that an interrupted night has left; ``retry`` tries
    targets again that failed in the newest night and have not changed since."""

    def __init__(
        self, planner: Planner, earlier: Earlier, finished: Finished, options: BuildOptions, *, retry: bool
    ) -> None:
        self._planner = planner
        self._earlier = earlier
        self._finished = finished
        self._options = options
        self._retry = retry

    def decide(self, targets: Sequence[Target], lost: Mapping[str, BuilderError]) -> list[Decision]:
        """The decisions about ``targets``, in their order. ``lost`` says which branches have no commits, and why."""
        refused: dict[str, BuilderError] = {}
        for target in targets:
            try:
                if target.release.branch in lost:
                    raise lost[target.release.branch]
                check_request([target], self._options)
            except BuilderError as error:
                refused[target.id] = error
        planned = {plan.target.id: plan for plan in self._planner.plan([t for t in targets if t.id not in refused])}
        return [
            Decision(target, "leave", refused[target.id].message, error=refused[target.id])
            if target.id in refused
            else self._one(planned[target.id])
            for target in targets
        ]

    def _one(self, planned: Planned) -> Decision:
        target, inputs = planned.target, planned.inputs
        if inputs is None:
            return Decision(target, "build", planned.reason)
        made_from = inputs.fingerprint
        found = Decision(target, "build", self._why(target, inputs), made_from)
        if not self._options.rebuild:
            carried = self._earlier.serving(target.id, inputs, accept_mismatch=self._options.allow_toolchain_mismatch)
            if carried is not None:
                return replace(found, action="carry", reason=carried.origin, carried=carried)
        left = self._finished.get(target.id)
        if left is not None and self._serves(left, made_from):
            return replace(found, action="take", reason="finished before this night was interrupted", finished=left)
        failure = self._earlier.failure(target.id)
        if failure is not None and failure.fingerprint == made_from and not (self._retry or self._options.rebuild):
            reason = f"failed in the night {failure.night} from the same inputs: {failure.reason}"
            error = TargetError(reason, kind=FailureKind(failure.kind), hint="--retry builds it once more")
            return replace(found, action="leave", reason=reason, error=error, failure=failure)
        return found

    def _serves(self, left: tuple[Path, WheelRecord], wanted: str) -> bool:
        wheel, record = left
        return (
            record.inputs is not None
            and fingerprint(without_suffix(record.inputs)) == wanted
            and (self._options.allow_toolchain_mismatch or not record.mismatches)
            and fault_of(wheel, record) is None
        )

    def _why(self, target: Target, inputs: Inputs) -> str:
        """In words, why a wheel has to be built."""
        last = self._earlier.last(target.id)
        if last is None:
            return "no night has a wheel of it"
        before = last.record.inputs
        changes = self._planner.changes(None if before is None else without_suffix(before), inputs.to_json())
        return "; ".join(changes) or f"the wheel of the night {last.night} does not serve again"


def something_new(decisions: Sequence[Decision], newest: Manifest | None) -> bool:
    """False where a night would hold what the newest one holds, and nothing else."""
    return newest is None or any(
        decision.action in ("build", "take")
        or newest.of(decision.id) is None
        or (decision.carried is not None and decision.carried.night != newest.release)
        for decision in decisions
    )


def fills(decisions: Sequence[Decision], chosen: ChosenChannel, newest: Manifest | None, day: date) -> bool:
    """True where the newest night is of the same day and only lacks what is built now: its holes are filled then."""
    if newest is None or day_of(newest.release) != day:
        return False
    for decision in decisions:
        entry = newest.of(decision.id)
        if entry is None or (decision.id in chosen.required and not entry.required):
            return False
        if decision.action == "carry" and decision.carried is not None and decision.carried.night != newest.release:
            return False
        if decision.action in ("build", "take") and entry.there:
            return False
    return True


def day_of(night: str) -> date | None:
    """The day of a night's name; None for a release that is no night."""
    try:
        return date.fromisoformat(night[:10])
    except ValueError:
        return None


def check_day(newest: Manifest | None, day: date) -> None:
    """Raise RequestError where ``day`` is before the newest night: ``latest`` never moves back."""
    newest_day = None if newest is None else day_of(newest.release)
    if newest_day is not None and day < newest_day:
        raise RequestError(
            f"the night {day} is before the newest one of the channel, {newest_day}",
            hint="nights follow each other; look at the machine's clock, or give a later day with --night",
        )


def suffix_for(night: str) -> str:
    """What wheels of a night are called beyond their branch's version: ``.dev20261121+{commits}``.

    The second night of a day has its number behind the commits, because what follows ``dev`` is one number (PEP 440).
    """
    day, _, number = night.partition(".")
    return f".dev{day.replace('-', '')}+{{commits}}" + (f".{number}" if number else "")
