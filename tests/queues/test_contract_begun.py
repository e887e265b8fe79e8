"""A lease that runs out is a loss only if the work had begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.jobs import (
    KINDS,
    LONG,
    QUEUE,
    SECOND,
    SHORT,
    back,
    ended,
    fresh_engines,
    get,
    new,
)
from worker.jobs.history import attempts_of
from worker.jobs.job import Deferred, Held
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta
    from pathlib import Path

    from worker.jobs.job import Lease
    from worker.ports import JobStore

DEFERRED = Deferred(tasks=("other", "waits"), losses=1)


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[JobStore]:
    async with fresh_engines(request.param, tmp_path) as engines:
        yield await engines.open()


async def leased(store: JobStore, ttl: timedelta = SHORT, deferred: Deferred = DEFERRED) -> Lease:
    """The only job, once it is ready."""
    while True:
        leases = await store.lease(
            QUEUE, limit=1, ttl=ttl, wait=SECOND, worker="one", deferred=deferred
        )
        if leases:
            (lease,) = leases
            return lease


async def test_a_job_that_is_deferred_loses_nothing_before_it_begins(store: JobStore) -> None:
    await store.enqueue([job := new("waits")])
    for _ in range(2):
        await leased(store)
    lease = await leased(store, LONG)
    assert (lease.losses, lease.history) == (0, None)
    assert (await get(store, job.id)).losses == 0


async def test_one_that_is_not_deferred_has_begun_with_its_lease(store: JobStore) -> None:
    await store.enqueue([new("ping")])
    await leased(store)
    assert (await leased(store, LONG)).losses == 1


async def test_one_that_was_deferred_loses_its_lease_once_it_has_begun(store: JobStore) -> None:
    await store.enqueue([job := new("waits")])
    lease = await leased(store)
    assert await store.begin([lease], SHORT) == [Held.YES]
    assert (await leased(store, LONG)).losses == 1
    (attempt,) = attempts_of(await get(store, job.id))
    assert attempt.outcome.value == "lost"


async def test_one_that_has_lost_a_lease_is_deferred(store: JobStore) -> None:
    await store.enqueue([new("ping")])
    await leased(store)
    assert (await leased(store)).losses == 1
    lease = await leased(store)
    assert lease.losses == 1
    await store.begin([lease], SHORT)
    assert (await leased(store, LONG)).losses == 2


async def test_whether_it_has_begun_is_asked_for_each_lease_anew(store: JobStore) -> None:
    await store.enqueue([new("waits")])
    lease = await leased(store, LONG)
    assert await store.begin([lease], LONG) == [Held.YES]
    assert await store.settle([back(lease)]) == [True]
    await leased(store)
    assert (await leased(store, LONG)).losses == 0


async def test_one_that_was_deferred_is_not_in_the_next_lease_without(store: JobStore) -> None:
    await store.enqueue([new("waits")])
    lease = await leased(store, LONG)
    assert await store.settle([back(lease)]) == [True]
    await leased(store, deferred=Deferred())
    assert (await leased(store, LONG)).losses == 1


async def test_to_begin_extends_the_lease_and_tells_what_became_of_it(store: JobStore) -> None:
    await store.enqueue([job := new("waits")])
    lease = await leased(store)
    assert await store.begin([lease], LONG) == [Held.YES]
    assert (await get(store, job.id)).state is State.STARTED
    assert await store.lease(QUEUE, limit=1, ttl=LONG, wait=2 * SHORT, worker="two") == []
    await store.cancel([job.id])
    assert await store.begin([lease], LONG) == [Held.CANCEL]
    assert await store.settle([ended(lease)]) == [True]
    assert await store.begin([lease], LONG) == [Held.LOST]
