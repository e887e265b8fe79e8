"""What has to be passed before a route sees a request, over a real server."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.ops import FULL, PATIENCE_S, READ, Door, guarded_site, ops_door, walk
from tests.support.waiting import wait_until
from worker.ops import bodies, server
from worker.ops.app import BODY_LIMIT
from worker.ops.bodies import read_json
from worker.ops.guard import caller_of, note
from worker.ops.hosts import Hosts
from worker.ops.live import left
from worker.ops.locks import Locks, Sessions, Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request

PROBES = {"/livez", "/readyz", "/startupz"}
SAFE = {"GET", "HEAD", "OPTIONS"}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with ops_door(tmp_path) as opened:
        yield opened


def routes_of(door: Door) -> list[tuple[str, str]]:
    return [
        route
        for listener in door.ops.listeners
        for route in walk(listener.app.routes)  # type: ignore[attr-defined]
    ]


# --- who may pass


async def test_nothing_but_the_probes_is_served_without_a_token(door: Door) -> None:
    seen = 0
    for url in (door.url, door.probe_url):
        async with door.client() as client:
            for method, path in [*routes_of(door), ("GET", "/no-such-path"), ("PUT", "/")]:
                status = (await client.request(method, url + path)).status_code
                assert status == (200 if path in PROBES else 401) or (
                    # Nothing has started here, and that is told to everybody.
                    path in PROBES and status == 503
                ), f"{method} {path}"
                seen += status == 401
    assert seen > 10


async def test_who_may_only_look_changes_nothing(door: Door) -> None:
    async with door.client(READ) as client:
        signs_in = {("POST", "/session"), ("POST", "/")}
        unsafe = {(m, p) for m, p in routes_of(door) if m not in SAFE} - signs_in
        assert unsafe
        for method, path in unsafe | {("PUT", "/"), ("PATCH", "/no-such-path")}:
            answer = await client.request(method, path)
            assert answer.status_code == 403, f"{method} {path}"
        assert (await client.get("/session")).json() == {"role": "read"}


async def test_the_full_token_opens_everything(door: Door) -> None:
    async with door.client(FULL) as client:
        assert (await client.get("/session")).json() == {"role": "full"}
        assert (await client.post("/no-such-path")).status_code == 404


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        f"Basic {FULL}",
        FULL,
        f"Bearer {FULL}x",
        f"Bearer {FULL[:-1]}",
        f"Bearer {FULL}, Bearer {READ}",
        "Bearer \u00e9",
    ],
)
async def test_what_is_not_the_token_opens_nothing(door: Door, header: str) -> None:
    async with door.client() as client:
        answer = await client.get("/session", headers=[(b"Authorization", header.encode())])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_probes_are_told_to_anybody_and_name_no_address(door: Door) -> None:
    async with door.client() as client:
        for path in PROBES:
            answer = await client.get(door.probe_url + path, headers={"Host": "10.1.2.3:8081"})
            assert answer.status_code in (200, 503)
            assert set(answer.json()) == {"status", "problems", "remarks"}
            assert "127.0.0.1" not in answer.text


# --- by which name


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:80", "LOCALHOST", "127.0.0.1:1", "[::1]:8080", "ops.example.com:443"],
)
async def test_a_name_of_the_workers_is_taken(tmp_path: Path, host: str) -> None:
    async with ops_door(tmp_path, ops_hosts=("OPS.example.com",)) as door, door.client(READ) as c:
        assert (await c.get("/session", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "[::2]",
        "a:b",
        "[::1]evil.example",
        "127.0.0.1:1@evil.example",
        "localhost:80:80",
        "",
    ],
)
async def test_a_name_that_somebody_else_points_to_us_is_refused(door: Door, host: str) -> None:
    """DNS rebinding: the page's own name resolves to loopback, and the cookie is not needed."""
    async with door.client(FULL) as client:
        answer = await client.get("/session", headers={"Host": host})
    assert answer.status_code == 421
    assert "WORKER_OPS_HOSTS" in answer.json()["detail"]


# --- what each answer carries


async def test_every_answer_has_the_headers_that_keep_a_browser_in_check(door: Door) -> None:
    async with door.client(FULL) as full, door.client() as nobody:
        answers = [
            await full.get("/session"),
            await full.get("/no-such-path"),
            await full.get("/session", headers={"Host": "evil.example"}),
            await nobody.get("/"),
            await nobody.get("/", headers={"Accept": "text/html"}),
            await nobody.get("/livez"),
        ]
    for answer in answers:
        policy = dict(
            part.strip().partition(" ")[::2]
            for part in answer.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        if policy["style-src"].startswith("'sha256-"):  # the sign-in page: no script at all
            assert not {"script-src", "connect-src", "img-src"} & policy.keys()
        else:
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in answer.headers


# --- what a request may hold


def own_routes() -> list[Route]:
    async def echo(request: Request) -> Response:
        note(request, count=len(await read_json(request)))
        return JSONResponse({"role": caller_of(request).role})

    async def ignore(request: Request) -> Response:
        return JSONResponse({})

    async def fail(request: Request) -> Response:
        raise RuntimeError("hunter2 in /home/worker/app.py")

    async def fail_late(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError("hunter2")

        return StreamingResponse(parts())

    async def refuse(request: Request) -> Response:
        raise HTTPException(409, "it runs already")

    return [
        Route("/echo", echo, methods=["POST"]),
        Route("/large", echo, methods=["POST"], max_body_size=2 * BODY_LIMIT),
        Route("/ignore", ignore, methods=["POST"]),
        Route("/fail", fail),
        Route("/fail-late", fail_late),
        Route("/refuse", refuse),
    ]


@pytest.fixture
async def site() -> AsyncIterator[httpx.AsyncClient]:
    locks = Locks(Tokens(FULL, READ), Sessions(), Hosts([]))
    async with (
        guarded_site(own_routes(), locks) as url,
        httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {FULL}"},
            trust_env=False,
            timeout=PATIENCE_S,
        ) as client,
    ):
        yield client


async def in_chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(0, size, 1024):
        yield b" " * 1024


async def test_a_body_over_the_limit_is_413(site: httpx.AsyncClient) -> None:
    for content in (b" " * (BODY_LIMIT + 1), in_chunks(BODY_LIMIT + 1024)):
        answer = await site.post("/echo", content=content)
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await site.post("/ignore", content=b" " * (BODY_LIMIT + 1))).status_code == 413


async def test_a_route_may_take_larger_bodies_than_the_others(site: httpx.AsyncClient) -> None:
    body = json.dumps({"text": "x" * BODY_LIMIT}).encode()
    assert (await site.post("/large", content=body)).status_code == 200
    assert (await site.post("/large", content=in_chunks(2 * BODY_LIMIT + 1024))).status_code == 413


async def test_a_body_is_not_read_before_its_sender_is_known(site: httpx.AsyncClient) -> None:
    answer = await site.post(
        "/echo", content=in_chunks(BODY_LIMIT * 2), headers={"Authorization": ""}
    )
    assert answer.status_code == 401


@pytest.mark.parametrize("body", [b"[]", b"{", b"nope", b'"x"', b"\xff", b"[" * 60_000])
async def test_a_body_that_is_no_json_object_is_400(site: httpx.AsyncClient, body: bytes) -> None:
    answer = await site.post("/echo", content=body)
    assert (answer.status_code, answer.json()["status"]) == (400, 400)
    assert "expected a JSON object" in answer.json()["detail"]


async def test_a_body_that_never_comes_is_408(
    site: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LONGEST_S", 0.05)
    reader, writer = await connect(site)
    head = f"Host: localhost\r\nAuthorization: Bearer {FULL}\r\nContent-Length: 100\r\n\r\n"
    writer.write(f"POST /echo HTTP/1.1\r\n{head}{{".encode())
    async with asyncio.timeout(PATIENCE_S):
        assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
    writer.close()


async def test_headers_without_end_are_refused(site: httpx.AsyncClient) -> None:
    reader, writer = await connect(site)
    writer.write(b"GET /refuse HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 17_000)
    async with asyncio.timeout(PATIENCE_S):
        assert b" 400 " in await reader.readline()
    writer.close()


async def test_headers_that_arrive_at_once_are_refused_too(site: httpx.AsyncClient) -> None:
    for long in ({"headers": {"X-Long": "x" * 17_000}}, {"params": {"q": "x" * 17_000}}):
        answer = await site.get("/refuse", **long)  # type: ignore[arg-type]
        assert answer.status_code == 431
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_slash_too_many_leads_nowhere(door: Door) -> None:
    for url in (door.url, door.probe_url):
        async with door.client(FULL) as client:
            answer = await client.get(f"{url}/metrics/")
        assert (answer.status_code, answer.headers.get("location")) == (404, None)


# --- what a client is told when something goes wrong


async def test_a_fault_is_told_without_its_text_and_logged_once(site: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logs:
        answer = await site.get("/fail")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) == {"type", "title", "status", "detail"}
    assert "hunter2" not in answer.text
    assert "app.py" not in answer.text
    (line,) = logs
    assert (line["event"], line["path"]) == ("ops.failed", "/fail")
    assert "hunter2" in str(line["exc_info"])


async def test_a_fault_in_the_middle_of_an_answer_breaks_it_off(site: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(httpx.RemoteProtocolError):
        await site.get("/fail-late")
    assert [line["event"] for line in logs] == ["ops.failed"]


async def test_a_refusal_is_a_problem_in_json(site: httpx.AsyncClient) -> None:
    answer = await site.get("/refuse")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "it runs already",
    }


async def test_every_action_is_logged_with_who_asked(site: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logs:
        await site.post("/echo", json={"password": "hunter2"})
        await site.post("/echo", json={}, headers={"Authorization": f"Bearer {READ}"})
        await site.post("/echo", json={}, headers={"Authorization": "Bearer nobody"})
    told: list[Any] = [line for line in logs if line["event"] == "ops.action"]
    common: dict[str, Any] = {
        "event": "ops.action",
        "log_level": "info",
        "method": "POST",
        "path": "/echo",
    }
    common |= {"session_name": None, "address": "127.0.0.1"}
    assert told == [
        {**common, "role": "full", "status": 200, "count": 1},
        {**common, "role": "read", "status": 403},
    ]
    assert "hunter2" not in str(logs)


# --- who takes more than his share


async def connect(client: httpx.AsyncClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(client.base_url.host, client.base_url.port)


async def hung_up(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read() == b""
    except ConnectionError:
        return True


async def test_who_does_not_send_his_request_is_hung_up_on(
    site: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 0.1)
    for beginning in (b"", b"GET /refuse HTTP/1.1\r\nHost: loc"):
        reader, writer = await connect(site)
        writer.write(beginning)
        assert await hung_up(reader)
        writer.close()


async def test_who_opens_all_connections_does_not_keep_others_out(
    site: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 5)
    greedy = [await connect(site) for _ in range(20)]
    assert (await site.get("/refuse")).status_code == 409
    for reader, _ in greedy[:10]:
        assert await hung_up(reader)
    for _, writer in greedy:
        writer.close()


@asynccontextmanager
async def crowded(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crowd]:
    """A site that takes three connections."""
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    crowd = Crowd()
    async with guarded_site(crowd.routes(), Locks(Tokens(FULL, None))) as url:
        crowd.port = int(url.rpartition(":")[2])
        try:
            yield crowd
        finally:
            for writer in crowd.writers:
                writer.close()


class Crowd:
    """Connections, and how many of them the site has come to know."""

    def __init__(self) -> None:
        self.known = 0
        self.port = 0
        self.writers: list[asyncio.StreamWriter] = []

    def routes(self) -> list[Route]:
        async def at_once(request: Request) -> Response:
            return Response(b"here")

        async def count() -> None:
            self.known += 1

        async def large(request: Request) -> Response:
            return Response(b"x" * 2**25, background=BackgroundTask(count))

        async def read(request: Request) -> Response:
            await count()
            return Response(await request.body())

        async def never(request: Request) -> Response:
            await count()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        return [
            Route("/at-once", at_once),
            Route("/unread", large),
            Route("/unsent", read, methods=["POST"]),
            Route("/unanswered", never),
        ]

    async def come(self, what: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(said(what))
        return reader, writer

    async def is_served(self) -> bool:
        """Whether a newcomer is."""
        reader, _ = await self.come("GET /at-once")
        return await is_answered(reader)


def said(what: str) -> bytes:
    head = f"Host: localhost\r\nAuthorization: Bearer {FULL}\r\n"
    if what.startswith("POST"):
        head += "Content-Length: 100\r\n"
    return f"{what} HTTP/1.1\r\n{head}\r\n{'{' if what.startswith('POST') else ''}".encode()


async def is_answered(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        try:
            return (await reader.readuntil(b"here")).startswith(b"HTTP/1.1 200 ")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False


@pytest.mark.parametrize("what", ["GET /unread", "POST /unsent", "GET /unanswered"])
async def test_a_newcomer_is_served_whatever_the_others_do(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with crowded(monkeypatch) as crowd:
        for _ in range(3):
            await crowd.come(what)
        await wait_until(lambda: crowd.known == 3, "all are known")
        for _ in range(5):
            assert await crowd.is_served()


@pytest.mark.parametrize("what", ["GET /unread", "POST /unsent"])
async def test_who_keeps_us_waiting_goes_before_who_is_idle(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with crowded(monkeypatch) as crowd:
        reader, writer = await crowd.come("GET /at-once")
        assert await is_answered(reader)
        for _ in range(2):
            await crowd.come(what)
        await wait_until(lambda: crowd.known == 2, "all are known")
        for _ in range(2):
            assert await crowd.is_served()
        writer.write(said("GET /at-once"))
        assert await is_answered(reader)


async def test_the_probe_listener_answers_once_a_connection(door: Door) -> None:
    _, _, port = door.probe_url.rpartition(":")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(said("GET /livez") * 3)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer
    writer.close()


def test_fewer_newcomers_come_at_a_time_than_there_may_be() -> None:
    listener = server.Listener(Starlette(), "127.0.0.1", 0, "a test")
    assert server.QuietServer(listener).config.backlog < server.MOST_CONNECTIONS


async def test_who_does_not_read_the_answer_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "UNREAD_S", 0.1)
    ended = asyncio.Event()

    async def flood(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(parts())

    async with guarded_site([Route("/livez", flood)], Locks(Tokens(FULL, None))) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
        writer.close()


# --- requests ahead of their turn


async def test_who_sends_requests_ahead_of_their_turn_is_hung_up_on() -> None:
    """Else each wait of an application would read more of them, and keep them."""
    sent = 0

    async def wait(request: Request) -> Response:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.005):
                await left(request.receive)
        return Response()

    async with guarded_site([Route("/livez", wait)], Locks(Tokens(FULL, None))) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        reading = asyncio.create_task(reader.read())
        requests = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
        with suppress(ConnectionError):
            while sent < 50 * server.MOST_AHEAD * 4:
                writer.write(requests)
                await writer.drain()
                sent += len(requests)
        assert sent < 50 * server.MOST_AHEAD * 4, "all of it was taken"
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.close()


async def test_some_requests_may_be_sent_ahead_and_a_large_body_is_not_one(
    site: httpx.AsyncClient,
) -> None:
    reader, writer = await connect(site)
    head = f"Host: localhost\r\nAuthorization: Bearer {FULL}\r\n"
    body = json.dumps({"text": "x" * BODY_LIMIT})
    large = f"POST /large HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
    writer.write(large.encode() + f"GET /refuse HTTP/1.1\r\n{head}\r\n".encode() * 100)
    answers = b""
    async with asyncio.timeout(PATIENCE_S):
        while answers.count(b"HTTP/1.1 ") < 101:
            answers += await reader.read(65536)
    writer.close()


async def test_a_request_that_tells_its_length_in_two_ways_is_the_last_of_its_connection(
    site: httpx.AsyncClient,
) -> None:
    reader, writer = await connect(site)
    head = f"Host: localhost\r\nAuthorization: Bearer {FULL}\r\n"
    writer.write(
        f"POST /echo HTTP/1.1\r\n{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"0\r\n\r\nGET /livez HTTP/1.1\r\n{head}\r\n".encode()
    )
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    writer.close()
