"""Slots become runs, each once, whatever happens to workers; what does not is told."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.clock import WallClock
from tests.support.ledgers import only
from tests.support.scheduling import (
    AT_ONCE,
    HOUR,
    HOURLY,
    NO_GRACE,
    SHORT,
    START,
    Counts,
    Gate,
    Nothing,
    Worker,
    fails,
    pings,
    waits,
)
from tests.support.waiting import wait_until
from worker import (
    BaseTask,
    Events,
    Runner,
    Scheduler,
    SystemClock,
    TaskDefinitionError,
)
from worker.errors import TaskBusy
from worker.events import (
    Event,
    OutcomeRefused,
    RunFinished,
    SchedulePaused,
    SlotSkipped,
)
from worker.ledger.book import Outcome
from worker.model import State
from worker.schedules.schedule import Cron

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("log")


class TestTasks:
    async def test_a_task_class_a_partial_of_one_and_an_async_function_all_run(
        self, real: Worker
    ) -> None:
        real.register(partial(Counts, step=7), interval=HOUR)
        real.register(Counts, interval_seconds=3600, name="counts_too")
        real.register(pings, interval_seconds=3600)
        real.start()
        await wait_until(lambda: len(real.finished) == 3, "all three have run")
        assert {run.task: run.result for run in real.finished} == {
            "counts": 7,
            "counts_too": 1,
            "pings": "pong",
        }

    async def test_a_function_may_ask_for_the_shared_client(self, real: Worker) -> None:
        given: list[httpx.AsyncClient] = []

        async def asks(http_client: httpx.AsyncClient, *, step: int = 1) -> None:
            given.append(http_client)

        real.register(partial(asks, step=2), interval=HOUR)
        real.start()
        await wait_until(lambda: real.finished != [], "it has run")
        assert given == [real.client]

    async def test_a_scheduler_without_a_ledger_keeps_its_own(self) -> None:
        announced: list[Event] = []
        events = Events(announced.append)
        async with httpx.AsyncClient() as client:
            runner = Runner(client, clock=SystemClock(), events=events)
            alone = Scheduler(runner, clock=SystemClock(), events=events, first_run=AT_ONCE)
            alone.register_task(pings, interval=HOUR)
            alone.start()
            await wait_until(
                lambda: any(isinstance(event, RunFinished) for event in announced), "it has run"
            )
            await alone.stop(NO_GRACE)

    async def test_an_interval_of_zero_keeps_a_task_for_runs_by_hand(self, one: Worker) -> None:
        one.register(Counts, interval=timedelta(0))
        one.register(pings, **HOURLY)
        one.start()
        scheduler = one.scheduler
        assert list(scheduler.tasks) == ["counts", "pings"]
        assert scheduler.tasks["counts"].interval is None
        assert scheduler.next_slot("counts") is None
        assert scheduler.next_slot("pings") == START + HOUR
        assert (await scheduler.run_now("counts")).result == 1


class TestSlots:
    async def test_slots_stay_on_their_nominal_times_however_late_a_run_starts(
        self, real: Worker
    ) -> None:
        every = timedelta(seconds=0.02)
        real.register(pings, interval=every, phase=timedelta(0))
        real.start()
        await wait_until(lambda: len(real.finished) >= 10, "ten runs are done")
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        slots = [run.slot for run in real.started if run.slot is not None]
        assert len(slots) == len(real.started)
        assert {(slot - epoch) % every for slot in slots} == {timedelta(0)}
        assert all(run.late_ms is not None and run.late_ms >= 0 for run in real.started)
        assert all(before < after for before, after in pairwise(slots))

    async def test_a_slot_that_comes_while_the_task_still_runs_is_skipped_and_told(
        self, one: Worker, clock: WallClock
    ) -> None:
        one.register(waits, **HOURLY)
        one.start()
        await one.looked("waits")
        clock.advance(HOUR)
        await one.looked("waits")
        await one.recorded((0, "running", 1), (1, "skipped_overlap", 1))
        skipped = only(one.of(SlotSkipped))
        assert (skipped.entry.slot, skipped.running_since) == (START + HOUR, START)
        assert len(one.started) == 1

    async def test_slots_that_passed_unseen_are_told_and_only_the_last_of_them_runs(
        self, one: Worker, clock: WallClock
    ) -> None:
        one.register(pings, **HOURLY)
        one.start()
        await one.looked("pings")
        await one.recorded((0, "ran", 1))
        clock.advance(60 * HOUR)
        await one.looked("pings")
        await one.recorded((0, "ran", 1), (1, "missed", 59), (60, "ran", 1))
        entry = only(one.of(SlotSkipped)).entry
        assert (entry.outcome, entry.count, entry.last) == (
            Outcome.MISSED,
            59,
            START + 59 * HOUR,
        )

    async def test_a_loop_that_was_blocked_loses_no_slot_in_silence(self, real: Worker) -> None:
        every = timedelta(seconds=0.05)
        real.register(pings, interval=every)
        real.start()
        await wait_until(lambda: real.finished != [], "the first run is done")
        time.sleep(1.3)  # noqa: ASYNC251 - this is what is tested: the loop does not turn
        count = len(real.finished)
        await wait_until(lambda: len(real.finished) >= count + 3, "it goes on")
        entries = real.entries
        assert sum(e.count for e in entries if e.outcome is Outcome.MISSED) >= 20
        assert sum(event.entry.count for event in real.of(SlotSkipped)) >= 20
        for entry, following in pairwise(entries):
            assert following.slot == (entry.last or entry.slot) + every

    async def test_buffer_one_has_a_slot_wait_for_its_turn(
        self, one: Worker, clock: WallClock
    ) -> None:
        gate = Gate()
        one.register(gate, name="gate", overlap="buffer_one", **HOURLY)
        one.start()
        await one.looked("gate")
        for _ in range(2):
            clock.advance(HOUR)
            await one.looked("gate")
        await one.recorded((0, "running", 1), (1, "waiting", 1), (2, "skipped_overlap", 1))
        gate.opened.set()
        await one.recorded((0, "ran", 1), (1, "ran", 1), (2, "skipped_overlap", 1))
        assert gate.most == 1

    async def test_cancel_other_ends_the_run_and_the_slot_takes_its_place(
        self, one: Worker, clock: WallClock
    ) -> None:
        gate = Gate()
        one.register(gate, name="gate", overlap="cancel_other", **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered()
        clock.advance(HOUR)
        await one.looked("gate")
        await one.recorded((0, "failed", 1), (1, "running", 1))
        assert only(one.finished).state is State.REVOKED
        assert one.entries[0].error == "cancelled: a later slot of the task has precedence"
        await gate.entered()
        assert gate.most == 1

    async def test_allow_all_runs_slots_beside_each_other(
        self, one: Worker, clock: WallClock
    ) -> None:
        gate = Gate()
        one.register(gate, name="gate", overlap="allow_all", **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered(1)
        clock.advance(HOUR)
        one.scheduler.wake("gate")
        await gate.entered(2)
        gate.opened.set()
        await one.recorded((0, "ran", 1), (1, "ran", 1))

    async def test_code_that_hangs_past_its_cancellation_keeps_its_slot_running_until_it_ends(
        self, one: Worker, clock: WallClock
    ) -> None:
        release, inside = asyncio.Event(), []

        async def stubborn() -> None:
            inside.append("in")
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            inside.append("out")

        one.register(stubborn, time_limit=SHORT, **HOURLY)
        one.start()
        await one.looked("stubborn")
        await wait_until(lambda: bool(one.runner.stuck()), "its time is up")
        clock.advance(HOUR)
        await one.looked("stubborn")
        await one.recorded((0, "running", 1), (1, "skipped_overlap", 1))
        with pytest.raises(TaskBusy):
            await one.scheduler.run_now("stubborn")
        release.set()
        await one.recorded((0, "ran", 1), (1, "skipped_overlap", 1))
        assert inside == ["in", "out"]
        clock.advance(HOUR)
        await one.looked("stubborn")
        await wait_until(lambda: inside == ["in", "out"] * 2, "the task is free again")

    async def test_a_schedule_that_failures_pause_is_announced_once(
        self, one: Worker, clock: WallClock
    ) -> None:
        one.register(fails, pause_after_failures=2, **HOURLY)
        one.start()
        for hour in range(5):
            await one.looked("fails")
            await wait_until(lambda: len(one.told()) > hour, "the slot is accounted for")  # noqa: B023
            await one.settled()
            clock.advance(HOUR)
        assert [told for _, told, _ in one.told()] == ["failed"] * 2 + ["paused"] * 3
        assert only(one.of(SchedulePaused)).note == (
            "2 failures in a row, the last: ValueError: boom"
        )

    async def test_a_schedule_whose_arithmetic_fails_leaves_the_other_tasks_alone(
        self, one: Worker, clock: WallClock, monkeypatch: pytest.MonkeyPatch, log: list[Any]
    ) -> None:
        one.register(pings, **HOURLY)
        one.register(Counts, cron="0 * * * *")
        one.start()
        await one.looked("counts")

        def broken(schedule: Cron, moment: datetime) -> datetime:
            raise ZeroDivisionError("oops")

        monkeypatch.setattr(Cron, "until", broken)
        clock.advance(HOUR)
        one.scheduler.wake("counts")
        one.scheduler.wake("pings")
        await wait_until(
            lambda: any(e.task == "pings" and e.outcome is Outcome.RAN for e in one.entries),
            "the other task runs",
        )
        await wait_until(
            lambda: any(line["event"] == "ledger.reply_failed" for line in log), "it is logged"
        )

    async def test_a_clock_that_was_set_back_runs_nothing_twice(
        self, one: Worker, clock: WallClock
    ) -> None:
        one.register(pings, **HOURLY)
        one.start()
        for step in (0, 1, -1, 1, -1, 1, 1):
            clock.advance(step * HOUR)
            await one.looked("pings")
            await one.settled()
        await one.recorded((0, "ran", 1), (1, "ran", 1), (2, "ran", 1))
        assert len(one.started) == 3


class TestStopping:
    async def test_runs_may_end_within_the_grace_period(self, one: Worker) -> None:
        gate = Gate()
        one.register(gate, name="gate", **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered()
        stopping = asyncio.create_task(one.scheduler.stop(HOUR))
        await asyncio.sleep(0)
        gate.opened.set()
        async with asyncio.timeout(5):
            await stopping
        assert one.told() == [(0, "ran", 1)]

    async def test_code_that_was_left_behind_does_not_keep_the_worker_from_ending(
        self, one: Worker
    ) -> None:
        release = asyncio.Event()

        async def stubborn() -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        one.register(stubborn, time_limit=SHORT, **HOURLY)
        one.start()
        one.scheduler.wake("stubborn")
        await wait_until(lambda: bool(one.runner.stuck()), "its time is up")
        assert one.told() == [(0, "running", 1)]
        async with asyncio.timeout(5):
            await one.stop()
        assert one.runner.busy == ["stubborn"]
        assert one.told() == [(0, "lost", 1)]
        release.set()
        await wait_until(lambda: one.runner.busy == [], "the code has ended")

    @pytest.mark.parametrize(("retry_lost", "outcome"), [(0, "lost"), (1, "waiting")])
    async def test_a_run_that_is_interrupted_is_lost_or_waits_for_the_next_start(
        self, one: Worker, two: Worker, retry_lost: int, outcome: str
    ) -> None:
        gate = Gate()
        for worker in (one, two):
            worker.register(gate, name="gate", retry_lost=retry_lost, **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered()
        await one.stop()
        assert one.told() == [(0, outcome, 1)]
        assert only(one.finished).state is State.REVOKED
        gate.opened.set()
        two.start()
        await two.looked("gate")
        await two.recorded((0, "ran" if retry_lost else "lost", 1))

    async def test_a_slot_that_is_due_while_stopping_is_left_for_the_next_start(
        self, one: Worker, two: Worker, clock: WallClock
    ) -> None:
        for worker in (one, two):
            worker.register(pings, **HOURLY)
        one.start()
        await one.looked("pings")
        await one.recorded((0, "ran", 1))
        await one.scheduler.stop(NO_GRACE)
        clock.advance(HOUR)
        one.scheduler.wake("pings")
        await one.ledger.ask(Nothing())
        assert one.told() == [(0, "ran", 1)]
        two.start()
        await two.looked("pings")
        await two.recorded((0, "ran", 1), (1, "ran", 1))

    async def test_a_slot_that_is_granted_while_stopping_is_given_back_unused(
        self, one: Worker, two: Worker
    ) -> None:
        for worker in (one, two):
            worker.register(pings, max_runs=1, **HOURLY)
        one.start()
        await wait_until(lambda: one.store.renewed > 0, "it has a lease")
        one.store.works.clear()
        one.scheduler.wake("pings")
        await wait_until(one.store.hung.is_set, "the store is being asked")
        stopping = asyncio.create_task(one.stop())
        await asyncio.sleep(0)
        one.store.works.set()
        await stopping
        assert one.started == []
        assert one.told() == [(0, "waiting", 1)]
        two.start()
        await two.recorded((0, "ran", 1))
        assert only(two.entries).losses == 0

    async def test_a_store_that_hangs_does_not_keep_the_worker_from_ending(
        self, one: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.scheduling.scheduler.SETTLE_S", 0.05)
        monkeypatch.setattr("worker.scheduling.scheduler.RETRY_S", 0.02)
        monkeypatch.setattr("worker.ledger.thread.JOIN_S", 0.1)
        gate = Gate()
        one.register(gate, name="gate", **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered()
        one.store.works.clear()
        async with asyncio.timeout(5):
            await one.stop()
        assert gate.inside == 0

    async def test_a_store_that_is_down_does_not_keep_the_worker_from_ending(
        self, one: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.scheduling.scheduler.SETTLE_S", 0.05)
        monkeypatch.setattr("worker.scheduling.scheduler.RETRY_S", 0.02)
        gate = Gate()
        one.register(gate, name="gate", **HOURLY)
        one.start()
        one.scheduler.wake("gate")
        await gate.entered()
        one.store.down = "no connection"
        async with asyncio.timeout(5):
            await one.stop()
        refused = only(one.of(OutcomeRefused))
        assert (refused.outcome, refused.reason) == ("lost", "no connection")


def synchronous() -> None: ...


async def wants_too_much(client: httpx.AsyncClient, table: str) -> None: ...


class NeedsMore(BaseTask):
    name = "needs_more"

    def __init__(self, http_client: httpx.AsyncClient, table: str) -> None:
        super().__init__(http_client)

    async def execute(self) -> None: ...


class NotAsync(BaseTask):
    name = "not_async"

    def execute(self) -> int:  # type: ignore[override]
        return 1


class Abstract(BaseTask): ...


class TestRefusals:
    @pytest.mark.parametrize(
        ("task", "options", "complaint"),
        [
            (synchronous, {}, "expected a subclass of BaseTask or an async function"),
            (pings, {"name": "no spaces"}, "letters, digits"),
            (Abstract, {}, "abstract"),
            (wants_too_much, {}, "without arguments or with one"),
            (NeedsMore, {}, "needs more than the shared client"),
            (NotAsync, {}, "write `async def execute"),
            (lambda: pings(), {}, "async function"),
        ],
    )
    async def test_what_is_no_task_is_refused_with_what_was_expected(
        self, one: Worker, task: Callable[..., Any], options: dict[str, Any], complaint: str
    ) -> None:
        with pytest.raises(TaskDefinitionError, match=complaint):
            one.register(task, **options, **HOURLY)

    async def test_a_call_of_a_task_is_no_task(self, one: Worker) -> None:
        called = pings()
        with pytest.raises(TaskDefinitionError, match="not a call of it"):
            one.register(called, **HOURLY)
        called.close()

    async def test_two_tasks_with_one_name_are_refused_naming_both(self, one: Worker) -> None:
        one.register(Counts, **HOURLY)
        with pytest.raises(TaskDefinitionError, match=r"scheduling:Counts and .*:pings"):
            one.register(pings, name="counts", **HOURLY)

    async def test_a_task_that_comes_after_the_start_is_refused(self, one: Worker) -> None:
        one.start()
        with pytest.raises(TaskDefinitionError, match="too late"):
            one.register(pings, **HOURLY)
