"""What is wrong with schedules is said once for each cause."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import httpx

from worker import Events, Runner, Scheduler, SystemClock
from worker.ledger.book import Book
from worker.ops.causes import of_data_api, of_schedule, unreached
from worker.ops.data_api_state import DataApiTrouble, Finding
from worker.scheduling.standing import view

if TYPE_CHECKING:
    from typing import Any

    from worker.scheduling.standing import View

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
REFUSED = "DataApiUnreachable: orders.list: no connection (Connection refused), after 3 attempts"


async def pings() -> None: ...


async def seen(name: str, **book: Any) -> View:
    """A schedule of which a success is due every two hours."""
    clock, events = SystemClock(), Events()
    async with httpx.AsyncClient() as http:
        runner = Runner(http, clock=clock, events=events)
        scheduler = Scheduler(runner, clock=clock, events=events)
        scheduler.register_task(pings, name=name, interval="1h", max_age="2h")
    return view(scheduler.tasks[name], Book(task=name, version=1, **book), now=NOON)


def silent() -> DataApiTrouble:
    tasks = ("orders", "sync")
    return DataApiTrouble(finding=Finding.SILENT, calls=9, status=None, last=NOON, tasks=tasks)


async def test_a_task_that_fails_and_is_stale_is_one_problem() -> None:
    last = NOON - timedelta(hours=3)
    both = await seen("sync", failures=1, last_error="no disk", last_success=last)
    (problem,) = of_schedule(both)
    assert problem.what == "sync fails and is stale: its last run failed"
    assert problem.why.startswith(
        "no disk; a success is due every 2h; its last success was at 2026-11-21"
    )
    assert problem.severity == "critical", "staleness counts, though it failed only once"
    (stale,) = of_schedule(await seen("sync", last_success=last))
    assert stale.what.startswith("sync is stale since 2026-11-21 11:00:00Z")
    (fails,) = of_schedule(await seen("sync", failures=1, last_success=NOON))
    assert (fails.severity, fails.why) == ("warning", "no error is recorded")
    assert list(of_schedule(await seen("sync", last_success=NOON))) == []


async def test_a_data_api_that_is_down_is_one_problem_whatever_fails_for_it() -> None:
    names = ("cleanup", "orders", "reminders", "sync")
    down = [await seen(n, failures=3, last_error=REFUSED, last_success=NOON) for n in names]
    other = await seen("own", failures=3, last_error="ValueError: no", last_success=NOON)
    assert unreached([*down, other]) == down
    (problem,) = of_data_api(silent(), down)
    assert problem.what == "the Data API does not answer: 4 schedules fail"
    assert problem.severity == "critical"
    for name in names:
        assert f"{name} (3 failed)" in problem.why
    assert REFUSED in problem.why
    (over,) = of_data_api(None, down)  # this worker is answered: that is not said to go on
    assert over.what == "the Data API did not answer the last runs: 4 schedules fail"
    (unheard,) = of_data_api(silent(), [])
    assert (unheard.severity, unheard.what) == ("warning", "the Data API does not answer")
    assert list(of_data_api(None, [])) == []
