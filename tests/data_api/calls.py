"""The calls of the contract, each by its name, and what a test needs to make one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.support.clock import FakeClock
from worker.context import RunContext
from worker.data_api import DataApi
from worker.retry import RetryPolicy

URL = "http://data-api.test"
TOKEN = "s3cret-token"
BEFORE = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
AT_ONCE = RetryPolicy(attempts=3, base=timedelta(0))

Call = Callable[[DataApi], Awaitable[Any]]

CALLS: dict[str, Call] = {
    "orders.cleanup": lambda api: api.cleanup_orders(before=BEFORE),
    "sync": lambda api: api.sync(key="k"),
    "orders.list": lambda api: api.pending_orders(offset=0, limit=10),
    "orders.process": lambda api: api.process_order(7),
    "bookings.upcoming": lambda api: api.upcoming_bookings(
        start=BEFORE, end=BEFORE + timedelta(hours=1)
    ),
    "bookings.remind": lambda api: api.remind(7),
}


def api_of(
    client: httpx.AsyncClient, *, clock: FakeClock | None = None, retry: RetryPolicy = AT_ONCE
) -> DataApi:
    """The calls on behalf of a run whose clock does not wait."""
    return DataApi(client, RunContext(task="t", clock=clock or FakeClock(), retry=retry))
