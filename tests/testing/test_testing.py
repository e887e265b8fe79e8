"""What `worker.testing` promises to whoever tests tasks with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Thread
from types import ModuleType
from typing import Any

import httpx
import pytest

from worker import (
    BaseTask,
    BulkJob,
    BulkTask,
    ConcurrencyPer,
    ConfigurationError,
    DuplicateJob,
    InvalidParams,
    RetryPolicy,
    RunContext,
    Scheduler,
    SoftTimeLimitExceeded,
    State,
    SyncWorkerClient,
    TaskDefinitionError,
    TaskFailed,
    UniquePer,
    UnknownTaskError,
    WorkerClient,
    task,
)
from worker.client.current import current_client
from worker.jobs.verdict import Drop, Wish
from worker.testing import FakeClock, InMemoryWorker

START = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


class SendInvoice(BaseTask):
    name = "testing.send_invoice"
    queue = "billing"
    retry_delay = "1m"
    retry_jitter = False
    max_retries = 2

    @dataclass
    class Params:
        order_id: int
        copies: int = 1

    async def execute(self, params: Params) -> dict[str, int]:
        if params.order_id < 0:
            raise TaskFailed("there is no such order")
        return {"invoice": params.order_id * 10}


@task(name="testing.ping")
async def ping(n: int, context: RunContext) -> int:
    context.progress(50, half="done")
    return n + 1


@task(name="testing.fan_out")
async def fan_out(count: int, context: RunContext) -> None:
    for n in range(count):
        await context.enqueue(ping, {"n": n})


@task(name="testing.endless", max_retries=0)
async def endless() -> None:
    await endless.enqueue()


@task(name="testing.hopeless", max_retries=10_000, retry_delay="1s")
async def hopeless() -> None:
    raise LookupError("never")


class Nightly(BaseTask):
    name = "testing.nightly"

    async def execute(self) -> int:
        answer = await self.http_client.get("/api/v1/orders")
        return len(answer.raise_for_status().json())


class Save(BulkTask):
    name = "testing.save"
    queue = "saving"
    max_batch_size = 10
    max_wait = "1h"
    batches: list[int] = []  # noqa: RUF012 - emptied by the test

    @dataclass
    class Params:
        name: str

    async def execute_many(self, jobs: Sequence[BulkJob[Params]]) -> list[object]:
        self.batches.append(len(jobs))
        if any(job.params.name == "poison" for job in jobs):
            raise ValueError("poison")
        return [job.params.name.upper() for job in jobs]


def module_with(register: Callable[[Scheduler], None], **others: object) -> ModuleType:
    module = ModuleType(__name__)
    vars(module).update(register=register, **others)
    return module


async def test_nothing_runs_before_it_is_drained_and_then_all_of_it_does() -> None:
    async with InMemoryWorker(SendInvoice, ping) as worker:
        job = await SendInvoice.enqueue({"order_id": 7})
        await ping.enqueue({"n": 1})
        assert await job.status() is State.PENDING
        invoice, pong = sorted(await worker.drain(), key=lambda one: one.task, reverse=True)
        assert (invoice.state, invoice.result) == (State.SUCCESS, {"invoice": 70})
        assert (invoice.id, invoice.queue, invoice.params) == (
            job.id,
            "billing",
            {"order_id": 7, "copies": 1},
        )
        assert (pong.result, pong.attempts, pong.error) == (2, 1, None)
        assert await job.result() == {"invoice": 70}
        assert await worker.drain() == []


async def test_a_delayed_job_runs_once_the_clock_was_moved_that_far() -> None:
    async with InMemoryWorker(SendInvoice, clock=FakeClock(START)) as worker:
        await SendInvoice.enqueue({"order_id": 7}, delay="5m")
        await SendInvoice.enqueue({"order_id": 8}, at=START + timedelta(minutes=5))
        assert await worker.drain() == []
        worker.clock.advance("4m")
        assert await worker.drain() == []
        worker.clock.advance(timedelta(minutes=1))
        assert len(await worker.drain()) == 2


async def test_a_retry_waits_for_the_clock_and_its_budget_ends_in_the_dead_letters() -> None:
    async with InMemoryWorker(SendInvoice) as worker:
        job = await SendInvoice.enqueue({"order_id": -1})
        (first,) = await worker.drain()
        assert (first.state, first.delay) == (State.RETRY, timedelta(minutes=1))
        assert isinstance(first.error, TaskFailed)
        assert await worker.drain() == []
        worker.clock.advance("1m")
        (second,) = await worker.drain()
        assert (second.state, second.attempts) == (State.RETRY, 2)
        worker.clock.advance("1h")
        (third,) = await worker.drain()
        assert (third.state, third.dead) == (State.FAILURE, True)
        assert (await job.info()).dead


async def test_drain_can_move_the_clock_to_all_that_waits() -> None:
    async with InMemoryWorker(clock=FakeClock(START)) as worker:
        await SendInvoice.enqueue({"order_id": 7}, delay="2h")
        await SendInvoice.enqueue({"order_id": -1})
        outcomes = await worker.drain(delayed=True)
        assert [outcome.state for outcome in outcomes] == ["RETRY", "RETRY", "FAILURE", "SUCCESS"]
        assert worker.clock.now() == START + timedelta(hours=2)


async def test_drain_gives_up_on_what_has_no_end() -> None:
    async with InMemoryWorker() as worker:
        await endless.enqueue()
        with pytest.raises(AssertionError, match=r"no end to it(.|\n)*testing\.endless"):
            await worker.drain(most=50)
    async with InMemoryWorker() as worker:
        await hopeless.enqueue()
        with pytest.raises(AssertionError, match="no end to it"):
            await worker.drain(delayed=True, most=50)


async def test_drain_runs_as_many_jobs_as_wait() -> None:
    async with InMemoryWorker() as worker:
        await ping.enqueue_many([{"n": n} for n in range(1500)])
        assert len(await worker.drain()) == 1500


async def test_two_drains_at_once_run_each_job_once() -> None:
    async with InMemoryWorker(ping) as worker:
        await ping.enqueue_many([{"n": n} for n in range(20)])
        await asyncio.gather(worker.drain(), worker.drain())
        assert sorted(outcome.result for outcome in worker.outcomes) == list(range(1, 21))


async def test_drain_runs_what_jobs_ask_for() -> None:
    async with InMemoryWorker(fan_out, ping) as worker:
        await fan_out.enqueue({"count": 3})
        outcomes = await worker.drain()
        assert sorted(o.result for o in outcomes if o.task == ping.name) == [1, 2, 3]
        worker.assert_enqueued(ping, count=3)


async def test_drain_can_be_kept_to_some_queues() -> None:
    async with InMemoryWorker() as worker:
        await SendInvoice.enqueue({"order_id": 7})
        await ping.enqueue({"n": 1})
        assert [outcome.task for outcome in await worker.drain("billing")] == [SendInvoice.name]
        assert [outcome.task for outcome in await worker.drain()] == [ping.name]


async def test_drain_raises_what_a_job_raised_if_asked_to() -> None:
    async with InMemoryWorker() as worker:
        await SendInvoice.enqueue({"order_id": -1})
        with pytest.raises(TaskFailed, match="no such order"):
            await worker.drain(raising=True)


async def test_a_job_for_an_unknown_task_is_an_error_in_a_queue_of_the_worker() -> None:
    async with InMemoryWorker(ping) as worker:
        await worker.client.enqueue("pong", {"n": 1}, queue="elsewhere")
        assert await worker.drain() == []
        worker.assert_enqueued("pong", {"n": 1}, queue="elsewhere")
        await worker.client.enqueue("pong")
        with pytest.raises(UnknownTaskError, match="pong"):
            await worker.drain()


async def test_with_a_concurrency_of_one_jobs_run_one_after_the_other() -> None:
    running: list[int] = []

    @task(name="testing.alone")
    async def alone() -> int:
        running.append(1)
        await asyncio.sleep(0)
        together = len(running)
        running.pop()
        return together

    async with InMemoryWorker(alone, concurrency=1) as worker:
        for queue in ("one", "two", "one"):
            await alone.enqueue(queue=queue)
        assert [outcome.result for outcome in await worker.drain()] == [1, 1, 1]


async def test_a_job_that_was_asked_for_is_found_by_some_of_its_parameters() -> None:
    async with InMemoryWorker() as worker:
        await SendInvoice.enqueue({"order_id": 7, "copies": 2}, delay="5m", priority=3)
        await SendInvoice.enqueue({"order_id": 8})
        (job,) = worker.assert_enqueued(SendInvoice, {"order_id": 7})
        assert (job.params, job.delay) == ({"order_id": 7, "copies": 2}, timedelta(minutes=5))
        assert job.at == worker.clock.now()
        worker.assert_enqueued(SendInvoice, SendInvoice.Params(8))
        worker.assert_enqueued(SendInvoice, delay="5m", queue="billing", count=1)
        worker.assert_enqueued(SendInvoice, where=lambda job: job.priority == 3, count=1)
        worker.assert_enqueued("testing.send_invoice", count=2)
        worker.assert_not_enqueued(SendInvoice, {"order_id": 9})
        worker.assert_not_enqueued(ping)


async def test_a_failed_assertion_lists_what_was_enqueued_instead() -> None:
    async with InMemoryWorker() as worker:
        with pytest.raises(AssertionError, match=r"a job of testing\.ping, got none; nothing was"):
            worker.assert_enqueued(ping)
        await SendInvoice.enqueue({"order_id": 8}, delay="5m", max_retries=1)
        with pytest.raises(AssertionError) as told:
            worker.assert_enqueued(SendInvoice, {"order_id": 7}, queue="billing", delay="1m")
        said = str(told.value)
        assert "expected a job of testing.send_invoice with {'order_id': 7}" in said
        assert "in the queue 'billing' with a delay of 0:01:00, got none" in said
        assert '  testing.send_invoice {"order_id": 8, "copies": 1} queue=\'billing\'' in said
        assert 'delay=0:05:00 options={"max_retries": 1}' in said
        with pytest.raises(AssertionError, match="expected 0 jobs"):
            worker.assert_not_enqueued(SendInvoice)
        with pytest.raises(AssertionError, match=r"expected 2 jobs of .*, got 1;"):
            worker.assert_enqueued(SendInvoice, count=2)


async def test_parameters_and_options_are_judged_as_in_production() -> None:
    async with InMemoryWorker() as worker:
        with pytest.raises(InvalidParams, match="order_id"):
            await SendInvoice.enqueue({})
        with pytest.raises(InvalidParams, match="customer"):
            await SendInvoice.enqueue({"order_id": 7, "customer": 5})
        assert worker.enqueued == []


async def test_eager_jobs_run_in_place_and_raise_what_they_raise() -> None:
    async with InMemoryWorker(eager=True) as worker:
        job = await SendInvoice.enqueue({"order_id": 7}, delay="5m")
        assert await job.result() == {"invoice": 70}
        with pytest.raises(TaskFailed, match="no such order"):
            await SendInvoice.enqueue({"order_id": -1})
        await fan_out.enqueue({"count": 2})
        assert [o.result for o in worker.outcomes if o.task == ping.name] == [1, 2]
        jobs = await ping.enqueue_many([{"n": 5}, {"n": 6}])
        assert [await job.result() for job in jobs] == [6, 7]
        worker.assert_enqueued(ping, count=4)


async def test_eager_jobs_that_are_asked_for_at_once_have_all_run_when_that_returns() -> None:
    @task(name="testing.naps")
    async def naps(n: int) -> int:
        await asyncio.sleep(n / 100)
        return n

    async def ask(n: int) -> object:
        return await (await naps.enqueue({"n": n})).status()

    async with InMemoryWorker(eager=True):
        states = await asyncio.gather(*(ask(n) for n in range(5)))
    assert states == [State.SUCCESS] * 5


async def test_the_former_client_is_back_after_the_block() -> None:
    async with WorkerClient("memory://") as outer:
        async with InMemoryWorker() as worker:
            assert await current_client() is worker.client
        assert await current_client() is outer


async def test_waiting_for_a_result_works_off_what_is_ready() -> None:
    async with InMemoryWorker() as worker:
        job = await ping.enqueue({"n": 1})
        assert await job.result() == 2
        later = await ping.enqueue({"n": 1}, delay="5m")
        with pytest.raises(TimeoutError):
            await later.result(timeout="10ms")
        with pytest.raises(AssertionError, match="nobody moves the clock"):
            await later.result()
        worker.clock.advance("5m")
        assert await later.result() == 2


async def test_a_job_may_wait_for_another_one() -> None:
    @task(name="testing.asker")
    async def asker() -> int:
        job = await ping.enqueue({"n": 41})
        result: int = await job.result(timeout="5s")
        return result

    async with InMemoryWorker() as worker:
        await asker.enqueue()
        assert [outcome.result for outcome in await worker.drain()] == [42, 42]


async def test_progress_is_told_in_the_outcome_and_by_the_job() -> None:
    async with InMemoryWorker() as worker:
        job = await ping.enqueue({"n": 1})
        (outcome,) = await worker.drain()
        assert outcome.progress == {"percent": 50, "half": "done"}
        assert await job.progress() == {"percent": 50, "half": "done"}


async def test_hooks_are_called_as_in_production() -> None:
    told: list[str] = []

    class Hooked(BaseTask):
        name = "testing.hooked"
        queue = "default"
        max_retries = 1

        async def execute(self) -> None:
            if self.context.attempt == 1:
                raise LookupError("at first")
            if self.context.attempt == 2:
                self.context.snooze("10s") if not told.count("snoozed") else None
            raise ValueError("at last")

        async def on_retry(self, error: BaseException, job: RunContext) -> None:
            told.append(f"retry {error}")

        async def on_failure(self, error: BaseException, job: RunContext) -> None:
            told.append(f"failure {error}")

        async def handle_error(self, error: BaseException, job: RunContext) -> Wish | None:
            return Drop() if isinstance(error, ValueError) else None

    async with InMemoryWorker(Hooked) as worker:
        await Hooked.enqueue()
        await worker.drain()
        worker.clock.advance("1m")
        (snoozed,) = await worker.drain()
        assert (snoozed.state, snoozed.attempts, snoozed.error) == (State.RETRY, 1, None)
        told.append("snoozed")
        worker.clock.advance("10s")
        (dropped,) = await worker.drain()
    assert (dropped.state, dropped.dead) == (State.FAILURE, False)
    assert told == ["retry at first", "snoozed", "failure at last"]


async def test_hooks_find_what_the_job_was_asked_with() -> None:
    told: list[object] = []

    async def note(error: BaseException, job: RunContext) -> None:
        told.append((type(error).__name__, job.job_id, job.params, job.headers))

    @task(name="testing.noted", max_retries=0, on_failure=note)
    async def noted(n: int, context: RunContext) -> None:
        raise LookupError

    async with InMemoryWorker() as worker:
        await noted.enqueue({"n": 1}, id="one", headers={"trace": "abc"})
        await worker.drain()
    assert told == [("LookupError", "one", {"n": 1}, {"trace": "abc"})]


async def test_a_unique_job_is_there_once() -> None:
    @task(name="testing.unique", unique=UniquePer("n", ttl="1h"))
    async def unique(n: int) -> None: ...

    @task(name="testing.strict", unique=UniquePer(on_conflict="raise"))
    async def strict() -> None: ...

    async with InMemoryWorker() as worker:
        first = await unique.enqueue({"n": 1})
        second = await unique.enqueue({"n": 1})
        assert (second.id, second.created) == (first.id, False)
        worker.assert_enqueued(unique, count=1)
        worker.clock.advance("1h")
        assert (await unique.enqueue({"n": 1})).created
        await strict.enqueue()
        with pytest.raises(DuplicateJob):
            await strict.enqueue()


async def test_jobs_that_share_a_concurrency_key_take_turns() -> None:
    together = 0
    most = 0

    @task(name="testing.turns", concurrency=ConcurrencyPer("n", limit=1))
    async def turns(n: int) -> None:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0)
        together -= 1

    async with InMemoryWorker() as worker:
        await turns.enqueue_many([{"n": 1}] * 5)
        assert len(await worker.drain()) == 5
    assert most == 1


async def test_a_rate_limit_is_kept_on_the_clock_of_the_test() -> None:
    @task(name="testing.limited", rate_limit="1/m")
    async def limited() -> None: ...

    async with InMemoryWorker(clock=FakeClock(START)) as worker:
        await limited.enqueue_many([None] * 3)
        assert len(await worker.drain()) == 1
        assert len(await worker.drain(delayed=True)) == 2
        assert timedelta(minutes=2) <= worker.clock.now() - START <= timedelta(minutes=3)


async def test_a_job_that_expires_before_it_begins_is_expired() -> None:
    async with InMemoryWorker() as worker:
        await ping.enqueue({"n": 1}, expires="1m")
        worker.clock.advance("2m")
        (outcome,) = await worker.drain()
        assert (outcome.state, outcome.error) == (State.EXPIRED, None)


async def test_a_bulk_task_gets_all_that_waits_at_once_and_poison_fails_alone() -> None:
    Save.batches.clear()
    async with InMemoryWorker() as worker:
        await Save.enqueue_many([{"name": f"n{n}"} for n in range(8)])
        outcomes = await worker.drain()
        assert [outcome.result for outcome in outcomes] == [f"N{n}" for n in range(8)]
        assert Save.batches == [8]
        await Save.enqueue_many([{"name": "fine"}, {"name": "poison"}])
        states = {o.params["name"]: o.state for o in await worker.drain()}
        assert states == {"fine": State.SUCCESS, "poison": State.RETRY}


async def test_requests_are_refused_with_a_word_on_how_to_answer_them() -> None:
    async with InMemoryWorker(Nightly) as worker:
        with pytest.raises(AssertionError, match=r"GET http://.*/api/v1/orders; give the test"):
            await worker.run(Nightly)


async def test_requests_go_through_the_transport_or_the_client_that_the_test_gives() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[1, 2]))
    async with InMemoryWorker(Nightly, transport=transport) as worker:
        assert await worker.run(Nightly) == 2
    async with httpx.AsyncClient(base_url="http://api", transport=transport) as client:
        async with InMemoryWorker(http_client=client) as worker:
            assert await worker.run(Nightly) == 2
        assert not client.is_closed


async def test_the_pauses_between_attempts_of_a_run_take_no_time() -> None:
    class Flaky(BaseTask):
        name = "testing.flaky"
        retry = RetryPolicy(attempts=3, base=timedelta(minutes=2), retry_on=(LookupError,))
        tries = 0

        async def execute(self) -> int:
            type(self).tries += 1
            if self.tries < 3:
                raise LookupError
            return self.tries

    async with InMemoryWorker(Flaky) as worker:
        assert await worker.run(Flaky) == 3


async def test_a_run_that_takes_too_long_ends_in_real_time() -> None:
    @task(name="testing.slow", max_retries=0, soft_time_limit="20ms")
    async def slow() -> None:
        await asyncio.sleep(60)

    async with InMemoryWorker() as worker:
        await slow.enqueue()
        (outcome,) = await worker.drain()
    assert isinstance(outcome.error, SoftTimeLimitExceeded)


async def test_a_schedule_that_enqueues_does_so_when_its_slot_is_taken() -> None:
    def register(scheduler: Scheduler) -> None:
        scheduler.register_task(SendInvoice, cron="0 3 * * *", enqueue=True, params={"order_id": 9})
        scheduler.register_task(Nightly, interval="1h")

    async with InMemoryWorker(module_with(register), clock=FakeClock(START)) as worker:
        told = await worker.run_slot(SendInvoice)
        assert told["created"]
        again = await worker.run_slot(SendInvoice)
        assert again == {"job": told["job"], "created": False}
        worker.assert_enqueued(SendInvoice, {"order_id": 9}, count=1)
        (outcome,) = await worker.drain()
        assert outcome.result == {"invoice": 90}
        with pytest.raises(AssertionError, match="a task calls GET"):
            await worker.run_slot("testing.nightly")


async def test_a_task_can_be_run_once_by_hand_with_parameters() -> None:
    async with InMemoryWorker() as worker:
        assert await worker.run(SendInvoice, {"order_id": 4}) == {"invoice": 40}
        assert await worker.run(ping, {"n": 4}) == 5
        with pytest.raises(UnknownTaskError):
            await worker.run("nonsense")


class Priced(BaseTask):
    name = "testing.priced"

    @dataclass
    class Params:
        net: int

    def __init__(self, http_client: httpx.AsyncClient, *, tax: int) -> None:
        super().__init__(http_client)
        self.tax = tax

    async def execute(self, params: Params) -> int:
        return params.net + self.tax


async def test_a_task_that_is_made_with_more_is_registered_as_a_partial_and_asked_for_as_ever() -> (
    None
):
    async with InMemoryWorker(partial(Priced, tax=19)) as worker:
        job = await Priced.enqueue({"net": 100})
        worker.assert_enqueued(Priced, {"net": 100})
        assert await job.result() == 119


async def test_a_module_registers_a_task_that_is_made_with_more_without_any_schedule() -> None:
    def register(scheduler: Scheduler) -> None:
        scheduler.register_task(partial(Priced, tax=7))

    async with InMemoryWorker(module_with(register, Priced=Priced)):
        assert await (await Priced.enqueue({"net": 100})).result() == 107
    with pytest.raises(TaskDefinitionError, match=r"register functools\.partial"):
        InMemoryWorker(Priced)
    with pytest.raises(ConfigurationError, match="needs to know once when it runs"):
        InMemoryWorker(module_with(lambda scheduler: scheduler.register_task(Nightly)))


async def test_the_connection_of_a_caller_is_taken_and_left_alone() -> None:
    async with InMemoryWorker() as worker:
        await SendInvoice.enqueue({"order_id": 7}, connection=object())
        await SendInvoice.enqueue_many([{"order_id": 8}], connection=object())
        worker.assert_enqueued(SendInvoice, count=2)


def saved(client: SyncWorkerClient) -> object:
    """Code that is not async."""
    job = client.enqueue(fan_out, {"count": 2})
    job.result(timeout="5s")
    with client:
        return client.enqueue(ping, {"n": 4}).result(timeout="5s")


async def test_code_that_is_not_async_asks_from_a_thread() -> None:
    async with InMemoryWorker() as worker:
        assert await asyncio.to_thread(saved, worker.sync_client) == 5
        worker.assert_enqueued(ping, count=3)
        told: list[object] = []
        thread = Thread(target=lambda: told.append(saved(worker.sync_client)))  # without context
        thread.start()
        await asyncio.to_thread(thread.join)
        assert told == [5]
        worker.assert_enqueued(ping, count=6)
        with pytest.raises(AssertionError, match=r"await asyncio\.to_thread"):
            saved(worker.sync_client)


async def test_a_job_can_be_cancelled_before_it_runs() -> None:
    async with InMemoryWorker() as worker:
        job = await ping.enqueue({"n": 1})
        assert await job.cancel()
        assert await worker.drain() == []
        assert await job.status() is State.REVOKED


@pytest.fixture
async def jobs() -> AsyncIterator[InMemoryWorker]:
    async with InMemoryWorker(SendInvoice) as worker:
        yield worker


async def test_a_fixture_can_hold_the_worker(jobs: InMemoryWorker) -> None:
    await SendInvoice.enqueue({"order_id": 7})
    jobs.assert_enqueued(SendInvoice, {"order_id": 7})
    assert len(await jobs.drain(raising=True)) == 1


@contextmanager
def woken(clock: FakeClock, seconds: float) -> Iterator[asyncio.Task[None]]:
    sleeper = asyncio.ensure_future(clock.sleep(seconds))
    yield sleeper
    sleeper.cancel()


async def test_whoever_sleeps_by_the_clock_wakes_when_it_was_moved_that_far() -> None:
    clock = FakeClock(START)
    with woken(clock, 60) as sleeper:
        await asyncio.sleep(0)
        clock.advance("59s")
        await asyncio.sleep(0)
        assert not sleeper.done()
        clock.move_to(START + timedelta(minutes=1))
        await sleeper
    assert (clock.now(), clock.monotonic()) == (START + timedelta(minutes=1), 60)
    clock.move_to(START)
    assert clock.now() == START + timedelta(minutes=1)
    with pytest.raises(ValueError, match="time zone"):
        FakeClock(datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is refused


def test_pytest_collects_nothing_of_it() -> None:
    import worker.testing

    names: Any = worker.testing.__all__
    assert not [name for name in names if name.startswith(("Test", "test"))]
