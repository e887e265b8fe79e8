"""A job that blocks the event loop costs no lease, over every engine that workers share."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.support.consuming import open_bench
from tests.support.jobs import fresh_queue_url
from tests.support.waiting import wait_until
from worker import task
from worker.consuming.queue_plan import QueuePlan
from worker.consuming.stand_in import StandIn
from worker.events import LeaseWasLost
from worker.jobs.job import Lease
from worker.model import State
from worker.queues.opening import make_jobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.consuming import Bench
    from worker.jobs.job import Job
    from worker.ports import JobStore

TTL = timedelta(seconds=2)
PLAN = QueuePlan(name="default", visibility_timeout=TTL)
LONGEST = timedelta(minutes=1)
SHARED = ("sqlite", "postgres", "redis", "sqs")


class Site:
    """Engines over the same jobs, in whatever thread."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._records = url, f"sqlite:///{folder / 'records.db'}"

    def engine(self) -> JobStore:
        return make_jobs(self._url, records_url=self._records, queues=["default"])


@pytest.fixture(params=SHARED)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with fresh_queue_url(request.param, tmp_path) as url:
        yield Site(url, tmp_path)


@asynccontextmanager
async def bench_at(site: Site) -> AsyncIterator[Bench]:
    engine = site.engine()
    await engine.open()
    try:
        async with open_bench() as bench:
            bench.use(cast("Any", engine))
            yield bench
    finally:
        await engine.close()


class Rival(threading.Thread):
    """Another worker, which looks for jobs for longer than a lease holds."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.site = site
        self.leases: list[Lease] = []

    def run(self) -> None:
        asyncio.run(self._look())

    async def _look(self) -> None:
        engine = self.site.engine()
        await engine.open()
        try:
            self.leases = await engine.lease(
                "default", limit=1, ttl=TTL, wait=2 * TTL, worker="rival"
            )
        finally:
            await engine.close()


async def blocked(bench: Bench, site: Site, limit: timedelta) -> tuple[list[Lease], Job]:
    """What another worker gets while a job blocks the loop, and what is recorded of that job."""
    rival = Rival(site)

    @task()
    async def blocker() -> str:
        rival.start()
        rival.join(30)
        return "done"

    stalled_for = 3.0
    async with bench.client:
        job = await bench.client.enqueue(blocker)
        consumer = bench.consumer(blocker, queues=[PLAN])
        consumer.stand_in = StandIn(site.engine, stalled_for=lambda: stalled_for, limit=limit)
        async with asyncio.timeout(40), asyncio.TaskGroup() as group:
            consumer.start(group)
            try:
                await wait_until(
                    lambda: bool(rival.ident) and not rival.is_alive(), "it has looked"
                )
                if not rival.leases:
                    await bench.is_in(job, State.SUCCESS)
            finally:
                await consumer.stop(timedelta(seconds=5))
        return rival.leases, await bench.info(job)


async def test_a_job_that_blocks_the_loop_keeps_its_lease(site: Site) -> None:
    async with bench_at(site) as bench:
        leases, job = await blocked(bench, site, LONGEST)
        assert leases == []
        assert (job.state, job.losses, job.deliveries) == (State.SUCCESS, 0, 1)
        assert not bench.told(LeaseWasLost)


async def test_a_loop_that_stands_still_for_too_long_loses_its_leases(site: Site) -> None:
    async with bench_at(site) as bench:
        leases, _ = await blocked(bench, site, timedelta(seconds=1))
        assert [lease.losses for lease in leases] == [1]


async def test_a_lost_job_tells_who_has_it_and_that_the_loop_stood_still(site: Site) -> None:
    async with bench_at(site) as bench:
        await blocked(bench, site, timedelta(seconds=1))
        (lost,) = bench.told(LeaseWasLost)
        assert "another worker has the job: rival" in lost.reason
        assert "this worker's event loop stood still for " in lost.reason
