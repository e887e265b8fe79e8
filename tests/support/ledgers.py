"""The ledger's rules over a store in memory, with hands to move its clock and to make it fail."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from tests.support.clock import START, FakeClock
from worker.backends.memory import MemoryStore
from worker.errors import StoreUnavailable, WorkerError
from worker.ledger.book import Book, Entry, HistoryQuery, Outcome
from worker.ledger.ledger import Answer, Claimant, Request, apply
from worker.schedules.policies import Policies, TaskSchedule
from worker.schedules.schedule import Interval, Schedule, slots_between

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from worker.ledger.book import Change, Pulse, Replica, SessionId, Written
    from worker.ledger.presence import Presence
    from worker.ports import LedgerStore

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
TTL = timedelta(seconds=30)
HOURLY = Interval(HOUR, 30 * MINUTE)
"""`START` is one of its slots."""
ALWAYS = 10_000
T = TypeVar("T")


class FailingStore:
    """A `worker.ports.LedgerStore` over another, which fails, hangs or races when it is told to.

    Attributes:
        down: What is wrong with it; nothing is read or written while it is set.
        lose_answers: How many of the next writes are made, and never confirmed.
        before_write: Called once, between a reading and the writing that follows from it.
        renewed: Counts renewals.
        hanging: Whoever asks waits until it is set again.
    """

    def __init__(self, inner: LedgerStore) -> None:
        self.inner = inner
        self.down: str | None = None
        self.lose_answers = 0
        self.fail_reads_after: int | None = None
        self.before_write: Callable[[], None] | None = None
        self.renewed = 0
        self.on_renewed: Callable[[int], None] = lambda renewed: None
        self.works = threading.Event()
        self.works.set()
        self.hung = threading.Event()
        self.reads = 0
        self.closed = False

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.inner.warnings

    def _asked(self) -> None:
        if not self.works.is_set():
            self.hung.set()
            self.works.wait()
        if self.down is not None:
            raise StoreUnavailable(self.down)

    def open_session(
        self, replica: str, ttl: timedelta, presence: Presence | None = None
    ) -> SessionId:
        self._asked()
        return self.inner.open_session(replica, ttl, presence)

    def renew(self, session: SessionId, ttl: timedelta) -> Pulse:
        self._asked()
        pulse = self.inner.renew(session, ttl)
        self.renewed += 1
        self.on_renewed(self.renewed)
        return pulse

    def close_session(self, session: SessionId) -> None:
        self._asked()
        self.inner.close_session(session)

    def read(self, tasks: Sequence[str]) -> Mapping[str, Book]:
        self._asked()
        self.reads += 1
        if self.fail_reads_after is not None and self.reads > self.fail_reads_after:
            raise StoreUnavailable("the connection broke")
        return self.inner.read(tasks)

    def write(self, changes: Sequence[Change]) -> list[Written]:
        self._asked()
        hook, self.before_write = self.before_write, None
        if hook is not None:
            hook()
        written = self.inner.write(changes)
        if self.lose_answers:
            self.lose_answers -= 1
            raise StoreUnavailable("the connection broke before the answer came")
        return written

    def tasks(self) -> list[str]:
        self._asked()
        return self.inner.tasks()

    def history(self, query: HistoryQuery) -> list[Entry]:
        self._asked()
        return self.inner.history(query)

    def replicas(self, sessions: Collection[SessionId] | None = None) -> list[Replica]:
        self._asked()
        return self.inner.replicas(sessions)

    def prune(self, *, age: timedelta, limit: int = 5000) -> int:
        self._asked()
        return self.inner.prune(age=age, limit=limit)

    def close(self) -> None:
        self.closed = True


def terms_of(schedule: Schedule | None = HOURLY, **policies: object) -> TaskSchedule:
    """The task ``sync`` with that schedule and those policies."""
    return TaskSchedule("sync", schedule, Policies(**policies))  # type: ignore[arg-type]


@dataclass
class Desk:
    """Where claimants ask one ledger.

    Attributes:
        clock: The claimants' wall clock.
        time: The store's own, which judges the leases.
    """

    clock: FakeClock = field(default_factory=FakeClock)
    time: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.store = FailingStore(MemoryStore(self.time))

    def claimant(
        self, name: str = "one", *, hears: bool = True, presence: Presence | None = None
    ) -> Claimant:
        """A replica with a fresh session."""
        session = self.store.open_session(name, TTL, presence)
        return Claimant(name, session, set() if hears else None)

    def answers(self, requests: Iterable[Request], by: Claimant) -> list[Answer | WorkerError]:
        return apply(self.store, list(requests), claimant=by, now=self.clock.now())

    def ask(self, request: Request, by: Claimant) -> Answer:
        (answer,) = self.answers([request], by)
        if isinstance(answer, WorkerError):
            raise answer
        return answer

    def pass_time(self, duration: timedelta, *alive: Claimant) -> None:
        """Move both clocks; the claimants named keep their leases."""
        for claimant in alive:
            assert claimant.session is not None
            self.store.renew(claimant.session, duration + TTL)
        self.clock.advance(duration.total_seconds())
        self.time.advance(duration.total_seconds())

    @property
    def book(self) -> Book:
        return self.store.inner.read(["sync"])["sync"]

    @property
    def entries(self) -> list[Entry]:
        """Every entry, the oldest slot first."""
        return self.store.inner.history(HistoryQuery(limit=ALWAYS))[::-1]

    def outcomes(self) -> dict[datetime, str]:
        """Slot → outcome, of each entry; for a row of slots, of its first."""
        return {entry.slot: entry.outcome.value for entry in self.entries}

    def told(self) -> list[tuple[float, str, int]]:
        """Of each entry: hours since `START`, outcome, how many slots."""
        return [((e.slot - START) / HOUR, e.outcome.value, e.count) for e in self.entries]


def slots_of(entry: Entry, schedule: Schedule) -> list[datetime]:
    """The slots that an entry speaks for."""
    if entry.last is None:
        return [entry.slot]
    return [entry.slot, *slots_between(schedule, entry.slot, entry.last)]


def counted(entries: Iterable[Entry]) -> dict[str, int]:
    """How many slots have each last word."""
    counts: dict[str, int] = {}
    for entry in entries:
        if entry.outcome.final:
            counts[entry.outcome.value] = counts.get(entry.outcome.value, 0) + entry.count
    return counts


def only(values: Iterable[T]) -> T:
    (value,) = values
    return value


WAITING, RUNNING = Outcome.WAITING, Outcome.RUNNING
