"""What becomes of a job after an attempt, as a pure decision."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from worker import CancelReason, DeadLetter, Drop, Retry, State
from worker.errors import (
    InvalidOptions,
    InvalidParams,
    InvalidResult,
    RunInterrupted,
    TaskCrashed,
    TimeLimitExceeded,
    WorkerLost,
)
from worker.jobs.options import JobOptions
from worker.jobs.verdict import LEFT_BEHIND_DELAY, Snoozed, Verdict, judge

OPTIONS = JobOptions(max_retries=2, retry_delay=timedelta(seconds=5), retry_jitter=False)
FIVE, TEN = timedelta(seconds=5), timedelta(seconds=10)
DEAD = Verdict(State.FAILURE, dead=True)


class Odd(BaseException):
    """As no library should raise one."""


@pytest.mark.parametrize(
    ("failure", "attempt", "verdict"),
    [
        (None, 1, Verdict(State.SUCCESS)),
        (None, 99, Verdict(State.SUCCESS)),
        (ValueError(), 1, Verdict(State.RETRY, FIVE)),
        (ValueError(), 2, Verdict(State.RETRY, TEN)),
        (ValueError(), 3, DEAD),
        (TimeLimitExceeded(), 1, Verdict(State.RETRY, FIVE)),
        (TaskCrashed(), 1, Verdict(State.RETRY, FIVE)),
        (Odd(), 1, Verdict(State.RETRY, FIVE)),
        (Odd(), 3, DEAD),
        (InvalidParams(), 1, DEAD),
        (InvalidResult(), 1, DEAD),
        (WorkerLost(), 1, DEAD),
        (Snoozed(TEN), 1, Verdict(State.PENDING, TEN)),
        (Snoozed(TEN), 99, Verdict(State.PENDING, TEN)),
        (RunInterrupted("the worker is shutting down"), 1, Verdict(State.PENDING)),
        (RunInterrupted("the worker is shutting down"), 99, Verdict(State.PENDING)),
        (RunInterrupted("x", reason=CancelReason.CANCEL), 1, Verdict(State.REVOKED)),
        (RunInterrupted("x", left_behind=True), 1, Verdict(State.PENDING, LEFT_BEHIND_DELAY)),
    ],
)
def test_without_a_wish_it_is_as_the_options_say(
    failure: BaseException | None, attempt: int, verdict: Verdict
) -> None:
    assert judge(failure, options=OPTIONS, attempt=attempt) == verdict


@pytest.mark.parametrize(
    ("wish", "failure", "attempt", "verdict"),
    [
        (Retry(), ValueError(), 1, Verdict(State.RETRY, FIVE)),
        (Retry("1m"), ValueError(), 1, Verdict(State.RETRY, timedelta(minutes=1))),
        (Retry(after="0s"), ValueError(), 1, Verdict(State.RETRY)),
        (Retry("1m"), ValueError(), 3, DEAD),  # its attempts are used up
        (Retry(), InvalidResult(), 1, Verdict(State.RETRY, FIVE)),
        (DeadLetter(), ValueError(), 1, DEAD),
        (Drop(), ValueError(), 1, Verdict(State.FAILURE)),
        (Drop(), ValueError(), 3, Verdict(State.FAILURE)),
        (Drop(), RunInterrupted("x"), 1, Verdict(State.PENDING)),
    ],
)
def test_a_wish_wins_over_the_options(
    wish: Any, failure: BaseException, attempt: int, verdict: Verdict
) -> None:
    assert judge(failure, options=OPTIONS, attempt=attempt, wish=wish) == verdict


def test_a_wish_to_retry_wins_over_what_is_not_to_be_retried() -> None:
    options = JobOptions(dont_retry_on=(ValueError,))
    assert judge(ValueError(), options=options, attempt=1) == DEAD
    assert judge(ValueError(), options=options, attempt=1, wish=Retry("1s")).state is State.RETRY


def test_without_retries_the_first_failure_is_the_last() -> None:
    assert judge(ValueError(), options=JobOptions(max_retries=0), attempt=1) == DEAD


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        (State.SUCCESS, True),
        (State.FAILURE, True),
        (State.RETRY, True),
        (State.PENDING, False),
        (State.REVOKED, False),
    ],
)
def test_an_attempt_is_spent_unless_somebody_else_ended_it(state: State, counts: bool) -> None:
    assert Verdict(state).counts is counts


@pytest.mark.parametrize("after", [-1, "soon", True, float("nan"), [5], timedelta(days=400)])
def test_a_wrong_delay_is_refused_at_once(after: Any) -> None:
    with pytest.raises(InvalidOptions, match="Retry: after"):
        Retry(after)
