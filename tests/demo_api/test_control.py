"""The side that tests and newcomers use."""

from __future__ import annotations

import pytest

from worker.demo.faults import Faults

from .service import Service, with_key


def test_seed_answers_the_ids(service: Service) -> None:
    spec = {"orders": 10, "poison": 1, "lingering": 2, "old_orders": 3, "bookings": 4}

    answer = service.client.post("/demo/seed", json=spec)

    assert answer.status_code == 201
    ids = answer.json()
    assert ids["orders"] == service.pending() == list(range(1, 11))
    assert len(ids["poison"]) == 1
    assert len(ids["lingering"]) == 2
    assert ids["old_orders"] == [11, 12, 13]
    assert ids["bookings"] == [1, 2, 3, 4]
    assert ids["to_remind"] == [1, 2, 3]


def test_seed_with_text_ids_has_ids_that_need_encoding(service: Service) -> None:
    ids = service.client.post("/demo/seed", json={"orders": 16, "string_ids": True}).json()

    assert service.pending() == ids["orders"]
    assert any("/" in order_id for order_id in ids["orders"])
    for order_id in ids["orders"]:
        assert service.process(order_id, f"k{ids['orders'].index(order_id)}").status_code == 200
    assert service.pending() == []


def test_orders_and_bookings_are_added_as_given(service: Service) -> None:
    orders = [{"id": 7}, {"id": "x/y", "kind": "poison"}, {"id": 8, "status": "done"}]
    bookings = [{"id": "b", "starts_in_s": 60, "reminder_sent": True}]

    answer = service.client.post("/demo/orders", json=orders)
    assert (answer.status_code, answer.json()) == (201, {"added": 3})
    assert service.client.post("/demo/bookings", json=bookings).status_code == 201

    assert service.pending() == [7, "x/y"]
    assert service.store.bookings.count() == 1


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("/demo/seed", '{"oders": 1}', "oders"),
        ("/demo/seed", '{"orders": -1}', "orders"),
        ("/demo/seed", '{"orders": 1, "poison": 2}', "cannot be more"),
        ("/demo/seed", "nonsense", "Invalid JSON"),
        ("/demo/orders", '{"id": 1}', "valid array"),
        ("/demo/orders", '[{"id": 1, "kind": "bad"}]', "0.kind"),
        ("/demo/bookings", '[{"id": null}]', "0.id"),
    ],
)
def test_what_does_not_fit_is_refused(
    service: Service, path: str, content: str, message: str
) -> None:
    answer = service.client.post(path, content=content)

    assert answer.status_code == 400
    assert message in answer.json()["detail"]
    assert service.store.is_new()


def test_id_that_is_taken_is_refused_and_nothing_is_added(service: Service) -> None:
    service.client.post("/demo/orders", json=[{"id": 1}])

    answer = service.client.post("/demo/orders", json=[{"id": 2}, {"id": "1"}])

    assert answer.status_code == 409
    assert service.pending() == [1]


def test_faults_are_replaced_as_a_whole(service: Service) -> None:
    put = service.client.put
    assert put("/demo/faults", json={"latency_s": 0.01}).json()["latency_s"] == 0.01

    answer = put("/demo/faults", json={"fail_next": 2, "retry_after": 5})

    assert answer.json() == {**Faults().model_dump(), "fail_next": 2, "retry_after": "5"}
    service.sync()
    assert service.client.get("/demo/faults").json()["fail_next"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"hung": true}', "there are: hang"), ('{"error_rate": 7}', "error_rate"), ("[]", "object")],
)
def test_bad_faults_are_refused_and_the_old_ones_stay(
    service: Service, content: str, message: str
) -> None:
    service.inject("slow_body=1")

    answer = service.client.put("/demo/faults", content=content)

    assert answer.status_code == 400
    assert message in answer.json()["detail"]
    assert service.server.faults.slow_body == 1


def test_effects_and_requests_tell_what_happened(service: Service) -> None:
    service.client.post("/demo/orders", json=[{"id": "a/b"}])
    service.process("a/b", "k")
    service.inject("fail_next=1")
    service.process("a/b", "k")

    (effect,) = service.client.get("/demo/effects").json()["items"]
    first, second = service.client.get("/demo/requests").json()["items"]

    assert effect.pop("at").endswith("Z")
    assert effect == {"kind": "order_processed", "subject": "a/b", "key": "k", "count": 1}
    assert first.pop("at") <= second.pop("at")
    assert first == {
        "method": "POST",
        "route": "/api/v1/orders/{id}/process",
        "subject": "a/b",
        "key": "k",
        "status": 200,
        "fault": None,
        "replayed": False,
    }
    assert second == {**first, "status": 503, "fault": "error"}


def test_summary_counts(service: Service) -> None:
    service.client.post("/demo/seed", json={"orders": 3, "bookings": 2, "old_orders": 1})
    service.process(1, "a")
    service.process(1, "a")
    service.sync("b")
    service.sync("c")
    for key in ("d", "e"):
        service.client.post("/api/v1/bookings/1/remind", headers=with_key(key))
    service.client.delete("/api/v1/orders/cleanup", params={"before": "2026-01-01T00:00:00Z"})
    service.process("nobody", "f")

    assert service.client.get("/demo/summary").json() == {
        "orders": {"pending": 2, "processing": 0, "done": 1, "failed": 0},
        "bookings": 2,
        "processed": 1,
        "invoices": 0,
        "reminders": 2,
        "syncs": 2,
        "cleanups": 1,
        "repeated_effects": 1,
        "requests": 8,
        "requests_by_status": {"200": 7, "404": 1},
    }


def test_reset_forgets_everything(service: Service) -> None:
    service.client.post("/demo/seed", json={"orders": 3, "bookings": 2})
    service.process(1, "k")
    service.inject("hang=true")

    assert service.client.post("/demo/reset").status_code == 200

    assert service.store.is_new()
    assert service.store.effects() == service.store.requests() == []
    assert service.server.faults == Faults()
    assert service.client.post("/demo/seed", json={"orders": 1}).json()["orders"] == [1]
    assert "idempotency-replayed" not in service.process(1, "k").headers


def test_index_says_where_to_look(service: Service) -> None:
    index = service.client.get("/").json()

    for path in (index["contract"], *index["look"]):
        assert service.client.get(path).status_code == 200
