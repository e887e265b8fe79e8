"""Each line of the contract, as a client sees it."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from worker.demo.api import create_app
from worker.demo.orders import Kind, NewOrder, Status
from worker.demo.seed import SeedSpec
from worker.demo.store import Store

from .service import Service, with_key


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def add(service: Service, *orders: NewOrder) -> None:
    service.store.orders.add(orders)


def test_listing_is_in_order_of_insertion_and_paged(service: Service) -> None:
    add(service, *(NewOrder(id=number) for number in (5, 3, 9, 1)))

    assert service.pending() == [5, 3, 9, 1]
    assert service.pending(offset=1, limit=2) == [3, 9]
    assert service.pending(offset=9) == []


def test_listing_shows_only_the_asked_status(service: Service) -> None:
    add(service, *(NewOrder(id=status.value, status=status) for status in Status))

    for status in Status:
        answer = service.client.get("/api/v1/orders", params={"status": status.value})
        assert [item["id"] for item in answer.json()["items"]] == [status.value]


def test_processed_order_leaves_the_listing(service: Service) -> None:
    add(service, NewOrder(id=1), NewOrder(id=2))

    answer = service.process(1)

    assert (answer.status_code, answer.json()) == (200, {"id": 1, "status": "done"})
    assert service.pending() == [2]
    assert service.effects() == [("order_processed", "1")]


def test_lingering_order_is_accepted_and_stays_listed(service: Service) -> None:
    add(service, NewOrder(id=1, kind=Kind.LINGERING))

    answer = service.process(1)

    assert (answer.status_code, answer.json()) == (202, {"id": 1, "status": "accepted"})
    assert service.pending() == [1]
    assert service.effects() == [("order_processed", "1")]


def test_lingering_order_is_processed_again_under_another_key(service: Service) -> None:
    """Nothing but the key protects it, which is what makes a worker's keys worth testing."""
    add(service, NewOrder(id=1, kind=Kind.LINGERING))

    service.process(1, "first run")
    service.process(1, "second run")

    assert service.store.summary()["repeated_effects"] == 1


async def test_lingering_order_leaves_when_its_time_has_come() -> None:
    clock = Clock()
    with Store(now=clock) as store:
        store.orders.add([NewOrder(id=1, kind=Kind.LINGERING, linger_s=60)])
        transport = httpx.ASGITransport(create_app(store))
        async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
            await client.post("/api/v1/orders/1/process", headers=with_key("k"))
            clock.now += timedelta(seconds=59)
            assert len(store.orders.listing(Status.PENDING, offset=0, limit=9)) == 1
            clock.now += timedelta(seconds=1)
            answer = await client.get("/api/v1/orders", params={"status": "pending"})
            assert answer.json() == {"items": []}
        assert store.orders.count()["done"] == 1


def test_poison_order_is_refused_each_time_and_stays_listed(service: Service) -> None:
    add(service, NewOrder(id=1, kind=Kind.POISON), NewOrder(id=2, kind=Kind.POISON, refusal=400))

    assert [service.process(1, key).status_code for key in "ab"] == [422, 422]
    assert service.process(2, "c").status_code == 400
    assert service.pending() == [1, 2]
    assert service.effects() == []


@pytest.mark.parametrize(
    ("status", "answer"), [("processing", 409), ("done", 410), ("failed", 410)]
)
def test_order_that_is_not_pending_is_not_processed(
    service: Service, status: str, answer: int
) -> None:
    add(service, NewOrder(id=1, status=Status(status)))

    assert service.process(1).status_code == answer
    assert service.effects() == []


def test_unknown_order_is_not_found(service: Service) -> None:
    answer = service.process("nobody")

    assert (answer.status_code, answer.json()) == (404, {"detail": "there is no order 'nobody'"})


@pytest.mark.parametrize(
    "order_id",
    ["a/b", "a%2Fb", "a b", "a+b", "é", "a?b=c#d", "a;b", "/", "%", "...", "a/process", "cleanup"],
)
def test_text_id_arrives_as_one_path_segment(service: Service, order_id: str) -> None:
    add(service, NewOrder(id=order_id))

    assert service.pending() == [order_id]
    assert service.process(order_id).json()["id"] == order_id
    assert service.effects() == [("order_processed", order_id)]


def test_invoice_is_sent_once_a_key_wherever_the_order_stands(service: Service) -> None:
    add(service, NewOrder(id=7), NewOrder(id="x", status=Status.DONE))
    for order, key in (("7", "a"), ("7", "a"), ("x", "b")):
        answer = service.client.post(f"/api/v1/orders/{order}/invoice", headers=with_key(key))
        assert (answer.status_code, answer.json()["number"]) == (200, f"INV-{order}")

    assert service.effects() == [("invoice_sent", "7"), ("invoice_sent", "x")]
    assert service.client.post("/api/v1/orders/7/invoice").status_code == 400, "it has no key"
    answer = service.client.post("/api/v1/orders/8/invoice", headers=with_key("c"))
    assert answer.status_code == 404


def test_cleanup_deletes_what_is_finished_and_old(service: Service) -> None:
    old, new = datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    for status in Status:
        add(service, NewOrder(id=f"old {status}", status=status, created_at=old))
        add(service, NewOrder(id=f"new {status}", status=status, created_at=new))

    def cleanup() -> object:
        before = {"before": "2023-06-01T02:00:00+02:00"}
        return service.client.delete("/api/v1/orders/cleanup", params=before).json()

    assert cleanup() == {"deleted_count": 2}
    assert cleanup() == {"deleted_count": 0}
    assert service.store.orders.count() == {"pending": 2, "processing": 2, "done": 1, "failed": 1}
    assert [effect["count"] for effect in service.store.effects()] == [2, 0]


def test_order_created_at_the_very_moment_is_not_before_it(service: Service) -> None:
    moment = datetime(2023, 1, 1, tzinfo=UTC)
    add(service, NewOrder(id=1, status=Status.DONE, created_at=moment))

    def cleanup(before: str) -> object:
        answer = service.client.delete("/api/v1/orders/cleanup", params={"before": before})
        return answer.json()["deleted_count"]

    assert cleanup("2023-01-01T00:00:00Z") == 0
    assert cleanup("2023-01-01T00:00:00.000001Z") == 1


def test_sync_answers_statistics(service: Service) -> None:
    service.store.seed(SeedSpec(orders=3))

    answer = service.sync()

    assert answer.status_code == 200
    assert answer.json()["synced"] == 3
    assert service.effects() == [("sync", None)]


def test_bookings_are_listed_from_start_to_before_end(service: Service) -> None:
    service.store.seed(SeedSpec(bookings=4))
    start = datetime.now(UTC)

    def upcoming(end: datetime) -> list[tuple[object, object]]:
        window = {"start": start.isoformat(), "end": end.isoformat()}
        items = service.client.get("/api/v1/bookings/upcoming", params=window).json()["items"]
        return [(item["id"], item["reminder_sent"]) for item in items]

    assert upcoming(start + timedelta(hours=1)) == [(1, False), (2, False), (3, False), (4, True)]
    assert upcoming(start + timedelta(minutes=30)) == [(1, False), (2, False)]
    assert upcoming(start) == []


def test_reminder_is_sent_and_shown(service: Service) -> None:
    service.store.seed(SeedSpec(bookings=1))

    answer = service.client.post("/api/v1/bookings/1/remind", headers=with_key("k"))

    assert (answer.status_code, answer.json()) == (200, {"id": 1, "reminder_sent": True})
    assert service.effects() == [("reminder_sent", "1")]
    window = {"start": "2000-01-01T00:00:00Z", "end": "2999-01-01T00:00:00Z"}
    listing = service.client.get("/api/v1/bookings/upcoming", params=window)
    assert listing.json()["items"][0]["reminder_sent"] is True


def test_reminder_of_no_booking_is_not_found(service: Service) -> None:
    answer = service.client.post("/api/v1/bookings/1/remind", headers=with_key("k"))

    assert answer.status_code == 404
    assert service.effects() == []


NOT_A_TIME = ["", "2026-11-21T09:30:00", "2026-11-21", "now", "2026-13-01T00:00:00Z"]
NOT_A_TIME += ["2026-11-21T09:30:00 01:00", "0001-01-01T00:00:00+01:00", "1795253400", "٢-Z"]


@pytest.mark.parametrize("text", NOT_A_TIME)
def test_time_without_an_offset_is_refused(service: Service, text: str) -> None:
    cleanup = service.client.delete("/api/v1/orders/cleanup", params={"before": text})
    window = {"start": "2026-11-21T09:30:00Z", "end": text}
    upcoming = service.client.get("/api/v1/bookings/upcoming", params=window)

    for name, answer in (("before", cleanup), ("end", upcoming)):
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(f"{name}: expected an RFC 3339 time")
    assert service.effects() == []


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({}, "status"),
        ({"status": "lost"}, "status"),
        ({"status": "pending", "offset": "-1"}, "offset"),
        ({"status": "pending", "offset": "x"}, "offset"),
        ({"status": "pending", "offset": "9" * 30}, "offset"),
        ({"status": "pending", "limit": "0"}, "limit"),
        ({"status": "pending", "limit": "1001"}, "limit"),
        ({"status": "pending", "limit": "1.5"}, "limit"),
        ({"status": "pending", "limit": "٣"}, "limit"),
    ],
)
def test_bad_parameter_is_refused(service: Service, params: dict[str, str], name: str) -> None:
    answer = service.client.get("/api/v1/orders", params=params)

    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"{name}: expected")


def test_window_that_ends_before_it_starts_is_refused(service: Service) -> None:
    window = {"start": "2026-11-21T09:30:00Z", "end": "2026-11-21T09:29:59Z"}

    answer = service.client.get("/api/v1/bookings/upcoming", params=window)

    assert answer.status_code == 400


@pytest.mark.parametrize("given", [None, "Bearer wrong", "secret", "bearer  secret", "Bearer é"])
async def test_call_without_the_token_is_refused(given: str | None) -> None:
    with Store() as store:
        transport = httpx.ASGITransport(create_app(store, token="secret"))
        async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
            headers = {} if given is None else {b"authorization": given.encode()}
            for method, path in (("GET", "/api/v1/orders"), ("POST", "/api/v1/sync")):
                answer = await client.request(method, path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        assert store.effects() == []
        assert store.summary()["requests_by_status"] == {"401": 2}


async def test_token_opens_the_contract_and_the_control_side_needs_none() -> None:
    with Store() as store:
        transport = httpx.ASGITransport(create_app(store, token="secret"))
        async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
            headers = {"Authorization": "Bearer secret", "Idempotency-Key": "k"}
            assert (await client.post("/api/v1/sync", headers=headers)).status_code == 200
            assert (await client.get("/demo/summary")).json()["syncs"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/orders/", 404),
        ("POST", "/api/v1/orders//process", 404),
        ("POST", "/api/v1/orders/a/b/process", 404),
        ("PUT", "/api/v1/sync", 405),
    ],
)
def test_call_that_is_not_of_the_contract_is_refused_and_written_down(
    service: Service, method: str, path: str, status: int
) -> None:
    answer = service.client.request(method, path)

    assert answer.status_code == status
    assert "detail" in answer.json()
    assert service.requests() == [(path, status, None)]


async def test_call_whose_client_left_before_it_was_complete_has_no_effect() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(f"nobody is there to be sent {message}")

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/sync",
        "raw_path": b"/api/v1/sync",
        "query_string": b"",
        "headers": [(b"idempotency-key", b"k")],
    }
    with Store() as store:
        await create_app(store)(scope, receive, send)
        assert store.effects() == []
        assert store.summary()["requests_by_status"] == {"none": 1}


@given(
    counts=st.tuples(*[st.integers(0, 60)] * 3),
    string_ids=st.booleans(),
)
def test_seed_has_what_was_asked_for_spread_evenly(
    counts: tuple[int, int, int], string_ids: bool
) -> None:
    _, poison, lingering = counts
    total = sum(counts)
    spec = SeedSpec(orders=total, poison=poison, lingering=lingering, string_ids=string_ids)

    orders = list(spec.new_orders(1, datetime.now(UTC)))

    kinds = [order.kind for order in orders]
    assert len({str(order.id) for order in orders}) == total
    assert (kinds.count(Kind.POISON), kinds.count(Kind.LINGERING)) == (poison, lingering)
    special = [kind is not Kind.NORMAL for kind in kinds]
    half = sum(special[: total // 2])
    assert abs(half - (poison + lingering) / 2) <= 1


def test_seed_with_more_special_orders_than_orders_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be more"):
        SeedSpec(orders=1, poison=1, lingering=1)


def test_ids_do_not_come_back_after_a_cleanup(service: Service) -> None:
    """A worker's key for an order is the same for ever: so must be what the id stands for."""
    first = service.store.seed(SeedSpec(old_orders=2))
    service.client.delete("/api/v1/orders/cleanup", params={"before": "2999-01-01T00:00:00Z"})
    second = service.store.seed(SeedSpec(orders=2))

    assert (first["old_orders"], second["orders"]) == ([1, 2], [3, 4])


def test_failed_transaction_leaves_nothing(service: Service) -> None:
    orders = [NewOrder(id=1), NewOrder(id=2), NewOrder(id="1")]

    with pytest.raises(sqlite3.IntegrityError):
        service.store.orders.add(orders)

    assert service.pending() == []
