"""Reminds of bookings that start soon."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worker.data_api import DataApi, ItemId
from worker.tasks.base import BaseTask
from worker.tasks.fan_out import FanOut
from worker.tasks.item_report import ItemReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

__all__ = ["SendRemindersTask"]


class SendRemindersTask(BaseTask):
    """Remind of each booking in the window that was not reminded of.

    The result is ``{"sent": int, "failed": int, "total": int}``, ``total`` being all bookings in
    the window. A booking's idempotency key is the same in every run, so that a reminder whose
    answer was lost is not sent twice. A run that sent none although some were due is a failed run.
    """

    name = "send_reminders"

    def __init__(
        self,
        http_client: httpx.AsyncClient,
        *,
        window: timedelta = timedelta(hours=1),
        concurrency: int = 8,
    ) -> None:
        super().__init__(http_client)
        self.window = window
        self._concurrency = concurrency

    async def execute(self) -> dict[str, Any]:
        fan_out: FanOut[ItemId] = FanOut(concurrency=self._concurrency, clock=self.context.clock)
        api = DataApi(self.http_client, self.context, sleep=fan_out.pause)
        report = ItemReport(
            self.logger, event="reminder.failed", id_key="booking_id", redact=self.context.redact
        )
        start = self.context.clock.now()
        bookings = await api.upcoming_bookings(start=start, end=start + self.window)
        due = {str(booking.id): booking.id for booking in bookings if not booking.reminder_sent}

        async def remind(booking_id: ItemId) -> None:
            async with report.item(booking_id):
                await api.remind(booking_id)

        await fan_out.run(one_batch(list(due.values())), remind)
        result = {"sent": report.succeeded, "failed": report.failed, "total": len(bookings)}
        report.raise_if_nothing_succeeded("reminders", result)
        return result


async def one_batch(items: list[ItemId]) -> AsyncIterator[list[ItemId]]:
    yield items
