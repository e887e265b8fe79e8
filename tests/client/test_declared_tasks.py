"""What a task declares holds for every door, and an id is that of one job, on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel
from structlog.testing import capture_logs

from tests.support.consuming import Bench, open_bench
from tests.support.jobs import KINDS, Engines, fresh_engines, lease_one, needs, new
from tests.support.waiting import wait_until
from worker import (
    BaseTask,
    DuplicateJob,
    InvalidOptions,
    JobExists,
    JobRevoked,
    State,
    SyncWorkerClient,
    UniquePer,
    WorkerClient,
    task,
)
from worker.jobs.declaration import Declaration, Terms, left_open
from worker.jobs.job import Existing, Unique
from worker.queues.memory import MemoryJobs
from worker.tasks.base import TaskDefinition

if TYPE_CHECKING:
    from pathlib import Path

    from worker.client.job_handle import JobHandle
    from worker.ports import JobStore

ZERO = timedelta(0)
LONG = timedelta(minutes=10)
ACTIVE = (State.PENDING, State.STARTED, State.RETRY)

running: list[int] = []
most: list[int] = [0]
ran: list[Any] = []


@task(name="limited", queue="default", concurrency=2)
async def limited(n: int) -> None:
    running.append(n)
    most[0] = max(most[0], len(running))
    await asyncio.sleep(0.02)
    running.remove(n)


@task(name="single", queue="default", unique=UniquePer("order", "price"))
async def single(order: int, price: Decimal = Decimal(1), note: str = "") -> None:
    ran.append(order)


@task(name="opaque", queue="default", unique=UniquePer("email"))
async def opaque(email: Annotated[str, AfterValidator(str.lower)]) -> None:
    ran.append(email)


@task(name="short", queue="default", expires="100ms", priority=7)
async def short() -> None:
    ran.append("short")


@pytest.fixture(autouse=True)
def clean() -> None:
    running.clear()
    ran.clear()
    most[0] = 0


@pytest.fixture(params=KINDS)
async def engines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    async with fresh_engines(request.param, tmp_path) as engines:
        yield engines


@pytest.fixture
async def store(engines: Engines) -> JobStore:
    return await engines.open()


@pytest.fixture
async def bench(store: JobStore) -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        bench.use(store)
        yield bench


async def publish(store: JobStore, *tasks: Any) -> None:
    definitions = [TaskDefinition.of(one) for one in tasks]
    await store.publish(
        [Declaration.of(d.name, d.params, d.options) for d in definitions if d.options is not None]
    )


async def end_of(bench: Bench, *jobs: JobHandle) -> None:
    for job in jobs:
        await job.ended("20s")


# What a task declares


async def test_a_worker_publishes_what_its_tasks_declare(store: JobStore) -> None:
    assert await store.declaration("single") is None
    await publish(store, single, short)
    declared = await store.declaration("single")
    assert declared is not None
    assert declared.options.unique == UniquePer("order", "price")
    assert (await store.declaration("short") or Declaration(task="")).priority == 7


async def test_a_newer_version_stays_when_an_older_worker_publishes(store: JobStore) -> None:
    await store.publish([Declaration(task="t", version=2, queue="new")])
    await store.publish([Declaration(task="t", version=1, queue="old")])
    assert await store.declaration("t") == Declaration(task="t", version=2, queue="new")
    await store.publish([Declaration(task="t", version=2, queue="newer")])
    await store.publish([Declaration(task="t", version=3, queue="newest", priority=1)])
    assert await store.declaration("t") == Declaration(
        task="t", version=3, queue="newest", priority=1
    )


async def test_a_job_by_name_has_what_its_task_declares(store: JobStore) -> None:
    await publish(store, single)
    client = WorkerClient(jobs=store)
    by_code = await client.enqueue(single, {"order": 7, "price": "1.0"})
    for params in ({"order": 7}, {"order": 7, "price": 1}, {"price": "1.00", "order": 7.0}):
        by_name = await client.enqueue("single", params)
        assert (by_name.id, by_name.created, by_name.published) == (by_code.id, False, True)
    assert (await client.enqueue("single", {"order": 8})).created
    assert (await client.enqueue("single", {"order": 7}, unique=False)).created


async def test_the_queue_the_priority_and_the_expiry_are_the_declared_ones() -> None:
    store = MemoryJobs()
    await store.publish(
        [Declaration(task="t", queue="own", version=4, priority=9, expires=timedelta(hours=1))]
    )
    client = WorkerClient(jobs=store)
    job = await (await client.enqueue("t")).info()
    assert (job.queue, job.version, job.priority, job.options) == ("own", 4, 9, "{}")
    assert job.expires_at == job.created_at + timedelta(hours=1)
    own = await client.enqueue("t", queue="other", priority=0, expires="5m")
    job = await own.info()
    assert (job.queue, job.priority) == ("other", 0)
    assert job.expires_at == job.created_at + timedelta(minutes=5)


async def test_a_conflict_by_name_is_raised_if_the_task_wants_so() -> None:
    store = MemoryJobs()
    unique = UniquePer("a", on_conflict="raise")
    await store.publish([Declaration(task="t", unique=unique, kinds={"a": "int"})])
    client = WorkerClient(jobs=store)
    first = await client.enqueue("t", {"a": 1})
    with pytest.raises(DuplicateJob) as caught:
        await client.enqueue("t", {"a": 1.0})
    assert caught.value.job_id == first.id
    with pytest.raises(InvalidOptions, match="no parameter 'b'"):
        await client.enqueue("t", {"a": 1}, unique=UniquePer("b"))


async def test_declarations_are_not_read_for_each_job() -> None:
    reads: list[str] = []

    class Counting(MemoryJobs):
        async def declaration(self, task: str) -> Declaration | None:
            reads.append(task)
            return await super().declaration(task)

    store = Counting()
    await publish(store, single)
    client = WorkerClient(jobs=store)
    for n in range(50):
        await client.enqueue("single", {"order": n})
    await client.enqueue_many("single", [{"order": n} for n in range(50, 100)])
    await client.enqueue(single, {"order": 1000})
    assert reads == ["single"]


async def test_a_name_that_no_worker_has_published_is_reported() -> None:
    client = WorkerClient(jobs=(store := MemoryJobs()))
    with capture_logs() as logs:
        jobs = [await client.enqueue("nobody", {"n": n}, queue="q") for n in range(3)]
    assert [job.published for job in jobs] == [False] * 3
    assert [(log["event"], log["task"]) for log in logs] == [("task.unpublished", "nobody")]
    assert left_open((await jobs[0].info()).options) == (
        "priority",
        "expires",
        "unique",
        "concurrency",
    )
    stated = await client.enqueue("nobody", unique=True, priority=3, concurrency=1, expires="1h")
    assert left_open((await stated.info()).options) == ()
    assert await lease_one(store, queue="q")


# What a worker applies, for a job whose producer did not know the task


async def test_a_limit_holds_for_jobs_that_came_before_their_worker(bench: Bench) -> None:
    needs(bench.memory, "concurrency")
    jobs = [await bench.client.enqueue("limited", {"n": n}) for n in range(8)]
    async with bench.working(limited):
        await end_of(bench, *jobs)
    assert most[0] <= 2
    for job in jobs:
        info = await bench.info(job)
        assert (info.state, info.concurrency_key, info.attempts) == (State.SUCCESS, "limited", 1)
        assert info.options == "{}"


async def test_of_duplicates_that_came_before_their_worker_one_runs(bench: Bench) -> None:
    said = [{"order": 1}, {"order": 1.0, "price": "1.0"}, {"price": 1, "order": 1}]
    jobs = [await bench.client.enqueue("single", params) for params in said]
    other = await bench.client.enqueue("single", {"order": 2})
    async with bench.working(single):
        await end_of(bench, *jobs, other)
    states = [(await bench.info(job)).state for job in jobs]
    # Those that are leased after the first has ended may run: it does not hold the key any more.
    assert State.SUCCESS in states
    assert ran.count(1) == states.count(State.SUCCESS)
    for job, state in zip(jobs, states, strict=True):
        if state is State.REVOKED:
            with pytest.raises(JobRevoked, match=r"DuplicateJob: job .* holds its unique key"):
                await job.result()


async def test_a_duplicate_ends_explained_and_without_a_run(bench: Bench) -> None:
    holder = await bench.client.enqueue(opaque, {"email": "a@b.c"}, delay="5m")
    late = await bench.client.enqueue("opaque", {"email": "A@B.C"})
    async with bench.working(opaque):
        ended = await late.ended("20s")
    assert (ended.state, ended.attempts, ran) == (State.REVOKED, 0, [])
    assert holder.id in (ended.error or "")
    assert (await bench.info(holder)).state is State.PENDING


async def test_a_key_that_needs_the_tasks_code_is_left_to_the_worker(bench: Bench) -> None:
    await publish(bench.memory, opaque)
    job = await bench.client.enqueue("opaque", {"email": "A@B.C"})
    assert left_open((await bench.info(job)).options) == ("unique",)
    async with bench.working(opaque):
        await end_of(bench, job)
    assert ran == ["a@b.c"]
    again = await bench.client.enqueue(opaque, {"email": "a@b.c"}, delay="5m")
    assert (await bench.info(job)).unique_key == (await bench.info(again)).unique_key


async def test_an_expiry_counts_from_when_the_job_was_enqueued(bench: Bench) -> None:
    job = await bench.client.enqueue("short")
    await wait_until(partial(passed, await bench.info(job)), "it is too late to begin")
    async with bench.working(short):
        ended = await job.ended("20s")
    assert (ended.state, ran) == (State.EXPIRED, [])
    assert ended.expires_at == ended.created_at + timedelta(milliseconds=100)


def passed(job: Any) -> bool:
    return bool(datetime.now(UTC) > job.created_at + timedelta(milliseconds=200))


async def test_what_the_caller_states_wins(bench: Bench) -> None:
    job = await bench.client.enqueue("short", expires="1h")
    one = await bench.client.enqueue("single", {"order": 1}, unique=False)
    other = await bench.client.enqueue("single", {"order": 1}, unique=False)
    async with bench.working(short, single):
        await end_of(bench, job, one, other)
    assert sorted(map(str, ran)) == ["1", "1", "short"]


async def test_parameters_that_do_not_fit_fail_as_before(bench: Bench) -> None:
    job = await bench.client.enqueue("single", {"order": "x"})
    async with bench.working(single):
        ended = await job.ended("20s")
    assert (ended.state, ended.dead) == (State.FAILURE, True)


async def test_terms_are_applied_to_a_lease_that_holds_only(store: JobStore) -> None:
    unique = Unique("k", ACTIVE)
    holder, late = new(unique=unique), new()
    await store.enqueue([holder])
    held = await lease_one(store)
    await store.enqueue([late])
    lease = await lease_one(store)
    terms = Terms(3, '{"max_retries":1}', timedelta(hours=1), unique, None)
    assert await store.apply_terms(lease, terms) == held.id
    (before,) = await store.get([late.id])
    assert before is not None
    assert (before.unique_key, before.options) == (None, "{}")
    free = terms._replace(unique=Unique("free", ACTIVE), concurrency_key=None)
    assert await store.apply_terms(lease, free) == late.id
    assert await store.apply_terms(lease, free) == late.id
    (after,) = await store.get([late.id])
    assert after is not None
    assert (after.unique_key, after.options, after.priority) == ("free", '{"max_retries":1}', 3)
    assert after.expires_at == after.created_at + timedelta(hours=1)
    assert await store.enqueue([new(unique=free.unique)]) != []
    told = await store.enqueue([new(unique=free.unique)])
    assert (told[0].id, told[0].created) == (late.id, False)


async def test_a_lost_lease_gets_no_terms(store: JobStore) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    from tests.support.jobs import ended as ended_by

    assert await store.settle([ended_by(lease)]) == [True]
    assert await store.apply_terms(lease, Terms(0, "{}")) is None


# An id is that of one job


@task(name="double", queue="default")
async def double(n: int, tags: frozenset[str] = frozenset(), price: Decimal = Decimal(1)) -> int:
    return 2 * n


class Triple(BaseTask):
    name = "triple"
    queue = "default"

    class Params(BaseModel):
        n: int

    async def execute(self, params: Params) -> int:
        return 3 * params.n


async def test_an_identical_request_stays_idempotent(store: JobStore) -> None:
    client = WorkerClient(jobs=store)
    tags = [f"tag {n}" for n in range(20)]
    first = await client.enqueue(
        double, {"n": 1, "tags": tags}, id="x", max_retries=2, queue="default"
    )
    for params in (
        {"n": 1, "tags": tags[::-1]},
        {"n": 1.0, "tags": set(tags), "price": "1.00"},
    ):
        for name in (double, "double"):
            if name == "double" and isinstance(params["tags"], set):
                continue
            again = await client.enqueue(name, params, id="x", max_retries=2)
            assert (again.id, again.created, again.state) == (first.id, False, State.PENDING)
            await publish(store, double)
            client = WorkerClient(jobs=store)
    assert not (await client.enqueue(double, {"n": 1, "tags": tags}, id="x")).created


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"params": {"n": 2}}, r"parameters differ \(n\)"),
        ({"params": {"n": 1, "tags": ["a"]}}, r"parameters differ \(tags\)"),
        ({"task": Triple}, "of the task double"),
        ({"task": "triple"}, "of the task double"),
        ({"task": "double", "params": {"n": 2}}, r"parameters differ \(n\)"),
        ({"queue": "other"}, "in the queue default"),
        ({"max_retries": 9}, r"options differ \(max_retries\)"),
        ({"expires": "5m"}, "it does not expire"),
        ({"delay": "5m"}, "its delay is"),
        ({"at": datetime(2100, 1, 1, tzinfo=UTC)}, "expected|it begins at"),
    ],
)
async def test_the_same_id_with_something_else_is_an_error(
    store: JobStore, change: dict[str, Any], said: str
) -> None:
    client = WorkerClient(jobs=store)
    first = await client.enqueue(double, {"n": 1}, id="x", max_retries=2)
    request: dict[str, Any] = {"task": double, "params": {"n": 1}, **change}
    if "at" in request:
        request["at"] = datetime.now(UTC) + timedelta(minutes=10)
    with pytest.raises(JobExists, match=said) as caught:
        await client.enqueue(id="x", **request)
    assert caught.value.job_id == caught.value.job.id == first.id
    assert (await caught.value.job.info()).params == (await first.info()).params
    assert len(caught.value.differences) == 1


async def test_an_id_of_a_cancelled_job_says_so(store: JobStore) -> None:
    client = WorkerClient(jobs=store)
    job = await client.enqueue(double, {"n": 1}, id="x")
    await job.cancel()
    with pytest.raises(JobExists, match=r"it was cancelled.*worker jobs retry x") as caught:
        await client.enqueue(double, {"n": 1}, id="x")
    assert caught.value.job.state is State.REVOKED


async def test_an_id_of_a_job_that_is_asked_to_end_says_so(store: JobStore) -> None:
    client = WorkerClient(jobs=store)
    job = await client.enqueue(double, {"n": 1}, id="x")
    await lease_one(store)
    await job.cancel()
    with pytest.raises(JobExists, match="cancellation was requested"):
        await client.enqueue(double, {"n": 1}, id="x")


async def test_an_id_of_a_job_that_has_ended_is_its_handle(bench: Bench) -> None:
    job = await bench.client.enqueue(double, {"n": 1}, id="x")
    async with bench.working(double):
        await end_of(bench, job)
    again = await bench.client.enqueue(double, {"n": 1}, id="x")
    assert (again.created, again.state, await again.result()) == (False, State.SUCCESS, 2)
    with pytest.raises(JobExists):
        await bench.client.enqueue(double, {"n": 2}, id="x")
    await bench.memory.prune(keep=ZERO)
    assert (await bench.client.enqueue(double, {"n": 2}, id="x")).created


async def test_of_many_jobs_the_others_are_enqueued_and_named(store: JobStore) -> None:
    client = WorkerClient(jobs=store)
    first = await client.enqueue(double, {"n": 1}, id="a")
    same = await client.enqueue_many(double, [{"n": 1}, {"n": 2}], ids=["a", "b"])
    assert [job.created for job in same] == [False, True]
    with pytest.raises(JobExists, match="1 of the other jobs were enqueued") as caught:
        await client.enqueue_many(double, [{"n": 7}, {"n": 3}], ids=["a", "c"])
    assert caught.value.job.id == first.id
    assert [job.id for job in caught.value.enqueued] == ["c"]
    with pytest.raises(JobExists, match=r"parameters differ \(n\)"):
        await client.enqueue_many(double, [{"n": 7}, {"n": 8}], ids=["d", "d"])


async def test_an_engine_returns_the_job_that_has_the_id(store: JobStore) -> None:
    job = new(params='{"n": 1}', unique=Unique("u", ACTIVE))
    await store.enqueue([job])
    (told,) = await store.enqueue([new("pong", id=job.id, unique=Unique("v", ACTIVE))])
    assert told.existing is not None
    found = told.existing._replace(created_at=None, delay=ZERO)
    assert found == Existing.of_new(job)
    (other,) = await store.enqueue([new(unique=Unique("u", ACTIVE))])
    assert (other.id, other.existing) == (job.id, None)


def test_the_sync_client_raises_with_a_handle_of_its_own(tmp_path: Path) -> None:
    with SyncWorkerClient(f"sqlite:///{tmp_path / 'jobs.db'}") as client:
        client.enqueue(double, {"n": 1}, id="x")
        with pytest.raises(JobExists) as caught:
            client.enqueue(double, {"n": 2}, id="x")
        assert caught.value.job.status() is State.PENDING
        with pytest.raises(JobExists) as many:
            client.enqueue_many(double, [{"n": 2}, {"n": 3}], ids=["x", "y"])
        assert [job.status() for job in many.value.enqueued] == [State.PENDING]
        assert not client.enqueue("nobody").published


async def test_concurrent_requests_with_one_id_are_told_apart() -> None:
    client = WorkerClient(jobs=MemoryJobs())
    told = await asyncio.gather(
        *(client.enqueue(double, {"n": n}, id="x") for n in (1, 1, 2)), return_exceptions=True
    )
    assert [isinstance(one, JobExists) for one in told] == [False, False, True]
