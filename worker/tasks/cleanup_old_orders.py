"""Deletes orders that are older than a given age."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from worker.data_api import DataApi
from worker.tasks.base import BaseTask

if TYPE_CHECKING:
    import httpx

__all__ = ["CleanupOldOrdersTask"]


class CleanupOldOrdersTask(BaseTask):
    """Delete old orders; the result is how many were deleted."""

    name = "cleanup_old_orders"

    def __init__(
        self, http_client: httpx.AsyncClient, *, max_age: timedelta = timedelta(days=30)
    ) -> None:
        super().__init__(http_client)
        self.max_age = max_age

    async def execute(self) -> int:
        before = self.context.clock.now() - self.max_age
        return await DataApi(self.http_client, self.context).cleanup_orders(before=before)
