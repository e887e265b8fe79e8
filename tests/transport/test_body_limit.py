"""A body over the limit is abandoned while it comes, whatever its server says of its length."""

from __future__ import annotations

import pytest

from tests.support.servers import Connection, answer, answering, raw_server
from tests.support.waiting import wait_until
from worker.errors import AnswerTooLarge

from .clients import slot_client, slots

LIMIT = 200_000
PIECE = b"x" * 50_000


@pytest.mark.parametrize(
    ("header", "piece"),
    [
        (b"Transfer-Encoding: chunked\r\n", b"c350\r\n" + PIECE + b"\r\n"),
        (b"Content-Length: 1000000000000000\r\n", PIECE),
        (b"Connection: close\r\n", PIECE),
    ],
    ids=["chunked", "length announced", "until it closes"],
)
async def test_endless_body_is_abandoned_while_it_comes(header: bytes, piece: bytes) -> None:
    stopped = False

    async def send_for_ever(connection: Connection) -> None:
        nonlocal stopped
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n")
        try:
            while True:
                await connection.send(piece)
        except ConnectionError:
            stopped = True

    async with (
        raw_server(send_for_ever) as server,
        slot_client(server.url, body_limit=LIMIT) as client,
    ):
        read = 0

        async def fetch() -> None:
            nonlocal read
            async with client.stream("GET", "/big?token=x") as response:
                async for chunk in response.aiter_raw():
                    read += len(chunk)

        with pytest.raises(AnswerTooLarge, match=r"^GET /big: .* limit of 200000 bytes$"):
            await fetch()
        assert read <= LIMIT
        assert slots(client).free == 2
        await wait_until(lambda: stopped, "the server was hung up on")


async def test_body_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    async with (
        raw_server(answering(answer(b"x" * 1000), answer(b"x" * 1001))) as server,
        slot_client(server.url, connections=1, body_limit=1000) as client,
    ):
        assert len((await client.get("/")).content) == 1000
        with pytest.raises(AnswerTooLarge):
            await client.get("/")
        assert slots(client).free == 1
