"""The ledger in one SQLite file: what a worker on one machine remembers over its restarts."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from worker.backends.codec import (
    book_from,
    book_to,
    entry_from,
    entry_to,
    from_micros,
    presence_from,
    presence_to,
    to_micros,
)
from worker.backends.queries import load_queries
from worker.backends.sqlite_file import PATIENCE, SqliteFile, micros, now_micros, storable
from worker.errors import LeaseLost
from worker.ledger.book import Book, Outcome, Pulse, Replica, SessionId, Written
from worker.model import Trigger

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Mapping, Sequence
    from datetime import timedelta
    from pathlib import Path

    from worker.ledger.book import Change, Entry, EntryKey, HistoryQuery
    from worker.ledger.presence import Presence

__all__ = ["SqliteStore"]

QUERIES = load_queries("sqlite.sql")
COLUMNS = (
    *("task", "slot", "trigger", "outcome", "recorded_at", "last", "count", "run_id", "session"),
    *("replica", "late_ms", "duration_ms", "error", "cancel", "overlap", "losses"),
)
"""An entry's columns, in the order in which every statement has them."""
EARLIEST, LATEST = -(2**63), 2**63 - 1

encode = json.JSONEncoder(separators=(",", ":")).encode


class SqliteStore:
    """A `worker.ports.LedgerStore` in a file, shared by the processes of one machine.

    What survives what is said of `SqliteFile`. Runs whose records a power cut took count as never
    begun.

    Leases are judged by this machine's wall clock. If it is set forward, leases run out early, and
    runs that go on may be recorded as lost; if it is set back by *d*, a dead replica is noticed
    *d* later. A session that was closed stays closed either way.

    Sessions of a file that was deleted or replaced are unknown to the next: their leases are lost.

    Args:
        path: The file. It and its folder are made if they are missing, for this user alone.
        patience: How long to wait for another process that writes.

    Raises:
        ConfigurationError: The file cannot be made, read or written, or is not ours.
        StoreUnavailable: The disk is full, or another process keeps the file locked.
        StoreSchemaError: A newer worker has written it.
    """

    def __init__(self, path: Path, *, patience: timedelta = PATIENCE) -> None:
        self._file = SqliteFile(path, patience=patience)

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    def open_session(
        self, replica: str, ttl: timedelta, presence: Presence | None = None
    ) -> SessionId:
        with self._file.writing() as connection:
            now = now_micros()
            values = {
                "name": storable(replica),
                "now": now,
                "lease_until": now + micros(ttl),
                "presence": presence_to(presence),
            }
            added = connection.execute(QUERIES["open_session"], values)
            return SessionId(added.lastrowid or 0)

    def renew(self, session: SessionId, ttl: timedelta) -> Pulse:
        with self._file.writing() as connection:
            now = now_micros()
            values = {"session": session, "now": now, "lease_until": now + micros(ttl)}
            if not connection.execute(QUERIES["extend_lease"], values).rowcount:
                raise LeaseLost(f"the lease of session {session} has run out")
            rows = connection.execute(QUERIES["read_pulse"], values).fetchall()
        orphaned: set[str] = set()
        waiting: set[str] = set()
        cancelled: set[EntryKey] = set()
        for task, slot, trigger, outcome, is_cancelled, alive in rows:
            if outcome == Outcome.WAITING:
                waiting.add(task)
            elif is_cancelled:
                cancelled.add((task, from_micros(slot), Trigger(trigger)))
            elif not alive:
                orphaned.add(task)
        return Pulse(
            orphaned=frozenset(orphaned),
            waiting=frozenset(waiting),
            cancelled=frozenset(cancelled),
        )

    def close_session(self, session: SessionId) -> None:
        with self._file.writing() as connection:
            connection.execute(QUERIES["end_lease"], {"session": session, "now": now_micros()})

    def read(self, tasks: Sequence[str]) -> Mapping[str, Book]:
        values = {"tasks": encode(tuple(tasks)), "now": now_micros()}
        with self._file.connected() as connection:
            rows = connection.execute(QUERIES["read_books"], values).fetchall()
        kept: dict[str, tuple[int, str, list[Entry]]] = {}
        for version, state, *row in rows:
            active = kept.setdefault(row[1], (version, state, []))[2]
            if row[2] is not None:
                active.append(entry_of(row))
        return {
            task: book_of(task, *kept[task]) if task in kept else Book(task=task) for task in tasks
        }

    def write(self, changes: Sequence[Change]) -> list[Written]:
        with self._file.writing() as connection:
            now = now_micros()

            @cache
            def holds(session: SessionId) -> bool:
                values = {"session": session, "now": now}
                return connection.execute(QUERIES["lease_holds"], values).fetchone() is not None

            return [
                make(change, connection, change.session is None or holds(change.session))
                for change in changes
            ]

    def tasks(self) -> list[str]:
        with self._file.connected() as connection:
            return [task for (task,) in connection.execute(QUERIES["list_tasks"])]

    def history(self, query: HistoryQuery) -> list[Entry]:
        values = {
            "now": now_micros(),
            "task": query.task,
            "outcomes": encode(sorted(query.outcomes or Outcome)),
            "since": EARLIEST if query.since is None else to_micros(query.since),
            "until": LATEST if query.until is None else to_micros(query.until),
            "limit": query.limit,
        }
        name = "history_of_all" if query.task is None else "history_of_task"
        with self._file.connected() as connection:
            rows = connection.execute(QUERIES[name], values).fetchall()
        return [entry_of(row) for row in rows]

    def replicas(self, sessions: Collection[SessionId] | None = None) -> list[Replica]:
        values = {"sessions": None if sessions is None else encode(sorted(sessions))}
        with self._file.connected() as connection:
            now = now_micros()
            rows = connection.execute(QUERIES["list_sessions"], values).fetchall()
        return [
            Replica(
                session=SessionId(session),
                name=name,
                since=from_micros(since),
                seen=from_micros(seen),
                alive=lease_until > now,
                until=from_micros(lease_until or seen),
                presence=presence_from(presence),
                closed=not lease_until,
            )
            for session, name, since, seen, lease_until, presence in rows
        ]

    def prune(self, *, age: timedelta, limit: int = 5000) -> int:
        before = now_micros() - micros(age)
        with self._file.writing() as connection:
            values = {"before": before, "limit": limit}
            forgotten = connection.execute(QUERIES["prune_entries"], values).rowcount
            if forgotten < limit:
                connection.execute(QUERIES["prune_sessions"], {"before": before})
        return forgotten

    def close(self) -> None:
        self._file.close()


def make(change: Change, connection: sqlite3.Connection, lease_holds: bool) -> Written:
    """Make one change, or none of it; inside of a transaction that has the lock."""
    book = change.book
    entries = [to_row(entry) for entry in change.entries]
    refusal = None if lease_holds else Written.NO_LEASE
    if lease_holds:
        final = QUERIES["entry_is_final"]
        if any(connection.execute(final, row[:3]).fetchone() for row in entries):
            refusal = Written.TAKEN
    if refusal:
        row = connection.execute(QUERIES["read_version"], {"task": book.task}).fetchone()
        return refusal if book.version == (row[0] if row else 0) else Written.OUTDATED
    state = encode(book_to(book))
    if book.version:
        values: tuple[object, ...] = (state, book.task, book.version)
        changed = connection.execute(QUERIES["change_book"], values)
    else:
        changed = connection.execute(QUERIES["add_book"], (book.task, state))
    if not changed.rowcount:
        return Written.OUTDATED
    if entries:
        connection.executemany(QUERIES["put_entry"], entries)
    return Written.DONE


def to_row(entry: Entry) -> tuple[Any, ...]:
    kept = entry_to(entry)
    kept["cancel"] = int(entry.cancel)
    kept["error"] = storable(entry.error)
    kept["replica"] = storable(entry.replica)
    return tuple([kept[column] for column in COLUMNS])


def entry_of(row: Sequence[Any]) -> Entry:
    alive, *columns = row
    return entry_from(dict(zip(COLUMNS, columns, strict=True)), alive=bool(alive))


def book_of(task: str, version: int, state: str, active: list[Entry]) -> Book:
    return book_from(task, version, json.loads(state), tuple(active))
