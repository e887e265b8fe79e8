"""A worker of which a part fails in a way that nobody foresaw: it drains, and says so."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.support.job_sites import JobSite
from tests.support.processes import DEADLINE_S
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

BROKEN = '''

from pathlib import Path

from worker.queues.sqlite import SqliteJobs

lease = SqliteJobs.lease


async def breaks(self, *args, **kwargs):
    """Fail as often as the file says."""
    left = int(Path("failures").read_text()) if os.path.exists("failures") else 0
    if left:
        Path("failures").write_text(str(left - 1))
        raise RuntimeError("a defect")
    return await lease(self, *args, **kwargs)


SqliteJobs.lease = breaks
'''


def broken_site(folder: Path) -> JobSite:
    site = JobSite(folder)
    with (folder / "own_tasks.py").open("a") as module:
        module.write(BROKEN)
    return site


async def succeeded(site: JobSite, job: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await site.shown(job))["state"] != "SUCCESS":
            pass


async def test_a_part_that_fails_once_goes_on(tmp_path: Path) -> None:
    site = broken_site(tmp_path)
    async with site.starts("--queues default") as worker:
        await worker.logged("worker.ready")
        (tmp_path / "failures").write_text("1")
        await site.asks("ping")  # what waits for a job now is well; what comes next is not
        failed = await worker.logged("worker.service_failed", service="poller:default")
        assert "RuntimeError: a defect" in failed["exception"]
        job = await site.asks("ping")
        await succeeded(site, job)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0


async def test_one_that_fails_again_at_once_ends_the_worker_in_good_order(tmp_path: Path) -> None:
    site = broken_site(tmp_path)
    async with site.starts("--queues default") as worker:
        job = await site.asks("held")
        await wait_until(lambda: bool(site.begun()), "it runs")
        (tmp_path / "failures").write_text("1000")
        await site.asks("ping")
        stopping = await worker.logged("worker.stopping")
        assert stopping["reason"] == "poller:default failed"
        assert len(worker.told("worker.service_failed", service="poller:default")) == 2
        (tmp_path / "go").touch()
        assert await worker.ended() == 1
        assert worker.told("worker.stopped")
    (tmp_path / "failures").write_text("0")
    assert (await site.shown(job))["state"] == "SUCCESS"
    assert any("poller:default failed: RuntimeError: a defect" in x for x in worker.other_lines)
