"""A ledger whose errors never fail a build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from builder.core.errors import BuilderError
from builder.core.results import TargetResult
from builder.ledger.entries import Entry, RunEntry
from builder.ledger.estimates import Estimates
from builder.ledger.ledger import Ledger
from builder.progress.reporter import Reporter

_T = TypeVar("_T")


class BuildLedger:
    """A ledger that cannot fail a build: its first error becomes a warning, later ones are silent.

    While the ledger cannot be read, queries answer as for an empty one. See Ledger for the methods.
    """

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self._path = path
        self._reporter = reporter
        self._warned = False
        self._ledger: Ledger | None = None
        self._ledger = self._attempt(lambda: Ledger.open(path), None)

    def __enter__(self) -> BuildLedger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger."""
        self._with_ledger(Ledger.close, None)
        self._ledger = None

    def begin(self, run: str, started: datetime, command: Sequence[str]) -> None:
        """Record that a run began."""
        self._with_ledger(lambda ledger: ledger.begin(run, started, command), None)

    def record(self, run: str, *results: TargetResult) -> None:
        """Record the results of targets."""
        self._with_ledger(lambda ledger: ledger.record(run, *results), None)

    def finish(self, run: str, exit_code: int | None) -> None:
        """Record that a run has ended."""
        self._with_ledger(lambda ledger: ledger.finish(run, exit_code), None)

    def interrupted(self) -> list[RunEntry]:
        """List the runs that have no recorded end."""
        return self._with_ledger(Ledger.interrupted, [])

    def last_built(self, target: str) -> Entry | None:
        """Return the newest entry of a target whose wheel was built; None if there is none."""
        return self._with_ledger(lambda ledger: ledger.last_built(target), None)

    def estimates(self) -> Estimates:
        """Estimate the next builds from the ones so far."""
        return self._with_ledger(Ledger.estimates, Estimates())

    def _with_ledger(self, action: Callable[[Ledger], _T], otherwise: _T) -> _T:
        ledger = self._ledger
        return otherwise if ledger is None else self._attempt(lambda: action(ledger), otherwise)

    def _attempt(self, action: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return action()
        except Exception as error:
            # Whatever it is, a defect too: the wheels matter more than their history.
            self._warn(error)
            return otherwise

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        if isinstance(error, BuilderError):
            what, hint = error.message, error.hint
        else:
            what, hint = f"the ledger {self._path} failed: {type(error).__name__}: {error}".splitlines()[0], None
        self._reporter.warning(f"{what}; it goes on without: no history is kept{f' ({hint})' if hint else ''}")
