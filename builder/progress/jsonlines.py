"""Events as JSON, for programs.

``--json-lines`` writes one JSON object per line to standard output. Names and meanings stay; a later version may
add keys and events, and ``schema`` of ``run-started`` grows when something changes its meaning. Every object has

    event    its kind, below
    time     when, RFC 3339 with milliseconds
    run      the run's id, null outside runs
    target   the target's id, null for what concerns no single target

and by its kind (seconds are numbers, null stands for "not known"):

    run-started      schema, targets (ids), parallel
    target-started   estimate (seconds that the target is expected to take)
    phase-started    phase
    phase-finished   phase, seconds, failed (true, false)
    progress         phase, task (what is done, in words), percent (0 to 100, of the task, else of the phase), files
                     (compiled so far), total_files, hits (of the compile cache), detail, seconds (of the target so far,
                     else of the task), eta (seconds that the target still takes), run_eta (seconds that the run still
                     takes); at most one each second for a target, and one for each new task
    message          text
    warning          text
    error            text, details (lines), hint (the next step), kind (as failure.kind in result.json)
    target-finished  status (built, rehearsed, pulled, skipped, failed, interrupted), seconds, reason, files, hits
    run-finished     seconds, exit_code, built, rehearsed, pulled, skipped, failed, interrupted, left (targets of each
                     outcome)

A target that is tried again, after a failure that may pass, has a second ``target-started``; one that is never at work
has ``target-finished`` only.
"""

from __future__ import annotations

import json
import math
from typing import Any, TextIO

from rich.table import Table

from builder.progress.state import Event, State, TargetState, clean, number, short

#: Version of the events.
SCHEMA = 1
#: Seconds between two progress events of one target.
JSON_INTERVAL = 1.0


class JsonLines:
    """One JSON object per line, for programs (this module's docstring says which)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._written: dict[str | None, float] = {}

    def handle(self, event: Event, state: State) -> None:
        """Write the event, unless it is one of a person's, or one progress too many."""
        name = "progress" if event.name == "task-started" else event.name
        if name == "task-finished":
            return
        if event.name == "progress" and event.at - self._written.get(event.target, -math.inf) < JSON_INTERVAL:
            return
        if name == "progress":
            self._written[event.target] = event.at
        record = {
            "event": name,
            "time": event.time.isoformat(timespec="milliseconds"),
            "run": state.run,
            "target": event.target,
            **self._fields(name, event, state),
        }
        # ASCII only: it is the same in every locale, and names that are not UTF-8 cannot break it.
        self._stream.write(json.dumps(record, allow_nan=False) + "\n")
        self._stream.flush()

    def table(self, table: Table) -> None:
        """Tables are for people."""

    def close(self) -> None:
        """Every line has been written."""

    def _fields(self, name: str, event: Event, state: State) -> dict[str, Any]:
        target = state.targets.get(event.target or "")
        if name == "progress":
            return self._progress(event, state, target)
        if name == "run-started":
            return {"schema": SCHEMA, "targets": list(state.targets), "parallel": state.parallel}
        if name == "target-started":
            return {"estimate": _rounded(target.estimate) if target else None}
        if name == "run-finished":
            return {"seconds": _rounded(event["seconds"]), "exit_code": event["exit_code"], **state.counts}
        fields: dict[str, Any] = {
            key: clean(value) if isinstance(value, str) else value for key, value in event.fields.items()
        }
        if name in {"message", "warning"}:
            return {"text": short(fields["text"], event.target)}
        if name == "target-finished":
            fields = {**fields, "files": target.files if target else None, "hits": target.hits if target else None}
        return {**fields, "seconds": _rounded(fields["seconds"])} if "seconds" in fields else fields

    def _progress(self, event: Event, state: State, target: TargetState | None) -> dict[str, Any]:
        job = (target.jobs if target else state.jobs).get(event["task"])
        started = target.started if target else job.started if job else None
        percent, detail = (target.percent, target.detail) if target else (None, "")
        if job is not None:
            percent, detail = job.percent, job.detail
        return {
            "phase": target.phase or None if target else None,
            "task": short(job.description, event.target) if job else None,
            "percent": _rounded(percent),
            "files": target.files if target else None,
            "total_files": target.total_files if target else None,
            "hits": target.hits if target else None,
            "detail": detail,
            "seconds": None if started is None else _rounded(event.at - started),
            "eta": _rounded(target.left(event.at)) if target else None,
            "run_eta": _rounded(state.eta(event.at)) if state.running else None,
        }


def _rounded(value: float | None) -> float | None:
    """A number to its thousandth; None for what is not known or no number."""
    value = number(value)
    return None if value is None else round(value, 3)
