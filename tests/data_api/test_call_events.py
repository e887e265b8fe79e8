"""Every try of an HTTP call is announced when it ends: by the contract's names, never by a URL."""

from __future__ import annotations

from datetime import timedelta

import httpx

from tests.support.servers import answer, answering, raw_server, refused_port
from worker.clock import SystemClock
from worker.context import RunContext
from worker.data_api import DataApi
from worker.errors import DataApiUnreachable, UnexpectedStatus
from worker.events import CallEnded, Event, Events
from worker.retry import RetryPolicy
from worker.transport import ClientOptions, open_client

AT_ONCE = RetryPolicy(attempts=3, base=timedelta(milliseconds=1))


async def ended(url: str, call: str, *, by_hand: bool = False) -> list[CallEnded]:
    """What is announced while a run makes one call."""
    heard: list[Event] = []
    run = RunContext(task="t", clock=SystemClock(), retry=AT_ONCE, events=Events(heard.append))
    async with open_client(ClientOptions(base_url=url)) as client:
        with run.entered():
            try:
                if by_hand:
                    await client.get(call)
                else:
                    await DataApi(client, run).sync(key="k")
            except (DataApiUnreachable, UnexpectedStatus, httpx.ConnectError):
                pass
    calls = [event for event in heard if isinstance(event, CallEnded)]
    assert all(event.run_id == run.run_id and event.duration_s >= 0 for event in calls)
    return calls


async def test_each_try_of_a_call_is_announced_with_its_number_and_status() -> None:
    down = answer(status="503 Service Unavailable")
    async with raw_server(answering(down, down, answer())) as server:
        calls = await ended(server.url, "sync")
    assert [(one.call, one.attempt, one.status) for one in calls] == [
        ("sync", 1, 503),
        ("sync", 2, 503),
        ("sync", 3, 200),
    ]
    assert [type(one.failure) for one in calls] == [UnexpectedStatus, UnexpectedStatus, type(None)]


async def test_call_without_an_answer_has_a_failure_and_no_status() -> None:
    calls = await ended(f"http://127.0.0.1:{refused_port()}", "sync")
    assert [(one.attempt, one.status) for one in calls] == [(1, None), (2, None), (3, None)]
    assert all(isinstance(one.failure, DataApiUnreachable) for one in calls)


async def test_what_a_task_calls_by_itself_is_announced_once_as_other() -> None:
    async with raw_server(answering(answer(status="404 Not Found"))) as server:
        calls = await ended(server.url, "/things/7?secret=s", by_hand=True)
    assert [(one.call, one.attempt, one.status, one.failure) for one in calls] == [
        ("other", 1, 404, None)
    ]
    assert "things" not in repr(calls)


async def test_what_a_task_calls_in_vain_is_announced_with_its_failure() -> None:
    calls = await ended(f"http://127.0.0.1:{refused_port()}", "/things", by_hand=True)
    assert [(one.call, one.status, type(one.failure)) for one in calls] == [
        ("other", None, httpx.ConnectError)
    ]


async def test_calls_outside_of_any_run_are_not_announced_and_work() -> None:
    async with (
        raw_server(answering(answer())) as server,
        open_client(ClientOptions(base_url=server.url)) as client,
    ):
        assert (await client.get("/")).status_code == 200
