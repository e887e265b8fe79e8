"""Empty engines of each kind for a test, and what tests of them say again and again."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.sqs_server import fresh_sqs_url
from tests.support.stores import fresh_url
from tests.support.waiting import LONGEST_S, wait_until
from worker.jobs.job import JobId, Lease, NewJob, Settlement, new_job_id
from worker.model import State
from worker.queues.memory import MemoryJobs
from worker.queues.opening import make_jobs
from worker.queues.sqs import SqsJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from worker.jobs.job import Job
    from worker.ports import JobStore

KINDS = ("memory", "sqlite", "postgres", "redis", "sqs")
QUEUE = "default"
ZERO = timedelta(0)
SHORT = timedelta(milliseconds=150)
"""A lease or a delay that a test waits for. Engines may round it up to their own second."""
SECOND = timedelta(seconds=1)
PROMPT_S = 1.0
"""What is told by a notification, or soon, has come by then, even on a busy machine."""
LONG = timedelta(minutes=10)


class Engines:
    """Opens engines over the same jobs, each with connections of its own.

    In memory there is one for all. What SQS keeps no records of stands in one such memory.
    """

    def __init__(self, kind: str, url: str) -> None:
        self.kind, self.url = kind, url
        self._memory = MemoryJobs()
        self._opened: list[JobStore] = []

    async def open(self) -> JobStore:
        store = self._make()
        self._opened.append(store)
        await store.open()
        return store

    def _make(self) -> JobStore:
        if self.kind == "memory":
            return self._memory
        if self.kind == "sqs":
            return SqsJobs(self.url, self._memory)
        return make_jobs(self.url)

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


@contextmanager
def fresh_queue_url(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an engine without any jobs, which is removed afterwards."""
    with fresh_sqs_url(folder) if kind == "sqs" else fresh_url(kind, folder) as url:
        yield url


@asynccontextmanager
async def fresh_engines(kind: str, folder: Path) -> AsyncIterator[Engines]:
    with fresh_queue_url(kind, folder) as url:
        engines = Engines(kind, url)
        try:
            yield engines
        finally:
            await engines.close()


def needs(store: JobStore, *names: str) -> None:
    """Skip the test where the engine lacks one of these capabilities."""
    for name in names:
        if not getattr(store.capabilities, name):
            pytest.skip(f"{store.capabilities.backend} lacks the capability {name!r}")


def new(task: str = "ping", *, id: str | None = None, queue: str = QUEUE, **rest: Any) -> NewJob:
    return NewJob(new_job_id() if id is None else JobId(id), task, queue, **rest)


async def lease_now(store: JobStore, limit: int = 10, *, queue: str = QUEUE) -> list[Lease]:
    """What is ready at this moment."""
    return await store.lease(queue, limit=limit, ttl=LONG, wait=ZERO, worker="one")


async def lease_all(
    store: JobStore,
    count: int,
    *,
    queue: str = QUEUE,
    ttl: timedelta = LONG,
    worker: str = "one",
) -> list[Lease]:
    """``count`` jobs, in as many calls as the engine needs, waiting for each."""
    leases: list[Lease] = []
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONGEST_S
    while len(leases) < count:
        assert loop.time() < deadline, f"waited in vain for {count} jobs, got {len(leases)}"
        limit = min(count - len(leases), store.capabilities.most_leased)
        leases += await store.lease(queue, limit=limit, ttl=ttl, wait=SECOND, worker=worker)
    return leases


async def lease_one(
    store: JobStore, *, queue: str = QUEUE, ttl: timedelta = LONG, worker: str = "one"
) -> Lease:
    (lease,) = await lease_all(store, 1, queue=queue, ttl=ttl, worker=worker)
    return lease


async def get(store: JobStore, job: JobId) -> Job:
    """The job's record, which has to be there."""
    (found,) = await store.get([job])
    assert found is not None
    return found


async def passed(duration: timedelta) -> None:
    """Return once that much time has passed, for what is to happen only then, or not at all."""
    clock = asyncio.get_running_loop().time
    until = clock() + duration.total_seconds()
    await wait_until(lambda: clock() >= until, f"{duration} have passed")


def ended(lease: Lease, state: State = State.SUCCESS, **rest: Any) -> Settlement:
    return Settlement(lease, state, rest.pop("attempts", lease.attempts + 1), **rest)


def dead(lease: Lease) -> Settlement:
    """The attempts are used up."""
    return ended(lease, State.FAILURE, error='{"type":"E","message":"no"}', dead=True)


def back(lease: Lease, delay: timedelta = ZERO) -> Settlement:
    """The worker gives the job back, and no attempt was spent."""
    return ended(lease, State.PENDING, attempts=lease.attempts, delay=delay)
