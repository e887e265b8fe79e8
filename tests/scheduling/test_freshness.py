"""A task that does not succeed in time is noticed, inside and, by the missing pings, outside."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.support.clock import START, SteppedClock
from tests.support.servers import Connection, answer, answering, raw_server, refused_port
from tests.support.waiting import wait_until
from worker.errors import ConfigurationError
from worker.events import Event, Events, RunFinished, StoreChanged, TaskFresh, TaskStale
from worker.model import Run, RunId, State, Trigger
from worker.scheduling.freshness import DeadManPing, Freshness, Stale
from worker.telemetry.event_log import EventLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from structlog.typing import EventDict

    from tests.support.servers import Handler
    from worker.supervisor import Service

HOUR = timedelta(hours=1)
GRACE = timedelta(seconds=5)
KEY = "0b6e-key-that-nobody-may-see"
OK = answer(b"OK")
BROKEN = answer(b"", status="500 Internal Server Error")


@dataclass
class Bench:
    """A freshness of ``sync``, which promised one hour, and what was announced."""

    max_ages: dict[str, timedelta] = field(default_factory=lambda: {"sync": HOUR})
    announced: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = SteppedClock()
        self.events = Events(EventLog(), self.announced.append)
        self.freshness = Freshness(self.max_ages, clock=self.clock, events=self.events)
        self.events.subscribe(self.freshness)

    def run(
        self,
        state: State = State.SUCCESS,
        *,
        task: str = "sync",
        trigger: Trigger = Trigger.SCHEDULE,
    ) -> None:
        """A run of ``task`` ends now."""
        run = Run(
            run_id=RunId("r1"), task=task, trigger=trigger, state=state, started_at=self.clock.now()
        )
        # A failed run is not logged: what is wrong with it is not what this is about.
        self.freshness(RunFinished(task=task, run=run))

    @property
    def stale(self) -> list[str]:
        return [found.task for found in self.freshness.stale()]

    @property
    def changes(self) -> list[type[Event]]:
        return [type(event) for event in self.announced]

    async def step(self, seconds: float) -> None:
        """Let ``seconds`` pass, and who slept so long go on until it sleeps again."""
        sleeping = self.clock.sleeping
        self.clock.advance(seconds)
        await wait_until(lambda: self.clock.sleeping == sleeping, "all sleep again")

    def ping(self, url: str, every: timedelta = timedelta(minutes=1)) -> DeadManPing:
        return DeadManPing(url, freshness=self.freshness, clock=self.clock, every=every)


@asynccontextmanager
async def started(bench: Bench, *services: Service) -> AsyncIterator[None]:
    """The services at work; each has come to its first sleep."""
    async with asyncio.TaskGroup() as group:
        for service in services:
            service.start(group)
        try:
            await wait_until(lambda: bench.clock.sleeping == len(services), "all sleep")
            yield
        finally:
            for service in reversed(services):
                await service.stop(GRACE)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def log() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def told(log: list[EventDict], event: str) -> list[EventDict]:
    return [line for line in log if line["event"] == event]


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


async def test_a_task_is_stale_once_its_last_success_is_older_than_it_promised(
    bench: Bench,
) -> None:
    bench.freshness.seed("sync", at(-0.5), since=at(-100))
    bench.clock.advance(1800)
    assert bench.freshness.stale() == []
    bench.clock.advance(1)
    assert bench.freshness.stale() == [
        Stale(
            task="sync", max_age=HOUR, last_success=at(-0.5), stale_since=at(0.5), inherited=False
        )
    ]


async def test_a_task_that_never_succeeded_is_judged_from_when_it_was_first_known() -> None:
    bench = Bench({"seeded": HOUR, "unseeded": HOUR, "long_known": HOUR})
    bench.freshness.seed("seeded", None, since=at(-0.5))
    bench.freshness.seed("long_known", None, since=at(-5))
    assert bench.freshness.stale() == [
        Stale(
            task="long_known", max_age=HOUR, last_success=None, stale_since=at(-4), inherited=True
        )
    ]
    bench.clock.advance(1801)
    assert bench.stale == ["long_known", "seeded"]
    bench.clock.advance(1800)
    assert bench.stale == ["long_known", "seeded", "unseeded"]


@pytest.mark.parametrize("trigger", Trigger)
async def test_a_success_makes_a_task_fresh_whatever_triggered_it(
    bench: Bench, trigger: Trigger
) -> None:
    bench.clock.advance(3601)
    assert bench.stale == ["sync"]
    bench.run(trigger=trigger)
    assert bench.stale == []


@pytest.mark.parametrize("state", [State.FAILURE, State.REVOKED])
async def test_a_run_without_success_changes_nothing(bench: Bench, state: State) -> None:
    bench.clock.advance(3601)
    bench.run(state)
    assert bench.stale == ["sync"]


async def test_a_task_that_promised_nothing_is_never_stale(bench: Bench) -> None:
    bench.freshness.seed("other", None, since=at(-1000))
    bench.run(task="other")
    bench.freshness.note_success("other", at(-1000))
    assert bench.stale == []


async def test_a_success_of_another_replica_counts_but_not_into_the_future(bench: Bench) -> None:
    bench.clock.advance(3601)
    bench.freshness.note_success("sync", at(0.5))
    assert bench.stale == []
    bench.freshness.note_success("sync", at(0.1))  # an older one, read late
    assert bench.stale == []
    bench.freshness.note_success("sync", at(48))  # a clock that is fast by two days
    bench.clock.advance(3601)
    assert bench.stale == ["sync"]


async def test_a_task_that_is_stale_as_the_store_is_down_is_not_blamed_on_its_runs(
    log: list[EventDict],
) -> None:
    listener = EventLog()
    stale = TaskStale(task="sync", max_age=HOUR, last_success=None, stale_since=at(0))
    for trouble in ("no connection", None):
        listener(StoreChanged(task="", trouble=trouble))
        listener(stale)
    during, after = [line["hint"] for line in log if line["event"] == "task.stale"]
    assert during.endswith("the store cannot be used, see store.unavailable")
    assert after.endswith("see its run.failed and slot.skipped")


async def test_each_change_is_announced_once_and_logged(bench: Bench, log: list[EventDict]) -> None:
    bench.freshness.seed("sync", at(-0.9), since=at(-9))
    async with started(bench, bench.freshness):
        assert bench.changes == []
        for _ in range(3):
            await bench.step(600)
        assert bench.changes == [TaskStale]
        bench.run()
        assert bench.changes == [TaskStale, TaskFresh], "it is not told at once"
        await bench.step(1)
        assert bench.changes == [TaskStale, TaskFresh]
        await bench.step(3601)
        assert bench.changes == [TaskStale, TaskFresh, TaskStale]
    stale, fresh, again = log
    assert (stale["event"], stale["log_level"], stale["task"]) == ("task.stale", "error", "sync")
    assert (stale["max_age_s"], stale["last_success"]) == (3600, at(-0.9).isoformat())
    assert "run.failed" in stale["hint"]
    assert (fresh["event"], fresh["log_level"], fresh["task"]) == ("task.fresh", "info", "sync")
    assert fresh["stale_since"] == stale["stale_since"] == at(0.1).isoformat()
    assert fresh["last_success"] == again["last_success"] == at(0.5).isoformat()


async def test_a_task_that_never_succeeded_is_logged_too(
    bench: Bench, log: list[EventDict]
) -> None:
    bench.freshness.seed("sync", None, since=at(-2))
    async with started(bench, bench.freshness):
        pass
    (line,) = log
    assert line["last_success"] is None


async def test_the_first_ping_is_sent_at_once_and_then_one_every_minute(bench: Bench) -> None:
    async with (
        raw_server(answering(OK)) as server,
        started(bench, bench.freshness, bench.ping(f"{server.url}/ping/{KEY}?a=b")),
    ):
        assert [(r.method, r.target) for r in server.requests] == [("GET", f"/ping/{KEY}?a=b")]
        await bench.step(59.9)
        assert len(server.requests) == 1
        for count in (2, 3):
            await bench.step(60)
            assert len(server.requests) == count
    assert server.most_open == 1


async def test_no_ping_is_sent_while_a_task_is_stale_and_one_right_after(bench: Bench) -> None:
    bench.freshness.seed("sync", None, since=at(-2))
    async with (
        raw_server(answering(OK)) as server,
        started(bench, bench.freshness, bench.ping(server.url)),
    ):
        for _ in range(5):
            await bench.step(100)
        assert server.requests == []
        bench.run()
        await bench.step(1)
        assert len(server.requests) == 1
        await bench.step(3540)
        assert len(server.requests) == 2
        await bench.step(61)
        assert len(server.requests) == 2, "it pings although sync is stale"


async def test_without_any_promise_it_pings_while_the_worker_lives() -> None:
    bench = Bench(max_ages={})
    bench.run(State.FAILURE)
    async with (
        raw_server(answering(OK)) as server,
        started(bench, bench.ping(server.url, every=timedelta(seconds=20))),
    ):
        await bench.step(20)
        assert len(server.requests) == 2


async def test_a_streak_of_failures_is_told_once_and_so_is_its_end(
    bench: Bench, log: list[EventDict]
) -> None:
    waits = []
    async with (
        raw_server(answering(*[BROKEN] * 6, OK)) as server,
        started(bench, bench.ping(f"{server.url}/{KEY}")),
    ):
        for _ in range(6):
            waits.append(bench.clock.slept[-1])
            await bench.step(waits[-1])
        assert len(server.requests) == 7
        assert bench.clock.slept[-1] == 60
    assert waits == [5, 10, 20, 40, 60, 60]
    failed, recovered = log
    assert (failed["event"], failed["log_level"]) == ("ping.failed", "warning")
    assert (failed["host"], failed["error"]) == ("127.0.0.1", "status 500")
    assert (recovered["event"], recovered["log_level"]) == ("ping.recovered", "info")
    assert (recovered["after_failures"], recovered["host"]) == (6, "127.0.0.1")
    assert recovered["failing_since"] == START.isoformat()


async def hangs_up(connection: Connection) -> None:
    await connection.request()
    connection.reset()


async def talks_nonsense(connection: Connection) -> None:
    request = await connection.request()
    assert request is not None
    await connection.send(request.target.encode() + b"\r\n\r\n")


MOVED = answer(status="302 Found", headers=(f"Location: http://127.0.0.1:9/{KEY}",))


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (hangs_up, "connection to 127.0.0.1"),
        (talks_nonsense, "not HTTP"),
        (answering(MOVED), "redirects are not followed"),
        (answering(answer(status="404 Not Found")), "status 404"),
    ],
)
async def test_what_goes_wrong_is_told_without_the_urls_path(
    bench: Bench, log: list[EventDict], handler: Handler, expected: str
) -> None:
    async with raw_server(handler) as server:
        url = server.url.replace("//", "//user:secret@") + f"/{KEY}?{KEY}"
        async with started(bench, bench.ping(url)):
            assert len(server.requests) == 1
    (line,) = log
    assert expected in line["error"]
    assert KEY not in json.dumps(log)
    assert "secret" not in json.dumps(log)


async def test_a_server_that_is_not_there_is_named_by_its_host(
    bench: Bench, log: list[EventDict]
) -> None:
    async with started(bench, bench.ping(f"http://127.0.0.1:{refused_port()}/{KEY}")):
        pass
    (line,) = log
    assert "Connection refused" in line["error"]
    assert KEY not in json.dumps(log)


async def test_a_body_without_end_is_not_read(bench: Bench) -> None:
    async def endless(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nlong\r\n")
        await connection.gone()

    async with raw_server(endless) as server, started(bench, bench.ping(server.url)):
        assert bench.clock.slept == [60]
        await wait_until(lambda: not server.open, "the connection is closed")


async def test_a_server_that_says_nothing_is_given_up(
    bench: Bench, log: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.scheduling.freshness.TIMEOUT_S", 0.05)

    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.gone()

    async with raw_server(silent) as server, started(bench, bench.ping(server.url)):
        pass
    (line,) = log
    assert "0.05 s" in line["error"]


async def test_a_stop_ends_a_ping_that_is_under_way(bench: Bench) -> None:
    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.gone()

    async with raw_server(silent) as server:
        ping = bench.ping(server.url)
        async with asyncio.TaskGroup() as group:
            ping.start(group)
            await wait_until(lambda: bool(server.requests), "the ping is under way")
            await ping.stop(GRACE)
        await wait_until(lambda: not server.open, "the connection is closed")


async def test_services_that_never_started_can_be_stopped(bench: Bench) -> None:
    await bench.ping("http://127.0.0.1/x").stop(GRACE)
    await bench.freshness.stop(GRACE)


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://host/{KEY}",
        f"host/{KEY}",
        f"http:///{KEY}",
        f" http://host/{KEY}",
        f"http://host/{KEY} ",
        f"http://host/{KEY}\n",
        f"http://host:99999/{KEY}",
        f"http://[::1/{KEY}",
        "",
    ],
)
async def test_a_url_that_cannot_be_called_is_refused_and_not_repeated(
    bench: Bench, url: str
) -> None:
    with pytest.raises(ConfigurationError, match="WORKER_HEARTBEAT_URL") as refused:
        bench.ping(url).check()
    assert KEY not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None
    async with asyncio.TaskGroup() as group:
        with pytest.raises(ConfigurationError):
            bench.ping(url).start(group)


@pytest.mark.parametrize("url", ["https://hc-ping.com/uuid", "http://nosnch.in/c2354d53d2"])
async def test_a_url_that_can_be_called_is_not_called_by_the_check(bench: Bench, url: str) -> None:
    bench.ping(url).check()
    assert bench.clock.slept == []


async def test_a_proxy_that_cannot_be_used_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://proxy")
    ping = DeadManPing("http://x/", freshness=bench.freshness, clock=bench.clock, trust_env=True)
    with pytest.raises(ConfigurationError, match="proxy"):
        ping.check()
