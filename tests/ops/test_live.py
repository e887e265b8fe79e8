"""Server-sent events: of a real worker, and of a server with as many listeners as it takes."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from tests.support.api_sites import ApiSite, api_sites, states
from tests.support.ops import FULL, guarded_site
from tests.support.servers import refused_port
from tests.support.waiting import wait_until
from worker.ops import live as live_module
from worker.ops import server as server_module
from worker.ops.hosts import Hosts
from worker.ops.live import Live
from worker.ops.locks import Caller, Locks, Role, Sessions, Tokens
from worker.ops.models import Overview, Problem, StateFacts, WorkerFacts
from worker.ops.server import Listener, OpsServer
from worker.ops.sign_in import session_routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response


@pytest.fixture(params=["sqlite", "postgres", "redis", "sqs"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiSite]:
    yield from api_sites(request.param, tmp_path)


def paused(state: dict[str, Any]) -> bool:
    return any(s["name"] == "moody" and s["pause"] is not None for s in state["schedules"])


# --- a real worker


async def test_who_listens_is_told_the_state_and_its_changes(site: ApiSite) -> None:
    async with site.api() as api, api.events() as events:
        first = await anext(events)
        assert first["overview"]["worker"]["replica"] == "one"
        assert not paused(first)
        assert {queue["name"] for queue in first["queues"]} == {"billing", "default"}
        await api.post("schedules/moody/pause", {"note": "for now"})
        async with asyncio.timeout(15):
            async for state in events:
                if paused(state):
                    break


async def test_listeners_do_not_hold_up_the_end_of_the_worker(tmp_path: Path) -> None:
    (site,) = api_sites("sqlite", tmp_path)
    async with site.api() as api, api.events() as events:
        await anext(events)
        api.worker.signal(signal.SIGTERM)
        ended = [state async for state in events]  # the stream ends as it should
        assert isinstance(ended, list)
        assert await api.worker.ended() == 0
        assert api.worker.events[-1]["event"] == "worker.stopped"
        assert not api.worker.other_lines
        errors = {line["event"] for line in api.worker.events if line["level"] == "error"}
        assert errors <= {"run.failed"}  # which a task of the site's does


# --- many listeners, none, and a slow one


def state(number: int, size: int = 0) -> StateFacts:
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    worker = WorkerFacts(
        version="1", replica="one", started_at=moment, store="s", queue="q", queues=[]
    )
    problem = Problem(severity="info", what=str(number), why="x" * size, kind="worker", name="one")
    overview = Overview(
        now=moment + timedelta(seconds=number),
        worker=worker,
        status="ok",
        problems=[problem],
        replicas=[],
    )
    return StateFacts(overview=overview, schedules=[], running=[], queues=[])


class Source:
    """What is told; it counts how often it was asked."""

    def __init__(self, size: int = 0) -> None:
        self.asked = 0
        self.number = 0
        self.size = size
        self.failure: Exception | None = None

    async def __call__(self) -> StateFacts:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return state(self.number, self.size)


@asynccontextmanager
async def served(live: Live) -> AsyncIterator[int]:
    """The port of a server that tells what ``live`` has to tell."""

    async def serve(request: Request) -> Response:
        request.scope["caller"] = Caller(Role(request.query_params.get("role", "full")))
        return await live.serve(request)

    app = Starlette(routes=[Route("/events", serve)])
    server = OpsServer([Listener(app, "127.0.0.1", port := refused_port(), "a test")])
    async with asyncio.TaskGroup() as group:
        server.start(group)
        try:
            yield port
        finally:
            await live.close()
            await server.stop(timedelta(seconds=5))


@asynccontextmanager
async def listening(port: int, role: str = "full") -> AsyncIterator[httpx.Response]:
    async with (
        httpx.AsyncClient(trust_env=False, timeout=15) as http,
        http.stream("GET", f"http://127.0.0.1:{port}/events?role={role}") as answer,
    ):
        yield answer


def readers() -> list[str]:
    return [name for task in asyncio.all_tasks() if (name := task.get_name()) == "ops:live"]


async def test_nobody_is_asked_while_nobody_listens() -> None:
    source = Source()
    live = Live(source, every_s=0.01)
    async with served(live) as port:
        assert (source.asked, readers()) == (0, [])
        async with listening(port) as answer:
            assert answer.status_code == 200
            await wait_until(lambda: source.asked > 3, "it was asked")
            assert len(readers()) == 1
        await wait_until(lambda: live.listeners == 0, "nobody listens")
        await wait_until(lambda: not readers(), "nobody reads")


async def test_all_listeners_share_one_reader() -> None:
    source = Source()
    live = Live(source, every_s=3600)
    async with served(live) as port, listening(port) as one, listening(port) as other:
        for answer in (one, other):
            told = await anext(states(answer))
            assert told["overview"]["problems"][0]["what"] == "0"
        assert source.asked == 1
        assert live.listeners == 2


async def test_a_state_is_told_when_it_changed_and_clocks_do_not_count() -> None:
    source = Source()
    live = Live(source, every_s=0.005)
    async with served(live) as port, listening(port) as answer:
        told = states(answer)
        assert (await anext(told))["overview"]["problems"][0]["what"] == "0"
        asked = source.asked
        await wait_until(lambda: source.asked > asked + 5, "it was asked again and again")
        source.number = 7
        assert (await anext(told))["overview"]["problems"][0]["what"] == "7"


async def test_a_head_request_does_not_listen() -> None:
    source = Source()
    live = Live(source)
    async with served(live) as port, httpx.AsyncClient(trust_env=False, timeout=15) as http:
        answer = await http.head(f"http://127.0.0.1:{port}/events")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (source.asked, live.listeners) == (0, 0)


async def test_a_quiet_stream_tells_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "KEEP_ALIVE_S", 0.02)
    live = Live(Source(), every_s=3600)
    async with served(live) as port, listening(port) as answer:
        comments = 0
        async for line in answer.aiter_lines():
            comments += line.startswith(":")
            if comments == 3:
                break


async def test_there_are_no_more_listeners_than_can_be_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_module, "MOST_LISTENERS", 1)
    live = Live(Source())
    async with served(live) as port, listening(port) as first:
        await anext(states(first))
        async with listening(port) as second:
            assert second.status_code == 503
            assert second.headers["content-type"] == "application/problem+json"
            assert second.headers["retry-after"] == "30"


async def test_listeners_that_come_at_once_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MOST_LISTENERS", 2)
    live = Live(Source())
    async with served(live) as port, AsyncExitStack() as stack:
        answers = await asyncio.gather(
            *(stack.enter_async_context(listening(port)) for _ in range(8))
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 2 + [503] * 6


async def test_who_may_only_look_leaves_room_for_those_who_act(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_module, "MOST_LISTENERS", 3)
    monkeypatch.setattr(live_module, "KEPT_SEATS", 1)
    live = Live(Source())
    async with served(live) as port, AsyncExitStack() as stack:
        roles = ("read", "read", "read", "full", "full")
        answers = [await stack.enter_async_context(listening(port, role)) for role in roles]
        assert [answer.status_code for answer in answers] == [200, 200, 503, 200, 503]


async def test_who_signs_out_hears_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "KEEP_ALIVE_S", 0.02)
    live, sessions = Live(Source(), every_s=3600), Sessions()
    locks = Locks(Tokens(FULL, None), sessions, Hosts([]))
    routes = [Route("/events", live.serve), *session_routes(locks, sessions)]
    async with (
        guarded_site(routes, locks) as url,
        httpx.AsyncClient(
            base_url=url, headers={"Origin": url}, trust_env=False, timeout=15
        ) as browser,
    ):
        await browser.post("/session", json={"token": FULL})
        async with browser.stream("GET", "/events") as answer:
            told = states(answer)
            await anext(told)
            assert (await browser.delete("/session")).status_code == 204
            async with asyncio.timeout(15):
                assert [state async for state in told] == []
        await live.close()


async def test_a_listener_that_reads_nothing_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "UNREAD_S", 0.05)
    source = Source(size=4 * 2**20)
    live = Live(source, every_s=0.01)
    async with served(live) as port:
        with socket.create_connection(("127.0.0.1", port)) as deaf:
            deaf.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await wait_until(lambda: live.listeners == 1, "it listens")
            source.number = 1
            await wait_until(lambda: live.listeners == 0, "it was hung up on")


async def test_a_look_that_fails_does_not_end_the_stream() -> None:
    source = Source()
    source.failure = RuntimeError("a fault of ours")
    live = Live(source, every_s=0.01)
    async with served(live) as port, listening(port) as answer:
        await wait_until(lambda: source.asked > 2, "it was asked in vain")
        source.failure = None
        assert (await anext(states(answer)))["overview"]["status"] == "ok"
