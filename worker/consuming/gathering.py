"""The jobs of a bulk task that wait for others, so that many are done at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.consuming.queue_plan import QueuePlan
    from worker.jobs.job import Lease
    from worker.tasks.base import TaskDefinition

__all__ = ["Gathering"]


class Gathering:
    """Gathers the jobs of one task, from all queues.

    Args:
        begin: Called when there are enough, or the first of them has waited long enough.
    """

    def __init__(self, definition: TaskDefinition, begin: Callable[[Gathering], None]) -> None:
        self.definition = definition
        self._begin = begin
        self._waiting: list[tuple[QueuePlan, Lease]] = []
        self._timer: asyncio.TimerHandle | None = None

    def put(self, plan: QueuePlan, lease: Lease, *, most: int) -> None:
        """Take in one more.

        Args:
            most: How many may be leased at the same time: there is no use in waiting for more.
        """
        bulk = self.definition.bulk
        assert bulk is not None
        self._waiting.append((plan, lease))
        if len(self._waiting) >= min(bulk.max_batch_size, most):
            self._begin(self)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                bulk.max_wait.total_seconds(), self._begin, self
            )

    def taken(self) -> list[tuple[QueuePlan, Lease]]:
        """All of them; none waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        return batch
