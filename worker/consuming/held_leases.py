"""The leases that a worker holds: extended while the work goes on, given up when they are lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from worker.errors import StoreError
from worker.jobs.job import Held, JobId
from worker.model import CancelReason, RunId

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from worker.clock import Clock
    from worker.consuming.queue_plan import QueuePlan
    from worker.jobs.job import Lease
    from worker.ports import JobStore
    from worker.running.runner import Runner

__all__ = ["HeldLeases"]

TURN_S = 0.5
"""How often progress is recorded and wishes are looked for."""
TOLD_AT_ONCE = 20
"""How many jobs' progress is recorded at the same time."""
PRUNE_S = 60.0
PRUNED_AT_ONCE = 5000


@dataclass(slots=True)
class Holding:
    """One lease.

    Attributes:
        extend_at: On the monotonic clock.
        stalled_s: How long the loop stood still at most, while it was held.
        gone: Another thread was told that it is lost; the loop finds out when it turns.
        begun: The work has begun.
        over: The work has ended, and what came of it is on its way to the engine.
        looked_at: Whether it was there in an earlier turn.
    """

    lease: Lease
    plan: QueuePlan
    extend_at: float
    looked_at: bool = False
    asked_to_end: bool = False
    lost: bool = False
    stalled_s: float = 0.0
    gone: bool = False
    begun: bool = False
    over: bool = False


class HeldLeases:
    """What is leased and not settled yet: one lease of a job at a time.

    Args:
        cancel_grace: How long a job may go on that was asked to end.
        keep: How long jobs that ended are remembered.
        on_trouble: Called with what is wrong with the engine, or ``None`` if it works.
    """

    def __init__(
        self,
        jobs: JobStore,
        runner: Runner,
        *,
        clock: Clock,
        cancel_grace: timedelta,
        keep: timedelta,
        on_trouble: Callable[[str | None], None] = lambda trouble: None,
    ) -> None:
        self._jobs = jobs
        self._runner = runner
        self._clock = clock
        self._cancel_grace = cancel_grace
        self._keep = keep
        self._on_trouble = on_trouble
        self._holdings: dict[JobId, Holding] = {}
        self._told: dict[JobId, str] = {}

    def __len__(self) -> int:
        return len(self._holdings)

    def leases(self) -> list[Lease]:
        return [holding.lease for holding in self._holdings.values()]

    def add(self, plan: QueuePlan, lease: Lease) -> None:
        self._holdings[lease.id] = Holding(lease, plan, self._clock.monotonic() + third_of(plan))

    def most_losses_beside(self, lease: Lease) -> int:
        """The most leases that another job has lost which has begun, or will; 0 if none has."""
        return max(
            (
                one.lease.losses
                for job_id, one in self._holdings.items()
                if job_id != lease.id and (one.begun or not one.over)
            ),
            default=0,
        )

    def begin(self, lease: Lease) -> None:
        """The work begins."""
        self._holdings[lease.id].begun = True

    def has_begun(self, lease: Lease) -> bool:
        """Whether the work under an earlier lease of the same job has begun."""
        return self._holdings[lease.id].begun

    def has(self, lease: Lease) -> bool:
        """Whether this worker still has an earlier lease of the same job."""
        return lease.id in self._holdings

    def end(self, lease: Lease) -> None:
        """The work is over: all that is left is to store what came of it."""
        if (holding := self._holdings.get(lease.id)) is not None:
            holding.over = True

    def is_stored(self, lease: Lease) -> bool:
        """Whether the engine has heard already how the work under the earlier lease ended.

        It hands out a job anew if that was put back into its queue, or if its lease ran out, which
        it counts as a loss. Its answer may come after the job does.
        """
        holding = self._holdings[lease.id]
        return holding.over and lease.losses <= holding.lease.losses

    def adopt(self, lease: Lease) -> bool:
        """Go on with an earlier lease's work under this one, if it is the same attempt.

        The earlier one ran out, and nobody but this worker got the job since. If it was the turn
        of others meanwhile, what goes on here is lost.
        """
        holding = self._holdings[lease.id]
        if holding.lost or holding.lease.attempts != lease.attempts:
            self._lose(holding)
            return False
        holding.lease, holding.gone = lease, False
        holding.extend_at = self._clock.monotonic() + third_of(holding.plan)
        return True

    def discard(self, lease: Lease) -> None:
        self._holdings.pop(lease.id, None)
        self._told.pop(lease.id, None)

    def current(self, lease: Lease) -> Lease | None:
        """The lease under which the work on this one goes on; ``None`` if it is lost."""
        holding = self._holdings.get(lease.id)
        return None if holding is None or holding.lost else holding.lease

    def asked_to_end(self, lease: Lease) -> bool:
        """Whether somebody asked for the end of the job."""
        holding = self._holdings.get(lease.id)
        return holding is not None and holding.asked_to_end

    def progress_of(self, lease: Lease) -> Callable[[str], None]:
        """What a job tells its progress to, from whatever thread."""
        return partial(self._told.__setitem__, lease.id)

    async def keep_up(self) -> None:
        """Extend leases, record progress, hear who shall end, forget old jobs; for ever."""
        prune_at = self._clock.monotonic() + PRUNE_S
        while True:
            until = self._clock.monotonic() + TURN_S
            await self._clock.sleep(TURN_S)
            self._note_stall(self._clock.monotonic() - until)
            try:
                await self._extend()
                await self._tell()
                await self._hear()
                if self._clock.monotonic() >= prune_at:
                    pruned = await self._jobs.prune(keep=self._keep, limit=PRUNED_AT_ONCE)
                    if pruned < PRUNED_AT_ONCE:
                        prune_at = self._clock.monotonic() + PRUNE_S
            except StoreError as exc:
                self._on_trouble(str(exc))
            else:
                self._on_trouble(None)

    def _note_stall(self, late_s: float) -> None:
        for holding in self._holdings.values():
            holding.stalled_s = max(holding.stalled_s, late_s)

    def stalled_s(self, lease: Lease) -> float:
        """How long the loop stood still at most, in seconds, while this job was held."""
        holding = self._holdings.get(lease.id)
        return 0.0 if holding is None else holding.stalled_s

    async def _extend(self) -> None:
        now = self._clock.monotonic()
        due: dict[timedelta, list[Holding]] = {}
        for holding in self._holdings.values():
            if holding.extend_at <= now and not holding.lost:
                due.setdefault(holding.plan.visibility_timeout, []).append(holding)
        for ttl, holdings in due.items():
            began = self._clock.monotonic()
            leases = [holding.lease for holding in holdings]
            told = await self._jobs.extend(leases, ttl)
            for holding, lease, held in zip(holdings, leases, told, strict=True):
                if holding.lease is not lease:
                    continue  # it was leased anew meanwhile
                if held is Held.LOST:
                    self._lose(holding)
                    continue
                holding.extend_at = began + ttl.total_seconds() / 3
                if held is Held.CANCEL:
                    self._ask_to_end(holding)

    def overdue(self) -> dict[timedelta, list[Holding]]:
        """What should have been extended by now, by how long it is to hold. From any thread."""
        now = self._clock.monotonic()
        due: dict[timedelta, list[Holding]] = {}
        for holding in list(self._holdings.values()):
            late_at = holding.extend_at + third_of(holding.plan) / 2
            if late_at <= now and not holding.lost and not holding.gone:
                due.setdefault(holding.plan.visibility_timeout, []).append(holding)
        return due

    async def extend_overdue(self, jobs: JobStore) -> None:
        """Extend in the loop's place, with an engine of the calling thread's own.

        What is lost, or asked to end, is left for the loop to find out.

        Raises:
            StoreError: The engine cannot be used.
        """
        for ttl, holdings in self.overdue().items():
            began = self._clock.monotonic()
            told = await jobs.extend([holding.lease for holding in holdings], ttl)
            for holding, held in zip(holdings, told, strict=True):
                if held is Held.LOST:
                    holding.gone = True
                else:
                    holding.extend_at = began + third_of(holding.plan)

    def _lose(self, holding: Holding) -> None:
        if self._holdings.get(holding.lease.id) is holding:  # not settled meanwhile
            holding.lost = True
            self._runner.interrupt(RunId(holding.lease.id), CancelReason.LEASE_LOST)

    async def _tell(self) -> None:
        while self._told:
            some = [self._told.popitem() for _ in range(min(TOLD_AT_ONCE, len(self._told)))]
            told = [
                self._jobs.tell(holding.lease, progress)
                for job, progress in some
                if (holding := self._holdings.get(job)) is not None
            ]
            failed = [f for f in await asyncio.gather(*told, return_exceptions=True) if f]
            if failed:
                for job, progress in some:
                    self._told.setdefault(job, progress)
                raise failed[0]

    async def _hear(self) -> None:
        """Look for those that were asked to end; not in their first turn, most end before."""
        older = [job for job, holding in self._holdings.items() if holding.looked_at]
        for holding in self._holdings.values():
            holding.looked_at = True
        if not older or not self._jobs.capabilities.lookup:
            return
        for job in await self._jobs.cancelled(older):
            if job in self._holdings:
                self._ask_to_end(self._holdings[job])

    def _ask_to_end(self, holding: Holding) -> None:
        if holding.asked_to_end:
            return
        holding.asked_to_end = True
        self._runner.request_end(RunId(holding.lease.id))
        asyncio.get_running_loop().call_later(
            self._cancel_grace.total_seconds(), self._cancel, holding
        )

    def _cancel(self, holding: Holding) -> None:
        if self._holdings.get(holding.lease.id) is holding:
            self._runner.interrupt(RunId(holding.lease.id), CancelReason.CANCEL)


def third_of(plan: QueuePlan) -> float:
    """How many seconds after it began a lease is extended."""
    return plan.visibility_timeout.total_seconds() / 3
