"""How much room a worker has for jobs: over all its queues, for each of them, and until it is done.

Nothing here is asynchronous but the wait for room. Who waits longest is served first, so that a
busy queue does not keep others from their turn.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.consuming.queue_plan import QueuePlan

__all__ = ["Slots"]

GATHER_S = 0.005
"""How long free slots are gathered before the next lease, while others are busy."""
UNSTORED = 1000
"""How many outcomes may wait to be stored, until no more jobs are leased."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A poller that waits for room.

    Attributes:
        enough: How much room is worth a lease.
        granted: Gets how much room there is; 0 when it is told that none comes any more.
    """

    plan: QueuePlan
    enough: int
    granted: asyncio.Future[int]


class Slots:
    """Counts jobs from their lease to the moment at which their outcome is stored.

    Args:
        concurrency: How many jobs are leased at the same time, over all queues.
        max_jobs: How many are begun in all; ``None`` for any number.
    """

    def __init__(self, concurrency: int, max_jobs: int | None = None) -> None:
        self._concurrency = concurrency
        self._max_jobs = max_jobs
        self._reserved = 0
        self._leased = 0
        self._busy: dict[str, int] = {}
        self._begun = 0
        self._to_begin = 0
        self._unstored = 0
        self._line: list[Waiting] = []
        self._serving = False

    @property
    def exhausted(self) -> bool:
        """Whether as many jobs were begun as may be."""
        return self._max_jobs is not None and self._begun >= self._max_jobs

    def size(self, plan: QueuePlan) -> int:
        """How many jobs of this queue may run at the same time."""
        return min(self._concurrency, plan.concurrency or self._concurrency)

    def room(self, plan: QueuePlan) -> int:
        """How many more of its jobs may be leased now; none if it is not above zero."""
        room = min(
            plan.max_batch_size,
            self._concurrency - self._leased - self._reserved,
            self.size(plan) - self._busy.get(plan.name, 0),
            UNSTORED - self._unstored,
        )
        if self._max_jobs is None:
            return room
        return min(room, self._max_jobs - self._begun - self._to_begin - self._reserved)

    async def reserve(self, plan: QueuePlan, *, gather: bool) -> int:
        """Keep as much room for this queue as there is, waiting for some.

        Args:
            gather: Wait a moment for more, rather than to lease jobs one by one.

        Returns:
            0 if no job is to be begun any more.
        """
        if self._serving:
            self._serve()  # those who are in line come first
        enough = max(1, min(plan.max_batch_size, self.size(plan)) // 4) if gather else 1
        room = self.room(plan)
        if self.exhausted:
            return 0
        if room >= enough:
            self._reserved += room
            return room
        loop = asyncio.get_running_loop()
        waiting = Waiting(plan, enough, loop.create_future())
        self._line.append(waiting)
        timer = None if enough == 1 else loop.call_later(GATHER_S, self._be_content, waiting)
        try:
            return await waiting.granted
        except asyncio.CancelledError:
            if waiting in self._line:
                self._line.remove(waiting)
            elif waiting.granted.done() and not waiting.granted.cancelled():
                self.release(waiting.granted.result())
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _be_content(self, waiting: Waiting) -> None:
        """Let it have whatever room there is."""
        waiting.enough = 1
        self._serve_soon()

    def release(self, reserved: int) -> None:
        """Give back room that was kept."""
        self._reserved -= reserved
        self._serve_soon()

    def lease(self, plan: QueuePlan, count: int, *, reserved: int) -> int:
        """Take a slot for each of ``count`` jobs that were leased.

        Args:
            reserved: Room that was kept for them. It ends with this.

        Returns:
            For how many there is one.
        """
        self._reserved -= reserved
        count = min(count, reserved or max(0, self.room(plan)))
        self._leased += count
        self._to_begin += count
        self._busy[plan.name] = self._busy.get(plan.name, 0) + count
        self._serve_soon()
        return count

    def begin(self, count: int = 1) -> None:
        """Note that ``count`` of the jobs that were leased run."""
        self._to_begin -= count
        self._begun += count
        if self.exhausted:
            self._serve_soon()

    def end(self, plan: QueuePlan, *, begun: bool) -> None:
        """Free a job's slot. Its outcome is still to be stored."""
        self._leased -= 1
        self._to_begin -= not begun
        self._busy[plan.name] -= 1
        self._unstored += 1
        self._serve_soon()

    def stored(self) -> None:
        """Note that a job's outcome is stored, or never will be."""
        self._unstored -= 1
        self._serve_soon()

    def _serve_soon(self) -> None:
        """Hand out room once all that ends in this turn of the loop has ended: jobs do together."""
        if self._line and not self._serving:
            self._serving = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        """Hand out room to those who wait, the first one first."""
        self._serving = False
        exhausted, left = self.exhausted, []
        for waiting in self._line:
            room = self.room(waiting.plan)
            if waiting.granted.done():
                continue  # whoever waited was cancelled
            if exhausted or room >= waiting.enough:
                granted = 0 if exhausted else room
                self._reserved += granted
                waiting.granted.set_result(granted)
            else:
                left.append(waiting)
        self._line = left
