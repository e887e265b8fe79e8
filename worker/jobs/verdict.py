"""What becomes of a job after an attempt: a pure decision. The runner makes it, nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from worker.errors import (
    EnqueueNotAwaited,
    InvalidParams,
    InvalidResult,
    RunInterrupted,
    WorkerLost,
)
from worker.groups import leaves
from worker.jobs.job import NOW, Settlement
from worker.jobs.options import as_delay
from worker.model import CancelReason, State

if TYPE_CHECKING:
    from worker.jobs.job import Job, Lease
    from worker.jobs.options import JobOptions

__all__ = [
    "DeadLetter",
    "Drop",
    "Retry",
    "Snoozed",
    "Verdict",
    "Wish",
    "has_begun",
    "judge",
    "unspent",
]

LEFT_BEHIND_DELAY = timedelta(seconds=5)
"""How long a job waits whose code still ran when its worker had to exit: until that process and
its threads are gone."""
HOPELESS = (EnqueueNotAwaited, InvalidParams, InvalidResult, WorkerLost)
"""What no further attempt can mend."""


class Snoozed(BaseException):
    """Raised by ``context.snooze(delay)``.

    It is no `Exception`, so that ``except Exception`` and ``suppress(Exception)`` let it pass.
    """

    def __init__(self, delay: timedelta) -> None:
        super().__init__(f"again in {delay}")
        self.delay = delay


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """``handle_error`` says: try it again, while it has attempts left.

    Attributes:
        after: How long to wait; ``None`` as the task's options have it.
    """

    after: timedelta | None

    def __init__(self, after: timedelta | str | float | None = None) -> None:
        delay = None if after is None else as_delay("Retry: after", after)
        object.__setattr__(self, "after", delay)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """``handle_error`` says: no further attempt; keep it among the dead letters."""


@dataclass(frozen=True, slots=True)
class Drop:
    """``handle_error`` says: no further attempt; it failed, and nobody needs to look at it."""


Wish = Retry | DeadLetter | Drop


class Verdict(NamedTuple):
    """What becomes of a job.

    Attributes:
        delay: From now to when it may be leased again, if it goes back into its queue.
        dead: It goes to the dead letters.
    """

    state: State
    delay: timedelta = timedelta(0)
    dead: bool = False

    @property
    def counts(self) -> bool:
        """Whether the attempt is spent: not if somebody else ended it."""
        return self.state in (State.SUCCESS, State.FAILURE, State.RETRY)


def judge(
    failure: BaseException | None,
    *,
    options: JobOptions,
    attempt: int,
    wish: Wish | None = None,
    at_least: timedelta = timedelta(0),
) -> Verdict:
    """What becomes of a job after an attempt.

    Args:
        failure: What the attempt ended with.
        attempt: Which attempt it was, from 1.
        wish: What the task's ``handle_error`` said. A delay in it is the last word.
        at_least: How long a service asked to wait before the next attempt.
    """
    left = attempt <= options.max_retries
    match failure, wish:
        case None, _:
            return Verdict(State.SUCCESS)
        case Snoozed(delay=delay), _:
            return Verdict(State.PENDING, delay)
        case RunInterrupted(left_behind=True), _:
            return Verdict(State.PENDING, LEFT_BEHIND_DELAY)
        case RunInterrupted(reason=CancelReason.CANCEL), _:
            return Verdict(State.REVOKED)
        case RunInterrupted(), _:
            return Verdict(State.PENDING)
        case _, Drop():
            return Verdict(State.FAILURE)
        case _, DeadLetter():
            return Verdict(State.FAILURE, dead=True)
        case _, Retry(after=after) if left:
            own = max(at_least, options.delay_after(attempt))
            return Verdict(State.RETRY, own if after is None else after)
        case _, None if left and not any(isinstance(leaf, HOPELESS) for leaf in leaves(failure)):
            # What ends a process or a loop is contained, and then it is a failure as any other.
            if options.is_worth_another(failure):
                return Verdict(State.RETRY, max(at_least, options.delay_after(attempt)))
    return Verdict(State.FAILURE, dead=True)


def has_begun(job: Lease | Job) -> bool:
    """Whether the work on a job has begun before. Such a job does not expire any more."""
    return bool(job.attempts or job.losses or job.history)


def unspent(lease: Lease, *, delay: timedelta | None = None) -> Settlement:
    """The job goes back as it was. One whose attempt before failed still waits for its next one:
    that this one came to nothing makes it no new job, and its error stays with it.

    Args:
        delay: When it may be leased again; ``None`` for at once, at the place that it had.
    """
    return Settlement(
        lease,
        State.RETRY if lease.attempts else State.PENDING,
        attempts=lease.attempts,
        refusals=lease.refusals,
        delay=NOW if delay is None else delay,
        due_at=lease.due_at if delay is None else None,
    )
