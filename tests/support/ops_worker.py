"""A worker in the test's own loop, and its ``/metrics`` asked as Prometheus would."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.applications import Starlette

from tests.support.waiting import wait_until
from worker.app import open_worker
from worker.jobs.job import JobId
from worker.model import Trigger
from worker.ops.health import Health
from worker.ops.metrics import metrics_routes
from worker.ops.sources import Sources
from worker.settings import load_settings
from worker.supervisor import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

    from worker.app import Worker
    from worker.jobs.job import JobId
from worker.model import Run

__all__ = ["OPEN_METRICS", "OpsWorker", "ops_worker"]

NOBODY = "http://127.0.0.1:9"
OFF: dict[str, Any] = {f"{name}_interval": "off" for name in ("cleanup", "reminders", "sync")}
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@dataclass
class OpsWorker:
    """A started worker, and a client of its metrics."""

    worker: Worker
    http: httpx.AsyncClient
    sources: Sources

    async def run(self, task: str, **rest: Any) -> Run:
        definition = self.worker.scheduler.tasks[task].definition
        return await self.worker.runner.run(definition, trigger=Trigger.MANUAL, **rest)

    async def work_off(self, *jobs: str) -> None:
        """Return once these jobs have ended."""
        for job in jobs:
            found = await self.worker.client.jobs.wait(JobId(job), timedelta(seconds=20))
            assert found is not None
            assert found.state.final

    async def scrape(self, accept: str = "text/plain") -> str:
        """A scrape long enough after the one before to share no look with it."""
        self.sources.counts.outdate()
        answer = await self.http.get("/metrics", headers={"Accept": accept})
        assert answer.status_code == 200
        return answer.text

    async def families(self) -> dict[str, Metric]:
        """What a scrape says."""
        return {one.name: one for one in parse_text(await self.scrape())}

    async def open_metrics(self) -> dict[str, Metric]:
        """What one says to who asks for OpenMetrics."""
        parsed = parse_open(await self.scrape(OPEN_METRICS))  # type: ignore[no-untyped-call]
        return {one.name: one for one in parsed}

    async def value(self, name: str, **labels: str) -> float | None:
        """The value of one series; ``None`` if there is none."""
        for sample in await self.samples():
            if sample.name == name and sample.labels == labels:
                return sample.value
        return None

    async def samples(self) -> list[Sample]:
        found: list[Sample] = []
        for family in (await self.families()).values():
            found += family.samples
        return found


@asynccontextmanager
async def ops_worker(**settings: Any) -> AsyncIterator[OpsWorker]:
    """A worker whose ledger, watchdog and queues turn; its schedules do not, a test runs tasks."""
    said = {"data_api_url": NOBODY, "store_url": "memory://", "orders_interval": "off", **OFF}
    async with open_worker(load_settings(**{**said, **settings})) as worker:
        sources = Sources(worker)
        routes = metrics_routes(worker, Health(worker), sources)
        transport = httpx.ASGITransport(app=Starlette(routes=routes))
        services: list[Service] = [worker.ledger, worker.watchdog]
        await worker.client.open()
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://ops") as http,
            asyncio.TaskGroup() as group,
        ):
            for service in services:
                service.start(group)
            if worker.consumer is not None:
                worker.consumer.start(group)
            try:
                yield OpsWorker(worker, http, sources)
            finally:
                if worker.consumer is not None:
                    await worker.consumer.stop(timedelta(seconds=5))
                for service in reversed(services):
                    await service.stop(timedelta(seconds=5))


async def settled(site: OpsWorker) -> None:
    """Return once no job is leased any more."""
    consumer = site.worker.consumer
    assert consumer is not None
    await wait_until(lambda: consumer.running == 0, "all jobs are settled")
