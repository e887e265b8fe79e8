"""What becomes of each status that is not 2xx."""

from __future__ import annotations

from http import HTTPStatus

import httpx
import pytest
import respx

from tests.support.servers import Connection, answer, answering, raw_server
from worker.errors import UnexpectedRedirect, UnexpectedStatus
from worker.transport import ClientOptions, open_client

from .calls import CALLS, TOKEN, URL, api_of

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
REGISTERED = [status.value for status in HTTPStatus if status >= 300]
UNREGISTERED = [399, 420, 499, 509, 520, 599]


@pytest.mark.parametrize("call", ["orders.list", "orders.process"])
@pytest.mark.parametrize("status", [*REGISTERED, *UNREGISTERED])
async def test_only_transient_statuses_are_tried_again(
    service: respx.MockRouter, client: httpx.AsyncClient, status: int, call: str
) -> None:
    route = service.route().respond(status, text="never shown")
    with pytest.raises(UnexpectedStatus, match=rf"^{call}: .*\b{status}\b") as caught:
        await CALLS[call](api_of(client))
    error = caught.value
    assert (error.status, error.call) == (status, call)
    assert isinstance(error, UnexpectedRedirect) is (status < 400)
    assert error.transient is (status in TRANSIENT)
    assert route.call_count == error.attempts == (3 if status in TRANSIENT else 1)
    assert "never shown" not in str(error)


async def test_not_found_under_a_path_of_ones_own_names_it(service: respx.MockRouter) -> None:
    service.route().respond(404)
    async with httpx.AsyncClient(base_url=f"{URL}/shop/") as client:
        with pytest.raises(UnexpectedStatus) as caught:
            await CALLS["orders.list"](api_of(client))
    assert str(caught.value) == (
        "orders.list: expected 2xx, got 404 Not Found; is the path in WORKER_DATA_API_URL right: "
        "/shop?"
    )


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/elsewhere", "'/elsewhere'"),
        ("https://new.test/api?token=hidden&x=1#hidden", "'https://new.test/api'"),
        ("https://hidden:hidden@new.test/", "'https://new.test/'"),
        ("?hidden=1", "''"),
        (None, "''"),
    ],
)
async def test_redirect_names_its_target_without_query_and_credentials(
    service: respx.MockRouter, client: httpx.AsyncClient, location: str | None, shown: str
) -> None:
    service.route().respond(307, headers={"Location": location} if location else {})
    with pytest.raises(UnexpectedRedirect, match="WORKER_DATA_API_URL") as caught:
        await CALLS["sync"](api_of(client))
    assert f"to {shown};" in str(caught.value)
    assert "hidden" not in str(caught.value)


async def test_redirect_to_what_is_no_url_is_told_as_such(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    # 300 because httpx itself trips over such a target on the statuses that it could follow.
    service.route().respond(300, headers={"Location": "http://new.test:hidden/"})
    with pytest.raises(UnexpectedRedirect, match=r"to '\(not a URL\)'"):
        await CALLS["sync"](api_of(client))


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "WORKER_DATA_API_TOKEN"), (403, "token"), (409, "tried later")]
)
async def test_status_that_has_a_usual_cause_names_it(
    service: respx.MockRouter, client: httpx.AsyncClient, status: int, hint: str
) -> None:
    service.route().respond(status)
    with pytest.raises(UnexpectedStatus, match=hint) as caught:
        await CALLS["orders.process"](api_of(client))
    assert TOKEN not in str(caught.value)


async def test_refusal_leaves_its_connection_to_the_next_call() -> None:
    refusals = [
        answer(b'{"detail": "no"}', status="422 Unprocessable Entity"),
        answer(b"", status="404 Not Found"),
        answer(b"x" * 10_000, status="501 Not Implemented"),
        answer(b"moved", status="302 Found"),
    ]
    async with (
        raw_server(answering(*refusals, answer(b"{}"))) as server,
        open_client(ClientOptions(base_url=server.url)) as client,
    ):
        for _ in refusals:
            with pytest.raises(UnexpectedStatus):
                await CALLS["orders.process"](api_of(client))
        await CALLS["orders.process"](api_of(client))
    assert server.accepted == 1


async def send_and_close(connection: Connection, data: bytes) -> None:
    await connection.request()
    await connection.send(data)


@pytest.mark.parametrize(
    "body",
    [
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 10\r\n\r\n123",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 10000000000\r\n\r\n" + b"x" * 500_000,
        b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ],
    ids=["cut short", "huge", "broken"],
)
async def test_status_counts_however_its_body_ends(body: bytes) -> None:
    async with (
        raw_server(lambda connection: send_and_close(connection, body)) as server,
        open_client(ClientOptions(base_url=server.url, body_limit=1000)) as client,
    ):
        with pytest.raises(UnexpectedStatus) as caught:
            await CALLS["orders.list"](api_of(client))
        assert caught.value.status == 401
        assert len(server.requests) == 1


async def test_status_counts_over_a_transport_that_answers_from_memory() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(404, text="in memory"))
    async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
        with pytest.raises(UnexpectedStatus, match="404"):
            await CALLS["orders.list"](api_of(client))
