"""A job's life, from what is recorded of it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from worker.durations import format_duration
from worker.jobs.history import AttemptOutcome
from worker.jobs.verdict import has_begun
from worker.model import State
from worker.ops.models import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from worker.jobs.job import Job
    from worker.ops.models import AttemptFacts, JobError

__all__ = ["timeline"]

RUNNING = (State.STARTED, State.PROGRESS)
WAITING = (State.PENDING, State.RETRY)
ENDS = {
    State.SUCCESS: AttemptOutcome.SUCCEEDED,
    State.FAILURE: AttemptOutcome.FAILED,
    State.REVOKED: AttemptOutcome.CANCELLED,
}
"""What an attempt comes to with which a job ends."""


def timeline(job: Job, error: JobError | None, history: Sequence[AttemptFacts]) -> list[Moment]:
    """What happened to a job, in that order as far as it is known.

    Args:
        history: Its attempts. The one that ended it is told as its end.
    """
    ended = bool(history) and ENDS.get(job.state) is history[-1].outcome
    after = late(history[-1]) if ended else ""
    return list(moments(job, error, history[:-1] if ended else history, after))


def moments(
    job: Job, error: JobError | None, before: Sequence[AttemptFacts], after: str
) -> Iterator[Moment]:
    why = "" if error is None else f"{error.type}: {error.message}"
    yield Moment(at=job.created_at, what="created", detail=f"in the queue {job.queue}")
    if job.losses and all(one.outcome is not AttemptOutcome.LOST for one in before):
        yield told("lost", f"{times(job.losses)}: its worker died, or was silent for too long")
    if job.refusals:
        yield told("refused", f"{times(job.refusals)}: by workers that did not know what it asks")
    spent = job.attempts - (job.state.final and job.attempts > 0)
    if before:
        yield from map(attempted, before)
    elif spent:  # by a worker that kept no history
        yield told("attempts", f"{times(spent)} before, without success" + colon(why, job))
    if job.started_at is not None:
        yield Moment(at=job.started_at, what="started", detail=f"on {job.worker}")
    if job.cancel and not job.state.final:
        yield told("cancel requested", "it still runs" if job.state in RUNNING else "it waits")
    if job.state in WAITING:
        what = "retry" if job.state is State.RETRY else "ready"
        yield Moment(at=job.ready_at, what=what, detail="it can begin from then on")
    if job.state in RUNNING:
        yield Moment(at=job.ready_at, what="leased", detail="until then, unless it is extended")
    if job.expires_at is not None and job.state in WAITING and not has_begun(job):
        yield Moment(at=job.expires_at, what="expires", detail="it is too late to begin then")
    if job.state.final:
        yield from end(job, why, after)


def attempted(one: AttemptFacts) -> Moment:
    why = "" if one.error is None else f": {one.error.type}: {one.error.message}"
    length = took(one.started_at, one.finished_at)
    what = one.outcome.value.replace("_", " ")
    detail = f"attempt {one.attempt} on {one.worker}, after {length}{late(one)}{why}"
    return Moment(at=one.finished_at, what=what, detail=detail)


def late(one: AttemptFacts) -> str:
    """How late an attempt ended."""
    if one.overtime_ms is None:
        return ""
    return f", {length_of(timedelta(milliseconds=one.overtime_ms))} late"


def end(job: Job, why: str, after: str) -> Iterator[Moment]:
    details = [why if job.state is not State.SUCCESS else ""]
    if job.finished_at is not None and job.started_at is not None:
        details.insert(0, f"after {took(job.started_at, job.finished_at)}{after}")
    yield Moment(
        at=job.finished_at,
        what="finished",
        detail="; ".join([job.state.value, *filter(None, details)]),
    )
    if job.dead:
        detail = "it lies in the dead letters, to be retried or dropped by hand"
        yield Moment(at=job.finished_at, what="dead", detail=detail)


def told(what: str, detail: str) -> Moment:
    return Moment(at=None, what=what, detail=detail)


def colon(why: str, job: Job) -> str:
    """The last failure, unless the job's end tells it."""
    return f"; the last one: {why}" if why and not job.state.final else ""


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def took(start: datetime, end: datetime) -> str:
    return length_of(end - start)


def length_of(length: timedelta) -> str:
    if length.total_seconds() < 10:
        return f"{max(0.0, length.total_seconds()) * 1000:.0f} ms"
    return format_duration(length - length % timedelta(seconds=1))
