"""However a request is cancelled, its slot comes back, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import httpx
import pytest

from tests.support.servers import Connection, answer, answering, raw_server
from tests.support.waiting import wait_until

from .clients import slot_client, slots


@pytest.mark.parametrize("seed", range(3))
async def test_storm_of_cancellations_costs_no_slot(seed: int) -> None:
    dice = random.Random(seed)

    async def hesitant(connection: Connection) -> None:
        while await connection.request() is not None:
            await asyncio.sleep(dice.uniform(0, 0.002))
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
            for _ in range(4):
                await asyncio.sleep(dice.uniform(0, 0.001))
                await connection.send(b"ab")

    async with (
        raw_server(hesitant) as server,
        slot_client(server.url, connections=2) as client,
    ):
        ended: list[str] = []

        async def one(client: httpx.AsyncClient) -> None:
            seen = 0
            try:
                async with client.stream("GET", "/") as response:
                    async for chunk in response.aiter_raw():
                        seen += len(chunk)
            except asyncio.CancelledError:
                ended.append("in the body" if seen else "before")
                raise
            ended.append("complete")

        async def caller(longest_s: float) -> None:
            for _ in range(50):
                request = asyncio.create_task(one(client))
                await asyncio.wait({request}, timeout=dice.uniform(0, longest_s))
                request.cancel()
                with suppress(asyncio.CancelledError):
                    await request

        everywhere = {"before", "in the body", "complete"}
        for number in range(10):  # on a busy machine one may not hit all of them
            async with asyncio.TaskGroup() as group:
                for _ in range(6):
                    group.create_task(caller(0.012 * (1 + number)))
            if everywhere == set(ended):
                break
        assert everywhere == set(ended)
        assert slots(client).free == 2
        for _ in range(5):
            both = await asyncio.gather(client.get("/"), client.get("/"))
            assert [got.text for got in both] == ["abababab", "abababab"]
        assert slots(client).free == 2
        await wait_until(lambda: len(server.open) <= 2, "the broken connections were closed")


async def test_cancelled_waiter_leaves_the_slot_to_the_next_one() -> None:
    async with (
        raw_server(answering(answer(b"fine"))) as server,
        slot_client(server.url, connections=1) as client,
    ):
        async with client.stream("GET", "/held") as held:
            first, second = (asyncio.create_task(client.get(f"/{n}")) for n in (1, 2))
            await held.aread()
        # The slot was just promised to the first one, which does not know yet.
        first.cancel()
        assert (await second).text == "fine"
        assert first.cancelled()
        assert slots(client).free == 1


async def test_body_that_nobody_reads_to_its_end_is_not_read_by_the_next_request() -> None:
    async with (
        raw_server(answering(answer(b"left over"), answer(b"fine"))) as server,
        slot_client(server.url, connections=1) as client,
    ):
        async with client.stream("GET", "/"):
            pass
        assert slots(client).free == 1
        # A fresh connection: what is left of the body went with the old one.
        assert (await client.get("/")).text == "fine"
        assert server.accepted == 2
