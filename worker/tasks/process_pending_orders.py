"""Processes every order that is pending, each exactly once a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.data_api import DataApi, ItemId
from worker.errors import DataApiError, MalformedAnswer
from worker.tasks.base import BaseTask
from worker.tasks.fan_out import FanOut
from worker.tasks.item_report import ItemReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

__all__ = ["ProcessPendingOrdersTask"]


class ProcessPendingOrdersTask(BaseTask):
    """Process the pending orders; the result counts them and names those that failed.

    The result is ``{"processed": int, "failed": int, "failed_ids": [up to 100 ids]}``. A run that
    processed none although there were some is a failed run.
    """

    name = "process_pending_orders"

    def __init__(
        self, http_client: httpx.AsyncClient, *, batch_size: int = 100, concurrency: int = 32
    ) -> None:
        """
        Args:
            batch_size: Orders a page, 2 or more.
            concurrency: How many orders are processed at the same time.
        """
        super().__init__(http_client)
        if batch_size < 2:
            raise ValueError(f"batch_size must be 2 or more, got {batch_size}")
        self.batch_size = batch_size
        self._concurrency = concurrency

    async def execute(self) -> dict[str, Any]:
        fan_out: FanOut[ItemId] = FanOut(concurrency=self._concurrency, clock=self.context.clock)
        listing = DataApi(self.http_client, self.context)
        processing = DataApi(self.http_client, self.context, sleep=fan_out.pause)
        report = ItemReport(
            self.logger, event="order.failed", id_key="order_id", redact=self.context.redact
        )

        async def process(order_id: ItemId) -> None:
            async with report.item(order_id):
                await processing.process_order(order_id)

        def result() -> dict[str, Any]:
            return {
                "processed": report.succeeded,
                "failed": report.failed,
                "failed_ids": report.failed_ids,
            }

        try:
            await fan_out.run(pending_orders(listing, self.batch_size), process)
        except DataApiError as exc:  # of the list; what it had told by then was processed
            exc.result = result() if report.succeeded or report.failed else None
            raise
        report.raise_if_nothing_succeeded("orders", result())
        return result()


async def pending_orders(api: DataApi, limit: int) -> AsyncIterator[list[ItemId]]:
    """Every order that is pending now, once, although the list changes while it is read.

    Orders leave the list as they are processed, so a page that begins where the last one ended
    may begin too far down. Therefore pages overlap by half, and one is believed only if it begins
    with an order that is known: the list's order is stable, so then nothing lies between. If it
    begins with another, the reader goes back up. What is known thus is always a prefix of the
    list, and the first page that ends the list ends the reading. It is read as fast as the
    service answers, for orders that arrive later are the next run's.

    Yields:
        The ids that are new on a page; together, each once.

    Raises:
        MalformedAnswer: The list goes on for ever, or in circles, without anything new.
    """
    seen: set[str] = set()
    offset = 0
    retreats = 0  # since something new was found: orders left, but only so many are there to leave
    while True:
        page = await api.pending_orders(offset=offset, limit=limit)
        if offset == 0 and 0 < len(page) < limit:
            limit = await page_size(api, page, limit)
        if offset > 0 and (not page or str(page[0]) not in seen):
            offset = max(0, offset - limit // 2)
            retreats += 1
            if retreats > 2 * len(seen) + limit:
                raise MalformedAnswer(
                    "orders.list",
                    f"nothing follows behind {len(seen)} orders; is offset right?",
                )
            continue
        fresh = {str(order_id): order_id for order_id in page if str(order_id) not in seen}
        seen.update(fresh)
        if fresh:
            retreats = 0
            yield list(fresh.values())
        if len(page) < limit:
            return
        offset += limit - limit // 2
        if offset > 2 * len(seen) + limit:
            raise MalformedAnswer(
                "orders.list", f"offset={offset} still lists known orders; is offset ignored?"
            )


async def page_size(api: DataApi, page: list[ItemId], limit: int) -> int:
    """The most orders the service lists at once: a short page need not be the list's last.

    It is the last one if only its own end follows, or if the same list comes again: then the
    service has no pages, and this is all.
    """
    behind = await api.pending_orders(offset=len(page) - 1, limit=limit)
    if behind == page[-1:] or behind[:1] == page[:1]:
        return limit
    return max(2, len(page))
