"""What a job costs the consumer and the runner, with an engine that costs nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from benchmarks.queue_child import QUEUE, consuming, echo
from worker.jobs.job import Capabilities, Held, JobId, Lease

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from benchmarks.queue_child import Listener
    from worker.jobs.job import Settlement
    from worker.ports import JobStore

__all__ = ["alone_us", "task_us"]

WARM_UP = 200


class NoEngine:
    """Hands out prepared leases, and swallows what comes of them."""

    capabilities = Capabilities(backend="none")

    def __init__(self, jobs: int) -> None:
        now = datetime.now(UTC)
        self._leases = [
            Lease(
                id=JobId(f"{number:032x}"),
                task=echo.name,
                queue=QUEUE,
                receipt=str(number),
                params=f'{{"n":{number}}}',
                version=1,
                priority=0,
                options="{}",
                headers="{}",
                deliveries=1,
                losses=0,
                attempts=0,
                refusals=0,
                cancel=False,
                created_at=now,
                due_at=now,
                expires_at=None,
            )
            for number in range(jobs)
        ]

    async def lease(self, queue: str, *, limit: int, wait: timedelta, **rest: Any) -> list[Lease]:
        await asyncio.sleep(0 if self._leases else wait.total_seconds())
        leases = self._leases[-limit:]
        del self._leases[-limit:]
        return leases

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        await asyncio.sleep(0)
        return [True] * len(settlements)

    async def extend(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        return [Held.YES] * len(leases)

    async def cancelled(self, ids: Sequence[JobId]) -> list[JobId]:
        return []


async def consume(engine: JobStore, count: int, listeners: Sequence[Listener] = ()) -> None:
    async with consuming(engine, echo.definition, count, listeners) as done:
        await done.wait()


async def alone(jobs: int, listeners: Sequence[Listener]) -> float:
    engine = cast("JobStore", NoEngine(jobs + WARM_UP))
    await consume(engine, WARM_UP, listeners)
    gc.collect()
    gc.freeze()
    cpu = time.process_time()
    await consume(engine, jobs, listeners)
    cpu = time.process_time() - cpu
    gc.unfreeze()
    return cpu / jobs * 1e6


def alone_us(jobs: int, listeners: Sequence[Listener] = ()) -> float:
    """The CPU that a job takes, while these listeners are told of it, too."""
    return asyncio.run(alone(jobs, listeners))


async def bare(jobs: int) -> float:
    cpu = time.process_time()
    for number in range(jobs):
        await asyncio.create_task(echo(number))
    return (time.process_time() - cpu) / jobs * 1e6


def task_us(jobs: int) -> float:
    """The same of an asyncio task, which says how fast this machine is at the moment."""
    return asyncio.run(bare(jobs))
