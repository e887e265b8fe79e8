"""The worker and the reference Data API as real processes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

DEADLINE_S = 25.0
WORKER = (sys.executable, "-m", "worker")


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without any ``WORKER_`` of its own, and with ``variables``."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WORKER_")}
    return {**kept, "PYTHONWARNINGS": "error", **variables}


class LoggingProcess:
    """A process whose JSON log lines are read as they come."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.other_lines: list[str] = []
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read(), name="read-log")

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            try:
                self.events.append(json.loads(raw))
            except ValueError:
                self.other_lines.append(raw.decode())
            async with self._news:
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    def told(self, event: str, **keys: object) -> list[dict[str, Any]]:
        """The log lines of ``event`` whose keys have these values."""
        return [
            line
            for line in self.events
            if line["event"] == event and all(line.get(k) == v for k, v in keys.items())
        ]

    async def logged(self, event: str, *, count: int = 1, **keys: object) -> dict[str, Any]:
        """Wait until ``event`` was logged ``count`` times; the last of them."""
        await self.until(lambda: len(self.told(event, **keys)) >= count, f"{event} {keys}")
        return self.told(event, **keys)[count - 1]

    async def until(self, holds: Callable[[], bool], why: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S), self._news:
                while not holds():
                    if self._reading.done():
                        raise AssertionError(f"the process ended before: {why}\n{self.report()}")
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not within {DEADLINE_S} s: {why}\n{self.report()}") from None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def hang_up(self) -> None:
        """Close the reading end of the log, as ``head`` does."""
        self._reading.cancel()
        self._pipe().close()

    def stop_reading(self) -> None:
        """Leave the log unread, in a pipe that takes no more than a few lines."""
        pipe = self._pipe()
        fcntl.fcntl(pipe.get_extra_info("pipe").fileno(), fcntl.F_SETPIPE_SZ, 4096)
        pipe.pause_reading()

    def read_on(self) -> None:
        self._pipe().resume_reading()

    def _pipe(self) -> asyncio.ReadTransport:
        # asyncio's subprocess has no public way to a pipe that it reads.
        transport = self.process._transport.get_pipe_transport(2)  # type: ignore[attr-defined]
        return cast("asyncio.ReadTransport", transport)

    async def ended(self) -> int:
        """The exit code, once the process has ended and its log is read."""
        async with asyncio.timeout(DEADLINE_S):
            code = await self.process.wait()
            await asyncio.wait({self._reading})
        return code

    def report(self) -> str:
        return "\n".join([*map(str, self.events[-30:]), *self.other_lines[-30:]])


@asynccontextmanager
async def running(
    *arguments: str, environment: Mapping[str, str], cwd: Path
) -> AsyncIterator[LoggingProcess]:
    """``worker ARGUMENTS`` until the block is left; what still runs then is killed."""
    process = await asyncio.create_subprocess_exec(
        *WORKER,
        *arguments,
        env=clean_environment(**environment),
        cwd=cwd,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    logging_process = LoggingProcess(process)
    try:
        yield logging_process
    finally:
        if process.returncode is None:
            process.kill()
        await logging_process.ended()


async def worker_command(
    *arguments: str, environment: Mapping[str, str] | None = None, cwd: Path
) -> tuple[int, str, str]:
    """``worker ARGUMENTS`` to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *WORKER,
        *arguments,
        env=clean_environment(**(environment or {})),
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class DemoApi:
    """The reference Data API in a process of its own, asked over HTTP what it saw."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    async def ask(self, path: str) -> Any:
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            return (await client.get(path)).raise_for_status().json()

    async def effects(self, kind: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.ask("/demo/effects"))["items"]
        return [item for item in items if item["kind"] == kind]

    async def inject(self, **faults: object) -> None:
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            (await client.put("/demo/faults", json=faults)).raise_for_status()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def demo_api(*arguments: str, port: str = "0") -> AsyncIterator[DemoApi]:
    """``worker demo-api`` on a free port, until the block is left."""
    process = await asyncio.create_subprocess_exec(
        *WORKER,
        "demo-api",
        "--port",
        port,
        *arguments,
        env=clean_environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            announced = (await process.stdout.readline()).decode()
        assert announced.startswith("Data API at "), announced
        yield DemoApi(process, announced.removeprefix("Data API at ").strip())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
