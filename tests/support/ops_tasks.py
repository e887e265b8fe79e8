"""Tasks of which metrics and traces tell."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from worker import BaseTask, RetryPolicy, TaskFailed, task
from worker.context import current_run

if TYPE_CHECKING:
    from worker.scheduling.scheduler import Scheduler


class Calling(BaseTask):
    """Calls the Data API by itself."""

    name = "calling"
    queue = "default"
    retry = RetryPolicy(attempts=1)

    async def execute(self) -> None:
        await self.http_client.get("/things/7?token=s3cret")


class Failing(BaseTask):
    name = "failing"

    async def execute(self) -> None:
        raise TaskFailed("the far side is full")


class Flaky(BaseTask):
    """Fails twice in a way that may pass."""

    name = "flaky"
    retry = RetryPolicy(attempts=3, base=timedelta(0), retry_on=(ConnectionError,))

    async def execute(self) -> None:
        run = current_run()
        assert run is not None
        if run.attempt < 3:
            raise ConnectionError("not yet")


@task(queue="default")
async def greet(name: str) -> str:
    return f"hello {name}"


@task(queue="poisoned", max_retries=0)
async def poison() -> None:
    raise ValueError("cannot be done")


@task(queue="default", max_retries=1, retry_delay=timedelta(hours=1))
async def again() -> None:
    raise TimeoutError("too slow")


@task(queue="default", max_retries=1, retry_delay=timedelta(0))
async def soon_again() -> None:
    raise TimeoutError("too slow")


def register(scheduler: Scheduler) -> None:
    scheduler.register_task(Failing, interval="1h", max_age="2h")
    scheduler.register_task(Flaky, interval="1h")
