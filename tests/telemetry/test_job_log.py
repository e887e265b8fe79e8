"""What the log tells of jobs: what went wrong with each, and no flood when all fail alike."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.clock import START, FakeClock
from worker.errors import DataApiUnreachable, InvalidParams, RunInterrupted
from worker.events import JobDead, JobRefused, JobUnrun, LeaseWasLost, RunFinished, RunStarted
from worker.jobs.verdict import Snoozed
from worker.model import Run, RunError, RunId, State, Trigger
from worker.telemetry.event_log import EventLog
from worker.telemetry.job_log import MOST, JobLog, Ration


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    """Lines for debugging are written, too."""
    caplog.set_level(logging.DEBUG)


def ended(
    state: State, failure: BaseException | None = None, *, task: str = "ping", **changes: Any
) -> RunFinished:
    run = Run(
        run_id=RunId("j1"),
        task=task,
        trigger=Trigger.QUEUE,
        state=state,
        started_at=START,
        duration_ms=12.5,
        error=None if failure is None else RunError(type(failure).__name__, str(failure)),
        **changes,
    )
    return RunFinished(task=task, run=run, failure=failure)


def told(*events: Any) -> list[Any]:
    listener = EventLog()
    with capture_logs() as lines:
        for event in events:
            listener(event)
    return lines


@pytest.mark.parametrize(
    ("event", "name", "level"),
    [
        (ended(State.SUCCESS), "job.finished", "debug"),
        (ended(State.RETRY, ValueError("no")), "job.retrying", "warning"),
        (ended(State.FAILURE, ValueError("no"), dead=True), "job.dead", "error"),
        (ended(State.FAILURE, ValueError("no")), "job.failed", "warning"),
        (ended(State.PENDING, RunInterrupted("the end")), "job.returned", "info"),
        (ended(State.REVOKED, RunInterrupted("cancelled")), "job.cancelled", "info"),
    ],
)
def test_each_end_of_an_attempt_has_an_event_of_its_own(
    event: RunFinished, name: str, level: str
) -> None:
    start = RunStarted(task="ping", run=event.run)
    (line,) = told(start, event)  # that it has begun is no line: they come by the hundred
    assert (line["event"], line["log_level"]) == (name, level)
    assert (line["attempt"], line["duration_ms"]) == (1, 12.5)


def test_a_retry_says_when_and_why() -> None:
    (line,) = told(ended(State.RETRY, ValueError("no"), delay=timedelta(seconds=4.25)))
    assert (line["wait_s"], line["error_type"], line["error"]) == (4.25, "ValueError", "no")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RunInterrupted("the worker is shutting down"), "the worker is shutting down"),
        (Snoozed(timedelta(minutes=5)), "snoozed"),
    ],
)
def test_a_job_that_goes_back_says_why(failure: BaseException, reason: str) -> None:
    (line,) = told(ended(State.PENDING, failure, delay=timedelta(minutes=5)))
    assert (line["reason"], line["wait_s"]) == (reason, 300.0)


def test_a_job_that_came_to_nothing_unrun_is_told_by_its_id() -> None:
    lines = told(
        JobRefused(task="t", job_id="j", queue="q", reason="unknown", refusals=2, wait_s=10),
        JobDead(task="t", job_id="j", kind="WorkerLost", reason="3 workers ended"),
        JobUnrun(task="t", job_id="j", state=State.EXPIRED),
        JobUnrun(task="t", job_id="j", state=State.REVOKED),
        LeaseWasLost(task="t", job_id="j", reason="another worker has it"),
    )
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("job.refused", "warning"),
        ("job.dead", "error"),
        ("job.expired", "warning"),
        ("job.cancelled", "info"),
        ("job.lost", "error"),
    ]
    assert {(line["task"], line["run_id"], line["trigger"]) for line in lines} == {
        ("t", "j", "queue")
    }
    assert (lines[0]["refusals"], lines[0]["wait_s"], lines[0]["reason"]) == (2, 10, "unknown")
    assert (lines[1]["error_type"], lines[1]["error"]) == ("WorkerLost", "3 workers ended")


def test_the_first_of_its_kind_has_the_traceback() -> None:
    dead = [ended(State.FAILURE, ValueError(str(n)), dead=True) for n in range(3)]
    lines = told(*dead, ended(State.FAILURE, KeyError("x"), dead=True))
    assert ["exc_info" in line for line in lines] == [True, False, False, True]


@pytest.mark.parametrize("failure", [DataApiUnreachable("sync", "no"), InvalidParams("n: no")])
def test_a_message_that_says_it_all_needs_no_traceback(failure: Exception) -> None:
    (line,) = told(ended(State.FAILURE, failure, dead=True))
    assert "exc_info" not in line


def test_of_jobs_that_fail_alike_the_first_in_each_minute_are_told_and_the_others_counted() -> None:
    clock = FakeClock()
    log = JobLog(clock.monotonic)
    with capture_logs() as lines:
        for _ in range(1000):
            log.finished(ended(State.RETRY, TimeoutError("no")))
        log.finished(ended(State.RETRY, TimeoutError("no"), task="other"))
        log.finished(ended(State.RETRY, KeyError("no")))
        clock.advance(61)
        log.finished(ended(State.RETRY, TimeoutError("no")))
    assert sum(line["log_level"] == "debug" for line in lines) == 1000 - MOST
    heard = [line for line in lines if line["log_level"] != "debug"]
    assert len(heard) == MOST + 3
    assert [line.get("untold") for line in heard] == [None] * (MOST + 2) + [1000 - MOST]
    assert "exc_info" in heard[-1]


def test_a_success_in_between_does_not_make_every_failure_a_new_one() -> None:
    failure, success = ended(State.FAILURE, ValueError("no"), dead=True), ended(State.SUCCESS)
    lines = told(*[failure, success] * 50)
    assert sum(line["log_level"] == "error" for line in lines) == MOST
    assert {line["event"] for line in lines} == {"job.dead", "job.finished"}


def test_what_is_remembered_of_kinds_is_bounded() -> None:
    clock = FakeClock()
    ration = Ration(clock.monotonic)
    for number in range(5000):
        assert ration.admit(("t", f"Error{number}")) is not None
    assert len(ration._kinds) <= 1000
