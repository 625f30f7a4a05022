"""What people and programs are told: a picture on a terminal, plain timestamped lines elsewhere, log groups on CI
systems, or JSON lines.

What people read goes to standard error, so that standard output carries only what a program may read
(``--json``, ``--json-lines``, tables that were asked for).
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from rich.console import Console
from rich.table import Table

from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError
from builder.progress.jsonlines import JsonLines
from builder.progress.lines import GitHub, GitLab, Lines
from builder.progress.screen import Screen
from builder.progress.state import Event, Sink, State
from builder.progress.tables import print_table as print_table

#: Columns of what is told while something happens, where that goes into a file or a pipe.
WIDTH_WITHOUT_TERMINAL = 200
#: Columns of what was asked for, where that goes into a file or a pipe: no row is ever broken.
_UNLIMITED = 1 << 16
#: What is left when a user asks for quiet.
LOUD = frozenset({"warning", "error", "run-finished"})


class Task:
    """One bar of progress. ``update`` may be called as often as the caller likes, from any thread."""

    def __init__(self, reporter: Reporter, identity: int) -> None:
        self._reporter = reporter
        self._identity = identity

    def update(self, completed: float | None = None, total: float | None = None, detail: str = "") -> None:
        """Set the units done, the units in all, and a short text; None keeps what was there."""
        self._reporter.emit("progress", task=self._identity, completed=completed, total=total, detail=detail)


class Hub:
    """The one place that events pass, one after the other, whatever thread they come from."""

    def __init__(self, *, quiet: bool) -> None:
        self.lock = threading.RLock()
        self.state = State()
        self.sink: Sink | None = None
        self.numbers = itertools.count(1)
        self._quiet = quiet

    def emit(self, name: str, target: str | None, fields: Mapping[str, Any]) -> None:
        """Take an event in and show it."""
        with self.lock:
            known = self.state.targets.get(target or "")
            begins = target is not None and name not in {"target-started", "target-finished"}
            if begins and self.state.running and (known is None or (known.started is None and known.status is None)):
                self.emit("target-started", target, {})
            event = Event(name, target, time.monotonic(), datetime.now(timezone.utc), fields)
            self.state.apply(event)
            if self.sink is not None and (name in LOUD or not self._quiet):
                self.guarded(self.sink.handle, event, self.state)

    def table(self, table: Table, *, always: bool) -> None:
        """Show a table."""
        with self.lock:
            if self.sink is not None and (always or not self._quiet):
                self.guarded(self.sink.table, table)

    def close(self) -> None:
        """Leave nothing behind on a terminal or in a log."""
        with self.lock:
            if self.sink is not None:
                self.guarded(self.sink.close)

    def guarded(self, call: Any, *arguments: Any) -> None:
        """Call the sink. A reader that went away or a full disk must not fail builds that take hours."""
        try:
            call(*arguments)
        except (OSError, SystemExit):  # rich makes SystemExit of a broken pipe
            self.sink = None


class Reporter:
    """Where every part of the builder says what it does; any thread may call it. ``quiet`` leaves warnings, errors and
    how a run ended. ``json_lines`` writes events for programs to standard output, and nothing for people.

    ``console`` is standard error by default; CI systems are looked for only there, in ``environment`` (by default the
    process's own). ``sink`` takes the events instead of any of these.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        quiet: bool = False,
        json_lines: bool = False,
        environment: Mapping[str, str] | None = None,
        sink: Sink | None = None,
    ) -> None:
        own = console is None
        self.console = console if console is not None else Console(stderr=True, highlight=False)
        # FORCE_COLOR makes rich take any file for a terminal; colours it may have, but nothing can be redrawn there.
        terminal = self.console.is_terminal and (not own or sys.stderr.isatty())
        if not terminal:
            # A log file has no width of its own: whole lines are easier to read and to search.
            self.console.width = WIDTH_WITHOUT_TERMINAL
        self.quiet = quiet
        self._target: str | None = None
        self._hub = Hub(quiet=quiet)
        if environment is None:
            environment = os.environ if own else {}
        self._hub.sink = sink or (JsonLines(sys.stdout) if json_lines else self._for_people(environment, terminal))

    @property
    def live(self) -> bool:
        """True where bars can be redrawn in place."""
        return isinstance(self._hub.sink, Screen)

    def message(self, text: str) -> None:
        """One line about what happens now."""
        self.emit("message", text=text)

    def warning(self, text: str) -> None:
        """One line about what the user should know although the work goes on."""
        self.emit("warning", text=text)

    def error(self, error: BuilderError) -> None:
        """A message, its details and the next step, as every error of the builder is shown."""
        kind = getattr(error, "kind", None)
        if isinstance(kind, FailureKind):
            kind = kind.value
        elif isinstance(error, RequestError | MachineError):
            kind = "request" if isinstance(error, RequestError) else "machine"
        self.emit("error", text=error.message, details=error.details, hint=error.hint, kind=kind)

    def table(self, table: Table, *, always: bool = False) -> None:
        """A table for people, as wide as the terminal; ``always`` shows it also to those who asked for quiet."""
        self._hub.table(table, always=always)

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        """A progress bar for the length of the ``with`` block."""
        identity = next(self._hub.numbers)
        self.emit("task-started", task=identity, description=description, total=total)
        try:
            yield Task(self, identity)
        finally:
            self.emit("task-finished", task=identity)

    def for_target(self, target: str) -> TargetReporter:
        """A reporter for what concerns one target of a run."""
        return TargetReporter(self, target)

    def run_started(
        self,
        run: str,
        targets: Sequence[str],
        estimates: Mapping[str, float | None] | None = None,
        *,
        parallel: int = 1,
    ) -> None:
        """A run begins with these target ids, ``parallel`` at once; ``estimates`` are seconds that targets may take.

        Who calls this calls ``run_finished`` or ``close`` too, whatever happens.
        """
        self._hub.emit(
            "run-started",
            None,
            {"run": run, "targets": list(targets), "estimates": dict(estimates or {}), "parallel": parallel},
        )

    def target_started(self, target: str) -> None:
        """Work on a target begins; its first phase, task or message says so too."""
        self._hub.emit("target-started", target, {})

    def target_finished(self, target: str, status: str, seconds: float, reason: str = "") -> None:
        """A target has ended, in one of ``STYLES``, after ``seconds`` of work. Why it failed is shown by ``error``."""
        self._hub.emit("target-finished", target, {"status": status, "seconds": seconds, "reason": reason})

    def run_finished(self, seconds: float, exit_code: int | None = None) -> None:
        """The run is over; how its targets ended is shown also to those who asked for quiet."""
        self._hub.emit("run-finished", None, {"seconds": seconds, "exit_code": exit_code})

    def close(self) -> None:
        """Take a picture off the terminal and end open log groups, whatever is still at work."""
        self._hub.close()

    def emit(self, name: str, **fields: Any) -> None:
        """Pass on an event of this reporter's target; builder.progress.jsonlines says which there are."""
        self._hub.emit(name, self._target, fields)

    def _for_people(self, environment: Mapping[str, str], terminal: bool) -> Sink:
        if environment.get("GITHUB_ACTIONS") == "true":
            return GitHub(self.console)
        if environment.get("GITLAB_CI") == "true":
            return GitLab(self.console)
        if terminal and not self.console.is_dumb_terminal and not self.quiet:
            return Screen(self.console, self._hub.lock)
        return Lines(self.console, stamped=not terminal)


class TargetReporter(Reporter):
    """A reporter for what concerns one target; it stands wherever a Reporter does."""

    def __init__(self, parent: Reporter, target: str) -> None:
        self.console = parent.console
        self.quiet = parent.quiet
        self._hub = parent._hub
        self._target = target

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase of the target for the length of the ``with`` block."""
        started = time.monotonic()
        self.phase_started(name)
        failed = True
        try:
            yield
            failed = False
        finally:
            self.phase_finished(name, time.monotonic() - started, failed=failed)

    def phase_started(self, name: str) -> None:
        """The target enters a phase; the one before is over."""
        self.emit("phase-started", phase=name)

    def phase_finished(self, name: str, seconds: float, *, failed: bool = False) -> None:
        """The phase is over after ``seconds``."""
        self.emit("phase-finished", phase=name, seconds=seconds, failed=failed)

    def update(
        self,
        percent: float | None = None,
        files: int | None = None,
        hits: int | None = None,
        total_files: int | None = None,
        detail: str | None = None,
    ) -> None:
        """How far the phase is (0 to 100), files compiled and in all, cache hits; None keeps what was there."""
        self.emit("progress", percent=percent, files=files, hits=hits, total_files=total_files, detail=detail)


def standard_output() -> Console:
    """The console for what was asked for: tables and JSON, kept apart from progress."""
    console = Console(file=sys.stdout, highlight=False)
    # FORCE_COLOR makes rich take any file for a terminal.
    if not console.is_terminal or not sys.stdout.isatty():
        # What reads it takes a line for a row.
        console.width = _UNLIMITED
    return console
