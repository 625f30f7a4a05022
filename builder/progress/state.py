"""What happens in a run, as events, and the state that they add up to: how far each target is, and when all end."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from rich.table import Table

#: The phase whose percent says how long a target still takes: it is nine tenths of the time and more.
COMPILE = "compile"
#: A pace is believed after this many percent.
LEAST_PERCENT = 2.0

#: What can become of a target, and how a terminal shows it.
STYLES = {
    **dict.fromkeys(("built", "rehearsed", "pulled"), "green"),
    "skipped": "cyan",
    **dict.fromkeys(("failed", "interrupted"), "bold red"),
}

#: Escape sequences and control characters, but for line feeds and tabs: a compiler's colours, or worse.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]"
)


def clean(text: str) -> str:
    """``text`` without anything that could move a cursor, and with what is no character made visible."""
    return _CONTROL.sub("", text.replace("\r\n", "\n")).encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """``text`` as one clean line."""
    return " ".join(clean(text).split())


def clock(seconds: float) -> str:
    """Seconds as a person reads them, in seven cells: ``4:05``, ``1:04:05``, ``12h04m``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 10:
        return f"{hours}h{minutes:02}m"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short(text: str, target: str | None) -> str:
    """``text`` without the id of its target at the beginning, where the target is said elsewhere."""
    return (
        text[len(target) :].lstrip(": ") or text if target and text.startswith((f"{target} ", f"{target}:")) else text
    )


def number(value: float | None) -> float | None:
    """``value``, or None where it is no number that can be shown."""
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Event:
    """Something that happened: its name, its target, what is to be said of it, and when (``at``: monotonic seconds)."""

    name: str
    target: str | None
    at: float
    time: datetime
    fields: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        """A field, None where it was not given."""
        return self.fields.get(key)


@dataclass
class Job:
    """A task that is open: ``completed`` of ``total`` units are done."""

    description: str
    started: float
    total: float | None
    completed: float | None = None
    detail: str = ""

    @property
    def percent(self) -> float | None:
        """How far it is, None without a total."""
        if not self.total:
            return None
        return min(100.0, max(0.0, 100.0 * (self.completed or 0.0) / self.total))

    def update(self, event: Event) -> None:
        """Take what an event says; what it does not say stays."""
        self.total = number(event["total"]) or self.total
        completed = number(event["completed"])
        self.completed = self.completed if completed is None else completed
        self.detail = one_line(event["detail"] or "")


@dataclass
class TargetState:
    """Where one target of the run is. Times are monotonic seconds; ``estimate`` and ``seconds`` are durations."""

    id: str
    estimate: float | None = None
    started: float | None = None
    status: str | None = None
    seconds: float | None = None
    reason: str = ""
    phase: str = ""
    files: int | None = None
    total_files: int | None = None
    hits: int | None = None
    jobs: dict[int, Job] = field(default_factory=dict)
    _percent: float | None = None
    _detail: str = ""
    #: Time and percent when the pace of the compile was first known, and last.
    _first: tuple[float, float] | None = None
    _last: tuple[float, float] = (0.0, 0.0)

    @property
    def working(self) -> bool:
        """True from its start to its end."""
        return self.started is not None and self.status is None

    @property
    def job(self) -> Job | None:
        """The innermost open task."""
        return next(reversed(self.jobs.values()), None)

    @property
    def activity(self) -> str:
        """The phase, or the task where no phase was named."""
        return self.phase or (short(self.job.description, self.id) if self.job else "")

    @property
    def percent(self) -> float | None:
        """How far the innermost task is, else the phase."""
        inner = self.job.percent if self.job else None
        return self._percent if self._percent is not None else inner

    @property
    def detail(self) -> str:
        """What is done right now, in words."""
        if self._detail or self.job is None:
            return self._detail
        told = short(self.job.description, self.id)
        return " ".join(filter(None, ["" if told == self.activity else told, self.job.detail]))

    def begin(self, now: float) -> None:
        """Work begins, perhaps again after a failure that was a passing one."""
        self.started, self.status = now, None
        self.files = self.total_files = self.hits = None
        self.enter("")

    def enter(self, phase: str) -> None:
        """A phase begins or (empty) ends: what was said of the one before is over."""
        self.phase, self._percent, self._detail, self._first = phase, None, "", None

    def update(self, event: Event) -> None:
        """Take what an event says; what it does not say stays."""
        percent = number(event["percent"])
        if percent is not None:
            self._percent = min(100.0, max(0.0, percent))
        self.files = event["files"] if event["files"] is not None else self.files
        self.total_files = event["total_files"] if event["total_files"] is not None else self.total_files
        self.hits = event["hits"] if event["hits"] is not None else self.hits
        self._detail = one_line(event["detail"]) if event["detail"] is not None else self._detail

    def pace(self, now: float) -> None:
        """Note how far the compile is."""
        percent = self.percent
        if self.activity != COMPILE or percent is None:
            return
        if self._first is None or percent < self._last[1]:  # it began, or began again with fewer jobs
            self._first = self._last = (now, percent)
        elif percent > self._last[1]:
            self._last = (now, percent)

    def left(self, now: float) -> float | None:
        """Seconds still to go: by the estimate at first, by the compile's own pace the further it is."""
        if not self.working or self.started is None:
            return None
        expected = None if self.estimate is None else self.estimate - (now - self.started)
        measured = None
        if self._first is not None and self._last[1] - self._first[1] >= LEAST_PERCENT:
            seconds, percent = self._last[0] - self._first[0], self._last[1] - self._first[1]
            measured = max(0.0, seconds * (100.0 - self._last[1]) / percent - (now - self._last[0]))
        if expected is None or expected <= 0.0 or measured is None:
            return measured if expected is None or expected <= 0.0 else expected
        share = self._last[1] / 100.0
        return expected * (1.0 - share) + measured * share


@dataclass
class State:
    """What all events so far add up to."""

    run: str | None = None
    targets: dict[str, TargetState] = field(default_factory=dict)
    #: Open tasks that belong to no target.
    jobs: dict[int, Job] = field(default_factory=dict)
    parallel: int = 1
    started: float = 0.0
    running: bool = False

    @property
    def several(self) -> bool:
        """True where a line must say which target it is about."""
        return len(self.targets) > 1

    @property
    def busy(self) -> bool:
        """True while there is something to watch."""
        return self.running or bool(self.jobs) or any(each.jobs for each in self.targets.values())

    @property
    def working(self) -> list[TargetState]:
        """Targets at work, in the order of their start."""
        return sorted((each for each in self.targets.values() if each.working), key=lambda each: each.started or 0.0)

    @property
    def counts(self) -> dict[str, int]:
        """Targets by outcome; ``left`` are those without one."""
        outcomes = [each.status for each in self.targets.values()]
        return {**{status: outcomes.count(status) for status in STYLES}, "left": outcomes.count(None)}

    def apply(self, event: Event) -> None:
        """Take an event in."""
        if event.name == "run-started":
            estimates = event["estimates"] or {}
            self.targets = {each: TargetState(each, number(estimates.get(each))) for each in event["targets"]}
            self.run, self.parallel, self.started, self.running = event["run"], event["parallel"], event.at, True
        elif event.name == "run-finished":
            self.running = False
        elif event.target is None:
            self._apply_job(event, self.jobs)
        else:
            self._apply_to(self.targets.setdefault(event.target, TargetState(event.target)), event)

    def _apply_to(self, target: TargetState, event: Event) -> None:
        if event.name == "target-started":
            target.begin(event.at)
        elif event.name in {"phase-started", "phase-finished"}:
            target.enter(event["phase"] if event.name == "phase-started" else "")
        elif event.name == "target-finished":
            target.status, target.seconds, target.reason = event["status"], event["seconds"], event["reason"]
            target.jobs.clear()
        else:
            if event.name == "progress" and event["task"] is None:
                target.update(event)
            self._apply_job(event, target.jobs)
            target.pace(event.at)

    def _apply_job(self, event: Event, jobs: dict[int, Job]) -> None:
        if event.name == "task-started":
            jobs[event["task"]] = Job(one_line(event["description"]), event.at, number(event["total"]))
        elif event.name == "task-finished":
            jobs.pop(event["task"], None)
        elif event.name == "progress" and event["task"] in jobs:
            jobs[event["task"]].update(event)

    def eta(self, now: float) -> float | None:
        """Seconds until the run ends: those at work, then the others one by one wherever a place is free first."""
        busy = [(each, each.left(now)) for each in self.working]
        known = [each.estimate for each in self.targets.values() if each.estimate is not None]
        known += [each.seconds for each in self.targets.values() if each.status == "built" and each.seconds is not None]
        known += [now - (each.started or now) + left for each, left in busy if left is not None]
        usual = sum(known) / len(known) if known else None
        ends: list[float] = []
        for each, left in busy:
            whole = each.estimate if each.estimate is not None else usual
            if left is None and whole is None:
                return None
            # One that takes longer than expected ends "now" until its pace is known.
            ends.append(max(0.0, (whole or 0.0) - (now - (each.started or now))) if left is None else left)
        ends += [0.0] * (max(1, self.parallel) - len(ends))
        heapq.heapify(ends)
        for each in self.targets.values():
            if each.started is None and each.status is None:
                duration = each.estimate if each.estimate is not None else usual
                if duration is None:
                    return None
                heapq.heapreplace(ends, ends[0] + duration)
        return max(ends)


class Sink(Protocol):
    """Where events go. The reporter calls one method at a time."""

    def handle(self, event: Event, state: State) -> None:
        """Show an event; ``state`` has it in."""

    def table(self, table: Table) -> None:
        """Show a table to a person."""

    def close(self) -> None:
        """Leave nothing behind, whatever is still open."""
