"""Idempotency: what a key promises, and what it does not."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from worker.demo.api import app_of, create_app
from worker.demo.dice import Dice
from worker.demo.faults import NO_FAULTS
from worker.demo.orders import Kind, NewOrder
from worker.demo.store import Store

from .service import IMPATIENT, Service, wait_until, with_key

UNSAFE = ["/api/v1/sync", "/api/v1/orders/1/process", "/api/v1/bookings/1/remind"]


@pytest.mark.parametrize("path", UNSAFE)
@pytest.mark.parametrize("key", [None, "", "k" * 256])
def test_unsafe_call_without_a_proper_key_is_refused(
    service: Service, path: str, key: str | None
) -> None:
    service.client.post("/demo/seed", json={"orders": 1, "bookings": 1})

    answer = service.client.post(path, headers=with_key(key))

    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["detail"]
    assert service.effects() == []


async def test_lax_service_serves_unsafe_calls_without_a_key() -> None:
    with Store() as store:
        transport = httpx.ASGITransport(create_app(store, require_key=False))
        async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
            assert (await client.post("/api/v1/sync")).status_code == 200
            assert (await client.post("/api/v1/sync")).status_code == 200
            for _ in range(2):
                await client.post("/api/v1/sync", headers=with_key("k"))
        assert [effect["key"] for effect in store.effects()] == [None, None, "k"]


@pytest.mark.parametrize("path", UNSAFE)
def test_repetition_gets_the_first_answer_and_has_no_effect(service: Service, path: str) -> None:
    service.client.post("/demo/seed", json={"orders": 1, "bookings": 1})

    first, second, third = (
        service.client.post(path, headers=with_key("k"), json={"a": 1}) for _ in range(3)
    )

    assert first.status_code == 200
    assert "idempotency-replayed" not in first.headers
    for repetition in (second, third):
        assert repetition.headers["idempotency-replayed"] == "true"
        assert (repetition.status_code, repetition.content) == (200, first.content)
    assert len(service.effects()) == 1
    assert [row["replayed"] for row in service.store.requests()] == [False, True, True]


def test_other_key_is_another_request(service: Service) -> None:
    assert service.sync("a").status_code == service.sync("b").status_code == 200

    assert len(service.effects()) == 2


def test_key_of_another_request_is_refused(service: Service) -> None:
    service.client.post("/demo/seed", json={"orders": 2})
    assert service.process(1, "k").status_code == 200

    other_path = service.process(2, "k")
    other_query = service.client.post("/api/v1/orders/1/process?x=1", headers=with_key("k"))
    other_body = service.client.post("/api/v1/orders/1/process", headers=with_key("k"), json={})

    for answer in (other_path, other_query, other_body):
        assert answer.status_code == 422
        assert "another request" in answer.json()["detail"]
    assert service.effects() == [("order_processed", "1")]
    assert service.process(2, "k2").status_code == 200


class HeldDice(Dice):
    """Keeps every call at work until it is let go."""

    def __init__(self) -> None:
        super().__init__(NO_FAULTS)
        self.at_work = asyncio.Event()
        self.let_go = asyncio.Event()

    async def pause(self, seconds: float) -> None:
        self.at_work.set()
        await self.let_go.wait()


async def test_key_in_flight_is_a_conflict_and_its_answer_is_there_later() -> None:
    dice = HeldDice()
    with Store() as store:
        transport = httpx.ASGITransport(app_of(store, dice, token=None, require_key=True))
        async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:

            async def post(path: str = "/api/v1/sync") -> httpx.Response:
                return await client.post(path, headers=with_key("k"))

            first = asyncio.create_task(post())
            await dice.at_work.wait()
            assert (await post()).status_code == 409
            assert (await post("/api/v1/orders/1/process")).status_code == 422
            assert store.effects() == []
            dice.let_go.set()
            assert (await first).status_code == 200
            assert (await post()).headers["idempotency-replayed"] == "true"
        assert len(store.effects()) == 1


def test_call_that_the_client_gave_up_has_its_effect_all_the_same(service: Service) -> None:
    service.inject("latency_s=0.1", "only_next=1")

    with pytest.raises(httpx.ReadTimeout):
        service.client.post("/api/v1/sync", headers=with_key("k"), timeout=IMPATIENT)
    wait_until(lambda: bool(service.effects()), "the sync was done")

    assert service.sync().headers["idempotency-replayed"] == "true"
    assert service.effects() == [("sync", None)]


@pytest.mark.parametrize("loss", ["reset_next=1", "truncate=true", "reset_in_body=true"])
def test_repetition_after_a_lost_answer_has_no_second_effect(service: Service, loss: str) -> None:
    service.store.orders.add([NewOrder(id=1)])
    service.inject(loss, "only_next=1")

    with pytest.raises(httpx.TransportError):
        service.process(1)
    assert service.effects() == [("order_processed", "1")]
    answer = service.process(1)

    assert answer.json() == {"id": 1, "status": "done"}
    assert answer.headers["idempotency-replayed"] == "true"
    assert service.effects() == [("order_processed", "1")]


@pytest.mark.parametrize("loss", ["reset_next=1", "truncate=true", "malformed=true"])
def test_answer_can_be_lost_before_the_effect(service: Service, loss: str) -> None:
    service.store.orders.add([NewOrder(id=1)])
    service.inject(loss, "only_next=1", "after_effect=false")

    with contextlib.suppress(httpx.TransportError):
        service.process(1)
    assert service.effects() == []
    answer = service.process(1)

    assert "idempotency-replayed" not in answer.headers
    assert service.effects() == [("order_processed", "1")]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_passing_trouble_is_not_kept(service: Service, status: int) -> None:
    service.inject("fail_next=1", f"error_status={status}")

    assert service.sync().status_code == status
    assert service.effects() == []
    assert service.sync().status_code == 200
    assert service.effects() == [("sync", None)]


@pytest.mark.parametrize(
    ("refusal", "kept"), [(400, True), (422, True), (409, False), (429, False), (500, False)]
)
def test_only_a_definite_refusal_is_kept(service: Service, refusal: int, kept: bool) -> None:
    service.store.orders.add([NewOrder(id=1, kind=Kind.POISON, refusal=refusal)])

    answers = [service.process(1) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [refusal, refusal]
    assert ("idempotency-replayed" in answers[1].headers) is kept
