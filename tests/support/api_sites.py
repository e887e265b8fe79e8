"""A worker whose API is asked over HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.job_sites import JobSite
from tests.support.jobs import fresh_queue_url
from tests.support.servers import refused_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.processes import LoggingProcess

jsonschema: Any = import_module("jsonschema")  # which ships no types

TOKEN = "0123456789abcdef-full"
READ = "0123456789abcdef-read"
LONGEST_S = 30.0
"""Longer than the 15 s after which a poller tries a queue again that was down."""
MORE_TASKS = '''

from worker import current_run


@task()
async def works(name: str = "go", note: str = "half of it"):
    """Tell how far it is, and go on."""
    current_run().progress(50, note=note)
    wrote("began", os.getpid())
    while not os.path.exists(name) and not current_run().cancelled:
        await asyncio.sleep(0.02)


@task(max_retries=0)
async def says(message: str = ""):
    raise TaskFailed(message)


async def moody():
    if os.path.exists("words"):
        raise TaskFailed(open("words", errors="surrogateescape").read())
    if not os.path.exists("well"):
        raise TaskFailed("not today")


async def slow():
    wrote("began", os.getpid())
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)


def register(scheduler):
    scheduler.register_task(tick, interval_seconds=0.3)
    scheduler.register_task(moody, interval="1h", max_age="3h")
    scheduler.register_task(slow, interval="1d")
'''


@dataclass
class Api:
    """A client of a worker's API."""

    worker: LoggingProcess
    http: httpx.AsyncClient
    description: dict[str, Any] = field(default_factory=dict)

    async def get(self, path: str, **query: Any) -> Any:
        """The answer, which fits its description."""
        answer = await self.http.get(f"/api/v1/{path}", params=query)
        return self.checked(answer, 200)

    async def post(self, path: str, body: object = None, *, status: int = 200) -> Any:
        answer = await self.http.post(f"/api/v1/{path}", json={} if body is None else body)
        return self.checked(answer, status)

    async def refused(self, method: str, path: str, status: int, **rest: Any) -> dict[str, Any]:
        """The problem with which a request is answered."""
        answer = await self.http.request(method, f"/api/v1/{path}", **rest)
        told: dict[str, Any] = self.checked(answer, status)
        assert answer.headers["content-type"] == "application/problem+json"
        assert (told["type"], told["status"]) == ("about:blank", status)
        assert "Traceback" not in answer.text
        return told

    async def comes_to(self, method: str, path: str, status: int) -> None:
        """Return once such a request is answered with that status."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LONGEST_S
        while (answer := await self.http.request(method, f"/api/v1/{path}")).status_code != status:
            assert loop.time() < deadline, f"waited in vain until {path} is {status}: {answer.text}"
            await asyncio.sleep(0.05)

    def checked(self, answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, answer.text
        kind = "application/problem+json" if status >= 400 else "application/json"
        assert answer.headers["content-type"] == kind
        told = json.loads(answer.content.decode())
        if self.description:
            validate(self.description, answer, told)
        return told

    async def until(self, path: str, holds: Any, why: str, **query: Any) -> Any:
        """The answer for which ``holds`` is true."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LONGEST_S
        while True:
            told = await self.get(path, **query)
            if holds(told):
                return told
            assert loop.time() < deadline, f"waited in vain until {why}: {told}"
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Any]]:
        """The states that are told."""
        async with self.http.stream("GET", "/api/v1/events") as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield states(answer)


async def states(answer: httpx.Response) -> AsyncIterator[Any]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def validate(description: dict[str, Any], answer: httpx.Response, told: Any) -> None:
    """See that an answer is as the description has it."""
    operation = operation_of(description, answer.request.method, answer.request.url.path)
    responses = operation["responses"]
    response = responses.get(str(answer.status_code), responses["default"])
    (content,) = response["content"].values()
    schema = {**content["schema"], "components": description["components"]}
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(told))
    assert not errors, errors


def operation_of(description: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    parts = path.split("/")
    for template, operations in description["paths"].items():
        wanted = template.split("/")
        if len(wanted) == len(parts) and all(
            one == other or one.startswith("{") for one, other in zip(wanted, parts, strict=True)
        ):
            found: dict[str, Any] = operations[method.lower()]
            return found
    raise AssertionError(f"{path} is not described")


class ApiSite(JobSite):
    """Where jobs are asked for, and a worker is looked at."""

    def __init__(self, folder: Path, store: str, queue: str | None = None) -> None:
        super().__init__(folder, queue or store)
        self.store_url = self.environment["WORKER_STORE_URL"] = store
        with (folder / "own_tasks.py").open("a") as file:
            file.write(MORE_TASKS)
        self.port = refused_port()
        self.environment |= {
            "WORKER_OPS_PORT": str(self.port),
            "WORKER_OPS_TOKEN": TOKEN,
            "WORKER_OPS_READ_TOKEN": READ,
        }

    @asynccontextmanager
    async def api(self, line: str = "", **settings: str) -> AsyncIterator[Api]:
        """A worker that is ready, and a client of its API."""
        async with self.starts(line, **settings) as worker:
            await worker.logged("worker.ready")
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{self.port}",
                headers={"Authorization": f"Bearer {TOKEN}"},
                trust_env=False,
                timeout=LONGEST_S,
            ) as http:
                api = Api(worker, http)
                api.description = (await http.get("/api/v1/openapi.json")).json()
                yield api


def api_sites(kind: str, folder: Path) -> Iterator[ApiSite]:
    """One over an empty store and queue of a kind; SQS with SQLite beside it."""
    with fresh_queue_url(kind, folder) as url:
        if kind == "sqs":
            yield ApiSite(folder, f"sqlite:///{folder / 'ledger.db'}", url)
        else:
            yield ApiSite(folder, url)
