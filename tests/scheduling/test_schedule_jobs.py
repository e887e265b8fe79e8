"""Schedules of tasks that can be asked for: with parameters, or enqueued instead of run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from tests.support.clock import WallClock
from tests.support.scheduling import HOURLY, START, Worker, running
from worker import BaseTask, RunContext, StoreUnavailable, TaskDefinitionError, WorkerClient, task
from worker.jobs.job import Enqueued, JobQuery, NewJob
from worker.model import State, Trigger
from worker.queues.memory import MemoryJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from worker.jobs.job import Job

HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> WallClock:
    return WallClock(START)


@pytest.fixture
def jobs(clock: WallClock) -> MemoryJobs:
    """Where jobs wait."""
    return MemoryJobs(clock)


@pytest.fixture
async def worker(clock: WallClock, jobs: MemoryJobs) -> AsyncIterator[Worker]:
    async with running(Worker(clock)) as worker:
        worker.runner.client = WorkerClient(jobs=jobs)
        yield worker


class Report(BaseTask):
    name = "report"
    queue = "reports"
    time_limit = "10m"

    class Params(BaseModel):
        customer: int
        days: int = 1

    async def execute(self, params: Params) -> list[int]:
        return [params.customer, params.days]


@task()
def sums(a: int, b: int = 2) -> int:
    return a + b


async def found(jobs: MemoryJobs) -> list[Job]:
    return (await jobs.find(JobQuery()))[::-1]


async def test_a_slot_is_run_with_the_parameters_of_its_schedule(worker: Worker) -> None:
    worker.register(Report, params={"customer": 7}, **HOURLY)
    worker.register(sums, params={"a": "1"}, **HOURLY)
    worker.start()
    for name in ("report", "sums"):
        worker.scheduler.wake(name)
    await worker.recorded((0, "ran", 1), (0, "ran", 1))
    assert {run.task: run.result for run in worker.finished} == {"report": [7, 1], "sums": 3}


async def test_by_hand_other_parameters_can_be_said(worker: Worker, clock: WallClock) -> None:
    worker.register(Report, params={"customer": 7}, **HOURLY)
    worker.start()
    run = await worker.scheduler.run_now("report", params='{"customer": 8, "days": 2}')
    assert run.result == [8, 2]
    clock.advance(HOUR)
    assert (await worker.scheduler.run_now("report")).result == [7, 1]
    clock.advance(HOUR)
    wrong = await worker.scheduler.run_now("report", params='{"customer": "x"}')
    assert wrong.error is not None
    assert wrong.error.type == "InvalidParams"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"params": {"customer": "x"}}, "'report': params: customer: "),
        ({"params": {"customer": 1, "more": 2}}, "'report': params: more: "),
        ({}, "'report': params: customer: Field required"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_when_the_task_is_registered(
    worker: Worker, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(TaskDefinitionError, match=words):
        worker.register(Report, **HOURLY, **options)


def test_what_is_only_asked_for_needs_no_schedule_and_no_parameters(worker: Worker) -> None:
    worker.register(Report)
    assert worker.scheduler.tasks["report"].terms.schedule is None


async def test_a_slot_can_ask_for_a_job_instead_of_being_run(
    worker: Worker, jobs: MemoryJobs, clock: WallClock
) -> None:
    worker.register(Report, params={"customer": 7}, enqueue=True, **HOURLY)
    worker.start()
    worker.scheduler.wake("report")
    await worker.recorded((0, "ran", 1))
    clock.advance(HOUR)
    worker.scheduler.wake("report")
    await worker.recorded((0, "ran", 1), (1, "ran", 1))
    first, second = await found(jobs)
    assert first.id == "report:2100-01-01T00:00:00+00:00"
    assert second.id == "report:2100-01-01T01:00:00+00:00"
    assert (first.queue, first.params, first.state) == (
        "reports",
        '{"customer":7,"days":1}',
        State.PENDING,
    )
    assert worker.finished[0].result == {"job": first.id, "created": True}
    assert worker.finished[0].trigger is Trigger.SCHEDULE


async def test_a_slot_that_is_run_twice_asks_for_one_job(
    worker: Worker, jobs: MemoryJobs, clock: WallClock
) -> None:
    worker.register(Report, params={"customer": 7}, enqueue=True, **HOURLY)
    definition = worker.scheduler.tasks["report"].slots
    assert definition is not None
    runs = [
        await worker.runner.run(definition, trigger=Trigger.SCHEDULE, slot=START) for _ in range(2)
    ]
    assert [run.result for run in runs] == [
        {"job": "report:2100-01-01T00:00:00+00:00", "created": created} for created in (True, False)
    ]
    assert len(await found(jobs)) == 1


async def test_a_slot_of_the_past_that_is_asked_for_anew_is_a_job_of_its_own(
    worker: Worker, jobs: MemoryJobs
) -> None:
    worker.register(Report, params={"customer": 7}, enqueue=True, **HOURLY)
    definition = worker.scheduler.tasks["report"].slots
    assert definition is not None
    for trigger in (Trigger.SCHEDULE, Trigger.BACKFILL, Trigger.BACKFILL):
        await worker.runner.run(definition, trigger=trigger, slot=START)
    assert len(await found(jobs)) == 3


async def test_by_hand_the_task_itself_is_run(worker: Worker, jobs: MemoryJobs) -> None:
    worker.register(Report, params={"customer": 7}, enqueue=True, **HOURLY)
    worker.start()
    assert (await worker.scheduler.run_now("report")).result == [7, 1]
    assert await found(jobs) == []


async def test_a_queue_that_is_away_for_a_moment_costs_no_slot(
    worker: Worker, clock: WallClock
) -> None:
    class Flaky(MemoryJobs):
        asked = 0

        async def enqueue(self, new: Sequence[NewJob]) -> list[Enqueued]:
            self.asked += 1
            if self.asked < 3:
                raise StoreUnavailable("no connection")
            return await super().enqueue(new)

    worker.register(Report, params={"customer": 7}, enqueue=True, **HOURLY)
    definition = worker.scheduler.tasks["report"].slots
    assert definition is not None
    worker.runner.client = WorkerClient(jobs=(flaky := Flaky(clock)))
    run = await worker.runner.run(definition, trigger=Trigger.SCHEDULE, slot=START)
    assert (run.state, flaky.asked) == (State.SUCCESS, 3)


def test_a_task_without_a_queue_cannot_be_enqueued(worker: Worker) -> None:
    class Periodic(BaseTask):
        name = "periodic"

        async def execute(self) -> None: ...

    with pytest.raises(TaskDefinitionError, match="'periodic': enqueue=True, but it has no queue"):
        worker.register(Periodic, enqueue=True, **HOURLY)


async def test_a_schedule_can_run_a_function_in_a_thread_with_its_context(worker: Worker) -> None:
    @task()
    def slot_of(job: RunContext) -> str | None:
        return None if job.slot is None else job.slot.isoformat()

    worker.register(slot_of, **HOURLY)
    worker.start()
    worker.scheduler.wake("slot_of")
    await worker.recorded((0, "ran", 1))
    assert worker.finished[0].result == "2100-01-01T00:00:00+00:00"
