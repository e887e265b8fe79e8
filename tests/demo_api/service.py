"""What the tests of the demo API hold in their hands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import httpx

from worker.demo.faults import Faults
from worker.demo.server import DemoServer
from worker.demo.store import Store

# For a client that gives up: it takes its time to connect, and none to wait for the answer.
IMPATIENT = httpx.Timeout(5, read=0.05)


@dataclass(frozen=True)
class Service:
    """A running service, a client of it, and a look behind it."""

    server: DemoServer
    store: Store
    client: httpx.Client

    def inject(self, *faults: str) -> None:
        self.server.inject(Faults.parse(faults))

    def process(self, order_id: object, key: str | None = "k") -> httpx.Response:
        return self.client.post(
            f"/api/v1/orders/{quote(str(order_id), safe='')}/process", headers=with_key(key)
        )

    def sync(self, key: str | None = "k") -> httpx.Response:
        return self.client.post("/api/v1/sync", headers=with_key(key))

    def pending(self, **params: int) -> list[object]:
        answer = self.client.get("/api/v1/orders", params={"status": "pending", **params})
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    def effects(self) -> list[tuple[object, object]]:
        return [(effect["kind"], effect["subject"]) for effect in self.store.effects()]

    def requests(self) -> list[tuple[object, object, object]]:
        return [(row["route"], row["status"], row["fault"]) for row in self.store.requests()]


def with_key(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}


def wait_until(predicate: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + 10
    while not predicate():
        assert time.monotonic() < deadline, f"waited in vain until {why}"
        time.sleep(0.002)
