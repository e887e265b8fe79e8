"""Whatever goes wrong with a call is one of our errors, with the call's name and no secret."""

from __future__ import annotations

import gzip
import json
import os
import socket
from collections.abc import Iterator
from errno import ECONNREFUSED

import httpx
import pytest
import respx

from tests.support.servers import Connection, answer, answering, raw_server, refused_port
from worker.errors import (
    AnswerTooLarge,
    DataApiError,
    DataApiUnreachable,
    MalformedAnswer,
    UnexpectedStatus,
)
from worker.transport import ClientOptions, open_client

from .calls import BEFORE, CALLS, TOKEN, URL, api_of

# What each of httpx's errors becomes, and whether the call is tried again after it.
MAPPED: dict[type[httpx.RequestError], tuple[type[DataApiError], bool]] = {
    httpx.CloseError: (DataApiUnreachable, True),
    httpx.ConnectError: (DataApiUnreachable, True),
    httpx.ConnectTimeout: (DataApiUnreachable, True),
    httpx.DecodingError: (MalformedAnswer, False),
    httpx.LocalProtocolError: (DataApiUnreachable, False),
    httpx.NetworkError: (DataApiUnreachable, True),
    httpx.PoolTimeout: (DataApiUnreachable, True),
    httpx.ProtocolError: (DataApiUnreachable, True),
    httpx.ProxyError: (DataApiUnreachable, True),
    httpx.ReadError: (DataApiUnreachable, True),
    httpx.ReadTimeout: (DataApiUnreachable, True),
    httpx.RemoteProtocolError: (DataApiUnreachable, True),
    httpx.RequestError: (DataApiError, False),
    httpx.TimeoutException: (DataApiUnreachable, True),
    httpx.TooManyRedirects: (DataApiError, False),
    httpx.TransportError: (DataApiUnreachable, True),
    httpx.UnsupportedProtocol: (DataApiUnreachable, False),
    httpx.WriteError: (DataApiUnreachable, True),
    httpx.WriteTimeout: (DataApiUnreachable, True),
}


def kinds(root: type[httpx.RequestError]) -> Iterator[type[httpx.RequestError]]:
    yield root
    for kind in root.__subclasses__():
        if kind.__module__ == "httpx":
            yield from kinds(kind)


def test_every_error_of_httpx_is_mapped() -> None:
    assert set(kinds(httpx.RequestError)) == set(MAPPED)


@pytest.mark.parametrize("kind", MAPPED, ids=lambda kind: kind.__name__)
async def test_error_of_httpx_becomes_one_of_ours(
    service: respx.MockRouter, client: httpx.AsyncClient, kind: type[httpx.RequestError]
) -> None:
    mapped, again = MAPPED[kind]
    route = service.route().mock(side_effect=kind)
    for name, call in CALLS.items():
        before = route.call_count
        with pytest.raises(DataApiError, match=rf"^{name}: ") as caught:
            await call(api_of(client))
        assert type(caught.value) is mapped
        assert type(caught.value.__cause__) is kind
        assert caught.value.transient is again
        assert caught.value.attempts == route.call_count - before == (3 if again else 1)
        assert TOKEN not in str(caught.value)


async def test_error_while_the_body_is_read_becomes_one_of_ours() -> None:
    async def cut_short(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{")

    async with (
        raw_server(cut_short) as server,
        open_client(ClientOptions(base_url=server.url)) as client,
    ):
        with pytest.raises(DataApiUnreachable, match=r"^orders\.list: .*broke") as caught:
            await CALLS["orders.list"](api_of(client))
        assert caught.value.attempts == server.accepted == 3


async def test_message_names_the_place_and_what_the_system_said() -> None:
    place = f"127.0.0.1:{refused_port()}"
    async with open_client(ClientOptions(base_url=f"http://{place}")) as client:
        with pytest.raises(DataApiUnreachable) as caught:
            await CALLS["sync"](api_of(client))
    refused = f"sync: no connection to {place} ({os.strerror(ECONNREFUSED)})"
    assert str(caught.value) == f"{refused}, after 3 attempts"


async def test_message_about_a_service_without_tls_says_so() -> None:
    async def speak_plainly(connection: Connection) -> None:
        await connection.reader.read(1)
        await connection.send(answer(status="400 Bad Request"))

    async with (
        raw_server(speak_plainly) as server,
        open_client(ClientOptions(base_url=f"https://127.0.0.1:{server.port}")) as client,
    ):
        with pytest.raises(DataApiUnreachable, match=r"no connection to .*\(no TLS .* http://"):
            await CALLS["sync"](api_of(client))


async def test_message_about_an_unknown_name_says_so() -> None:
    def look_up(request: httpx.Request) -> httpx.Response:
        try:
            raise socket.gaierror(8, "Name or service not known")
        except OSError as exc:
            raise httpx.ConnectError("All connection attempts failed") from exc

    async with httpx.AsyncClient(transport=httpx.MockTransport(look_up), base_url=URL) as client:
        with pytest.raises(
            DataApiUnreachable, match=r" \(Name or service not known\), after 3 attempts$"
        ):
            await CALLS["sync"](api_of(client))


async def test_failure_that_is_its_own_cause_is_told_too(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    service.route().mock(side_effect=refuse)
    with pytest.raises(DataApiUnreachable, match="refused") as caught:
        await CALLS["sync"](api_of(client))
    ring = caught.value.__cause__
    assert ring is not None
    assert ring.__cause__ is not None
    assert ring.__cause__.__cause__ is ring


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (httpx.ConnectTimeout, "no connection to data-api.test:80 within 5.0 s"),
        (httpx.ReadTimeout, "data-api.test:80 sent nothing for 10.0 s"),
        (httpx.WriteTimeout, "data-api.test:80 took nothing for 10.0 s"),
        (httpx.PoolTimeout, "no free connection to data-api.test:80 within 10.0 s"),
    ],
)
async def test_timeout_says_which_and_how_long(
    service: respx.MockRouter,
    client: httpx.AsyncClient,
    kind: type[httpx.TimeoutException],
    words: str,
) -> None:
    service.route().mock(side_effect=kind)
    with pytest.raises(DataApiUnreachable) as caught:
        await CALLS["sync"](api_of(client))
    assert str(caught.value) == f"sync: {words}, after 3 attempts"


NOT_JSON = [
    b"",
    b"<html>",
    b'{"items": [',
    b"\xff\xfe",
    b'{"items": [{"id": "\\ud800"}]} x',
    b"NaN",
]


@pytest.mark.parametrize("call", ["orders.cleanup", "sync", "orders.list", "bookings.upcoming"])
@pytest.mark.parametrize("body", NOT_JSON)
async def test_answer_that_is_not_json_is_malformed(
    service: respx.MockRouter, client: httpx.AsyncClient, call: str, body: bytes
) -> None:
    route = service.route().respond(content=body)
    with pytest.raises(MalformedAnswer, match=rf"^{call}: the answer is malformed at ") as caught:
        await CALLS[call](api_of(client))
    assert not caught.value.transient
    assert route.call_count == 1


WRONG_SHAPES: dict[str, list[object]] = {
    "orders.cleanup": [
        [],
        {},
        None,
        {"deleted_count": "3"},
        {"deleted_count": -1},
        {"deleted_count": 1.5},
        {"deleted_count": True},
        {"deleted_count": None},
    ],
    "sync": [[], None, "done", 1, True],
    "orders.list": [
        [],
        {},
        {"items": None},
        {"items": {}},
        {"items": [1]},
        {"items": [{}]},
        {"items": [{"id": None}]},
        {"items": [{"id": 1.5}]},
        {"items": [{"id": True}]},
        {"items": [{"id": 1}, {"id": ["a"]}]},
    ],
    "bookings.upcoming": [
        [],
        {},
        {"items": [{"id": 1}]},
        {"items": [{"id": 1, "reminder_sent": "false"}]},
        {"items": [{"id": 1, "reminder_sent": 0}]},
        {"items": [{"id": 1, "reminder_sent": None}]},
        {"items": [{"reminder_sent": False}]},
    ],
}


@pytest.mark.parametrize(
    ("call", "shape"),
    [(call, shape) for call, shapes in WRONG_SHAPES.items() for shape in shapes],
)
async def test_answer_of_the_wrong_shape_is_malformed(
    service: respx.MockRouter, client: httpx.AsyncClient, call: str, shape: object
) -> None:
    route = service.route().respond(content=json.dumps(shape))
    with pytest.raises(MalformedAnswer, match=rf"^{call}: the answer is malformed at "):
        await CALLS[call](api_of(client))
    assert route.call_count == 1


async def test_malformed_answer_is_told_without_its_content(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    service.route().respond(json={"items": [{"id": 1}, {"id": {"card": "4111"}}]})
    with pytest.raises(MalformedAnswer, match=r"at items\.1\.id") as caught:
        await CALLS["orders.list"](api_of(client))
    assert "4111" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_number_too_long_for_python_is_malformed(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    service.route().respond(content=b'{"items": [{"id": ' + b"9" * 5000 + b"}]}")
    with pytest.raises(MalformedAnswer):
        await CALLS["orders.list"](api_of(client))


@pytest.mark.parametrize("call", CALLS)
async def test_body_over_the_limit_is_too_large(call: str) -> None:
    async with (
        raw_server(answering(answer(b"[" * 2000))) as server,
        open_client(ClientOptions(base_url=server.url, body_limit=1000)) as client,
    ):
        with pytest.raises(AnswerTooLarge, match="over the limit of 1000 bytes") as caught:
            await CALLS[call](api_of(client))
        assert not caught.value.transient
        assert len(server.requests) == 1
        assert "?" not in str(caught.value)


def packed(body: bytes, times: int = 1) -> bytes:
    for _ in range(times):
        body = gzip.compress(body)
    codings = ", ".join(["gzip"] * times)
    return answer(body, headers=(f"Content-Encoding: {codings}",))


async def test_answer_that_is_small_until_it_is_unpacked_is_too_large() -> None:
    async with (
        raw_server(answering(packed(b" " * 1_000_000))) as server,
        open_client(ClientOptions(base_url=server.url, body_limit=100_000)) as client,
    ):
        with pytest.raises(AnswerTooLarge, match=r"^orders\.list: .* limit of 100000 bytes"):
            await CALLS["orders.list"](api_of(client))


async def test_answer_that_is_packed_although_nobody_asked_is_read() -> None:
    async with (
        raw_server(answering(packed(b'{"items": [{"id": 1}]}'))) as server,
        open_client(ClientOptions(base_url=server.url)) as client,
    ):
        assert await CALLS["orders.list"](api_of(client)) == [1]


async def test_answer_packed_twice_is_refused_before_it_is_unpacked() -> None:
    async with (
        raw_server(answering(packed(b" " * 1_000_000, times=2))) as server,
        open_client(ClientOptions(base_url=server.url)) as client,
    ):
        with pytest.raises(MalformedAnswer, match=r"encoded more than once \(gzip, gzip\)"):
            await CALLS["orders.list"](api_of(client))


async def test_answer_that_cannot_be_unpacked_is_malformed() -> None:
    broken = answer(b"not gzip", headers=("Content-Encoding: gzip",))
    async with (
        raw_server(answering(broken)) as server,
        open_client(ClientOptions(base_url=server.url)) as client,
    ):
        with pytest.raises(MalformedAnswer, match="could not be decoded"):
            await CALLS["orders.list"](api_of(client))


@pytest.mark.parametrize("failure", [302, 401, 404, 503, httpx.ReadTimeout, httpx.ConnectError])
@pytest.mark.parametrize("call", CALLS)
async def test_message_holds_neither_token_nor_query(
    service: respx.MockRouter,
    client: httpx.AsyncClient,
    call: str,
    failure: int | type[httpx.RequestError],
) -> None:
    if isinstance(failure, int):
        service.route().respond(failure, headers={"Location": f"{URL}/?token={TOKEN}"})
    else:
        service.route().mock(side_effect=failure)
    with pytest.raises(DataApiError) as caught:
        await CALLS[call](api_of(client))
    for secret in (TOKEN, "token=", "pending", BEFORE.isoformat()[:10]):
        assert secret not in str(caught.value)


async def test_message_about_a_header_does_not_quote_it() -> None:
    headers = {"Authorization": f"Bearer {TOKEN}\n"}
    async with (
        raw_server(answering(answer())) as server,
        httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as client,
    ):
        with pytest.raises(DataApiUnreachable, match="not valid HTTP") as caught:
            await CALLS["sync"](api_of(client))
    assert TOKEN not in str(caught.value)
    assert not caught.value.transient


@pytest.mark.parametrize("token", ["", "a b", "line\n", "ümlaut", "\x00"])
def test_token_that_no_header_can_carry_is_refused_unseen(token: str) -> None:
    with pytest.raises(ValueError, match=r"^token: expected printable ASCII") as caught:
        ClientOptions(base_url=URL, token=f"{TOKEN}{token}" if token else "")
    assert TOKEN not in str(caught.value)


def test_options_do_not_show_their_token() -> None:
    assert TOKEN not in repr(ClientOptions(base_url=URL, token=TOKEN))


async def test_error_of_an_item_does_not_spend_attempts_on_a_final_status(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    service.route().mock(side_effect=[httpx.Response(503), httpx.Response(422)])
    with pytest.raises(UnexpectedStatus) as caught:
        await CALLS["orders.process"](api_of(client))
    assert (caught.value.status, caught.value.attempts) == (422, 2)
