"""One client in several event loops and threads, on every engine."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until
from worker import JobRevoked, State, StoreUnavailable, SyncWorkerClient, WorkerClient, task
from worker.client import owning_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@task()
async def double(n: int) -> int:
    return 2 * n


async def from_another_loop(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What ``work`` returns in an event loop of another thread."""
    return await asyncio.to_thread(lambda: asyncio.run(work()))


async def test_a_client_and_its_handles_work_from_another_event_loop(queue_url: str) -> None:
    async with WorkerClient(queue_url) as client:
        one = await from_another_loop(partial(client.enqueue, double, {"n": 1}))
        many = await from_another_loop(partial(client.enqueue_many, double, [{"n": 2}, {"n": 3}]))
        assert [job.created for job in [one, *many]] == [True] * 3

        async def handled() -> None:
            assert await one.status() is State.PENDING
            assert (await one.info()).params == '{"n":1}'
            assert await one.progress() is None
            with pytest.raises(TimeoutError, match="has not ended within"):
                await one.result("10ms")
            assert await one.cancel()
            with pytest.raises(JobRevoked):
                await one.result()

        await from_another_loop(handled)
        assert await one.status() is State.REVOKED


async def test_a_wait_in_another_loop_is_woken_by_the_end_of_the_job(queue_url: str) -> None:
    async with WorkerClient(queue_url) as client:
        job = await client.enqueue(double, {"n": 1})
        waiting = asyncio.create_task(from_another_loop(partial(job.ended, "30s")))
        await asyncio.sleep(0)
        assert await job.cancel()
        assert (await waiting).state is State.REVOKED


async def test_a_call_that_is_cancelled_in_another_loop_ends_in_the_own_one(
    queue_url: str,
) -> None:
    async with WorkerClient(queue_url) as client:
        job = await client.enqueue(double, {"n": 1})

        async def impatient() -> None:
            async with asyncio.timeout(0.2):
                await job.result()

        with pytest.raises(TimeoutError):
            await from_another_loop(impatient)
        await wait_until(
            lambda: not any(t.get_name() == "bridged-call" for t in asyncio.all_tasks()),
            "nothing is left in the client's loop",
        )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_client_whose_loop_has_ended_says_so_at_once(queue_url: str) -> None:
    client = WorkerClient(queue_url)
    job = asyncio.run(client.enqueue(double, {"n": 1}))
    for ask in (partial(client.enqueue, double, {"n": 2}), job.status, job.result, client.open):
        with pytest.raises(StoreUnavailable, match=r"event loop in which .* has ended"):
            asyncio.run(ask())
    asyncio.run(client.close())
    with pytest.raises(StoreUnavailable, match=r"has ended|is closed"):
        asyncio.run(job.status())
    del client, job, ask
    gc.collect()  # its connections were lost with the loop


def test_a_client_whose_loop_does_not_run_says_so_at_once(queue_url: str) -> None:
    with closing(asyncio.new_event_loop()) as loop:
        client = WorkerClient(queue_url)
        job = loop.run_until_complete(client.enqueue(double, {"n": 1}))
        with pytest.raises(StoreUnavailable, match="is not running"):
            asyncio.run(job.status())
        loop.run_until_complete(client.close())


async def test_a_loop_that_waits_for_the_thread_that_calls_is_reported(
    bare: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owning_loop, "BEGIN_S", 0.2)
    monkeypatch.setattr(owning_loop, "LOOK_S", 0.05)
    failures: list[BaseException] = []
    async with WorkerClient("memory://") as client:

        def ask() -> None:
            try:
                asyncio.run(client.enqueue(double, {"n": 1}, id="late"))
            except StoreUnavailable as exc:
                failures.append(exc)

        thread = Thread(target=ask)
        thread.start()
        thread.join()  # blocks the loop that has to answer
        assert "does it wait for the thread that calls?" in str(failures[0])
        await asyncio.sleep(0)
        assert await client.job("late").status() is State.UNKNOWN


async def test_a_client_that_was_closed_says_so_in_every_loop(queue_url: str) -> None:
    async with WorkerClient(queue_url) as client:
        job = await client.enqueue(double, {"n": 1})
    with pytest.raises(StoreUnavailable, match="this WorkerClient is closed"):
        await job.status()
    with pytest.raises(StoreUnavailable, match="this WorkerClient is closed"):
        await from_another_loop(partial(client.enqueue, double, {"n": 2}))


def test_a_synchronous_client_and_its_handles_work_from_every_thread(queue_url: str) -> None:
    with SyncWorkerClient(queue_url) as client, ThreadPoolExecutor(8) as threads:
        jobs = list(threads.map(lambda n: client.enqueue(double, {"n": n}), range(40)))
        assert all(job.created for job in jobs)
        assert {*threads.map(lambda job: job.status(), jobs)} == {State.PENDING}


def test_closing_a_synchronous_client_ends_the_calls_of_other_threads(queue_url: str) -> None:
    client = SyncWorkerClient(queue_url).open()
    job = client.enqueue(double, {"n": 1})
    begun, failures = Event(), []

    def wait() -> None:
        begun.set()
        try:
            job.result()
        except StoreUnavailable as exc:
            failures.append(exc)

    thread = Thread(target=wait)
    thread.start()
    begun.wait()
    client.close()
    thread.join()
    assert len(failures) == 1
    client.close()  # once more changes nothing


def test_a_synchronous_client_can_be_opened_again(shared_url: str) -> None:
    client = SyncWorkerClient(shared_url)
    with client:
        job = client.enqueue(double, {"n": 1})
    with client:
        assert client.open() is client
        assert client.job(job.id).status() is State.PENDING


async def test_a_synchronous_handle_in_the_loop_that_has_to_answer_is_refused(
    bare: object,
) -> None:
    async with WorkerClient("memory://"):
        job: Any = await asyncio.to_thread(double.enqueue, {"n": 1})
        assert await asyncio.to_thread(job.status) is State.PENDING
        with pytest.raises(StoreUnavailable, match="would block the event loop"):
            job.status()
