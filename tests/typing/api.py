"""The public interface as a user's type checker sees it. Checked by mypy, never run."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import assert_type

import httpx

from worker import BaseTask, Clock, Overlap, RetryPolicy, Run, RunContext, Scheduler, SystemClock
from worker import register_all_tasks as register_the_four


class Report(BaseTask):
    name = "report"
    retry = RetryPolicy(attempts=5, base=timedelta(seconds=1), retry_on=(LookupError,))
    time_limit = timedelta(minutes=1)

    def __init__(self, http_client: httpx.AsyncClient, *, days: int = 1) -> None:
        super().__init__(http_client)
        self.days = days

    async def execute(self) -> dict[str, int]:
        assert_type(self.http_client, httpx.AsyncClient)
        assert_type(self.context, RunContext)
        self.logger.info("report.began", days=self.days)
        return {"days": self.days}


async def ping() -> None: ...


def register(scheduler: Scheduler) -> None:
    register_the_four(scheduler)
    scheduler.register_task(Report, interval=timedelta(hours=1))
    scheduler.register_task(partial(Report, days=7), interval_seconds=0.5, name="weekly_report")
    scheduler.register_task(ping, interval_seconds=60, time_limit=timedelta(seconds=5))
    scheduler.register_task(
        ping,
        name="nightly",
        cron="0 3 * * *",
        timezone="Europe/Berlin",
        overlap="buffer_one",
        catchup="all",
        jitter="5m",
        max_age=timedelta(hours=26),
    )
    scheduler.register_task(ping, name="often", interval="5m", overlap=Overlap.CANCEL_OTHER)
    scheduler.register_task(ping, name="typo", intervall="5m")  # type: ignore[call-arg]
    scheduler.register_task(ping, name="wrong", cron=5)  # type: ignore[arg-type]


async def in_a_unit_test(client: httpx.AsyncClient) -> None:
    assert_type(await Report(client).execute(), dict[str, int])
    assert_type(await Report(client).run(), object)


def frozen(run: Run) -> None:
    assert_type(run.duration_ms, float | None)
    run.attempts = 2  # type: ignore[misc]


def clock() -> Clock:
    return SystemClock()
