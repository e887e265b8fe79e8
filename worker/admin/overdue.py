"""Which jobs still run although they were requested to end, as their records show it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from worker.durations import format_duration
from worker.errors import InvalidOptions
from worker.jobs.job import JobQuery
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from worker.admin.jobs import JobAdmin
    from worker.jobs.job import Job
    from worker.settings import Settings
    from worker.tasks.base import TaskDefinition

__all__ = ["Overdue", "find_overdue", "limit_of_job", "overdue_jobs", "past_limit", "rough"]

PATIENCE = timedelta(seconds=10)
"""How long a job may take to end after its time limit: its worker cancels it then."""
MOST = 200
RUNNING = (State.STARTED, State.PROGRESS)


class Overdue(NamedTuple):
    """A job that still runs.

    Attributes:
        by: For how long it has been past its time limit; ``None`` if it is not, but its
            cancellation was requested.
    """

    job: Job
    by: timedelta | None
    text: str


def past_limit(started: datetime, limit: timedelta, now: datetime) -> timedelta | None:
    """How long past its time limit a run is that goes on; ``None`` if it is not, or not by much."""
    by = now - started - limit
    return by if by > PATIENCE else None


def limit_of_job(job: Job, definition: TaskDefinition | None, default: timedelta) -> timedelta:
    """The time limit that its worker keeps to."""
    options = definition.options if definition is not None else None
    if definition is None or options is None:
        return default
    try:
        own = options.overridden_by(job.options).time_limit
    except InvalidOptions:
        own = None
    return own or definition.time_limit or default


def overdue_jobs(
    jobs: Iterable[Job], limit_of: Callable[[Job], timedelta], now: datetime
) -> list[Overdue]:
    """Those of ``jobs`` that should have ended, those longest past their limit first."""
    found = []
    for job in jobs:
        if job.state not in RUNNING or job.started_at is None:
            continue
        limit = limit_of(job)
        by = past_limit(job.started_at, limit, now)
        where = f"job {job.id} still runs on {job.worker}"
        if by is not None:
            text = (
                f"{where}, {rough(by)} past its time limit of {format_duration(limit)}: its code "
                "does not end, so no other attempt begins; run.stuck in the log of that worker "
                "shows where the code is"
            )
            found.append(Overdue(job, by, text))
        elif job.cancel:
            text = f"{where}: its cancellation was requested, and its code has not ended"
            found.append(Overdue(job, None, text))
    return sorted(found, key=lambda one: one.by or timedelta(0), reverse=True)


async def find_overdue(
    jobs: JobAdmin, task: str, definition: TaskDefinition | None, settings: Settings
) -> list[Overdue]:
    """The jobs of a task that should have ended.

    Raises:
        StoreError: The engine cannot be read.
    """
    running = await jobs.find(JobQuery(task=task, states=frozenset({State.STARTED}), limit=MOST))
    default = settings.task_time_limit
    return overdue_jobs(
        running, lambda job: limit_of_job(job, definition, default), datetime.now(UTC)
    )


def rough(length: timedelta) -> str:
    return format_duration(timedelta(seconds=max(1, round(length.total_seconds()))))
