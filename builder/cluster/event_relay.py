"""What a worker tells of a target, told again by this machine's reporter."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from builder.progress.reporter import TargetReporter, Task


class Replay:
    """Turns events of a worker into calls of the reporter of one target. One thread at a time."""

    def __init__(self, reporter: TargetReporter) -> None:
        self._reporter = reporter
        #: Open tasks by the numbers that the worker gave them.
        self._tasks: dict[object, tuple[AbstractContextManager[Task], Task]] = {}

    def tell(self, event: str, fields: Mapping[str, Any]) -> None:
        """Pass on one event (builder.cluster.worker_process says which there are)."""
        if event == "message":
            self._reporter.message(str(fields["text"]))
        elif event == "warning":
            self._reporter.warning(str(fields["text"]))
        elif event == "phase-started":
            self._reporter.phase_started(str(fields["phase"]))
        elif event == "phase-finished":
            self._reporter.phase_finished(str(fields["phase"]), fields["seconds"], failed=fields["failed"])
        elif event == "task-started":
            manager = self._reporter.task(str(fields["description"]), fields["total"])
            self._tasks[fields["task"]] = (manager, manager.__enter__())
        elif event == "task-finished":
            self._close(fields["task"])
        elif event == "progress":
            self._progress(fields)

    def end(self) -> None:
        """The worker tells nothing any more: close what is open."""
        for number in list(self._tasks):
            self._close(number)

    def _progress(self, fields: Mapping[str, Any]) -> None:
        number = fields.get("task")
        if number is None:
            names = ("percent", "files", "hits", "total_files", "detail")
            self._reporter.update(**{name: fields.get(name) for name in names})
        elif number in self._tasks:
            _, task = self._tasks[number]
            task.update(fields.get("completed"), fields.get("total"), fields.get("detail") or "")

    def _close(self, number: object) -> None:
        manager, _ = self._tasks.pop(number, (None, None))
        if manager is not None:
            manager.__exit__(None, None, None)
