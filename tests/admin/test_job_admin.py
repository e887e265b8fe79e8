"""What is done to many jobs at once: each is seen once, whatever happens meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.clock import FakeClock
from tests.support.job_sites import Clerk
from tests.support.jobs import KINDS, dead, fresh_engines, lease_now
from worker.admin.jobs import Act, JobAdmin, Toll
from worker.errors import UnknownJob
from worker.jobs.job import JobId, JobQuery, Requeued
from worker.model import State
from worker.queues.memory import MemoryJobs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEAD = JobQuery(dead=True)


def ids(count: int, prefix: str = "job") -> list[str]:
    return [f"{prefix}:{number}" for number in range(count)]


async def toll(admin: JobAdmin, act: Act, query: JobQuery = DEAD) -> Toll:
    return sum([part async for part in admin.change_all(act, query)], Toll())


@pytest.mark.parametrize("kind", KINDS)
async def test_all_of_many_that_were_created_at_once_are_changed(tmp_path: Path, kind: str) -> None:
    async with fresh_engines(kind, tmp_path) as engines:
        jobs = await engines.open()
        await Clerk(jobs).die(ids(30))
        admin = JobAdmin(jobs, batch=7)
        assert await admin.count(DEAD) == 30
        assert await toll(admin, Act.RETRY) == Toll(30, 0)
        assert await admin.count(DEAD) == 0
        assert {job.state for job in await jobs.find(JobQuery())} == {State.PENDING}


@pytest.mark.parametrize("kind", KINDS)
async def test_only_those_that_were_asked_for_are_dropped(tmp_path: Path, kind: str) -> None:
    async with fresh_engines(kind, tmp_path) as engines:
        jobs = await engines.open()
        clerk = Clerk(jobs)
        await clerk.die(ids(5, "a"), task="a")
        await clerk.die(ids(5, "b"), task="b")
        await clerk.ends("fine", State.SUCCESS, task="a")
        admin = JobAdmin(jobs, batch=2)
        assert await toll(admin, Act.DROP, JobQuery(task="a", dead=True)) == Toll(5, 0)
        left = sorted(job.id for job in await jobs.find(JobQuery()))
        assert left == [*ids(5, "b"), "fine"]


async def test_jobs_of_many_moments_are_seen_once_each() -> None:
    clock = FakeClock()
    jobs = MemoryJobs(clock)
    clerk = Clerk(jobs)
    for number in range(25):
        await clerk.waits(f"job:{number}")
        clock.advance(0.0005 if number % 3 else 1)
    seen = [job.id async for batch in JobAdmin(jobs, batch=4).batches(JobQuery()) for job in batch]
    assert seen == ids(25)[::-1]


async def test_those_that_die_again_meanwhile_are_retried_once() -> None:
    """Otherwise a task that always fails at once would keep the command busy for ever."""
    jobs = MemoryJobs()
    clerk = Clerk(jobs)
    await clerk.die(ids(10))
    admin = JobAdmin(jobs, batch=3)
    done = 0
    async for part in admin.change_all(Act.RETRY, DEAD):
        done += part.done
        await jobs.settle([dead(lease) for lease in await lease_now(jobs)])
    assert done == 10
    assert await admin.count(DEAD) == 10


async def test_those_that_come_meanwhile_are_left_alone() -> None:
    clock = FakeClock()
    jobs = MemoryJobs(clock)
    clerk = Clerk(jobs)
    await clerk.die(ids(4))
    clock.advance(1)
    admin = JobAdmin(jobs, batch=2)
    done = 0
    async for part in admin.change_all(Act.DROP, DEAD):
        done += part.done
        await clerk.die([f"late:{done}"])
    assert done == 4
    assert await admin.count(DEAD) == 2


async def test_what_somebody_else_changes_meanwhile_is_counted_apart() -> None:
    class Busy(MemoryJobs):
        """Somebody else is always a little faster with one job, and drops another."""

        async def retry(self, ids: Sequence[JobId]) -> list[Requeued]:
            await super().retry(ids[:1])
            await super().drop(ids[1:2])
            return await super().retry(ids)

    jobs = Busy()
    await Clerk(jobs).die(ids(6))
    assert await toll(JobAdmin(jobs, batch=3), Act.RETRY) == Toll(2, 4)


async def test_jobs_that_nobody_knows_are_named_together() -> None:
    jobs = MemoryJobs()
    await Clerk(jobs).waits("known")
    admin = JobAdmin(jobs)
    with pytest.raises(UnknownJob, match=r"no jobs other, more are recorded, or no longer"):
        await admin.jobs(["known", "other", "more"])
    with pytest.raises(UnknownJob, match=r"no job other is recorded"):
        await admin.jobs(["other", "other"])
    assert [job.id for job in await admin.jobs(["known", "known"])] == ["known"]


async def test_what_became_of_each_job_is_told() -> None:
    jobs = MemoryJobs()
    clerk = Clerk(jobs)
    await clerk.runs("runs")
    await clerk.ends("fine", State.SUCCESS)
    await clerk.waits("waits")
    wanted = [JobId(one) for one in ("waits", "runs", "fine", "nobody")]
    assert await JobAdmin(jobs).change(Act.CANCEL, wanted) == {
        "waits": Requeued.DONE,
        "runs": Requeued.ASKED,
        "fine": Requeued.NOT_NOW,
        "nobody": Requeued.UNKNOWN,
    }
