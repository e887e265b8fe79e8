"""Callers that want the same ids or unique keys do not wait for each other in a circle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.queues.test_postgres_transaction import (
    Caller,
    over_async_psycopg,
    over_async_sqlalchemy,
    over_asyncpg,
)
from tests.support.jobs import get, new
from tests.support.postgres import fresh_postgres_url
from worker import TransactionDeadlock
from worker.jobs.job import JobId, Unique
from worker.model import State
from worker.queues.postgres import PostgresJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from worker.jobs.job import NewJob

ROUNDS = 5
MANY = 300


@pytest.fixture
def url() -> Iterator[str]:
    with fresh_postgres_url() as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresJobs]:
    store = PostgresJobs(url)
    await store.open()
    yield store
    await store.close()


def with_id(name: str) -> NewJob:
    return new(id=name)


def with_key(name: str) -> NewJob:
    return new(unique=Unique(name, (State.PENDING,)))


@pytest.mark.parametrize("make", [with_id, with_key])
async def test_one_call_takes_its_locks_in_one_order(
    url: str, store: PostgresJobs, make: Callable[[str], NewJob]
) -> None:
    async def enqueue(caller: Caller, names: list[str]) -> None:
        await caller.enqueue([make(name) for name in names])
        await caller.commit()

    async with over_async_psycopg(url) as one, over_async_psycopg(url) as other:
        for number in range(ROUNDS):
            names = [f"{number}-{n}" for n in range(MANY)]
            await asyncio.gather(enqueue(one, names), enqueue(other, names[::-1]))
    counts = await store.counts()
    assert [count.jobs for count in counts] == [ROUNDS * MANY]


@pytest.mark.parametrize("make", [with_id, with_key])
@pytest.mark.parametrize("over", [over_async_psycopg, over_asyncpg, over_async_sqlalchemy])
async def test_a_deadlock_of_several_calls_says_what_to_do(
    url: str,
    store: PostgresJobs,
    make: Callable[[str], NewJob],
    over: Callable[[str], AbstractAsyncContextManager[Caller]],
) -> None:
    async with over(url) as one, over(url) as other:
        await one.enqueue([make("a")])
        await other.enqueue([make("b")])
        told = await asyncio.gather(
            *(finish(one, make("b")), finish(other, make("a"))), return_exceptions=True
        )
        failed = [answer for answer in told if answer is not None]
        assert len(failed) == 1
        assert isinstance(failed[0], TransactionDeadlock)
        assert "repeat it" in str(failed[0])
        await (one if told[0] is not None else other).rollback()
    async with over(url) as again:
        await again.enqueue([make("c")])
        await again.commit()
    (count,) = await store.counts()
    assert count.jobs == 3


async def finish(caller: Caller, job: NewJob) -> None:
    await caller.enqueue([job])
    await caller.commit()


async def test_jobs_of_one_call_keep_their_order_whatever_their_ids(store: PostgresJobs) -> None:
    ids = [f"{number:03}" for number in range(50)][::-1]
    await store.enqueue([new(id=name) for name in ids])
    first = await get(store, JobId(ids[0]))
    last = await get(store, JobId(ids[-1]))
    assert first.created_at == last.created_at
    assert first.ready_at < last.ready_at
