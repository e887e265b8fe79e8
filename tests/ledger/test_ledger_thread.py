"""The ledger's thread: the loop never waits for the store, and the lease is kept meanwhile."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.ledgers import HOUR, HOURLY, FailingStore, only
from tests.support.waiting import wait_until
from worker.backends.memory import MemoryStore
from worker.clock import SystemClock
from worker.errors import ConfigurationError, LeaseLost, StoreUnavailable, WorkerError
from worker.ledger.book import Entry, HistoryQuery, Outcome, Pulse
from worker.ledger.ledger import Answer, Attend, Draft, Finish
from worker.ledger.thread import Lease, LedgerThread
from worker.schedules.policies import TaskSchedule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.ports import LedgerStore

SHORT = Lease(ttl=timedelta(milliseconds=600))
NO_GRACE = timedelta(0)
ASKED_FOR_LONG_S = 10.0


@dataclass
class Bench:
    """A ledger's thread over a store that fails on command, and what it told the loop."""

    store: FailingStore = field(default_factory=lambda: FailingStore(MemoryStore(SystemClock())))
    lease: Lease = SHORT
    opening: WorkerError | None = None
    pulses: list[Pulse | None] = field(default_factory=list)
    troubles: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.others = set(threading.enumerate())  # of tests before, which may take a while to end
        self.thread = LedgerThread(
            self.open_store, replica="one", keep=timedelta(days=1), lease=self.lease
        )
        self.thread.on_pulse = self.pulses.append
        self.thread.on_store = lambda trouble: self.troubles.append(
            None if trouble is None else str(trouble)
        )

    def open_store(self) -> LedgerStore:
        if self.opening is not None:
            raise self.opening
        return self.store

    @property
    def alive(self) -> list[bool]:
        """Of each session, the latest first, whether its lease holds."""
        return [replica.alive for replica in self.store.inner.replicas()]

    @property
    def threads(self) -> list[threading.Thread]:
        ours = set(threading.enumerate()) - self.others
        return [thread for thread in ours if thread.name == "ledger"]


def attending(task: str = "sync") -> Attend:
    return Attend(terms=TaskSchedule(task, HOURLY))


def finishing(entry: Entry) -> Finish:
    return Finish(terms=TaskSchedule("sync", HOURLY), entry=entry, outcome=Outcome.RAN)


@asynccontextmanager
async def started(bench: Bench) -> AsyncIterator[Bench]:
    bench.thread.start()
    try:
        yield bench
    finally:
        bench.store.works.set()
        bench.store.down = None
        await bench.thread.stop(NO_GRACE)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with started(Bench()) as bench:
        yield bench


async def test_an_answer_comes_in_the_event_loop(bench: Bench) -> None:
    answers: list[tuple[str, Answer | WorkerError]] = []
    bench.thread.submit(
        attending(), lambda answer: answers.append((threading.current_thread().name, answer))
    )
    await wait_until(lambda: answers != [], "there is an answer")
    name, answer = only(answers)
    assert name == threading.main_thread().name
    assert isinstance(answer, Answer)
    assert only(answer.granted).replica == "one"


async def test_whoever_waits_is_told_what_was_wrong(bench: Bench) -> None:
    entry = only((await bench.thread.ask(attending())).granted)
    await bench.thread.ask(finishing(entry))
    with pytest.raises(LeaseLost, match="given up as lost"):
        await bench.thread.ask(finishing(entry))


async def test_what_is_asked_while_the_store_is_slow_is_decided_together(bench: Bench) -> None:
    await wait_until(lambda: len(bench.pulses) >= 2, "it has begun, and waits")
    bench.store.works.clear()
    first = asyncio.create_task(bench.thread.ask(attending("first")))
    await wait_until(bench.store.hung.is_set, "the store is being asked")
    reads = bench.store.reads
    others = [asyncio.create_task(bench.thread.ask(attending(f"t{n}"))) for n in range(40)]
    await asyncio.sleep(0)
    bench.store.works.set()
    answers = await asyncio.gather(first, *others)
    assert [len(answer.granted) for answer in answers] == [1] * 41
    assert bench.store.reads == reads + 2


async def test_an_answer_that_nobody_can_hear_any_more_stops_nothing(bench: Bench) -> None:
    bench.store.works.clear()
    unheard = asyncio.create_task(bench.thread.ask(attending("unheard")))
    await wait_until(bench.store.hung.is_set, "the store is being asked")
    unheard.cancel()
    bench.store.works.set()
    assert len((await bench.thread.ask(attending())).granted) == 1


async def test_a_reply_that_raises_stops_no_other(bench: Bench) -> None:
    def raises(answer: Answer | WorkerError) -> None:
        raise RuntimeError("broken reply")

    bench.thread.submit(attending("broken"), raises)
    assert len((await bench.thread.ask(attending())).granted) == 1


async def test_a_store_that_is_down_is_told_once_and_its_return_too(bench: Bench) -> None:
    await wait_until(lambda: bench.pulses != [], "the lease was renewed")
    bench.store.down = "no connection"
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="no connection"):
            await bench.thread.ask(attending())
    assert bench.thread.trouble == "no connection"
    assert bench.troubles == ["no connection"]
    bench.store.down = "the disk is full"
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await bench.thread.ask(attending())
    bench.store.down = None
    await wait_until(lambda: bench.troubles[-1] is None, "the store works again")
    assert bench.troubles == ["no connection", None], "one outage has many words"
    assert bench.thread.trouble is None


async def test_a_store_that_cannot_be_opened_yet_is_tried_again() -> None:
    async with started(Bench(opening=StoreUnavailable("refused"))) as bench:
        with pytest.raises(StoreUnavailable, match="refused"):
            await bench.thread.ask(attending())
        bench.opening = None
        await wait_until(lambda: bench.pulses != [], "it was opened and a lease taken")
        assert bench.troubles == ["refused", None]


async def test_a_store_that_is_misconfigured_is_unavailable_to_whoever_asks() -> None:
    async with started(Bench(opening=ConfigurationError(["no such scheme"]))) as bench:
        with pytest.raises(WorkerError, match="no such scheme"):
            await bench.thread.ask(attending())
        await wait_until(lambda: bench.troubles != [], "it is told")
        assert "no such scheme" in str(only(bench.troubles))


async def test_a_defect_of_the_store_does_not_end_the_thread(bench: Bench) -> None:
    def defect() -> None:
        raise ZeroDivisionError("oops")

    bench.store.before_write = defect
    with pytest.raises(StoreUnavailable, match="ZeroDivisionError: oops"):
        await bench.thread.ask(attending())
    assert len((await bench.thread.ask(attending())).granted) == 1
    assert "ZeroDivisionError: oops" in bench.troubles


async def test_a_grant_whose_answer_was_lost_is_given_again(bench: Bench) -> None:
    bench.store.lose_answers = 1
    with pytest.raises(StoreUnavailable):
        await bench.thread.ask(attending())
    entry = only((await bench.thread.ask(attending())).granted)
    await bench.thread.ask(finishing(entry))
    assert [e.outcome for e in bench.store.inner.history(HistoryQuery())] == [Outcome.RAN]


async def test_what_was_granted_and_heard_of_is_not_given_again(bench: Bench) -> None:
    assert len((await bench.thread.ask(attending())).granted) == 1
    for _ in range(3):
        assert (await bench.thread.ask(attending())).granted == ()


async def test_the_lease_is_renewed_while_the_loop_is_blocked(bench: Bench) -> None:
    await wait_until(lambda: bench.pulses != [], "the lease was renewed")
    enough = threading.Event()
    last = bench.store.renewed + 8  # far more than one lease

    def count(renewed: int) -> None:
        if renewed >= last:
            enough.set()

    bench.store.on_renewed = count
    assert enough.wait(ASKED_FOR_LONG_S), "this blocks the loop; the thread goes on all the same"
    assert bench.alive == [True]
    await bench.thread.ask(attending())
    assert None not in bench.pulses


async def test_a_loop_that_stands_still_for_too_long_loses_the_lease_and_gets_another() -> None:
    stalled = [0.0]
    lease = Lease(ttl=SHORT.ttl, stall_limit=timedelta(seconds=5), stalled_for=lambda: stalled[0])
    async with started(Bench(lease=lease)) as bench:
        await wait_until(lambda: bench.pulses != [], "the lease was renewed")
        stalled[0] = 6.0
        await wait_until(lambda: bench.alive == [False], "the lease has run out")
        assert None not in bench.pulses
        stalled[0] = 0.0
        await wait_until(lambda: bench.alive == [True, False], "there is a new one")
        await wait_until(lambda: bench.pulses[-1] is not None, "it was renewed")
        assert bench.pulses.count(None) == 1


async def test_a_lease_that_was_lost_is_told_before_anything_is_granted_under_the_next(
    bench: Bench,
) -> None:
    entry = only((await bench.thread.ask(attending())).granted)
    told: list[str] = []
    bench.thread.on_pulse = lambda pulse: told.append("lost" if pulse is None else "renewed")
    assert entry.session is not None
    bench.store.inner.close_session(entry.session)
    bench.thread.submit(
        attending("other"),
        lambda answer: told.append("refused" if isinstance(answer, LeaseLost) else "granted"),
    )
    await wait_until(lambda: "lost" in told and "renewed" in told, "the lease was taken anew")
    bench.thread.submit(attending("third"), lambda answer: told.append("granted anew"))
    await wait_until(lambda: "granted anew" in told, "the thread goes on")
    assert "granted" not in told
    assert told.index("lost") < told.index("granted anew")
    with pytest.raises(LeaseLost):
        await bench.thread.ask(finishing(entry))


async def test_what_others_wish_is_heard_with_the_next_renewal(bench: Bench) -> None:
    two = LedgerThread(lambda: bench.store.inner, replica="two", keep=HOUR, lease=Lease())
    two.start()
    await two.ask(attending())
    await two.stop(NO_GRACE)

    def orphaned() -> bool:
        last = bench.pulses[-1] if bench.pulses else None
        return last is not None and last.orphaned == {"sync"}

    await wait_until(orphaned, "the run that was left behind is told of")


async def test_stopping_answers_what_was_asked_and_gives_the_lease_back(bench: Bench) -> None:
    await bench.thread.ask(attending("first"))
    asked = asyncio.create_task(bench.thread.ask(attending()))
    await asyncio.sleep(0)
    await bench.thread.stop(NO_GRACE)
    assert len((await asked).granted) == 1
    assert bench.alive == [False]
    assert bench.store.closed
    assert bench.threads == []


async def test_stopping_a_store_that_is_down_ends_the_thread(bench: Bench) -> None:
    await bench.thread.ask(attending())
    bench.store.down = "no connection"
    await bench.thread.stop(NO_GRACE)
    assert bench.threads == []


async def test_a_store_that_hangs_does_not_keep_the_worker_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.ledger.thread.JOIN_S", 0.05)
    async with started(Bench()) as bench:
        await wait_until(lambda: bench.pulses != [], "the lease was renewed")
        bench.store.works.clear()
        await wait_until(bench.store.hung.is_set, "the store hangs")
        async with asyncio.timeout(5):
            await bench.thread.stop(NO_GRACE)
        (left_behind,) = bench.threads
        assert left_behind.daemon, "it would keep the process from ending"
        bench.store.works.set()
        left_behind.join(ASKED_FOR_LONG_S)
        assert bench.threads == []
        assert bench.alive == [False]


async def test_stopping_twice_or_before_the_start_does_nothing() -> None:
    bench = Bench()
    await bench.thread.stop(NO_GRACE)
    async with started(bench):
        await bench.thread.stop(NO_GRACE)


async def test_old_records_are_pruned_now_and_then(bench: Bench) -> None:
    class Ancient:
        task = "ancient"
        leased = True

        def decide(self, draft: Draft) -> None:
            at = draft.now - timedelta(days=2)
            entry = Entry(task="ancient", slot=at, outcome=Outcome.RAN, recorded_at=at)
            draft.put(entry, at)

    store = MemoryStore(SystemClock())
    thread = LedgerThread(lambda: store, replica="two", keep=timedelta(days=1), lease=SHORT)
    thread.start()
    await thread.ask(Ancient())
    await thread.stop(NO_GRACE)
    assert store.history(HistoryQuery()) != []
    again = LedgerThread(lambda: store, replica="two", keep=timedelta(days=1), lease=SHORT)
    again.start()
    await wait_until(lambda: store.history(HistoryQuery()) == [], "the old record is forgotten")
    await again.stop(NO_GRACE)
