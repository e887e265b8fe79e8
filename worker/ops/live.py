"""The state as server-sent events: one reader for all who listen, and none when nobody does."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog
from starlette.responses import Response

from worker.ops.calls import adapter
from worker.ops.guard import caller_of, still_in
from worker.ops.locks import Role
from worker.ops.models import StateFacts
from worker.ops.problem import problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

__all__ = ["Live"]

EVERY_S = 2.0
KEEP_ALIVE_S = 15.0
MOST_LISTENERS = 32
KEPT_SEATS = 8
"""How many of them are kept for those who may act."""
KEEP_ALIVE = b": still here\n\n"
EVENT_STREAM = "text/event-stream; charset=utf-8"
HEADERS = [
    (b"content-type", EVENT_STREAM.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Live:
    """Tells listeners the state whenever it changes.

    A listener that is slow skips states: nothing is kept for it but the latest one. On one that
    takes nothing at all the server hangs up.

    Args:
        gather: What is told.
        every_s: The time from one look to the next.
    """

    def __init__(
        self, gather: Callable[[], Awaitable[StateFacts]], *, every_s: float = EVERY_S
    ) -> None:
        self._gather = gather
        self._every_s = every_s
        self._listeners = 0
        self._reading: asyncio.Task[None] | None = None
        self._event = b""
        self._number = 0
        self._seen: object = None
        self._news = asyncio.Condition()
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return self._listeners

    async def serve(self, request: Request) -> Response:
        """The answer to one who wants to listen."""
        if request.method == "HEAD":  # which would wait for the end of the stream
            return Response(headers={"Content-Type": EVENT_STREAM})
        if self._closed:
            return problem(503, "the worker is about to end")
        return Stream(self, still_in(request), caller_of(request).role)

    @contextmanager
    def seat(self, role: Role) -> Iterator[bool]:
        """Count one who listens, as long as the block lasts; false where there is no room."""
        if self._listeners >= MOST_LISTENERS - (0 if role is Role.FULL else KEPT_SEATS):
            yield False
            return
        self._listeners += 1
        try:
            yield True
        finally:
            self._listeners -= 1
            if not self._listeners and self._reading is not None:
                self._reading.cancel()
                self._reading = None
                self._event = b""

    async def close(self) -> None:
        """End every stream: the worker is about to end."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def listen(self, send: Send, may: Callable[[], bool]) -> None:
        """Send states until the worker ends, or one may not listen any more."""
        if self._reading is None or self._reading.done():
            self._seen = None
            self._reading = asyncio.create_task(self._read(), name="ops:live")
        number = -1 if self._event else self._number
        while not self._is_closed():
            event, number = await self._next(number)
            if self._is_closed() or not may():
                return
            await send({"type": "http.response.body", "body": event, "more_body": True})

    def _is_closed(self) -> bool:
        return self._closed

    async def _next(self, number: int) -> tuple[bytes, int]:
        """A state later than that of this number, and its own; or a sign of life."""
        try:
            async with asyncio.timeout(KEEP_ALIVE_S), self._news:
                await self._news.wait_for(lambda: self._closed or self._number != number)
        except TimeoutError:
            return KEEP_ALIVE, number
        return self._event, self._number

    async def _read(self) -> None:
        """Look for changes, as long as somebody listens."""
        log = structlog.get_logger("worker.ops")
        while True:
            try:
                await self._look()
            except Exception:  # the listeners, and the next look, shall not suffer from it
                log.exception("ops.failed", method="GET", path="/api/v1/events")
            await asyncio.sleep(self._every_s)

    async def _look(self) -> None:
        state = adapter(StateFacts).dump_python(await self._gather(), mode="json")
        lasting = without_clocks(state)
        if lasting == self._seen:
            return
        self._seen = lasting
        text = json.dumps(state, separators=(",", ":"))
        self._event = f"event: state\ndata: {text}\n\n".encode()
        self._number += 1
        await self._tell()


class Stream(Response):
    """The answer that goes on."""

    def __init__(self, live: Live, may: Callable[[], bool], role: Role) -> None:
        super().__init__()
        self._role = role
        self._live = live
        self._may = may

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._live.seat(self._role) as has_room:
            if has_room:
                await self._stream(receive, send)
                return
        full = problem(
            503,
            f"{MOST_LISTENERS} listen already; close a page, or ask again later",
            headers={"Retry-After": "30"},
        )
        await full(scope, receive, send)

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b"retry: 2000\n\n", "more_body": True})
        sending = asyncio.create_task(self._live.listen(send, self._may), name="ops:listener")
        gone = asyncio.create_task(left(receive), name="ops:listener-left")
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                sending.result()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.wait({sending, gone})


async def left(receive: Receive) -> None:
    """Return once whoever listened is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def without_clocks(state: dict[str, Any]) -> dict[str, Any]:
    """The state without what changes all the time, and tells nothing."""
    overview = dict(state["overview"], now=None)
    overview["replicas"] = [dict(one, seen=None) for one in overview["replicas"]]
    queues = state["queues"]
    if queues is not None:
        queues = [dict(one, oldest_age_s=one["oldest_age_s"] is not None) for one in queues]
    running = state["running"]
    if running is not None:
        running = [dict(one, overdue_s=one["overdue_s"] is not None, stack=None) for one in running]
    return dict(state, overview=overview, queues=queues, running=running)
