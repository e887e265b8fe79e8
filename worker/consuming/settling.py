"""What came of jobs is stored: many at once, and again as long as the engine is away."""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

from worker.errors import StoreError
from worker.jobs.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.consuming.held_leases import HeldLeases
    from worker.consuming.losses import Losses
    from worker.consuming.queue_plan import QueuePlan
    from worker.consuming.slots import Slots
    from worker.jobs.job import JobId, Lease, Settlement
    from worker.ports import JobStore

__all__ = ["Settling"]

AT_ONCE = 500
"""How many outcomes are stored in one round trip at most."""
AGAIN_S = 0.5
NOT_STORED = "its lease ran out before its outcome was stored"
UNCERTAIN = "the engine failed while its outcome was stored, and it is not leased any more"
"""It may have been stored then: nobody was told."""
TOO_LATE = "its outcome could not be stored before the worker ended"


class Settling:
    """Stores outcomes, and lets go of the leases.

    Args:
        on_trouble: Called with what is wrong with the engine, or ``None`` if it works.
        on_quiet: Called when nothing is leased any more.
        presumes: Tells whether the engine counts a job as begun from its lease on.
    """

    def __init__(
        self,
        jobs: JobStore,
        held: HeldLeases,
        slots: Slots,
        *,
        losses: Losses,
        on_trouble: Callable[[str | None], None],
        on_quiet: Callable[[], None],
        presumes: Callable[[Lease], bool] = lambda lease: True,
    ) -> None:
        self._held = held
        self._slots = slots
        self._losses = losses
        self._on_trouble = on_trouble
        self._on_quiet = on_quiet
        self._batcher: Batcher[Settlement, bool] = Batcher(jobs.settle, most=AT_ONCE, name="settle")
        self._presumes = presumes
        self._returning: dict[str, bool] = {}
        self._returned = asyncio.Event()
        self._later: list[Settlement] = []
        self._uncertain: set[JobId] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] | None = None

    def put(self, plan: QueuePlan, settlement: Settlement, *, begun: bool) -> None:
        """Have an outcome stored, with the next batch. The job's slot is free from now on."""
        self._slots.end(plan, begun=begun)
        self._held.end(settlement.lease)
        if not begun:
            self._note_return(settlement.lease)
        self._send(settlement)

    def put_stray(self, settlement: Settlement) -> None:
        """Give back a job of which nothing was begun. If that fails, its lease runs out."""
        self._note_return(settlement.lease)
        self._batcher.put(settlement, lambda answer: self._has_returned(settlement.lease))

    def _note_return(self, lease: Lease) -> None:
        self._returning[lease.receipt] = self._presumes(lease)

    def _has_returned(self, lease: Lease) -> None:
        if self._returning.pop(lease.receipt, None) is not None:
            self._returned.set()

    async def jobs_returned(self, *, all_of_them: bool) -> None:
        """Return once those jobs are out of the way that this worker settles without a run: the
        engine has stored that, or has failed to.

        Args:
            all_of_them: Also those that the engine does not count as begun.
        """
        while any(presumed or all_of_them for presumed in self._returning.values()):
            self._returned.clear()
            await self._returned.wait()

    def lose(self, plan: QueuePlan, lease: Lease, reason: str, *, begun: bool = True) -> None:
        """Let go of a job whose lease was lost."""
        self._slots.end(plan, begun=begun)
        self._gone(lease, reason)

    def _send(self, settlement: Settlement) -> None:
        self._batcher.put(settlement, partial(self._answered, settlement))

    def _answered(self, settlement: Settlement, answer: bool | Exception) -> None:
        self._has_returned(settlement.lease)
        if answer is True:
            self._on_trouble(None)
            self._forget(settlement.lease)
            return
        lease = self._held.current(settlement.lease)
        if lease is None:
            self._not_stored(settlement.lease)
        elif isinstance(answer, StoreError):
            # Its lease is extended meanwhile, if that works; if not, another worker runs it.
            self._on_trouble(str(answer))
            self._uncertain.add(lease.id)
            self._later.append(settlement)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(
                    AGAIN_S, self._again, context=Context()
                )
        elif isinstance(answer, Exception):
            self._lost(lease, f"{type(answer).__name__}: {answer}")
        elif lease.receipt != settlement.lease.receipt:
            self._send(settlement._replace(lease=lease))  # it was leased anew, by this worker
        else:
            self._not_stored(lease)

    def _again(self) -> None:
        self._timer = None
        later, self._later = self._later, []
        for settlement in later:
            lease = self._held.current(settlement.lease)
            if lease is None:
                self._not_stored(settlement.lease)
            else:
                self._send(settlement._replace(lease=lease))

    def _not_stored(self, lease: Lease) -> None:
        self._gone(lease, UNCERTAIN if lease.id in self._uncertain else NOT_STORED)

    def _gone(self, lease: Lease, reason: str) -> None:
        self._losses.ask_and_tell(lease, reason, stalled_s=self._held.stalled_s(lease))
        self._forget(lease)

    def _lost(self, lease: Lease, reason: str) -> None:
        self._losses.tell(lease, reason)
        self._forget(lease)

    def _forget(self, lease: Lease) -> None:
        self._held.discard(lease)
        self._uncertain.discard(lease.id)
        self._slots.stored()
        if not len(self._held):
            if self._over is not None and not self._over.done():
                self._over.set_result(None)
            self._on_quiet()

    async def finish(self, limit_s: float) -> None:
        """Return once every outcome is stored; those that are not by then are lost."""
        if len(self._held):
            self._over = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._over}, timeout=limit_s)
        await self._batcher.close(limit_s)
        if self._timer is not None:
            self._timer.cancel()
        for lease in self._held.leases():
            self._lost(lease, TOO_LATE)
        await self._losses.finish()
