"""Extends the leases of jobs in a thread of its own, while the event loop stands still.

Code that blocks the loop would else cost every job that the worker holds its lease, and so a loss,
though nobody died. The engines are asynchronous, and theirs is the loop that does not turn: so the
thread opens the engine once more for each time, in a loop of its own. It costs some milliseconds,
and nothing as long as the worker's loop turns.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import structlog

from worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from worker.consuming.held_leases import HeldLeases
    from worker.ports import JobStore

__all__ = ["StandIn"]

LOOK_S = 0.25
TURN_S = 0.25
"""How soon a loop answers that turns."""
CALL_S = 10.0
STOP_S = 1.0


class StandIn:
    """Holds leases for a loop that does not turn.

    Args:
        make_jobs: Makes the engine, not opened, over the same jobs.
        stalled_for: Seconds since the loop last turned; called in the thread.
        limit: How long leases are held for a loop that does not turn.
    """

    def __init__(
        self,
        make_jobs: Callable[[], JobStore],
        *,
        stalled_for: Callable[[], float],
        limit: timedelta,
    ) -> None:
        self._make_jobs = make_jobs
        self._stalled_for = stalled_for
        self._limit_s = limit.total_seconds()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed = False

    def start(self, held: HeldLeases) -> None:
        """Look after these leases, which are those of the loop that calls this."""
        self._stopping.clear()
        self._thread = threading.Thread(
            target=self._watch, args=(asyncio.get_running_loop(), held), name="leases", daemon=True
        )
        self._thread.start()

    async def stop(self) -> None:
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread is not None:  # one that hangs is left behind
            await asyncio.to_thread(thread.join, STOP_S)

    def _watch(self, loop: asyncio.AbstractEventLoop, held: HeldLeases) -> None:
        while not self._stopping.wait(LOOK_S) and not loop.is_closed():
            if not held.overdue() or turns(loop) or self._stalled_for() > self._limit_s:
                continue
            try:
                asyncio.run(self._extend(held))
                self._failed = False
            # Nobody is above a thread to be told; and the next look may find the engine back.
            except Exception as exc:
                if not self._failed:
                    known = isinstance(exc, WorkerError | TimeoutError)
                    log = structlog.get_logger("worker")
                    log.warning(
                        "lease.not_held",
                        error=str(exc) or type(exc).__name__,
                        exc_info=None if known else exc,
                    )
                self._failed = True

    async def _extend(self, held: HeldLeases) -> None:
        jobs = self._make_jobs()
        try:
            async with asyncio.timeout(CALL_S):
                await jobs.open()
                await held.extend_overdue(jobs)
        finally:
            await jobs.close()


def turns(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop answers; an engine that is away is the loop's own business."""
    answered = threading.Event()
    try:
        loop.call_soon_threadsafe(answered.set)
    except RuntimeError:  # it is closed
        return True
    return answered.wait(TURN_S)
