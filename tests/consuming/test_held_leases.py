"""The leases that a worker holds: extended in time, together, and given up when they are lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.clock import SteppedClock
from tests.support.consuming import Bench, open_bench
from tests.support.waiting import wait_until
from worker import Clock, RunContext, State, current_run, task
from worker.consuming.held_leases import HeldLeases
from worker.consuming.queue_plan import QueuePlan
from worker.jobs.job import Held, JobId, Lease, Settlement
from worker.queues.memory import MemoryJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECOND = timedelta(seconds=1)
WEEK = timedelta(days=7)
PLAN = QueuePlan(name="default", visibility_timeout=30 * SECOND)


class Watched(MemoryJobs):
    """Counts what is asked of it."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.extended: list[tuple[int, timedelta]] = []
        self.looked: list[int] = []
        self.told: Counter[str] = Counter()
        self.pruned = 0
        self.to_prune = 0
        self.telling = self.most_telling = 0

    async def extend(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        self.extended.append((len(leases), ttl))
        return await super().extend(leases, ttl)

    async def cancelled(self, ids: Sequence[JobId]) -> list[JobId]:
        self.looked.append(len(ids))
        return await super().cancelled(ids)

    async def tell(self, lease: Lease, progress: str) -> None:
        self.telling += 1
        self.most_telling = max(self.most_telling, self.telling)
        await asyncio.sleep(0)
        self.telling -= 1
        self.told[lease.id] += 1
        await super().tell(lease, progress)

    async def prune(self, *, keep: timedelta, limit: int = 5000) -> int:
        self.pruned += 1
        some = min(limit, self.to_prune)
        self.to_prune -= some
        return some


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(clock=SteppedClock())
    bench.use(Watched(bench.clock))
    yield bench
    await bench.http_client.aclose()


def watched(bench: Bench) -> Watched:
    assert isinstance(bench.memory, Watched)
    return bench.memory


def clock(bench: Bench) -> SteppedClock:
    assert isinstance(bench.clock, SteppedClock)
    return bench.clock


async def turns(bench: Bench, count: int) -> None:
    """Let the keeper of the leases take so many turns, of half a second each."""
    await wait_until(lambda: 0.5 in clock(bench).slept, "it has begun")
    for _ in range(count):
        slept = clock(bench).slept.count(0.5)
        bench.advance(SECOND / 2)
        await wait_until(lambda before=slept: clock(bench).slept.count(0.5) > before, "a turn")  # type: ignore[misc]


class Gate:
    def __init__(self) -> None:
        self.inside = 0
        self.open = asyncio.Event()


def waiting(gate: Gate) -> Any:
    @task()
    async def waits() -> None:
        gate.inside += 1
        await gate.open.wait()

    return waits


async def test_leases_are_extended_together_at_a_third_of_their_time(bench: Bench) -> None:
    gate = Gate()
    waits = waiting(gate)
    await bench.client.enqueue_many(waits, [None] * 10)
    async with bench.working(waits, queues=[PLAN]):
        await wait_until(lambda: gate.inside == 10, "all run")
        await turns(bench, 19)
        assert watched(bench).extended == []
        await turns(bench, 1)  # ten seconds have passed
        assert watched(bench).extended == [(10, 30 * SECOND)]
        await turns(bench, 60)
        assert watched(bench).extended == [(10, 30 * SECOND)] * 4
        gate.open.set()


async def test_each_queue_has_its_own_time(bench: Bench) -> None:
    gate = Gate()
    waits = waiting(gate)
    plans = [
        QueuePlan(name="short", visibility_timeout=3 * SECOND),
        QueuePlan(name="long", visibility_timeout=60 * SECOND),
    ]
    for plan in plans:
        await bench.client.enqueue(waits, queue=plan.name)
    async with bench.working(waits, queues=plans):
        await wait_until(lambda: gate.inside == 2, "both run")
        await turns(bench, 41)
        times = Counter(ttl for _, ttl in watched(bench).extended)
        assert times[60 * SECOND] == 1
        assert 13 <= times[3 * SECOND] <= 20
        gate.open.set()


async def test_jobs_that_end_soon_cost_no_look_for_wishes(bench: Bench) -> None:
    gate = Gate()
    waits = waiting(gate)
    async with bench.working(waits):
        await bench.client.enqueue_many(waits, [None] * 5)
        await wait_until(lambda: gate.inside == 5, "all run")
        await turns(bench, 1)
        assert watched(bench).looked == []  # they are looked at from their second turn on
        await turns(bench, 2)
        assert watched(bench).looked == [5, 5]
        gate.open.set()
        await wait_until(lambda: not gate_is_used(bench), "all have ended")
        await turns(bench, 2)
        assert watched(bench).looked == [5, 5]


def gate_is_used(bench: Bench) -> bool:
    return bench.consumers[-1].running > 0


async def test_only_the_latest_progress_is_recorded_and_many_jobs_at_once(bench: Bench) -> None:
    gate = Gate()

    @task()
    async def tells() -> None:
        run = current_run()
        assert run is not None
        for percent in range(100):
            run.progress(percent)
        gate.inside += 1
        await gate.open.wait()

    jobs = await bench.client.enqueue_many(tells, [None] * 50)
    async with bench.working(tells):
        await wait_until(lambda: gate.inside == 50, "all run")
        await turns(bench, 1)
        assert set(watched(bench).told.values()) == {1}
        assert [await job.progress() for job in jobs] == [{"percent": 99}] * 50
        assert 1 < watched(bench).most_telling <= 20
        await turns(bench, 3)
        assert set(watched(bench).told.values()) == {1}
        gate.open.set()


async def test_a_wish_may_come_with_an_extension(bench: Bench) -> None:
    """As it does where jobs cannot be looked up."""
    asked: list[bool] = []

    class Blind(Watched):
        async def cancelled(self, ids: Sequence[JobId]) -> list[JobId]:
            return []

    @task()
    async def polite() -> None:
        run = current_run()
        assert run is not None
        await wait_until(lambda: run.cancelled, "it is asked to end")
        asked.append(True)
        raise RuntimeError

    bench.use(Blind(bench.clock))
    job = await bench.client.enqueue(polite)
    async with bench.working(polite, queues=[PLAN]):
        await bench.is_in(job, State.STARTED)
        assert await job.cancel()
        await turns(bench, 21)
        await bench.is_in(job, State.REVOKED)
    assert asked == [True]


async def test_old_jobs_are_forgotten_every_minute_as_many_as_there_are(bench: Bench) -> None:
    jobs = watched(bench)
    jobs.to_prune = 12_000
    async with bench.working(queues=["default"]):
        await turns(bench, 119)
        assert jobs.pruned == 0
        await turns(bench, 1)
        assert (jobs.pruned, jobs.to_prune) == (1, 7000)
        await turns(bench, 2)
        assert (jobs.pruned, jobs.to_prune) == (3, 0)
        await turns(bench, 100)
        assert jobs.pruned == 3


def lease(id: str, *, receipt: str = "1", attempts: int = 0) -> Lease:
    moment = SteppedClock().now()
    rest = {"params": "{}", "version": 1, "priority": 0, "options": "{}", "headers": "{}"}
    counts = {"deliveries": 1, "losses": 0, "refusals": 0}
    times = {"created_at": moment, "due_at": moment, "expires_at": None}
    named = {**rest, **counts, **times}
    return Lease(
        id=JobId(id),
        task="t",
        queue="default",
        receipt=receipt,
        attempts=attempts,
        cancel=False,
        **named,  # type: ignore[arg-type]
    )


async def test_a_later_lease_of_the_same_attempt_takes_the_place_of_the_earlier_one(
    bench: Bench,
) -> None:
    held = HeldLeases(bench.memory, bench.runner, clock=bench.clock, cancel_grace=SECOND, keep=WEEK)
    first, again = lease("a"), lease("a", receipt="2")
    assert not held.has(first)
    held.add(PLAN, first)
    assert held.has(again)
    assert held.adopt(again)
    assert held.current(first) is again
    assert len(held) == 1


async def test_a_later_lease_of_another_attempt_ends_what_goes_on(bench: Bench) -> None:
    held = HeldLeases(bench.memory, bench.runner, clock=bench.clock, cancel_grace=SECOND, keep=WEEK)
    first, other = lease("a"), lease("a", receipt="2", attempts=1)
    held.add(PLAN, first)
    assert not held.adopt(other)
    assert held.current(first) is None
    assert not held.adopt(lease("a", receipt="3"))
    held.discard(first)
    assert not held.has(other)


async def test_a_job_that_comes_back_before_the_answer_to_its_outcome_is_run_again() -> None:
    """Nothing but the answer is missing: it is neither the old work's lease nor a loss."""
    begun: list[int] = []

    @task(queue="default")
    async def naps(context: RunContext) -> str:
        begun.append(context.attempt)
        if len(begun) < 3:
            context.snooze("0s")
        return "awake"

    async with open_bench() as bench:
        jobs = LateAnswers(bench.clock)
        bench.use(jobs)
        job = await bench.client.enqueue(naps)
        async with bench.working(naps):
            await wait_until(lambda: jobs.handed_out == 2, "it is leased before the answer")
            jobs.answer.set()

            def has_run() -> bool:
                bench.advance(SECOND)
                return len(begun) == 3

            await wait_until(has_run, "it has run again")
            await bench.is_in(job, State.SUCCESS)
        told = await bench.info(job)
    assert (told.losses, told.attempts) == (0, 1)


class LateAnswers(MemoryJobs):
    """Settles at once, and says so only when the test lets it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.answer = asyncio.Event()
        self.handed_out = 0

    async def lease(self, queue: str, **rest: Any) -> list[Lease]:
        leases = await super().lease(queue, **rest)
        self.handed_out += len(leases)
        return leases

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        told = await super().settle(settlements)
        if any(settlement.state is State.PENDING for settlement in settlements):
            await self.answer.wait()
        return told
