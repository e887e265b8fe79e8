"""The public interface as a user's type checker sees it. Checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, assert_type

import httpx
from pydantic import BaseModel

from worker import (
    BaseTask,
    BulkJob,
    BulkTask,
    CancelOutcome,
    Clock,
    ConcurrencyPer,
    Drop,
    Job,
    JobHandle,
    Overlap,
    Retry,
    RetryPolicy,
    Run,
    RunContext,
    Scheduler,
    State,
    SyncWorkerClient,
    SystemClock,
    UniquePer,
    WorkerClient,
    task,
)
from worker import register_all_tasks as register_the_four
from worker.testing import InMemoryWorker, JobOutcome


class Report(BaseTask):
    name = "report"
    retry = RetryPolicy(attempts=5, base=timedelta(seconds=1), retry_on=(LookupError,))
    time_limit = timedelta(minutes=1)

    def __init__(self, http_client: httpx.AsyncClient, *, days: int = 1) -> None:
        super().__init__(http_client)
        self.days = days

    async def execute(self) -> dict[str, int]:
        assert_type(self.http_client, httpx.AsyncClient)
        assert_type(self.context, RunContext)
        self.logger.info("report.began", days=self.days)
        return {"days": self.days}


async def ping() -> None: ...


def register(scheduler: Scheduler) -> None:
    register_the_four(scheduler)
    scheduler.register_task(Report, interval=timedelta(hours=1))
    scheduler.register_task(partial(Report, days=7), interval_seconds=0.5, name="weekly_report")
    scheduler.register_task(ping, interval_seconds=60, time_limit=timedelta(seconds=5))
    scheduler.register_task(
        ping,
        name="nightly",
        cron="0 3 * * *",
        timezone="Europe/Berlin",
        overlap="buffer_one",
        catchup="all",
        jitter="5m",
        max_age=timedelta(hours=26),
    )
    scheduler.register_task(ping, name="often", interval="5m", overlap=Overlap.CANCEL_OTHER)
    scheduler.register_task(ping, name="typo", intervall="5m")  # type: ignore[call-arg]
    scheduler.register_task(ping, name="wrong", cron=5)  # type: ignore[arg-type]


async def in_a_unit_test(client: httpx.AsyncClient) -> None:
    assert_type(await Report(client).execute(), dict[str, int])
    assert_type(await Report(client).run(), object)


async def in_a_test_with_a_worker() -> None:
    async with InMemoryWorker(Report, ping, eager=True) as worker:
        assert_type(worker, InMemoryWorker)
        assert_type(await worker.drain(delayed=True), list[JobOutcome])
        worker.assert_enqueued(Report, where=lambda job: job.priority > 3)
        worker.assert_enqueued("report", {"days": 7}, delay="5m")
        worker.clock.advance(timedelta(minutes=5))


def frozen(run: Run) -> None:
    assert_type(run.duration_ms, float | None)
    run.attempts = 2  # type: ignore[misc]


def clock() -> Clock:
    return SystemClock()


class SendInvoice(BaseTask):
    name = "send_invoice"
    queue = "billing"
    max_retries = 5
    retry_on = (OSError, LookupError)
    rate_limit = "100/m"
    unique = UniquePer("order_id", ttl="5m")
    concurrency = ConcurrencyPer("order_id", limit=2)

    class Params(BaseModel):
        order_id: int

    async def execute(self, params: Params) -> str:
        assert_type(params.order_id, int)
        assert_type(self.context.attempt, int)
        self.context.progress(50, step="half")
        if self.context.cancelled:
            self.context.snooze("5m")
        return await self.context.in_thread(lambda: "sent")

    async def handle_error(self, error: BaseException, job: RunContext) -> Retry | Drop | None:
        return Retry(after="5m") if isinstance(error, OSError) else Drop()

    async def on_failure(self, error: BaseException, job: RunContext) -> None:
        assert_type(job.job_id, str)


class SaveItems(BulkTask):
    name = "save_items"
    max_batch_size = 50
    max_wait = "20ms"

    async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> list[str | Exception]:
        return [job.id for job in jobs]


@task(name="add", max_retries=2, retry_delay="5s")
async def add(a: int, b: int = 1) -> int:
    return a + b


@task()
def add_in_a_thread(a: int, job: RunContext | None = None) -> str:
    return str(a)


@task(max_retrys=2)  # type: ignore[call-arg]
async def typo() -> None: ...


async def called_in_place() -> None:
    adding = assert_type(add(1), Coroutine[Any, Any, int])
    assert_type(await adding, int)
    assert_type(await add(1, b=2), int)
    assert_type(add_in_a_thread(1), str)
    await add("1")  # type: ignore[arg-type]
    await add()  # type: ignore[call-arg]


async def asked_for(client: WorkerClient) -> None:
    job = await SendInvoice.enqueue({"order_id": 7}, max_retries=2, delay="5m")
    assert_type(job, JobHandle)
    assert_type(await add.enqueue({"a": 1}, id="one", priority=5), JobHandle)
    assert_type(await client.enqueue("by_name", {"a": 1}, queue="shared"), JobHandle)
    assert_type(await client.enqueue_many(add, [{"a": 1}], expires="1h"), list[JobHandle])
    assert_type(await SaveItems.enqueue_many([None], ids=["a"]), list[JobHandle])
    assert_type(await job.status(), State)
    assert_type(await job.info(), Job)
    assert_type(await job.cancel(), CancelOutcome)
    assert_type(await job.progress(), dict[str, Any] | None)
    await job.result(timeout="5m")
    await job.result(timeout=timedelta(minutes=5))
    await job.result(timeout=5)
    await add.enqueue({"a": 1}, dely="5m")  # type: ignore[call-arg]
    await add.enqueue({"a": 1}, priority="high")  # type: ignore[arg-type]


def asked_for_by_a_synchronous_program() -> None:
    with SyncWorkerClient("redis://localhost/0") as client:
        job = client.enqueue(add, {"a": 1}, delay="5m")
        assert_type(job.status(), State)
        assert_type(job.cancel(), CancelOutcome)


def register_on_demand(scheduler: Scheduler) -> None:
    scheduler.register_task(SendInvoice)
    scheduler.register_task(add, cron="0 3 * * *", params={"a": 1}, enqueue=True)
