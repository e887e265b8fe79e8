"""The ledger in PostgreSQL, for any number of replicas on any number of machines.

Its tables come from `worker.backends.migrate`, its queries from ``postgres.sql``.

Why ``write_changes`` is right, although many replicas send it at once and each statement sees the
tables as of its own beginning:

* Whoever changes a book has its row locked, and raises its version. A statement that waited for
  the row looks at the version again before it writes. If that is still the one which the statement
  saw, nobody wrote the book's entries meanwhile either, so what it saw of them holds.
* Of two that insert the same book, one waits for the other and then inserts nothing.
* No unique key can be violated: a change that would put an entry in the place of a last word is
  left out before, and the others replace.
* Replicas cannot wait for each other in a circle: all lock the books that exist in the order of
  their names, and only then insert new ones, in the same order. A deadlock that somebody else's
  statements cause is tried again.
* It is one statement in a transaction of its own. A replica that is suspended holds no lock.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import UTC
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors

from worker.backends.codec import book_from, book_to, presence_from, presence_to
from worker.backends.postgres_json import packed
from worker.backends.postgres_server import server_of
from worker.backends.queries import load_queries
from worker.errors import LeaseLost, StoreSchemaError, StoreUnavailable
from worker.ledger.book import (
    Book,
    Change,
    Entry,
    HistoryQuery,
    Outcome,
    Pulse,
    Replica,
    SessionId,
    Written,
)
from worker.model import Trigger

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    from worker.backends.postgres_server import Connection, Server
    from worker.ledger.presence import Presence

__all__ = ["PostgresStore"]

SCHEMA = "0006"
"""The migration whose tables this worker reads and writes. The names of migrations are in order."""
TRIES = 4
QUERIES = load_queries("postgres.sql")


class PostgresStore:
    """A `worker.ports.LedgerStore` on one connection, which is made anew after it was lost.

    Raises:
        ConfigurationError: The URL is none.
        StoreUnavailable: The server cannot be reached.
        StoreSchemaError: Its tables are missing, older or newer than this worker, or forbidden.
    """

    def __init__(self, url: str) -> None:
        self._server = server_of(url)
        self._connection: Connection | None = None
        try:
            self._connect()
        except psycopg.Error as exc:
            raise self._server.problem(exc) from exc

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    def open_session(
        self, replica: str, ttl: timedelta, presence: Presence | None = None
    ) -> SessionId:
        name, said = replica.replace("\0", "\ufffd"), presence_to(presence)
        (row,) = self._ask("open_session", replica=name, ttl=ttl, presence=said)
        return SessionId(row["id"])

    def renew(self, session: SessionId, ttl: timedelta) -> Pulse:
        rows = self._ask("renew_session", session=session, ttl=ttl)
        if not any(row["what"] == "held" for row in rows):
            raise LeaseLost(f"the lease of session {session} has run out")
        return Pulse(
            orphaned=frozenset(row["task"] for row in rows if row["what"] == "orphaned"),
            waiting=frozenset(row["task"] for row in rows if row["what"] == "waiting"),
            cancelled=frozenset(
                (row["task"], row["slot"].astimezone(UTC), Trigger(row["trigger"]))
                for row in rows
                if row["what"] == "cancelled"
            ),
        )

    def close_session(self, session: SessionId) -> None:
        self._ask("close_session", session=session)

    def read(self, tasks: Sequence[str]) -> Mapping[str, Book]:
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self._ask("read_books", tasks=list(tasks)):
            found.setdefault(row["book"], []).append(row)
        return {task: book_of(task, found.get(task, [])) for task in tasks}

    def write(self, changes: Sequence[Change]) -> list[Written]:
        written = [Written.OUTDATED] * len(changes)
        for batch in batches(changes):
            rows = self._ask(
                "write_changes",
                changes=packed([change_row(changes[place]) for place in batch.values()]),
                entries=packed(
                    [row for place in batch.values() for row in rows_of(changes[place])]
                ),
            )
            for row in rows:
                written[batch[row["task"]]] = Written(row["written"])
        return written

    def tasks(self) -> list[str]:
        return [row["task"] for row in self._ask("list_tasks")]

    def history(self, query: HistoryQuery) -> list[Entry]:
        rows = self._ask(
            "list_history",
            task=query.task,
            outcomes=sorted(query.outcomes) or None,
            since=query.since,
            until=query.until,
            limit=query.limit,
        )
        return [entry_of(row) for row in rows]

    def replicas(self, sessions: Collection[SessionId] | None = None) -> list[Replica]:
        return [
            Replica(
                session=SessionId(row["id"]),
                name=row["name"],
                since=row["started_at"].astimezone(UTC),
                seen=row["seen_at"].astimezone(UTC),
                alive=row["alive"],
                until=row["lease_until"].astimezone(UTC),
                presence=presence_from(row["presence"]),
                closed=row["closed"],
            )
            for row in self._ask(
                "list_sessions", sessions=None if sessions is None else list(sessions)
            )
        ]

    def prune(self, *, age: timedelta, limit: int = 5000) -> int:
        (row,) = self._ask("prune_slots", age=age, chunk=limit)
        gone: int = row["gone"]
        if gone < limit:
            self._ask("prune_sessions", age=age)
        return gone

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                connection.close()

    def _connect(self) -> Connection:
        connection = self._server.connect()
        try:
            refuse_unfit(connection, self._server)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _ask(self, query: str, **parameters: object) -> list[dict[str, Any]]:
        """What the server answers to a query of ``postgres.sql``.

        Raises:
            StoreUnavailable: Whatever went wrong. The next call connects anew, since nobody knows
                what the connection has been through.
        """
        failed = 0
        try:
            while True:
                try:
                    connection = self._connection or self._connect()
                    cursor = connection.execute(QUERIES[query], parameters)
                    return cursor.fetchall() if cursor.description else []
                except (errors.DeadlockDetected, errors.SerializationFailure):
                    failed += 1
                    if failed == TRIES:
                        raise
        except psycopg.Error as exc:
            self.close()
            raise StoreUnavailable(str(self._server.problem(exc))) from exc
        except StoreSchemaError as exc:  # found when it connected anew
            raise StoreUnavailable(str(exc)) from exc
        except BaseException:
            self.close()
            raise


def refuse_unfit(connection: Connection, server: Server) -> None:
    """See that the tables are those this worker knows, and that it may use them.

    Raises:
        StoreSchemaError: They are not, or it may not.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreSchemaError(
            f"the database {server.place} is encoded in {encoding}; expected one in UTF8 "
            "(CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
        )
    try:
        row = connection.execute(QUERIES["schema_version"]).fetchone()
    except errors.UndefinedTable:
        row = None
    found = None if row is None else row["version"]
    if found != SCHEMA:
        raise StoreSchemaError(misfit(found, server.place))
    missing = connection.execute(QUERIES["missing_rights"]).fetchall()
    if missing:
        rights = ", ".join(f"{row['right']} on {row['table']}" for row in missing)
        raise StoreSchemaError(
            f"the role {connection.info.user} lacks rights in {server.place}: {rights}; "
            "GRANT them, or connect as the role that ran `worker migrate`"
        )


def misfit(found: str | None, place: str) -> str:
    """Which tables were found, which are needed, and what to do."""
    needs = f"this worker needs schema {SCHEMA}"
    if found is None:
        return f"{place} has no tables of the worker in its search_path; {needs}: `worker migrate`"
    if found < SCHEMA:
        return f"{place} has the worker's tables of schema {found}; {needs}: run `worker migrate`"
    return (
        f"{place} has the worker's tables of schema {found}, which is newer; {needs}: "
        "install a sidecar-worker at least as new as the one that ran `worker migrate`"
    )


def batches(changes: Sequence[Change]) -> Iterator[Mapping[str, int]]:
    """Task to place, in as many batches as a task has changes: one, unless a caller is odd."""
    seen: Counter[str] = Counter()
    ordered: list[dict[str, int]] = []
    for place, change in enumerate(changes):
        task = change.book.task
        if seen[task] == len(ordered):
            ordered.append({})
        ordered[seen[task]][task] = place
        seen[task] += 1
    yield from ordered


def change_row(change: Change) -> dict[str, Any]:
    return {
        "task": change.book.task,
        "version": change.book.version,
        "state": book_to(change.book),
        "session": change.session,
    }


def rows_of(change: Change) -> list[dict[str, Any]]:
    """The entries' rows; of two with the same key the last, as if they came one by one."""
    return [entry_row(entry) for entry in {entry.key: entry for entry in change.entries}.values()]


def entry_row(entry: Entry) -> dict[str, Any]:
    return {
        "task": entry.task,
        "slot": moment(entry.slot),
        "trigger": entry.trigger,
        "outcome": entry.outcome,
        "recorded_at": moment(entry.recorded_at),
        "last": None if entry.last is None else moment(entry.last),
        "count": entry.count,
        "replica": entry.replica,
        "session": entry.session,
        "run_id": entry.run_id,
        "late_ms": entry.late_ms,
        "duration_ms": entry.duration_ms,
        "error": entry.error,
        "cancel": entry.cancel,
        "overlap": entry.overlap,
        "losses": entry.losses,
    }


def entry_of(row: Mapping[str, Any]) -> Entry:
    outcome, last = Outcome(row["outcome"]), row["last"]
    return Entry(
        task=row["task"],
        slot=row["slot"].astimezone(UTC),
        trigger=Trigger(row["trigger"]),
        outcome=outcome,
        recorded_at=row["recorded_at"].astimezone(UTC),
        last=None if last is None else last.astimezone(UTC),
        count=row["count"],
        run_id=row["run_id"],
        session=None if row["session"] is None else SessionId(row["session"]),
        replica=row["replica"],
        alive=outcome.final or row["alive"],
        late_ms=row["late_ms"],
        duration_ms=row["duration_ms"],
        error=row["error"],
        cancel=row["cancel"],
        overlap=row["overlap"],
        losses=row["losses"],
    )


def book_of(task: str, rows: Sequence[Mapping[str, Any]]) -> Book:
    if not rows:
        return Book(task=task)
    active = tuple(entry_of(row) for row in rows if row["slot"] is not None)
    return book_from(task, rows[0]["version"], rows[0]["state"], active)


def moment(at: datetime) -> str:
    """To the microsecond, which a number of seconds would not be for ever."""
    return at.astimezone(UTC).isoformat()
