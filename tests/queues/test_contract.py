"""What every engine promises of jobs on their way to a worker: `worker.ports.JobQueue`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
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
from worker.jobs.job import Enqueued, Grant, Held, Rate, Unique
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.jobs import Engines
    from worker.jobs.job import JobId, Lease, NewJob
    from worker.ports import JobStore

TEXT = '{"b": "“later” \N{SNOWMAN} \\u0000 \\ud800", "a": [1.50, null],  "a": {}}'
"""JSON, which an engine hands on as it is: its order, its spaces and what it says twice."""
WAITING = (State.PENDING, State.RETRY, State.STARTED)


def unique(key: str, states: Sequence[State] = WAITING, ttl: timedelta | None = None) -> NewJob:
    return new(unique=Unique(key, tuple(states), ttl))


def ids(leases: Sequence[Lease]) -> list[JobId]:
    return [lease.id for lease in leases]


# Enqueue


async def test_a_job_comes_to_its_worker_as_it_was_enqueued(store: JobStore) -> None:
    job = new(
        "billing.send",
        id="invoice-7:2026.11/a@b=c+d_e",
        params=TEXT,
        version=3,
        priority=7 if store.capabilities.priorities else 0,
        expires=LONG,
        options='{"max_retries": 2}',
        headers='{"traceparent": "00-abc"}',
    )
    assert await store.enqueue([job]) == [Enqueued(job.id, created=True)]
    lease = await lease_one(store)
    for name in ("id", "task", "queue", "params", "version", "priority", "options", "headers"):
        assert getattr(lease, name) == getattr(job, name), name
    assert (lease.deliveries, lease.losses, lease.attempts, lease.refusals) == (1, 0, 0, 0)
    assert lease.cancel is False
    assert lease.expires_at is not None
    assert lease.expired is False
    assert abs(lease.expires_at - lease.created_at - LONG) < SECOND
    assert abs(lease.due_at - lease.created_at) < SECOND
    assert lease.created_at.utcoffset() == ZERO


async def test_whether_a_job_is_too_late_is_told_by_the_engines_clock(store: JobStore) -> None:
    late, prompt = new(expires=SHORT), new(expires=LONG)
    await store.enqueue([late, prompt, new()])
    await passed(2 * SHORT)
    leases = await lease_all(store, 3)
    assert [lease.id for lease in leases if lease.expired] == [late.id]


async def test_no_job_is_no_question(store: JobStore) -> None:
    assert await store.enqueue([]) == []
    assert await store.settle([]) == []
    assert await store.extend([], LONG) == []
    assert await lease_now(store) == []


async def test_jobs_of_one_queue_are_leased_in_the_order_in_which_they_came(
    store: JobStore,
) -> None:
    needs(store, "ordered")
    jobs = [new() for _ in range(30)]
    for part in (jobs[:1], jobs[1:20], jobs[20:]):
        await store.enqueue(part)
    assert ids(await lease_all(store, 30)) == [job.id for job in jobs]


async def test_a_queue_has_its_own_jobs_only(store: JobStore) -> None:
    jobs = [new(queue="mail"), new(queue="billing"), new(queue="mail")]
    await store.enqueue(jobs)
    (billing,) = await lease_all(store, 1, queue="billing")
    mail = await lease_all(store, 2, queue="mail")
    assert billing.id == jobs[1].id
    assert set(ids(mail)) == {jobs[0].id, jobs[2].id}


async def test_the_same_id_twice_is_one_job(engines: Engines, store: JobStore) -> None:
    needs(store, "unique")
    job, other = new(params='{"n":1}'), new()
    assert await store.enqueue([job, job._replace(params='{"n":2}'), other]) == [
        Enqueued(job.id, created=True),
        Enqueued(job.id, created=False),
        Enqueued(other.id, created=True),
    ]
    again = await engines.open()
    assert await again.enqueue([job]) == [Enqueued(job.id, created=False)]
    leases = await lease_all(store, 2)
    assert {lease.id: lease.params for lease in leases} == {job.id: '{"n":1}', other.id: "{}"}
    assert await again.enqueue([job]) == [Enqueued(job.id, created=False)]
    assert await store.settle([ended(lease) for lease in leases]) == [True, True]
    assert await store.enqueue([job]) == [Enqueued(job.id, created=False)]
    assert await lease_now(store) == []


async def test_the_same_id_from_several_producers_at_once_is_created_by_one(
    engines: Engines, store: JobStore
) -> None:
    needs(store, "unique")
    producers = [store, *[await engines.open() for _ in range(3)]]
    jobs = [new() for _ in range(20)]
    answers = await asyncio.gather(*[p.enqueue(jobs) for p in producers for _ in range(2)])
    for job, *told in zip(jobs, *answers, strict=True):
        assert [answer.id for answer in told] == [job.id] * 8
        assert sum(answer.created for answer in told) == 1
    await lease_all(store, 20)
    assert await lease_now(store) == []


async def test_an_enqueue_that_is_cancelled_takes_in_all_or_none(store: JobStore) -> None:
    needs(store, "atomic")
    for number in range(12):
        jobs = [new(queue=f"q{number}") for _ in range(100)]
        task = asyncio.create_task(store.enqueue(jobs))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        # In whatever state the connection was left, what comes next is heard after it.
        await store.enqueue([new(queue="other")])
        there = [job for job in await store.get([job.id for job in jobs]) if job is not None]
        assert len(there) in (0, 100)
        if not task.cancelled():
            assert len(there) == 100
        assert len(await lease_now(store, 200, queue=f"q{number}")) in (0, 100)


async def test_what_was_enqueued_outlives_the_connection(engines: Engines, store: JobStore) -> None:
    job = new()
    await store.enqueue([job])
    await store.close()
    assert (await lease_one(await engines.open())).id == job.id


async def test_many_jobs_are_enqueued_leased_and_settled(store: JobStore) -> None:
    # The server that stands for SQS takes a time that grows with the square of its messages.
    count = 120 if store.capabilities.backend == "sqs" else 1000
    jobs = [new(params=f'{{"n":{number}}}') for number in range(count)]
    told = await store.enqueue(jobs)
    assert told == [Enqueued(job.id, created=True) for job in jobs]
    leases = await lease_all(store, count)
    assert {lease.id: lease.params for lease in leases} == {job.id: job.params for job in jobs}
    assert set(await store.extend(leases, LONG)) == {Held.YES}
    said = [ended(lease, result=lease.params) for lease in leases]
    assert await store.settle(said) == [True] * count
    assert await lease_now(store) == []
    if store.capabilities.lookup:
        found = await store.get([job.id for job in jobs])
        assert [job and (job.state, job.result) for job in found] == [
            (State.SUCCESS, job.params) for job in jobs
        ]


# Delay and priority


async def test_a_delayed_job_is_leased_when_its_delay_has_passed(store: JobStore) -> None:
    loop = asyncio.get_running_loop()
    at = loop.time()
    job = new(delay=SHORT)
    await store.enqueue([job])
    assert await lease_now(store) == []
    lease = await lease_one(store)
    assert lease.id == job.id
    assert loop.time() - at >= SHORT.total_seconds()
    assert lease.due_at - lease.created_at >= SHORT - timedelta(milliseconds=1)


async def test_a_delay_keeps_nobody_else_waiting(store: JobStore) -> None:
    later, sooner = new(delay=LONG), new()
    await store.enqueue([later, sooner])
    assert (await lease_one(store)).id == sooner.id
    assert await lease_now(store) == []


async def test_greater_priorities_are_leased_first(store: JobStore) -> None:
    needs(store, "priorities", "ordered")
    priorities = [0, -100, 5, 100, 5, 0]
    jobs = [new(priority=priority) for priority in priorities]
    await store.enqueue(jobs)
    leases = await lease_all(store, 2) + await lease_all(store, 4)
    assert [lease.priority for lease in leases] == [100, 5, 5, 0, 0, -100]
    assert ids(leases) == [jobs[number].id for number in (3, 2, 4, 0, 5, 1)]


async def test_those_that_are_ready_longer_are_leased_first(store: JobStore) -> None:
    needs(store, "ordered")
    delayed, first, second = new(delay=SHORT), new(), new()
    await store.enqueue([delayed, first, second])
    (lease,) = await lease_now(store, 1)
    assert lease.id == first.id
    assert await store.settle([ended(lease, State.RETRY, delay=SHORT + SHORT)]) == [True]
    await passed(3 * SHORT)
    assert ids(await lease_all(store, 3)) == [second.id, delayed.id, first.id]


async def test_a_delayed_job_with_a_greater_priority_waits_for_its_time(store: JobStore) -> None:
    needs(store, "priorities", "ordered")
    urgent, usual = new(delay=SHORT, priority=100), new()
    await store.enqueue([urgent, usual])
    assert ids(await lease_now(store)) == [usual.id]
    assert (await lease_one(store)).id == urgent.id


# Unique


async def test_while_a_job_holds_its_key_no_other_is_taken_in(
    engines: Engines, store: JobStore
) -> None:
    needs(store, "unique")
    job, other, third = unique("a"), unique("a"), unique("b")
    assert await store.enqueue([job, other, third]) == [
        Enqueued(job.id, created=True),
        Enqueued(job.id, created=False),
        Enqueued(third.id, created=True),
    ]
    again = await engines.open()
    assert await again.enqueue([unique("a")]) == [Enqueued(job.id, created=False)]
    assert await store.get([other.id]) == [None]
    leases = await lease_all(store, 2)
    assert await again.enqueue([unique("a")]) == [Enqueued(job.id, created=False)]
    await store.settle([ended(lease) for lease in leases])
    assert (await again.enqueue([other])) == [Enqueued(other.id, created=True)]


async def test_an_id_that_is_known_comes_before_a_key_that_is_held(store: JobStore) -> None:
    needs(store, "unique")
    known, holder = new(), unique("a")
    await store.enqueue([known, holder])
    again = known._replace(unique=Unique("a", WAITING))
    assert await store.enqueue([again, holder]) == [
        Enqueued(known.id, created=False),
        Enqueued(holder.id, created=False),
    ]


@pytest.mark.parametrize("state", WAITING)
async def test_a_key_is_held_in_the_states_it_names(store: JobStore, state: State) -> None:
    needs(store, "unique")
    await store.enqueue([unique("retry", [state])])
    await store.settle([ended(await lease_one(store), State.RETRY, delay=LONG)])
    await store.enqueue([unique("started", [state])])
    await lease_one(store)
    await store.enqueue([unique("pending", [state])])
    told = await store.enqueue([unique("pending"), unique("retry"), unique("started")])
    assert dict(zip(WAITING, told, strict=True))[state].created is False
    assert sum(answer.created for answer in told) == 2


async def test_a_key_is_held_by_jobs_that_ended_if_they_say_so(store: JobStore) -> None:
    needs(store, "unique")
    job = unique("a", [*WAITING, State.SUCCESS])
    await store.enqueue([job])
    await store.settle([ended(await lease_one(store))])
    assert await store.enqueue([unique("a")]) == [Enqueued(job.id, created=False)]
    await store.drop([job.id])
    (told,) = await store.enqueue([unique("a")])
    assert told.created


async def test_progress_does_not_let_a_key_go(store: JobStore) -> None:
    needs(store, "unique")
    job = unique("a", [State.STARTED])
    await store.enqueue([job])
    await store.tell(await lease_one(store), "{}")
    assert await store.enqueue([unique("a")]) == [Enqueued(job.id, created=False)]


async def test_a_key_is_held_no_longer_than_its_time(store: JobStore) -> None:
    needs(store, "unique")
    job = unique("a", ttl=SHORT)
    await store.enqueue([job, unique("b", ttl=LONG)])
    assert await store.enqueue([unique("a")]) == [Enqueued(job.id, created=False)]
    await passed(SHORT)
    told = await store.enqueue([unique("a"), unique("b")])
    assert [answer.created for answer in told] == [True, False]


async def test_a_job_that_failed_and_is_retried_by_hand_holds_its_key_again(
    store: JobStore,
) -> None:
    needs(store, "unique")
    job = unique("a")
    await store.enqueue([job])
    await store.settle([dead(await lease_one(store))])
    await store.retry([job.id])
    assert await store.enqueue([unique("a")]) == [Enqueued(job.id, created=False)]


async def test_a_key_that_several_ask_for_at_once_goes_to_one(
    engines: Engines, store: JobStore
) -> None:
    needs(store, "unique")
    producers = [store, *[await engines.open() for _ in range(3)]]
    for number in range(5):
        asked = [unique(f"key-{number}") for _ in range(12)]
        told = await asyncio.gather(
            *[producers[n % 4].enqueue([job]) for n, job in enumerate(asked)]
        )
        answers = [answer for (answer,) in told]
        assert len({answer.id for answer in answers}) == 1
        assert sum(answer.created for answer in answers) == 1


# Lease


async def test_a_leased_job_is_nobody_elses(engines: Engines, store: JobStore) -> None:
    await store.enqueue([new(), new()])
    leases = await lease_all(store, 2)
    assert await lease_now(store) == []
    assert await lease_now(await engines.open()) == []
    assert len({lease.id for lease in leases}) == 2


async def test_no_more_are_leased_than_asked_for(store: JobStore) -> None:
    await store.enqueue([new() for _ in range(7)])
    for limit in (1, 3):
        assert 1 <= len(await lease_now(store, limit)) <= limit


async def test_workers_that_lease_at_once_get_different_jobs(
    engines: Engines, store: JobStore
) -> None:
    workers = [store, *[await engines.open() for _ in range(3)]]
    jobs = [new() for _ in range(300)]
    got: list[Lease] = []

    async def work(worker: JobStore) -> None:
        while len(got) < len(jobs):
            got.extend(await worker.lease(QUEUE, limit=7, ttl=LONG, wait=SHORT / 10, worker="some"))

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for worker in workers * 2:
            group.create_task(work(worker))
        for first in range(0, len(jobs), 50):
            await store.enqueue(jobs[first : first + 50])
    assert sorted(ids(got)) == sorted(job.id for job in jobs)
    assert {lease.deliveries for lease in got} == {1}


async def wakes(waiting: JobStore, other: JobStore) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(3):
        lease = asyncio.create_task(
            waiting.lease(QUEUE, limit=5, ttl=LONG, wait=10 * SECOND, worker="one")
        )
        await passed(SHORT)
        assert not lease.done()
        job = new()
        await other.enqueue([job])
        at = loop.time()
        assert ids(await lease) == [job.id]
        assert loop.time() - at < PROMPT_S


async def test_who_waits_is_woken_by_an_enqueue(store: JobStore) -> None:
    await wakes(store, store)


async def test_who_waits_is_woken_by_an_enqueue_over_another_connection(
    engines: Engines, store: JobStore
) -> None:
    await wakes(store, await engines.open())


async def test_who_waits_is_woken_when_a_delay_has_passed(store: JobStore) -> None:
    loop = asyncio.get_running_loop()
    await store.enqueue([new(delay=SHORT)])
    at = loop.time()
    got = await store.lease(QUEUE, limit=5, ttl=LONG, wait=10 * SECOND, worker="one")
    assert len(got) == 1
    assert loop.time() - at < SHORT.total_seconds() + PROMPT_S + 1


async def test_who_waits_is_woken_by_a_job_that_goes_back(
    engines: Engines, store: JobStore
) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    other = await engines.open()
    waiting = asyncio.create_task(
        other.lease(QUEUE, limit=5, ttl=LONG, wait=10 * SECOND, worker="two")
    )
    await passed(SHORT)
    await store.settle([back(lease)])
    async with asyncio.timeout(PROMPT_S + 1):
        assert ids(await waiting) == [lease.id]


async def test_who_waits_is_not_woken_by_another_queue(store: JobStore) -> None:
    waiting = asyncio.create_task(
        store.lease(QUEUE, limit=5, ttl=LONG, wait=3 * SHORT, worker="one")
    )
    await store.enqueue([new(queue="other"), new(delay=LONG)])
    assert await waiting == []


async def test_a_wait_ends_without_a_job(store: JobStore) -> None:
    loop = asyncio.get_running_loop()
    at = loop.time()
    assert await store.lease(QUEUE, limit=5, ttl=LONG, wait=SHORT, worker="one") == []
    assert loop.time() - at < SHORT.total_seconds() + PROMPT_S + 1


async def test_each_of_many_that_wait_gets_a_job(engines: Engines, store: JobStore) -> None:
    other = await engines.open()
    waiting = [
        asyncio.create_task(s.lease(QUEUE, limit=1, ttl=LONG, wait=8 * SECOND, worker="one"))
        for s in (store, other, store)
    ]
    await passed(SHORT)
    jobs = [new() for _ in waiting]
    await store.enqueue(jobs)
    async with asyncio.timeout(5):
        got = [lease for leases in await asyncio.gather(*waiting) for lease in leases]
    assert sorted(ids(got)) == sorted(job.id for job in jobs)


async def test_a_cancelled_wait_loses_nothing(store: JobStore) -> None:
    for pause in (0, 1, 2, 3, 5, 8, 13):
        job = new()
        waiting = asyncio.create_task(
            store.lease(QUEUE, limit=5, ttl=SHORT, wait=10 * SECOND, worker="one")
        )
        await asyncio.sleep(0)
        await store.enqueue([job])
        for _ in range(pause):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        lease = await lease_one(store)
        assert lease.id == job.id
        assert await store.settle([ended(lease)]) == [True]


# Concurrency keys


def keyed(key: str = "k", limit: int = 2, **rest: Any) -> NewJob:
    return new(concurrency_key=key, concurrency_limit=limit, **rest)


async def test_no_more_jobs_of_a_key_are_leased_than_it_allows(
    engines: Engines, store: JobStore
) -> None:
    needs(store, "concurrency")
    await store.enqueue([keyed() for _ in range(5)])
    assert len(await lease_now(store)) == 2
    assert await lease_now(await engines.open()) == []


async def test_a_key_counts_over_all_queues(store: JobStore) -> None:
    needs(store, "concurrency")
    await store.enqueue([keyed(), keyed(queue="other"), keyed(queue="other")])
    await lease_one(store)
    assert len(await lease_now(store, queue="other")) == 1


async def test_a_full_key_does_not_hold_up_other_jobs(store: JobStore) -> None:
    needs(store, "concurrency")
    urgent = 10 if store.capabilities.priorities else 0
    await store.enqueue([keyed(priority=urgent) for _ in range(500)])
    await lease_all(store, 2)
    others = [keyed("other"), new(), new(), keyed("third", 1)]
    await store.enqueue(others)
    assert sorted(ids(await lease_now(store))) == sorted(job.id for job in others)


@pytest.mark.parametrize("state", [State.SUCCESS, State.FAILURE, State.RETRY])
async def test_a_settled_job_lets_the_next_of_its_key_go(
    engines: Engines, store: JobStore, state: State
) -> None:
    needs(store, "concurrency")
    jobs = [keyed(limit=1) for _ in range(3)]
    await store.enqueue(jobs)
    lease = await lease_one(store)
    other = await engines.open()
    waiting = asyncio.create_task(
        other.lease(QUEUE, limit=5, ttl=LONG, wait=10 * SECOND, worker="two")
    )
    await passed(SHORT)
    assert not waiting.done()
    await store.settle([ended(lease, state, delay=LONG)])
    async with asyncio.timeout(PROMPT_S + 1):
        assert ids(await waiting) == [jobs[1].id]
    assert await lease_now(store) == []


async def test_a_lost_lease_lets_the_next_of_its_key_go(store: JobStore) -> None:
    needs(store, "concurrency")
    jobs = [keyed(limit=1) for _ in range(2)]
    await store.enqueue(jobs)
    await lease_one(store, ttl=SHORT)
    lease = await lease_one(store)
    assert await lease_now(store) == []
    assert await store.settle([ended(lease)]) == [True]
    assert sorted([lease.id, (await lease_one(store)).id]) == sorted(job.id for job in jobs)


async def test_a_lease_that_was_lost_in_another_queue_lets_the_next_of_its_key_go(
    store: JobStore,
) -> None:
    needs(store, "concurrency")
    await store.enqueue([keyed(limit=1), keyed(limit=1, queue="other")])
    await lease_one(store, ttl=2 * SHORT)
    assert await lease_now(store, queue="other") == []
    loop = asyncio.get_running_loop()
    at = loop.time()
    got = await store.lease("other", limit=5, ttl=LONG, wait=10 * SECOND, worker="two")
    assert len(got) == 1
    assert loop.time() - at < 2 * SHORT.total_seconds() + PROMPT_S + 1


async def test_an_extended_lease_keeps_its_place_in_its_key(store: JobStore) -> None:
    needs(store, "concurrency")
    await store.enqueue([keyed(limit=1), keyed(limit=1)])
    lease = await lease_one(store, ttl=SHORT)
    assert await store.extend([lease], LONG) == [Held.YES]
    await passed(2 * SHORT)
    assert await lease_now(store) == []


async def test_a_key_is_never_overfull_whoever_leases(engines: Engines, store: JobStore) -> None:
    needs(store, "concurrency")
    workers = [store, *[await engines.open() for _ in range(3)]]
    jobs = [keyed(f"key-{number % 3}", number % 3 + 1) for number in range(60)]
    await store.enqueue(jobs)
    held = {f"key-{number}": 0 for number in range(3)}
    done: list[str] = []
    key_of = {job.id: job.concurrency_key or "" for job in jobs}

    async def work(worker: JobStore) -> None:
        while len(done) < len(jobs):
            got = await worker.lease(QUEUE, limit=4, ttl=LONG, wait=SHORT / 10, worker="some")
            for lease in got:
                held[key_of[lease.id]] += 1
            assert all(count <= number + 1 for number, count in enumerate(held.values())), held
            for _ in range(len(done) % 5):
                await asyncio.sleep(0)
            for lease in got:
                held[key_of[lease.id]] -= 1
                done.append(lease.id)
            assert all(await worker.settle([ended(lease) for lease in got]))

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(work(worker))
    assert sorted(done) == sorted(job.id for job in jobs)


# Extend and expiry


async def test_an_extended_lease_is_not_handed_on(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store, ttl=SECOND)
    assert await store.extend([lease], LONG) == [Held.YES]
    await passed(1.5 * SECOND)
    assert await lease_now(store) == []
    assert await store.settle([ended(lease)]) == [True]


async def test_a_lease_that_ran_out_is_leased_again_and_counts_a_loss(
    engines: Engines, store: JobStore
) -> None:
    job = new(params=TEXT)
    await store.enqueue([job])
    first = await lease_one(store, ttl=SHORT)
    assert await lease_now(store) == []
    second = await lease_one(await engines.open(), ttl=SHORT, worker="two")
    assert (second.id, second.params) == (job.id, TEXT)
    assert second.receipt != first.receipt
    assert (second.deliveries, second.losses, second.attempts) == (2, 1, 0)
    third = await lease_one(store)
    assert (third.deliveries, third.losses, third.attempts) == (3, 2, 0)
    assert len({first.receipt, second.receipt, third.receipt}) == 3


async def test_a_lease_that_ran_out_still_holds_while_nobody_else_has_the_job(
    store: JobStore,
) -> None:
    await store.enqueue([new(), new()])
    leases = await lease_all(store, 2, ttl=SHORT)
    await passed(2 * SHORT)
    assert await store.extend(leases[:1], LONG) == [Held.YES]
    assert await store.settle([ended(lease) for lease in leases]) == [True, True]
    assert await lease_now(store) == []


async def test_a_lost_lease_can_neither_settle_nor_extend_nor_tell(
    engines: Engines, store: JobStore
) -> None:
    job, other = new(), new()
    await store.enqueue([job])
    lost = await lease_one(store, ttl=SHORT)
    lease = await lease_one(await engines.open(), worker="two")
    await store.enqueue([other])
    held = await lease_one(store)
    assert await store.extend([lost, held], LONG) == [Held.LOST, Held.YES]
    await store.tell(lost, '{"percent":99}')
    said = [ended(lost, State.FAILURE, error='{"type":"E"}', dead=True), ended(held)]
    assert await store.settle(said) == [False, True]
    if store.capabilities.lookup:
        kept = await get(store, job.id)
        assert (kept.state, kept.error, kept.dead) == (State.STARTED, None, False)
        assert (kept.progress, kept.worker, kept.attempts) == (None, "two", 0)
    assert await store.settle([ended(lease)]) == [True]


async def test_a_settled_lease_is_over(store: JobStore) -> None:
    await store.enqueue([new(), new()])
    one, two = await lease_all(store, 2)
    assert await store.settle([ended(one), ended(one, State.FAILURE)]) == [True, False]
    assert await store.settle([back(two, LONG)]) == [True]
    assert await store.settle([ended(one), ended(two)]) == [False, False]
    assert await store.extend([one, two], LONG) == [Held.LOST, Held.LOST]
    if store.capabilities.lookup:
        found = await store.get([one.id, two.id])
        assert [job and job.state for job in found] == [State.SUCCESS, State.PENDING]


async def test_a_lease_of_a_job_that_was_dropped_is_not_taken_for_one_of_its_successor(
    store: JobStore,
) -> None:
    needs(store, "unique", "lookup")
    job = new()
    await store.enqueue([job])
    old = await lease_one(store)
    await store.settle([ended(old)])
    await store.drop([job.id])
    assert await store.enqueue([job]) == [Enqueued(job.id, created=True)]
    young = await lease_one(store)
    assert await store.extend([old], LONG) == [Held.LOST]
    assert await store.settle([ended(old), ended(young)]) == [False, True]


# Settle


async def test_a_batch_is_settled_each_job_in_its_own_way(store: JobStore) -> None:
    needs(store, "lookup")
    states = [State.SUCCESS, State.FAILURE, State.REVOKED, State.EXPIRED, State.RETRY]
    await store.enqueue([new(str(state)) for state in states])
    leases = await lease_all(store, len(states))
    said = [
        ended(
            lease,
            State(lease.task),
            attempts=number,
            refusals=number + 1,
            error=f'{{"type":"{lease.task}"}}',
            delay=LONG,
        )
        for number, lease in enumerate(leases)
    ]
    assert await store.settle(said) == [True] * len(said)
    found = await store.get(ids(leases))
    for settlement, job in zip(said, found, strict=True):
        assert job is not None
        assert job.state == settlement.state
        assert (job.attempts, job.refusals) == (settlement.attempts, settlement.refusals)
        assert job.error == settlement.error
        assert job.worker == "one"
        assert job.started_at is not None
        assert (job.finished_at is not None) is job.state.final
    assert await lease_now(store) == []


async def test_a_job_that_is_retried_comes_again_after_its_delay(store: JobStore) -> None:
    loop = asyncio.get_running_loop()
    await store.enqueue([new()])
    lease = await lease_one(store)
    error = '{"type":"E","message":"once"}'
    at = loop.time()
    said = ended(lease, State.RETRY, attempts=1, refusals=2, delay=SHORT, error=error)
    await store.settle([said])
    assert await lease_now(store) == []
    if store.capabilities.lookup:
        job = await get(store, lease.id)
        assert (job.state, job.error, job.finished_at) == (State.RETRY, error, None)
    again = await lease_one(store)
    assert loop.time() - at >= SHORT.total_seconds()
    assert (again.id, again.attempts, again.refusals) == (lease.id, 1, 2)
    assert (again.deliveries, again.losses) == (2, 0)
    assert again.receipt != lease.receipt


async def test_a_job_that_is_given_back_is_ready_at_once_and_no_attempt_is_spent(
    engines: Engines, store: JobStore
) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    assert await store.settle([back(lease)]) == [True]
    again = await lease_one(await engines.open())
    assert (again.id, again.attempts, again.losses, again.deliveries) == (lease.id, 0, 0, 2)


async def test_a_snoozed_job_comes_again_with_its_attempts_unspent(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    await store.settle([ended(lease, State.RETRY, attempts=1)])
    lease = await lease_one(store)
    await store.settle([back(lease, SHORT)])
    assert await lease_now(store) == []
    assert (await lease_one(store)).attempts == 1


# Rates


async def test_a_rate_allows_a_seconds_worth_at_once_and_tells_how_long_to_wait(
    engines: Engines, store: JobStore
) -> None:
    needs(store, "rates")
    rate = Rate(6, timedelta(minutes=1))
    granted, wait = await store.take("a", rate, 3)
    assert granted == 1
    assert timedelta(seconds=9) < wait <= timedelta(seconds=10)
    granted, wait = await (await engines.open()).take("a", rate, 3)
    assert granted == 0
    assert timedelta(seconds=8) < wait <= timedelta(seconds=10)
    assert (await store.take("b", rate, 1)).granted == 1


async def test_what_a_rate_leaves_can_be_taken_without_a_wait(store: JobStore) -> None:
    needs(store, "rates")
    rate = Rate(100, SECOND)
    assert await store.take("a", rate, 40) == Grant(40, ZERO)
    granted, wait = await store.take("a", rate, 1000)
    assert 60 <= granted < 100
    assert ZERO < wait <= rate.spacing


async def test_a_rate_allows_more_as_time_passes(store: JobStore) -> None:
    needs(store, "rates")
    rate = Rate(20, SECOND)
    loop = asyncio.get_running_loop()
    at, granted = loop.time(), 0
    while granted < 26:
        grant = await store.take("a", rate, 3)
        granted += grant.granted
        assert granted <= rate.burst + (loop.time() - at) / 0.05 + 1
        await passed(grant.wait)
    assert loop.time() - at >= 0.2


async def test_a_rate_holds_over_all_that_take_at_once(engines: Engines, store: JobStore) -> None:
    needs(store, "rates")
    workers = [store, *[await engines.open() for _ in range(3)]]
    rate = Rate(10, 10 * SECOND)
    grants = await asyncio.gather(*[workers[n % 4].take("a", rate, 2) for n in range(20)])
    assert sum(grant.granted for grant in grants) == 1
    spaced = sorted(grant.wait for grant in grants)
    assert all(second - first < SECOND for first, second in pairwise(spaced))
