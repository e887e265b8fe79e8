"""What a run enqueues by its context, it enqueues once, however often it is attempted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consuming import Bench, open_bench
from worker import BulkTask, InvalidOptions, RetryPolicy, RunContext, State, Trigger, task
from worker.client.child_ids import ChildIds
from worker.jobs.job import JobId, NewJob
from worker.tasks.base import TaskDefinition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from worker import BulkJob, JobHandle

    Enqueue = Callable[[RunContext, int], Awaitable[Any]]

SECOND = timedelta(seconds=1)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


@task()
async def child(n: int = 0, tag: str = "") -> int:
    return n


@task(enqueue_options=lambda params: {"id": f"own-{params['n']}"})
async def own(n: int) -> int:
    return n


def parent_of(enqueue: Enqueue, attempts: list[int]) -> Any:
    @task(max_retries=3, retry_delay="1s", retry_jitter=False, retry_backoff=False)
    async def parent(context: RunContext) -> None:
        attempts.append(context.attempt)
        await enqueue(context, len(attempts))
        if len(attempts) < 3:
            raise ValueError("once more")

    return parent


async def children(bench: Bench, enqueue: Enqueue, *known: Any) -> list[tuple[str, int]]:
    """The jobs that three attempts of a run have enqueued: their ids and the number in each."""
    attempts: list[int] = []
    parent = parent_of(enqueue, attempts)
    job = await bench.client.enqueue(parent, id="parent")
    await bench.work_off(parent)
    for _ in range(2):
        await bench.later(2 * SECOND, parent)
    assert (await bench.info(job)).state is State.SUCCESS
    assert attempts == [1, 2, 3]
    rows = [row for row in bench.memory._rows.values() if row.new.task != "parent"]
    return [(row.new.id, int(row.new.params.partition('"n":')[2][:1] or 0)) for row in rows]


async def test_each_attempt_enqueues_the_same_children(bench: Bench) -> None:
    async def enqueue(context: RunContext, attempt: int) -> None:
        for n in (1, 2, 2):
            await context.enqueue(child, {"n": n})
        await context.enqueue(child)

    found = await children(bench, enqueue)
    assert sorted(n for _, n in found) == [0, 1, 2, 2]


async def test_the_second_attempt_learns_that_the_child_is_there(bench: Bench) -> None:
    handles: list[JobHandle] = []

    async def enqueue(context: RunContext, attempt: int) -> None:
        handles.append(await context.enqueue(child, {"n": 1}))

    await children(bench, enqueue)
    assert [handle.created for handle in handles] == [True, False, False]
    assert len({handle.id for handle in handles}) == 1


async def test_neither_order_nor_concurrency_nor_other_calls_make_a_child_twice(
    bench: Bench,
) -> None:
    async def enqueue(context: RunContext, attempt: int) -> None:
        numbers = [1, 2, 3, 4] if attempt == 2 else [4, 3, 2, 1]
        if attempt == 3:
            numbers.insert(2, 5)
        await asyncio.gather(*(context.enqueue(child, {"n": n}) for n in numbers))

    assert sorted(n for _, n in await children(bench, enqueue)) == [1, 2, 3, 4, 5]


async def test_other_parameters_in_a_later_attempt_make_another_child(bench: Bench) -> None:
    async def enqueue(context: RunContext, attempt: int) -> None:
        await context.enqueue(child, {"n": attempt})

    assert sorted(n for _, n in await children(bench, enqueue)) == [1, 2, 3]


async def test_a_name_identifies_a_child_whatever_its_parameters(bench: Bench) -> None:
    async def enqueue(context: RunContext, attempt: int) -> None:
        await context.enqueue(child, {"n": 1}, name="first", delay=timedelta(seconds=attempt))
        await context.enqueue(child, {"n": 1}, name="second")

    assert [n for _, n in await children(bench, enqueue)] == [1, 1]


async def test_many_children_are_enqueued_once(bench: Bench) -> None:
    async def enqueue(context: RunContext, attempt: int) -> None:
        await context.enqueue_many(child, ({"n": n} for n in (1, 2, 2, 3)))
        await context.enqueue(child, {"n": 3})

    assert sorted(n for _, n in await children(bench, enqueue)) == [1, 2, 2, 3, 3]


async def test_by_name_and_by_class_are_one_child(bench: Bench) -> None:
    async def enqueue(context: RunContext, attempt: int) -> None:
        if attempt == 2:
            await context.enqueue("child", {"tag": "x", "n": 1})
        else:
            await context.enqueue("child", {"n": 1, "tag": "x"})

    assert [n for _, n in await children(bench, enqueue)] == [1]


async def test_an_id_of_the_callers_or_of_the_task_stays(bench: Bench) -> None:
    async def enqueue(context: RunContext, attempt: int) -> None:
        await context.enqueue(child, {"n": 1}, id="chosen")
        await context.enqueue(own, {"n": 2})
        await context.enqueue_many(own, [{"n": 3}, {"n": 4}])
        await context.enqueue_many(child, [{"n": 5}], ids=["fifth"])

    found = await children(bench, enqueue)
    assert sorted(id for id, _ in found) == ["chosen", "fifth", "own-2", "own-3", "own-4"]


async def test_children_of_different_runs_are_different_jobs(bench: Bench) -> None:
    @task()
    async def parent(context: RunContext) -> str:
        return (await context.enqueue(child, {"n": 1})).id

    jobs = [await bench.client.enqueue(parent) for _ in range(2)]
    await bench.work_off(parent)
    assert len({await job.result() for job in jobs}) == 2


async def test_a_slot_that_runs_again_enqueues_the_same_children(bench: Bench) -> None:
    ids: list[str] = []

    @task()
    async def parent(context: RunContext) -> None:
        ids.append((await context.enqueue(child, {"n": 1})).id)

    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    runs = [
        (Trigger.SCHEDULE, noon),
        (Trigger.SCHEDULE, noon),
        (Trigger.SCHEDULE, noon + SECOND),
        (Trigger.BACKFILL, noon),
        (Trigger.MANUAL, None),
    ]
    async with bench.client:
        for trigger, slot in runs:
            await bench.runner.run(TaskDefinition.of(parent), trigger=trigger, slot=slot)
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


async def test_a_run_repeated_within_itself_enqueues_the_same_children(bench: Bench) -> None:
    ids: list[str] = []

    @task(retry=RetryPolicy(attempts=2, base=timedelta(0), retry_on=(ValueError,)))
    async def parent(context: RunContext) -> None:
        ids.append((await context.enqueue(child, {"n": 1})).id)
        if len(ids) == 1:
            raise ValueError("once more")

    async with bench.client:
        await bench.runner.run(TaskDefinition.of(parent), trigger=Trigger.MANUAL)
    assert len(ids) == 2
    assert len(set(ids)) == 1


async def test_a_name_has_no_meaning_beside_an_id_or_in_a_batch(bench: Bench) -> None:
    wrong: list[InvalidOptions] = []

    @task()
    async def parent(context: RunContext) -> None:
        for options in ({"name": "a", "id": "b"}, {"name": ""}, {"name": 7}):
            with pytest.raises(InvalidOptions) as raised:
                await context.enqueue(child, **options)
            wrong.append(raised.value)

    class Many(BulkTask):
        name = "many"
        queue = "default"
        max_wait = timedelta(milliseconds=10)

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
            with pytest.raises(InvalidOptions) as raised:
                await self.context.enqueue(child, name="a")
            wrong.append(raised.value)
            await self.context.enqueue(child)
            await self.context.enqueue(child)
            return [None for _ in jobs]

    jobs = [await bench.client.enqueue(parent), await bench.client.enqueue(Many)]
    await bench.work_off(parent, Many)
    assert [(await bench.info(job)).state for job in jobs] == [State.SUCCESS] * 2
    assert len(wrong) == 4
    assert sum(row.new.task == "child" for row in bench.memory._rows.values()) == 2


def test_the_ids_are_the_same_in_every_process() -> None:
    new = NewJob(JobId("x"), "child", "default", '{"b":1,"a":2}')
    same = new._replace(id=JobId("y"), params='{"a":2,"b":1}', priority=5)
    one, other = ChildIds("parent"), ChildIds("parent")
    assert (
        one.next(new, 1, "default")
        == other.next(same, 1, "default")
        == "4fc1286afb8ddf40144c0006aec6c31f"
    )
