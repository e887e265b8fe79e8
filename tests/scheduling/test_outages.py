"""What a scheduler does about a store that fails at the worst moment."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.waiting import wait_until
from worker.backends.memory import MemoryStore
from worker.clock import SystemClock
from worker.errors import StoreUnavailable
from worker.events import Events
from worker.ledger.book import (
    Book,
    Change,
    Entry,
    HistoryQuery,
    Outcome,
    Pulse,
    SessionId,
    Written,
)
from worker.ledger.ledger import Attend, Claimant, decide
from worker.ledger.thread import LedgerThread
from worker.ledger.versions import new_version
from worker.running.runner import Runner
from worker.schedules.catch_up import CatchUp, CatchUpPolicy
from worker.schedules.policies import Policies, TaskSchedule
from worker.schedules.schedule import EPOCH, Interval
from worker.scheduling.scheduler import FirstRun, Scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

SECOND = timedelta(seconds=1)
AT_ONCE = FirstRun(delay=timedelta(0), spread=timedelta(0))


class FragileStore(MemoryStore):
    """A store in memory that can be unreachable, and whose answers can get lost."""

    down = False
    lost_answers = 0
    """How many answers to writes that grant a run are still to be lost."""

    def read(self, tasks: Sequence[str]) -> dict[str, Book]:
        self._fail_if_down()
        return dict(super().read(tasks))

    def write(self, changes: Sequence[Change]) -> list[Written]:
        self._fail_if_down()
        written = super().write(changes)
        grants = any(e.outcome is Outcome.RUNNING for change in changes for e in change.entries)
        if grants and self.lost_answers:
            self.lost_answers -= 1
            raise StoreUnavailable("the connection was lost after the request")
        return written

    def renew(self, session: SessionId, ttl: timedelta) -> Pulse:
        self._fail_if_down()
        return super().renew(session, ttl)

    def _fail_if_down(self) -> None:
        if self.down:
            raise StoreUnavailable("it is down")

    def all(self, task: str) -> list[Entry]:
        return self.history(HistoryQuery(task=task, limit=10_000))


@asynccontextmanager
async def scheduling(scheduler: Scheduler, ledger: LedgerThread) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        ledger.start(group)
        scheduler.start(group)
        try:
            yield
        finally:
            await scheduler.stop(SECOND)
            await ledger.stop(SECOND)


@pytest.fixture
async def bench() -> AsyncIterator[tuple[FragileStore, LedgerThread, Scheduler]]:
    store, clock, events = FragileStore(), SystemClock(), Events()
    ledger = LedgerThread(lambda: store, replica="this", keep=timedelta(days=1), clock=clock)
    async with httpx.AsyncClient() as client:
        runner = Runner(client, clock=clock, events=events)
        scheduler = Scheduler(runner, clock=clock, events=events, ledger=ledger, first_run=AT_ONCE)
        yield store, ledger, scheduler


Bench = tuple[FragileStore, LedgerThread, Scheduler]


@pytest.mark.parametrize("needs_ledger", [True, False])
async def test_run_that_was_granted_in_a_lost_answer_begins_all_the_same(
    bench: Bench, needs_ledger: bool
) -> None:
    store, ledger, scheduler = bench
    runs = 0

    async def ticks() -> None:
        nonlocal runs
        runs += 1

    scheduler.register_task(ticks, interval="1h", needs_ledger=needs_ledger)
    store.lost_answers = 1
    async with scheduling(scheduler, ledger):
        await wait_until(
            lambda: any(e.outcome is Outcome.RAN for e in store.all("ticks")),
            "the run is recorded",
        )
    (entry,) = store.all("ticks")
    assert (entry.outcome, runs) == (Outcome.RAN, 1)


async def test_task_that_needs_no_ledger_goes_on_although_its_last_run_could_not_be_recorded(
    bench: Bench,
) -> None:
    store, ledger, scheduler = bench
    runs = 0

    async def ticks() -> None:
        nonlocal runs
        runs += 1
        store.down = runs < 4

    scheduler.register_task(ticks, interval="100ms", needs_ledger=False)
    async with scheduling(scheduler, ledger):
        await wait_until(lambda: runs >= 6, "it goes on, and the store is up again")
        await wait_until(
            lambda: sum(e.outcome is Outcome.RAN for e in store.all("ticks")) >= 6,
            "what ran without the store is recorded",
        )
    entries = store.all("ticks")
    assert sum(entry.outcome is Outcome.RAN for entry in entries) == runs
    # A slot that was due at the very end waits for the next start.
    assert not [entry for entry in entries if entry.outcome is Outcome.RUNNING]


async def test_run_begun_with_the_store_and_one_begun_without_both_get_their_outcomes(
    bench: Bench,
) -> None:
    store, ledger, scheduler = bench
    order: list[int] = []
    release = asyncio.Event()

    async def overlaps() -> None:
        number = len(order)
        order.append(number)
        store.down = number < 2
        if number == 1:  # the run without the store ends after the other was recorded
            store.down = False
            await release.wait()

    scheduler.register_task(overlaps, interval="200ms", needs_ledger=False, overlap="allow_all")
    async with scheduling(scheduler, ledger):
        await wait_until(
            lambda: any(e.outcome is Outcome.RAN for e in store.all("overlaps")),
            "the first is recorded",
        )
        release.set()
        await wait_until(
            lambda: sum(e.outcome is Outcome.RAN for e in store.all("overlaps")) >= 3,
            "the others are recorded",
        )
    assert all(entry.outcome.final for entry in store.all("overlaps"))


def test_what_was_done_without_the_store_is_recorded_slot_by_slot() -> None:
    every = Interval(SECOND)
    terms = TaskSchedule("tick", every, Policies(catch_up=CatchUp(policy=CatchUpPolicy.LATEST)))
    start = EPOCH + timedelta(days=20_000)
    book = Book(task="tick", versions=(new_version(terms, start),), known_since=start)

    def entry(number: int, outcome: Outcome, **more: Any) -> Entry:
        slot = start + number * SECOND
        return Entry(task="tick", slot=slot, outcome=outcome, recorded_at=start, **more)

    done = (
        entry(3, Outcome.MISSED, last=start + 5 * SECOND, count=3),
        entry(2, Outcome.RAN, run_id="a"),
        entry(6, Outcome.RAN, run_id="b"),
    )
    request = Attend(terms=terms, seen=start, unrecorded=done)
    answer = decide(request, book, claimant=Claimant("one"), now=start + 8.5 * SECOND)
    told = {
        (entry.slot - start) // SECOND: (entry.outcome, entry.count) for entry in answer.recorded
    }
    assert told == {
        1: (Outcome.MISSED, 1),
        2: (Outcome.RAN, 1),
        3: (Outcome.MISSED, 3),
        6: (Outcome.RAN, 1),
        7: (Outcome.MISSED, 1),
    }
    assert [(entry.slot - start) // SECOND for entry in answer.granted] == [8]
    assert answer.book.last_outcome is Outcome.RAN
    assert answer.book.cursor == start + 8 * SECOND
