"""What every engine promises of what is known of jobs: `worker.ports.JobRecords`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.jobs import (
    LONG,
    PROMPT_S,
    QUEUE,
    SECOND,
    SHORT,
    ZERO,
    back,
    dead,
    ended,
    get,
    lease_all,
    lease_now,
    lease_one,
    needs,
    new,
    passed,
)
from tests.support.waiting import LONGEST_S
from worker.jobs.job import (
    Enqueued,
    Held,
    Job,
    JobId,
    JobQuery,
    Lease,
    QueueCount,
    Requeued,
    Unique,
)
from worker.model import State

if TYPE_CHECKING:
    from tests.support.jobs import Engines
    from worker.jobs.job import NewJob
    from worker.ports import JobStore

NOBODY = JobId("nobody")
TEXT = '{"b": "“later” \N{SNOWMAN} \\u0000 \\ud800", "a": [1.50, null],  "a": {}}'


@pytest.fixture(autouse=True)
def looks_up(store: JobStore) -> None:
    needs(store, "lookup")


# One job


async def test_a_job_that_nobody_recorded_is_not_there(store: JobStore) -> None:
    job = new()
    await store.enqueue([job])
    there, not_there = await store.get([job.id, NOBODY])
    assert there is not None
    assert not_there is None
    assert await store.get([]) == []


async def test_a_job_that_waits_is_recorded_with_all_that_was_asked(store: JobStore) -> None:
    asked = new(
        "billing.send",
        params=TEXT,
        version=3,
        priority=-7 if store.capabilities.priorities else 0,
        delay=timedelta(minutes=5),
        expires=LONG,
        options='{"max_retries": 2}',
        headers='{"traceparent": "00-abc"}',
        unique=Unique("u", (State.PENDING,)) if store.capabilities.unique else None,
        concurrency_key="c" if store.capabilities.concurrency else None,
    )
    before = datetime.now(UTC)
    await store.enqueue([asked])
    job = await get(store, asked.id)
    for name in ("id", "task", "queue", "params", "version", "priority", "options", "headers"):
        assert getattr(job, name) == getattr(asked, name), name
    assert job.unique_key == (asked.unique and asked.unique.key)
    assert job.concurrency_key == asked.concurrency_key
    assert job.state is State.PENDING
    assert abs(job.created_at - before) < 5 * SECOND
    assert abs(job.ready_at - job.created_at - asked.delay) < SECOND
    assert job.expires_at is not None
    assert abs(job.expires_at - job.created_at - LONG) < SECOND
    for nothing in (job.started_at, job.finished_at, job.result_until, job.worker):
        assert nothing is None
    assert (job.progress, job.result, job.error) == (None, None, None)
    assert (job.deliveries, job.losses, job.attempts, job.refusals) == (0, 0, 0, 0)
    assert (job.dead, job.cancel) == (False, False)


async def test_a_job_that_runs_is_recorded_with_its_worker_and_its_lease(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store, worker="host-7:12 \N{SNOWMAN}")
    job = await get(store, lease.id)
    assert (job.state, job.worker) == (State.STARTED, "host-7:12 \N{SNOWMAN}")
    assert job.deliveries == 1
    assert job.started_at is not None
    assert abs(job.ready_at - job.started_at - LONG) < SECOND
    assert await store.extend([lease], 2 * LONG) == [Held.YES]
    extended = await get(store, lease.id)
    assert abs(extended.ready_at - job.ready_at - LONG) < 5 * SECOND
    assert extended.started_at == job.started_at


async def test_a_lost_lease_is_recorded_when_the_job_is_leased_again(store: JobStore) -> None:
    await store.enqueue([new()])
    await lease_one(store, ttl=SHORT)
    lease = await lease_one(store, worker="two")
    job = await get(store, lease.id)
    assert (job.state, job.worker) == (State.STARTED, "two")
    assert (job.deliveries, job.losses) == (2, 1)


# Results


async def test_a_result_is_kept_for_its_time(store: JobStore) -> None:
    await store.enqueue([new(), new(), new()])
    leases = await lease_all(store, 3)
    short = ended(leases[0], result=TEXT, result_ttl=5 * SHORT)
    kept = ended(leases[1], result="[1, 2]", result_ttl=LONG)
    await store.settle([short, kept, ended(leases[2])])
    job = await get(store, leases[0].id)
    assert job.finished_at is not None
    assert job.result_until is not None
    if datetime.now(UTC) < job.result_until:
        assert job.result == TEXT
    assert abs(job.result_until - job.finished_at - 5 * SHORT) < SECOND
    await passed(6 * SHORT)
    found = await store.get([lease.id for lease in leases])
    assert [job and job.state for job in found] == [State.SUCCESS] * 3
    assert [job and job.result for job in found] == [None, "[1, 2]", None]
    listed = {job.id: job.result for job in await store.find(JobQuery())}
    assert [listed[lease.id] for lease in leases] == [None, "[1, 2]", None]


async def test_what_a_failed_attempt_left_is_gone_after_a_success(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.settle([ended(lease, State.RETRY, error='{"type":"E"}')])
    await store.settle([ended(await lease_one(store), result='"fine"')])
    job = await get(store, lease.id)
    assert (job.state, job.attempts, job.error, job.result) == (State.SUCCESS, 2, None, '"fine"')


async def test_a_failure_can_have_a_result_too(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.settle([ended(lease, State.FAILURE, error='{"type":"E"}', result="7")])
    job = await get(store, lease.id)
    assert (job.state, job.error, job.result) == (State.FAILURE, '{"type":"E"}', "7")


# Progress


async def test_progress_is_told_over_and_over(engines: Engines, store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    other = await engines.open()
    for progress in ('{"percent":10}', TEXT):
        await store.tell(lease, progress)
        job = await get(other, lease.id)
        assert (job.state, job.progress) == (State.PROGRESS, progress)
    assert await store.extend([lease], LONG) == [Held.YES]
    assert await store.settle([ended(lease)]) == [True]
    assert (await get(store, lease.id)).state is State.SUCCESS


async def test_a_next_attempt_begins_without_progress(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.tell(lease, '{"percent":10}')
    await store.settle([ended(lease, State.RETRY)])
    job = await get(store, lease.id)
    assert (job.state, job.progress) == (State.RETRY, None)
    lease = await lease_one(store, ttl=SHORT)
    await store.tell(lease, '{"percent":20}')
    lease = await lease_one(store)
    job = await get(store, lease.id)
    assert (job.state, job.progress, job.losses) == (State.STARTED, None, 1)


async def test_progress_of_a_job_that_ended_changes_nothing(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.settle([ended(lease)])
    await store.tell(lease, '{"percent":99}')
    job = await get(store, lease.id)
    assert (job.state, job.progress) == (State.SUCCESS, None)


# Wait


async def test_who_waits_for_a_job_is_woken_by_its_end(engines: Engines, store: JobStore) -> None:
    loop = asyncio.get_running_loop()
    for other in (store, await engines.open()):
        await store.enqueue([new()])
        lease = await lease_one(store)
        waiting = [asyncio.create_task(other.wait(lease.id, 10 * SECOND)) for _ in range(2)]
        await passed(SHORT)
        await store.tell(lease, "{}")
        assert not any(task.done() for task in waiting)
        at = loop.time()
        await store.settle([ended(lease, result="7")])
        for job in await asyncio.gather(*waiting):
            assert job is not None
            assert (job.state, job.result) == (State.SUCCESS, "7")
        assert loop.time() - at < PROMPT_S


async def test_who_waits_is_woken_by_a_job_that_is_revoked(
    engines: Engines, store: JobStore
) -> None:
    job = new(delay=LONG)
    await store.enqueue([job])
    waiting = asyncio.create_task((await engines.open()).wait(job.id, 10 * SECOND))
    await passed(SHORT)
    await store.cancel([job.id])
    async with asyncio.timeout(PROMPT_S + 1):
        revoked = await waiting
    assert revoked is not None
    assert revoked.state is State.REVOKED


async def test_a_job_that_goes_back_has_not_ended(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    waiting = asyncio.create_task(store.wait(lease.id, 10 * SECOND))
    await store.settle([ended(lease, State.RETRY)])
    lease = await lease_one(store)
    await passed(SHORT)
    assert not waiting.done()
    await store.settle([ended(lease)])
    job = await waiting
    assert job is not None
    assert job.state is State.SUCCESS


async def test_a_wait_that_is_over_tells_how_the_job_stands(store: JobStore) -> None:
    loop = asyncio.get_running_loop()
    job = new(delay=LONG)
    await store.enqueue([job])
    at = loop.time()
    waited = await store.wait(job.id, SHORT)
    assert loop.time() - at >= SHORT.total_seconds() * 0.9
    assert loop.time() - at < SHORT.total_seconds() + PROMPT_S
    assert waited is not None
    assert waited.state is State.PENDING
    waited = await store.wait(job.id, ZERO)
    assert waited is not None
    assert waited.state is State.PENDING


async def test_nobody_waits_for_a_job_that_has_ended_or_is_unknown(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.settle([ended(lease)])
    async with asyncio.timeout(LONGEST_S):
        job = await store.wait(lease.id, LONG)
        assert await store.wait(NOBODY, LONG) is None
    assert job is not None
    assert job.state is State.SUCCESS


async def test_a_wait_that_is_cancelled_harms_no_other(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    one, two = [asyncio.create_task(store.wait(lease.id, 10 * SECOND)) for _ in range(2)]
    await passed(SHORT)
    one.cancel()
    await asyncio.wait({one})
    await store.settle([ended(lease)])
    job = await two
    assert job is not None
    assert job.state is State.SUCCESS


# Find and count


async def test_jobs_are_listed_those_created_last_first(store: JobStore) -> None:
    jobs = [new(id=f"job-{number}") for number in (3, 1, 2)]
    for job in jobs:
        await store.enqueue([job])
        await passed(timedelta(milliseconds=3))
    await store.enqueue([new(id=f"same-{number}") for number in (3, 1, 2)])
    found = await store.find(JobQuery())
    assert [job.id for job in found[3:]] == ["job-2", "job-1", "job-3"]
    assert {job.id for job in found[:3]} == {"same-1", "same-2", "same-3"}
    by_id = sorted(found, key=lambda job: job.id)
    assert found == sorted(by_id, key=lambda job: job.created_at, reverse=True)
    assert await store.find(JobQuery(limit=2)) == found[:2]
    assert await store.get([job.id for job in found]) == found


async def test_jobs_are_found_by_task_queue_state_and_time(store: JobStore) -> None:
    await store.enqueue([new("a"), new("b")])
    done, failed = await lease_all(store, 2)
    await store.settle([ended(done), dead(failed)])
    await store.enqueue([new("a", queue="other", delay=LONG), new("b")])
    running = await lease_one(store)
    await store.tell(running, "{}")
    (waiting,) = await store.find(JobQuery(queue="other"))

    async def found(**asked: object) -> set[str]:
        return {job.id for job in await store.find(JobQuery(**asked))}  # type: ignore[arg-type]

    assert await found() == {done.id, failed.id, running.id, waiting.id}
    assert await found(task="none") == set()
    assert await found(queue=QUEUE) == {done.id, failed.id, running.id}
    assert await found(task=waiting.task) == {
        lease.id for lease in (done, failed, running) if lease.task == waiting.task
    } | {waiting.id}
    assert await found(states=frozenset({State.PENDING})) == {waiting.id}
    assert await found(states=frozenset({State.SUCCESS, State.FAILURE})) == {done.id, failed.id}
    for state in (State.STARTED, State.PROGRESS):
        assert await found(states=frozenset({state})) == {running.id}
    assert await found(dead=True) == {failed.id}
    assert await found(dead=False) == {done.id, running.id, waiting.id}
    assert await found(dead=True, states=frozenset({State.SUCCESS})) == set()
    moment = waiting.created_at
    early = {job.id for job in await store.find(JobQuery()) if job.created_at < waiting.created_at}
    assert await found(before=moment) == early
    assert await found(since=moment) == await found() - early
    assert await found(since=moment, before=moment) == set()


async def test_jobs_are_counted_by_queue_task_and_state(store: JobStore) -> None:
    assert await store.counts() == []
    await store.enqueue([new("b"), new("b"), new("b")])
    one, two, three = await lease_all(store, 3)
    await store.settle([ended(one), dead(two), ended(three, State.FAILURE)])
    await store.enqueue([new("b", queue="a", delay=LONG), new("b"), new("b"), new("a")])
    assert (await store.find(JobQuery(task="a")))[0].state is State.PENDING
    counts = await store.counts()
    assert [count._replace(oldest=None) for count in counts] == [
        QueueCount("a", "b", State.PENDING, 1),
        QueueCount(QUEUE, "a", State.PENDING, 1),
        QueueCount(QUEUE, "b", State.FAILURE, 2, dead=1),
        QueueCount(QUEUE, "b", State.PENDING, 2),
    ]
    (job,) = await store.find(JobQuery(task="a"))
    assert [count.oldest for count in counts[:3]] == [None, job.ready_at, None]
    assert counts[3].oldest is not None


async def test_what_ended_lately_is_counted_by_queue_but_no_dead_letters(store: JobStore) -> None:
    assert await store.ended(LONG) == {}
    await store.enqueue([new() for _ in range(5)] + [new("b") for _ in range(3)])
    leases = await lease_all(store, 8)
    states = (State.SUCCESS, State.FAILURE, State.EXPIRED, State.SUCCESS, State.RETRY)
    await store.settle(
        [ended(lease, state, delay=LONG) for lease, state in zip(leases, states, strict=False)]
    )
    await store.settle([dead(lease) for lease in leases[5:]])
    await store.enqueue([new(queue="other"), new()])
    await store.settle([ended(await lease_one(store, queue="other"))])
    assert await store.ended(LONG) == {QUEUE: 4, "other": 1}
    await passed(2 * SHORT)
    assert await store.ended(SHORT) == {}


async def test_jobs_that_run_are_found_wherever_they_stand(store: JobStore) -> None:
    running = frozenset({State.STARTED})
    await store.enqueue([new(id=f"{n}") for n in range(4)] + [new(id="later", delay=LONG)])
    leases = {lease.id: lease for lease in await lease_all(store, 4)}
    await store.settle([ended(leases[JobId("0")]), dead(leases[JobId("1")])])
    await store.tell(leases[JobId("2")], "{}")
    await lease_now(store)  # which looks at leases that ran out, too
    found = await store.find(JobQuery(states=running))
    assert {job.id for job in found} == {"2", "3"}
    assert [job.id for job in await store.find(JobQuery(states=running, limit=1))] == [found[0].id]
    assert await store.find(JobQuery(states=running, queue="other")) == []
    assert await store.find(JobQuery(states=running, task="other")) == []
    assert await store.find(JobQuery(states=running, dead=True)) == []
    assert await store.find(JobQuery(states=running, before=found[-1].created_at)) == []


async def test_a_job_that_runs_is_counted_as_what_its_record_says(store: JobStore) -> None:
    await store.enqueue([new(), new()])
    one, _ = await lease_all(store, 2)
    await store.tell(one, "{}")
    states = {count.state: count.jobs for count in await store.counts()}
    assert states == {State.PROGRESS: 1, State.STARTED: 1}


# Cancel


async def test_a_job_that_waits_is_revoked_at_once(engines: Engines, store: JobStore) -> None:
    job, delayed, retried = new(), new(delay=LONG), new()
    await store.enqueue([retried])
    await store.settle([ended(await lease_one(store), State.RETRY, delay=LONG)])
    await store.enqueue([job, delayed])
    other = await engines.open()
    asked = [job.id, NOBODY, delayed.id, retried.id]
    assert await other.cancel(asked) == [
        Requeued.DONE,
        Requeued.UNKNOWN,
        Requeued.DONE,
        Requeued.DONE,
    ]
    assert await lease_now(store) == []
    for found in await store.get([job.id, delayed.id, retried.id]):
        assert found is not None
        assert found.state is State.REVOKED
        assert found.finished_at is not None
    assert await store.cancel([job.id]) == [Requeued.NOT_NOW]


async def test_a_job_that_runs_is_asked_to_end(engines: Engines, store: JobStore) -> None:
    await store.enqueue([new(), new()])
    asked, other = await lease_all(store, 2)
    both = [asked.id, other.id, NOBODY]
    assert await store.cancelled(both) == []
    assert await (await engines.open()).cancel([asked.id]) == [Requeued.ASKED]
    assert await store.cancelled(both) == [asked.id]
    assert await store.extend([asked, other], LONG) == [Held.CANCEL, Held.YES]
    job = await get(store, asked.id)
    assert (job.state, job.cancel) == (State.STARTED, True)
    assert await store.settle([ended(asked, State.REVOKED)]) == [True]
    assert (await get(store, asked.id)).state is State.REVOKED
    assert await store.cancel([asked.id]) == [Requeued.NOT_NOW]


async def test_a_job_that_was_asked_to_end_is_leased_again_with_that_word(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store, ttl=SHORT)
    assert lease.cancel is False
    assert await store.cancel([lease.id]) == [Requeued.ASKED]
    again = await lease_one(store)
    assert (again.id, again.cancel) == (lease.id, True)


async def test_a_job_that_goes_back_although_it_was_asked_to_end_says_so_again(
    store: JobStore,
) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.cancel([lease.id])
    await store.settle([back(lease)])
    again = await lease_one(store)
    assert (again.id, again.cancel) == (lease.id, True)


async def test_a_job_that_was_asked_to_end_does_not_wait_for_another_attempt(
    store: JobStore,
) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.cancel([lease.id])
    assert await store.settle([back(lease, LONG)]) == [True]
    job = await get(store, lease.id)
    assert job.ready_at - job.created_at < LONG


async def test_a_lease_that_ran_out_and_was_not_taken_over_is_asked_to_end(
    store: JobStore,
) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store, ttl=SHORT)
    await passed(2 * SHORT)
    assert await store.cancel([lease.id]) == [Requeued.ASKED]
    assert await store.extend([lease], LONG) == [Held.CANCEL]


# Dead letters, retried and dropped by hand


async def test_a_dead_letter_is_kept_with_its_error(store: JobStore) -> None:
    await store.enqueue([new(params=TEXT)])
    lease = await lease_one(store)
    assert await store.settle([dead(lease)]) == [True]
    assert await lease_now(store) == []
    (job,) = await store.find(JobQuery(dead=True))
    assert (job.id, job.state, job.dead, job.params) == (lease.id, State.FAILURE, True, TEXT)
    assert job.error == '{"type":"E","message":"no"}'


@pytest.mark.parametrize("state", [State.FAILURE, State.REVOKED, State.EXPIRED])
async def test_a_job_that_is_retried_by_hand_begins_anew(
    engines: Engines, store: JobStore, state: State
) -> None:
    asked = new(expires=LONG, params=TEXT)
    await store.enqueue([asked])
    await lease_one(store, ttl=SHORT)
    lease = await lease_one(store)
    await store.tell(lease, "{}")
    await store.cancel([lease.id])
    said = ended(lease, state, attempts=4, refusals=2, error='{"type":"E"}', result="1", dead=True)
    await store.settle([said])
    other = await engines.open()
    waiting = asyncio.create_task(
        other.lease(QUEUE, limit=5, ttl=LONG, wait=10 * SECOND, worker="two")
    )
    await passed(SHORT)
    assert await store.retry([lease.id, NOBODY]) == [Requeued.DONE, Requeued.UNKNOWN]
    async with asyncio.timeout(PROMPT_S + 1):
        (again,) = await waiting
    assert (again.id, again.params, again.expires_at) == (asked.id, TEXT, None)
    assert (again.attempts, again.losses, again.refusals) == (0, 0, 0)
    assert again.cancel is False
    assert again.receipt != lease.receipt
    job = await get(store, asked.id)
    assert (job.state, job.dead, job.error, job.result) == (State.STARTED, False, None, None)
    assert (job.finished_at, job.progress, job.expires_at) == (None, None, None)
    assert await store.cancelled([job.id]) == []
    assert await store.settle([ended(lease), ended(again)]) == [False, True]


async def test_only_jobs_that_ended_without_success_are_retried_by_hand(store: JobStore) -> None:
    await store.enqueue([new(), new()])
    done, running = await lease_all(store, 2)
    await store.settle([ended(done)])
    waiting = new()
    await store.enqueue([waiting])
    asked = [done.id, running.id, waiting.id]
    assert await store.retry(asked) == [Requeued.NOT_NOW] * 3
    assert (await get(store, done.id)).state is State.SUCCESS
    assert await store.settle([ended(running)]) == [True]


async def test_a_job_is_dropped_once_it_has_ended(store: JobStore) -> None:
    await store.enqueue([new(), new(), new()])
    one, two, running = await lease_all(store, 3)
    await store.settle([ended(one), dead(two)])
    waiting = new()
    await store.enqueue([waiting])
    asked = [one.id, running.id, two.id, waiting.id, NOBODY]
    assert await store.drop(asked) == [
        Requeued.DONE,
        Requeued.NOT_NOW,
        Requeued.DONE,
        Requeued.NOT_NOW,
        Requeued.UNKNOWN,
    ]
    assert {job.id for job in await store.find(JobQuery())} == {running.id, waiting.id}
    assert await store.get([one.id, two.id]) == [None, None]
    assert await store.drop([one.id]) == [Requeued.UNKNOWN]


async def test_a_job_named_twice_is_retried_once(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.settle([dead(lease)])
    assert await store.retry([lease.id, lease.id]) == [Requeued.DONE, Requeued.NOT_NOW]
    assert (await lease_one(store)).id == lease.id
    assert await lease_now(store) == []


# Prune


async def test_jobs_that_ended_long_ago_are_forgotten_but_no_dead_letters(store: JobStore) -> None:
    await store.enqueue([new() for _ in range(6)])
    leases = await lease_all(store, 6)
    states = [State.SUCCESS, State.FAILURE, State.REVOKED, State.EXPIRED]
    said = [ended(lease, state) for lease, state in zip(leases, states, strict=False)]
    await store.settle([*said, dead(leases[4])])
    waiting = new()
    await store.enqueue([waiting])
    assert await store.prune(keep=LONG) == 0
    await passed(SHORT)
    assert await store.prune(keep=SHORT / 10) == 4
    kept = {leases[4].id, leases[5].id, waiting.id}
    assert {job.id for job in await store.find(JobQuery())} == kept
    assert await store.prune(keep=ZERO) == 0


async def test_no_more_are_forgotten_at_a_time_than_asked(store: JobStore) -> None:
    await store.enqueue([new() for _ in range(7)])
    await store.settle([ended(lease) for lease in await lease_all(store, 7)])
    await passed(SHORT)
    assert [await store.prune(keep=ZERO, limit=3) for _ in range(4)] == [3, 3, 1, 0]
    assert await store.counts() == []


# Records of jobs that another engine carries


def carried(**rest: Any) -> NewJob:
    return new(queue="sqs/billing", **rest)


async def claim_one(
    store: JobStore, job: JobId, *, ttl: timedelta = LONG, worker: str = "one"
) -> Lease:
    """The lease of a job, which has to be ready soon."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONGEST_S
    while loop.time() < deadline:
        (told,) = await store.claim([job], ttl=ttl, worker=worker)
        if isinstance(told, Lease):
            return told
        await passed(SHORT / 10)
    raise AssertionError(f"job {job} could not be claimed, got {told}")


async def test_carried_jobs_are_claimed_by_their_ids(store: JobStore) -> None:
    needs(store, "claims")
    assert await store.claim([], ttl=LONG, worker="one") == []
    job, other = carried(params=TEXT, options='{"a":1}', expires=LONG, version=3), carried()
    later = carried(delay=LONG)
    await store.enqueue([job, other, later])
    asked = [job.id, NOBODY, later.id]
    lease, nobody, waits = await store.claim(asked, ttl=LONG, worker="one")
    assert isinstance(lease, Lease)
    assert (lease.id, lease.queue, lease.params) == (job.id, "sqs/billing", TEXT)
    assert (lease.options, lease.version, lease.deliveries) == ('{"a":1}', 3, 1)
    assert nobody is None
    assert waits == await get(store, later.id)
    assert (await get(store, other.id)).state is State.PENDING
    running = await get(store, job.id)
    assert (running.state, running.worker) == (State.STARTED, "one")


async def test_carried_jobs_come_once_and_hold_their_keys(store: JobStore) -> None:
    needs(store, "claims", "unique")
    job = carried(unique=Unique("u", (State.PENDING, State.STARTED)))
    assert await store.enqueue([job]) == [Enqueued(job.id, created=True)]
    assert await store.enqueue([job, carried(unique=job.unique)]) == [
        Enqueued(job.id, created=False),
        Enqueued(job.id, created=False),
    ]
    lease = await claim_one(store, job.id)
    assert await store.enqueue([carried(unique=job.unique)]) == [Enqueued(job.id, created=False)]
    await store.settle([ended(lease)])
    (told,) = await store.enqueue([carried(unique=job.unique)])
    assert told.created


async def test_a_carried_job_is_leased_by_whoever_claims_it_only(
    engines: Engines, store: JobStore
) -> None:
    needs(store, "claims")
    job, plain = carried(), new(queue="billing")
    await store.enqueue([job, plain])
    assert await lease_now(store, queue="billing") != []
    assert await lease_now(store) == []
    lease = await claim_one(store, job.id)
    other = await engines.open()
    (told,) = await other.claim([job.id], ttl=LONG, worker="two")
    assert told == await get(store, job.id)
    assert await store.extend([lease], 2 * LONG) == [Held.YES]
    assert await store.settle([ended(lease, result="7")]) == [True]
    (told,) = await other.claim([job.id], ttl=LONG, worker="two")
    assert told == await get(store, job.id)


async def test_a_job_of_the_engine_itself_cannot_be_claimed(store: JobStore) -> None:
    needs(store, "claims")
    job = new()
    await store.enqueue([job])
    (told,) = await store.claim([job.id], ttl=LONG, worker="one")
    assert told == await get(store, job.id)
    assert (await lease_one(store)).id == job.id


async def test_a_carried_job_is_claimed_by_one_of_many(engines: Engines, store: JobStore) -> None:
    needs(store, "claims")
    workers = [store, *[await engines.open() for _ in range(3)]]
    jobs = [carried() for _ in range(50)]
    await store.enqueue(jobs)
    asked = [job.id for job in jobs]
    told = await asyncio.gather(*[w.claim(asked, ttl=LONG, worker="some") for w in workers])
    leases = [lease.id for answers in told for lease in answers if isinstance(lease, Lease)]
    assert sorted(leases) == sorted(asked)


async def test_a_claim_that_ran_out_is_lost_once_another_claims_the_job(store: JobStore) -> None:
    needs(store, "claims")
    job = carried()
    await store.enqueue([job])
    lost = await claim_one(store, job.id, ttl=SHORT)
    lease = await claim_one(store, job.id, worker="two")
    assert (lease.deliveries, lease.losses) == (2, 1)
    assert lease.receipt != lost.receipt
    await store.tell(lost, '{"percent":99}')
    assert await store.extend([lost, lease], LONG) == [Held.LOST, Held.YES]
    assert await store.settle([ended(lost), ended(lease)]) == [False, True]
    assert (await get(store, job.id)).progress is None


async def test_a_carried_job_goes_back_and_is_claimed_when_it_is_ready(store: JobStore) -> None:
    needs(store, "claims")
    job = carried()
    await store.enqueue([job])
    lease = await claim_one(store, job.id)
    error = '{"type":"E","message":"once"}'
    await store.settle([ended(lease, State.RETRY, delay=2 * SHORT, error=error)])
    (told,) = await store.claim([job.id], ttl=LONG, worker="one")
    assert isinstance(told, Job)
    assert (told.state, told.error) == (State.RETRY, error)
    again = await claim_one(store, job.id)
    assert (again.attempts, again.losses, again.deliveries) == (1, 0, 2)
    assert again.due_at - lease.due_at >= 2 * SHORT


async def test_carried_jobs_are_found_waited_for_cancelled_retried_and_pruned_as_all_others(
    engines: Engines, store: JobStore
) -> None:
    needs(store, "claims")
    jobs = waits, runs, done, failed = [carried() for _ in range(4)]
    await store.enqueue(jobs)
    leases = [await claim_one(store, job.id) for job in (runs, done, failed)]
    waiting = asyncio.create_task((await engines.open()).wait(done.id, 10 * SECOND))
    await passed(SHORT)
    assert await store.settle([ended(leases[1], result="7"), dead(leases[2])]) == [True, True]
    async with asyncio.timeout(PROMPT_S + 1):
        result = await waiting
    assert result is not None
    assert (result.queue, result.result) == ("sqs/billing", "7")
    assert await store.cancel([waits.id, runs.id]) == [Requeued.DONE, Requeued.ASKED]
    assert await store.cancelled([runs.id, done.id]) == [runs.id]
    (revoked,) = await store.claim([waits.id], ttl=LONG, worker="one")
    assert isinstance(revoked, Job)
    assert revoked.state is State.REVOKED
    assert {job.id for job in await store.find(JobQuery(queue="sqs/billing"))} == {
        job.id for job in jobs
    }
    assert [(count.queue, count.state, count.dead) for count in await store.counts()] == [
        ("sqs/billing", State.FAILURE, 1),
        ("sqs/billing", State.REVOKED, 0),
        ("sqs/billing", State.STARTED, 0),
    ]
    assert await store.retry([failed.id, done.id]) == [Requeued.DONE, Requeued.NOT_NOW]
    assert (await claim_one(store, failed.id)).attempts == 0
    assert await store.drop([waits.id, runs.id]) == [Requeued.DONE, Requeued.NOT_NOW]
    await passed(SHORT)
    assert await store.prune(keep=ZERO) == 1
    assert {job.id for job in await store.find(JobQuery())} == {runs.id, failed.id}
