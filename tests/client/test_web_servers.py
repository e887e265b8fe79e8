"""A client that a web server opens when it starts, and its requests use without naming it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.documents import write_examples
from tests.support.processes import DEADLINE_S, clean_environment
from worker import State, WorkerClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STARLETTE = """
import asyncio
import os
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse
from starlette.routing import Route

from worker import WorkerClient, task


@task()
async def resize(path: str = ""): ...


@asynccontextmanager
async def lifespan(app):
    async with WorkerClient(os.environ["JOBS"]):
        yield


async def asynchronous(request):
    job = await resize.enqueue({"path": "a"})
    return JSONResponse([job.id, await job.status()])


def in_thread(request):
    job = resize.enqueue({"path": "b"})
    return JSONResponse([job.id, job.status()])


def with_own_loop(request):
    job = asyncio.run(resize.enqueue({"path": "c"}))
    return JSONResponse([job.id, asyncio.run(job.status())])


async def in_background(request):
    later = BackgroundTask(resize.enqueue, {"path": "d"}, id="in-background")
    return JSONResponse(["in-background", "PENDING"], background=later)


endpoints = (asynchronous, in_thread, with_own_loop, in_background)
routes = [Route(f"/{endpoint.__name__}", endpoint) for endpoint in endpoints]
app = Starlette(routes=routes, lifespan=lifespan)
"""
SERVE_STARLETTE = "import uvicorn; uvicorn.run('site_app:app', port={port}, loop='{loop}')"
AIOHTTP = """
import os
import sys

from aiohttp import web

from worker import WorkerClient, task


@task()
async def resize(path: str = ""): ...


async def open_client(app):
    async with WorkerClient(os.environ["JOBS"]):
        yield


async def asynchronous(request):
    job = await resize.enqueue({"path": "a"})
    return web.json_response([job.id, await job.status()])


app = web.Application()
app.cleanup_ctx.append(open_client)
app.router.add_get("/asynchronous", asynchronous)
"""
SERVE_AIOHTTP = "from aiohttp import web; from site_app import app; web.run_app(app, port={port})"


@asynccontextmanager
async def serving(
    module: str, command: str, folder: Path, jobs: str, port: int, loop: str
) -> AsyncIterator[httpx.AsyncClient]:
    (folder / "site_app.py").write_text(module)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", command.format(port=port, loop=loop)),
        cwd=folder,
        env=clean_environment(JOBS=jobs, PYTHONPATH=str(folder), PYTHONWARNINGS="default"),
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as web:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    try:
                        await web.get("/")
                        break
                    except httpx.TransportError:
                        assert process.returncode is None
                        await asyncio.sleep(0.05)
            yield web
    finally:
        if process.returncode is None:
            process.terminate()
        assert await process.wait() in (0, -15)


CASES = {
    "starlette": (STARLETTE, SERVE_STARLETTE, "asyncio"),
    "starlette on uvloop": (STARLETTE, SERVE_STARLETTE, "uvloop"),
    "aiohttp": (AIOHTTP, SERVE_AIOHTTP, ""),
}


@pytest.mark.parametrize("case", CASES)
async def test_requests_enqueue_where_the_open_client_does(
    case: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    module, command, loop = CASES[case]
    jobs = f"sqlite:///{tmp_path / 'jobs.db'}"
    paths = ["asynchronous"]
    if "starlette" in case:
        paths += ["in_thread", "with_own_loop", "in_background"]
    answers: dict[str, Any] = {}
    async with serving(module, command, tmp_path, jobs, unused_tcp_port, loop) as web:
        for path in paths:
            answers[path] = (await web.get(f"/{path}")).raise_for_status().json()
    async with WorkerClient(jobs) as client:
        for job, state in answers.values():
            assert state == "PENDING"
            assert await client.job(job).status() is State.PENDING
    assert not (tmp_path / ".worker").exists()


async def test_the_web_server_in_the_documentation_enqueues(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    write_examples(tmp_path, "web.py")
    jobs = f"sqlite:///{tmp_path / 'jobs.db'}"
    (tmp_path / ".env").write_text(f"WORKER_QUEUE_URL={jobs}\n")
    module = "from web import app\n"
    async with serving(module, SERVE_STARLETTE, tmp_path, jobs, unused_tcp_port, "asyncio") as web:
        answer = (await web.post("/upload")).raise_for_status().json()
    async with WorkerClient(jobs) as client:
        info = await client.job(answer["job"]).info()
    assert (info.task, info.queue, info.params) == ("resize", "images", '{"path":"a.png"}')
