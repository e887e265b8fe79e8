"""Has the Data API synchronize with the outside."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from worker.data_api import DataApi, idempotency_key
from worker.tasks.base import BaseTask

__all__ = ["SyncExternalDataTask"]


class SyncExternalDataTask(BaseTask):
    """Trigger the sync; the result is the service's statistics.

    One slot is one sync: its idempotency key is made of the slot, whoever runs it and how often.
    A run without a slot is a sync of its own.
    """

    name = "sync_external_data"

    async def execute(self) -> dict[str, Any]:
        run = self.context
        subject = run.slot.astimezone(UTC).isoformat() if run.slot is not None else run.run_id
        key = idempotency_key("sync", subject)
        return await DataApi(self.http_client, run).sync(key=key)
