"""Which jobs are told as overdue: those that still run after their end was requested."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from worker import State, task
from worker.admin.overdue import limit_of_job, overdue_jobs
from worker.jobs.job import Job, JobId

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DEFAULT = timedelta(minutes=5)


@task(name="pay", time_limit="1m")
def pay() -> None: ...


@task(name="plain")
def plain() -> None: ...


def job(began: timedelta, **rest: object) -> Job:
    at = NOW - began
    made = Job(
        id=JobId("x"),
        task="pay",
        queue="default",
        state=State.STARTED,
        params="{}",
        created_at=at,
        ready_at=NOW + MINUTE,
        started_at=at,
        worker="one",
    )
    return replace(made, **rest)  # type: ignore[arg-type]


def texts(*jobs: Job) -> list[str]:
    return [one.text for one in overdue_jobs(jobs, lambda job: MINUTE, NOW)]


def test_a_job_past_its_time_limit_is_told_with_how_long_and_where() -> None:
    (text,) = texts(job(5 * MINUTE))
    assert text.startswith("job x still runs on one, 4m past its time limit of 1m:")
    assert "run.stuck" in text


def test_a_job_that_is_just_being_cancelled_is_not_told() -> None:
    assert texts(job(MINUTE + timedelta(seconds=5))) == []
    assert texts(job(timedelta(seconds=5))) == []


def test_a_job_that_was_cancelled_and_still_runs_is_told() -> None:
    (text,) = texts(job(timedelta(seconds=5), cancel=True))
    assert text == (
        "job x still runs on one: its cancellation was requested, and its code has not ended"
    )
    assert texts(job(timedelta(seconds=5), cancel=True, state=State.PENDING)) == []


def test_the_limit_is_that_of_the_job_or_its_task_or_the_settings() -> None:
    own = job(MINUTE, options='{"time_limit": 7200.0}')
    assert limit_of_job(job(MINUTE), pay.definition, DEFAULT) == MINUTE
    assert limit_of_job(job(MINUTE), plain.definition, DEFAULT) == DEFAULT
    assert limit_of_job(job(MINUTE), None, DEFAULT) == DEFAULT
    assert limit_of_job(own, pay.definition, DEFAULT) == timedelta(hours=2)
