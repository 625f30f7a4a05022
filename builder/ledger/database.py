"""The database below the ledger: schema migrations, connections, locks and clear errors."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import ValidationError

from builder.core.errors import MachineError
from builder.core.lock_holders import holder

#: Seconds to wait for another process that writes; each write takes milliseconds.
BUSY_SECONDS = 15.0
#: SQLite's application_id, by which a ledger is told from other databases.
APPLICATION = 0x6E70756C
#: Bytes of SQLite's file header.
_HEADER = 100
#: Script n makes version n of the tables out of version n - 1. A released one is never changed, only followed.
MIGRATIONS = [
    """
    PRAGMA application_id = 1852863852;
    CREATE TABLE runs (
        id TEXT PRIMARY KEY,
        started TEXT,           -- times are RFC 3339 in UTC; a run that is known from records only has none
        finished TEXT,
        arch TEXT,
        command TEXT,           -- JSON array
        exit_code INTEGER
    );
    CREATE TABLE targets (
        id INTEGER PRIMARY KEY,
        run TEXT NOT NULL REFERENCES runs (id),
        target TEXT NOT NULL,
        status TEXT NOT NULL,
        reason TEXT NOT NULL,
        finished TEXT NOT NULL,
        fingerprint TEXT,
        wheel TEXT,
        sha256 TEXT,
        files_compiled INTEGER,
        hits INTEGER,
        misses INTEGER,
        peak_memory INTEGER,    -- bytes
        attempts INTEGER NOT NULL,
        log TEXT,               -- relative to the ledger's folder where it is below it
        failure_kind TEXT,
        failure_phase TEXT,
        failure_message TEXT,
        UNIQUE (run, target)
    );
    CREATE INDEX targets_by_time ON targets (finished, id);
    CREATE INDEX targets_by_name ON targets (target, status, finished, id);
    CREATE TABLE phases (
        entry INTEGER NOT NULL REFERENCES targets (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        name TEXT NOT NULL,
        started TEXT,
        seconds REAL NOT NULL,
        cpu_seconds REAL,
        peak_memory INTEGER,    -- bytes
        PRIMARY KEY (entry, number)
    ) WITHOUT ROWID;
    """,
    # Runs that are no builds came later.
    "ALTER TABLE targets ADD COLUMN purpose TEXT NOT NULL DEFAULT 'build';",
    "ALTER TABLE targets ADD COLUMN disk_growth INTEGER;",
]

#: Counts what runs when the ledger is read: a view in a table's place may never end, and SQLite lets no signal in
#: (https://www.sqlite.org/security.html#untrusted_sqlite_database_files).
_FOREIGN = """
    SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%'
"""


def version_of(path: Path) -> int:
    """Return the schema version of the file without changing it; 0 if it is missing or empty.

    Raises MachineError for a newer version, a damaged file, or another program's database.
    """
    size = path.stat().st_size if path.is_file() else None
    if size == 0 or not path.exists():
        return 0
    if size is None and not path.is_dir():
        # SQLite waits for whoever writes into a pipe.
        raise damaged(path, "it is no regular file")
    if size is not None and size < _HEADER:
        # SQLite would take it for an empty one and write over it.
        raise damaged(path, f"it has {size} bytes")
    with closing(connect_for_reading(path)) as database:
        version = _number(database, "PRAGMA user_version")
        filled = _number(database, "SELECT count(*) FROM sqlite_master")
        application = _number(database, "PRAGMA application_id")
        foreign = _number(database, _FOREIGN)
    if foreign:
        raise damaged(path, "it holds a view, a trigger or a virtual table, which no builder made")
    if filled and application != APPLICATION:
        raise MachineError(
            f"{path} is a database, but no ledger", hint="move it away, or use another --workspace; it was not touched"
        )
    if version > len(MIGRATIONS):
        raise MachineError(
            f"the ledger {path} is of version {version}, this builder knows versions up to {len(MIGRATIONS)}",
            hint="use the newer builder that wrote it, or another --workspace; it was not touched",
        )
    return version


def connect(path: Path) -> sqlite3.Connection:
    """Connect for any thread, one at a time; create the file and bring its tables up to date."""
    database = _prepared(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False))
    try:
        with suppress(sqlite3.OperationalError):
            # Fails where another process is just doing the same, and is not needed where WAL cannot be had.
            database.execute("PRAGMA journal_mode = WAL")
        # A power cut may take the last entries. It leaves a whole database, and the wheels have their records.
        database.execute("PRAGMA synchronous = NORMAL")
        if _number(database, "PRAGMA user_version") < len(MIGRATIONS):
            with transaction(database):
                _migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """Connect read-only, even if this user may not write beside the file."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        return _reader(uri)
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or path.with_name(f"{path.name}-wal").exists():
            raise
        # A database in WAL mode wants files beside it, except where it is promised that nobody writes.
        return _reader(f"{uri}&immutable=1")


@contextmanager
def transaction(database: sqlite3.Connection, *, write: bool = True) -> Iterator[None]:
    """Run the ``with`` block in one transaction; without ``write``, read one consistent snapshot."""
    try:
        database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def lock(path: Path, *, alone: bool) -> Callable[[], None]:
    """Lock the ledger, shared with other writers or ``alone`` to replace the file; return what releases it.

    Raises MachineError: at once when ``alone`` is asked for and another holds it, else after BUSY_SECONDS.
    """
    place = _lock_of(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
    until = time.monotonic() + (0 if alone else BUSY_SECONDS)
    try:
        while True:
            try:
                # The kernel lets go of it when the process ends, however that happens.
                fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                return lambda: os.close(descriptor)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise _busy(path) from None
                time.sleep(0.05)
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise errors of the database as MachineError, with the file and the next step."""
    try:
        yield
    except ValidationError as error:
        raise damaged(path, f"an entry is not valid ({first_error(error)})") from error
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text:
            raise _busy(path) from error
        if text.startswith("no such"):
            raise damaged(path, text) from error
        raise _unusable(path, text) from error
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:
            raise  # a constraint or the like: a defect of the builder
        raise damaged(path, str(error)) from error
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error


def damaged(path: Path, why: str) -> MachineError:
    """Return the error for a file that is not an intact ledger."""
    return MachineError(
        f"the ledger {path} is damaged: {why}",
        hint="'python -m builder ledger rebuild' restores it from the records beside the wheels, and keeps this file",
    )


def first_error(error: ValidationError) -> str:
    """Format the first validation error: ``phases.0.seconds: Input should be ...``."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _busy(path: Path) -> MachineError:
    text = f"another builder holds the ledger {path}{holder(_lock_of(path))}"
    return MachineError(text, hint="wait for it to end, then try again")


def _lock_of(path: Path) -> Path:
    return path.parent / "locks" / f"{path.name}.lock"


def _unusable(path: Path, why: str) -> MachineError:
    return MachineError(
        f"the ledger {path} cannot be used: {why}", hint="check permissions and free space, or use another --workspace"
    )


def _reader(uri: str) -> sqlite3.Connection:
    database = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        database.execute("SELECT 1 FROM sqlite_master").close()
        return _prepared(database)
    except BaseException:
        database.close()
        raise


def _prepared(database: sqlite3.Connection) -> sqlite3.Connection:
    database.row_factory = sqlite3.Row
    database.execute("PRAGMA foreign_keys = ON")
    # As selections do it, so that a glob means the same in every command.
    database.create_function("matches", 2, fnmatchcase, deterministic=True)
    return database


def _migrate(database: sqlite3.Connection) -> None:
    # Asked again inside the transaction: another process may have been here in between.
    version = _number(database, "PRAGMA user_version")
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        for statement in _statements(script):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {number:d}")


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script one by one: ``executescript`` would commit the open transaction.

    https://docs.python.org/3/library/sqlite3.html#sqlite3.Cursor.executescript
    """
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise ValueError(f"a migration ends in the middle of a statement: {statement.strip()}")


def _number(database: sqlite3.Connection, query: str) -> int:
    return int(database.execute(query).fetchone()[0])
