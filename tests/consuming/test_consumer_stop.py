"""How a consumer ends: what it finishes, what goes back, and what cannot hold it up."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from threading import Event as ThreadEvent
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consuming import GRACE, SHORT, Bench, open_bench
from tests.support.waiting import wait_until
from worker import BulkJob, BulkTask, RunContext, RunLimits, State, task
from worker.events import LeaseWasLost, RunAbandoned, RunFinished, RunStuck
from worker.jobs.history import attempts_of
from worker.jobs.job import Grant, Lease, Rate, Settlement
from worker.jobs.verdict import LEFT_BEHIND_DELAY
from worker.queues.memory import MemoryJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

NOW = timedelta(0)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench(limits=RunLimits(cancel_grace=SHORT)) as bench:
        yield bench


@task()
async def double(n: int) -> int:
    return 2 * n


async def is_unspent(bench: Bench, job: Any, *, delay: timedelta = NOW) -> bool:
    """Whether the job is as if no worker had ever begun it, and ready after ``delay`` at most."""
    info = await bench.info(job)
    seen = (info.state, info.attempts, info.losses, info.refusals, info.error)
    return seen == (State.PENDING, 0, 0, 0, None) and info.ready_at <= bench.clock.now() + delay


async def test_what_ends_within_the_grace_period_is_finished(bench: Bench) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @task()
    async def long() -> str:
        begun.set()
        await go_on.wait()
        return "finished"

    job = await bench.client.enqueue(long)
    async with bench.working(long, grace=GRACE):
        await begun.wait()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert (await bench.info(job)).result == '"finished"'


async def test_what_does_not_end_goes_back_at_once_with_its_attempt_unspent(bench: Bench) -> None:
    begun = asyncio.Event()
    cleaned_up: list[bool] = []

    @task(max_retries=0)
    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.append(True)

    job = await bench.client.enqueue(endless)
    async with bench.working(endless, grace=NOW):
        await begun.wait()
    assert cleaned_up
    assert await is_unspent(bench, job)


async def test_what_was_leased_and_not_begun_goes_back(bench: Bench) -> None:
    """A bulk task's jobs that wait for others."""

    class Save(BulkTask):
        name = "save"
        max_wait = timedelta(minutes=5)

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> list[None]:
            return [None] * len(jobs)

    jobs = await bench.client.enqueue_many(Save, [None] * 3)
    async with bench.working(Save, grace=GRACE) as consumer:
        await wait_until(lambda: consumer.running == 3, "they wait for others")
    assert [await is_unspent(bench, job) for job in jobs] == [True] * 3
    assert not bench.told(RunFinished)


async def test_a_lease_that_is_on_its_way_when_the_worker_ends_is_given_back(bench: Bench) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemoryJobs):
        async def lease(self, *args: Any, **rest: Any) -> list[Lease]:
            leases = await super().lease(*args, **rest)
            if leases:
                asked.set()
                await go_on.wait()
            return leases

    bench.use(Slow(bench.clock))
    job = await bench.client.enqueue(double, {"n": 1})
    async with bench.working(double):
        await asked.wait()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert await is_unspent(bench, job)


async def test_a_lease_that_never_comes_does_not_hold_up_the_end(bench: Bench) -> None:
    class Hanging(MemoryJobs):
        async def lease(self, *args: Any, **rest: Any) -> list[Lease]:
            await asyncio.Event().wait()
            raise AssertionError

    bench.use(Hanging(bench.clock))
    began = time.monotonic()
    async with bench.working(double):
        await asyncio.sleep(0)
    assert time.monotonic() - began < 5


async def test_jobs_that_wait_for_a_rates_answer_go_back(bench: Bench) -> None:
    asked = asyncio.Event()

    class Hanging(MemoryJobs):
        async def take(self, key: str, rate: Rate, wanted: int) -> Grant:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

    @task(rate_limit="1/s")
    async def limited() -> None: ...

    bench.use(Hanging(bench.clock))
    job = await bench.client.enqueue(limited)
    async with bench.working(limited):
        await asked.wait()
    assert await is_unspent(bench, job)


async def test_jobs_of_several_tasks_that_wait_for_one_rates_answer_all_go_back(
    bench: Bench,
) -> None:
    asked = asyncio.Event()

    class Hanging(MemoryJobs):
        async def take(self, key: str, rate: Rate, wanted: int) -> Grant:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

    def limited(name: str) -> Any:
        @task(name=name, rate_limit="1/s")
        async def code() -> None: ...

        return code

    tasks = [limited("one"), limited("two"), limited("three")]
    bench.use(Hanging(bench.clock))
    jobs = [await bench.client.enqueue(each) for each in tasks]
    async with bench.working(*tasks):
        await asked.wait()
    assert [await is_unspent(bench, job) for job in jobs] == [True] * 3


async def test_code_that_ignores_its_cancellation_is_left_behind_and_its_job_goes_back(
    bench: Bench,
) -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    @task()
    async def stubborn() -> None:
        begun.set()
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    job = await bench.client.enqueue(stubborn)
    began = time.monotonic()
    async with bench.working(stubborn, grace=NOW):
        await begun.wait()
    assert time.monotonic() - began < 5
    assert await is_unspent(bench, job, delay=LEFT_BEHIND_DELAY)
    info = await bench.info(job)
    assert info.ready_at > bench.clock.now()  # until the process is gone in which it still runs
    assert bench.told(RunAbandoned)
    assert bench.runner.busy == ["stubborn"]
    end.set()
    await wait_until(lambda: not bench.runner.busy, "it has ended")


async def test_no_attempt_begins_while_the_one_before_still_goes_on(bench: Bench) -> None:
    begun: list[int] = []
    end = asyncio.Event()

    @task(retry_delay="0s", time_limit="50ms")
    async def stubborn_at_first() -> None:
        begun.append(1)
        if len(begun) > 1:
            return
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue
        raise ValueError("late")

    job = await bench.client.enqueue(stubborn_at_first)
    async with bench.working(stubborn_at_first):
        await wait_until(lambda: bool(bench.told(RunStuck)), "its code is stuck")
        assert (await bench.info(job)).state is State.STARTED
        assert begun == [1]
        end.set()
        await job.result("5s")
    info = await bench.info(job)
    assert (info.state, info.attempts) == (State.SUCCESS, 2)
    assert [(one.outcome, one.type) for one in attempts_of(info)] == [
        ("failed", "ValueError"),
        ("succeeded", None),
    ]
    assert attempts_of(info)[0].overtime_ms is not None


async def test_a_thread_is_told_and_left_behind_if_it_does_not_hear(bench: Bench) -> None:
    begun, end = ThreadEvent(), ThreadEvent()
    heard: list[bool] = []

    @task()
    def hears(job: RunContext) -> str:
        begun.set()
        while not job.cancelled:
            end.wait(0.001)
        heard.append(True)
        raise RuntimeError("not done")

    @task()
    def deaf() -> None:
        begun.set()
        end.wait(20)

    for each in (hears, deaf):
        begun.clear()
        job = await bench.client.enqueue(each)
        async with bench.working(each, grace=NOW):
            await wait_until(begun.is_set, "it runs")
        assert await is_unspent(bench, job, delay=LEFT_BEHIND_DELAY)
    assert heard == [True]
    assert [event.task for event in bench.told(RunAbandoned)] == ["deaf"]
    end.set()
    await wait_until(lambda: not bench.runner.busy, "it has ended")


async def test_a_thread_that_ends_its_work_after_all_has_done_it(bench: Bench) -> None:
    begun = ThreadEvent()

    @task()
    def soon() -> str:
        begun.set()
        time.sleep(0.02)
        return "done"

    job = await bench.client.enqueue(soon)
    async with bench.working(soon, grace=NOW):
        await wait_until(begun.is_set, "it runs")
    assert (await bench.info(job)).result == '"done"'


async def test_a_batch_between_two_of_its_parts_ends_too(bench: Bench) -> None:
    parts: list[int] = []

    class Save(BulkTask):
        name = "save"
        max_wait = timedelta(0)

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> list[None]:
            parts.append(len(jobs))
            if len(parts) < 3:
                raise ValueError("split it")
            await asyncio.Event().wait()
            return []

    jobs = await bench.client.enqueue_many(Save, [None] * 8)
    async with bench.working(Save, grace=NOW):
        await wait_until(lambda: len(parts) == 3, "it was split twice")
    assert parts == [8, 4, 2]
    assert [await is_unspent(bench, job) for job in jobs] == [True] * 8


async def test_outcomes_that_cannot_be_stored_before_the_end_are_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.consuming.consumer.FLUSH_S", 0.05)

    class Stuck(MemoryJobs):
        async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
            await asyncio.Event().wait()
            raise AssertionError

    bench.use(Stuck(bench.clock))
    job = await bench.client.enqueue(double, {"n": 1})
    async with bench.working(double):
        await wait_until(lambda: bool(bench.told(RunFinished)), "it has run")
    (lost,) = bench.told(LeaseWasLost)
    assert lost.job_id == job.id
    assert "before the worker ended" in lost.reason


async def test_nothing_is_leased_any_more_once_it_ends(bench: Bench) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @task()
    async def first() -> None:
        begun.set()
        await go_on.wait()

    job = await bench.client.enqueue(first)
    consumer = bench.consumer(first, double)
    async with bench.client, asyncio.TaskGroup() as group:
        consumer.start(group)
        await begun.wait()
        stopping = asyncio.create_task(consumer.stop(GRACE))
        await asyncio.sleep(0)
        later = await bench.client.enqueue(double, {"n": 1})
        go_on.set()
        await stopping
    assert (await bench.info(job)).state is State.SUCCESS
    assert (await bench.info(later)).deliveries == 0


async def test_no_asyncio_task_of_it_is_left_when_it_has_ended(bench: Bench) -> None:
    before = asyncio.all_tasks()
    await bench.client.enqueue_many(double, [{"n": n} for n in range(20)])
    await bench.work_off(double)
    assert asyncio.all_tasks() == before
