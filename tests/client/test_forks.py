"""What a forked process may do with a client, and what it may not: on every engine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from worker import State, StoreUnavailable, SyncWorkerClient, WorkerClient, task

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@task()
async def double(n: int) -> int:
    return 2 * n


def in_child(work: Callable[[], object]) -> None:
    """Do ``work`` in a forked process, and fail as it fails."""
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(90)  # one that hangs fails
            work()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def refused(ask: Callable[[], Any]) -> None:
    with pytest.raises(StoreUnavailable, match="before the process was forked"):
        ask()


def driven(work: Any) -> None:
    """Go on with a coroutine as the inherited event loop would."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


async def test_an_async_client_is_refused_in_a_child_and_the_parents_goes_on(
    queue_url: str,
) -> None:
    async with WorkerClient(queue_url) as client:
        one = await client.enqueue(double, {"n": 1})
        waiting = asyncio.create_task(one.ended("30s"))
        await asyncio.sleep(0.1)

        def child() -> None:
            for work in (
                client.enqueue(double, {"n": 2}),
                client.enqueue_many(double, [{"n": 2}]),
                one.status(),
                one.result(),
                double.enqueue({"n": 3}),
            ):
                with pytest.raises(StoreUnavailable, match="fork"):
                    driven(work)
                work.close()
            refused(lambda: asyncio.run(client.enqueue(double, {"n": 2})))
            refused(lambda: asyncio.run(one.status()))
            refused(lambda: asyncio.run(double.enqueue({"n": 3})))
            driven(client.close())
            asyncio.run(client.close())

        in_child(child)
        assert await client.job("nothing").status() is State.UNKNOWN
        assert (await client.enqueue(double, {"n": 4})).created
        assert await one.cancel()
        assert (await waiting).state is State.REVOKED


async def test_a_child_may_open_a_client_of_its_own(shared_url: str) -> None:
    async with WorkerClient(shared_url) as client:
        await client.enqueue(double, {"n": 1})

        def child() -> None:
            async def own() -> None:
                async with WorkerClient(shared_url) as mine:
                    await mine.enqueue(double, {"n": 2}, id="of-the-async-child")
                    await double.enqueue({"n": 3}, id="of-the-task")

            asyncio.run(own())
            with SyncWorkerClient(shared_url) as mine:
                mine.enqueue(double, {"n": 2}, id="of-the-sync-child")

        in_child(child)
        for job in ("of-the-async-child", "of-the-task", "of-the-sync-child"):
            assert await client.job(job).status() is State.PENDING
        assert (await client.enqueue(double, {"n": 4})).created


async def test_in_a_child_a_task_enqueues_where_the_parents_client_did(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_QUEUE_URL", shared_url)
    async with WorkerClient() as client:
        await double.enqueue({"n": 1})
        in_child(lambda: asyncio.run(double.enqueue({"n": 2}, id="of-the-child")))
        assert await client.job("of-the-child").status() is State.PENDING


def test_a_synchronous_client_is_refused_in_a_child_and_the_parents_goes_on(
    queue_url: str,
) -> None:
    with SyncWorkerClient(queue_url) as client:
        job = client.enqueue(double, {"n": 1})

        def child() -> None:
            refused(lambda: client.enqueue(double, {"n": 2}))
            refused(job.status)
            client.close()

        in_child(child)
        assert job.status() is State.PENDING
        assert client.enqueue(double, {"n": 3}).cancel()


def test_a_synchronous_client_can_be_opened_anew_in_a_child(shared_url: str) -> None:
    with SyncWorkerClient(shared_url) as client:
        client.enqueue(double, {"n": 1})

        def child() -> None:
            with client:
                assert client.enqueue(double, {"n": 2}, id="of-the-child").created

        in_child(child)
        assert client.job("of-the-child").status() is State.PENDING


def test_children_that_end_like_any_program_leave_the_parents_connections_alone(
    shared_url: str,
) -> None:
    """Their interpreters end, and finalize what they inherited."""
    with SyncWorkerClient(shared_url) as client:
        job = client.enqueue(double, {"n": 1})
        code = (
            "import os, sys\n"
            "from worker import SyncWorkerClient\n"
            "client = SyncWorkerClient(sys.argv[1]).open()\n"
            "client.enqueue('double', {'n': 2})\n"
            "for _ in range(3):\n"
            "    if not os.fork():\n"
            "        del client\n"
            "        sys.exit(0)\n"
            "    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
            "    assert client.enqueue('double', {'n': 3}).status() == 'PENDING'\n"
            "client.close()\n"
        )
        in_child(lambda: os.execv(sys.executable, [sys.executable, "-c", code, shared_url]))
        assert job.status() is State.PENDING


async def test_a_child_that_leaves_the_loop_leaves_the_parents_connections_alone(
    shared_url: str,
) -> None:
    """It falls out of the block and of the loop, which cancels what went on in it."""
    code = (
        "import asyncio, os, sys\n"
        "from worker import WorkerClient\n"
        "async def main():\n"
        "    async with WorkerClient(sys.argv[1]) as client:\n"
        "        job = await client.enqueue('double', {'n': 2})\n"
        "        waiting = asyncio.create_task(job.ended('30s'))\n"
        "        await asyncio.sleep(0.2)\n"
        "        if not os.fork():\n"
        "            sys.exit(0)\n"
        "        os.wait()\n"
        "        assert (await client.enqueue('double', {'n': 3})).created\n"
        "        await job.cancel()\n"
        "        assert (await asyncio.wait_for(waiting, 2)).state == 'REVOKED'\n"
        "        print('fine')\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, shared_url), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(90):
        out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"fine\n")
