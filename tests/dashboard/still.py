"""The page over facts that hold still, behind the real locks."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import BaseRoute, Route

from tests.dashboard import sample
from worker.ops.app import guarded
from worker.ops.hosts import Hosts
from worker.ops.locks import Locks, Sessions, Tokens
from worker.ops.page import page_routes
from worker.ops.server import Listener, OpsServer
from worker.ops.sign_in import session_routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["StillWorker", "still_worker"]


OWN = ("/api/v1/overview", "/api/v1/tasks")
"""What a worker answers without its store and its queues."""
SILENT = "disk I/O error"


def same(text: Any) -> Any:
    return text


class StillWorker:
    """What the page is shown; a test changes ``state`` and calls ``tell``.

    Args:
        spoil: Applied to everything that the API gives.

    Attributes:
        letters: The dead letters.
        history: How many slots a schedule's page tells of.
        down: It answers 503, and ends its streams.
        silent: Its store and its queues do not answer: 503 for what is asked of them.
    """

    def __init__(self, spoil: Callable[[Any], Any] = same) -> None:
        self.url = ""
        self.spoil = spoil
        self.state: dict[str, Any] = spoil(sample.state())
        self.letters = sample.dead()
        self.history = 12
        self.down = False
        self.silent = False
        self._news = asyncio.Condition()
        self.closing = False

    async def tell(self) -> None:
        """Send the state to who listens."""
        async with self._news:
            self._news.notify_all()

    def routes(self) -> list[BaseRoute]:
        answers = {
            "/api/v1/overview": lambda: self.state["overview"],
            "/api/v1/schedules/send_invoice": sample.on_demand_detail,
            "/api/v1/schedules/{name:path}": lambda: sample.schedule_detail(self.history),
            "/api/v1/jobs/{id:path}/payload": sample.payload,
            "/api/v1/jobs/{id:path}": sample.job_detail,
            "/api/v1/tasks": lambda: {"tasks": sample.tasks()},
        }
        return [
            Route("/api/v1/events", self._events),
            Route("/api/v1/jobs", self._jobs),
            *(Route(path, self._answer(fact)) for path, fact in answers.items()),
        ]

    def _answer(self, fact: Callable[[], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            if self.silent and request.url.path not in OWN:
                return JSONResponse({"detail": SILENT}, 503)
            if request.url.path.endswith("/nothing"):
                return JSONResponse({"detail": "nothing is known of it"}, 404)
            return JSONResponse(self.spoil(fact()))

        return answer

    async def _jobs(self, request: Request) -> Response:
        if self.silent:
            return JSONResponse({"detail": SILENT}, 503)
        found = self.letters if request.query_params.get("dead") == "true" else sample.jobs()
        return JSONResponse(self.spoil({"jobs": found, "next": None}))

    async def _events(self, request: Request) -> Response:
        async def stream() -> AsyncIterator[str]:
            while not (self.closing or self.down):
                yield f"event: state\ndata: {json.dumps(self.state)}\n\n"
                async with self._news:
                    await self._news.wait()

        if self.down:
            return JSONResponse({"detail": "down"}, 503)
        return StreamingResponse(stream(), media_type="text/event-stream")


@asynccontextmanager
async def still_worker(
    spoil: Callable[[Any], Any] = same, *, port: int = 0
) -> AsyncIterator[StillWorker]:
    """Serve it; ``full`` and ``read`` are the tokens."""
    worker, sessions = StillWorker(spoil), Sessions()
    locks = Locks(Tokens("full", "read"), sessions, Hosts(["127.0.0.1"]))
    app = guarded([*worker.routes(), *session_routes(locks, sessions), *page_routes()], locks)
    server = OpsServer([Listener(app, "127.0.0.1", port, "a test")])
    opened, done = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            server.start(group)
            opened.set()
            await done.wait()
            worker.closing = True
            await worker.tell()
            await server.stop(timedelta(0))

    serving = asyncio.create_task(serve(), name="still-worker")
    await opened.wait()
    worker.url = f"http://127.0.0.1:{server.addresses[0][1]}"
    try:
        yield worker
    finally:
        done.set()
        await serving
