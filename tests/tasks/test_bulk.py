"""Tasks that take many jobs at once, and answer each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from tests.support.consuming import GRACE, SHORT, Bench, open_bench
from tests.support.waiting import wait_until
from worker import (
    BulkJob,
    BulkTask,
    JobFailed,
    JobRevoked,
    RunLimits,
    State,
    TaskDefinitionError,
    TaskFailed,
    current_run,
)
from worker.events import RunFinished, RunStuck
from worker.jobs.history import attempts_of
from worker.jobs.job import JobId, NewJob
from worker.jobs.verdict import Snoozed
from worker.tasks.base import TaskDefinition

LONG = timedelta(minutes=5)
NOW = timedelta(0)
QUICK = timedelta(milliseconds=30)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


class Item(BaseModel):
    n: int


class Saves(BulkTask):
    """Answers each number with its double, and notes the batches."""

    Params = Item
    max_wait = NOW
    max_retries = 0
    batches: list[list[int]]

    async def execute_many(self, jobs: Sequence[BulkJob[Item]]) -> Sequence[object]:
        numbers = [job.params.n for job in jobs]
        self.batches.append(numbers)
        return await self.answer(numbers)

    async def answer(self, numbers: list[int]) -> Sequence[object]:
        return [2 * n for n in numbers]


def saves(answer: Any = None, **body: Any) -> Any:
    """A bulk task that answers with what ``answer`` makes of the numbers."""

    async def answers(self: Saves, numbers: list[int]) -> Any:
        result = answer(numbers)
        return await result if asyncio.iscoroutine(result) else result

    own = {} if answer is None else {"answer": answers}
    return type("Save", (Saves,), {"name": "save", "batches": [], **own, **body})


async def enqueued(bench: Bench, save: Any, count: int, **options: Any) -> list[Any]:
    return await bench.client.enqueue_many(save, [{"n": n} for n in range(count)], **options)


async def states(bench: Bench, jobs: Sequence[Any]) -> list[State]:
    return [(await bench.info(job)).state for job in jobs]


async def test_many_jobs_are_done_at_once_and_each_is_answered(bench: Bench) -> None:
    save = saves()
    jobs = await enqueued(bench, save, 5)
    await bench.work_off(save)
    assert save.batches == [[0, 1, 2, 3, 4]]
    assert [await job.result() for job in jobs] == [0, 2, 4, 6, 8]


async def test_a_batch_is_not_larger_than_it_may_be(bench: Bench) -> None:
    save = saves(max_batch_size=4)
    await enqueued(bench, save, 10)
    await bench.work_off(save)
    assert [len(batch) for batch in save.batches] == [4, 4, 2]


async def test_a_full_batch_begins_at_once(bench: Bench) -> None:
    save = saves(max_batch_size=3, max_wait=LONG)
    async with bench.working(save):
        jobs = await enqueued(bench, save, 3)
        assert await jobs[0].result("5s") == 0


async def test_the_first_job_waits_for_others_no_longer_than_it_may(bench: Bench) -> None:
    save = saves(max_wait="30ms")
    async with bench.working(save):
        (one,) = await enqueued(bench, save, 1)
        await wait_until(lambda: bool(bench.memory._rows[one.id].deliveries), "it is leased")
        other = await bench.client.enqueue(save, {"n": 1})
        assert await one.result("5s") == 0
        assert await other.result("5s") == 2
    assert save.batches == [[0, 1]]


async def test_a_batch_waits_for_no_more_jobs_than_may_run(bench: Bench) -> None:
    save = saves(max_batch_size=100, max_wait=LONG)
    async with bench.working(save, concurrency=3):
        jobs = await enqueued(bench, save, 3)
        assert await jobs[2].result("5s") == 4


async def test_jobs_of_many_queues_are_done_together(bench: Bench) -> None:
    save = saves(max_batch_size=2, max_wait=LONG)
    async with bench.working(save, queues=["default", "other"]):
        one = await bench.client.enqueue(save, {"n": 1})
        other = await bench.client.enqueue(save, {"n": 2}, queue="other")
        assert await one.result("5s") == 2
        assert await other.result("5s") == 4
    assert len(save.batches) == 1


async def test_each_job_is_answered_with_a_result_or_a_failure_of_its_own(bench: Bench) -> None:
    save = saves(lambda numbers: [ValueError(f"no {n}") if n % 2 else n for n in numbers])
    jobs = await enqueued(bench, save, 4)
    await bench.work_off(save)
    assert [await job.result() for job in jobs[::2]] == [0, 2]
    for job in jobs[1::2]:
        with pytest.raises(JobFailed, match="ValueError: no"):
            await job.result()
    assert len(save.batches) == 1


async def test_a_job_that_failed_is_tried_again_with_the_next_batch(bench: Bench) -> None:
    attempts: list[list[int]] = []

    class Save(BulkTask):
        name = "save"
        max_wait = NOW
        retry_delay = "0s"
        max_retries = 1

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
            attempts.append([job.attempt for job in jobs])
            return [None if job.id == "a" else ValueError() for job in jobs]

    jobs = await bench.client.enqueue_many(Save, [None] * 3, ids=["a", "b", "c"])
    await bench.work_off(Save)
    assert attempts[0] == [1, 1, 1]
    assert sorted(n for batch in attempts[1:] for n in batch) == [2, 2]
    assert await states(bench, jobs) == [State.SUCCESS, State.FAILURE, State.FAILURE]


async def test_one_poison_job_fails_alone(bench: Bench) -> None:
    def answer(numbers: list[int]) -> list[int]:
        if 37 in numbers:
            raise ValueError("poison")
        return numbers

    save = saves(answer)
    jobs = await enqueued(bench, save, 100)
    await bench.work_off(save)
    got = await states(bench, jobs)
    assert [n for n, state in enumerate(got) if state is State.FAILURE] == [37]
    assert got.count(State.SUCCESS) == 99
    assert len(save.batches) <= 2 * 7 + 1  # it is found by halving


async def test_a_poison_job_that_hangs_fails_alone() -> None:
    async def answer(numbers: list[int]) -> list[int]:
        if 3 in numbers:
            await asyncio.Event().wait()
        return numbers

    async with open_bench(limits=RunLimits(cancel_grace=SHORT)) as bench:
        save = saves(answer, time_limit="20ms")
        jobs = await enqueued(bench, save, 8)
        await bench.work_off(save)
        got = await states(bench, jobs)
        assert [n for n, state in enumerate(got) if state is State.FAILURE] == [3]
        with pytest.raises(JobFailed, match="TimeLimitExceeded"):
            await jobs[3].result()


async def test_a_batch_that_goes_on_past_its_time_limit_is_awaited_and_its_answers_count() -> None:
    end = asyncio.Event()

    async def answer(numbers: list[int]) -> list[int]:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue
        return numbers

    async with open_bench(limits=RunLimits(cancel_grace=SHORT)) as bench:
        save = saves(answer, time_limit="20ms")
        jobs = await enqueued(bench, save, 4)
        async with bench.working(save):
            await wait_until(lambda: bool(bench.told(RunStuck)), "it is stuck")
            assert await states(bench, jobs) == [State.STARTED] * 4
            (stuck,) = bench.runner.stuck()
            assert set(stuck.jobs) == {job.id for job in jobs}
            end.set()
            assert [await job.result("5s") for job in jobs] == [0, 1, 2, 3]
        assert len(save.batches) == 1
        for job in jobs:
            (attempt,) = attempts_of(await bench.info(job))
            assert attempt.overtime_ms is not None


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_a_batch_that_stops_in_a_shutdown_is_handed_back(how: str) -> None:
    begun = asyncio.Event()

    class Save(BulkTask):
        name = "save"
        max_wait = timedelta(0)

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> list[str]:
            begun.set()
            while how == "raises" or not self.context.cancelled:
                self.context.raise_if_cancelled()
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.001)
            return ["half done"] * len(jobs)

    async with open_bench(limits=RunLimits(cancel_grace=SHORT)) as bench:
        job = await bench.client.enqueue(Save)
        async with bench.working(Save, grace=timedelta(0)):
            await begun.wait()
        info = await bench.info(job)
        assert (info.state, info.attempts, info.result) == (State.PENDING, 0, None)


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda numbers: numbers[1:], "got 3 answers"),
        (lambda numbers: [*numbers, 1], "got 5 answers"),
        (lambda numbers: None, "got a NoneType"),
        (lambda numbers: 7, "got a int"),
        (lambda numbers: dict.fromkeys(numbers), "got a dict"),
        (lambda numbers: "four", "got a str"),
    ],
)
async def test_a_wrong_number_of_answers_is_nobodys_answer(
    bench: Bench, answer: Any, got: str
) -> None:
    """It is a fault of the code; to do it all again in halves would not mend it."""
    save = saves(answer, max_retries=3)
    jobs = await enqueued(bench, save, 4)
    await bench.work_off(save)
    assert len(save.batches) == 1
    for job in jobs:
        with pytest.raises(JobFailed, match=f"expected a list of 4 answers, one a job, {got}"):
            await job.result()
        assert (await bench.info(job)).dead


async def test_answers_may_come_in_any_sequence(bench: Bench) -> None:
    save = saves(lambda numbers: tuple(numbers))
    jobs = await enqueued(bench, save, 3)
    await bench.work_off(save)
    assert [await job.result() for job in jobs] == [0, 1, 2]


async def test_parameters_that_do_not_fit_keep_their_job_out_of_the_batch(bench: Bench) -> None:
    save = saves()
    (good,) = await enqueued(bench, save, 1)
    await bench.memory.enqueue([NewJob(JobId("x"), "save", "default", '{"n": "seven"}')])
    await bench.work_off(save)
    assert save.batches == [[0]]
    assert await good.result() == 0
    info = await bench.info("x")
    assert (info.state, info.dead) == (State.FAILURE, True)
    assert info.error is not None
    assert "InvalidParams" in info.error


async def test_options_that_nobody_can_read_keep_their_job_out_of_the_batch(bench: Bench) -> None:
    save = saves()
    (good,) = await enqueued(bench, save, 1)
    await bench.memory.enqueue(
        [NewJob(JobId("x"), "save", "default", '{"n": 1}', options="no json")]
    )
    await bench.work_off(save)
    assert await good.result() == 0
    assert (await bench.info("x")).dead


async def test_a_result_that_is_no_json_is_its_own_jobs_failure(bench: Bench) -> None:
    save = saves(lambda numbers: [object() if n == 1 else n for n in numbers])
    jobs = await enqueued(bench, save, 3)
    await bench.work_off(save)
    assert await states(bench, jobs) == [State.SUCCESS, State.FAILURE, State.SUCCESS]


async def test_a_whole_batch_can_be_snoozed_and_so_can_one_of_its_jobs(bench: Bench) -> None:
    def all_of_it(numbers: list[int]) -> list[int]:
        run = current_run()
        assert run is not None
        run.snooze("1m")

    save = saves(all_of_it)
    jobs = await enqueued(bench, save, 2)
    await bench.work_off(save)
    assert await states(bench, jobs) == [State.PENDING] * 2
    assert len(save.batches) == 1

    one = saves(lambda numbers: [Snoozed(timedelta(minutes=1)) if n else n for n in numbers])
    await bench.later(timedelta(minutes=1), one)
    assert await states(bench, jobs) == [State.SUCCESS, State.PENDING]
    assert (await bench.info(jobs[1])).attempts == 0


async def test_a_job_that_is_asked_to_end_while_it_waits_for_others_is_not_begun(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.consuming.held_leases.TURN_S", 0.01)
    save = saves(max_wait=LONG, max_batch_size=2)
    async with bench.working(save):
        (one,) = await enqueued(bench, save, 1)
        await bench.is_in(one, State.STARTED)
        assert await one.cancel()
        held = [*bench.memory._rows]
        assert held == [one.id]
        await wait_until(lambda: asked_to_end(bench, one.id), "the worker has heard")
        other = await bench.client.enqueue(save, {"n": 1})
        assert await other.result("5s") == 2
        with pytest.raises(JobRevoked):
            await one.result("5s")
    assert save.batches == [[1]]


def asked_to_end(bench: Bench, job: str) -> bool:
    (holding,) = bench.consumers[-1]._held._holdings.values()
    return holding.lease.id == job and holding.asked_to_end


async def test_a_shutdown_gives_back_what_waits_and_finishes_what_runs(bench: Bench) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def answer(numbers: list[int]) -> list[int]:
        begun.set()
        await go_on.wait()
        return numbers

    save = saves(answer, max_batch_size=2, max_wait=LONG)
    jobs = await enqueued(bench, save, 3)
    async with bench.working(save, grace=GRACE) as consumer:
        await begun.wait()
        assert consumer.running == 3
        asyncio.get_running_loop().call_later(0.02, go_on.set)
    assert sorted(await states(bench, jobs)) == ["PENDING", "SUCCESS", "SUCCESS"]
    assert {(await bench.info(job)).losses for job in jobs} == {0}


async def test_each_job_of_a_batch_is_announced(bench: Bench) -> None:
    save = saves()
    jobs = await enqueued(bench, save, 3)
    await bench.work_off(save)
    ids = [str(event.run.run_id) for event in bench.told(RunFinished)]
    assert ids == [job.id for job in jobs]


async def test_a_class_without_parameters_gets_none(bench: Bench) -> None:
    class Plain(BulkTask):
        name = "plain"
        max_wait = NOW

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
            return [(job.id, job.params) for job in jobs]

    job = await bench.client.enqueue(Plain, id="one")
    await bench.work_off(Plain)
    assert await job.result() == ["one", None]


async def test_on_a_schedule_or_by_hand_it_is_a_batch_of_one(bench: Bench) -> None:
    from worker.model import Trigger

    save = saves()
    definition = TaskDefinition.of(save)
    run = await bench.runner.run(definition, trigger=Trigger.MANUAL, params='{"n": 4}')
    assert run.result == 8
    refuses = saves(lambda numbers: [TaskFailed("no")])
    definition = TaskDefinition.of(refuses)
    run = await bench.runner.run(definition, trigger=Trigger.MANUAL, params='{"n": 4}')
    assert run.error is not None
    assert run.error.type == "TaskFailed"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"max_batch_size": 0}, "max_batch_size: expected a whole number 1 to"),
        ({"max_batch_size": "many"}, "max_batch_size: expected a whole number"),
        ({"max_wait": [5]}, "max_wait: expected a timedelta"),
        ({"max_wait": "soon"}, "max_wait: "),
    ],
)
def test_a_wrong_size_or_wait_is_refused(body: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskDefinitionError, match=words):
        saves(**body)
