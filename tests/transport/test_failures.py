"""What the transport raises for each way a connection fails, and that it works afterwards."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.support.servers import (
    Connection,
    Handler,
    answer,
    answering,
    raw_server,
    refused_port,
)
from tests.support.waiting import wait_until

from .clients import PATIENT, slot_client, slots

HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"
IMPATIENT = httpx.Timeout(5.0, read=0.05)


async def reset_before_answer(connection: Connection) -> None:
    await connection.request()
    connection.reset()


async def close_before_answer(connection: Connection) -> None:
    await connection.request()
    connection.close()


async def reset_inside_body(connection: Connection) -> None:
    await connection.request()
    await connection.send(HALF)
    # Only once the client has what came before does it see the reset as one inside of the body.
    await connection.server.seen.wait()
    connection.reset()


async def close_inside_body(connection: Connection) -> None:
    await connection.request()
    await connection.send(HALF)
    connection.close()


async def close_inside_chunks(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
    connection.close()


async def speak_something_else(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"SSH-2.0-OpenSSH_9.9\r\n")
    connection.close()


async def send_bad_chunk(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
    await connection.gone()


async def hang(connection: Connection) -> None:
    await connection.request()
    await connection.gone()


async def hang_inside_body(connection: Connection) -> None:
    await connection.request()
    await connection.send(HALF)
    await connection.gone()


@pytest.mark.parametrize(
    ("failing", "error", "timeout"),
    [
        (reset_before_answer, httpx.ReadError, PATIENT),
        (close_before_answer, httpx.RemoteProtocolError, PATIENT),
        (reset_inside_body, httpx.ReadError, PATIENT),
        (close_inside_body, httpx.RemoteProtocolError, PATIENT),
        (close_inside_chunks, httpx.RemoteProtocolError, PATIENT),
        (speak_something_else, httpx.RemoteProtocolError, PATIENT),
        (send_bad_chunk, httpx.RemoteProtocolError, PATIENT),
        (hang, httpx.ReadTimeout, IMPATIENT),
        (hang_inside_body, httpx.ReadTimeout, IMPATIENT),
    ],
)
async def test_failed_request_raises_one_error_and_costs_no_slot(
    failing: Handler, error: type[httpx.RequestError], timeout: httpx.Timeout
) -> None:
    healthy = False

    async def handler(connection: Connection) -> None:
        await (answering(answer(b"fine")) if healthy else failing)(connection)

    async with (
        raw_server(handler) as server,
        slot_client(server.url, timeout=timeout) as client,
    ):

        async def fetch() -> None:
            async with client.stream("GET", "/broken") as response:
                async for _ in response.aiter_raw():
                    server.seen.set()

        for _ in range(3):
            with pytest.raises(httpx.RequestError) as caught:
                await fetch()
            assert type(caught.value) is error
            assert caught.value.request.url == f"{server.url}/broken"
            assert slots(client).free == 2

        healthy = True
        for got in await asyncio.gather(*(client.get("/", timeout=PATIENT) for _ in range(6))):
            assert got.text == "fine"
        assert slots(client).free == 2


async def test_refused_connection_is_connect_error() -> None:
    async with slot_client(f"http://127.0.0.1:{refused_port()}") as client:
        for _ in range(3):
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get("/")
            assert type(caught.value) is httpx.ConnectError
            assert caught.value.request.method == "GET"
            assert slots(client).free == 2


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose queue of connections is full, so that the next one waits."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_connection_that_is_not_accepted_is_connect_timeout() -> None:
    with full_backlog() as port:
        timeout = httpx.Timeout(5.0, connect=0.05)
        async with slot_client(f"http://127.0.0.1:{port}", timeout=timeout) as client:
            with pytest.raises(httpx.ConnectTimeout) as caught:
                await client.get("/")
            assert caught.value.request.method == "GET"
            assert slots(client).free == 2


async def test_server_without_tls_is_connect_error() -> None:
    async def speak_plainly(connection: Connection) -> None:
        await connection.reader.read(1)
        await connection.send(answer(status="400 Bad Request"))

    async with (
        raw_server(speak_plainly) as server,
        slot_client(f"https://127.0.0.1:{server.port}") as client,
    ):
        for _ in range(3):
            with pytest.raises(httpx.ConnectError, match="SSL"):
                await client.get("/")
            assert slots(client).free == 2


async def test_request_that_finds_no_slot_in_time_is_pool_timeout() -> None:
    timeout = httpx.Timeout(5.0, pool=0.02)
    async with (
        raw_server(answering(answer(b"fine"))) as server,
        slot_client(server.url, timeout=timeout) as client,
    ):
        async with client.stream("GET", "/a"), client.stream("GET", "/b"):
            assert slots(client).free == 0
            with pytest.raises(httpx.PoolTimeout, match=r"within 0\.02 s") as caught:
                await client.get("/c")
            assert caught.value.request.url.path == "/c"
        assert slots(client).free == 2
        assert (await client.get("/d")).text == "fine"
        assert [request.target for request in server.requests] == ["/a", "/b", "/d"]


async def test_request_that_waits_gets_the_slot_that_comes_free() -> None:
    async with (
        raw_server(answering(answer(b"fine"))) as server,
        slot_client(server.url, connections=1) as client,
    ):
        async with client.stream("GET", "/held") as held:
            waiting = asyncio.create_task(client.get("/waiting"))
            await held.aread()
            assert not waiting.done()
        assert (await waiting).text == "fine"


async def test_busy_callers_do_not_starve_one_that_waits() -> None:
    async with (
        raw_server(answering(answer(b"fine"))) as server,
        slot_client(server.url, connections=1) as client,
    ):
        order: list[str] = []

        async def ask(name: str, times: int) -> None:
            for _ in range(times):
                await client.get(f"/{name}")
                order.append(name)

        await asyncio.gather(ask("a", 10), ask("b", 10), ask("c", 10))
        assert sorted(order[:9]) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


async def test_connection_closed_while_idle_is_replaced_unnoticed() -> None:
    async def one_answer(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"fine"))

    async with (
        raw_server(one_answer) as server,
        slot_client(server.url, connections=1) as client,
    ):
        for number in range(1, 6):
            assert (await client.get("/")).text == "fine"
            assert server.accepted == number
            await wait_until(lambda: not server.open, "the server closed the connection")


async def test_request_that_cannot_be_sent_costs_no_slot() -> None:
    async with (
        raw_server(answering(answer())) as server,
        slot_client(server.url) as client,
    ):
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("gopher://127.0.0.1/")
        with pytest.raises(httpx.LocalProtocolError):
            await client.get("/", headers={"X-Broken": "a\nb"})
        assert slots(client).free == 2
