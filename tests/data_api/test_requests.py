"""What each call sends, and what it makes of a proper answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta, timezone
from typing import Any
from uuid import UUID

import httpx
import pytest
import respx

from worker.data_api import Booking, ItemId
from worker.errors import InvalidId
from worker.transport import ClientOptions, open_client

from .calls import BEFORE, CALLS, TOKEN, URL, api_of


@pytest.mark.parametrize(
    ("call", "request_line", "keyed", "answer", "parsed"),
    [
        (
            "orders.cleanup",
            "DELETE /api/v1/orders/cleanup?before=2026-11-21T09%3A30%3A00Z",
            False,
            {"deleted_count": 3, "more": 1},
            3,
        ),
        ("sync", "POST /api/v1/sync", True, {"any": [1, {}]}, {"any": [1, {}]}),
        (
            "orders.list",
            "GET /api/v1/orders?status=pending&offset=0&limit=10",
            False,
            {"items": [{"id": 1, "status": "pending"}, {"id": "1"}, {"id": "a/b"}], "total": 9},
            [1, "1", "a/b"],
        ),
        ("orders.process", "POST /api/v1/orders/7/process", True, ["whatever"], None),
        (
            "bookings.upcoming",
            "GET /api/v1/bookings/upcoming"
            "?start=2026-11-21T09%3A30%3A00Z&end=2026-11-21T10%3A30%3A00Z",
            False,
            {"items": [{"id": "b", "reminder_sent": True, "room": 4}]},
            [Booking(id="b", reminder_sent=True)],
        ),
        ("bookings.remind", "POST /api/v1/bookings/7/remind", True, {}, None),
    ],
)
async def test_call_sends_one_request_and_parses_its_answer(
    service: respx.MockRouter,
    client: httpx.AsyncClient,
    call: str,
    request_line: str,
    keyed: bool,
    answer: Any,
    parsed: Any,
) -> None:
    route = service.route().respond(json=answer)
    assert await CALLS[call](api_of(client)) == parsed
    [made] = route.calls
    assert f"{made.request.method} {made.request.url.raw_path.decode()}" == request_line
    assert made.request.content == b""
    assert made.request.headers["Accept"] == "application/json"
    assert made.request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert ("Idempotency-Key" in made.request.headers) is keyed


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_2xx_is_success_of_an_item(
    service: respx.MockRouter, client: httpx.AsyncClient, status: int
) -> None:
    service.route().respond(status, text="not JSON" if status != 204 else "")
    await CALLS["orders.process"](api_of(client))
    await CALLS["bookings.remind"](api_of(client))


async def test_calls_work_over_a_plain_client(service: respx.MockRouter) -> None:
    service.get("/api/v1/orders").respond(json={"items": [{"id": 1}]})
    headers = {"Authorization": "Bearer mine"}
    async with httpx.AsyncClient(base_url=URL, headers=headers) as client:
        assert await api_of(client).pending_orders(offset=0, limit=5) == [1]
    assert service.calls.last.request.headers["Authorization"] == "Bearer mine"


async def test_path_of_the_base_url_is_kept(service: respx.MockRouter) -> None:
    route = service.route().respond(json={})
    for base in (f"{URL}/shop", f"{URL}/shop/"):
        async with open_client(ClientOptions(base_url=base)) as client:
            await api_of(client).process_order(1)
    assert {call.request.url.path for call in route.calls} == {"/shop/api/v1/orders/1/process"}


async def test_time_goes_out_in_utc_whatever_its_zone(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    route = service.route().respond(json={"deleted_count": 0})
    there = BEFORE.astimezone(timezone(timedelta(hours=5, minutes=45)))
    await api_of(client).cleanup_orders(before=there.replace(microsecond=999_999))
    assert route.calls.last.request.url.params["before"] == "2026-11-21T09:30:00Z"


@pytest.mark.parametrize(
    ("item_id", "segment"),
    [
        (7, "7"),
        (0, "0"),
        (-1, "-1"),
        (2**80, str(2**80)),
        ("7", "7"),
        ("a/b", "a%2Fb"),
        ("../x", "..%2Fx"),
        ("ü", "%C3%BC"),
        ("%2F", "%252F"),
        ("%2e%2e", "%252e%252e"),
        ("...", "..."),
        (".hidden", ".hidden"),
        (" ", "%20"),
        ("a b+c", "a%20b%2Bc"),
        ("?d=1&e#f;g", "%3Fd%3D1%26e%23f%3Bg"),
        ("a\r\nX-Evil: 1", "a%0D%0AX-Evil%3A%201"),
        ("\x00", "%00"),
        ("😀", "%F0%9F%98%80"),
        ("x" * 8000, "x" * 8000),
    ],
)
async def test_id_is_one_segment_of_the_path(
    service: respx.MockRouter, client: httpx.AsyncClient, item_id: ItemId, segment: str
) -> None:
    route = service.route().respond(json={})
    await api_of(client).process_order(item_id)
    await api_of(client).remind(item_id)
    assert [call.request.url.raw_path.decode() for call in route.calls] == [
        f"/api/v1/orders/{segment}/process",
        f"/api/v1/bookings/{segment}/remind",
    ]


@pytest.mark.parametrize("item_id", ["", ".", "..", "\ud800", "a\udfffb", "x" * 70_000])
async def test_id_that_no_path_can_carry_is_refused_and_not_sent(
    service: respx.MockRouter, client: httpx.AsyncClient, item_id: str
) -> None:
    route = service.route().respond(json={})
    with pytest.raises(InvalidId, match=r"^orders\.process: ") as refused:
        await api_of(client).process_order(item_id)
    with pytest.raises(InvalidId, match=r"^bookings\.remind: "):
        await api_of(client).remind(item_id)
    assert not refused.value.transient
    assert len(str(refused.value)) < 200
    str(refused.value).encode()
    assert not route.called


async def keys_of(
    service: respx.MockRouter, client: httpx.AsyncClient, *item_ids: ItemId
) -> list[str]:
    service.route().respond(json={})
    before = len(service.calls)
    for item_id in item_ids:
        await api_of(client).process_order(item_id)
        await api_of(client).remind(item_id)
    return [call.request.headers["Idempotency-Key"] for call in service.calls[before:]]


async def test_same_effect_has_the_same_key_in_every_run(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    first = await keys_of(service, client, 7, "a/b")
    assert await keys_of(service, client, 7, "a/b") == first
    # The service that reads the path cannot tell these apart, so they are one effect.
    assert await keys_of(service, client, "7", "a/b") == first


async def test_other_effects_have_other_keys(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    keys = await keys_of(service, client, 7, 8, "07", "a/b", "a%2Fb", "ü", "u", "sync")
    assert len(set(keys)) == len(keys)
    assert all(UUID(key).version == 5 for key in keys)


async def test_key_of_an_effect_is_the_same_in_every_release(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    """Two releases run side by side while one is rolled out, and share their orders."""
    assert await keys_of(service, client, 7) == [
        "a6c2b44e-1b8e-55b9-9f7f-049d58173b31",
        "32fd4de3-b39b-509b-9bd2-03ba2f39ca4d",
    ]


async def test_repeated_call_carries_the_same_key(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    fails_twice: Sequence[httpx.Response | type[Exception]] = [
        httpx.ReadTimeout,
        httpx.Response(503),
        httpx.Response(200, json={}),
    ]
    route = service.route().mock(side_effect=fails_twice)
    await api_of(client).sync(key="one")
    assert [call.request.headers["Idempotency-Key"] for call in route.calls] == ["one"] * 3
