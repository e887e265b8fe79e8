"""Slots become runs, each once, whatever happens to workers and store; what does not is told."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from structlog.testing import capture_logs

from tests.support.clock import WallClock
from tests.support.ledgers import FailingStore, only
from tests.support.waiting import wait_until
from worker import (
    BaseTask,
    Clock,
    Events,
    FirstRun,
    RunLimits,
    Runner,
    Scheduler,
    SystemClock,
    TaskDefinitionError,
)
from worker.backends.memory import MemoryStore
from worker.errors import StoreUnavailable, TaskBusy
from worker.events import (
    Event,
    LeaseExpired,
    OutcomeRefused,
    RunFinished,
    RunStarted,
    SchedulePaused,
    SlotsElsewhere,
    SlotSkipped,
    StoreChanged,
)
from worker.ledger.book import Entry, HistoryQuery, Outcome
from worker.ledger.ledger import Attend, Claimant, apply
from worker.ledger.thread import Lease, LedgerThread
from worker.model import Run, State, Trigger
from worker.schedules.policies import Overlap, TaskSchedule
from worker.schedules.schedule import Cron, Interval
from worker.scheduling.timers import SlotTrigger, Timers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

START = datetime(2100, 1, 1, tzinfo=UTC)
"""So far ahead that APScheduler's own timers, which know no other clock, keep out of it."""
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
NO_GRACE = timedelta(0)
AT_ONCE = FirstRun(delay=timedelta(0), spread=timedelta(0))
SHORT = timedelta(milliseconds=50)
LEASE = Lease(ttl=timedelta(seconds=1.5))
HOURLY: dict[str, Any] = {"interval": HOUR, "phase": timedelta(0)}
"""`START` is one of its slots."""


def real_store() -> FailingStore:
    return FailingStore(MemoryStore(SystemClock()))


@dataclass
class Worker:
    """A scheduler over a store that others may share, and what it announced."""

    clock: Clock
    store: FailingStore = field(default_factory=real_store)
    replica: str = "one"
    announced: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = httpx.AsyncClient()
        events = Events(self.announced.append)
        limits = RunLimits(cancel_grace=SHORT)
        self.runner = Runner(self.client, clock=self.clock, events=events, limits=limits)
        self.ledger = LedgerThread(
            lambda: self.store,
            replica=self.replica,
            keep=timedelta(days=1),
            lease=LEASE,
            clock=self.clock,
        )
        self.scheduler = Scheduler(
            self.runner, clock=self.clock, events=events, ledger=self.ledger, first_run=AT_ONCE
        )

    def register(self, task: Any, **options: Any) -> None:
        self.scheduler.register_task(task, **options)

    def start(self) -> None:
        self.ledger.start()
        self.scheduler.start()

    async def stop(self, grace: timedelta = NO_GRACE) -> None:
        await self.scheduler.stop(grace)
        await self.ledger.stop(grace)
        await self.client.aclose()

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.announced if isinstance(event, kind)]

    @property
    def started(self) -> list[Run]:
        return [event.run for event in self.of(RunStarted)]

    @property
    def finished(self) -> list[Run]:
        return [event.run for event in self.of(RunFinished)]

    @property
    def entries(self) -> list[Entry]:
        """Every entry, the oldest slot first."""
        return self.store.inner.history(HistoryQuery(limit=10_000))[::-1]

    def told(self) -> list[tuple[float, str, int]]:
        """Of each entry of a slot: hours since `START`, outcome, how many slots."""
        return [
            ((e.slot - START) / HOUR, e.outcome.value, e.count)
            for e in self.entries
            if e.trigger is Trigger.SCHEDULE
        ]

    async def recorded(self, *told: tuple[float, str, int]) -> None:
        """Wait until that, and nothing else, is what the store has."""
        await wait_until(lambda: self.told() == list(told), f"it is recorded: {told}")

    async def settled(self) -> None:
        """Wait until nothing runs, as far as the store knows."""
        await wait_until(
            lambda: not any(told == "running" for _, told, _ in self.told()), "all has ended"
        )

    async def looked(self, name: str) -> None:
        """Look at what is due of a task, and wait until the ledger has answered."""
        reads = self.store.reads
        self.scheduler.wake(name)
        await wait_until(lambda: self.store.reads > reads, "the ledger was asked")
        await self.ledger.ask(Nothing())


@dataclass(frozen=True)
class Nothing:
    """A request that is answered after all that was asked before."""

    task: str = "nothing"
    leased: bool = False

    def decide(self, draft: object) -> None: ...


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[Worker]:
    try:
        yield worker
    finally:
        worker.store.works.set()
        worker.store.down = None
        await worker.stop()


@pytest.fixture
async def real() -> AsyncIterator[Worker]:
    """A worker on the real clock."""
    async with running(Worker(SystemClock())) as worker:
        yield worker


@pytest.fixture
def clock() -> WallClock:
    return WallClock(START)


@pytest.fixture
async def one(clock: WallClock) -> AsyncIterator[Worker]:
    """A worker whose clock stands at START; the test says when it looks what is due."""
    async with running(Worker(clock)) as worker:
        yield worker


@pytest.fixture
async def two(clock: WallClock, one: Worker) -> AsyncIterator[Worker]:
    """Another worker, over the same store."""
    async with running(Worker(clock, one.store, "two")) as worker:
        yield worker


@pytest.fixture(autouse=True)
def log() -> Iterator[list[Any]]:
    with capture_logs() as logged:
        yield logged


class Counts(BaseTask):
    """Counts something."""

    name = "counts"

    def __init__(self, http_client: httpx.AsyncClient, *, step: int = 1) -> None:
        super().__init__(http_client)
        self.step = step

    async def execute(self) -> int:
        return self.step


async def pings() -> str:
    return "pong"


async def fails() -> None:
    raise ValueError("boom")


async def waits() -> None:
    await asyncio.Event().wait()


@dataclass
class Gate:
    """A task whose runs end when the test lets them."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    inside: int = 0
    most: int = 0

    async def __call__(self) -> str:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1
        return "through"

    async def entered(self, count: int = 1) -> None:
        await wait_until(lambda: self.inside == count, f"{count} runs go on")


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
        await wait_until(lambda: one.finished != [], "its time is up")
        clock.advance(HOUR)
        await one.looked("stubborn")
        await one.recorded((0, "running", 1), (1, "skipped_overlap", 1))
        with pytest.raises(TaskBusy):
            await one.scheduler.run_now("stubborn")
        release.set()
        await one.recorded((0, "failed", 1), (1, "skipped_overlap", 1))
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
        await one.recorded((1, "ran", 1))
        await wait_until(
            lambda: any(line["event"] == "ledger.reply_failed" for line in log), "it is told"
        )
        assert one.started[0].task == "pings"

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
        await wait_until(lambda: one.finished != [], "its time is up")
        assert one.told() == [(0, "running", 1)]
        async with asyncio.timeout(5):
            await one.stop()
        assert one.runner.busy == ["stubborn"]
        assert one.told() == [(0, "failed", 1)]
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

    async def test_a_task_that_does_not_need_the_ledger_runs_and_is_recorded_afterwards(
        self, one: Worker, clock: WallClock
    ) -> None:
        one.register(pings, needs_ledger=False, **HOURLY)
        one.start()
        await one.looked("pings")
        await one.recorded((0, "ran", 1))
        await self.went_down(one)
        for hour in (1, 2, 5):
            clock.advance((START + hour * HOUR) - clock.now())
            one.scheduler.wake("pings")
            await wait_until(lambda: one.finished[-1].slot == clock.now(), "it has run")
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


class Moody:
    """A schedule that fails when the test says so."""

    def __init__(self, every: timedelta) -> None:
        self.inner = Interval(every)
        self.broken = False

    def after(self, moment: datetime) -> datetime | None:
        if self.broken:
            raise ZeroDivisionError("oops")
        return self.inner.after(moment)

    def until(self, moment: datetime) -> datetime | None:
        if self.broken:
            raise ZeroDivisionError("oops")
        return self.inner.until(moment)

    def count(self, start: datetime, end: datetime) -> int:
        return self.inner.count(start, end)


class TestTimers:
    @pytest.fixture
    async def woken(self) -> AsyncIterator[tuple[Timers, list[str]]]:
        names: list[str] = []
        timers = Timers(names.append)
        yield timers, names
        timers.stop()

    def test_a_week_of_sleep_is_not_a_list_of_every_slot_in_it(self) -> None:
        trigger = SlotTrigger(TaskSchedule("sync", Interval(SECOND)))
        now = START + timedelta(days=7, seconds=0.5)
        assert trigger.get_next_fire_time(START, now) == START + timedelta(days=7, seconds=1)

    async def test_a_schedule_that_raises_stops_no_other_timer(
        self, woken: tuple[Timers, list[str]], log: list[Any]
    ) -> None:
        timers, names = woken
        moody = Moody(SHORT)
        now = datetime.now(UTC)
        timers.add(TaskSchedule("moody", moody), now)
        timers.add(TaskSchedule("steady", Interval(SHORT)), now + SHORT)
        moody.broken = True
        timers.start()
        await wait_until(lambda: names.count("steady") >= 3, "the other goes on")
        assert any(line["event"] == "timer.failed" and line.get("task") == "moody" for line in log)

    async def test_waking_that_raises_stops_no_timer(self) -> None:
        calls: list[str] = []

        def wake(name: str) -> None:
            calls.append(name)
            if name == "broken":
                raise ZeroDivisionError("oops")

        timers = Timers(wake)
        for name in ("broken", "steady"):
            timers.add(TaskSchedule(name, Interval(SHORT)), datetime.now(UTC))
        timers.start()
        await wait_until(
            lambda: min(calls.count("broken"), calls.count("steady")) >= 3, "both go on"
        )
        timers.stop()

    async def test_a_clock_that_was_set_back_is_told_and_slots_go_on_by_the_new_time(
        self,
        woken: tuple[Timers, list[str]],
        log: list[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        timers, names = woken
        offset = [timedelta(0)]

        class Moved(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + offset[0]

        for module in (
            "worker.scheduling.timers",
            "apscheduler.schedulers.base",
            "apscheduler.schedulers.asyncio",
        ):
            monkeypatch.setattr(f"{module}.datetime", Moved, raising=False)
        timers.add(TaskSchedule("sync", Interval(SHORT)), datetime.now(UTC))
        timers.start()
        await wait_until(lambda: len(names) >= 2, "it wakes")
        offset[0] = -HOUR
        count = len(names)
        await wait_until(lambda: len(names) >= count + 3, "it wakes by the new time")
        assert [line["event"] for line in log].count("clock.set_back") == 1


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
        with pytest.raises(TaskDefinitionError, match=r"test_scheduler:Counts and .*:pings"):
            one.register(pings, name="counts", **HOURLY)

    async def test_a_task_that_comes_after_the_start_is_refused(self, one: Worker) -> None:
        one.start()
        with pytest.raises(TaskDefinitionError, match="too late"):
            one.register(pings, **HOURLY)
