"""What a job costs a Data API that is down: retries do not multiply. Counted by a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.support.consuming import Bench
from tests.support.servers import Connection, Handler, RawServer, answer, answering, raw_server
from worker import (
    BaseTask,
    BulkJob,
    BulkTask,
    ClientOptions,
    RetryPolicy,
    RunContext,
    open_client,
    task,
)
from worker.data_api import DataApi
from worker.model import State

UNAVAILABLE = answer(status="503 Service Unavailable")


async def reset(connection: Connection) -> None:
    await connection.request()
    connection.reset()


@pytest.fixture(params=[reset, answering(UNAVAILABLE)], ids=["reset", "503"])
async def dead(request: pytest.FixtureRequest) -> AsyncIterator[tuple[RawServer, Bench]]:
    """A Data API that is down, and a worker that knows it."""
    handler: Handler = request.param
    async with (
        raw_server(handler) as server,
        open_client(ClientOptions(base_url=server.url)) as client,
    ):
        yield server, Bench(http_client=client)


class ThroughTheApi(BaseTask):
    name = "through_the_api"
    queue = "default"
    retry_delay = "0s"

    async def execute(self) -> object:
        return await DataApi(self.http_client, self.context).pending_orders(offset=0, limit=1)


class ThroughTheClient(BaseTask):
    name = "through_the_client"
    queue = "default"
    retry_delay = "0s"

    async def execute(self) -> None:
        (await self.http_client.get("/anything")).raise_for_status()


@task(retry_delay="0s")
async def as_a_function(client: httpx.AsyncClient, job: RunContext) -> None:
    await DataApi(client, job).pending_orders(offset=0, limit=1)


@pytest.mark.parametrize("asked", [ThroughTheApi, ThroughTheClient, as_a_function])
@pytest.mark.parametrize("retries", [0, 1, 4])
async def test_a_job_makes_each_call_once_an_attempt(
    dead: tuple[RawServer, Bench], asked: Any, retries: int
) -> None:
    server, bench = dead
    job = await bench.client.enqueue(asked, max_retries=retries)
    await bench.work_off(asked)
    info = await bench.info(job)
    assert (info.state, info.dead, info.attempts) == (State.FAILURE, True, 1 + retries)
    assert len(server.requests) == 1 + retries


async def test_a_task_that_asks_for_it_repeats_its_calls_within_an_attempt(
    dead: tuple[RawServer, Bench],
) -> None:
    class Insistent(ThroughTheApi):
        name = "insistent"
        retry = RetryPolicy(attempts=3, base=timedelta(0))

    server, bench = dead
    await bench.client.enqueue(Insistent, max_retries=1)
    await bench.work_off(Insistent)
    assert len(server.requests) == 6


async def test_a_batch_is_not_split_because_the_network_failed(
    dead: tuple[RawServer, Bench],
) -> None:
    class Save(BulkTask):
        name = "save"
        max_wait = timedelta(0)
        retry_delay = "0s"
        max_retries = 2

        async def execute_many(self, jobs: Any) -> list[BulkJob[Any]]:
            await DataApi(self.http_client, self.context).pending_orders(offset=0, limit=1)
            return list(jobs)

    server, bench = dead
    jobs = await bench.client.enqueue_many(Save, [None] * 40)
    await bench.work_off(Save)
    assert {(await bench.info(job)).attempts for job in jobs} == {3}
    assert len(server.requests) == 3
