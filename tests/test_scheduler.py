"""Slots become runs, and what does not is announced."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.clock import FakeClock
from tests.support.waiting import wait_until
from worker import (
    BaseTask,
    Clock,
    Events,
    FirstRun,
    Runner,
    Scheduler,
    SystemClock,
    TaskDefinitionError,
)
from worker.events import Event, RunFinished, RunStarted, SlotSkipped
from worker.schedule import Interval
from worker.scheduler import SlotTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START = datetime(2100, 1, 1, tzinfo=UTC)
"""So far ahead that APScheduler's own timers, which know no other clock, keep out of it."""
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
NO_GRACE = timedelta(0)
AT_ONCE = FirstRun(delay=timedelta(0), spread=timedelta(0))


@dataclass
class Bench:
    clock: Clock = field(default_factory=SystemClock)
    announced: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = httpx.AsyncClient()
        events = Events(self.announced.append)
        self.runner = Runner(self.client, clock=self.clock, events=events)
        self.scheduler = Scheduler(self.runner, clock=self.clock, events=events, first_run=AT_ONCE)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.announced if isinstance(event, kind)]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.scheduler.stop(NO_GRACE)
    await bench.client.aclose()


@pytest.fixture
async def at_start() -> AsyncIterator[Bench]:
    """A bench whose clock stands at START; the test says which slots are due."""
    bench = Bench(FakeClock(START))
    yield bench
    await bench.scheduler.stop(NO_GRACE)
    await bench.client.aclose()


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


async def waits() -> None:
    await asyncio.Event().wait()


async def test_a_task_class_a_partial_of_one_and_an_async_function_all_run(bench: Bench) -> None:
    bench.scheduler.register_task(partial(Counts, step=7), interval=HOUR)
    bench.scheduler.register_task(Counts, interval_seconds=3600, name="counts_too")
    bench.scheduler.register_task(pings, interval_seconds=3600)
    bench.scheduler.start()
    await wait_until(lambda: len(bench.of(RunFinished)) == 3, "all three have run")
    results = {event.task: event.run.result for event in bench.of(RunFinished)}
    assert results == {"counts": 7, "counts_too": 1, "pings": "pong"}


async def test_a_function_may_ask_for_the_shared_client(bench: Bench) -> None:
    given: list[httpx.AsyncClient] = []

    async def asks(http_client: httpx.AsyncClient, *, step: int = 1) -> None:
        given.append(http_client)

    bench.scheduler.register_task(partial(asks, step=2), interval=HOUR)
    bench.scheduler.start()
    await wait_until(lambda: bench.of(RunFinished) != [], "it has run")
    assert given == [bench.client]


async def test_slots_stay_on_their_nominal_times_however_late_a_run_starts(bench: Bench) -> None:
    bench.scheduler.register_task(pings, interval_seconds=0.02)
    bench.scheduler.start()
    await wait_until(lambda: len(bench.of(RunFinished)) >= 10, "ten runs are done")
    slots = [event.run.slot for event in bench.of(RunStarted)]
    distances = [(slot - slots[0]) % timedelta(seconds=0.02) for slot in slots]
    assert distances == [timedelta(0)] * len(slots)
    assert all(event.run.late_ms >= 0 for event in bench.of(RunStarted))


async def test_a_slot_that_comes_while_the_task_still_runs_is_skipped_and_told(
    at_start: Bench,
) -> None:
    at_start.scheduler.register_task(waits, interval=SECOND)
    at_start.scheduler.start()
    at_start.scheduler.take("waits", [START])
    await wait_until(lambda: at_start.of(RunStarted) != [], "the first run has begun")
    at_start.scheduler.take("waits", [START + SECOND])
    (skipped,) = at_start.of(SlotSkipped)
    assert (skipped.slot, skipped.reason) == (START + SECOND, "overlap")
    assert skipped.running_since == START
    assert len(at_start.of(RunStarted)) == 1


async def test_slots_that_passed_unseen_are_told_and_only_the_last_of_them_runs(
    at_start: Bench,
) -> None:
    at_start.scheduler.register_task(pings, interval=SECOND)
    at_start.scheduler.start()
    at_start.scheduler.take("pings", [START])
    await wait_until(lambda: at_start.of(RunFinished) != [], "the first run is done")
    at_start.scheduler.take("pings", [START + SECOND, START + 60 * SECOND])
    await wait_until(lambda: len(at_start.of(RunFinished)) == 2, "the last slot has run")
    (skipped,) = at_start.of(SlotSkipped)
    assert (skipped.slot, skipped.reason, skipped.count) == (START + SECOND, "missed", 59)
    assert at_start.of(RunFinished)[-1].run.slot == START + 60 * SECOND


async def test_a_loop_that_was_blocked_loses_no_slot_in_silence(bench: Bench) -> None:
    bench.scheduler.register_task(pings, interval_seconds=0.05)
    bench.scheduler.start()
    await wait_until(lambda: bench.of(RunFinished) != [], "the first run is done")
    time.sleep(1.3)  # noqa: ASYNC251 - this is what is tested: the loop does not turn
    count = len(bench.of(RunFinished))
    await wait_until(lambda: len(bench.of(RunFinished)) >= count + 3, "it goes on")
    slots = [event.run.slot for event in bench.of(RunStarted)]
    missed = sum(event.count for event in bench.of(SlotSkipped))
    assert missed >= 20
    assert {event.reason for event in bench.of(SlotSkipped)} == {"missed"}
    expected = (slots[-1] - slots[0]) // timedelta(seconds=0.05) + 1
    assert len(slots) + missed == expected


def test_a_week_of_sleep_is_not_a_list_of_every_slot_in_it() -> None:
    trigger = SlotTrigger(Interval(SECOND, START))
    now = START + timedelta(days=7, seconds=0.5)
    due: list[datetime] = [START]
    while (following := trigger.get_next_fire_time(due[-1], now)) <= now:
        due.append(following)
    assert due == [START, START + timedelta(days=7)]


async def test_stop_lets_runs_end_within_the_grace_period(bench: Bench) -> None:
    release = asyncio.Event()

    async def works() -> None:
        await release.wait()

    bench.scheduler.register_task(works, interval=HOUR)
    bench.scheduler.start()
    await wait_until(lambda: bench.of(RunStarted) != [], "the run has begun")
    stopping = asyncio.create_task(bench.scheduler.stop(HOUR))
    await asyncio.sleep(0)
    release.set()
    async with asyncio.timeout(5):
        await stopping
    assert bench.of(RunFinished)[0].run.state == "SUCCESS"


async def test_a_slot_that_is_due_while_stopping_is_told(at_start: Bench) -> None:
    at_start.scheduler.register_task(pings, interval=HOUR)
    at_start.scheduler.start()
    await at_start.scheduler.stop(NO_GRACE)
    at_start.scheduler.take("pings", [START + HOUR])
    assert at_start.of(SlotSkipped)[-1].reason == "stopping"


async def test_an_interval_of_zero_keeps_a_task_for_runs_by_hand(at_start: Bench) -> None:
    at_start.scheduler.register_task(Counts, interval=timedelta(0))
    at_start.scheduler.register_task(pings, interval=HOUR)
    at_start.scheduler.start()
    assert list(at_start.scheduler.tasks) == ["counts", "pings"]
    assert at_start.scheduler.tasks["counts"].interval is None
    assert at_start.scheduler.next_slot("counts") is None
    assert at_start.scheduler.next_slot("pings") == START + HOUR


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


@pytest.mark.parametrize(
    ("task", "options", "complaint"),
    [
        (Counts, {}, "got neither"),
        (Counts, {"interval": SECOND, "interval_seconds": 1}, "got both"),
        (Counts, {"interval_seconds": -1}, "negative"),
        (Counts, {"interval_seconds": "often"}, "expected a number of seconds"),
        (Counts, {"interval_seconds": float("nan")}, "expected a number of seconds"),
        (Counts, {"interval": 60}, "expected a timedelta"),
        (Counts, {"interval": timedelta.max}, "up to 3650 days"),
        (synchronous, {"interval": SECOND}, "expected a subclass of BaseTask or an async function"),
        (pings(), {"interval": SECOND}, "not a call of it"),
        (Abstract, {"interval": SECOND}, "abstract"),
        (wants_too_much, {"interval": SECOND}, "without arguments or with one"),
        (NeedsMore, {"interval": SECOND}, "needs more than the shared client"),
        (NotAsync, {"interval": SECOND}, "write `async def execute"),
        (pings, {"interval": SECOND, "name": "no spaces"}, "letters, digits"),
        (lambda: pings(), {"interval": SECOND}, "async function"),
    ],
)
async def test_what_cannot_be_scheduled_is_refused_with_what_was_expected(
    at_start: Bench, task: Any, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TaskDefinitionError, match=complaint):
        at_start.scheduler.register_task(task, **options)
    if asyncio.iscoroutine(task):
        task.close()


async def test_two_tasks_with_one_name_are_refused_naming_both(at_start: Bench) -> None:
    at_start.scheduler.register_task(Counts, interval=SECOND)
    with pytest.raises(TaskDefinitionError, match=r"test_scheduler:Counts and .*:pings"):
        at_start.scheduler.register_task(pings, interval=SECOND, name="counts")


async def test_a_task_that_comes_after_the_start_is_refused(at_start: Bench) -> None:
    at_start.scheduler.start()
    with pytest.raises(TaskDefinitionError, match="too late"):
        at_start.scheduler.register_task(pings, interval=SECOND)
