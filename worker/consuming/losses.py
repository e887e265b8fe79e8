"""Tells why an outcome was not recorded: what the queue says of the job, not what it might be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from worker.errors import StoreError
from worker.events import LeaseWasLost
from worker.model import State
from worker.shared_tasks import start_shared_task

if TYPE_CHECKING:
    from worker.events import Events
    from worker.jobs.job import Job, Lease
    from worker.ports import JobStore

__all__ = ["Losses"]

PATIENCE_S = 5.0
"""How long the engine may take to say what became of a job."""
LEAST_STALL_S = 1.0
RUNNING = frozenset({State.STARTED, State.PROGRESS})


class Losses:
    """Announces the leases that were lost.

    Args:
        worker: The name by which the engine knows this worker.
    """

    def __init__(self, jobs: JobStore, *, events: Events, worker: str) -> None:
        self._jobs = jobs
        self._events = events
        self._worker = worker
        self._asking: set[asyncio.Task[None]] = set()

    def tell(self, lease: Lease, reason: str) -> None:
        """Announce what is known without asking."""
        self._events.announce(LeaseWasLost(task=lease.task, job_id=lease.id, reason=reason))

    def ask_and_tell(self, lease: Lease, reason: str, *, stalled_s: float = 0.0) -> None:
        """Announce it with where the job is now, as soon as the engine has said so.

        Args:
            stalled_s: How long the event loop stood still while the job was leased.
        """
        asking = start_shared_task(self._ask(lease, reason, stalled_s), name="lost-lease")
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def finish(self) -> None:
        """Return once all is told."""
        if self._asking:
            await asyncio.wait(self._asking, timeout=PATIENCE_S)

    async def _ask(self, lease: Lease, reason: str, stalled_s: float) -> None:
        told = [reason]
        if self._jobs.capabilities.lookup:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    (job,) = await self._jobs.get([lease.id])
            except (StoreError, TimeoutError):
                told.append("the queue cannot be asked where the job is now")
            else:
                told.append(where(job, self._worker))
        if stalled_s >= LEAST_STALL_S:
            told.append(f"this worker's event loop stood still for {stalled_s:.0f} s meanwhile")
        self.tell(lease, "; ".join(told))


def where(job: Job | None, worker: str) -> str:
    """Where a job is that this worker has no more."""
    if job is None:
        return (
            "the queue does not know the job any more: somebody dropped it, or the queue has lost "
            "what it held"
        )
    if job.state.final:
        return f"it ended meanwhile: {job.state.value}, on {job.worker}"
    if job.state not in RUNNING:
        return "it is back in its queue"
    if job.worker == worker:
        return "this worker has leased it again"
    return f"another worker has the job: {job.worker}"
