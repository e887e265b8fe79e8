"""Why jobs wait, as the commands tell it over every engine."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.cli.test_explain_cli import verdict
from tests.support.job_sites import Clerk, JobSite
from tests.support.jobs import fresh_queue_url
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["sqlite", "postgres", "redis", "sqs"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobSite]:
    with fresh_queue_url(request.param, tmp_path) as url:
        yield JobSite(tmp_path, url)


async def why(site: JobSite, job: str) -> str:
    """What `worker jobs show` says of why a job waits."""
    (line,) = [
        line for line in (await site.told(f"jobs show {job}")).splitlines() if "why " in line
    ]
    return line.removeprefix("why").strip()


async def test_jobs_of_a_task_that_nobody_knows_are_found_by_its_name(site: JobSite) -> None:
    async with site.engine() as jobs:
        await Clerk(jobs).waits("lost-soul", "ghost")
    first, others = await verdict(site, "ghost")
    assert first.startswith("1 job of ghost waits in the queue default, and no task here has that")
    assert "after 10 such deliveries (WORKER_JOB_REFUSALS), about 20m, it is a dead letter" in first
    assert others[0].startswith("unknown task 'ghost'")
    _, shown, _ = await site.types("queues")
    (ghost,) = [line for line in shown.splitlines() if line.startswith("  ghost")]
    assert ghost.endswith("no task here has that name")


async def test_a_job_that_was_refused_tells_when_it_will_be_given_up(site: JobSite) -> None:
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.waits("lost-soul", "ghost")
        async with site.starts() as worker, asyncio.timeout(60):
            await worker.logged("job.refused")
            refusals = 0
            while not refusals:
                await asyncio.sleep(0.05)
                job = await clerk.get("lost-soul")
                refusals = 0 if job is None else job.refusals
    told = await why(site, "lost-soul")
    assert told.startswith("1 delivery found no worker that knows ghost, or this version of it")
    assert "after 10 it is a dead letter, in about 20m" in told


async def test_explain_finds_a_tasks_jobs_in_whatever_queue(site: JobSite) -> None:
    async with site.engine() as jobs:
        await Clerk(jobs).waits("astray", "ping", queue="billing")
    first, others = await verdict(site, "ping")
    assert any("queue billing" in line for line in (first, *others))


async def test_jobs_that_wait_for_a_place_tell_who_takes_it(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    site.environment["WORKER_CONCURRENCY"] = "1"
    async with site.starts() as worker:
        await worker.logged("worker.ready")
        await site.asks("held")
        await wait_until(lambda: bool(site.begun()), "it runs")
        job = await site.asks("send_invoice", '{"order_id": 1}')
        taken = (
            "the places for jobs are taken, 1 of 1 (1 worker is up, WORKER_CONCURRENCY=1): 1 by "
            "jobs of default"
        )
        first, others = await verdict(site, "send_invoice")
        assert first == f"1 job of send_invoice waits in the queue billing, 0 run: {taken}"
        assert others[0].startswith("send_invoice has no schedule")
        assert await why(site, job) == f"{taken}; 1 job waits in billing"
        site.touch("go")


async def test_a_job_waits_for_the_one_that_has_its_concurrency_key(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.runs("first", concurrency_key="customer-7", concurrency_limit=1)
        await clerk.waits("second", concurrency_key="customer-7", concurrency_limit=1)
    assert await why(site, "second") == "its concurrency key customer-7 is taken: job first runs"


async def test_a_task_whose_jobs_nobody_takes_says_so_of_the_queue(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        await Clerk(jobs).waits("astray", "ping", queue="nowhere")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as file, file:
        file.execute("UPDATE jobs SET ready_at = ready_at - 300 * 1000000")
    first, _ = await verdict(site, "ping")
    assert first.startswith("nobody polls the queue nowhere: 1 job waits")
