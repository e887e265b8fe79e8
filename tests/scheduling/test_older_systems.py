"""What four older systems offered, as far as `test_coming_from` does not show it already."""

from __future__ import annotations

import asyncio
import logging
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.processes import running
from worker import (
    BaseTask,
    DuplicateJob,
    InvalidOptions,
    InvalidParams,
    RunContext,
    State,
    SyncWorkerClient,
    TaskDefinitionError,
    TimeLimitExceeded,
    UniquePer,
    WorkerClient,
    task,
)
from worker.tasks.call import calling
from worker.testing import InMemoryWorker

if TYPE_CHECKING:
    from pathlib import Path

    from worker.client.enqueue_options import EnqueueOptions


class InteractionError(Exception):
    pass


class Moderate(BaseTask):
    name = "older.moderate"
    queue = "moderation"
    retry_on = (InteractionError,)

    @dataclass
    class Params:
        merchant_uid: int

    async def execute(self, params: Params) -> int:
        if params.merchant_uid == 13:
            raise InteractionError("the other side does not answer")
        if params.merchant_uid == 0:
            raise LookupError("no such merchant")
        return params.merchant_uid


# Database tasks


async def test_parameters_are_an_instance_of_their_class_or_a_mapping_that_fits() -> None:
    async with InMemoryWorker() as worker:
        await Moderate.enqueue(Moderate.Params(merchant_uid=1))
        await Moderate.enqueue({"merchant_uid": 1})
        worker.assert_enqueued(Moderate, {"merchant_uid": 1}, count=2)


async def test_only_the_exceptions_that_it_names_are_retried_and_as_often_as_one_job_says() -> None:
    async with InMemoryWorker() as worker:
        await Moderate.enqueue({"merchant_uid": 13}, max_retries=2, id="silent")
        await Moderate.enqueue({"merchant_uid": 0}, max_retries=2, id="nobody")
        await worker.drain(delayed=True)
        assert [o.state for o in worker.outcomes if o.id == "silent"] == ["RETRY"] * 2 + ["FAILURE"]
        assert [o.state for o in worker.outcomes if o.id == "nobody"] == ["FAILURE"]


def test_a_name_that_two_tasks_have_is_refused_when_the_second_one_is_written() -> None:
    with pytest.raises(TaskDefinitionError, match=r"two tasks are named 'older\.moderate'"):

        class Again(Moderate):
            name = "older.moderate"


# Celery


@task()
def unnamed(n: int) -> int:
    return n + 1


@task(name="older.slow", time_limit="50ms", max_retries=0)
async def slow() -> None:
    await asyncio.sleep(60)


class Shared(BaseTask):
    """Options and a logger for many tasks."""

    queue = "shared"
    max_retries, retry_delay = 3, "5s"

    def __init__(self, http_client: httpx.AsyncClient) -> None:
        super().__init__(http_client)
        self.own_logger = logging.getLogger(type(self).__name__)
        self.told: list[str] = []


class Manual(Shared):
    name = "older.manual"
    told_last: tuple[Any, ...] = ()

    @dataclass
    class Params:
        obj_id: int

    async def execute(self, params: Params) -> str:
        if params.obj_id < 0:
            raise IndexError("no such object")
        return self.own_logger.name

    async def on_success(self, result: Any, job: RunContext) -> None:
        Manual.told_last = (result, job.job_id, job.params)

    async def on_failure(self, error: BaseException, job: RunContext) -> None:
        Manual.told_last = ("".join(traceback.format_exception(error)), job.job_id, job.params)


def test_a_function_keeps_its_own_name_and_can_be_called_as_ever() -> None:
    assert (unnamed.name, unnamed(1)) == ("unnamed", 2)


async def test_hooks_are_told_result_or_traceback_and_what_the_job_was_asked_with() -> None:
    async with InMemoryWorker() as worker:
        await Manual.enqueue({"obj_id": 1}, id="fine")
        await worker.drain()
        assert Manual.told_last == ("Manual", "fine", Manual.Params(1))
        await Manual.enqueue({"obj_id": -1}, id="bad", max_retries=0)
        await worker.drain()
        trace, *asked = Manual.told_last
        assert "raise IndexError" in trace
        assert asked == ["bad", Manual.Params(-1)]


async def test_a_job_that_takes_longer_than_its_limit_fails() -> None:
    async with InMemoryWorker() as worker:
        await slow.enqueue()
        (outcome,) = await worker.drain()
        assert isinstance(outcome.error, TimeLimitExceeded)
        assert outcome.dead


async def test_the_state_tells_of_a_job_that_waits_runs_and_has_ended() -> None:
    states: list[State] = []

    @task(name="older.looking")
    async def looking(context: RunContext) -> None:
        job = worker.client.job(context.job_id)
        states.append(await job.status())

    async with InMemoryWorker() as worker:
        job = await looking.enqueue()
        states.append(await job.status())
        await worker.drain()
        states.append(await job.status())
        assert states == [State.PENDING, State.STARTED, State.SUCCESS]
        assert await worker.client.job("nobody").status() is State.UNKNOWN


# task_helpers


async def test_clients_in_many_threads_each_get_their_own_result(tmp_path: Path) -> None:
    (tmp_path / "doubles.py").write_text(
        "from worker import task\n\n\n"
        "@task(queue='doubles')\n"
        "def double(n: int) -> int:\n"
        "    return n * 2\n"
    )
    environment = {"WORKER_DATA_API_URL": "http://127.0.0.1:1", "WORKER_TASK_MODULES": "doubles"}
    arguments = ("start", "--no-schedules")
    async with running(*arguments, environment=environment, cwd=tmp_path) as process:
        await process.logged("worker.ready")

        def asked(client: SyncWorkerClient, n: int) -> tuple[object, State]:
            job = client.enqueue("double", {"n": n}, queue="doubles")
            return job.result(timeout="20s"), job.status()

        def ask() -> list[tuple[object, State]]:
            url = f"sqlite:///{tmp_path}/.worker/worker.db"
            with SyncWorkerClient(url) as client, ThreadPoolExecutor(8) as threads:
                return list(threads.map(partial(asked, client), range(40)))

        told = await asyncio.to_thread(ask)
    assert told == [(n * 2, State.SUCCESS) for n in range(40)]


async def test_a_result_can_be_asked_for_without_waiting() -> None:
    async with WorkerClient("memory://") as client:
        job = await client.enqueue("nobody_works")
        with pytest.raises(TimeoutError, match="PENDING"):
            await job.result(timeout="0s")


async def test_a_named_function_is_called_with_its_arguments_which_are_optional() -> None:
    async with InMemoryWorker(calling(["json:dumps", "os:getpid"])) as worker:
        call = partial(worker.client.enqueue, "call_function")
        kwargs = {"sort_keys": True}
        said = {"function": "json:dumps", "args": [{"b": 1, "a": 2}], "kwargs": kwargs}
        assert await (await call(said)).result() == '{"a": 2, "b": 1}'
        assert isinstance(await (await call({"function": "os:getpid"})).result(), int)
        await call({"function": "os:system", "args": ["true"]})
        (refused,) = await worker.drain()
        assert (isinstance(refused.error, InvalidParams), refused.dead) == (True, True)


# An SQS processor


class Charge(BaseTask):
    name = "older:charge"
    queue = "shared"
    unique = UniquePer("account", on_conflict="raise")

    @dataclass
    class Params:
        account: str

    @classmethod
    def enqueue_options(cls, params: Params) -> EnqueueOptions:
        return {"headers": {"tenant": params.account[:2]}, "delay": "1m", "priority": 3}

    async def execute(self, params: Params) -> str:
        return self.context.headers["tenant"]


@task(name="older:once", enqueue_options=lambda said: {"id": f"once-{said['n']}"})
async def once(n: int) -> None: ...


async def test_a_task_builds_its_own_messages_and_whoever_sends_one_can_say_otherwise() -> None:
    async with InMemoryWorker(Charge) as worker:
        await Charge.enqueue({"account": "de-7"})
        await worker.client.enqueue("older:charge", {"account": "fr-8"}, at=worker.clock.now())
        first, second = worker.enqueued
        assert (first.headers, str(first.delay), first.priority) == ({"tenant": "de"}, "0:01:00", 3)
        assert (second.headers, str(second.delay)) == ({"tenant": "fr"}, "0:00:00")
        assert sorted(o.result for o in await worker.drain(delayed=True)) == ["de", "fr"]
        await Charge.enqueue({"account": "de-7"})
        with pytest.raises(DuplicateJob):
            await Charge.enqueue({"account": "de-7"})


async def test_an_id_that_follows_from_the_parameters_makes_one_job_of_many() -> None:
    async with InMemoryWorker() as worker:
        jobs = await once.enqueue_many([{"n": 1}, {"n": 1}, {"n": 2}])
        assert [(job.id, job.created) for job in jobs] == [
            ("once-1", True),
            ("once-1", False),
            ("once-2", True),
        ]
        worker.assert_enqueued(once, count=2)


def test_what_is_no_option_is_refused_wherever_it_comes_from() -> None:
    wrong: Any = {"colour": "red"}

    @task(name="older:wrong", enqueue_options=lambda said: wrong)
    async def painted() -> None: ...

    client = WorkerClient("memory://")
    with pytest.raises(InvalidOptions, match="colour"):
        client.request(painted)
