"""What every engine keeps of a job's attempts: `worker.jobs.history`."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.consuming import open_bench
from tests.support.jobs import (
    LONG,
    QUEUE,
    SECOND,
    SHORT,
    ZERO,
    dead,
    ended,
    get,
    lease_all,
    lease_one,
    needs,
    new,
)
from tests.support.waiting import wait_until
from worker import RunContext, task
from worker.jobs.history import AttemptOutcome, attempts_of
from worker.jobs.job import JobId, JobQuery, Lease, Requeued
from worker.jobs.verdict import unspent
from worker.model import State

if TYPE_CHECKING:
    from tests.support.jobs import Engines
    from worker.ports import JobStore

TOLD = '[{"attempt":1,"message":"“no” \\u0000 \\ud800 \N{SNOWMAN} \' \\" ]"}]'
ERROR = '{"type":"E","message":"no"}'


@pytest.fixture(autouse=True)
def looks_up(store: JobStore) -> None:
    needs(store, "lookup")


async def test_a_history_comes_with_the_next_lease_and_stays_until_the_end(
    store: JobStore,
) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    assert lease.history is None
    await store.settle([ended(lease, State.RETRY, error=ERROR, history=TOLD)])
    assert (await get(store, lease.id)).history == TOLD
    lease = await lease_one(store)
    assert lease.history == TOLD
    assert (await get(store, lease.id)).history == TOLD
    await store.settle([ended(lease, history="[1]")])
    job = await get(store, lease.id)
    assert (job.state, job.history, job.error) == (State.SUCCESS, "[1]", None)


async def test_what_a_settlement_does_not_mention_stays(store: JobStore) -> None:
    await store.enqueue([new() for _ in range(4)])
    leases = await lease_all(store, 4)
    await store.settle([ended(lease, State.RETRY, error=ERROR, history=TOLD) for lease in leases])
    again = await lease_all(store, 4)
    await store.settle(
        [
            unspent(again[0], delay=LONG),
            ended(again[1], State.REVOKED, attempts=1),
            dead(again[2]),
            ended(again[3]),
        ]
    )
    found = [await get(store, lease.id) for lease in again]
    assert [job.history for job in found] == [TOLD] * 4
    assert [job.state for job in found] == [
        State.RETRY,
        State.REVOKED,
        State.FAILURE,
        State.SUCCESS,
    ]
    assert [job.error for job in found] == [ERROR, ERROR, ERROR, None]


async def test_a_job_that_succeeds_at_once_has_none(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.settle([ended(lease)])
    assert (await get(store, lease.id)).history is None


async def test_a_lost_lease_is_told_with_its_worker_and_its_time(store: JobStore) -> None:
    await store.enqueue([new()])
    worker = 'host "7" \\ \N{SNOWMAN}'
    before = datetime.now(UTC)
    await store.settle([ended(await lease_one(store), State.RETRY, history='[{"attempt":1}]')])
    await lease_one(store, ttl=SHORT, worker=worker)
    running = await get(store, (await lease_one(store, ttl=SHORT, worker="two")).id)
    lease = await lease_one(store, worker="three")
    assert lease.losses == 2
    job = await get(store, lease.id)
    assert job.history == lease.history
    assert json.loads(lease.history or "")[0] == {"attempt": 1}
    one, two = attempts_of(job)
    assert (one.outcome, two.outcome) == (AttemptOutcome.LOST, AttemptOutcome.LOST)
    assert (one.worker, two.worker) == (worker, "two")
    assert (one.attempt, two.attempt) == (2, 2)
    assert two.started_at == running.started_at
    assert abs(one.started_at - before) < 10 * SECOND
    assert SHORT <= one.finished_at - one.started_at < SHORT + 2 * SECOND
    assert one.finished_at <= two.started_at + timedelta(milliseconds=1)


async def test_a_lost_lease_of_a_carried_job_is_told_as_well(store: JobStore) -> None:
    needs(store, "claims")
    job = new(queue="sqs/billing")
    await store.enqueue([job])
    (first,) = await store.claim([job.id], ttl=timedelta(0), worker="one")
    assert isinstance(first, Lease)
    (second,) = await store.claim([job.id], ttl=LONG, worker="two")
    assert isinstance(second, Lease)
    (lost,) = attempts_of(await get(store, job.id))
    assert (lost.outcome, lost.worker) == (AttemptOutcome.LOST, "one")
    assert second.history == (await get(store, job.id)).history


async def test_it_survives_a_wish_to_end_and_a_retry_by_hand(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.settle([ended(lease, State.RETRY, error=ERROR, delay=LONG, history=TOLD)])
    assert await store.cancel([lease.id]) == [Requeued.DONE]
    job = await get(store, lease.id)
    assert (job.state, job.history, job.error) == (State.REVOKED, TOLD, ERROR)
    assert await store.retry([lease.id]) == [Requeued.DONE]
    job = await get(store, lease.id)
    assert (job.state, job.history, job.error, job.attempts) == (State.PENDING, TOLD, None, 0)
    assert (await lease_one(store)).history == TOLD


async def test_lists_leave_it_out(store: JobStore) -> None:
    await store.enqueue([new(), new()])
    one, two = await lease_all(store, 2)
    await store.settle([dead(one)._replace(history=TOLD)])
    await store.settle([ended(two, State.RETRY, delay=LONG, history=TOLD)])
    for query in (JobQuery(), JobQuery(queue=QUEUE, dead=True)):
        assert {job.history for job in await store.find(query)} == {None}
    assert (await get(store, JobId(one.id))).history == TOLD


# With a real worker


async def test_a_worker_keeps_what_came_of_each_attempt(store: JobStore) -> None:
    begun: list[int] = []

    @task(retry_delay="0s", queue=QUEUE)
    async def moody(context: RunContext) -> str:
        begun.append(1)
        if len(begun) == 1:
            raise LookupError("x" * 494 + "s3cret-token")  # on both sides of the cut
        if len(begun) == 2:
            context.snooze("0s")
        return "fine"

    async with open_bench(redact=lambda text: text.replace("s3cret-token", "***")) as bench:
        bench.use(store)
        job = await bench.client.enqueue(moody)
        async with bench.working(moody):
            await bench.is_in(job, State.SUCCESS)
            done = await bench.info(job)
    history = attempts_of(done)
    assert [one.outcome.value for one in history] == ["failed", "snoozed", "succeeded"]
    assert [one.attempt for one in history] == [1, 2, 2]
    assert {one.worker for one in history} == {"one"}
    failed, snoozed, succeeded = history
    assert (failed.type, failed.message) == ("LookupError", "x" * 494 + "***")
    assert (snoozed.type, succeeded.type, done.error) == (None, None, None)
    assert failed.started_at <= failed.finished_at


async def test_a_job_that_is_given_back_after_a_failure_keeps_its_error(
    engines: Engines, store: JobStore
) -> None:
    begun: list[int] = []

    @task(retry_delay="0s", queue=QUEUE)
    async def stays() -> None:
        begun.append(1)
        if len(begun) == 1:
            raise LookupError("nobody is at home")
        await asyncio.Event().wait()

    async with open_bench() as bench:
        bench.use(store)
        job = await bench.client.enqueue(stays)
        async with bench.working(stays, grace=ZERO):
            await wait_until(lambda: len(begun) == 2, "it runs again")
    told = await get(await engines.open(), JobId(job.id))
    assert told.state is State.RETRY
    assert json.loads(told.error or "")["message"] == "nobody is at home"
    assert [one.outcome.value for one in attempts_of(told)] == ["failed", "given_back"]
