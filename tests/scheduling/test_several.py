"""Several replicas, and a hand, over one store."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.support.clock import WallClock
from tests.support.ledgers import only
from tests.support.scheduling import HOUR, HOURLY, SECOND, START, Gate, Worker, pings, real_store
from tests.support.waiting import wait_until
from worker import (
    SystemClock,
)
from worker.errors import StoreUnavailable, TaskBusy
from worker.events import (
    LeaseExpired,
    OutcomeRefused,
    SlotsElsewhere,
    SlotSkipped,
)
from worker.ledger.book import Outcome
from worker.ledger.ledger import Attend, Claimant, apply
from worker.model import State, Trigger
from worker.schedules.policies import Overlap, TaskSchedule
from worker.schedules.schedule import Interval

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("log")


class TestSeveral:
    async def test_a_restart_runs_nothing_twice_and_moves_no_slot(
        self, one: Worker, two: Worker, clock: WallClock
    ) -> None:
        for worker in (one, two):
            worker.register(pings, **HOURLY)
        clock.advance(10 * SECOND)
        one.start()
        await one.looked("pings")
        await one.recorded((0, "ran", 1))
        await one.stop()
        clock.advance(20 * SECOND)
        two.start()
        await two.looked("pings")
        assert two.started == []
        clock.advance(HOUR)
        await two.looked("pings")
        await two.recorded((0, "ran", 1), (1, "ran", 1))

    async def test_each_slot_is_run_by_one_of_them_and_counted_by_the_other(
        self, one: Worker, two: Worker, clock: WallClock
    ) -> None:
        for worker in (one, two):
            worker.register(pings, **HOURLY)
            worker.start()
            await worker.looked("pings")
        await one.recorded((0, "ran", 1))
        for hour in range(1, 11):
            clock.advance(HOUR)
            first, second = (one, two) if hour % 3 else (two, one)
            await first.looked("pings")
            await second.looked("pings")
            await one.recorded(*[(n, "ran", 1) for n in range(hour + 1)])
        assert (len(one.started), len(two.started)) == (8, 3)
        assert [sum(e.count for e in w.of(SlotsElsewhere)) for w in (one, two)] == [3, 7]
        assert {entry.replica for entry in one.entries} == {"one", "two"}

    async def test_racing_in_real_time_they_run_each_slot_once(self) -> None:
        store, every = real_store(), timedelta(seconds=0.03)
        workers = [Worker(SystemClock(), store, f"r{number}") for number in range(3)]
        for worker in workers:
            worker.register(pings, interval=every)
            worker.start()
        await wait_until(lambda: len(workers[0].entries) > 40, "forty slots have passed")
        for worker in workers:
            await worker.stop(HOUR)
        ran = [run.slot for worker in workers for run in worker.finished]
        assert len(ran) == len(set(ran))
        entries = workers[0].entries
        assert {e.slot for e in entries if e.outcome is Outcome.RAN} == set(ran)
        for entry, following in pairwise(entries):
            assert following.slot == (entry.last or entry.slot) + every

    async def test_a_slot_elsewhere_can_cancel_the_run_here(
        self, one: Worker, two: Worker, clock: WallClock
    ) -> None:
        gate = Gate()
        for worker in (one, two):
            worker.register(gate, name="gate", overlap="cancel_other", **HOURLY)
            worker.start()
        one.scheduler.wake("gate")
        await gate.entered()
        clock.advance(HOUR)
        await two.looked("gate")
        await one.recorded((0, "failed", 1), (1, "running", 1))
        assert only(one.finished).state is State.REVOKED
        assert gate.most == 1

    async def test_what_a_dead_replica_ran_is_lost_whether_its_task_is_known_here_or_not(
        self, one: Worker
    ) -> None:
        store = one.store.inner
        session = store.open_session("dead", HOUR)
        requests = [Attend(terms=TaskSchedule(n, Interval(HOUR))) for n in ("known", "unknown")]
        apply(store, requests, claimant=Claimant("dead", session), now=START)
        one.register(pings, name="known", **HOURLY)
        one.start()
        await one.looked("known")
        assert one.told() == [(0, "running", 1)] * 2
        store.close_session(session)
        await one.recorded((0, "lost", 1), (0, "lost", 1))
        await wait_until(
            lambda: {event.task for event in one.of(SlotSkipped)} == {"known", "unknown"},
            "both were told",
        )
        assert one.started == []

    async def test_a_lost_lease_ends_the_runs_and_their_outcomes_are_refused(
        self, one: Worker, two: Worker
    ) -> None:
        gate = Gate()
        for worker in (one, two):
            worker.register(gate, name="gate", retry_lost=1, **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered()
        session = only(one.entries).session
        assert session is not None
        one.store.inner.close_session(session)
        await wait_until(lambda: one.of(OutcomeRefused) != [], "its outcome was refused")
        assert only(one.of(LeaseExpired)).running == ("gate",)
        assert one.finished[0].state is State.REVOKED
        assert only(one.of(OutcomeRefused)).outcome == "lost"
        two.start()
        await wait_until(lambda: only(one.entries).outcome is Outcome.RUNNING, "it is retried")
        await gate.entered()
        gate.opened.set()
        await one.recorded((0, "ran", 1))
        assert gate.most == 1


class TestByHand:
    async def test_a_run_by_hand_is_recorded(self, one: Worker) -> None:
        one.register(pings, interval="off")
        one.start()
        run = await one.scheduler.run_now("pings")
        entry = only(one.entries)
        assert (entry.run_id, entry.trigger, entry.outcome) == (
            run.run_id,
            Trigger.MANUAL,
            Outcome.RAN,
        )
        assert (run.trigger, run.slot) == (Trigger.MANUAL, None)

    async def test_another_run_is_in_the_way_wherever_it_goes_on(
        self, one: Worker, two: Worker
    ) -> None:
        gate = Gate()
        for worker in (one, two):
            worker.register(gate, name="gate", **HOURLY)
            worker.start()
        one.scheduler.wake("gate")
        await gate.entered()
        with pytest.raises(TaskBusy, match="gate runs already, on one, since 2100-01-01T00:00:00"):
            await two.scheduler.run_now("gate")
        assert gate.most == 1

    async def test_a_run_by_hand_can_wait_for_the_other(self, one: Worker) -> None:
        gate = Gate()
        one.register(gate, name="gate", **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered()
        by_hand = asyncio.create_task(
            one.scheduler.run_now("gate", overlap=Overlap.BUFFER_ONE), name="by-hand"
        )
        await wait_until(lambda: one.store.reads >= 2, "it was asked for")
        gate.opened.set()
        assert (await by_hand).result == "through"
        assert gate.most == 1

    async def test_a_run_by_hand_can_end_the_other(self, one: Worker) -> None:
        gate = Gate()
        one.register(gate, name="gate", **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered()
        by_hand = asyncio.create_task(
            one.scheduler.run_now("gate", overlap=Overlap.CANCEL_OTHER), name="by-hand"
        )
        await wait_until(lambda: len(one.started) == 2, "it has begun")
        assert only(one.finished).state is State.REVOKED
        gate.opened.set()
        assert (await by_hand).result == "through"
        assert gate.most == 1

    async def test_runs_by_hand_may_go_on_beside_each_other(self, one: Worker) -> None:
        gate = Gate()
        one.register(gate, name="gate", overlap="allow_all", **HOURLY)
        one.start()
        runs = [asyncio.create_task(one.scheduler.run_now("gate")) for _ in range(3)]
        await gate.entered(3)
        gate.opened.set()
        assert {run.result for run in await asyncio.gather(*runs)} == {"through"}
        assert [entry.outcome for entry in one.entries] == [Outcome.RAN] * 3

    async def test_a_run_by_hand_that_nobody_waits_for_any_more_is_in_nobodys_way(
        self, one: Worker, clock: WallClock
    ) -> None:
        one.register(pings, interval="off")
        one.start()
        await wait_until(lambda: one.store.renewed > 0, "it has a lease")
        one.store.works.clear()
        unwanted = asyncio.create_task(one.scheduler.run_now("pings"))
        await wait_until(one.store.hung.is_set, "the store is being asked")
        unwanted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unwanted
        one.store.works.set()
        await wait_until(
            lambda: [e.outcome for e in one.entries] == [Outcome.LOST], "it is recorded"
        )
        clock.advance(SECOND)
        assert (await one.scheduler.run_now("pings")).result == "pong"
        assert len(one.started) == 1

    async def test_without_the_store_nobody_can_know_what_is_in_the_way(self, one: Worker) -> None:
        one.register(pings, interval="off", needs_ledger=False)
        one.store.down = "no connection"
        one.start()
        with pytest.raises(StoreUnavailable, match="no connection"):
            await one.scheduler.run_now("pings")
        assert one.started == []
