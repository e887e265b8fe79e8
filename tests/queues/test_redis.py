"""What only Redis can do to jobs: each test has a redis-server of its own."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from tests.support.jobs import (
    LONG,
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
    new,
    passed,
)
from tests.support.processes import clean_environment
from tests.support.redis_audit import audit
from tests.support.redis_server import BINARY, MISSING, RedisServer, redis_server
from tests.support.servers import refused_port
from tests.support.waiting import wait_until
from worker.backends.opening import open_store
from worker.errors import ConfigurationError, StoreSchemaError, StoreUnavailable
from worker.jobs.job import (
    Enqueued,
    Held,
    JobId,
    JobQuery,
    Lease,
    Rate,
    Requeued,
    Settlement,
    Unique,
)
from worker.model import State
from worker.queues.redis import RedisJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from worker.jobs.job import Job, NewJob

MILLISECOND = timedelta(milliseconds=1)
WAIT = 10 * SECOND
PROMPT_S = 0.7
"""Less than what a poll would take."""
PASSWORD = "se/cr et"
ESCAPED = "se%2Fcr%20et"

pytestmark = pytest.mark.skipif(BINARY is None, reason=MISSING)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, appendonly="yes", appendfsync="always") as server:
        yield server


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisJobs]:
    jobs = RedisJobs(url)
    try:
        await jobs.open()
        yield jobs
    finally:
        await jobs.close()


def waits(jobs: RedisJobs, queue: str = QUEUE, limit: int = 5) -> asyncio.Task[list[Lease]]:
    return asyncio.create_task(jobs.lease(queue, limit=limit, ttl=LONG, wait=WAIT, worker="w"))


async def stands_in(server: RedisServer, key: str, count: int) -> None:
    """Return once a sorted set or a hash has so many members."""
    word = "HLEN" if key == "watched" else "ZCARD"
    asked = f"worker:jobs:{key}"
    await wait_until(lambda: server.ask(word, asked) == count, f"{asked} has {count} members")


async def soon(task: asyncio.Task[Any], within_s: float = PROMPT_S) -> Any:
    """What the task returns, which it does before a poll could have helped it."""
    async with asyncio.timeout(within_s):
        return await task


def answers_to(server: RedisServer) -> int:
    """How many scripts were run since the last look."""
    stats = server.ask("INFO", "commandstats")
    server.ask("CONFIG", "RESETSTAT")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


# Restarts and lost connections


async def test_a_restart_of_redis_loses_no_job_and_no_lease(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        await jobs.enqueue([new(), new(), new(delay=LONG), new(concurrency_key="k")])
        (lease,) = await lease_now(jobs, 1)
        server.end(signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=f":{server.port}/0 cannot be reached"):
                await jobs.enqueue([new()])
            with pytest.raises(StoreUnavailable):
                await jobs.lease(QUEUE, limit=1, ttl=LONG, wait=WAIT, worker="w")
        server.start()
        assert await jobs.extend([lease], LONG) == [Held.YES]
        assert await jobs.settle([ended(lease)]) == [True]
        assert len(await lease_now(jobs)) == 2
        with closing(client(server)) as redis:
            audit(redis, "worker")


async def test_who_waits_goes_on_after_a_restart_of_redis(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        await jobs.enqueue([new()])
        lease = await lease_one(jobs)
        end = asyncio.create_task(jobs.wait(lease.id, 20 * SECOND))
        await stands_in(server, "watched", 1)
        await passed(SHORT)  # until that was answered
        server.end(signal.SIGKILL)
        server.start()
        await passed(SHORT)  # until the farewell has come
        await jobs.settle([ended(lease)])
        async with asyncio.timeout(10):
            job = await end
        assert job is not None
        assert job.state is State.SUCCESS
        # By then it hears again: nobody has to poll.
        for _ in range(2):
            waiting = waits(jobs)
            await stands_in(server, f"waiters:{QUEUE}", 1)
            await jobs.enqueue([new()])
            leases = await waiting
        assert len(leases) == 1


async def test_scripts_that_redis_forgot_are_sent_again(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        asked = [new() for _ in range(600)]
        server.ask("SCRIPT", "FLUSH")
        assert all(told.created for told in await jobs.enqueue(asked))
        server.ask("SCRIPT", "FLUSH")
        leases = await lease_now(jobs, 600)
        assert [lease.id for lease in leases] == [job.id for job in asked]
        server.ask("SCRIPT", "FLUSH")
        assert await jobs.settle([ended(lease) for lease in leases]) == [True] * 600
        server.ask("SCRIPT", "FLUSH")
        assert await jobs.wait(asked[0].id, LONG) is not None


async def test_connections_that_redis_closed_are_opened_again(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        for _ in range(3):
            told = await asyncio.gather(*[jobs.enqueue([new()]) for _ in range(5)])
            assert len(told) == 5
            for kind in ("normal", "pubsub"):
                server.ask("CLIENT", "KILL", "TYPE", kind)
            await passed(SHORT / 10)  # until the farewell has come
        assert len(await lease_now(jobs, 100)) == 15


async def test_a_server_that_stops_answering_is_given_up_and_used_again(
    server: RedisServer,
) -> None:
    async with opened(server.url) as jobs:
        job = new()
        server.send(signal.SIGSTOP)
        try:
            async with asyncio.timeout(12):
                told = await asyncio.gather(
                    jobs.enqueue([job]),
                    jobs.lease(QUEUE, limit=1, ttl=LONG, wait=WAIT, worker="w"),
                    jobs.wait(job.id, WAIT),
                    *[jobs.get([job.id]) for _ in range(20)],
                    return_exceptions=True,
                )
        finally:
            server.send(signal.SIGCONT)
        assert {type(answer) for answer in told} == {StoreUnavailable}
        assert "did not answer within 5 s" in str(told[0])
        # Nobody knew whether it was taken in, so it is asked for again.
        await jobs.enqueue([job])
        assert (await get(jobs, job.id)).state is State.PENDING


async def test_a_cancelled_call_takes_no_answer_from_another(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        asked = [new(params=f'{{"n":{number}}}') for number in range(50)]
        await jobs.enqueue(asked)
        for pause in range(20):
            calls = [asyncio.create_task(jobs.get([job.id])) for job in asked[:20]]
            for _ in range(pause):
                await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            await asyncio.wait(calls)
            for job, call in zip(asked, calls, strict=False):
                if not call.cancelled():
                    (found,) = call.result()
                    assert found is not None
                    assert found.params == job.params


# Waking


async def test_a_job_wakes_one_worker_and_not_all(server: RedisServer) -> None:
    async with opened(server.url) as one, opened(server.url) as two:
        waiting = [waits(jobs) for _ in range(10) for jobs in (one, two)]
        left = set(waiting)
        try:
            await stands_in(server, f"waiters:{QUEUE}", 20)
            await quiet(server)
            began = time.monotonic()
            await one.enqueue([new()])
            done, left = await asyncio.wait(waiting, timeout=5, return_when="FIRST_COMPLETED")
            # Each looks by itself once a second, so on a slow machine some do that meanwhile.
            polls = len(waiting) * round(time.monotonic() - began + 0.4)
            assert answers_to(server) < 8 + polls
            assert len(done) == 1
            # Six more are too much for one, which has asked for five at most.
            await one.enqueue([new() for _ in range(6)])
            leases: list[Lease] = []
            while len(leases) < 6:
                done, left = await asyncio.wait(left, timeout=5, return_when="FIRST_COMPLETED")
                leases += [lease for task in done for lease in task.result()]
            assert len(left) >= 16
        finally:
            for task in left:
                task.cancel()
            await asyncio.wait(left)


async def quiet(server: RedisServer) -> None:
    """Return once nobody has run a script for a moment."""
    async with asyncio.timeout(30):
        while True:
            await passed(SHORT)
            if answers_to(server) == 0:
                return


async def test_nobody_asks_all_the_time_while_there_is_no_job(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        await jobs.enqueue([new(delay=LONG), new("other", queue="other", delay=SHORT)])
        waiting = [waits(jobs, queue) for queue in ("default", "mail")]
        await stands_in(server, "waiters:mail", 1)
        answers_to(server)
        await passed(2 * SECOND)
        assert answers_to(server) <= 8
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await stands_in(server, "waiters:mail", 0)


@pytest.mark.parametrize("lost", ["waiters:default", "alarms"])
async def test_a_notification_that_is_lost_costs_a_second(server: RedisServer, lost: str) -> None:
    async with opened(server.url) as jobs:
        waiting = waits(jobs)
        await stands_in(server, f"waiters:{QUEUE}", 1)
        server.ask("DEL", f"worker:jobs:{lost}")
        await jobs.enqueue([new()])
        assert len(await soon(waiting, 2.0)) == 1


async def test_an_end_that_was_not_told_is_noticed_within_a_second(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        await jobs.enqueue([new(), new()])
        one, two = await lease_all(jobs, 2)
        waiting = [asyncio.create_task(jobs.wait(lease.id, WAIT)) for lease in (one, two)]
        await stands_in(server, "watched", 2)
        server.ask("DEL", "worker:jobs:watched")
        await jobs.settle([ended(one)])
        job = await soon(waiting[0], 2.0)
        assert job.state is State.SUCCESS
        # And it is told again from then on.
        await stands_in(server, "watched", 1)
        await jobs.settle([ended(two)])
        assert (await soon(waiting[1])).state is State.SUCCESS


async def test_who_does_not_hear_polls(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        waiting = waits(jobs)
        await stands_in(server, f"waiters:{QUEUE}", 1)
        server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await jobs.enqueue([new()])
        assert len(await soon(waiting, 2.0)) == 1


async def test_a_wake_up_in_vain_is_handed_on(server: RedisServer) -> None:
    async with opened(server.url) as one, opened(server.url) as two:
        gone = waits(one)
        await stands_in(server, f"waiters:{QUEUE}", 1)
        stays = waits(two)
        await stands_in(server, f"waiters:{QUEUE}", 2)
        waiters = server.ask("ZRANGE", f"worker:jobs:waiters:{QUEUE}", "0", "-1")
        # It is woken, and goes away before it can look.
        server.ask("ZREM", f"worker:jobs:waiters:{QUEUE}", waiters[0])
        server.ask("ZADD", f"worker:jobs:ready:{QUEUE}", "0", f"{0:016} {0:013} nobody")
        gone.cancel()
        await asyncio.wait({gone})
        await stands_in(server, f"ready:{QUEUE}", 0)
        assert not stays.done()
        await two.enqueue([new()])
        assert len(await soon(stays)) == 1


async def test_one_of_several_looks_when_the_next_job_is_due(server: RedisServer) -> None:
    async with opened(server.url) as one, opened(server.url) as two:
        waiting = [waits(jobs) for jobs in (one, two) for _ in range(5)]
        await stands_in(server, f"waiters:{QUEUE}", 10)
        loop = asyncio.get_running_loop()
        for _ in range(3):
            answers_to(server)
            at = loop.time()
            await one.enqueue([new(delay=SHORT)])
            done, left = await asyncio.wait(waiting, timeout=2, return_when="FIRST_COMPLETED")
            assert [len(task.result()) for task in done] == [1]
            assert SHORT.total_seconds() <= loop.time() - at < SHORT.total_seconds() + PROMPT_S
            waiting = list(left)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def test_a_lease_that_is_cancelled_on_its_way_is_given_back(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        for pause in range(15):
            await jobs.enqueue([new()])
            leasing = asyncio.create_task(
                jobs.lease(QUEUE, limit=5, ttl=LONG, wait=ZERO, worker="w")
            )
            for _ in range(pause):
                await asyncio.sleep(0)
            leasing.cancel()
            await asyncio.wait({leasing})
            leases = [] if leasing.cancelled() else leasing.result()
            async with asyncio.timeout(5):
                while not leases:  # long before its lease would have run out
                    leases = await lease_now(jobs)
            assert [lease.attempts for lease in leases] == [0]
            assert await jobs.settle([ended(lease) for lease in leases]) == [True]


# Many workers


HOLDER = """
import asyncio, sys
from datetime import timedelta
from worker.queues.redis import RedisJobs

async def main():
    jobs = RedisJobs(sys.argv[1])
    await jobs.open()
    second = timedelta(seconds=1)
    leases = await jobs.lease("default", limit=5, ttl=second, wait=second, worker="doomed")
    print(len(leases), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_what_a_killed_worker_held_is_leased_again(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        asked = [new(concurrency_key="k", concurrency_limit=5) for _ in range(6)]
        await jobs.enqueue(asked)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HOLDER, server.url),
            env=clean_environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"5\n"
        finally:
            process.kill()
            await process.wait()
        (free,) = await lease_now(jobs, 1) or await lease_all(jobs, 1)
        leases = [free, *await lease_all(jobs, 4)]
        lost = [lease for lease in leases if lease.losses]
        assert len(lost) >= 4
        assert await jobs.settle([ended(lease) for lease in leases]) == [True] * 5
        last = await lease_one(jobs)
        assert {last.id, *(lease.id for lease in leases)} == {job.id for job in asked}


async def test_a_key_is_never_overfull_with_eight_workers(server: RedisServer) -> None:
    asked = [
        new(queue=f"q{n % 2}", concurrency_key=f"k{n % 3}", concurrency_limit=n % 3 + 1)
        for n in range(240)
    ]
    key_of = {job.id: job.concurrency_key or "" for job in asked}
    held = {f"k{n}": 0 for n in range(3)}
    most = dict(held)
    done: set[JobId] = set()

    async def work(number: int) -> None:
        async with opened(server.url) as jobs:
            while len(done) < len(asked):
                leases = await jobs.lease(
                    f"q{number % 2}", limit=3, ttl=LONG, wait=SHORT, worker=f"w{number}"
                )
                for lease in leases:
                    held[key_of[lease.id]] += 1
                    most[key_of[lease.id]] = max(most[key_of[lease.id]], held[key_of[lease.id]])
                await asyncio.sleep(0.001)
                for lease in leases:
                    held[key_of[lease.id]] -= 1
                    done.add(lease.id)
                assert all(await jobs.settle([ended(lease) for lease in leases]))

    async with opened(server.url) as jobs:
        await jobs.enqueue(asked)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(work(number))
    assert most == {"k0": 1, "k1": 2, "k2": 3}


async def test_a_queue_that_nobody_works_on_does_not_hold_up_others_of_its_key(
    server: RedisServer,
) -> None:
    async with opened(server.url) as jobs:
        await jobs.enqueue([new(queue=queue, concurrency_key="k") for queue in "abab"])
        (first,) = await lease_now(jobs, queue="a")
        assert await lease_now(jobs, queue="a") == []
        assert await lease_now(jobs, queue="b") == []
        await jobs.settle([ended(first)])
        (second,) = await lease_now(jobs, queue="b")
        await jobs.settle([ended(second)])
        (third,) = await lease_now(jobs, queue="b")
        assert third.queue == "b"
        # Neither does one that was free to go and is revoked.
        await jobs.settle([ended(third)])
        left = await jobs.find(JobQuery(states=frozenset({State.PENDING})))
        await jobs.enqueue([new(queue="a", concurrency_key="k") for _ in range(2)])
        assert await jobs.cancel([job.id for job in left]) == [Requeued.DONE]
        assert len(await lease_now(jobs, queue="a")) == 1


async def test_more_leases_than_one_script_looks_at_run_out_at_once(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        await jobs.enqueue([new(concurrency_key="k", concurrency_limit=2000) for _ in range(1200)])
        assert len(await jobs.lease(QUEUE, limit=1000, ttl=SHORT, wait=ZERO, worker="w")) == 1000
        await jobs.enqueue([new(delay=SHORT) for _ in range(600)])
        await passed(2 * SHORT)
        leases = await lease_all(jobs, 1800)
        assert sum(lease.losses for lease in leases) == 1000
        assert await lease_now(jobs) == []


def client(server: RedisServer) -> Redis:
    return Redis(port=server.port, decode_responses=True, protocol=2)


def any_job(dice: random.Random, number: int) -> NewJob:
    queue = dice.choice(["a", "b", "sqs/c"])
    unique = Unique(dice.choice("xyz"), (State.PENDING, State.STARTED))
    return new(
        dice.choice(["one", "two"]),
        id=f"job-{number}",
        queue=queue,
        priority=dice.choice([0, 0, 5, -3]),
        delay=dice.choice([0, 0, 5, 20]) * MILLISECOND,
        unique=dice.choice([None, None, unique]),
        concurrency_key=None if queue == "sqs/c" else dice.choice([None, "k", "l"]),
        concurrency_limit=dice.choice([1, 2, 3]),
    )


def any_word(dice: random.Random, lease: Lease) -> Settlement:
    if dice.random() < 0.2:
        return dead(lease)
    states = [State.SUCCESS, State.FAILURE, State.RETRY, State.PENDING, State.EXPIRED]
    delay, result = dice.choice([0, 10]) * MILLISECOND, dice.choice([None, "1"])
    return ended(lease, dice.choice(states), delay=delay, result=result)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_done_to_jobs_what_is_kept_of_them_agrees(
    server: RedisServer, seed: int
) -> None:
    dice = random.Random(seed)
    ids: list[JobId] = []
    leases: list[Lease] = []
    async with opened(server.url) as jobs:

        async def enqueue() -> None:
            asked = [any_job(dice, len(ids) + n // 2) for n in range(dice.randint(1, 12))]
            ids.extend(told.id for told in await jobs.enqueue(asked))

        async def lease() -> None:
            limit, ttl = dice.randint(1, 6), dice.choice([5, 30, 1000]) * MILLISECOND
            queue = dice.choice(["a", "b"])
            leases.extend(await jobs.lease(queue, limit=limit, ttl=ttl, wait=ZERO, worker="w"))

        async def claim() -> None:
            asked = list({dice.choice(ids) for _ in range(9) if ids})
            ttl = dice.choice([5, 30, 1000]) * MILLISECOND
            claimed = await jobs.claim(asked, ttl=ttl, worker="w")
            leases.extend(lease for lease in claimed if isinstance(lease, Lease))

        async def settle() -> None:
            await jobs.settle([any_word(dice, dice.choice(leases)) for _ in range(4) if leases])

        async def extend() -> None:
            ttl = dice.choice([5, 1000]) * MILLISECOND
            await jobs.extend([dice.choice(leases) for _ in range(4) if leases], ttl)

        async def tell() -> None:
            if leases:
                await jobs.tell(dice.choice(leases), "{}")

        async def by_hand() -> None:
            what = dice.choice([jobs.cancel, jobs.retry, jobs.drop])
            await what([dice.choice(ids) for _ in range(3) if ids])

        async def prune() -> None:
            await jobs.prune(keep=dice.choice([ZERO, SHORT]), limit=5)

        async def pause() -> None:
            await passed(6 * MILLISECOND)

        doings = [enqueue, enqueue, lease, lease, settle, settle, extend, tell, by_hand, claim]
        with closing(client(server)) as redis:
            for _ in range(250):
                await dice.choice([*doings, prune, pause])()
                audit(redis, "worker")
            async with asyncio.timeout(20):
                while any(not count.state.final for count in await jobs.counts()):
                    for queue in "ab":
                        left = await lease_now(jobs, 100, queue=queue)
                        await jobs.settle([ended(lease) for lease in left])
                    carried = await jobs.claim(list(set(ids)), ttl=LONG, worker="w")
                    claimed = [lease for lease in carried if isinstance(lease, Lease)]
                    await jobs.settle([ended(lease) for lease in claimed])
                    audit(redis, "worker")
            await jobs.drop(ids)
            audit(redis, "worker")
            kept = {key for key in redis.keys("*") if ":unique:" not in key}
            assert kept == {"worker:jobs:schema", "worker:jobs:order"}


# Memory, results, long lists


async def test_a_full_memory_takes_no_job_in_and_lets_workers_go_on(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        await jobs.enqueue([new(), new(concurrency_key="k"), new()])
        (early,) = await lease_now(jobs, 1)
        server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="has reached its maxmemory"):
            await jobs.enqueue([new() for _ in range(300)])
        leases = [early, *await lease_now(jobs)]
        assert len(leases) == 3
        assert await jobs.extend(leases, LONG) == [Held.YES] * 3
        said = [ended(leases[0], result="1"), dead(leases[1]), back(leases[2])]
        assert await jobs.settle(said) == [True] * 3
        assert (await jobs.take("a", Rate(10, SECOND), 1)).granted == 1
        with pytest.raises(StoreUnavailable, match="has reached its maxmemory"):
            await jobs.retry([leases[1].id])
        assert await jobs.cancel([leases[2].id]) == [Requeued.DONE]
        assert await jobs.prune(keep=ZERO) == 2
        async with opened(server.url) as late:
            assert len(await late.find(JobQuery())) == 1
        with closing(client(server)) as redis:
            audit(redis, "worker")
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await jobs.retry([leases[1].id]) == [Requeued.DONE]


async def test_results_go_without_anybody_pruning(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        await jobs.enqueue([new(), new(), new()])
        one, two, three = await lease_all(jobs, 3)
        await jobs.settle(
            [
                ended(one, result="1", result_ttl=SHORT),
                ended(two, result="2", result_ttl=ZERO),
                ended(three, result="3", result_ttl=LONG),
            ]
        )
        await passed(2 * SHORT)
        assert server.ask("EXISTS", *(f"worker:jobs:result:{x.id}" for x in (one, two))) == 0
        assert [job and job.result for job in await jobs.get([one.id, two.id, three.id])] == [
            *(None, None),
            "3",
        ]
        await jobs.drop([three.id])
        assert server.ask("KEYS", "*result*") == []


async def test_more_jobs_of_one_moment_are_listed_than_one_script_looks_at(
    server: RedisServer,
) -> None:
    async with opened(server.url) as jobs:
        asked = [new("rare" if n % 500 == 7 else "ping", id=f"{n:04}") for n in range(1300)]
        await jobs.enqueue(asked)
        await jobs.enqueue([new(id="last")])
        names = ["last", *(f"{n:04}" for n in range(1300))]
        assert ids_of(await jobs.find(JobQuery(limit=5000))) == names
        assert ids_of(await jobs.find(JobQuery(limit=1000))) == names[:1000]
        assert ids_of(await jobs.find(JobQuery(task="rare"))) == ["0007", "0507", "1007"]
        assert await jobs.find(JobQuery(limit=0)) == []
        answers_to(server)
        assert await jobs.find(JobQuery(task="none")) == []
        assert ids_of(await jobs.find(JobQuery(queue=QUEUE, task="rare", limit=1))) == ["0007"]
        assert answers_to(server) == 2


def ids_of(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


async def test_what_a_task_says_may_be_any_text(server: RedisServer) -> None:
    text = "\ud800 \x00 \x7f / \N{SNOWMAN}"
    async with opened(server.url) as jobs:
        await jobs.enqueue([new(params=text)])
        lease = await lease_one(jobs, worker=text)
        assert lease.params == text
        await jobs.tell(lease, text)
        await jobs.settle([ended(lease, error=text, result=text)])
        job = await get(jobs, lease.id)
        assert (job.worker, job.progress, job.error, job.result) == (text, text, text, text)


# What Redis is set up to do


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"appendonly": "yes", "maxmemory-policy": "noeviction"}, []),
        ({"appendonly": "yes", "maxmemory-policy": "volatile-lru"}, ["volatile-lru: a result may"]),
        ({"appendonly": "yes", "maxmemory-policy": "allkeys-lru"}, ["allkeys-lru: an evicted job"]),
        ({"appendonly": "no"}, ["appendonly is off"]),
    ],
)
async def test_a_redis_that_may_forget_is_warned_of(
    tmp_path: Path, options: dict[str, str], told: list[str]
) -> None:
    with redis_server(tmp_path, **options) as server:
        async with opened(server.url) as jobs:
            assert len(jobs.warnings) == len(told)
            for warning, word in zip(jobs.warnings, told, strict=True):
                assert word in warning
                assert warning.startswith(f"redis://127.0.0.1:{server.port}/0: ")


async def test_a_redis_cluster_is_refused(tmp_path: Path) -> None:
    options = {"cluster-enabled": "yes", "cluster-port": str(refused_port())}
    with redis_server(tmp_path, **options) as server:
        server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        server.wait_for("Cluster state changed: ok")
        with pytest.raises(ConfigurationError, match=r"WORKER_QUEUE_URL: .* is a Redis Cluster"):
            async with opened(server.url):
                pass


async def test_jobs_of_a_newer_worker_are_left_alone(server: RedisServer) -> None:
    async with opened(server.url):
        assert server.ask("GET", "worker:jobs:schema") == "1"
    server.ask("SET", "worker:jobs:schema", "2")
    with pytest.raises(StoreSchemaError, match="layout '2', expected 1"):
        async with opened(server.url):
            pass


async def test_the_ledger_and_other_prefixes_are_kept_apart(server: RedisServer) -> None:
    with closing(open_store(server.url)):
        async with opened(server.url) as one, opened(f"{server.url}?prefix=two") as two:
            job = new()
            assert await one.enqueue([job]) == [Enqueued(job.id, created=True)]
            assert await two.enqueue([job]) == [Enqueued(job.id, created=True)]
            waiting = waits(two, "other")
            await one.enqueue([new(queue="other")])
            await passed(SHORT)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait({waiting})
    names = {tuple(key.split(":")[:2]) for key in server.ask("KEYS", "*")}
    assert {second for first, second in names if first == "two"} == {"jobs"}
    assert {first for first, _ in names} == {"worker", "two"}


async def test_the_password_is_needed_and_never_told(tmp_path: Path) -> None:
    with redis_server(tmp_path, requirepass=PASSWORD) as server:
        async with opened(f"redis://:{ESCAPED}@127.0.0.1:{server.port}/0") as jobs:
            await jobs.enqueue([new()])
            assert not any(PASSWORD in warning for warning in jobs.warnings)
        with pytest.raises(StoreUnavailable, match="refused the credentials") as caught:
            async with opened(f"redis://:wr0ng@127.0.0.1:{server.port}/0"):
                pass
        assert "wr0ng" not in f"{caught.value} {caught.value.__cause__!r}"


async def test_a_user_with_the_rights_that_are_documented_can_work(server: RedisServer) -> None:
    server.ask(
        *("ACL", "SETUSER", "worker", "on", f">{PASSWORD}", "resetchannels"),
        *("~worker:jobs:*", "&worker:jobs:*", "+@read", "+@write", "+@scripting", "+@pubsub"),
        *("+@connection", "+time", "-@dangerous"),
    )
    async with opened(server.url.replace("//", f"//worker:{ESCAPED}@")) as jobs:
        assert jobs.warnings == ()
        waiting = waits(jobs)
        await stands_in(server, f"waiters:{QUEUE}", 1)
        job = new()
        await jobs.enqueue([job])
        (lease,) = await soon(waiting)
        end = asyncio.create_task(jobs.wait(job.id, WAIT))
        await stands_in(server, "watched", 1)
        await jobs.settle([ended(lease)])
        assert (await soon(end)).state is State.SUCCESS
        assert (await jobs.counts(), len(await jobs.ended(WAIT))) == ([], 1)


async def test_the_time_of_redis_judges_a_lease_and_no_other(server: RedisServer) -> None:
    async with opened(server.url) as jobs:
        await jobs.enqueue([new()])
        lease = await lease_one(jobs)
        seconds, _ = server.ask("TIME")
        assert abs(lease.created_at.timestamp() - int(seconds)) < 5


def test_every_script_says_what_it_does() -> None:
    folder = files("worker.queues") / "redis_scripts"
    scripts = [file for file in folder.iterdir() if file.name.endswith(".lua")]
    assert len(scripts) > 15
    for script in scripts:
        lines = script.read_text("utf-8").splitlines()
        assert lines[0].startswith("#!lua") is (script.name != "common.lua"), script.name
        assert lines[int(lines[0].startswith("#!"))].startswith("-- "), script.name
