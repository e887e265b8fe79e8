"""Any store of the ledger, with leases that a test's clock judges."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.errors import LeaseLost
from worker.ledger.book import Pulse

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from tests.support.clock import FakeClock
    from worker.ledger.book import Book, Change, Entry, HistoryQuery, Replica, SessionId, Written
    from worker.ledger.presence import Presence
    from worker.ports import LedgerStore

LONG = timedelta(hours=1)


@dataclass
class TimedStore:
    """A `worker.ports.LedgerStore` over another one, whose own leases outlast the test."""

    inner: LedgerStore
    clock: FakeClock
    leases: dict[SessionId, datetime] = field(default_factory=dict)
    ended: set[SessionId] = field(default_factory=set)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.inner.warnings

    def open_session(
        self, replica: str, ttl: timedelta, presence: Presence | None = None
    ) -> SessionId:
        session = self.inner.open_session(replica, LONG, presence)
        self.leases[session] = self.clock.now() + ttl
        return session

    def renew(self, session: SessionId, ttl: timedelta) -> Pulse:
        if not self._alive(session):
            raise LeaseLost(f"the lease of session {session} has run out")
        self.leases[session] = self.clock.now() + ttl
        return Pulse()

    def close_session(self, session: SessionId) -> None:
        self.leases[session] = min(self.leases[session], self.clock.now())

    def read(self, tasks: Sequence[str]) -> Mapping[str, Book]:
        self._end_leases()
        return self.inner.read(tasks)

    def write(self, changes: Sequence[Change]) -> list[Written]:
        self._end_leases()
        return self.inner.write(changes)

    def tasks(self) -> list[str]:
        return self.inner.tasks()

    def history(self, query: HistoryQuery) -> list[Entry]:
        return self.inner.history(query)

    def replicas(self, sessions: Collection[SessionId] | None = None) -> list[Replica]:
        return [
            replace(one, alive=self._alive(one.session), until=self.leases[one.session])
            for one in self.inner.replicas(sessions)
        ]

    def prune(self, *, age: timedelta, limit: int = 5000) -> int:
        return self.inner.prune(age=age, limit=limit)

    def close(self) -> None:
        self.inner.close()

    def _alive(self, session: SessionId) -> bool:
        return self.leases[session] > self.clock.now()

    def _end_leases(self) -> None:
        for session in self.leases:
            if session not in self.ended and not self._alive(session):
                self.ended.add(session)
                self.inner.close_session(session)
