"""A fault of TLS is a broken connection as any other: one of httpx's errors, and tried again."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest

from tests.support.servers import Connection, answer, answering, raw_server
from tests.support.tls import Certificate, Tls
from worker.clock import SystemClock
from worker.errors import AnswerTooLarge
from worker.retry import RetryPolicy, is_transient
from worker.transport import SlotTransport

from .clients import slot_client, slots

GARBAGE = b"\x17\x03\x03\x00\x20" + b"\xff" * 32
"""A record of application data that nobody encrypted."""
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"
THREE_TIMES = RetryPolicy(attempts=3, base=timedelta(0))
Fault = Callable[[Connection, ssl.SSLContext], Awaitable[None]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(Path(tmp_path_factory.mktemp("tls")))


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch, certificate: Certificate) -> None:
    context = certificate.of_client()
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: context)


async def garbage_before_the_answer(connection: Connection, context: ssl.SSLContext) -> None:
    tls = Tls(connection, context)
    await tls.handshake()
    await tls.request()
    await connection.send(GARBAGE)
    await connection.gone()


async def garbage_inside_the_body(connection: Connection, context: ssl.SSLContext) -> None:
    tls = Tls(connection, context)
    await tls.handshake()
    await tls.request()
    await tls.send(HALF)
    await connection.send(GARBAGE)
    await connection.gone()


async def plain_text_after_the_handshake(connection: Connection, context: ssl.SSLContext) -> None:
    tls = Tls(connection, context)
    await tls.handshake()
    await tls.request()
    await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
    await connection.gone()


async def demands_a_certificate(connection: Connection, context: ssl.SSLContext) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    await refuses(connection, context)


async def demands_a_certificate_in_tls_1_2(connection: Connection, context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    await demands_a_certificate(connection, context)


async def refuses(connection: Connection, context: ssl.SSLContext) -> None:
    with suppress(ssl.SSLError):
        await Tls(connection, context).handshake()
    connection.writer.write_eof()
    await connection.gone()


async def garbage_in_the_handshake(connection: Connection, context: ssl.SSLContext) -> None:
    await connection.reader.read(1)
    await connection.send(b"\x16\x03\x03\x00\x10" + b"\xff" * 16)
    await connection.gone()


async def ends_without_a_farewell(connection: Connection, context: ssl.SSLContext) -> None:
    tls = Tls(connection, context)
    await tls.handshake()
    await tls.request()
    await tls.send(HALF)
    connection.close()


FAULTS: list[Fault] = [
    garbage_before_the_answer,
    garbage_inside_the_body,
    plain_text_after_the_handshake,
    demands_a_certificate,
    demands_a_certificate_in_tls_1_2,
    garbage_in_the_handshake,
    ends_without_a_farewell,
]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_tls_is_an_error_of_httpx_and_tried_three_times(
    fault: Fault, certificate: Certificate
) -> None:
    async def handler(connection: Connection) -> None:
        with suppress(ssl.SSLError):
            await fault(connection, certificate.of_server())

    async with (
        raw_server(handler) as server,
        slot_client(f"https://localhost:{server.port}") as client,
    ):

        async def fetch() -> httpx.Response:
            return await client.get("/orders")

        with pytest.raises(httpx.TransportError) as caught:
            await THREE_TIMES.call(fetch, clock=SystemClock())
        assert is_transient(caught.value)
        assert caught.value.request.url.path == "/orders"
        assert server.accepted == 3
        assert slots(client).free == 2


async def test_a_certificate_that_is_not_trusted_is_a_connect_error(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate
) -> None:
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: ssl.create_default_context())

    async def handler(connection: Connection) -> None:
        await refuses(connection, certificate.of_server())

    async with (
        raw_server(handler) as server,
        slot_client(f"https://localhost:{server.port}") as client,
    ):
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await client.get("/")


class Failing(httpx.AsyncHTTPTransport):
    """A slot whose request, or whose answer's body, fails with what nobody has mapped."""

    failure: Exception
    inside_body = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self.inside_body:
            raise self.failure
        return httpx.Response(200, stream=FailingBody(self.failure))


class FailingBody(httpx.AsyncByteStream):
    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"half"
        raise self._failure


@pytest.mark.parametrize("inside_body", [False, True])
@pytest.mark.parametrize(
    "failure",
    [
        ssl.SSLError(1, "[SSL] record layer failure"),
        ssl.SSLZeroReturnError(),
        OSError(9, "Bad file descriptor"),
        ConnectionAbortedError(),
        TimeoutError(),
        EOFError(),
        anyio.BusyResourceError("reading"),
        anyio.ClosedResourceError(),
        RuntimeError("TCPTransport closed"),
        KeyError("a bug in a library"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_whatever_a_connection_raises_is_an_error_of_httpx(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, inside_body: bool
) -> None:
    def new_slot(self: SlotTransport) -> httpx.AsyncHTTPTransport:
        slot = Failing()
        slot.failure, slot.inside_body = failure, inside_body
        return slot

    monkeypatch.setattr(SlotTransport, "_new_slot", new_slot)
    async with slot_client("http://localhost") as client:
        with pytest.raises(httpx.TransportError) as caught:
            await client.get("/")
        assert caught.value.__cause__ is failure
        assert is_transient(caught.value)
        await asyncio.sleep(0)
        assert slots(client).free == 2


@pytest.mark.parametrize("host", ["a" * 70 + ".example", ".example", "a..example"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_host_that_cannot_be_one_is_an_error_of_httpx(scheme: str, host: str) -> None:
    async with slot_client(f"{scheme}://{host}") as client:
        with pytest.raises((httpx.TransportError, httpx.InvalidURL)):
            await client.get("/")
        assert slots(client).free == 2


@pytest.mark.parametrize("failure", [OSError(5, "no such file"), ValueError("no such row")])
async def test_what_the_source_of_a_request_raises_is_left_as_it_is(failure: Exception) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"half"
        raise failure

    async with (
        raw_server(answering(answer(b"fine"))) as server,
        slot_client(server.url) as client,
    ):
        with pytest.raises(type(failure)) as caught:
            await client.post("/", content=source())
        assert caught.value is failure
        assert slots(client).free == 2


async def test_an_answer_that_is_too_large_is_left_as_it_is() -> None:
    async with (
        raw_server(answering(answer(b"x" * 100))) as server,
        slot_client(server.url, body_limit=10) as client,
    ):
        with pytest.raises(AnswerTooLarge):
            await client.get("/")
