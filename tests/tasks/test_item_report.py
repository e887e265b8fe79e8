"""What became of the items: counted, and told without a flood."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from worker.errors import DataApiError, TaskFailed
from worker.tasks.item_report import ItemReport


def report() -> ItemReport:
    return ItemReport(structlog.get_logger(), event="order.failed", id_key="order_id")


async def record(items: ItemReport, *outcomes: Exception | None) -> None:
    for number, failure in enumerate(outcomes):
        async with items.item(number):
            if failure is not None:
                raise failure


async def test_items_are_counted() -> None:
    items = report()
    await record(items, None, ValueError("a"), None, ValueError("b"))
    assert (items.succeeded, items.failed, items.failed_ids) == (2, 2, [1, 3])
    assert str(items.last_failure) == "b"


async def test_cancellation_is_no_failure_of_an_item() -> None:
    items = report()
    with pytest.raises(asyncio.CancelledError):
        async with items.item(1):
            raise asyncio.CancelledError
    assert (items.succeeded, items.failed) == (0, 0)


async def test_first_failures_are_told_and_that_there_are_more() -> None:
    with capture_logs() as logs:
        items = report()
        await record(items, *(DataApiError("orders.process", "no") for _ in range(500)))
    assert [entry["event"] for entry in logs] == ["order.failed"] * 10 + ["failures.not_logged"]
    assert logs[0]["order_id"] == 0
    assert logs[0]["error"] == "orders.process: no"
    assert items.failed == 500
    assert items.failed_ids == list(range(100))


async def test_only_a_surprise_is_told_with_its_traceback() -> None:
    with capture_logs() as logs:
        await record(report(), DataApiError("orders.process", "no"), KeyError("a defect"))
    assert logs[0]["exc_info"] is None
    assert isinstance(logs[1]["exc_info"], KeyError)


async def test_run_fails_only_if_nothing_succeeded_and_something_failed() -> None:
    nothing, some, none = report(), report(), report()
    await record(some, None, ValueError("a"))
    await record(none, ValueError("a"), ValueError("b"))
    nothing.raise_if_nothing_succeeded("orders", {})
    some.raise_if_nothing_succeeded("orders", {})
    with pytest.raises(TaskFailed, match=r"^none of 2 orders went through; the last failure: b$"):
        none.raise_if_nothing_succeeded("orders", {})
