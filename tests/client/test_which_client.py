"""Which client serves a call that names none: ``Task.enqueue`` and ``context.enqueue``."""

from __future__ import annotations

import asyncio
import inspect
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consuming import Bench, open_bench
from worker import (
    AmbiguousClient,
    BaseTask,
    RunContext,
    State,
    StoreUnavailable,
    SyncJobHandle,
    SyncWorkerClient,
    WorkerClient,
    task,
)
from worker.client.current import current_client
from worker.queues.memory import MemoryJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        bench.runner.client = bench.client
        yield bench


@task()
async def double(n: int) -> int:
    return 2 * n


class Ping(BaseTask):
    name = "ping_of_a_class"
    queue = "default"

    async def execute(self) -> None: ...


def database(folder: Path, name: str) -> str:
    return f"sqlite:///{folder / name}.db"


def nothing_by_default(folder: Path) -> None:
    assert not (folder / ".worker").exists(), "a job went into the default store"


# In an event loop


async def test_an_open_client_serves_tasks_that_were_begun_before_it(bare: Path) -> None:
    """As a web server's requests are: no context variable reaches them."""
    asked: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()

    async def serve() -> None:
        while True:
            (await asked.get()).set_result(await double.enqueue({"n": 1}))

    server = asyncio.create_task(serve())
    await asyncio.sleep(0)
    async with WorkerClient(database(bare, "jobs")) as client:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await asked.put(answer)
        assert await client.job((await answer).id).status() is State.PENDING
    server.cancel()
    nothing_by_default(bare)


async def test_a_client_that_was_opened_without_a_block_serves_its_loop_too(bare: Path) -> None:
    client = WorkerClient(database(bare, "jobs"))
    await client.open()
    assert await current_client() is client
    await client.close()


async def test_with_several_open_clients_a_call_must_say_which(bare: Path) -> None:
    async with WorkerClient(database(bare, "a")) as a, WorkerClient(database(bare, "b")) as b:
        for call in (double.enqueue({"n": 1}), Ping.enqueue(), double.enqueue_many([{"n": 1}])):
            with pytest.raises(AmbiguousClient, match=r"2 WorkerClients .*a\.db.*b\.db.*say which"):
                await call
        one = await b.enqueue(double, {"n": 1})
        assert await a.job(one.id).status() is State.UNKNOWN
        with a.as_current():
            other = await double.enqueue({"n": 2})
        assert await a.job(other.id).status() is State.PENDING
    nothing_by_default(bare)


async def test_when_the_inner_client_is_closed_the_outer_one_serves_again(bare: Path) -> None:
    async with WorkerClient(database(bare, "a")) as a:
        async with WorkerClient(database(bare, "b")):
            pass
        assert await current_client() is a


async def test_two_clients_of_one_url_are_not_several(bare: Path) -> None:
    url = database(bare, "a")
    async with WorkerClient(url) as outer, WorkerClient(url):
        job = await double.enqueue({"n": 1})
        assert await outer.job(job.id).status() is State.PENDING


async def test_two_engines_in_memory_are_several(bare: Path) -> None:
    async with WorkerClient("memory://"), WorkerClient("memory://"):
        with pytest.raises(AmbiguousClient):
            await double.enqueue({"n": 1})


async def test_after_its_client_is_closed_a_loop_does_not_enqueue_elsewhere(bare: Path) -> None:
    async with WorkerClient(database(bare, "a")):
        pass
    with pytest.raises(StoreUnavailable, match="the WorkerClient of this event loop is closed"):
        await double.enqueue({"n": 1})
    nothing_by_default(bare)


async def test_after_a_client_of_the_configured_url_is_closed_that_url_is_used(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_QUEUE_URL", database(bare, "a"))
    async with WorkerClient():
        one = await double.enqueue({"n": 1})
    two = await double.enqueue({"n": 2})
    async with WorkerClient(database(bare, "a")) as client:
        assert await client.job(one.id).status() is State.PENDING
        assert await client.job(two.id).status() is State.PENDING


async def test_a_loop_without_a_client_uses_the_one_that_is_open_in_another_loop(
    bare: Path,
) -> None:
    async with WorkerClient(database(bare, "a")) as client:
        job = await asyncio.to_thread(lambda: asyncio.run(double.enqueue({"n": 1})))
        assert await client.job(job.id).status() is State.PENDING
    nothing_by_default(bare)


def test_an_open_synchronous_client_serves_calls_without_a_client(bare: Path) -> None:
    with SyncWorkerClient(database(bare, "a")) as client:
        job = asyncio.run(double.enqueue({"n": 1}))
        assert client.job(job.id).status() is State.PENDING
        at_once: Any = Ping.enqueue()
        assert client.job(at_once.id).status() is State.PENDING
    nothing_by_default(bare)


def test_frameworks_take_enqueue_for_an_async_function() -> None:
    for method in (double.enqueue, double.enqueue_many, Ping.enqueue, Ping.enqueue_many):
        assert asyncio.iscoroutinefunction(method) or inspect.iscoroutinefunction(method)


# In a run


async def test_in_a_run_the_workers_own_client_is_used(bench: Bench, bare: Path) -> None:
    @task()
    async def parent(job: RunContext) -> list[str]:
        return [(await double.enqueue({"n": 1})).id, (await job.enqueue(double, {"n": 2})).id]

    async with WorkerClient(jobs=MemoryJobs()):  # of the program that runs the worker
        job = await bench.client.enqueue(parent)
        async with bench.working(parent):
            children = await job.result("5s")
        assert [(await bench.info(child)).state for child in children] == [State.PENDING] * 2


async def test_a_run_that_opens_a_client_of_its_own_must_say_which(
    bench: Bench, bare: Path
) -> None:
    @task(max_retries=0)
    async def parent() -> str:
        async with WorkerClient(database(bare, "a")) as own:
            with pytest.raises(AmbiguousClient):
                await double.enqueue({"n": 1})
            await own.enqueue(double, {"n": 1})
        return (await double.enqueue({"n": 2})).id

    job = await bench.client.enqueue(parent)
    async with bench.working(parent):
        assert (await bench.info(await job.result("5s"))).params == '{"n":2}'


async def test_a_call_that_a_run_does_not_await_fails_the_job(bench: Bench) -> None:
    @task(name="forgets_task", max_retries=3)
    async def forgets_task() -> str:
        double.enqueue({"n": 1})  # type: ignore[unused-coroutine]
        return "done"

    @task(name="forgets_context", max_retries=3)
    async def forgets_context(job: RunContext) -> str:
        call = job.enqueue(double, {"n": 1})
        del call
        return "done"

    for forgetful in (forgets_task, forgets_context):
        job = await bench.client.enqueue(forgetful)
        with pytest.warns(RuntimeWarning, match="enqueue' was never awaited"):
            await bench.work_off(forgetful)
        info = await bench.info(job)
        assert info.state is State.FAILURE
        assert info.error is not None
        assert "EnqueueNotAwaited" in info.error
        assert "called without `await`" in info.error


async def test_a_call_that_is_awaited_in_any_other_way_is_awaited(bench: Bench) -> None:
    @task()
    async def parent(job: RunContext) -> list[str]:
        begun = asyncio.create_task(job.enqueue(double, {"n": 1}))
        async with asyncio.TaskGroup() as group:
            grouped = group.create_task(double.enqueue({"n": 2}))
        gathered = await asyncio.gather(*(double.enqueue({"n": n}) for n in (3, 4)))
        limited = await asyncio.wait_for(Ping.enqueue(), 5)
        job.enqueue(double, {"n": 5}).close()  # on purpose
        return [child.id for child in (await begun, grouped.result(), *gathered, limited)]

    job = await bench.client.enqueue(parent)
    async with bench.working(parent):
        assert len(set(await job.result("5s"))) == 5


# In a thread


async def test_a_function_that_is_not_async_enqueues_at_once(bench: Bench) -> None:
    @task()
    def parent(job: RunContext) -> list[str]:
        handles: list[Any] = [
            job.enqueue_sync(double, {"n": 1}),
            job.enqueue(double, {"n": 2}),
            double.enqueue({"n": 3}),
            Ping.enqueue(),
            job.enqueue("double", {"n": 4}),
            *double.enqueue_many([{"n": 5}, {"n": 6}]),  # type: ignore[misc]
        ]
        assert all(isinstance(handle, SyncJobHandle) for handle in handles)
        assert {handle.status() for handle in handles} == {State.PENDING}
        assert handles[0].cancel()
        assert handles[0].info().state is State.REVOKED
        job.enqueue(double, {"n": 7}, id="nobody-looks-at-it")  # type: ignore[unused-coroutine]
        return [handle.id for handle in handles]

    job = await bench.client.enqueue(parent)
    async with bench.working(parent):
        children = await job.result("5s")
    assert len(set(children)) == 7
    assert (await bench.info("nobody-looks-at-it")).state is State.PENDING


async def test_a_function_that_is_not_async_may_run_a_loop_of_its_own(bench: Bench) -> None:
    @task()
    def parent(job: RunContext) -> list[str]:
        async def several() -> list[str]:
            handles = await asyncio.gather(
                double.enqueue({"n": 1}), job.enqueue(double, {"n": 2}), Ping.enqueue()
            )
            assert [await handle.status() for handle in handles] == [State.PENDING] * 3
            return [handle.id for handle in handles]

        one = asyncio.run(double.enqueue({"n": 3}))
        assert asyncio.run(one.status()) is State.PENDING
        many = asyncio.run(double.enqueue_many([{"n": 4}]))
        two = asyncio.run(job.enqueue(double, {"n": 5}))
        return [one.id, two.id, *(handle.id for handle in many), *asyncio.run(several())]

    job = await bench.client.enqueue(parent)
    async with bench.working(parent):
        assert len(set(await job.result("5s"))) == 6


async def test_a_thread_that_a_task_begins_enqueues_through_the_worker(
    bench: Bench, bare: Path
) -> None:
    @task()
    def parent() -> list[str]:
        ids: list[str] = []

        def elsewhere() -> None:
            at_once: Any = double.enqueue({"n": 1})
            ids.extend([at_once.id, asyncio.run(double.enqueue({"n": 2})).id])

        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()
        return ids

    job = await bench.client.enqueue(parent)
    async with bench.working(parent):
        assert len(await job.result("5s")) == 2
    nothing_by_default(bare)


async def test_what_is_wrong_is_raised_where_a_thread_enqueues(bench: Bench) -> None:
    @task(max_retries=0)
    def parent(job: RunContext) -> None:
        job.enqueue(double, {"m": 1})  # type: ignore[unused-coroutine]

    job = await bench.client.enqueue(parent)
    await bench.work_off(parent)
    assert "InvalidParams" in str((await bench.info(job)).error)


async def test_the_synchronous_form_is_refused_in_an_event_loop(bench: Bench) -> None:
    @task(max_retries=0)
    async def parent(job: RunContext) -> None:
        job.enqueue_sync(double, {"n": 1})

    job = await bench.client.enqueue(parent)
    await bench.work_off(parent)
    assert "await enqueue" in str((await bench.info(job)).error)


async def test_a_thread_that_outlives_its_worker_enqueues_nowhere_else(
    bench: Bench, bare: Path
) -> None:
    client = WorkerClient(database(bare, "a"))
    await client.open()
    await client.close()
    failures: list[BaseException] = []

    def late() -> None:
        try:
            with client.as_current():
                double.enqueue({"n": 1})  # type: ignore[unused-coroutine]
        except StoreUnavailable as exc:
            failures.append(exc)

    await asyncio.to_thread(late)
    assert "closed" in str(failures[0])
    nothing_by_default(bare)
