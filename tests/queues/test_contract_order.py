"""Jobs with one concurrency key are leased in the order in which they were enqueued."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.support.jobs import (
    KINDS,
    LONG,
    QUEUE,
    SECOND,
    SHORT,
    ZERO,
    Engines,
    back,
    ended,
    fresh_engines,
    lease_all,
    lease_now,
    lease_one,
    needs,
    new,
)
from tests.support.waiting import LONGEST_S
from worker.jobs.job import NewJob
from worker.jobs.verdict import unspent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from worker.jobs.job import Lease
    from worker.ports import JobStore

JOBS = 60


@pytest.fixture(params=KINDS)
async def engines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    async with fresh_engines(request.param, tmp_path) as engines:
        yield engines


@pytest.fixture
async def store(engines: Engines) -> JobStore:
    store = await engines.open()
    needs(store, "ordered", "concurrency")
    return store


def keyed(number: int, key: str = "k", limit: int = 1, *, priority: int = 0) -> NewJob:
    params = json.dumps({"number": number})
    return new(params=params, concurrency_key=key, concurrency_limit=limit, priority=priority)


def number_of(job: Lease) -> int:
    number: int = json.loads(job.params)["number"]
    return number


async def work_off(store: JobStore, jobs: int, *, limit: int, workers: int = 1) -> list[int]:
    """Lease and settle, several workers at once; the numbers as they were leased."""
    begun: list[int] = []

    async def work(worker: str) -> None:
        while len(begun) < jobs:
            leases = await store.lease(QUEUE, limit=limit, ttl=LONG, wait=SHORT, worker=worker)
            begun.extend(number_of(lease) for lease in leases)
            await asyncio.sleep(0)
            await store.settle([ended(lease) for lease in leases])

    async with asyncio.timeout(LONGEST_S), asyncio.TaskGroup() as group:
        for number in range(workers):
            group.create_task(work(f"worker {number}"))
    return begun


@pytest.mark.parametrize("limit", [1, 5, 50])
@pytest.mark.parametrize("together", [True, False])
async def test_one_worker_leases_them_in_order(store: JobStore, together: bool, limit: int) -> None:
    jobs = [keyed(number) for number in range(JOBS)]
    for job in [] if together else jobs:
        await store.enqueue([job])
    if together:
        await store.enqueue(jobs)
    assert await work_off(store, JOBS, limit=limit) == list(range(JOBS))


@pytest.mark.parametrize("workers", [1, 4])
async def test_they_are_leased_in_order_while_more_are_enqueued(
    engines: Engines, store: JobStore, workers: int
) -> None:
    async def enqueue() -> None:
        producer = await engines.open()
        for number in range(JOBS):
            await producer.enqueue([keyed(number), keyed(1000 + number, "other", limit=1000)])
            await asyncio.sleep(0.002)

    enqueuing = asyncio.create_task(enqueue())
    begun = await work_off(store, 2 * JOBS, limit=7, workers=workers)
    await enqueuing
    assert [number for number in begun if number < 1000] == list(range(JOBS))


async def test_workers_of_several_processes_lease_them_in_order(
    engines: Engines, store: JobStore
) -> None:
    begun: list[int] = []
    stores = [store, *[await engines.open() for _ in range(3)]]
    await store.enqueue([keyed(number) for number in range(JOBS)])

    async def work(own: JobStore) -> None:
        while len(begun) < JOBS:
            leases = await own.lease(QUEUE, limit=10, ttl=LONG, wait=SHORT, worker="one")
            begun.extend(number_of(lease) for lease in leases)
            await own.settle([ended(lease) for lease in leases])

    async with asyncio.timeout(LONGEST_S), asyncio.TaskGroup() as group:
        for own in stores:
            group.create_task(work(own))
    assert begun == list(range(JOBS))


async def test_each_of_several_keys_has_its_order(store: JobStore) -> None:
    jobs = [keyed(number, f"k{number % 5}", limit=1 + number % 2) for number in range(JOBS)]
    for number, job in enumerate(jobs):  # one limit for all jobs of a key
        jobs[number] = job._replace(concurrency_limit=1 + number % 5 % 2)
    await store.enqueue(jobs)
    begun = await work_off(store, JOBS, limit=10)
    for key in range(5):
        mine = [number for number in begun if number % 5 == key]
        assert mine == list(range(key, JOBS, 5))


async def test_greater_priorities_come_first_and_in_order(store: JobStore) -> None:
    needs(store, "priorities")
    await store.enqueue([keyed(number, priority=number % 3) for number in range(JOBS)])
    begun = await work_off(store, JOBS, limit=10)
    expected = sorted(range(JOBS), key=lambda number: (-(number % 3), number))
    assert begun == expected


async def test_one_that_was_handed_back_keeps_its_place(store: JobStore) -> None:
    await store.enqueue([keyed(number) for number in range(4)])
    first = await lease_one(store)
    await store.enqueue([keyed(4)])
    assert await store.settle([unspent(first)]) == [True]
    assert await work_off(store, 5, limit=10) == [0, 1, 2, 3, 4]


async def test_one_without_a_key_that_was_handed_back_keeps_its_place(store: JobStore) -> None:
    await store.enqueue([new(params=json.dumps({"number": number})) for number in range(4)])
    first = await lease_all(store, 2)
    assert await store.settle([unspent(lease) for lease in reversed(first)]) == [True, True]
    assert await work_off(store, 4, limit=1) == [0, 1, 2, 3]


async def test_one_that_comes_back_later_takes_its_place_by_when_it_is_due(
    store: JobStore,
) -> None:
    await store.enqueue([keyed(number) for number in range(3)])
    first = await lease_one(store)
    assert await store.settle([back(first, SECOND)]) == [True]
    (second,) = await lease_now(store)
    assert number_of(second) == 1
    await store.settle([ended(second)])
    assert await work_off(store, 2, limit=10) == [2, 0]


async def test_one_whose_lease_ran_out_is_due_when_it_did(store: JobStore) -> None:
    await store.enqueue([keyed(number) for number in range(3)])
    await store.lease(QUEUE, limit=1, ttl=SHORT, wait=ZERO, worker="one that dies")
    assert await work_off(store, 3, limit=10) == [1, 2, 0]
