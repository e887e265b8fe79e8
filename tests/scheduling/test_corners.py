"""Where doors, leases and a slow store meet: faults that reviews found, each as it is met."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.clock import WallClock
from tests.support.ledgers import only
from tests.support.scheduling import HOUR, HOURLY, SECOND, Gate, Worker
from tests.support.waiting import wait_until
from worker.backends.memory import MemoryStore
from worker.clock import SystemClock
from worker.errors import StoreUnavailable
from worker.events import LeaseExpired, OutcomeRefused
from worker.ledger.book import Book, Change, Outcome, Pulse, SessionId, Written
from worker.ledger.ledger import Attend, Begin, Finish
from worker.ledger.thread import Lease, LedgerThread
from worker.model import State
from worker.schedules.policies import Overlap, Policies, TaskSchedule
from worker.schedules.schedule import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


pytestmark = pytest.mark.usefixtures("log")


async def test_a_process_that_runs_a_task_by_hand_hears_that_it_shall_end(
    one: Worker, two: Worker
) -> None:
    gate = Gate()
    for worker in (one, two):
        worker.register(gate, name="gate", overlap="cancel_other", **HOURLY)
    two.ledger.start()  # as `worker run` does: a ledger, and no schedules
    by_hand = asyncio.create_task(two.scheduler.run_now("gate"))
    await gate.entered()
    one.start()
    one.scheduler.wake("gate")
    assert (await asyncio.wait_for(by_hand, 5)).state is State.REVOKED
    await wait_until(lambda: len(one.started) == 1, "the slot has its turn")
    gate.opened.set()


async def test_a_process_that_runs_a_task_by_hand_takes_nothing_else(
    one: Worker, two: Worker, clock: WallClock
) -> None:
    gate, other = Gate(), Gate()
    for worker in (one, two):
        worker.register(gate, name="gate", interval="off")
        worker.register(other, name="other", overlap="buffer_one", **HOURLY)
    one.start()
    one.scheduler.wake("other")
    await other.entered()
    clock.advance(HOUR)
    await one.looked("other")  # waits for its turn
    two.ledger.start()
    by_hand = asyncio.create_task(two.scheduler.run_now("gate"))
    await gate.entered()
    renewed = one.store.renewed
    await wait_until(lambda: one.store.renewed > renewed + 8, "both have heard what waits")
    other.opened.set()
    await wait_until(lambda: len(one.finished) == 2, "both slots have run")
    gate.opened.set()
    await by_hand
    assert [run.task for run in two.started] == ["gate"]


async def test_a_run_by_hand_that_is_granted_during_the_stop_does_not_delay_it(
    one: Worker,
) -> None:
    gate = Gate()
    one.register(gate, name="gate", interval="off")
    one.start()
    await one.looked("gate")
    one.store.works.clear()
    by_hand = asyncio.create_task(one.scheduler.run_now("gate"))
    await wait_until(one.store.hung.is_set, "the store was asked")
    stopping = asyncio.create_task(one.scheduler.stop(timedelta(0)))
    await asyncio.sleep(0.05)
    one.store.works.set()
    await asyncio.wait_for(stopping, 4)
    await asyncio.wait({by_hand}, timeout=4)
    assert by_hand.done()
    assert isinstance(by_hand.exception(), StoreUnavailable)
    assert one.started == []


async def test_a_defect_in_the_rules_does_not_end_the_worker(
    one: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pings() -> None: ...

    def broken(self: Finish, draft: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Finish, "decide", broken)
    one.register(pings, **HOURLY)
    async with asyncio.TaskGroup() as group:
        one.ledger.start()
        one.scheduler.start(group)
        one.scheduler.wake("pings")
        await wait_until(lambda: len(one.finished) == 1, "it has run")
        await wait_until(lambda: one.of(OutcomeRefused) != [], "it is told")
        await one.scheduler.stop(timedelta(0))
    assert "a defect" in only(one.of(OutcomeRefused)).reason


class SlowStore(MemoryStore):
    delay_s = 0.0

    def read(self, tasks: Sequence[str]) -> Mapping[str, Book]:
        time.sleep(self.delay_s)
        return super().read(tasks)

    def write(self, changes: Sequence[Change]) -> list[Written]:
        time.sleep(self.delay_s)
        return super().write(changes)

    def renew(self, session: SessionId, ttl: timedelta) -> Pulse:
        time.sleep(self.delay_s)
        return super().renew(session, ttl)


async def test_many_requests_of_one_task_at_a_slow_store_do_not_cost_the_lease() -> None:
    store = SlowStore(SystemClock())
    pulses: list[Pulse | None] = []
    ledger = LedgerThread(
        lambda: store, replica="one", keep=HOUR, lease=Lease(ttl=timedelta(milliseconds=600))
    )
    ledger.on_pulse = pulses.append
    ledger.start()
    terms = TaskSchedule("many", Interval(SECOND), Policies(overlap=Overlap.ALLOW_ALL))
    begun = [await ledger.ask(Begin(terms=terms, overlap=Overlap.ALLOW_ALL)) for _ in range(12)]
    entries = [entry for answer in begun for entry in answer.granted]
    store.delay_s = 0.05
    before = time.monotonic()
    finishing = [
        ledger.ask(Finish(terms=terms, entry=entry, outcome=Outcome.RAN)) for entry in entries
    ]
    answers = await asyncio.gather(*finishing, return_exceptions=True)
    took_s = time.monotonic() - before
    await ledger.stop(timedelta(0))
    assert [type(answer).__name__ for answer in answers] == ["Answer"] * 12
    assert None not in pulses
    assert took_s < 0.6, "they are written together"


async def test_a_store_that_cannot_forget_does_not_keep_anybody_waiting() -> None:
    class Unforgetting(MemoryStore):
        def prune(self, *, age: timedelta, limit: int = 5000) -> int:
            raise StoreUnavailable("canceling statement due to statement timeout")

    pulses: list[Pulse | None] = []
    ledger = LedgerThread(lambda: Unforgetting(SystemClock()), replica="one", keep=HOUR)
    ledger.on_pulse = pulses.append
    ledger.start()
    await wait_until(lambda: len(pulses) >= 2, "there are pulses")
    await ledger.stop(timedelta(0))


async def test_what_waits_does_not_run_beside_a_run_that_the_store_does_not_know(
    one: Worker, clock: WallClock
) -> None:
    gate = Gate()
    one.register(gate, name="gate", overlap="buffer_one", needs_ledger=False, **HOURLY)
    one.start()
    one.scheduler.wake("gate")
    await gate.entered()
    clock.advance(HOUR)
    await one.looked("gate")  # 1 waits
    one.store.down = "no connection"
    await wait_until(lambda: one.ledger.trouble is not None, "the trouble is noticed")
    gate.opened.set()
    await wait_until(lambda: len(one.finished) == 1, "the first has ended")
    gate.opened.clear()
    clock.advance(HOUR)
    one.scheduler.wake("gate")
    await gate.entered()  # 2 runs alone
    one.store.down = None
    await wait_until(lambda: one.ledger.trouble is None, "the store works again")
    renewed = one.store.renewed
    await wait_until(lambda: one.store.renewed > renewed + 3, "what waits is heard of")
    most = gate.most
    gate.opened.set()
    assert most == 1


async def test_a_run_whose_lease_is_lost_before_it_begins_does_not_begin(one: Worker) -> None:
    gate = Gate()
    one.register(gate, name="gate", **HOURLY)
    one.start()
    await wait_until(lambda: one.store.renewed > 0, "there is a session")
    answer = await one.ledger.ask(Attend(terms=one.scheduler.tasks["gate"].terms))
    # The process was suspended after the answer came: both are there when the loop goes on.
    one.scheduler._hear(answer)
    one.scheduler._pulse(None)
    await wait_until(lambda: one.finished != [], "it has ended")
    assert only(one.finished).state is State.REVOKED


async def test_a_ledger_that_contradicts_itself_is_told(one: Worker, log: list[Any]) -> None:
    async def pings() -> None: ...

    one.register(pings, **HOURLY)
    one.start()
    one.scheduler.wake("pings")
    await one.recorded((0, "ran", 1))
    inner = one.store.inner
    assert isinstance(inner, MemoryStore)
    book = inner._books["pings"]
    inner._books["pings"] = Book(task="pings", version=book.version)  # the table was emptied
    one.scheduler.wake("pings")
    await wait_until(
        lambda: any(line["event"] == "ledger.reply_failed" for line in log), "it is told"
    )


async def test_a_slot_that_is_retried_waits_for_the_end_of_its_lost_run(one: Worker) -> None:
    going = most = begun = 0
    clean = asyncio.Event()

    async def stubborn() -> None:
        nonlocal going, most, begun
        going, begun = going + 1, begun + 1
        most = max(most, going)
        try:
            if begun == 1:
                await asyncio.sleep(10)
        finally:
            while not clean.is_set():
                with suppress(asyncio.CancelledError):
                    await clean.wait()
            going -= 1

    one.register(stubborn, name="stubborn", retry_lost=1, **HOURLY)
    one.start()
    one.scheduler.wake("stubborn")
    await wait_until(lambda: going == 1, "it runs")
    session = only(one.entries).session
    assert session is not None
    one.store.inner.close_session(session)
    await wait_until(lambda: one.of(LeaseExpired) != [], "the lease is lost")
    renewed = one.store.renewed
    await wait_until(lambda: one.store.renewed > renewed + 2, "there is a new one")
    clean.set()
    await one.recorded((0, "ran", 1))
    assert (begun, most) == (2, 1)


async def test_a_manual_run_ends_when_its_code_does(one: Worker) -> None:
    clean, swallowed = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        while not clean.is_set():
            try:
                await clean.wait()
            except asyncio.CancelledError:
                swallowed.set()

    one.register(stubborn, name="stubborn", interval="off", time_limit=timedelta(seconds=0.1))
    one.ledger.start()  # as `worker run` does
    going = asyncio.ensure_future(one.scheduler.run_now("stubborn"))
    try:
        await asyncio.wait_for(swallowed.wait(), 10)
        assert not going.done()
    finally:
        clean.set()
    assert (await going).state is State.SUCCESS


async def test_a_process_for_one_run_does_not_wait_for_ever_for_its_store(
    one: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cuts() -> None:
        one.store.down = "no connection"

    monkeypatch.setattr("worker.scheduling.scheduler.SETTLE_S", 0.2)
    one.register(cuts, name="cuts", interval="off")
    one.ledger.start()
    run = await asyncio.wait_for(one.scheduler.run_now("cuts"), 5)
    assert run.state is State.SUCCESS
    assert "no connection" in only(one.of(OutcomeRefused)).reason
