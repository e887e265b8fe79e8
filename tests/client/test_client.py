"""How jobs are asked for from code, and how what became of them is asked after."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consuming import Bench, open_bench
from tests.support.jobs import dead, ended, lease_one
from tests.support.waiting import wait_until
from worker import (
    BaseTask,
    DuplicateJob,
    InvalidOptions,
    InvalidParams,
    JobExpired,
    JobFailed,
    JobRevoked,
    NotSupported,
    RunContext,
    State,
    StoreUnavailable,
    SyncWorkerClient,
    UniquePer,
    UnknownJob,
    WorkerClient,
    task,
)
from worker.client.current import current_client
from worker.jobs.job import Capabilities, Enqueued, NewJob
from worker.queues.memory import MemoryJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


@task()
async def double(n: int) -> int:
    return 2 * n


class Counted(MemoryJobs):
    """Counts round trips."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.opened = self.closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        self.batches.append(len(jobs))
        await asyncio.sleep(0)
        return await super().enqueue(jobs)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """The engine that the environment names."""
    jobs = Counted()
    monkeypatch.setattr("worker.client.client.configured_jobs", lambda location: jobs)
    return jobs


# Asking


async def test_a_job_has_an_id_that_nobody_has_chosen(bench: Bench) -> None:
    one = await bench.client.enqueue(double, {"n": 1})
    other = await bench.client.enqueue(double, {"n": 1})
    assert one.created
    assert other.created
    assert one.id != other.id
    assert repr(one) == f"JobHandle({one.id!r})"


async def test_the_same_id_twice_is_one_job(bench: Bench) -> None:
    one = await bench.client.enqueue(double, {"n": 1}, id="order:7")
    again = await bench.client.enqueue(double, {"n": 1}, id="order:7")
    assert (one.created, again.created) == (True, False)
    assert one.id == again.id == "order:7"
    assert again.state is State.PENDING


async def test_many_are_enqueued_in_one_round_trip_a_thousand() -> None:
    client = WorkerClient(jobs=(counted := Counted()))
    jobs = await client.enqueue_many(double, ({"n": n} for n in range(2500)))
    assert counted.batches == [1000, 1000, 500]
    assert len({job.id for job in jobs}) == 2500


async def test_concurrent_calls_share_their_round_trips() -> None:
    client = WorkerClient(jobs=(counted := Counted()))
    await asyncio.gather(*(client.enqueue(double, {"n": n}) for n in range(200)))
    assert sum(counted.batches) == 200
    assert len(counted.batches) <= 3


async def test_many_can_have_ids_of_their_own(bench: Bench) -> None:
    jobs = await bench.client.enqueue_many(double, [{"n": 1}, {"n": 2}], ids=["a", "b"])
    assert [job.id for job in jobs] == ["a", "b"]
    with pytest.raises(InvalidOptions, match="ids: expected 2, got 1"):
        await bench.client.enqueue_many(double, [{"n": 1}, {"n": 2}], ids=["a"])
    with pytest.raises(InvalidOptions, match=r"id: expected ids=\[…\]"):
        await bench.client.enqueue_many(double, [{"n": 1}], id="a")


async def test_one_that_does_not_fit_keeps_all_of_them_out() -> None:
    client = WorkerClient(jobs=(counted := Counted()))
    with pytest.raises(InvalidParams, match="double: n: "):
        await client.enqueue_many(double, [{"n": 1}, {"n": "x"}])
    assert counted.batches == []


async def test_a_task_can_be_asked_for_by_its_name(bench: Bench) -> None:
    job = await bench.client.enqueue("unheard_of", {"any": ["thing"]}, queue="elsewhere")
    info = await job.info()
    assert (info.task, info.queue, info.params) == ("unheard_of", "elsewhere", '{"any":["thing"]}')
    for no_object in ([1], "text", 7):
        with pytest.raises(InvalidParams, match="expected an object of parameters"):
            await bench.client.enqueue("unheard_of", no_object)
    for wrong in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(InvalidParams, match="unheard_of: a: expected a"):
            await bench.client.enqueue("unheard_of", wrong)


async def test_of_a_name_that_is_known_the_parameters_are_validated(bench: Bench) -> None:
    client = WorkerClient(jobs=bench.memory, tasks={"double": double.define()})
    with pytest.raises(InvalidParams, match="double: n"):
        await client.enqueue("double", {"m": 1})


async def test_a_task_without_a_queue_cannot_be_asked_for(bench: Bench) -> None:
    class Periodic(BaseTask):
        name = "periodic"

        async def execute(self) -> None: ...

    with pytest.raises(InvalidOptions, match=r"periodic has no queue; expected .*queue = "):
        await bench.client.enqueue(Periodic)


async def test_parameters_that_are_too_large_are_refused(bench: Bench) -> None:
    client = WorkerClient(jobs=bench.memory, payload_limit=100)
    await client.enqueue("t", {"text": "x" * 80})
    with pytest.raises(InvalidParams, match=r"t: the parameters are 111 bytes .* up to 100"):
        await client.enqueue("t", {"text": "x" * 100})


async def test_a_job_can_begin_later(bench: Bench) -> None:
    now = bench.clock.now()
    delayed = await bench.client.enqueue(double, {"n": 1}, delay="5m")
    assert (await delayed.info()).ready_at == now + timedelta(minutes=5)
    moment = datetime.now(UTC) + timedelta(hours=1)
    at = bench.client.request(double, {"n": 1}, at=moment).delay
    assert timedelta(minutes=59) < at <= timedelta(hours=1)
    past = bench.client.request(double, {"n": 1}, at=moment - timedelta(days=3))
    assert past.delay == timedelta(0)
    with pytest.raises(InvalidOptions, match="delay and at: expected one of them"):
        await bench.client.enqueue(double, {"n": 1}, delay="5m", at=moment)
    with pytest.raises(InvalidOptions, match="at: expected a datetime with its time zone"):
        await bench.client.enqueue(double, {"n": 1}, at=datetime(2030, 1, 1))  # noqa: DTZ001 - naive


async def test_what_the_producer_hands_on_is_found_by_the_task(bench: Bench) -> None:
    @task()
    async def trace(job: RunContext) -> str:
        return job.headers["traceparent"]

    job = await bench.client.enqueue(trace, headers={"traceparent": "00-1"})
    async with bench.working(trace):
        assert await job.result("5s") == "00-1"


async def test_headers_of_the_caller_are_added_to_those_of_the_task(bench: Bench) -> None:
    own = {"tenant": "ours", "team": "billing"}

    @task(name="traced", enqueue_options=lambda said: {"headers": own})
    async def traced(n: int) -> None: ...

    job = await bench.client.enqueue(traced, {"n": 1}, headers={"why": "test", "team": "mail"})
    headers = json.loads((await job.info()).headers)
    assert headers == {"tenant": "ours", "team": "mail", "why": "test"}
    with pytest.raises(InvalidOptions, match="headers: expected strings by name"):
        await bench.client.enqueue(traced, {"n": 1}, headers={"n": 1})  # type: ignore[dict-item]


# Unique jobs


async def test_a_unique_job_is_the_one_that_is_there(bench: Bench) -> None:
    @task(unique=UniquePer("customer"))
    async def sync(customer: int, force: bool = False) -> None: ...

    one = await bench.client.enqueue(sync, {"customer": 7})
    same = await bench.client.enqueue(sync, {"customer": 7, "force": True})
    other = await bench.client.enqueue(sync, {"customer": 8})
    assert (one.created, same.created, other.created) == (True, False, True)
    assert same.id == one.id
    await bench.work_off(sync)
    assert (await bench.client.enqueue(sync, {"customer": 7})).created  # it has ended


async def test_a_unique_job_can_keep_others_out_for_a_time_only(bench: Bench) -> None:
    @task(unique=UniquePer(ttl="1m", states=("PENDING", "STARTED", "SUCCESS")))
    async def sync() -> None: ...

    await bench.client.enqueue(sync)
    await bench.work_off(sync)
    assert not (await bench.client.enqueue(sync)).created
    bench.advance(timedelta(minutes=1))
    assert (await bench.client.enqueue(sync)).created


async def test_a_conflict_can_be_an_error_that_names_the_job(bench: Bench) -> None:
    @task(unique=UniquePer(on_conflict="raise"))
    async def sync() -> None: ...

    client = WorkerClient(jobs=bench.memory, tasks={"sync": sync.define()})
    one = await client.enqueue(sync)
    for asked in (sync, "sync"):
        with pytest.raises(DuplicateJob, match="has the same parameters") as conflict:
            await client.enqueue(asked)
        assert conflict.value.job_id == one.id
    with pytest.raises(DuplicateJob):
        await client.enqueue_many(sync, [None])
    assert not (await client.enqueue(sync, id=one.id)).created  # it is the same job


# What an engine cannot do


async def test_what_the_engine_cannot_do_is_refused_with_its_reason() -> None:
    class Narrow(MemoryJobs):
        capabilities = Capabilities(
            backend="narrow",
            longest_delay=timedelta(minutes=15),
            most_payload=50,
            priorities=False,
            unique=False,
            concurrency=False,
        )

    client = WorkerClient(jobs=Narrow())
    refused: list[tuple[dict[str, Any], str]] = [
        ({"delay": "16m"}, "narrow does not do a delay of 16m.*; it takes up to 15m"),
        ({"priority": 1}, "narrow does not do priorities"),
        ({"unique": True}, "narrow does not do unique jobs"),
        ({"concurrency": 1}, "narrow does not do a concurrency limit by key"),
        ({"delay": "16m", "priority": 1}, "; nor priorities"),
        ({"connection": object()}, "cannot enqueue in the caller's transaction"),
    ]
    for options, words in refused:
        with pytest.raises(NotSupported, match=words):
            await client.enqueue(double, {"n": 1}, **options)
    with pytest.raises(InvalidParams, match="expected up to 50"):
        await client.enqueue("t", {"text": "x" * 60})


# What became of it


async def test_a_result_is_waited_for_without_asking_again_and_again(bench: Bench) -> None:
    asked = 0

    class Watched(MemoryJobs):
        async def wait(self, *args: Any, **rest: Any) -> Any:
            nonlocal asked
            asked += 1
            return await super().wait(*args, **rest)

    bench.use(Watched())
    job = await bench.client.enqueue(double, {"n": 2})
    waiting = asyncio.create_task(job.result("5s"))
    await asyncio.sleep(0.05)
    lease = await lease_one(bench.memory)
    await bench.memory.settle([ended(lease, result="4")])
    assert await waiting == 4
    assert asked == 1


async def test_who_waits_too_long_is_told_where_the_job_stands(bench: Bench) -> None:
    job = await bench.client.enqueue(double, {"n": 2})
    with pytest.raises(TimeoutError, match="has not ended within 20ms: PENDING"):
        await job.result("20ms")
    with pytest.raises(TimeoutError):
        await job.ended("0s")


async def test_an_id_that_nobody_recorded_is_unknown_and_not_pending(bench: Bench) -> None:
    job = bench.client.job("nobody-knows-it")
    assert await job.status() is State.UNKNOWN
    for ask in (job.info, job.progress, job.cancel, job.result, job.ended):
        with pytest.raises(UnknownJob, match="no job nobody-knows-it is recorded"):
            await ask()


async def test_a_pruned_job_is_unknown_too(bench: Bench) -> None:
    job = await bench.client.enqueue(double, {"n": 1})
    await bench.work_off(double)
    bench.advance(timedelta(days=8))
    await bench.memory.prune(keep=timedelta(days=7))
    assert await job.status() is State.UNKNOWN


async def test_each_end_of_a_job_has_its_own_answer(bench: Bench) -> None:
    job = await bench.client.enqueue(double, {"n": 1})
    lease = await lease_one(bench.memory)
    await bench.memory.settle([dead(lease)])
    with pytest.raises(JobFailed, match="failed: E: no") as failed:
        await job.result()
    assert (failed.value.error_type, failed.value.error_message) == ("E", "no")

    job = await bench.client.enqueue(double, {"n": 1})
    assert await job.cancel()
    assert await job.status() is State.REVOKED
    with pytest.raises(JobRevoked):
        await job.result()
    assert not await job.cancel()

    job = await bench.client.enqueue(double, {"n": 1}, expires="1m")
    await bench.later(timedelta(minutes=2), double)
    assert await job.status() is State.EXPIRED
    with pytest.raises(JobExpired, match="could not begin"):
        await job.result()


async def test_a_result_is_kept_for_its_time_and_then_has_expired(bench: Bench) -> None:
    job = await bench.client.enqueue(double, {"n": 1}, result_ttl="1h")
    await bench.work_off(double)
    assert await job.result() == 2
    bench.advance(timedelta(hours=1, seconds=1))
    assert await job.status() is State.SUCCESS
    with pytest.raises(JobExpired, match="was kept until"):
        await job.result()


# Which client it is


async def test_an_open_client_is_the_one_that_tasks_use() -> None:
    async with WorkerClient(jobs=(counted := Counted())) as client:
        await double.enqueue({"n": 1})
        await double.enqueue_many([{"n": 1}, {"n": 2}])
        assert await current_client() is client
    assert counted.batches == [1, 2]


async def test_a_client_with_a_url_opens_and_closes_its_engine(counted: Counted) -> None:
    async with WorkerClient("memory://") as client:
        assert (counted.opened, counted.closed) == (1, 0)
        job = await client.enqueue(double, {"n": 1})
    assert (counted.opened, counted.closed) == (1, 1)
    with pytest.raises(StoreUnavailable, match="this WorkerClient is closed"):
        await job.status()
    with pytest.raises(StoreUnavailable, match="this WorkerClient is closed"):
        await client.enqueue(double, {"n": 1})
    assert counted.opened == 1


async def test_a_client_that_cannot_be_opened_is_closed(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down() -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(counted, "open", down)
    with pytest.raises(StoreUnavailable, match="down"):
        async with WorkerClient("memory://"):
            pass
    assert counted.closed == 1


async def test_an_engine_that_somebody_else_has_opened_is_left_open() -> None:
    async with WorkerClient(jobs=(counted := Counted())):
        pass
    assert (counted.opened, counted.closed) == (0, 0)


def test_without_a_client_one_is_made_for_the_event_loop_and_closed_with_it(
    counted: Counted,
) -> None:
    async def produce() -> None:
        await asyncio.gather(*(double.enqueue({"n": n}) for n in range(20)))
        await double.enqueue({"n": 1})
        assert counted.opened == 1
        assert counted.closed == 0

    asyncio.run(produce())
    gc.collect()  # nothing is left behind that would be complained about
    assert (counted.opened, counted.closed) == (1, 1)
    asyncio.run(double_again())
    assert (counted.opened, counted.closed) == (2, 2)


async def double_again() -> None:
    await double.enqueue({"n": 1})


async def test_a_task_asks_for_others_through_its_worker(bench: Bench) -> None:
    @task()
    async def parent(job: RunContext) -> str:
        child = await job.enqueue(double, {"n": 4})
        return child.id

    job = await bench.client.enqueue(parent)
    async with bench.working(parent, double):
        child = bench.client.job(await job.result("5s"))
        assert await child.result("5s") == 8


async def test_an_engine_that_is_away_is_told_to_whoever_asks(bench: Bench) -> None:
    class Away(MemoryJobs):
        async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
            raise StoreUnavailable("no connection")

    client = WorkerClient(jobs=Away())
    answers = await asyncio.gather(
        *(client.enqueue(double, {"n": n}) for n in range(3)), return_exceptions=True
    )
    assert [str(answer) for answer in answers] == ["no connection"] * 3
    with pytest.raises(StoreUnavailable):
        await client.enqueue_many(double, [{"n": 1}])


# From a synchronous program


def test_a_synchronous_program_asks_and_waits(tmp_path: Path) -> None:
    with SyncWorkerClient(f"sqlite:///{tmp_path / 'jobs.db'}") as client:
        job = client.enqueue(double, {"n": 1}, id="one", delay="5m")
        assert (job.id, job.created, job.status()) == ("one", True, State.PENDING)
        assert [j.created for j in client.enqueue_many(double, [{"n": 2}, {"n": 3}])] == [True] * 2
        assert client.job("one").info().params == '{"n":1}'
        assert client.job("nobody").status() is State.UNKNOWN
        assert job.progress() is None
        with pytest.raises(TimeoutError):
            job.result("10ms")
        assert job.cancel()
        with pytest.raises(JobRevoked):
            job.result()
        with pytest.raises(InvalidParams):
            client.enqueue(double, {"m": 1})
    with pytest.raises(StoreUnavailable, match="not open"):
        client.enqueue(double, {"n": 1})


def test_a_synchronous_client_may_be_used_by_several_threads(tmp_path: Path) -> None:
    created: list[bool] = []
    with SyncWorkerClient(f"sqlite:///{tmp_path / 'jobs.db'}") as client:

        def produce(number: int) -> None:
            created.extend(client.enqueue(double, {"n": n}).created for n in range(number, 20))

        threads = [Thread(target=produce, args=[number]) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert created == [True] * 90


def test_a_synchronous_client_that_cannot_be_opened_leaves_nothing_behind() -> None:
    client = SyncWorkerClient("postgres://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable), client:
        pass
    gc.collect()


async def test_a_synchronous_client_does_not_hold_up_an_event_loop(tmp_path: Path) -> None:
    """In a thread of an async program: its loop is its own."""

    def produce() -> bool:
        with SyncWorkerClient(f"sqlite:///{tmp_path / 'jobs.db'}") as client:
            return client.enqueue(double, {"n": 1}).created

    done = asyncio.create_task(asyncio.to_thread(produce))
    await wait_until(done.done, "it has asked")
    assert done.result()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_synchronous_client_says_that_it_was_opened_before_a_fork(tmp_path: Path) -> None:
    with SyncWorkerClient(f"sqlite:///{tmp_path / 'jobs.db'}") as client:
        child = os.fork()
        if not child:
            code = 1
            try:
                client.enqueue("ping")
            except StoreUnavailable as exc:
                client.close()
                code = 0 if "before the process was forked" in str(exc) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.enqueue("ping").status() is State.PENDING


@pytest.mark.parametrize("name", ["", "a b", "a\0b", "9", "\u00e9", "x" * 101])
async def test_what_cannot_be_the_name_of_a_task_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidOptions, match="the name of a task: expected"):
        await bench.client.enqueue(name)
