"""How long a call waits before it is repeated, above all when the service asks for it."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime

import httpx
import pytest
import respx

from tests.support.clock import START, FakeClock
from worker.context import RunContext
from worker.data_api import DataApi
from worker.errors import DataApiUnreachable, UnexpectedStatus
from worker.events import CallRetrying, Event, Events
from worker.retry import RetryPolicy

from .calls import CALLS, api_of

# No wait of its own, so that a wait is what the service asked for.
OBEDIENT = RetryPolicy(attempts=2, base=timedelta(0), retry_after_cap=timedelta(seconds=60))


def http_date(seconds: float) -> str:
    return format_datetime(START + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "waited"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("007", 7),
        ("60", 60),
        ("61", 60),
        ("9" * 400, 60),
        (http_date(30), 30),
        (http_date(3600), 60),
        ("Saturday, 21-Nov-26 09:30:30 GMT", 30),
        ("Sat Nov 21 09:30:30 2026", 30),
        (http_date(0), 0),
        (http_date(-30), 0),
        ("-5", 0),
        ("+5", 0),
        ("1.5", 0),
        ("1e3", 0),
        ("soon", 0),
        ("", 0),
        ("٣", 0),
        ("³", 0),
        ("Sat, 99 Nov 2026 09:30:30 GMT", 0),
        ("Sat, 21 Nov 99999 09:30:30 GMT", 0),
        ("Sat, 21 Nov 2026 09:30:30 +9999999999", 0),
    ],
)
async def test_wait_that_the_service_asks_for_is_kept_if_it_makes_sense(
    service: respx.MockRouter,
    client: httpx.AsyncClient,
    status: int,
    retry_after: str,
    waited: float,
) -> None:
    headers = [(b"Retry-After", retry_after.encode())]
    service.route().mock(side_effect=[httpx.Response(status, headers=headers), httpx.Response(200)])
    clock = FakeClock()
    await CALLS["orders.process"](api_of(client, clock=clock, retry=OBEDIENT))
    assert clock.slept == [waited]


async def test_last_failure_is_not_waited_after(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    service.route().respond(503, headers={"Retry-After": "7"})
    clock = FakeClock()
    with pytest.raises(UnexpectedStatus) as caught:
        await CALLS["sync"](api_of(client, clock=clock, retry=OBEDIENT))
    assert clock.slept == [7]
    assert caught.value.retry_after_s == 7


async def test_final_status_is_not_waited_after_whatever_it_asks_for(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    service.route().respond(404, headers={"Retry-After": "7"})
    clock = FakeClock()
    with pytest.raises(UnexpectedStatus):
        await CALLS["sync"](api_of(client, clock=clock))
    assert clock.slept == []


async def test_waits_grow_up_to_the_longest_and_are_announced(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    service.route().mock(side_effect=httpx.ConnectError)
    clock = FakeClock()
    heard: list[Event] = []
    policy = RetryPolicy(attempts=6, base=timedelta(seconds=1), longest=timedelta(seconds=4))
    run = RunContext(task="t", clock=clock, retry=policy, events=Events(heard.append))
    with pytest.raises(DataApiUnreachable):
        await DataApi(client, run).sync(key="k")
    assert len(clock.slept) == 5
    for wait_s, bound in zip(clock.slept, [1, 2, 4, 4, 4], strict=True):
        assert 0 <= wait_s <= bound
    told = [event for event in heard if isinstance(event, CallRetrying)]
    assert [(event.call, event.attempt, event.wait_s) for event in told] == [
        ("sync", number, wait_s) for number, wait_s in enumerate(clock.slept, start=1)
    ]
    assert run.calls_retried == 5


async def test_caller_can_say_how_to_wait(
    service: respx.MockRouter, client: httpx.AsyncClient
) -> None:
    service.route().mock(side_effect=[httpx.Response(503), httpx.Response(200)])
    clock, slept = FakeClock(), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    run = RunContext(task="t", clock=clock, retry=OBEDIENT)
    await DataApi(client, run, sleep=sleep).process_order(1)
    assert (slept, clock.slept) == ([0], [])
