"""What asyncio reports, and how little of it is logged."""

from __future__ import annotations

import asyncio
import errno
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette

from tests.support.processes import clean_environment, running
from tests.support.servers import refused_port
from tests.support.waiting import wait_until
from worker.open_files import open_files_limit, within_limit
from worker.ops import server
from worker.telemetry.loop_errors import INTERVAL_S, LoopErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FULL = OSError(errno.EMFILE, "Too many open files")
OUT = "socket.accept() out of system resource"


class FakeLoop:
    """The part of an event loop that the handler uses, with a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def is_closed(self) -> bool:
        return False

    def call_later(self, delay: float, call: Callable[..., None], *args: Any) -> None:
        self._timers.append((self.now + delay, call, args))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self._timers if timer[0] <= self.now]
        self._timers = [timer for timer in self._timers if timer[0] > self.now]
        for _, call, args in due:
            call(*args)


@pytest.fixture
def logged() -> list[tuple[str, Mapping[str, Any]]]:
    return []


@pytest.fixture
def handle(logged: list[tuple[str, Mapping[str, Any]]]) -> LoopErrors:
    return LoopErrors(lambda event, keys: logged.append((event, keys)))


def test_failed_accepts_are_logged_once_in_an_interval_with_their_number(
    handle: LoopErrors, logged: list[tuple[str, Mapping[str, Any]]]
) -> None:
    loop: Any = FakeLoop()
    for _ in range(5000):
        handle(loop, {"message": OUT, "exception": FULL})
    assert [(event, keys["count"]) for event, keys in logged] == [("loop.accept_failed", 1)]
    assert "Too many open files" in logged[0][1]["reason"]
    loop.advance(INTERVAL_S)
    assert [keys["count"] for _, keys in logged] == [1, 4999]
    loop.advance(INTERVAL_S)
    assert len(logged) == 2, "nothing failed meanwhile"
    handle(loop, {"message": OUT, "exception": FULL})
    assert [keys["count"] for _, keys in logged] == [1, 4999, 1]


def test_other_failures_keep_their_exception_and_are_counted_by_kind(
    handle: LoopErrors, logged: list[tuple[str, Mapping[str, Any]]]
) -> None:
    loop: Any = FakeLoop()
    failure = ValueError("no")
    for _ in range(3):
        handle(loop, {"message": "Task exception was never retrieved", "exception": failure})
    handle(loop, {"message": "Task exception was never retrieved", "exception": KeyError("a")})
    handle(loop, {})
    assert [event for event, _ in logged] == ["loop.error"] * 3
    assert logged[0][1]["exc_info"] is failure
    for number in range(1000):
        handle(loop, {"message": f"message {number}"})
    assert len(logged) < 150


def test_connections_are_a_share_of_the_files_that_may_be_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert within_limit(100, share=8) == min(100, (open_files_limit() or 800) // 8)
    monkeypatch.setattr("worker.open_files.open_files_limit", lambda: 64)
    assert (within_limit(100, share=8), server.most_connections()) == (8, 8)
    assert within_limit(4, share=8) == 4
    monkeypatch.setattr("worker.open_files.open_files_limit", lambda: 4)
    assert within_limit(100, share=8) == 1
    monkeypatch.setattr("worker.open_files.open_files_limit", lambda: None)
    assert within_limit(100, share=8) == 100


def test_one_newcomer_is_taken_in_at_a_time() -> None:
    listener = server.Listener(Starlette(), "127.0.0.1", 0, "a test")
    assert server.QuietServer(listener).config.backlog == 1


async def livez(port: int) -> int:
    """The status of the probe, once it answers."""
    async with asyncio.timeout(20), httpx.AsyncClient(timeout=20) as client:
        while True:
            try:
                return (await client.get(f"http://127.0.0.1:{port}/livez")).status_code
            except httpx.ConnectError:
                await asyncio.sleep(0.01)


def limit_files(pid: int, spare: int | None) -> None:
    """Let a process open so many files beyond those that it has open, or as many as it may."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    soft = hard
    if spare is not None:
        soft = max(map(int, (p.name for p in Path(f"/proc/{pid}/fd").iterdir()))) + 1 + spare
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
async def test_a_worker_without_free_descriptors_logs_little_and_serves_again(
    tmp_path: Path,
) -> None:
    port = refused_port()
    environment = {
        "WORKER_PROBE_PORT": str(port),
        "WORKER_OPS_PORT": "0",
        "WORKER_STATE_DIR": str(tmp_path),
        "WORKER_DATA_API_URL": "http://127.0.0.1:9",
        "WORKER_LOG_FORMAT": "json",
    }
    async with running("start", "--no-schedules", environment=environment, cwd=tmp_path) as worker:
        await worker.logged("worker.ready")
        assert await livez(port) == 200
        limit_files(worker.process.pid, 0)
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        told = await worker.logged("loop.accept_failed")
        assert "Too many open files" in told["reason"]
        assert told["limit"] > 0
        clock = asyncio.get_running_loop().time
        until = clock() + 3.5  # asyncio tries again each second
        await wait_until(lambda: clock() >= until, "several tries have failed")
        assert len(worker.told("loop.accept_failed")) == 1
        assert len(worker.events) + len(worker.other_lines) < 30, worker.report()
        limit_files(worker.process.pid, None)
        assert await livez(port) == 200
        for _, writer in waiting:
            writer.close()


async def test_a_worker_with_few_files_says_so_at_start(tmp_path: Path) -> None:
    environment = {
        "WORKER_PROBE_PORT": str(refused_port()),
        "WORKER_STATE_DIR": str(tmp_path),
        "WORKER_DATA_API_URL": "http://127.0.0.1:9",
        "WORKER_LOG_FORMAT": "json",
    }
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'ulimit -n 80; exec "$0" -m worker start --no-schedules --burst'),
        sys.executable,
        env=clean_environment(**environment),
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if b"worker.few_open_files" in line:
                assert b'"limit": 80' in line
                assert b'"data_api_connections": 40' in line
                break
        else:
            raise AssertionError("it did not say so")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
