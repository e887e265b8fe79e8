"""The ledger in this process's memory: for tests, previews, and whoever needs no memory at all."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from worker.clock import Clock, SystemClock
from worker.errors import LeaseLost
from worker.ledger.book import (
    Book,
    Change,
    Entry,
    EntryKey,
    HistoryQuery,
    Outcome,
    Pulse,
    Replica,
    SessionId,
    Written,
    changed,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from worker.ledger.presence import Presence

__all__ = ["MemoryStore"]

MOST = 100_000
"""Some 60 MB."""


@dataclass
class Life:
    """A session."""

    name: str
    since: datetime
    seen: datetime
    until: datetime
    lease_until: float
    presence: Presence | None
    closed: bool = False


@dataclass
class MemoryStore:
    """A `worker.ports.LedgerStore`; several replicas of one process may share it.

    Args:
        clock: Judges the leases, by its monotonic time: a wall clock that is set ends none.
        most: How many last words are kept; the oldest are forgotten.
    """

    clock: Clock = field(default_factory=SystemClock)
    most: int = MOST
    _lock: Lock = field(default_factory=Lock)
    _books: dict[str, Book] = field(default_factory=dict)
    _entries: dict[str, dict[EntryKey, Entry]] = field(default_factory=dict)
    _active: dict[str, dict[EntryKey, Entry]] = field(default_factory=dict)
    _final: deque[EntryKey] = field(default_factory=deque)
    _sessions: dict[SessionId, Life] = field(default_factory=dict)
    _last_session: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        return (
            "the ledger is kept in memory: at the end of this process the record of every slot, "
            "and every pause, is lost; slots that pass while it is down are not accounted for; "
            "each start runs every interval's latest slot again; no other process shares it",
        )

    def open_session(
        self, replica: str, ttl: timedelta, presence: Presence | None = None
    ) -> SessionId:
        with self._lock:
            now = self.clock.now()
            self._last_session += 1
            session = SessionId(self._last_session)
            self._sessions[session] = Life(
                replica,
                since=now,
                seen=now,
                until=now + ttl,
                lease_until=self.clock.monotonic() + ttl.total_seconds(),
                presence=presence,
            )
            return session

    def renew(self, session: SessionId, ttl: timedelta) -> Pulse:
        with self._lock:
            if not self._alive(session):
                raise LeaseLost(f"the lease of session {session} has run out")
            life = self._sessions[session]
            life.seen = self.clock.now()
            life.until = life.seen + ttl
            life.lease_until = self.clock.monotonic() + ttl.total_seconds()
            active = [
                self._judged(entry) for book in self._active.values() for entry in book.values()
            ]
            running = [entry for entry in active if entry.outcome is Outcome.RUNNING]
            return Pulse(
                orphaned=frozenset(e.task for e in running if not e.alive),
                waiting=frozenset(e.task for e in active if e.outcome is Outcome.WAITING),
                cancelled=frozenset(e.key for e in running if e.session == session and e.cancel),
            )

    def close_session(self, session: SessionId) -> None:
        with self._lock:
            if session not in self._sessions:
                return
            life = self._sessions[session]
            life.closed = True
            if self._alive(session):
                life.until, life.lease_until = self.clock.now(), self.clock.monotonic()

    def read(self, tasks: Sequence[str]) -> Mapping[str, Book]:
        with self._lock:
            return {task: self._book(task) for task in tasks}

    def write(self, changes: Sequence[Change]) -> list[Written]:
        with self._lock:
            return [self._write(change) for change in changes]

    def tasks(self) -> list[str]:
        with self._lock:
            return sorted(self._books)

    def history(self, query: HistoryQuery) -> list[Entry]:
        with self._lock:
            books = (
                self._entries.values()
                if query.task is None
                else [self._entries.get(query.task, {})]
            )
            found = [
                self._judged(entry)
                for book in books
                for entry in book.values()
                if (not query.outcomes or entry.outcome in query.outcomes)
                and (query.since is None or entry.slot >= query.since)
                and (query.until is None or entry.slot < query.until)
            ]
        found.sort(key=lambda entry: (entry.slot, entry.task, entry.trigger), reverse=True)
        return found[: query.limit]

    def replicas(self, sessions: Collection[SessionId] | None = None) -> list[Replica]:
        with self._lock:
            wanted = self._sessions.keys() if sessions is None else sorted(sessions)
            return [
                Replica(
                    session=session,
                    name=life.name,
                    since=life.since,
                    seen=life.seen,
                    alive=self._alive(session),
                    until=life.until,
                    presence=life.presence,
                    closed=life.closed,
                )
                for session in reversed(list(wanted))
                if (life := self._sessions.get(session)) is not None
            ]

    def prune(self, *, age: timedelta, limit: int = 5000) -> int:
        with self._lock:
            before = self.clock.now() - age
            old = [
                entry
                for book in self._entries.values()
                for entry in book.values()
                if entry.outcome.final and entry.recorded_at < before
            ]
            old = old[:limit]
            for entry in old:
                del self._entries[entry.task][entry.key]
            needed = {entry.session for book in self._active.values() for entry in book.values()}
            for session, life in list(self._sessions.items()):
                if life.seen < before and not self._alive(session) and session not in needed:
                    del self._sessions[session]
            return len(old)

    def close(self) -> None:
        pass

    def _alive(self, session: SessionId | None) -> bool:
        life = self._sessions.get(session) if session is not None else None
        return life is not None and life.lease_until > self.clock.monotonic()

    def _judged(self, entry: Entry) -> Entry:
        return changed(entry, alive=entry.outcome.final or self._alive(entry.session))

    def _book(self, task: str) -> Book:
        active = sorted(self._active.get(task, {}).values(), key=lambda e: (e.slot, e.trigger))
        book = self._books.get(task) or Book(task=task)
        return changed(book, active=tuple(map(self._judged, active)))

    def _write(self, change: Change) -> Written:
        task = change.book.task
        entries = self._entries.setdefault(task, {})
        present = self._books.get(task)
        if change.book.version != (present.version if present else 0):
            return Written.OUTDATED
        if change.session is not None and not self._alive(change.session):
            return Written.NO_LEASE
        if any(
            entry.key in entries and entries[entry.key].outcome.final for entry in change.entries
        ):
            return Written.TAKEN
        self._books[task] = changed(change.book, version=change.book.version + 1, active=())
        active = self._active.setdefault(task, {})
        for entry in change.entries:
            entries[entry.key] = entry
            if entry.outcome.final:
                active.pop(entry.key, None)
                self._final.append(entry.key)
            else:
                active[entry.key] = entry
        while len(self._final) > self.most:
            key = self._final.popleft()
            self._entries[key[0]].pop(key, None)  # it may be pruned already
        return Written.DONE
