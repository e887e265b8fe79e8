"""What people would do while the demo runs: they ask for jobs, and one has paused a schedule."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from worker.admin.schedules import ScheduleAdmin
from worker.demo.tasks import PAUSED, POISON, render_report, send_invoice
from worker.errors import StoreUnavailable

if TYPE_CHECKING:
    from worker.app import Worker

__all__ = ["ask_for_jobs", "pause_one"]

BURST = 110
BURST_EVERY_S = 24.0
REPORTS_EVERY_S = 8.0
SOON_S = 0.2
NOTE = "the mail provider is down until noon, says their status page"


async def pause_one(worker: Worker) -> None:
    """Pause a schedule, as a person would, as soon as the ledger is open."""
    tasks = worker.scheduler.tasks
    while True:
        with suppress(StoreUnavailable):
            await worker.ledger.look(
                lambda store: ScheduleAdmin(tasks, store, by="eva@demo").pause(PAUSED, NOTE)
            )
            return
        await asyncio.sleep(SOON_S)


async def ask_for_jobs(worker: Worker) -> None:
    """Ask for many invoices at once, so that a backlog rises and falls; and for reports."""
    orders = count(POISON - 5)  # so that the first poison is soon there
    await asyncio.sleep(SOON_S)
    for turn in count():
        if turn % (BURST_EVERY_S // REPORTS_EVERY_S) == 0:
            burst = [{"order_id": next(orders)} for _ in range(BURST)]
            await worker.client.enqueue_many(send_invoice, burst)
        await worker.client.enqueue(render_report, {"pages": 18 + turn % 5 * 7})
        await asyncio.sleep(REPORTS_EVERY_S)
