"""Bulk tasks whose jobs wait for others, and one that kills the process it runs in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tests.support.killer_tasks import began
from worker import BulkTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker import BulkJob


class Gathered(BulkTask):
    name = "gathered"
    queue = "default"
    max_wait = "3s"

    async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
        for job in jobs:
            began(job.id)
        return [None for _ in jobs]


class KillerInABatch(BulkTask):
    name = "killer_in_a_batch"
    queue = "default"
    max_wait = "50ms"

    async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
        for job in jobs:
            began(job.id)
            if job.id.startswith("killer"):
                os._exit(1)
        return [None for _ in jobs]
