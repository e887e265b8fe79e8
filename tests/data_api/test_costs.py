"""What a run costs a service that is down, and what is never repeated: counted in requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest

from tests.support.clock import FakeClock
from tests.support.servers import (
    Connection,
    Handler,
    answer,
    answering,
    raw_server,
    refused_port,
)
from worker.events import Events
from worker.model import Run, State, Trigger
from worker.retry import RetryPolicy
from worker.running.runner import RunLimits, Runner
from worker.tasks.base import BaseTask, TaskDefinition
from worker.tasks.cleanup_old_orders import CleanupOldOrdersTask
from worker.tasks.process_pending_orders import ProcessPendingOrdersTask
from worker.tasks.send_reminders import SendRemindersTask
from worker.tasks.sync_external_data import SyncExternalDataTask
from worker.transport import ClientOptions, open_client

ATTEMPTS = 4
LIMITS = RunLimits(retry=RetryPolicy(attempts=ATTEMPTS, base=timedelta(milliseconds=1)))
TASKS = [
    CleanupOldOrdersTask,
    ProcessPendingOrdersTask,
    SendRemindersTask,
    SyncExternalDataTask,
]
UNAVAILABLE = answer(status="503 Service Unavailable")


async def reset(connection: Connection) -> None:
    await connection.request()
    connection.reset()


async def run_once(task: type[BaseTask], client: httpx.AsyncClient) -> Run:
    runner = Runner(client, clock=FakeClock(), events=Events(), limits=LIMITS)
    return await runner.run(TaskDefinition.of(task), trigger=Trigger.MANUAL)


@asynccontextmanager
async def counting_client(url: str) -> AsyncIterator[tuple[httpx.AsyncClient, list[httpx.Request]]]:
    """The shared client, and the requests that it was asked to send."""
    sent: list[httpx.Request] = []

    async def count(request: httpx.Request) -> None:
        sent.append(request)

    async with open_client(ClientOptions(base_url=url)) as client:
        client.event_hooks["request"].append(count)
        yield client, sent


@pytest.mark.parametrize("dead", [reset, answering(UNAVAILABLE)], ids=["reset", "503"])
@pytest.mark.parametrize("task", TASKS)
async def test_run_against_a_failing_service_costs_one_call_of_attempts(
    task: type[BaseTask], dead: Handler
) -> None:
    async with raw_server(dead) as server, counting_client(server.url) as (client, sent):
        run = await run_once(task, client)
        assert run.state is State.FAILURE
        assert len(server.requests) == len(sent) == ATTEMPTS
        assert len({(request.method, request.target) for request in server.requests}) == 1
        assert run.attempts == 1


@pytest.mark.parametrize("task", TASKS)
async def test_run_against_a_service_that_is_not_there_costs_one_call_of_attempts(
    task: type[BaseTask],
) -> None:
    async with counting_client(f"http://127.0.0.1:{refused_port()}") as (client, sent):
        run = await run_once(task, client)
    assert run.error is not None
    assert run.error.type == "DataApiUnreachable"
    assert len(sent) == ATTEMPTS


async def test_item_that_fails_costs_attempts_and_the_run_is_not_repeated() -> None:
    async def only_lists(connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            listed = answer(b'{"items": [{"id": 1}, {"id": 2}]}')
            await connection.send(listed if request.method == "GET" else UNAVAILABLE)

    async with raw_server(only_lists) as server, counting_client(server.url) as (client, _):
        run = await run_once(ProcessPendingOrdersTask, client)
    posted = [request.target for request in server.requests if request.method == "POST"]
    assert sorted(posted) == [f"/api/v1/orders/{n}/process" for n in (1, 2) for _ in range(4)]
    assert run.error is not None
    assert run.error.type == "TaskFailed"


class Unsafe(BaseTask):
    name = "test-costs:unsafe"

    async def execute(self) -> None:
        (await self.http_client.post("/effect")).raise_for_status()


class Keyed(BaseTask):
    name = "test-costs:keyed"

    async def execute(self) -> None:
        headers = {"Idempotency-Key": "one"}
        (await self.http_client.post("/effect", headers=headers)).raise_for_status()


class Reading(BaseTask):
    name = "test-costs:reading"

    async def execute(self) -> None:
        (await self.http_client.get("/state")).raise_for_status()


class UnsafeThenReading(BaseTask):
    name = "test-costs:unsafe-then-reading"

    async def execute(self) -> None:
        await self.http_client.post("/effect")
        (await self.http_client.get("/state")).raise_for_status()


@pytest.mark.parametrize("dead", [reset, answering(UNAVAILABLE)], ids=["reset", "503"])
@pytest.mark.parametrize(
    ("task", "methods"),
    [
        (Unsafe, ["POST"]),
        (Keyed, ["POST"] * ATTEMPTS),
        (Reading, ["GET"] * ATTEMPTS),
    ],
)
async def test_request_of_a_users_task_is_repeated_only_if_that_is_safe(
    task: type[BaseTask], methods: list[str], dead: Handler
) -> None:
    async with raw_server(dead) as server, counting_client(server.url) as (client, _):
        run = await run_once(task, client)
    assert run.state is State.FAILURE
    assert [request.method for request in server.requests] == methods


async def test_run_that_had_an_unsafe_effect_is_not_repeated_for_a_later_failure() -> None:
    handler = answering(answer(), UNAVAILABLE)
    async with raw_server(handler) as server, counting_client(server.url) as (client, _):
        run = await run_once(UnsafeThenReading, client)
    assert run.state is State.FAILURE
    assert [request.method for request in server.requests] == ["POST", "GET"]


async def test_unsafe_request_that_found_nobody_is_not_repeated_either() -> None:
    async with counting_client(f"http://127.0.0.1:{refused_port()}") as (client, sent):
        await run_once(Unsafe, client)
    assert len(sent) == 1
