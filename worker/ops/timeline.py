"""A job's life, from what is recorded of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.durations import format_duration
from worker.model import State
from worker.ops.models import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from worker.jobs.job import Job
    from worker.ops.models import JobError

__all__ = ["timeline"]

RUNNING = (State.STARTED, State.PROGRESS)
WAITING = (State.PENDING, State.RETRY)


def timeline(job: Job, error: JobError | None) -> list[Moment]:
    """What happened to a job, in that order as far as it is known.

    Of attempts that were followed by others only their number and the last error are recorded.
    """
    return list(moments(job, error))


def moments(job: Job, error: JobError | None) -> Iterator[Moment]:
    why = "" if error is None else f"{error.type}: {error.message}"
    yield Moment(at=job.created_at, what="created", detail=f"in the queue {job.queue}")
    if job.losses:
        yield told("lost", f"{times(job.losses)}: its worker died, or was silent for too long")
    if job.refusals:
        yield told("refused", f"{times(job.refusals)}: by workers that did not know what it asks")
    spent = job.attempts - (job.state.final and job.attempts > 0)
    if spent:
        yield told("attempts", f"{times(spent)} before, without success" + colon(why, job))
    if job.started_at is not None:
        yield Moment(at=job.started_at, what="started", detail=f"on {job.worker}")
    if job.cancel and not job.state.final:
        yield told("cancelled", "it was asked to end")
    if job.state in WAITING:
        what = "retry" if job.state is State.RETRY else "ready"
        yield Moment(at=job.ready_at, what=what, detail="it can begin from then on")
    if job.state in RUNNING:
        yield Moment(at=job.ready_at, what="leased", detail="until then, unless it is extended")
    if job.expires_at is not None and not job.state.final:
        yield Moment(at=job.expires_at, what="expires", detail="it is too late to begin then")
    if job.state.final:
        yield from end(job, why)


def end(job: Job, why: str) -> Iterator[Moment]:
    details = [why if job.state is not State.SUCCESS else ""]
    if job.finished_at is not None and job.started_at is not None:
        details.insert(0, f"after {took(job.started_at, job.finished_at)}")
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
    length = end - start
    if length.total_seconds() < 10:
        return f"{max(0.0, length.total_seconds()) * 1000:.0f} ms"
    return format_duration(length - length % type(length)(seconds=1))
