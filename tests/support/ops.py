"""The ops part of a worker, served over real sockets."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import SecretStr
from starlette.routing import Route

from tests.support.servers import refused_port
from worker.app import open_worker
from worker.ops.app import guarded
from worker.ops.opening import Ops, open_ops
from worker.ops.server import Listener, OpsServer
from worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from starlette.routing import BaseRoute

    from worker.app import Worker
    from worker.ops.locks import Locks

FULL = "full-token-0123456789"
READ = "read-token-0123456789"
NOBODY = "http://127.0.0.1:9"
SECOND = timedelta(seconds=1)
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Door:
    """The ops part of a worker that is put together, and neither runs nor takes jobs."""

    ops: Ops
    worker: Worker
    url: str
    probe_url: str

    def client(self, token: str | None = None, **options: Any) -> httpx.AsyncClient:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, trust_env=False, timeout=PATIENCE_S, **options
        )


@asynccontextmanager
async def served(server: OpsServer) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        server.start(group)
        try:
            yield
        finally:
            await server.stop(SECOND)


@asynccontextmanager
async def ops_door(folder: Path, **settings: Any) -> AsyncIterator[Door]:
    """A worker's ops part with both listeners, until the block is left."""
    given: dict[str, Any] = {
        "data_api_url": NOBODY,
        "store_url": SecretStr("memory://"),
        "state_dir": folder,
        "ops_port": refused_port(),
        "probe_port": refused_port(),
        "probe_host": "127.0.0.1",
        "ops_token": SecretStr(FULL),
        "ops_read_token": SecretStr(READ),
    }
    made = Settings(**{**given, **settings})
    async with open_worker(made) as worker:
        ops = open_ops(worker)
        async with served(ops):
            urls = [f"http://{host}:{port}" for host, port in ops.addresses]
            yield Door(ops, worker, urls[0], urls[-1])


@asynccontextmanager
async def guarded_site(routes: Sequence[BaseRoute], locks: Locks) -> AsyncIterator[str]:
    """Routes of a test's own behind the locks; the URL."""
    port = refused_port()
    server = OpsServer([Listener(guarded(routes, locks), "127.0.0.1", port, "WORKER_OPS_PORT")])
    async with served(server):
        yield f"http://127.0.0.1:{port}"


def walk(routes: Sequence[BaseRoute], prefix: str = "") -> list[tuple[str, str]]:
    """Each method and path that the routes take; a parameter in a path becomes ``x``."""
    found = []
    for route in routes:
        path = prefix + getattr(route, "path", "")
        if isinstance(route, Route):
            concrete = "/".join("x" if "{" in part else part for part in path.split("/"))
            found += [(method, concrete) for method in sorted(route.methods or ())]
        elif inner := getattr(route, "routes", None):
            found += walk(inner, path)
        else:  # files
            found.append(("GET", f"{path}/x"))
    return found
