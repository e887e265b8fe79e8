"""A list of orders in memory that changes, and lies, as a test tells it to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

import httpx

from tests.support.clock import FakeClock
from worker.clock import Clock
from worker.context import RunContext
from worker.data_api import ItemId
from worker.retry import RetryPolicy

URL = "http://data-api.test"
FOR_EVER = 10**9


@dataclass
class OrderService:
    """The two calls about orders.

    Attributes:
        listed: The pending orders, in the stable order of the list.
        stays: For how many more reads an order is listed once it was processed; 0 unless given.
        poison: The orders that are refused.
        cap: The most orders on a page, whatever is asked for.
        page_of: Overrides which orders a read gets, given offset and limit.
        before_read: Called with the number of the read, from 0, before each one.
        before_process: Awaited before an order is processed.
    """

    listed: list[ItemId]
    stays: dict[ItemId, int] = field(default_factory=dict)
    poison: set[ItemId] = field(default_factory=set)
    cap: int = FOR_EVER
    page_of: Callable[[int, int], list[ItemId]] | None = None
    before_read: Callable[[int], object] = lambda _: None
    before_process: Callable[[str], object] = lambda _: None
    fail_read: dict[int, int] = field(default_factory=dict)
    most_reads: int = 2000
    reads: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    leaving: dict[ItemId, int] = field(default_factory=dict)

    async def handle(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            params = request.url.params
            return self._read(int(params["offset"]), int(params["limit"]))
        segment = request.url.raw_path.decode().split("/")[4]
        return await self._process(unquote(segment))

    def remove(self, order_id: ItemId) -> None:
        if order_id in self.listed:
            self.listed.remove(order_id)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.handle), base_url=URL)

    def _read(self, offset: int, limit: int) -> httpx.Response:
        number, self.reads = self.reads, self.reads + 1
        assert number < self.most_reads, "the reader goes round in circles"
        self.before_read(number)
        if number in self.fail_read:
            return httpx.Response(self.fail_read[number])
        for order_id, left in list(self.leaving.items()):
            self.leaving[order_id] = left - 1
            if left == 0:
                del self.leaving[order_id]
                self.remove(order_id)
        if self.page_of is not None:
            page = self.page_of(offset, limit)
        else:
            page = self.listed[offset : offset + min(limit, self.cap)]
        return httpx.Response(200, json={"items": [{"id": order_id} for order_id in page]})

    async def _process(self, text: str) -> httpx.Response:
        self.attempts[text] += 1
        waited = self.before_process(text)
        if asyncio.iscoroutine(waited):
            await waited
        order_id = next((known for known in self.listed if str(known) == text), text)
        if order_id in self.poison:
            return httpx.Response(422)
        stays = self.stays.get(order_id, 0)
        if stays:
            self.leaving.setdefault(order_id, stays)
        else:
            self.remove(order_id)
        return httpx.Response(200)


@contextmanager
def running(*, clock: Clock | None = None, attempts: int = 1) -> Iterator[RunContext]:
    """Inside, a task does a run whose clock does not wait."""
    run = RunContext(task="test", clock=clock or FakeClock(), retry=RetryPolicy(attempts=attempts))
    with run.entered():
        yield run
