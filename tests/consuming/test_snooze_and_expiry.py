"""A snooze is never lost, whatever the code does with it; a job that has begun does not expire."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consuming import Bench, open_bench
from tests.support.waiting import wait_until
from worker import BulkTask, RunContext, State, Trigger, current_run, task
from worker.jobs.job import JobId, NewJob, Settlement
from worker.jobs.verdict import Snoozed
from worker.running.outcome import unwrapped
from worker.tasks.base import TaskDefinition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from worker import BulkJob

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


def run() -> RunContext:
    context = current_run()
    assert context is not None
    return context


async def snoozes() -> None:
    run().snooze("1m")


async def by_except_exception() -> str:
    try:
        await snoozes()
    except Exception:
        return "caught"
    return "unreachable"


async def by_a_bare_except() -> str:
    try:
        await snoozes()
    except:  # noqa: E722 - as careless code does
        return "caught"
    return "unreachable"


async def by_suppress() -> str:
    with suppress(Exception):
        await snoozes()
    return "suppressed"


async def by_suppress_of_everything() -> str:
    with suppress(BaseException):
        await snoozes()
    return "suppressed"


async def by_return_in_finally() -> str:
    try:
        await snoozes()
    finally:
        return "finally"  # noqa: B012 - as careless code does


async def by_gather() -> str:
    await asyncio.gather(snoozes(), asyncio.sleep(0))
    return "gathered"


async def by_gather_that_returns_exceptions() -> str:
    await asyncio.gather(snoozes(), return_exceptions=True)
    return "gathered"


async def by_a_task_nobody_awaits() -> str:
    task = asyncio.create_task(snoozes())
    await asyncio.wait({task})
    task.exception()
    return "forgotten"


async def in_a_task_group() -> str:
    async with asyncio.TaskGroup() as group:
        group.create_task(snoozes())
        group.create_task(asyncio.sleep(3600))
    return "grouped"


async def in_nested_task_groups() -> str:
    async with asyncio.TaskGroup() as group:
        group.create_task(in_a_task_group())
    return "grouped"


async def in_a_group_with_except_star() -> str:
    try:
        await in_a_task_group()
    except* Exception:
        pass
    return "caught"


WAYS: list[Callable[[], Coroutine[Any, Any, str]]] = [
    by_except_exception,
    by_a_bare_except,
    by_suppress,
    by_suppress_of_everything,
    by_return_in_finally,
    by_gather,
    by_gather_that_returns_exceptions,
    by_a_task_nobody_awaits,
    in_a_task_group,
    in_nested_task_groups,
    in_a_group_with_except_star,
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_snooze_is_kept_whatever_the_code_does_with_it(
    bench: Bench, way: Callable[[], Coroutine[Any, Any, str]]
) -> None:
    asked: list[str] = []

    @task(max_retries=0)
    async def waits() -> str:
        asked.append("begun")
        return "done" if len(asked) > 1 else await way()

    job = await bench.client.enqueue(waits)
    await bench.work_off(waits)
    info = await bench.info(job)
    assert (info.state, info.attempts) == (State.PENDING, 0)
    assert info.ready_at == bench.clock.now() + MINUTE
    await bench.later(MINUTE, waits)
    assert await job.result() == "done"


@pytest.mark.parametrize("caught", [Exception, BaseException])
async def test_a_snooze_of_a_sync_task_is_kept(bench: Bench, caught: type[BaseException]) -> None:
    @task(max_retries=0)
    def waits(context: RunContext) -> str:
        try:
            context.snooze("1m")
        except caught:
            return "caught"

    job = await bench.client.enqueue(waits)
    await bench.work_off(waits)
    assert (await bench.info(job)).state is State.PENDING


async def test_a_failure_after_a_snooze_is_a_failure(bench: Bench) -> None:
    @task(max_retries=0)
    async def waits() -> None:
        try:
            await snoozes()
        except BaseException as exc:
            raise ValueError("could not wait") from exc

    job = await bench.client.enqueue(waits)
    await bench.work_off(waits)
    info = await bench.info(job)
    assert (info.state, info.attempts) == (State.FAILURE, 1)
    assert "could not wait" in (info.error or "")


async def test_a_failure_beside_a_snooze_in_a_task_group_is_a_failure(bench: Bench) -> None:
    async def fails() -> None:
        raise ValueError("no")

    @task(max_retries=0)
    async def waits() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(snoozes())
            group.create_task(fails())

    job = await bench.client.enqueue(waits)
    await bench.work_off(waits)
    assert (await bench.info(job)).state is State.FAILURE


def batches(do: Callable[[Sequence[BulkJob[Any]]], Sequence[object]]) -> type[BulkTask]:
    class Many(BulkTask):
        name = "many"
        queue = "default"
        max_wait = timedelta(milliseconds=10)

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
            return do(jobs)

    return Many


async def test_a_batch_that_catches_its_snooze_is_snoozed(bench: Bench) -> None:
    def careless(jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
        with suppress(BaseException):
            run().snooze("1m")
        return [None for _ in jobs]

    many = batches(careless)
    jobs = await bench.client.enqueue_many(many, [None, None])
    await bench.work_off(many)
    assert [(await bench.info(job)).state for job in jobs] == [State.PENDING] * 2


async def test_a_batch_may_answer_with_the_snooze_it_caught(bench: Bench) -> None:
    def one_by_one(jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
        answers: list[object] = []
        for job in jobs:
            try:
                if job.id == "later":
                    run().snooze("1m")
                answers.append(None)
            except BaseException as exc:
                answers.append(exc)
        return answers

    many = batches(one_by_one)
    jobs = await bench.client.enqueue_many(many, [None, None], ids=["now", "later"])
    await bench.work_off(many)
    assert [(await bench.info(job)).state for job in jobs] == [State.SUCCESS, State.PENDING]


async def test_a_run_of_its_own_that_catches_its_snooze_has_not_succeeded(bench: Bench) -> None:
    @task()
    async def waits() -> str:
        return await by_a_bare_except()

    ended = await bench.runner.run(TaskDefinition.of(waits), trigger=Trigger.MANUAL)
    assert ended.state is State.PENDING


async def test_the_longest_snooze_of_a_group_counts() -> None:
    async def for_minutes(minutes: int) -> None:
        RunContext(task="t").snooze(timedelta(minutes=minutes))

    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            for minutes in (1, 3, 2):
                group.create_task(for_minutes(minutes))

    with pytest.raises(BaseExceptionGroup) as raised:
        await grouped()
    snoozed = unwrapped(raised.value)
    assert isinstance(snoozed, Snoozed)
    assert snoozed.delay == 3 * MINUTE


# Expiry


async def test_a_job_that_snoozes_past_its_expiry_goes_on(bench: Bench) -> None:
    begun: list[int] = []

    @task(expires="30s")
    async def waits() -> str:
        begun.append(1)
        if len(begun) == 1:
            await snoozes()
        return "done"

    job = await bench.client.enqueue(waits)
    await bench.work_off(waits)
    await bench.later(MINUTE, waits)
    assert await job.result() == "done"


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_job_that_waits_for_its_next_attempt_past_its_expiry_goes_on(
    bench: Bench, bulk: bool
) -> None:
    begun: list[int] = []

    @task(expires="30s", max_retries=1, retry_delay="1m", retry_jitter=False)
    async def one() -> str:
        begun.append(1)
        if len(begun) == 1:
            raise ValueError("not yet")
        return "done"

    class Many(BulkTask):
        name = "many"
        queue = "default"
        expires = "30s"
        max_retries = 1
        retry_delay = "1m"
        retry_jitter = False
        max_wait = timedelta(milliseconds=10)

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
            return [await one() for _ in jobs]

    asked: Any = Many if bulk else one
    job = await bench.client.enqueue(asked)
    await bench.work_off(asked)
    assert (await bench.info(job)).state is State.RETRY
    await bench.later(2 * MINUTE, asked)
    assert await job.result() == "done"


async def test_a_job_that_a_stopping_worker_hands_back_goes_on_after_its_expiry(
    bench: Bench,
) -> None:
    begun: list[int] = []

    @task(expires="30s")
    async def long() -> str:
        begun.append(1)
        if len(begun) == 1:
            await asyncio.sleep(3600)
        return "done"

    job = await bench.client.enqueue(long)
    async with bench.working(long, grace=timedelta(0)):
        await wait_until(lambda: bool(begun), "it has begun")
    assert (await bench.info(job)).state is State.PENDING
    await bench.later(MINUTE, long)
    assert await job.result() == "done"


async def test_a_job_whose_worker_died_goes_on_after_its_expiry(bench: Bench) -> None:
    @task(expires="30s")
    async def quick() -> str:
        return "done"

    job = await bench.client.enqueue(quick)
    await bench.memory.lease(
        "default", limit=1, ttl=MINUTE, wait=timedelta(0), worker="one that dies"
    )
    await bench.later(HOUR, quick)
    assert await job.result() == "done"


async def test_a_job_that_was_leased_but_never_begun_expires(bench: Bench) -> None:
    @task()
    async def quick() -> None: ...

    await bench.memory.enqueue([NewJob(JobId("late"), "quick", "default", expires=MINUTE)])
    (lease,) = await bench.memory.lease(
        "default", limit=1, ttl=MINUTE, wait=timedelta(0), worker="other"
    )
    await bench.memory.settle([Settlement(lease, State.PENDING, 0)])
    await bench.later(HOUR, quick)
    assert (await bench.info("late")).state is State.EXPIRED
