"""Workers over one queue, killed at random, while a producer goes on asking for jobs."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.kill_tasks import VARIABLE, step
from tests.support.processes import LoggingProcess, running
from tests.support.witness import ROOT
from worker.client.client import WorkerClient
from worker.jobs.job import JobId
from worker.model import State

if TYPE_CHECKING:
    from pathlib import Path

    from worker.jobs.job import Job

ENVIRONMENT = {
    "WORKER_DATA_API_URL": "http://127.0.0.1:9",
    "WORKER_TASK_MODULES": "tests.support.kill_tasks",
    "WORKER_VISIBILITY_TIMEOUT": "3s",
    "WORKER_CONCURRENCY": "20",
    "PYTHONPATH": str(ROOT),
}
BATCH = 25
WORKERS = 4
PATIENCE_S = 120


@dataclass(frozen=True, kw_only=True)
class Spoils:
    """What there was to see afterwards.

    Attributes:
        asked: The ids that the producer was told are taken in.
        runs: How often each was begun.
    """

    asked: list[JobId]
    jobs: list[Job | None]
    runs: Counter[str]
    kills: int
    took_s: float

    @property
    def lost(self) -> list[JobId]:
        """Those that have not ended well, nor lie in the dead letters."""
        return [
            job_id
            for job_id, job in zip(self.asked, self.jobs, strict=True)
            if job is None or not (job.state is State.SUCCESS or job.dead)
        ]

    @property
    def never_run(self) -> list[JobId]:
        """Those that are said to have succeeded, but never began."""
        return [
            job.id
            for job in self.jobs
            if job is not None and job.state is State.SUCCESS and not self.runs[job.id]
        ]

    def figures(self) -> dict[str, object]:
        jobs = [job for job in self.jobs if job is not None]
        return {
            "jobs": len(self.asked),
            "seconds": round(self.took_s, 1),
            "kills": self.kills,
            "succeeded": sum(job.state is State.SUCCESS for job in jobs),
            "dead": sum(job.dead for job in jobs),
            "dead because workers died": sum("WorkerLost" in (job.error or "") for job in jobs),
            "lost": len(self.lost),
            "leases lost": sum(job.losses for job in jobs),
            "begun more than once": sum(
                self.runs[job.id] > 1 for job in jobs if job.state is State.SUCCESS
            ),
        }


@dataclass
class Siege:
    """Starts workers over one queue, and kills them."""

    url: str
    folder: Path
    witness: Path
    stack: AsyncExitStack
    up: list[LoggingProcess] = field(default_factory=list)
    kills: int = 0

    async def start(self) -> LoggingProcess:
        environment = {**ENVIRONMENT, VARIABLE: str(self.witness), "WORKER_STORE_URL": self.url}
        process = running("start", "--no-schedules", environment=environment, cwd=self.folder)
        return await self.stack.enter_async_context(process)

    async def kill_until(self, over: asyncio.Event, chance: random.Random) -> None:
        """Kill one every second, and start another in its place."""
        while not over.is_set():
            try:
                async with asyncio.timeout(1):
                    await over.wait()
            except TimeoutError:
                number = chance.randrange(len(self.up))
                self.up[number].signal(signal.SIGKILL)
                await self.up[number].ended()
                self.kills += 1
                self.up[number] = await self.start()


async def besiege_jobs(url: str, folder: Path, *, jobs: int, seed: int) -> Spoils:
    """Ask for ``jobs`` while workers are killed, until every one of them has ended."""
    witness = folder / "begun"
    witness.touch()
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with AsyncExitStack() as stack, WorkerClient(url) as client:
        siege = Siege(url, folder, witness, stack)
        for _ in range(WORKERS):
            siege.up.append(await siege.start())
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(siege.kill_until(over, random.Random(seed)))
            asked: list[JobId] = []
            for start in range(0, jobs, BATCH):
                numbers = range(start, min(jobs, start + BATCH))
                handles = await client.enqueue_many(step, [{"number": n} for n in numbers])
                asked += [handle.id for handle in handles]
                await asyncio.sleep(BATCH / 500)  # the producer's pace
            async with asyncio.timeout(PATIENCE_S):
                for job_id in asked:
                    await client.job(job_id).ended()
            over.set()
        took_s = loop.time() - began
        found: list[Job | None] = []
        for start in range(0, jobs, 1000):
            found += await client.jobs.get(asked[start : start + 1000])
        for process in siege.up:
            await process.logged("worker.ready")  # one that was started just now, perhaps
            process.signal(signal.SIGTERM)
        for process in siege.up:
            assert await process.ended() == 0, process.report()
    runs = Counter(witness.read_text("utf-8").splitlines())
    return Spoils(asked=asked, jobs=found, runs=runs, kills=siege.kills, took_s=took_s)
