"""What the demo's worker does beside its four tasks: something of each kind to be looked at.

A schedule that fails, one that goes stale now and then, one that somebody has paused; and on demand
quick jobs, of which a few are poison, and long ones that tell how far they are.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from worker.context import RunContext
from worker.tasks.function import task

if TYPE_CHECKING:
    from worker.scheduling.scheduler import Scheduler

__all__ = ["PAUSED", "POISON", "render_report", "send_invoice"]

PAUSED = "send_newsletter"
POISON = 79
"""Every so many orders one has no address."""
GOOD_S, BAD_S = 45, 25
"""How long the warehouse answers, and how long it does not."""


@task(queue="billing", concurrency=2, max_retries=2, retry_delay="1s", retry_jitter=False)
async def send_invoice(order_id: int, email: str = "someone@example.org") -> dict[str, str]:
    """Sends the invoice of an order."""
    await asyncio.sleep(0.3)
    if order_id % POISON == 0:
        raise LookupError(f"order {order_id} has no address to send an invoice to")
    return {"invoice": f"2026-{order_id:06}", "to": email}


@task(queue="reports", concurrency=2, time_limit="2m")
async def render_report(pages: int, context: RunContext) -> dict[str, int]:
    """Renders a long report, page by page."""
    for page in range(pages):
        context.progress(100 * page / pages, message=f"page {page + 1} of {pages}")
        await asyncio.sleep(0.4)
    return {"pages": pages}


async def import_prices() -> None:
    """Imports the supplier's prices, which have not come for a while."""
    raise FileNotFoundError("prices.csv is not there: the supplier has not sent it")


async def count_stock() -> int:
    """Counts what is in the warehouse, whose system is down from time to time."""
    if datetime.now(UTC).timestamp() % (GOOD_S + BAD_S) > GOOD_S:
        raise ConnectionError("the warehouse does not answer")
    return 1


async def send_newsletter() -> None:
    """Sends the newsletter."""


def register(scheduler: Scheduler) -> None:
    scheduler.register_task(import_prices, interval_seconds=6)
    scheduler.register_task(count_stock, interval_seconds=4, max_age=timedelta(seconds=15))
    scheduler.register_task(send_newsletter, interval_seconds=5)
