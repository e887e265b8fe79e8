"""What came of the attempts of a job, as it is kept with the job's record: a few, never all.

A backend stores the list as a JSON text. The only thing that it adds itself is a lease that was
lost (`LOST`), since the worker that lost it tells nothing any more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from worker.jobs.verdict import Snoozed
from worker.model import State

if TYPE_CHECKING:
    from worker.jobs.job import Job, Lease
    from worker.model import Run, RunError

__all__ = [
    "Attempt",
    "AttemptOutcome",
    "attempts_of",
    "outcome_of",
    "remembered",
    "with_loss",
]

NEWEST = 5
"""So many are kept, and the first."""
MOST_LOSSES = 20
"""Of more lost leases only the number is kept. The backends' statements know this number, too."""
LONGEST = 500
"""How many characters of an error's message are kept."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class AttemptOutcome(StrEnum):
    """What came of one attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    """Its worker died, or was silent for longer than its lease."""
    GIVEN_BACK = "given_back"
    """Its worker stopped."""
    SNOOZED = "snoozed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of a job.

    Attributes:
        attempt: Which one it was, from 1. One that was not spent (lost, given back, snoozed) has
            the number of the next one.
        worker: The name of the worker that made it.
        type, message: The error, if it failed; the message redacted, and its beginning only.
        overtime_ms: From its time limit, or from when its cancellation was requested, to its end;
            ``None`` if it ended before either.
    """

    attempt: int
    outcome: AttemptOutcome
    started_at: datetime
    finished_at: datetime
    worker: str
    type: str | None = None
    message: str | None = None
    overtime_ms: float | None = None


def remembered(lease: Lease, run: Run, *, worker: str) -> str | None:
    """A job's history with the attempt more that ``run`` was; ``None`` for one that succeeds at
    once, of which the record tells all."""
    if run.state is State.SUCCESS and lease.history is None and run.overtime_ms is None:
        return None
    took = timedelta(milliseconds=run.duration_ms or 0)
    entry: dict[str, Any] = {
        "attempt": lease.attempts + 1,
        "outcome": outcome_of(run),
        "started_at": micros(run.started_at),
        "finished_at": micros(run.started_at + took),
        "worker": worker,
    }
    if entry["outcome"] is AttemptOutcome.FAILED and run.error is not None:
        entry |= error_in(run.error)
    if run.overtime_ms is not None:
        entry["overtime_ms"] = run.overtime_ms
    first, *others = [*entries(lease.history), entry]
    return compact([first, *others[-NEWEST:]])


def with_loss(
    history: str | None,
    *,
    attempt: int,
    worker: str | None,
    started_at: datetime,
    finished_at: datetime,
) -> str:
    """The history with a lost lease more, as the statements of other backends make it, too.

    They do so while the job has lost fewer than `MOST_LOSSES`, this one not counted.
    """
    entry = {
        "attempt": attempt,
        "outcome": AttemptOutcome.LOST,
        "started_at": micros(started_at),
        "finished_at": micros(finished_at),
        "worker": worker,
    }
    return compact([*entries(history), entry])


def attempts_of(job: Job) -> list[Attempt]:
    """The attempts that are known of a job, the first one first.

    Whatever does not look like one is left out: any program may write into a backend.
    """
    known = [attempt for entry in entries(job.history) if (attempt := attempt_of(entry))]
    if known or job.state is not State.SUCCESS or not (job.started_at and job.finished_at):
        return known
    only = Attempt(
        attempt=job.attempts,
        outcome=AttemptOutcome.SUCCEEDED,
        started_at=job.started_at,
        finished_at=job.finished_at,
        worker=job.worker or "",
    )
    return [only]


def outcome_of(run: Run) -> AttemptOutcome:
    match run.state:
        case State.SUCCESS:
            return AttemptOutcome.SUCCEEDED
        case State.REVOKED:
            return AttemptOutcome.CANCELLED
        case State.PENDING:
            snoozed = run.error is not None and run.error.type == Snoozed.__name__
            return AttemptOutcome.SNOOZED if snoozed else AttemptOutcome.GIVEN_BACK
        case _:
            return AttemptOutcome.FAILED


def error_in(error: RunError) -> dict[str, str]:
    """The runner has taken the secrets out of it, so that no cut leaves half of one."""
    message = error.message
    if len(message) > LONGEST:
        message = message[: LONGEST - 1] + "…"
    return {"type": error.type[:LONGEST], "message": message}


def entries(history: str | None) -> list[Any]:
    try:
        found = [] if history is None else json.loads(history)
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []


def attempt_of(entry: Any) -> Attempt | None:
    try:
        return Attempt(
            attempt=int(entry["attempt"]),
            outcome=AttemptOutcome(entry["outcome"]),
            started_at=EPOCH + int(entry["started_at"]) * MICROSECOND,
            finished_at=EPOCH + int(entry["finished_at"]) * MICROSECOND,
            worker=str(entry.get("worker") or ""),
            type=None if entry.get("type") is None else str(entry["type"]),
            message=None if entry.get("message") is None else str(entry["message"]),
            overtime_ms=None if entry.get("overtime_ms") is None else float(entry["overtime_ms"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
