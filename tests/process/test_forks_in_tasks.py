"""Processes that tasks begin: they do their work, and none of them becomes a second worker."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.jobs import fresh_queue_url
from tests.support.processes import LoggingProcess, running
from tests.support.waiting import wait_until
from worker import WorkerClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")

MODULE = """
import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

from worker import RetryPolicy, RunContext, SyncWorkerClient, task


def square(n):
    return n * n


def enqueue_own():
    with SyncWorkerClient() as client:
        client.enqueue(quick, id="of-a-child")


def code_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@task(name="quick")
async def quick() -> str:
    return "quick"


@task(name="raises_in_thread", max_retries=0)
def raises_in_thread() -> int:
    pid = os.fork()
    if not pid:
        raise ValueError("in the child")
    return code_of(pid)


@task(name="returns_in_thread", max_retries=0)
def returns_in_thread() -> int:
    pid = os.fork()
    return code_of(pid) if pid else 0


@task(name="raises_in_loop", max_retries=0)
async def raises_in_loop() -> int:
    pid = os.fork()
    if not pid:
        raise ValueError("in the child")
    return await asyncio.to_thread(code_of, pid)


@task(name="raises_what_is_retried", max_retries=0, retry=RetryPolicy(attempts=3))
async def raises_what_is_retried() -> int:
    pid = os.fork()
    if not pid:
        raise ConnectionError("in the child")
    return await asyncio.to_thread(code_of, pid)


@task(name="exits_in_loop", max_retries=0)
async def exits_in_loop() -> int:
    pid = os.fork()
    if not pid:
        sys.exit(7)
    return await asyncio.to_thread(code_of, pid)


@task(name="exits_in_thread", max_retries=0)
def exits_in_thread() -> int:
    pid = os.fork()
    if not pid:
        sys.exit(7)
    return code_of(pid)


@task(name="awaits_in_loop", max_retries=0)
async def awaits_in_loop() -> int:
    never = asyncio.get_running_loop().create_future()
    pid = os.fork()
    if not pid:
        await never
    return await asyncio.to_thread(code_of, pid)


async def fork_and_raise(pids):
    pid = os.fork()
    if not pid:
        raise ValueError("in the child of a task of its own")
    pids.append(pid)


@task(name="raises_in_own_task", max_retries=0)
async def raises_in_own_task() -> int:
    pids = []
    await asyncio.create_task(fork_and_raise(pids))
    return await asyncio.to_thread(code_of, pids[0])


@task(name="raises_in_to_thread", max_retries=0)
async def raises_in_to_thread() -> int:
    return await asyncio.to_thread(raises_in_thread)


@task(name="raises_in_context_thread", max_retries=0)
async def raises_in_context_thread(job: RunContext) -> int:
    return await job.in_thread(raises_in_thread)


async def fails_in_hook(result, job):
    pid = os.fork()
    if not pid:
        raise ValueError("in the child of a hook")
    with open("hook", "w") as file:
        file.write(str(await asyncio.to_thread(code_of, pid)))


@task(name="raises_in_hook", on_success=fails_in_hook)
async def raises_in_hook() -> int:
    return 1


@task(name="works", max_retries=0)
async def works() -> list:
    pid = os.fork()
    if not pid:
        time.sleep(0.2)
        os._exit(5)
    code = await asyncio.to_thread(code_of, pid)
    return [code, subprocess.run(["true"]).returncode]


def pooled():
    found = []
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found.append(list(pool.map(square, range(4))))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found.append(pool.map(square, range(4)))
    process = multiprocessing.get_context("fork").Process(target=enqueue_own)
    process.start()
    process.join()
    return [*found, process.exitcode]


@task(name="pools_in_thread", max_retries=0)
def pools_in_thread() -> list:
    return pooled()


@task(name="pools_in_loop", max_retries=0)
async def pools_in_loop() -> list:
    return pooled()


@task(name="terminates_at_once", max_retries=0)
def terminates_at_once() -> list:
    # Each is ended before it has begun, as a pool does when its work is done.
    found = []
    for _ in range(50):
        pid = os.fork()
        if not pid:
            time.sleep(60)
            os._exit(0)
        os.kill(pid, signal.SIGTERM)
        found.append(code_of(pid))
    return sorted(set(found))


@task(name="terminates", max_retries=0)
async def terminates() -> int:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
    process.start()
    process.terminate()
    await asyncio.to_thread(process.join)
    return process.exitcode
"""
SETTINGS = {
    "WORKER_DATA_API_URL": "http://127.0.0.1:9",
    "WORKER_TASK_MODULES": "own_forks",
    "WORKER_VISIBILITY_TIMEOUT": "3s",
    **{f"WORKER_{name}_INTERVAL": "off" for name in ("CLEANUP", "REMINDERS", "SYNC", "ORDERS")},
}


def children_of(pid: int) -> list[int]:
    """The processes that have this one as their parent and still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == pid and state != "Z":
                found.append(int(entry.name))
    return found


@pytest.fixture(params=["sqlite", "postgres", "redis"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    (tmp_path / "own_forks.py").write_text(MODULE)
    with fresh_queue_url(request.param, tmp_path) as url:
        settings = {**SETTINGS, "WORKER_QUEUE_URL": url, "PYTHONWARNINGS": "default"}
        async with at_work(settings, tmp_path) as worker, WorkerClient(url) as client:
            yield worker, client


@asynccontextmanager
async def at_work(settings: dict[str, str], folder: Path) -> AsyncIterator[LoggingProcess]:
    async with running("start", environment=settings, cwd=folder) as worker:
        await worker.logged("worker.ready")
        yield worker


ENDED = {
    "raises_in_thread": 1,
    "returns_in_thread": 0,
    "raises_in_loop": 1,
    "raises_what_is_retried": 1,
    "exits_in_loop": 7,
    "exits_in_thread": 7,
    "awaits_in_loop": 1,
    "raises_in_own_task": 1,
    "raises_in_to_thread": 1,
    "raises_in_context_thread": 1,
    "terminates": -signal.SIGTERM,
    "terminates_at_once": [-signal.SIGTERM],
}


@pytest.mark.timeout(300)
async def test_no_child_of_a_task_becomes_a_second_worker(site: Any, tmp_path: Path) -> None:
    worker, client = site
    for name, code in ENDED.items():
        job = await client.enqueue(name)
        assert (name, await job.result("90s")) == (name, code)
    await (await client.enqueue("raises_in_hook")).result("90s")
    await wait_until((tmp_path / "hook").exists, "the hook has run")
    await wait_until(lambda: (tmp_path / "hook").read_text() == "1", "its child has ended")
    assert children_of(worker.process.pid) == []
    # The worker goes on over its own connections.
    jobs = [await client.enqueue("quick") for _ in range(20)]
    assert [await job.result("90s") for job in jobs] == ["quick"] * 20
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0
    assert not worker.told("loop.failed")
    reported = {line["pid"] for line in worker.told("fork.child_ended")}
    assert len(reported) == 9
    assert not worker.told("run.retrying")
    assert worker.process.pid not in reported


@pytest.mark.timeout(300)  # each process that is spawned imports everything
async def test_processes_that_do_work_of_their_own_go_on(site: Any) -> None:
    worker, client = site
    squares = [0, 1, 4, 9]
    for name in ("pools_in_thread", "pools_in_loop"):
        job = await client.enqueue(name)
        assert await job.result("2m") == [squares] * 4 + [0]
    assert await (await client.enqueue("works")).result("90s") == [5, 0]
    assert await client.job("of-a-child").result("90s") == "quick"
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0
    assert not worker.told("fork.child_ended")
