"""A job that kills its worker at once ends dead, and takes none of its neighbours with it."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import killer_batches as batches
from tests.support import killer_tasks as tasks
from tests.support.jobs import fresh_queue_url
from tests.support.processes import running
from tests.support.witness import ROOT
from worker.client.client import WorkerClient
from worker.model import State
from worker.queues.opening import make_jobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.support.processes import LoggingProcess
    from worker.jobs.job import Job, JobId
    from worker.ports import JobStore

KINDS = ("sqlite", "postgres", "redis", "sqs")
LOSSES = 3
PATIENCE_S = 150.0
BOTH = "tests.support.killer_tasks,tests.support.killer_batches"
pytestmark = pytest.mark.timeout(240)


class Battle:
    """Workers over one queue, each replaced when it dies."""

    def __init__(self, folder: Path, url: str, jobs: JobStore, client: WorkerClient) -> None:
        self.folder, self.url, self.jobs, self.client = folder, url, jobs, client
        self.deaths = 0

    def begun(self) -> Counter[str]:
        path = self.folder / "begun"
        return Counter(path.read_text().split()) if path.exists() else Counter()

    async def fight(self, ids: Sequence[JobId], *, workers: int = 1, **settings: str) -> list[Job]:
        """Keep so many workers up until all jobs have ended."""
        over = asyncio.Event()
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._keep_one_up(over, settings))
            for job_id in ids:
                await self.client.job(job_id).ended()
            over.set()
        found = await self.jobs.get(ids)
        return [job for job in found if job is not None]

    async def _keep_one_up(self, over: asyncio.Event, settings: dict[str, str]) -> None:
        environment = {
            "WORKER_DATA_API_URL": "http://127.0.0.1:9",
            "WORKER_TASK_MODULES": "tests.support.killer_tasks",
            "WORKER_STORE_URL": f"sqlite:///{self.folder / 'ledger.db'}",
            "WORKER_QUEUE_URL": self.url,
            "WORKER_VISIBILITY_TIMEOUT": "3s",
            "WORKER_JOB_LOSSES": str(LOSSES),
            "PYTHONPATH": str(ROOT),
            tasks.VARIABLE: str(self.folder / "begun"),
            **settings,
        }
        while not over.is_set():
            process = running("start", "--no-schedules", environment=environment, cwd=self.folder)
            async with process as worker:
                if await died(worker, over):
                    self.deaths += 1


async def died(worker: LoggingProcess, over: asyncio.Event) -> bool:
    """Whether the worker ends before all is over."""
    ending = asyncio.create_task(worker.process.wait())
    finished = asyncio.create_task(over.wait())
    await asyncio.wait({ending, finished}, return_when=asyncio.FIRST_COMPLETED)
    gone = ending.done()
    for waiting in (ending, finished):
        waiting.cancel()
    return gone


@asynccontextmanager
async def battle_over(kind: str, folder: Path) -> AsyncIterator[Battle]:
    with fresh_queue_url(kind, folder) as url:
        jobs = make_jobs(url, records_url=f"sqlite:///{folder / 'ledger.db'}")
        await jobs.open()
        try:
            async with WorkerClient(jobs=jobs) as client:
                yield Battle(folder, url, jobs, client)
        finally:
            await jobs.close()


def assert_only_the_killers_died(found: Sequence[Job], killers: Sequence[str]) -> None:
    dead = {job.id: job for job in found if job.dead}
    assert sorted(dead) == sorted(killers), {job.id: (job.state, job.losses) for job in found}
    assert all("WorkerLost" in (job.error or "") for job in dead.values())
    assert all(job.losses == LOSSES for job in dead.values())
    assert all(job.state is State.SUCCESS for job in found if job.id not in dead)


@pytest.mark.parametrize("concurrency", [1, 10])
@pytest.mark.parametrize("kind", KINDS)
async def test_harmless_neighbours_of_a_killer_succeed(
    kind: str, concurrency: int, tmp_path: Path
) -> None:
    async with battle_over(kind, tmp_path) as battle:
        ids = [(await battle.client.enqueue(tasks.harmless)).id for _ in range(2)]
        killer = await battle.client.enqueue(tasks.killer, {"way": "exit"}, id="killer")
        ids += [(await battle.client.enqueue(tasks.harmless)).id for _ in range(3)]
        found = await battle.fight([*ids, killer.id], WORKER_CONCURRENCY=str(concurrency))
    assert_only_the_killers_died(found, ["killer"])
    assert battle.deaths == LOSSES
    assert battle.begun()["killer"] == LOSSES


@pytest.mark.parametrize("way", ["kill", "crash"])
async def test_however_it_kills_its_neighbours_succeed(way: str, tmp_path: Path) -> None:
    async with battle_over("sqlite", tmp_path) as battle:
        task = tasks.killer if way == "kill" else tasks.killer_in_a_thread
        await battle.client.enqueue(task, {"way": way}, id="killer")
        ids = [(await battle.client.enqueue(tasks.harmless)).id for _ in range(5)]
        found = await battle.fight([*ids, *[battle.client.job("killer").id]])
    assert_only_the_killers_died(found, ["killer"])
    assert battle.deaths == LOSSES


@pytest.mark.parametrize("kind", KINDS)
async def test_jobs_that_have_not_begun_lose_nothing(kind: str, tmp_path: Path) -> None:
    async with battle_over(kind, tmp_path) as battle:
        waiting = [(await battle.client.enqueue(batches.Gathered)).id for _ in range(3)]
        waiting += [(await battle.client.enqueue(tasks.limited)).id for _ in range(3)]
        killer = await battle.client.enqueue(tasks.killer, {"way": "exit"}, id="killer")
        found = await battle.fight([*waiting, killer.id], WORKER_TASK_MODULES=BOTH)
    assert_only_the_killers_died(found, ["killer"])
    gathered = [job for job in found if job.task == "gathered"]
    assert [job.losses for job in gathered] == [0] * 3
    begun = battle.begun()
    assert [begun[job.id] for job in gathered] == [1] * 3


async def test_several_killers_and_workers_do_not_take_neighbours_with_them(
    tmp_path: Path,
) -> None:
    async with battle_over("postgres", tmp_path) as battle:
        ids = [(await battle.client.enqueue(tasks.harmless)).id for _ in range(5)]
        killers = ["killer-1", "killer-2"]
        for killer in killers:
            await battle.client.enqueue(tasks.killer, {"way": "exit"}, id=killer)
        ids += [(await battle.client.enqueue(tasks.harmless)).id for _ in range(5)]
        ids += [battle.client.job(killer).id for killer in killers]
        found = await battle.fight(ids, workers=2)
    assert_only_the_killers_died(found, killers)


async def test_a_killer_in_a_batch_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    async with battle_over("sqlite", tmp_path) as battle:
        names = ["a", "b", "killer", "c", "d"]
        jobs = await battle.client.enqueue_many(
            batches.KillerInABatch, [None for _ in names], ids=names
        )
        found = await battle.fight([job.id for job in jobs], WORKER_TASK_MODULES=BOTH)
    assert_only_the_killers_died(found, ["killer"])
