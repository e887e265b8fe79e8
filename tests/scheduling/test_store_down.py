"""A store that is down or slow stops nothing, and hears of all later."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.clock import WallClock
from tests.support.ledgers import only
from tests.support.scheduling import HOUR, HOURLY, START, Counts, Gate, Worker, pings
from tests.support.waiting import wait_until
from worker.events import (
    StoreChanged,
)

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("log")


class TestStoreDown:
    async def went_down(self, worker: Worker) -> None:
        worker.store.down = "no connection"
        await wait_until(lambda: worker.ledger.trouble is not None, "the trouble is noticed")

    async def came_back(self, worker: Worker) -> None:
        worker.store.down = None
        await wait_until(lambda: worker.ledger.trouble is None, "the store works again")

    async def test_a_task_that_needs_the_ledger_waits_and_catches_up_afterwards(
        self, one: Worker, clock: WallClock
    ) -> None:
        one.register(pings, **HOURLY)
        one.register(Counts, needs_ledger=False, **HOURLY)
        one.start()
        await one.looked("pings")
        await one.recorded((0, "ran", 1))
        await self.went_down(one)
        for _ in range(3):
            clock.advance(HOUR)
            one.scheduler.wake("pings")
        assert len(one.started) == 1
        await self.came_back(one)
        await one.recorded((0, "ran", 1), (1, "missed", 2), (3, "ran", 1))
        assert [
            (event.trouble, event.waiting, event.unrecorded) for event in one.of(StoreChanged)
        ] == [
            ("no connection", ("pings",), ("counts",)),
            (None, ("pings",), ("counts",)),
        ]

    def is_untold(self, worker: Worker, count: int) -> bool:
        return worker.scheduler.unrecorded == {"pings": count}

    async def test_a_task_that_does_not_need_the_ledger_runs_and_is_recorded_afterwards(
        self, one: Worker, clock: WallClock
    ) -> None:
        one.register(pings, needs_ledger=False, **HOURLY)
        one.start()
        await one.looked("pings")
        await one.recorded((0, "ran", 1))
        await self.went_down(one)
        for hour, untold in ((1, 1), (2, 2), (5, 4)):  # the last time with a span of missed ones
            clock.advance((START + hour * HOUR) - clock.now())
            one.scheduler.wake("pings")
            recorded = partial(self.is_untold, one, untold)
            await wait_until(recorded, "it has run")
        await self.came_back(one)
        slots = [(n, "ran", 1) for n in (0, 1, 2)]
        await one.recorded(*slots, (3, "missed", 2), (5, "ran", 1))
        assert len(one.started) == 4
        clock.advance(HOUR)
        await one.looked("pings")
        await one.recorded(*slots, (3, "missed", 2), (5, "ran", 1), (6, "ran", 1))
        book = one.store.inner.read(["pings"])["pings"]
        assert (dict(book.counts), book.runs) == ({"ran": 5, "missed": 2}, 5)

    async def test_without_the_store_the_overlap_policy_holds_all_the_same(
        self, one: Worker, clock: WallClock
    ) -> None:
        gate = Gate()
        one.register(gate, name="gate", needs_ledger=False, overlap="buffer_one", **HOURLY)
        await self.starts_without(one)
        one.scheduler.wake("gate")
        await gate.entered()
        for _ in range(2):
            clock.advance(HOUR)
            one.scheduler.wake("gate")
        assert len(one.started) == 1
        gate.opened.set()
        await wait_until(lambda: len(one.finished) == 2, "the one that waited has run")
        await self.came_back(one)
        await one.recorded((0, "ran", 1), (1, "ran", 1), (2, "skipped_overlap", 1))
        assert gate.most == 1

    async def starts_without(self, worker: Worker) -> None:
        worker.store.down = "no connection"
        worker.start()
        await wait_until(lambda: worker.ledger.trouble is not None, "the trouble is noticed")

    async def test_a_run_that_goes_on_while_the_store_comes_back_is_recorded_once_it_ends(
        self, one: Worker, clock: WallClock
    ) -> None:
        gate = Gate()
        one.register(gate, name="gate", needs_ledger=False, **HOURLY)
        await self.starts_without(one)
        one.scheduler.wake("gate")
        await gate.entered()
        await self.came_back(one)
        clock.advance(HOUR)
        one.scheduler.wake("gate")
        await wait_until(lambda: one.store.renewed > 3, "the lease is renewed again and again")
        assert (len(one.started), one.told()) == (1, [])
        gate.opened.set()
        await one.recorded((0, "ran", 1), (1, "ran", 1))
        assert gate.most == 1

    async def test_a_run_that_began_before_and_ends_meanwhile_is_in_nobodys_way(
        self, one: Worker, clock: WallClock
    ) -> None:
        gate = Gate()
        one.register(gate, name="gate", needs_ledger=False, **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered()
        one.store.down = "no connection"
        gate.opened.set()
        await wait_until(lambda: len(one.finished) == 1, "it ended")
        await wait_until(lambda: one.ledger.trouble is not None, "the trouble is noticed")
        clock.advance(HOUR)
        one.scheduler.wake("gate")
        await wait_until(lambda: len(one.finished) == 2, "the next slot has run")
        await self.came_back(one)
        await wait_until(
            lambda: [told for _, told, _ in one.told()] in (["ran", "ran"], ["lost", "ran"]),
            "both are recorded",
        )
        assert len(one.started) == 2

    async def test_a_lease_that_was_lost_is_no_reason_to_run_without_the_store(
        self, one: Worker, two: Worker
    ) -> None:
        gate = Gate()
        for worker in (one, two):
            worker.register(gate, name="gate", needs_ledger=False, **HOURLY)
        one.start()
        await wait_until(lambda: one.store.renewed > 0, "it has a lease")
        for replica in one.store.inner.replicas():
            one.store.inner.close_session(replica.session)
        one.scheduler.wake("gate")
        await gate.entered()
        assert only(one.entries).session is not None
        assert len(one.started) == 1

    async def test_a_grant_whose_answer_was_lost_is_run_all_the_same(self, one: Worker) -> None:
        one.register(pings, **HOURLY)
        one.start()
        await wait_until(lambda: one.store.renewed > 0, "it has a lease")
        one.store.lose_answers = 1
        one.scheduler.wake("pings")
        await one.recorded((0, "ran", 1))
        assert len(one.started) == 1

    async def test_what_an_ending_run_was_followed_by_runs_though_the_answer_was_lost(
        self, one: Worker, clock: WallClock
    ) -> None:
        gate = Gate()
        one.register(gate, name="gate", overlap="buffer_one", **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered()
        clock.advance(HOUR)
        await one.looked("gate")
        one.store.lose_answers = 1
        gate.opened.set()
        await one.recorded((0, "ran", 1), (1, "ran", 1))
        assert (len(one.started), gate.most) == (2, 1)
