"""How many requests go on at once, over how many connections, and what closing does."""

from __future__ import annotations

import asyncio
import gc

import httpx
import pytest

from tests.support.servers import Connection, answer, answering, raw_server
from tests.support.waiting import wait_until
from worker.transport import ClientOptions, open_client

from .clients import slot_client, slots


async def test_as_many_requests_as_connections_go_on_at_once_and_no_more() -> None:
    under_way = most = 0
    full = asyncio.Event()

    async def wait_for_company(connection: Connection) -> None:
        nonlocal under_way, most
        while await connection.request() is not None:
            under_way += 1
            most = max(most, under_way)
            if under_way == 5:
                full.set()
            await full.wait()
            await asyncio.sleep(0)
            under_way -= 1
            await connection.send(answer())

    async with (
        raw_server(wait_for_company) as server,
        slot_client(server.url, connections=5) as client,
    ):
        await asyncio.gather(*(client.get("/") for _ in range(40)))
        assert most == 5
        assert server.accepted == 5
        assert slots(client).free == 5


async def test_one_caller_uses_one_connection() -> None:
    async with (
        raw_server(answering(answer())) as server,
        slot_client(server.url, connections=5) as client,
    ):
        for _ in range(20):
            await client.get("/")
        assert server.accepted == 1


# The connection complains that nobody closed it, and rightly.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_responses_that_nobody_closes_cost_no_other_task_its_connection() -> None:
    async with (
        raw_server(answering(answer())) as server,
        slot_client(server.url, connections=2) as client,
    ):
        for _ in range(6):
            response = await client.send(client.build_request("GET", "/"), stream=True)
            del response
            gc.collect()
        assert slots(client).free == 2
        assert (await client.get("/")).status_code == 200


async def test_closing_the_client_closes_idle_connections() -> None:
    async with raw_server(answering(answer())) as server:
        async with slot_client(server.url, connections=3) as client:
            await asyncio.gather(*(client.get("/") for _ in range(3)))
            assert len(server.open) == 3
        await wait_until(lambda: not server.open, "all connections were closed")


async def test_connection_in_use_when_the_client_closes_is_closed_after_its_answer() -> None:
    async with raw_server(answering(answer(b"fine"))) as server:
        client = httpx.AsyncClient(
            transport=open_client_transport(server.url), base_url=server.url, timeout=5
        )
        async with client.stream("GET", "/") as response:
            await client.aclose()
            assert await response.aread() == b"fine"
        await wait_until(lambda: not server.open, "the connection was closed")


def open_client_transport(url: str) -> httpx.AsyncBaseTransport:
    return slots(open_client(ClientOptions(base_url=url, connections=1)))


async def test_every_slot_has_a_time_limit_for_each_step() -> None:
    seen: list[object] = []
    async with (
        raw_server(answering(answer())) as server,
        open_client(ClientOptions(base_url=server.url)) as client,
    ):

        async def look(request: httpx.Request) -> None:
            seen.append(request.extensions["timeout"])

        client.event_hooks["request"].append(look)
        await client.get("/")
    assert seen == [{"connect": 5.0, "read": 10.0, "write": 10.0, "pool": 10.0}]
