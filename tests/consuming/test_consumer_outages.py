"""The engine goes away, or somebody else gets the job: nothing is lost, and it is told once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consuming import Bench, open_bench
from tests.support.waiting import wait_until
from worker import State, StoreUnavailable, task
from worker.consuming.queue_plan import QueuePlan
from worker.events import LeaseWasLost, QueueChanged, RunFinished
from worker.jobs.job import Held, JobId, Lease, Settlement
from worker.queues.memory import MemoryJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

MINUTE = timedelta(minutes=1)
PLAN = QueuePlan(name="default", visibility_timeout=timedelta(seconds=3))


class Flaky(MemoryJobs):
    """An engine whose methods fail while the test says so."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.down: set[str] = set()
        self.refused: list[str] = []
        self.unheard = False

    def check(self, name: str) -> None:
        if name in self.down:
            self.refused.append(name)
            raise StoreUnavailable(f"{name}: no connection")

    async def lease(self, *args: Any, **rest: Any) -> list[Lease]:
        self.check("lease")
        return await super().lease(*args, **rest)

    async def extend(self, *args: Any, **rest: Any) -> list[Held]:
        self.check("extend")
        return await super().extend(*args, **rest)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        self.check("settle")
        told = await super().settle(settlements)
        if self.unheard:
            self.unheard = False
            raise StoreUnavailable("settle: the connection was lost")
        return told

    async def tell(self, lease: Lease, progress: str) -> None:
        self.check("tell")
        await super().tell(lease, progress)

    async def cancelled(self, ids: Sequence[JobId]) -> list[JobId]:
        self.check("cancelled")
        return await super().cancelled(ids)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    for name in ("consumer.AGAIN_S", "settling.AGAIN_S", "held_leases.TURN_S"):
        monkeypatch.setattr(f"worker.consuming.{name}", 0.01)
    async with open_bench() as bench:
        bench.use(Flaky(bench.clock))
        yield bench


def flaky(bench: Bench) -> Flaky:
    assert isinstance(bench.memory, Flaky)
    return bench.memory


@task()
async def double(n: int) -> int:
    return 2 * n


def troubles(bench: Bench) -> list[bool]:
    """Whether there was trouble, each time that something was told of it."""
    return [event.trouble is not None for event in bench.told(QueueChanged)]


async def test_jobs_are_leased_again_once_the_engine_is_back(bench: Bench) -> None:
    engine = flaky(bench)
    engine.down = {"lease"}
    job = await bench.client.enqueue(double, {"n": 1})
    async with bench.working(double):
        await wait_until(lambda: len(engine.refused) >= 3, "it was tried thrice")
        assert troubles(bench) == [True]
        engine.down = set()
        assert await job.result("5s") == 2
    assert troubles(bench) == [True, False]


async def test_an_engine_that_cannot_be_opened_at_first_is_opened_later(bench: Bench) -> None:
    opened = 0

    async def on_begin() -> None:
        nonlocal opened
        flaky(bench).check("open")
        opened += 1

    engine = flaky(bench)
    engine.down = {"open"}
    job = await bench.client.enqueue(double, {"n": 1})
    async with bench.working(double, queues=["default", "other"], on_begin=on_begin):
        await wait_until(lambda: len(engine.refused) >= 5, "it was tried")
        assert (await bench.info(job)).deliveries == 0
        assert troubles(bench) == [True]
        engine.down = set()
        assert await job.result("5s") == 2
    assert troubles(bench) == [True, False]
    assert opened == 1


async def test_it_is_told_once_though_many_queues_are_polled(bench: Bench) -> None:
    engine = flaky(bench)
    engine.down = {"lease"}
    async with bench.working(double, queues=["a", "b", "c"]):
        await wait_until(lambda: len(engine.refused) >= 9, "each was tried")
        engine.down = set()
        await wait_until(lambda: len(troubles(bench)) == 2, "it is back")
    assert troubles(bench) == [True, False]


async def test_an_outcome_is_kept_until_it_can_be_stored(bench: Bench) -> None:
    engine = flaky(bench)
    engine.down = {"settle"}
    jobs = await bench.client.enqueue_many(double, [{"n": n} for n in range(20)])
    async with bench.working(double) as consumer:
        await wait_until(lambda: len(engine.refused) >= 5, "it was tried again and again")
        assert consumer.running == 20
        engine.down = set()
        assert [await job.result("5s") for job in jobs] == [2 * n for n in range(20)]
        await wait_until(lambda: len(troubles(bench)) == 2, "it is back")
    assert troubles(bench) == [True, False]
    assert len(bench.told(RunFinished)) == 20  # none was run twice
    assert not bench.told(LeaseWasLost)


async def test_while_the_engine_is_wholly_away_work_goes_on_and_nothing_is_lost(
    bench: Bench,
) -> None:
    engine = flaky(bench)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @task()
    async def long() -> str:
        begun.set()
        await go_on.wait()
        return "done"

    job = await bench.client.enqueue(long)
    async with bench.working(long, queues=[PLAN]):
        await begun.wait()
        engine.down = {"lease", "extend", "settle", "tell", "cancelled"}
        bench.advance(timedelta(minutes=10))  # the lease runs out, and nobody else gets the job
        go_on.set()
        await wait_until(lambda: engine.refused.count("settle") > 2, "its end cannot be stored")
        engine.down = set()
        assert await job.result("5s") == "done"
    assert len(bench.told(RunFinished)) == 1
    assert not bench.told(LeaseWasLost)


async def test_a_worker_that_gets_the_job_it_runs_again_goes_on_with_it(bench: Bench) -> None:
    """Its lease ran out, for the loop was blocked, say, and nobody else took the job."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    runs: list[int] = []

    @task()
    async def long() -> str:
        runs.append(1)
        begun.set()
        await go_on.wait()
        return "done"

    job = await bench.client.enqueue(long)
    async with bench.working(long, queues=[PLAN]):
        await begun.wait()
        flaky(bench).down = {"extend"}
        bench.advance(MINUTE)
        # Wakes the poller, which finds both.
        other = await bench.client.enqueue(long)
        await wait_until(lambda: len(runs) == 2, "the other one runs")
        assert (await bench.info(job)).deliveries == 2
        go_on.set()
        assert await job.result("5s") == "done"
        assert await other.result("5s") == "done"
    assert len(runs) == 2


async def test_an_outcome_that_waits_to_be_stored_is_stored_under_a_later_lease(
    bench: Bench,
) -> None:
    engine = flaky(bench)
    engine.down = {"settle", "extend"}
    runs: list[int] = []

    @task()
    async def count(n: int) -> int:
        runs.append(n)
        return n

    job = await bench.client.enqueue(count, {"n": 1})
    async with bench.working(count, queues=[PLAN]):
        await wait_until(lambda: "settle" in engine.refused, "its end cannot be stored")
        bench.advance(MINUTE)
        await bench.client.enqueue(count, {"n": 2})
        await wait_until(lambda: len(runs) == 2, "the poller has found both")
        engine.down = set()
        assert await job.result("5s") == 1
    assert runs == [1, 2]
    assert (await bench.info(job)).deliveries == 2


async def steal(bench: Bench, job: JobId) -> Lease:
    """Have another worker get the job, whose lease has run out."""
    bench.advance(MINUTE)
    (lease,) = await MemoryJobs.lease(
        bench.memory, "default", limit=1, ttl=10 * MINUTE, wait=timedelta(0), worker="two"
    )
    assert lease.id == job
    return lease


async def test_a_run_whose_lease_is_lost_is_ended_and_cannot_settle(bench: Bench) -> None:
    begun = asyncio.Event()
    ended: list[str] = []

    @task()
    async def long() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "never"

    job = await bench.client.enqueue(long)
    async with bench.working(long, queues=[PLAN]):
        await begun.wait()
        flaky(bench).down = {"lease", "extend"}
        theirs = await steal(bench, job.id)
        flaky(bench).down = {"lease"}
        await wait_until(lambda: bool(bench.told(LeaseWasLost)), "it was told")
        assert ended == ["cancelled"]
        info = await bench.info(job)
        assert (info.state, info.worker) == (State.STARTED, "two")
        settled = await bench.memory.settle([Settlement(theirs, State.SUCCESS, 1, result="1")])
        assert settled == [True]
        assert await job.result("1s") == 1
    (lost,) = bench.told(LeaseWasLost)
    assert lost.job_id == job.id
    assert "another worker has the job" in lost.reason


async def test_a_job_that_the_queue_has_forgotten_is_not_said_to_be_elsewhere(bench: Bench) -> None:
    begun = asyncio.Event()

    @task()
    async def long() -> None:
        begun.set()
        await asyncio.Event().wait()

    job = await bench.client.enqueue(long)
    async with bench.working(long, queues=[PLAN]):
        await begun.wait()
        bench.memory._rows.clear()
        bench.advance(MINUTE)
        await wait_until(lambda: bool(bench.told(LeaseWasLost)), "it was told")
    (lost,) = bench.told(LeaseWasLost)
    assert lost.job_id == job.id
    assert "the queue does not know the job any more" in lost.reason
    assert "another worker" not in lost.reason


async def test_an_outcome_that_comes_too_late_changes_nothing(bench: Bench) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @task()
    async def long() -> str:
        begun.set()
        await go_on.wait()
        return "mine"

    job = await bench.client.enqueue(long)
    async with bench.working(long, queues=[PLAN]):
        await begun.wait()
        flaky(bench).down = {"lease", "extend"}
        await steal(bench, job.id)
        go_on.set()
        await wait_until(lambda: bool(bench.told(LeaseWasLost)), "it was told")
        assert (await bench.info(job)).state is State.STARTED
    (lost,) = bench.told(LeaseWasLost)
    assert "before its outcome was stored" in lost.reason


async def test_a_job_that_comes_back_after_others_had_it_is_run_anew(bench: Bench) -> None:
    """What goes on here belongs to an attempt that another worker has counted already."""
    begun = asyncio.Event()
    attempts: list[int] = []

    @task(retry_delay="0s")
    async def long() -> str:
        attempts.append(1)
        begun.set()
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return "done"

    job = await bench.client.enqueue(long)
    async with bench.working(long, queues=[PLAN]):
        await begun.wait()
        flaky(bench).down = {"lease", "extend"}
        theirs = await steal(bench, job.id)
        await bench.memory.settle([Settlement(theirs, State.RETRY, 1)])
        flaky(bench).down = {"extend"}
        await wait_until(lambda: bool(bench.told(LeaseWasLost)), "the old run has ended")
        bench.advance(timedelta(seconds=10))
        await bench.client.enqueue("nudge")
        assert await job.result("5s") == "done"
    assert len(attempts) == 2
    assert (await bench.info(job)).attempts == 2


async def test_progress_that_cannot_be_recorded_is_recorded_later(bench: Bench) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    from worker import current_run

    @task()
    async def long() -> None:
        run = current_run()
        assert run is not None
        run.progress(50)
        begun.set()
        await go_on.wait()

    engine = flaky(bench)
    engine.down = {"tell"}
    job = await bench.client.enqueue(long)
    async with bench.working(long):
        await begun.wait()
        await wait_until(lambda: "tell" in engine.refused, "it was tried")
        engine.down = set()
        await bench.is_in(job, State.PROGRESS)
        assert await job.progress() == {"percent": 50}
        go_on.set()


async def test_trouble_is_told_though_no_poller_asks(bench: Bench) -> None:
    """All slots are taken, so nothing is leased; only the leases are extended."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @task()
    async def long() -> None:
        begun.set()
        await go_on.wait()

    await bench.client.enqueue(long)
    async with bench.working(long, concurrency=1):
        await begun.wait()
        flaky(bench).down = {"cancelled"}
        await wait_until(lambda: troubles(bench) == [True], "it was told")
        flaky(bench).down = set()
        await wait_until(lambda: troubles(bench) == [True, False], "it is back")
        go_on.set()


async def test_what_a_fault_of_the_engine_refuses_is_run_again_later(bench: Bench) -> None:
    """An error that is no `StoreError` will come again: the job is let go, and told of."""

    class Broken(MemoryJobs):
        async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
            raise ValueError("a text that the database does not take")

    bench.use(Broken(bench.clock))
    job = await bench.client.enqueue(double, {"n": 1})
    async with bench.working(double) as consumer:
        await wait_until(lambda: bool(bench.told(LeaseWasLost)), "it was told")
        assert consumer.running == 0
    assert "ValueError: a text" in bench.told(LeaseWasLost)[0].reason
    assert (await bench.info(job)).state is State.STARTED  # until its lease runs out


async def test_a_rate_that_cannot_be_asked_for_is_kept(bench: Bench) -> None:
    @task(rate_limit="1/s")
    async def limited() -> None: ...

    class NoRates(MemoryJobs):
        async def take(self, *args: Any) -> Any:
            raise StoreUnavailable("no connection")

    bench.use(NoRates(bench.clock))
    job = await bench.client.enqueue(limited)
    await bench.work_off(limited)
    info = await bench.info(job)
    assert (info.state, info.attempts) == (State.PENDING, 0)
    assert info.ready_at > bench.clock.now()


async def test_of_an_outcome_that_may_have_been_stored_it_is_not_said_that_it_was_not(
    bench: Bench,
) -> None:
    flaky(bench).unheard = True
    job = await bench.client.enqueue(double, {"n": 2})
    async with bench.working(double):
        assert await job.result("5s") == 4
        await wait_until(lambda: bool(bench.told(LeaseWasLost)), "it is told")
    (told,) = bench.told(LeaseWasLost)
    assert told.reason.startswith("the engine failed while its outcome was stored")
