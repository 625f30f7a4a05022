"""Write and read the ledger."""

from __future__ import annotations

import json
import platform
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from builder.core.errors import MachineError
from builder.core.results import TargetResult
from builder.core.workspace import Workspace
from builder.ledger.database import (
    MIGRATIONS,
    connect,
    connect_for_reading,
    explained,
    lock,
    transaction,
    version_of,
)
from builder.ledger.entries import Entry, RunEntry, clean, stamp
from builder.ledger.estimates import SAMPLES, Estimates, Sample

_INSERT_TARGET = """
    INSERT INTO targets (
        run, target, purpose, status, reason, finished, fingerprint, wheel, sha256, files_compiled, hits, misses,
        peak_memory, disk_growth, attempts, log, failure_kind, failure_phase, failure_message
    ) VALUES (
        :run, :id, :purpose, :status, :reason, :finished, :fingerprint, :wheel, :sha256, :files_compiled, :hits,
        :misses, :peak_memory, :disk_growth, :attempts, :log, :failure_kind, :failure_phase, :failure_message
    )
"""
_INSERT_PHASE = """
    INSERT INTO phases (entry, number, name, started, seconds, cpu_seconds, peak_memory)
    VALUES (:entry, :number, :name, :started, :seconds, :cpu_seconds, :peak_memory)
"""
_HISTORY = """
    SELECT * FROM targets
    WHERE (:target IS NULL OR matches(target, :target))
        AND (:status IS NULL OR status = :status)
        AND (:since IS NULL OR finished >= :since)
    ORDER BY finished DESC, id DESC LIMIT :limit
"""
_LAST_BUILT = """
    SELECT * FROM targets WHERE target = :target AND status = 'built' ORDER BY finished DESC, id DESC LIMIT 1
"""
#: The last builds of each target, with a warm and with a cold cache. The last ones of a release line or of an
#: architecture are among them.
_SAMPLES = """
    WITH numbered AS (
        SELECT id, target, finished, peak_memory, disk_growth, coalesce(hits > misses, 0) AS warm, row_number() OVER (
            PARTITION BY target, coalesce(hits > misses, 0) ORDER BY finished DESC, id DESC
        ) AS number
        FROM targets WHERE status = 'built' AND EXISTS (SELECT 1 FROM phases WHERE entry = targets.id)
    )
    SELECT id, target, warm, numbered.peak_memory AS peak_memory, numbered.disk_growth AS disk_growth, name,
        sum(seconds) AS seconds
    FROM numbered JOIN phases ON entry = id WHERE numbered.number <= :samples
    GROUP BY id, name ORDER BY finished DESC, id DESC, min(phases.number)
"""


def ledger_path(workspace: Workspace) -> Path:
    """Return the path of a workspace's ledger."""
    return workspace.root / "ledger.sqlite"


class Ledger:
    """An open ledger, shared by threads. Its methods raise MachineError with the file and the next step.

    Create one with ``Ledger.open``. Use BuildLedger where an error of the ledger must not stop a build.
    """

    def __init__(self, path: Path, database: sqlite3.Connection, release: Callable[[], None]) -> None:
        self.path = path
        self._database = database
        self._release = release
        self._one_thread = threading.RLock()

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Ledger:
        """Open the ledger in that file, migrating it; create it if missing, unless ``read_only``.

        A ledger that a newer builder wrote is refused and left unchanged. Raises MachineError.
        """
        path = path.absolute()
        with explained(path):
            version = version_of(path)
            if read_only and not path.exists():
                raise MachineError(f"there is no ledger {path}", hint="the first build makes it")
            if read_only and version == len(MIGRATIONS):
                return cls(path, connect_for_reading(path), lambda: None)
            path.parent.mkdir(parents=True, exist_ok=True)
            release = lock(path, alone=False)
            try:
                return cls(path, connect(path), release)
            except BaseException:
                release()
                raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Everything recorded is already in it."""
        with self._one_thread:
            self._database.close()
            release, self._release = self._release, lambda: None
            release()

    def begin(self, run: str, started: datetime, command: Sequence[str]) -> None:
        """Record that a run began. URLs in its command line lose user and password."""
        words = json.dumps([clean(word) for word in command])
        with self._writing() as database:
            database.execute("INSERT OR IGNORE INTO runs (id) VALUES (?)", [run])
            database.execute(
                "UPDATE runs SET started = ?, arch = ?, command = ? WHERE id = ?",
                [stamp(started), platform.machine(), words, run],
            )

    def record(self, run: str, *results: TargetResult) -> None:
        """Record results of targets as of now, all or none; a target's last result in a run replaces earlier ones."""
        now = datetime.now(timezone.utc)
        self.add(*(Entry.model_validate({"finished": now, **result.to_json(), "run": run}) for result in results))

    def add(self, *entries: Entry) -> None:
        """Add entries unchanged, all or none."""
        with self._writing() as database:
            for entry in entries:
                self._insert(database, entry)

    def finish(self, run: str, exit_code: int | None) -> None:
        """Record that a run has ended; the exit code is None for a run that was found to be killed."""
        with self._writing() as database:
            database.execute("INSERT OR IGNORE INTO runs (id) VALUES (?)", [run])
            database.execute(
                "UPDATE runs SET finished = ?, exit_code = ? WHERE id = ?",
                [stamp(datetime.now(timezone.utc)), exit_code, run],
            )

    def interrupted(self) -> list[RunEntry]:
        """List the runs that began and have no recorded end, the oldest first.

        Their builders were killed or are still at work; the ledger cannot tell which.
        """
        query = "SELECT * FROM runs WHERE started IS NOT NULL AND finished IS NULL ORDER BY started, id"
        with self._reading() as database:
            return [
                RunEntry(row["id"], datetime.fromisoformat(row["started"]), tuple(json.loads(row["command"])))
                for row in database.execute(query)
            ]

    def history(
        self,
        *,
        target: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        since: datetime | None = None,
    ) -> list[Entry]:
        """List entries, the newest first. ``target`` is a glob over ids; ``since`` needs a time zone."""
        return self._entries(
            _HISTORY,
            {"target": target, "status": status, "since": stamp(since), "limit": -1 if limit is None else limit},
        )

    def last_built(self, target: str) -> Entry | None:
        """Return the newest entry of a target, by its id, whose wheel was built; None if there is none."""
        return next(iter(self._entries(_LAST_BUILT, {"target": target})), None)

    def estimates(self) -> Estimates:
        """Estimate the next builds from the ones so far."""
        builds: dict[int, tuple[sqlite3.Row, dict[str, float]]] = {}
        with self._reading() as database:
            for row in database.execute(_SAMPLES, {"samples": SAMPLES}):
                builds.setdefault(row["id"], (row, {}))[1][row["name"]] = row["seconds"]
        return Estimates(
            Sample(row["target"], bool(row["warm"]), phases, row["peak_memory"], row["disk_growth"])
            for row, phases in builds.values()
        )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._one_thread, explained(self.path):
            yield self._database

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as database, transaction(database):
            yield database

    def _insert(self, database: sqlite3.Connection, entry: Entry) -> None:
        database.execute("INSERT OR IGNORE INTO runs (id) VALUES (?)", [entry.run])
        database.execute("DELETE FROM targets WHERE run = ? AND target = ?", [entry.run, entry.id])
        values: dict[str, Any] = {
            **entry.model_dump(exclude={"phases", "cache", "failure", "finished", "log"}),
            "finished": stamp(entry.finished),
            "log": self._relative(entry.log),
            "hits": entry.cache and entry.cache.hits,
            "misses": entry.cache and entry.cache.misses,
            "failure_kind": entry.failure and entry.failure.kind,
            "failure_phase": entry.failure and entry.failure.phase,
            "failure_message": entry.failure and entry.failure.message,
        }
        number = database.execute(_INSERT_TARGET, values).lastrowid
        database.executemany(
            _INSERT_PHASE,
            [
                {**phase.model_dump(), "started": stamp(phase.started), "entry": number, "number": position}
                for position, phase in enumerate(entry.phases)
            ],
        )

    def _entries(self, query: str, values: Mapping[str, Any]) -> list[Entry]:
        # One state of the database for both queries, whoever writes meanwhile.
        with self._reading() as database, transaction(database, write=False):
            return [
                self._entry(row, database.execute("SELECT * FROM phases WHERE entry = ? ORDER BY number", [row["id"]]))
                for row in database.execute(query, values).fetchall()
            ]

    def _entry(self, row: sqlite3.Row, phases: Iterator[sqlite3.Row]) -> Entry:
        return Entry.model_validate(
            {
                **dict(row),
                "id": row["target"],
                "phases": [dict(phase) for phase in phases],
                "cache": None if row["hits"] is None else {"hits": row["hits"], "misses": row["misses"]},
                "log": None if row["log"] is None else str(self.path.parent / row["log"]),
                "failure": None
                if row["failure_kind"] is None
                else {name: row[f"failure_{name}"] for name in ("kind", "phase", "message")},
            }
        )

    def _relative(self, log: str | None) -> str | None:
        """Return a log's path relative to the workspace, which may move and should not reveal where it was."""
        if log is not None and Path(log).is_relative_to(self.path.parent):
            return str(Path(log).relative_to(self.path.parent))
        return log
