"""What a hand asks of the worker once: run a task here, or ask for a job."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from worker.admin.jobs import refuse_memory
from worker.app import open_worker
from worker.config.stores import named_as_given
from worker.errors import UnknownTaskError
from worker.events import Event, RunFinished
from worker.supervisor import StopRequest

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator

    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.job_handle import JobHandle
    from worker.model import Run
    from worker.schedules.policies import Overlap
    from worker.settings import Settings

__all__ = ["enqueue_job", "run_task"]


async def run_task(
    settings: Settings, name: str, *, overlap: Overlap | None = None, params: str | None = None
) -> tuple[Run | None, signal.Signals | None]:
    """Run one task once, by hand.

    Args:
        overlap: What to do about a run that goes on, instead of the task's own policy.
        params: A JSON object; without it, what its schedule says.

    Returns:
        The run, if it began, and the signal that ended it early, if one did.

    Raises:
        UnknownTaskError: No task has that name.
        InvalidParams: The parameters do not fit.
        TaskBusy: Another run of it goes on, here or in another worker.
        StoreUnavailable: Whether one does cannot be known.
    """
    stop = StopRequest()
    finished: list[Run] = []

    def keep(event: Event) -> None:
        if isinstance(event, RunFinished):
            finished.append(event.run)

    with stop.on_signals():
        async with open_worker(settings, by_hand=True) as worker:
            if name not in worker.scheduler.tasks:
                raise UnknownTaskError(name, worker.scheduler.tasks)
            worker.scheduler.tasks[name].check_params(params)
            await asyncio.to_thread(worker.ledger.connect)
            worker.events.subscribe(keep)
            worker.ledger.start()
            run = worker.scheduler.run_now(name, overlap=overlap, params=params)
            running = asyncio.create_task(run, name=f"manual:{name}")
            asked = asyncio.create_task(stop.wait(), name="stop-request")
            try:
                await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
                worker.scheduler.interrupt()
                if asked.done() and not worker.runner.busy:
                    running.cancel()  # it still waits for its turn
                asked.cancel()
                await asyncio.wait({running, asked})
            finally:
                await worker.ledger.stop(settings.shutdown_grace)
            if not running.cancelled():
                await running
    return (finished[0] if finished else None), stop.signal


@asynccontextmanager
async def enqueue_job(
    settings: Settings,
    name: str,
    params: object,
    *,
    options: EnqueueOptions,
    look_back: bool,
) -> AsyncIterator[JobHandle]:
    """Ask for one job; inside of the block it can be waited for.

    Args:
        look_back: Whether it will be.

    Raises:
        ConfigurationError: The engine would lose the job, or cannot tell what becomes of it.
        UnknownTaskError: No task has that name.
        JobError: It cannot be asked for like that.
        StoreError: The queue cannot be used.
    """
    refuse_memory(settings, records=look_back)
    async with open_worker(settings, by_hand=True) as worker:
        if name not in worker.scheduler.tasks:
            raise UnknownTaskError(name, worker.scheduler.tasks)
        with named_as_given(settings):
            job = await worker.client.enqueue(name, params, **options)
        yield job
