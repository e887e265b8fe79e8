"""A worker as a process of its own, with a task for each test that acts on it."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.processes import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["RealWorker", "real_worker"]

FULL, READ = "full-token-of-the-tests", "read-token-of-the-tests"
HOSTILE = "<img src=x onerror=alert(1)>"
TASKS = f'''
import asyncio
from pathlib import Path

from worker import RunContext, Scheduler, task


async def at_hand() -> int:
    return 1

async def holdable() -> int:
    return 1

async def broken() -> None:
    raise ValueError("{HOSTILE}")

@task(queue="work")
async def add(a: int, b: int = 1, password: str = "secret-1") -> int:
    return a + b

@task(queue="work", max_retries=0)
async def doomed(n: int) -> None:
    raise ValueError(f"{HOSTILE} {{n}}")

@task(queue="work", max_retries=0)
async def curable(n: int) -> int:
    if not Path("cured").exists():
        raise ValueError(f"not yet {{n}}")
    return n

@task(queue="slow", time_limit="1h")
async def slow(context: RunContext) -> None:
    context.progress(40, message="{HOSTILE}")
    await asyncio.Event().wait()


def register(scheduler: Scheduler) -> None:
    scheduler.register_task(at_hand, interval_seconds=86400)
    scheduler.register_task(holdable, interval_seconds=1)
    scheduler.register_task(broken, interval_seconds=1)
'''


class RealWorker:
    """Where its dashboard is, and its API."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.full, self.read = FULL, READ

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        async with httpx.AsyncClient(
            base_url=self.url, trust_env=False, headers={"Authorization": f"Bearer {FULL}"}
        ) as client:
            answer = await client.request(method, path, json=body)
            return answer.raise_for_status().json()

    async def enqueue(self, task: str, **params: object) -> str:
        """Ask for a job; its id."""
        asked = await self.ask("POST", f"/api/v1/tasks/{task}/enqueue", {"params": params})
        return str(asked["id"])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def real_worker(folder: Path) -> AsyncIterator[RealWorker]:
    """``worker start`` until the block is left."""
    (folder / "deeds.py").write_text(TASKS)
    port = free_port()
    environment = {
        "WORKER_DATA_API_URL": "http://127.0.0.1:9",
        "WORKER_TASK_MODULES": "deeds",
        "WORKER_FIRST_RUN_DELAY": "0s",
        "WORKER_FIRST_RUN_SPREAD": "0s",
        "WORKER_CLEANUP_INTERVAL": "0",
        "WORKER_REMINDERS_INTERVAL": "0",
        "WORKER_SYNC_INTERVAL": "0",
        "WORKER_ORDERS_INTERVAL": "0",
        "WORKER_OPS_PORT": str(port),
        "WORKER_OPS_TOKEN": FULL,
        "WORKER_OPS_READ_TOKEN": READ,
    }
    async with running("start", environment=environment, cwd=folder) as process:
        await process.logged("worker.ready")
        yield RealWorker(f"http://127.0.0.1:{port}", folder)
