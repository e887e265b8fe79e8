"""The tasks of one or two calls, with nothing but a client and respx."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import respx

from tests.support.clock import START, FakeClock
from worker.context import RunContext
from worker.errors import TaskFailed, UnexpectedStatus
from worker.events import Events
from worker.model import Trigger
from worker.running.runner import Runner
from worker.tasks.base import TaskDefinition
from worker.tasks.cleanup_old_orders import CleanupOldOrdersTask
from worker.tasks.send_reminders import SendRemindersTask
from worker.tasks.sync_external_data import SyncExternalDataTask

from .service import URL, running

UPCOMING = f"{URL}/api/v1/bookings/upcoming"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=URL) as client:
        yield client


def keys(route: respx.Route) -> list[str]:
    return [call.request.headers["Idempotency-Key"] for call in route.calls]


@respx.mock
async def test_cleanup_returns_how_many_were_deleted(client: httpx.AsyncClient) -> None:
    route = respx.delete(f"{URL}/api/v1/orders/cleanup").respond(json={"deleted_count": 12})
    began = datetime.now(UTC)
    assert await CleanupOldOrdersTask(client).execute() == 12
    before = datetime.fromisoformat(route.calls.last.request.url.params["before"])
    assert abs(before - (began - timedelta(days=30))) < timedelta(minutes=1)


@respx.mock
async def test_cleanup_goes_by_the_clock_of_its_run(client: httpx.AsyncClient) -> None:
    route = respx.delete(f"{URL}/api/v1/orders/cleanup").respond(json={"deleted_count": 0})
    with running(clock=FakeClock()):
        await CleanupOldOrdersTask(client, max_age=timedelta(days=1)).execute()
    assert route.calls.last.request.url.params["before"] == "2026-11-20T09:30:00Z"


@respx.mock
async def test_sync_returns_the_statistics_as_they_are(client: httpx.AsyncClient) -> None:
    statistics = {"added": 3, "nested": {"any": ["thing", None, 1.5]}}
    respx.post(f"{URL}/api/v1/sync").respond(json=statistics)
    assert await SyncExternalDataTask(client).execute() == statistics


@respx.mock
async def test_slot_is_synced_under_one_key_however_often_it_runs(
    client: httpx.AsyncClient,
) -> None:
    route = respx.post(f"{URL}/api/v1/sync").respond(json={})
    task = TaskDefinition.of(SyncExternalDataTask)
    for slot in (START, START, START + timedelta(hours=1)):
        # Each in a worker of its own: nothing but the slot may count.
        runner = Runner(client, clock=FakeClock(), events=Events())
        await runner.run(task, trigger=Trigger.SCHEDULE, slot=slot)
    first, again, later = keys(route)
    assert first == again != later


@respx.mock
async def test_each_manual_run_is_a_sync_of_its_own(client: httpx.AsyncClient) -> None:
    route = respx.post(f"{URL}/api/v1/sync").respond(json={})
    runner = Runner(client, clock=FakeClock(), events=Events())
    for _ in range(3):
        await runner.run(TaskDefinition.of(SyncExternalDataTask), trigger=Trigger.MANUAL)
    assert len(set(keys(route))) == 3


@respx.mock
async def test_repeated_attempts_of_a_run_share_its_key(client: httpx.AsyncClient) -> None:
    answers = [httpx.Response(503), httpx.Response(503), httpx.Response(200, json={})]
    route = respx.post(f"{URL}/api/v1/sync").mock(side_effect=answers)
    with running(attempts=3):
        await SyncExternalDataTask(client).execute()
    assert len(keys(route)) == 3
    assert len(set(keys(route))) == 1


def bookings(*items: tuple[int | str, bool]) -> str:
    return json.dumps(
        {"items": [{"id": item_id, "reminder_sent": sent} for item_id, sent in items]}
    )


@respx.mock
async def test_bookings_that_were_not_reminded_of_are_reminded_of_once(
    client: httpx.AsyncClient,
) -> None:
    listed = bookings((1, False), (2, True), (1, False), ("a/b", False), (3, True), ("1", False))
    upcoming = respx.get(UPCOMING).respond(content=listed)
    remind = respx.post(url__regex=rf"{URL}/api/v1/bookings/.*/remind").respond(202)
    with running(clock=FakeClock()):
        result = await SendRemindersTask(client, window=timedelta(minutes=90)).execute()
    assert result == {"sent": 2, "failed": 0, "total": 6}
    assert Counter(call.request.url.raw_path.decode() for call in remind.calls) == {
        "/api/v1/bookings/1/remind": 1,
        "/api/v1/bookings/a%2Fb/remind": 1,
    }
    assert dict(upcoming.calls.last.request.url.params) == {
        "start": "2026-11-21T09:30:00Z",
        "end": "2026-11-21T11:00:00Z",
    }


@respx.mock
async def test_reminder_has_the_same_key_in_every_run(client: httpx.AsyncClient) -> None:
    respx.get(UPCOMING).respond(content=bookings((1, False), (2, False)))
    remind = respx.post(url__regex=rf"{URL}/api/v1/bookings/./remind").respond(200)
    for _ in range(2):
        await SendRemindersTask(client, concurrency=1).execute()
    one, two, one_again, two_again = keys(remind)
    assert (one, two) == (one_again, two_again)
    assert one != two


@respx.mock
@pytest.mark.parametrize("listed", [[], [(1, True), (2, True)]], ids=["none", "all sent"])
async def test_nothing_to_remind_of_is_a_success(
    client: httpx.AsyncClient, listed: list[tuple[int, bool]]
) -> None:
    respx.get(UPCOMING).respond(content=bookings(*listed))
    result = await SendRemindersTask(client).execute()
    assert result == {"sent": 0, "failed": 0, "total": len(listed)}


@respx.mock
async def test_reminder_that_fails_does_not_keep_the_others_back(
    client: httpx.AsyncClient,
) -> None:
    respx.get(UPCOMING).respond(content=bookings((1, False), ("..", False), (3, False)))
    respx.post(f"{URL}/api/v1/bookings/1/remind").respond(404)
    respx.post(f"{URL}/api/v1/bookings/3/remind").respond(200)
    result = await SendRemindersTask(client).execute()
    assert result == {"sent": 1, "failed": 2, "total": 3}


@respx.mock
async def test_run_that_sent_none_of_the_due_reminders_is_a_failed_run(
    client: httpx.AsyncClient,
) -> None:
    respx.get(UPCOMING).respond(content=bookings((1, False), (2, True), (3, False)))
    respx.post(url__regex=rf"{URL}/api/v1/bookings/./remind").respond(410)
    with pytest.raises(TaskFailed, match=r"none of 2 reminders went through; .*410") as caught:
        await SendRemindersTask(client).execute()
    assert caught.value.result == {"sent": 0, "failed": 2, "total": 3}


@respx.mock
async def test_list_that_is_refused_fails_the_run(client: httpx.AsyncClient) -> None:
    respx.get(UPCOMING).respond(403)
    with pytest.raises(UnexpectedStatus, match=r"^bookings\.upcoming: .*403"):
        await SendRemindersTask(client).execute()


async def test_task_outside_of_a_run_has_one_of_its_own(client: httpx.AsyncClient) -> None:
    one, other = SyncExternalDataTask(client), SyncExternalDataTask(client)
    assert one.context is one.context
    assert one.context.run_id != other.context.run_id
    assert isinstance(one.context, RunContext)
    with running() as run:
        assert one.context is other.context is run
