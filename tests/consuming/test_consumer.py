"""What the consumer promises: which jobs it leases, how many at once, and when it has done."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.clock import SteppedClock
from tests.support.consuming import Bench, open_bench
from tests.support.waiting import wait_until
from worker import BaseTask, State, task
from worker.consuming.queue_plan import QueuePlan
from worker.events import JobDead, JobRefused, RunFinished, UnknownJobs
from worker.jobs.job import JobId, Lease, NewJob, Settlement
from worker.queues.memory import MemoryJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


@task()
async def double(n: int) -> int:
    return 2 * n


class Gate:
    """Runs that stay where they are until the test lets them go."""

    def __init__(self) -> None:
        self.inside: Counter[str] = Counter()
        self.most = 0
        self.done = 0
        self._open = asyncio.Event()

    async def through(self, name: str) -> None:
        self.inside[name] += 1
        self.most = max(self.most, self.inside.total())
        try:
            await self._open.wait()
        finally:
            self.inside[name] -= 1
        self.done += 1

    def open(self) -> None:
        self._open.set()


def gated(gate: Gate, name: str, **options: Any) -> Any:
    """A task of this name whose runs wait at the gate; its queue has the same name."""

    @task(**{"name": name, "queue": name, **options})
    async def waits(n: int = 0) -> None:
        await gate.through(name)

    return waits


async def test_a_job_is_run_with_its_parameters_and_its_result_is_there(bench: Bench) -> None:
    job = await bench.client.enqueue(double, {"n": 21})
    assert await job.status() is State.PENDING
    async with bench.working(double):
        assert await job.result("5s") == 42
    assert await job.status() is State.SUCCESS


async def test_a_job_that_comes_while_the_worker_waits_is_run_at_once(bench: Bench) -> None:
    async with bench.working(double):
        await wait_until(lambda: bool(bench.memory._queues), "the poller waits")
        for n in range(5):
            assert await (await bench.client.enqueue(double, {"n": n})).result("5s") == 2 * n


async def test_as_many_jobs_run_at_a_time_as_the_worker_may(bench: Bench) -> None:
    gate = Gate()
    waits = gated(gate, "waits")
    await bench.client.enqueue_many(waits, [{"n": n} for n in range(12)])
    async with bench.working(waits, concurrency=5):
        await wait_until(lambda: gate.inside.total() == 5, "five run")
        leased = [job for job in bench.memory._jobs() if job.state is State.STARTED]
        assert len(leased) == 5  # and none is leased beyond those that run
        gate.open()
        await wait_until(lambda: gate.done == 12, "all have run")
    assert gate.most == 5


async def test_a_queue_has_its_own_limit_of_runs(bench: Bench) -> None:
    gate = Gate()
    few, many = gated(gate, "few"), gated(gate, "many")
    for each in (few, many):
        await bench.client.enqueue_many(each, [{} for _ in range(8)])
    plans = [QueuePlan(name="few", concurrency=2), QueuePlan(name="many")]
    async with bench.working(few, many, queues=plans, concurrency=6):
        await wait_until(lambda: gate.inside.total() == 6, "six run")
        assert gate.inside == {"few": 2, "many": 4}
        gate.open()
        await wait_until(lambda: gate.done == 16, "all have run")


async def test_an_idle_queue_keeps_no_slot_from_a_busy_one(bench: Bench) -> None:
    gate = Gate()
    idle, busy = gated(gate, "idle"), gated(gate, "busy")
    async with bench.working(idle, busy, concurrency=2):
        await wait_until(lambda: len(bench.memory._queues) == 2, "both pollers wait")
        await bench.client.enqueue_many(busy, [{} for _ in range(4)])
        await wait_until(lambda: gate.inside["busy"] == 2, "all slots are used")
        gate.open()
        await wait_until(lambda: gate.done == 4, "all have run")


async def test_a_job_that_comes_when_all_slots_are_taken_is_left_to_others(bench: Bench) -> None:
    gate = Gate()
    idle, busy = gated(gate, "idle"), gated(gate, "busy")
    async with bench.working(idle, busy, concurrency=2):
        await bench.client.enqueue_many(busy, [{} for _ in range(2)])
        await wait_until(lambda: gate.inside["busy"] == 2, "all slots are used")
        job = await bench.client.enqueue(idle)
        await bench.is_in(job, State.PENDING)
        (lease,) = await bench.memory.lease(
            "idle", limit=1, ttl=MINUTE, wait=SECOND, worker="another"
        )
        assert (lease.id, lease.losses, lease.attempts) == (job.id, 0, 0)
        gate.open()


async def test_a_busy_queue_does_not_keep_others_from_their_turn(bench: Bench) -> None:
    turns: list[str] = []

    def noting(name: str) -> Any:
        @task(name=name, queue=name)
        async def note() -> None:
            turns.append(name)

        return note

    names = ("loud", "soft", "still")
    tasks = [noting(name) for name in names]
    for each, count in zip(tasks, (300, 5, 5), strict=True):
        await bench.client.enqueue_many(each, [None] * count)
    plans = [QueuePlan(name=name, max_batch_size=10) for name in names]
    await bench.work_off(*tasks, queues=plans, concurrency=1)
    assert Counter(turns) == {"loud": 300, "soft": 5, "still": 5}
    assert {*turns[:40]} == {*names}
    last = max(place for place, name in enumerate(turns) if name != "loud")
    assert last < 60


async def test_jobs_are_leased_in_batches_of_the_size_that_the_queue_says(bench: Bench) -> None:
    limits: list[int] = []

    class Watched(MemoryJobs):
        async def lease(self, queue: str, *, limit: int, **rest: Any) -> list[Lease]:
            limits.append(limit)
            return await super().lease(queue, limit=limit, **rest)

    bench.use(Watched(bench.clock))
    await bench.client.enqueue_many(double, [{"n": n} for n in range(50)])
    await bench.work_off(double, queues=[QueuePlan(name="default", max_batch_size=7)])
    assert max(limits) == 7
    assert len(limits) < 20


async def test_a_queue_without_push_is_looked_at_each_poll_interval(bench: Bench) -> None:
    waits: list[timedelta] = []

    class Watched(MemoryJobs):
        async def lease(self, queue: str, *, wait: timedelta, **rest: Any) -> list[Lease]:
            waits.append(wait)
            return await super().lease(queue, wait=wait, **rest)

    bench.use(Watched(bench.clock))
    plan = QueuePlan(name="default", push=False, poll_interval=timedelta(milliseconds=20))
    async with bench.working(double, queues=[plan]):
        await wait_until(lambda: len(waits) >= 3, "it was looked at thrice")
        job = await bench.client.enqueue(double, {"n": 4})
        assert await job.result("5s") == 8
    assert not any(waits)


async def test_leases_are_extended_while_the_work_goes_on(bench: Bench) -> None:
    gate = Gate()
    waits = gated(gate, "waits")
    plan = QueuePlan(name="waits", visibility_timeout=timedelta(seconds=3))
    job = await bench.client.enqueue(waits)
    async with bench.working(waits, queues=[plan]):
        await bench.is_in(job, State.STARTED)
        before = (await bench.info(job)).ready_at
        bench.advance(timedelta(seconds=2.9))
        rows = bench.memory._rows
        await wait_until(lambda: rows[job.id].ready_at > before, "the lease was extended")
        # Another worker finds nothing, though the first lease is over.
        bench.advance(timedelta(seconds=1))
        assert await lease_now(bench, "waits") == []
        gate.open()
        assert await job.result("5s") is None
    assert (await bench.info(job)).deliveries == 1


async def lease_now(bench: Bench, queue: str = "default") -> list[Lease]:
    return await bench.memory.lease(
        queue, limit=10, ttl=MINUTE, wait=timedelta(0), worker="another"
    )


async def test_the_outcome_is_stored_before_the_job_is_acknowledged(bench: Bench) -> None:
    """One call does both, and until it has returned the lease is held."""
    stored: list[Settlement] = []
    going_on = asyncio.Event()

    class Slow(MemoryJobs):
        async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
            stored.extend(settlements)
            await going_on.wait()
            return await super().settle(settlements)

    bench.use(Slow(bench.clock))
    job = await bench.client.enqueue(double, {"n": 1})
    async with bench.working(double) as consumer:
        await wait_until(lambda: bool(stored), "the outcome is on its way")
        assert stored[0].result == "2"
        assert consumer.running == 1
        assert await job.status() is State.STARTED
        going_on.set()
        assert await job.result("5s") == 2
        assert consumer.running == 0


async def test_outcomes_are_stored_in_batches(bench: Bench) -> None:
    sizes: list[int] = []

    class Slow(MemoryJobs):
        async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
            sizes.append(len(settlements))
            await asyncio.sleep(0.002)
            return await super().settle(settlements)

    bench.use(Slow(bench.clock))
    await bench.client.enqueue_many(double, [{"n": n} for n in range(400)])
    await bench.work_off(double)
    assert sum(sizes) == 400
    assert len(sizes) < 60


async def test_no_more_jobs_are_leased_while_many_outcomes_wait_to_be_stored(bench: Bench) -> None:
    going_on = asyncio.Event()

    class Stuck(MemoryJobs):
        async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
            await going_on.wait()
            return await super().settle(settlements)

    bench.use(Stuck(bench.clock))
    await bench.client.enqueue_many(double, [{"n": n} for n in range(3000)])
    async with bench.working(double) as consumer:
        await wait_until(lambda: consumer.running >= 1000, "many have run")
        for _ in range(100):
            await asyncio.sleep(0)
        assert consumer.running <= 1100
        going_on.set()
        await wait_until(lambda: consumer.running == 0, "all are stored")


# What it is to stop after


async def test_a_burst_ends_when_its_queues_are_empty(bench: Bench) -> None:
    handles = await bench.client.enqueue_many(double, [{"n": n} for n in range(30)])
    assert await bench.work_off(double) == "the queues are empty"
    assert {await job.status() for job in handles} == {State.SUCCESS}


async def test_a_burst_does_what_its_jobs_ask_for_in_other_queues(bench: Bench) -> None:
    done: list[str] = []

    @task(name="second", queue="b")
    async def second(left: int) -> None:
        done.append("b")
        if left:
            await first.enqueue({"left": left - 1})

    @task(name="first", queue="a")
    async def first(left: int) -> None:
        done.append("a")
        await second.enqueue({"left": left})

    await bench.client.enqueue(first, {"left": 5})
    await bench.work_off(first, second)
    assert "".join(done) == "ab" * 6


async def test_a_burst_leaves_what_waits_for_its_time(bench: Bench) -> None:
    job = await bench.client.enqueue(double, {"n": 1}, delay="5m")
    await bench.work_off(double)
    assert await job.status() is State.PENDING
    await bench.later(timedelta(minutes=5), double)
    assert await job.status() is State.SUCCESS


async def test_a_burst_over_empty_queues_ends_at_once(bench: Bench) -> None:
    assert await bench.work_off(double, queues=["a", "b", "default"])


@pytest.mark.parametrize("most", [1, 7])
async def test_after_as_many_jobs_as_were_said_it_has_done(bench: Bench, most: int) -> None:
    handles = await bench.client.enqueue_many(double, [{"n": n} for n in range(20)])
    assert await bench.work_off(double, max_jobs=most) == f"{most} jobs"
    states = Counter([await job.status() for job in handles])
    assert states == {State.SUCCESS: most, State.PENDING: 20 - most}
    left = [job for job in bench.memory._jobs() if job.state is State.PENDING]
    assert {job.deliveries for job in left} == {0}  # none was leased beyond those


async def test_the_last_of_so_many_jobs_may_come_from_any_queue(bench: Bench) -> None:
    gate = Gate()
    gate.open()
    one, other = gated(gate, "one"), gated(gate, "other")
    reasons: list[str] = []
    async with bench.working(one, other, max_jobs=2, on_done=reasons.append):
        await bench.client.enqueue_many(other, [{}, {}])
        await wait_until(lambda: bool(reasons), "it has done")
    assert gate.done == 2


async def test_jobs_that_are_not_run_do_not_count(bench: Bench) -> None:
    await bench.memory.enqueue([NewJob(JobId(f"x{n}"), "unheard_of", "default") for n in range(5)])
    job = await bench.client.enqueue(double, {"n": 1})
    assert await bench.work_off(double, max_jobs=1) == "1 jobs"
    assert await job.status() is State.SUCCESS


async def test_a_burst_may_end_before_so_many_jobs_have_come(bench: Bench) -> None:
    await bench.client.enqueue(double, {"n": 1})
    assert await bench.work_off(double, max_jobs=10, burst=True) == "the queues are empty"


# What it cannot run


async def test_an_unknown_task_goes_back_later_and_later_and_ends_in_the_dead_letters(
    bench: Bench,
) -> None:
    await bench.memory.enqueue([NewJob(JobId("x"), "unheard_of", "default")])
    await bench.work_off(double)
    delays = []
    for refusal in bench.told(JobRefused):
        delays.append(refusal.wait_s)
    while not (await bench.info("x")).state.final:
        before = len(bench.told(JobRefused))
        await bench.work_off(double)  # without a hot loop
        assert len(bench.told(JobRefused)) == before
        ready = (await bench.info("x")).ready_at
        await bench.later(ready - bench.clock.now(), double)
        delays += [refusal.wait_s for refusal in bench.told(JobRefused)[before:]]
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    job = await bench.info("x")
    assert (job.state, job.dead, job.attempts, job.deliveries) == (State.FAILURE, True, 0, 10)
    assert job.error is not None
    assert "unknown task 'unheard_of'" in job.error
    assert [event.job_id for event in bench.told(JobDead)] == ["x"]


async def test_a_job_of_a_newer_version_is_left_to_newer_workers(bench: Bench) -> None:
    @task(name="grown", version=2)
    async def newer(n: int, more: str) -> None: ...

    @task(name="grown")
    async def older(n: int) -> None: ...

    job = await bench.client.enqueue(newer, {"n": 1, "more": "x"})
    await bench.work_off(older)
    (refusal,) = bench.told(JobRefused)
    assert "version 2" in refusal.reason
    assert "up to 1" in refusal.reason
    await bench.later(timedelta(seconds=5), newer)
    info = await bench.info(job)
    assert (info.state, info.refusals, info.attempts) == (State.SUCCESS, 1, 1)


async def test_a_newer_worker_runs_jobs_of_older_versions(bench: Bench) -> None:
    @task(name="grown", version=2)
    async def newer(n: int, more: str = "") -> str:
        return f"{n}{more}"

    @task(name="grown")
    async def older(n: int) -> None: ...

    job = await bench.client.enqueue(older, {"n": 1})
    await bench.work_off(newer)
    assert (await bench.info(job)).result == '"1"'


async def test_what_is_left_to_others_is_neither_run_nor_refused(bench: Bench) -> None:
    @task(name="heavy")
    async def heavy() -> None: ...

    job = await bench.client.enqueue(heavy)
    for _ in range(10):
        await bench.later(timedelta(minutes=1), double, spared=["heavy"])
    info = await bench.info(job)
    assert (info.state, info.refusals) == (State.PENDING, 0)
    assert not bench.told(JobRefused)


async def test_unknown_tasks_in_a_polled_queue_are_told(bench: Bench) -> None:
    await bench.memory.enqueue(
        [
            *[NewJob(JobId(f"x{n}"), "unheard_of", "default") for n in range(3)],
            NewJob(JobId("y"), "heavy", "default"),
            NewJob(JobId("z"), "unheard_of", "elsewhere"),
        ]
    )
    await bench.client.enqueue(double, {"n": 1})
    await bench.consumer(double, spared=["heavy"]).tell_unknown()
    (told,) = bench.told(UnknownJobs)
    assert (told.queue, told.jobs) == ("default", {"unheard_of": 3})


async def test_a_job_that_kills_its_workers_is_dead_lettered_apart_from_its_retries(
    bench: Bench,
) -> None:
    job = await bench.client.enqueue(double, {"n": 1}, max_retries=50)
    for _ in range(3):  # three workers lease it, and are never heard of again
        assert await lease_now(bench)
        bench.advance(2 * MINUTE)
    await bench.work_off(double)
    info = await bench.info(job)
    assert (info.state, info.dead, info.attempts, info.losses) == (State.FAILURE, True, 0, 3)
    assert info.error is not None
    assert "WorkerLost" in info.error
    (dead,) = bench.told(JobDead)
    assert "3 times its lease ran out while it ran" in dead.reason


async def test_two_lost_workers_are_no_reason_to_give_a_job_up(bench: Bench) -> None:
    job = await bench.client.enqueue(double, {"n": 1})
    for _ in range(2):
        assert await lease_now(bench)
        bench.advance(2 * MINUTE)
    await bench.work_off(double)
    assert await job.status() is State.SUCCESS


async def test_of_jobs_that_may_have_killed_their_workers_one_is_run_at_a_time(
    bench: Bench,
) -> None:
    together = [0]
    most = [0]

    @task()
    async def suspect(n: int) -> None:
        together[0] += 1
        most[0] = max(most[0], together[0])
        await asyncio.sleep(0)
        together[0] -= 1

    jobs = await bench.client.enqueue_many(suspect, [{"n": n} for n in range(4)])
    for _ in range(2):
        assert len(await lease_now(bench)) == 4
        bench.advance(2 * MINUTE)
    fresh = await bench.client.enqueue(double, {"n": 1})
    await bench.work_off(suspect, double)
    assert await fresh.status() is State.SUCCESS
    for _ in jobs[1:]:
        await bench.later(timedelta(seconds=5), suspect, double)
    assert [await job.status() for job in jobs] == [State.SUCCESS] * 4
    assert most == [1]
    assert [(await bench.info(job)).losses for job in jobs] == [2] * 4


async def test_a_job_that_came_too_late_expires(bench: Bench) -> None:
    ran: list[int] = []

    @task(expires="10s")
    async def prompt(n: int) -> None:
        ran.append(n)

    late = await bench.client.enqueue(prompt, {"n": 1})
    own = await bench.client.enqueue(prompt, {"n": 2}, expires="1m")
    await bench.later(timedelta(seconds=20), prompt)
    assert ran == [2]
    assert await late.status() is State.EXPIRED
    assert await own.status() is State.SUCCESS


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ('{"max_retries": "many"}', "{}"),
        ('{"time_limit": -3}', "{}"),
        ("[1]", "{}"),
        ("no json", "{}"),
        ("{}", "no json"),
        ("{}", "[1]"),
        ("{}", '{"a": 1}'),
    ],
)
async def test_options_and_headers_that_nobody_can_read_kill_the_job_and_not_the_worker(
    bench: Bench, options: str, headers: str
) -> None:
    await bench.memory.enqueue(
        [NewJob(JobId("x"), "double", "default", '{"n": 1}', options=options, headers=headers)]
    )
    job = await bench.client.enqueue(double, {"n": 1})
    await bench.work_off(double)
    assert await job.status() is State.SUCCESS
    info = await bench.info("x")
    assert (info.state, info.dead) == (State.FAILURE, True)
    assert info.error is not None
    assert "InvalidOptions" in info.error


async def test_a_fault_of_the_worker_itself_kills_the_job_and_not_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **rest: Any) -> None:
        raise KeyError("a fault of the runner")

    with monkeypatch.context() as patch:
        patch.setattr(bench.runner, "begin", broken)
        job = await bench.client.enqueue(double, {"n": 1})
        await bench.work_off(double)
    info = await bench.info(job)
    assert (info.state, info.dead) == (State.FAILURE, True)
    assert info.error is not None
    assert "KeyError" in info.error


# Limits over all workers


async def test_a_rate_limit_holds_and_what_is_beyond_it_waits_its_turn(bench: Bench) -> None:
    ran: list[Any] = []

    @task(rate_limit="10/s")
    async def limited(n: int) -> None:
        ran.append(bench.clock.now())

    handles = await bench.client.enqueue_many(limited, [{"n": n} for n in range(40)])
    for _ in range(45):
        await bench.work_off(limited)
        bench.advance(timedelta(milliseconds=100))
    assert len(ran) == 40
    per_second = Counter(int((at - ran[0]).total_seconds()) for at in ran)
    assert per_second[0] <= 20  # a second's worth at once, and then one at a time
    assert all(per_second[second] <= 10 for second in range(1, 5))
    deliveries = [(await bench.info(job)).deliveries for job in handles]
    assert sum(deliveries) < 40 * 4
    assert {(await bench.info(job)).attempts for job in handles} == {1}


async def test_a_large_backlog_behind_a_rate_is_not_leased_again_and_again() -> None:
    @task(rate_limit="1/s")
    async def slow(n: int) -> None: ...

    bench = Bench(clock=(clock := SteppedClock()))
    handles = await bench.client.enqueue_many(slow, [{"n": n} for n in range(250)])
    async with bench.working(slow):
        for second in range(30):
            await wait_until(
                lambda second=second: len(bench.told(RunFinished)) >= second,  # type: ignore[misc]
                "one more has run",
            )
            clock.advance(1)
    infos = [await bench.info(job) for job in handles]
    assert 29 <= sum(info.state is State.SUCCESS for info in infos) <= 31
    assert max(info.deliveries for info in infos) <= 3


async def test_concurrency_by_a_key_holds_over_all_workers(bench: Bench) -> None:
    from worker import ConcurrencyPer

    gate = Gate()
    most: Counter[str] = Counter()
    inside: Counter[str] = Counter()

    @task(concurrency=ConcurrencyPer("customer", limit=2))
    async def sync(customer: str) -> None:
        inside[customer] += 1
        most[customer] = max(most[customer], inside[customer])
        await gate.through(customer)
        inside[customer] -= 1

    await bench.client.enqueue_many(sync, [{"customer": c} for c in "aaaaabbb"])
    other = bench.consumer(sync)
    async with bench.working(sync), asyncio.TaskGroup() as group:
        other.start(group)
        await wait_until(lambda: gate.inside.total() == 4, "two of each run")
        gate.open()
        await wait_until(lambda: gate.done == 8, "all have run")
        await other.stop(timedelta(0))
    assert most == {"a": 2, "b": 2}


async def test_a_class_is_asked_for_and_run_as_a_function_is(bench: Bench) -> None:
    class Greet(BaseTask):
        name = "greet"
        queue = "greetings"

        async def execute(self) -> str:
            return f"hello from {self.context.job_id}"

    async with bench.working(Greet):
        job = await Greet.enqueue(id="greeting-1")
        assert await job.result("5s") == "hello from greeting-1"
