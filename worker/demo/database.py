"""One SQLite connection, shared by the server's thread and by whoever reads beside it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

Now = Callable[[], datetime]

# Survives a `kill -9`: a commit is in the write-ahead log. Only a power cut may take the last
# commits, and waiting for the disk at each of them would cost more than everything else here.
_PRAGMAS = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA busy_timeout = 5000;
"""
_BEGIN = "BEGIN IMMEDIATE"
_COMMIT = "COMMIT"
_ROLLBACK = "ROLLBACK"


def utc_now() -> datetime:
    """The wall clock, aware, in UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Write an aware moment in UTC, always with microseconds, so that texts sort like times."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Database:
    """Runs statements one at a time; a `transaction()` keeps several of them together.

    Calls are synchronous and take microseconds, so they are made on the event loop. A caller never
    awaits inside a transaction: it holds the lock. Raises OSError if the file cannot be used.
    """

    def __init__(self, path: str, *, now: Now) -> None:
        self._now = now
        self._lock = threading.RLock()
        # isolation_level None: nothing begins or commits behind our back.
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as exc:
            raise OSError(f"cannot open the database {path}: {exc}") from exc
        self._connection.row_factory = sqlite3.Row
        try:
            self._connection.executescript(_PRAGMAS)
        except sqlite3.Error as exc:
            self._connection.close()
            raise OSError(f"cannot use {path} as an SQLite database: {exc}") from exc

    def create(self, schema: str) -> None:
        """Run the `CREATE ... IF NOT EXISTS` statements of one table."""
        with self._lock:
            self._connection.executescript(schema)

    def now(self) -> datetime:
        """The present moment, by the clock that the store was given."""
        return self._now()

    def stamp(self) -> str:
        """The present moment as it is stored."""
        return rfc3339(self._now())

    def execute(self, statement: str, values: Mapping[str, object] | None = None) -> int:
        """Run one statement and return how many rows it changed."""
        with self._lock:
            return self._connection.execute(statement, values or {}).rowcount

    def insert(self, statement: str, values: Mapping[str, object]) -> int:
        """Run one INSERT and return the number of the new row."""
        with self._lock:
            return self._connection.execute(statement, values).lastrowid or 0

    def insert_many(self, statement: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Run one INSERT for each of the rows."""
        with self._lock:
            self._connection.executemany(statement, rows)

    def row(self, query: str, values: Mapping[str, object] | None = None) -> sqlite3.Row | None:
        """The first row of the answer, or None."""
        rows = self.rows(query, values)
        return rows[0] if rows else None

    def rows(self, query: str, values: Mapping[str, object] | None = None) -> list[sqlite3.Row]:
        """All rows of the answer."""
        with self._lock:
            return self._connection.execute(query, values or {}).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside happens, or nothing does. Joins the transaction it is called in."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute(_BEGIN)
            try:
                yield
            except BaseException:
                self._connection.execute(_ROLLBACK)
                raise
            self._connection.execute(_COMMIT)

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        with self._lock:
            self._connection.close()
