"""What is kept of a job's attempts: a few, in few words."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.jobs.history import LONGEST, Attempt, AttemptOutcome, attempts_of, remembered, with_loss
from worker.jobs.job import Job, JobId, Lease
from worker.model import Run, RunError, RunId, State, Trigger

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
FAILURE = RunError("LookupError", "nobody is at home")


def lease(history: str | None = None, attempts: int = 0) -> Lease:
    rest = ("{}", 1, 0, "{}", "{}", 1, 0, attempts, 0, False, NOON, NOON, None, False, history)
    return Lease(JobId("a"), "ping", "default", "r", *rest)


def run(state: State = State.RETRY, error: RunError | None = FAILURE) -> Run:
    return Run(RunId("a"), "ping", Trigger.QUEUE, state, NOON, duration_ms=1500.0, error=error)


def kept(history: str | None, **rest: Any) -> list[Attempt]:
    said: dict[str, Any] = {"created_at": NOON, "ready_at": NOON, **rest}
    state = said.pop("state", State.RETRY)
    job = Job(id=JobId("a"), task="t", queue="q", state=state, params="{}", **said, history=history)
    return attempts_of(job)


def noted(before: Lease, what: Run) -> str | None:
    return remembered(before, what, worker="one")


def test_an_attempt_is_kept_with_its_times_its_worker_and_its_error() -> None:
    assert kept(noted(lease(attempts=2), run())) == [
        Attempt(
            attempt=3,
            outcome=AttemptOutcome.FAILED,
            started_at=NOON,
            finished_at=NOON + timedelta(seconds=1.5),
            worker="one",
            type="LookupError",
            message="nobody is at home",
        )
    ]


@pytest.mark.parametrize(
    ("state", "error", "outcome"),
    [
        (State.RETRY, FAILURE, "failed"),
        (State.FAILURE, FAILURE, "failed"),
        (State.PENDING, RunError("Snoozed", "again in 10s"), "snoozed"),
        (State.PENDING, RunError("RunInterrupted", "the worker is shutting down"), "given_back"),
        (State.REVOKED, RunError("RunInterrupted", "cancelled"), "cancelled"),
    ],
)
def test_what_came_of_it_is_told_and_only_a_failure_has_an_error(
    state: State, error: RunError, outcome: str
) -> None:
    (one,) = kept(noted(lease(), run(state, error)))
    assert one.outcome.value == outcome
    assert (one.type is not None) is (outcome == "failed")


def test_a_job_that_succeeds_at_once_costs_nothing_and_its_attempt_is_told_all_the_same() -> None:
    history = noted(lease(), run(State.SUCCESS, None))
    assert history is None
    ended = {"started_at": NOON, "finished_at": NOON + timedelta(seconds=1), "worker": "one"}
    (one,) = kept(None, state=State.SUCCESS, attempts=1, **ended)
    assert (one.attempt, one.outcome.value, one.worker) == (1, "succeeded", "one")
    assert kept(None, state=State.PENDING) == []


def test_the_first_and_the_newest_five_are_kept() -> None:
    history = None
    for attempt in range(20):
        history = noted(lease(history, attempt), run())
    history = noted(lease(history, 20), run(State.SUCCESS, None))
    assert [one.attempt for one in kept(history)] == [1, 17, 18, 19, 20, 21]
    assert kept(history)[-1].outcome is AttemptOutcome.SUCCEEDED


def test_a_long_message_is_cut() -> None:
    (one,) = kept(remembered(lease(), run(error=RunError("E", "x" * 9_000)), worker="one"))
    assert one.message == "x" * (LONGEST - 1) + "…"


def test_a_lost_lease_stands_behind_what_was_before() -> None:
    before = noted(lease(), run())
    history = with_loss(before, attempt=2, worker=None, started_at=NOON, finished_at=NOON)
    assert [(one.attempt, one.outcome.value) for one in kept(history)] == [
        (1, "failed"),
        (2, "lost"),
    ]
    assert len(kept(noted(lease(history, 1), run()))) == 3


@pytest.mark.parametrize("history", ["", "no", "7", "{}", "[1, null, {}]", "[" * 3000])
def test_what_others_wrote_is_passed_over(history: str) -> None:
    assert kept(history) == []
    assert json.loads(noted(lease(history), run()) or "")[-1]["outcome"] == "failed"
