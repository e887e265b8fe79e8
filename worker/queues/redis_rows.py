"""Jobs as the scripts beside this file take and give them. Written for speed where jobs come by the
hundred."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worker.backends.codec import EPOCH, from_micros, to_micros
from worker.jobs.job import Job, Lease, NewJob
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from worker.backends.redis_server import Argument
    from worker.jobs.declaration import Terms
    from worker.jobs.job import Deferred, Settlement

__all__ = [
    "applied",
    "deferral",
    "enqueued",
    "job_from",
    "jobs_from",
    "leases_from",
    "micros",
    "settled",
]

MICROSECOND = timedelta(microseconds=1)
compact = json.JSONEncoder(separators=(",", ":")).encode
"""ASCII, so that any text can be sent."""


MOMENTS = ("created_at", "expires_at", "ready_at", "started_at", "finished_at", "result_until")
FIELDS = (
    *("id", "task", "queue", "params", "version", "priority", "options", "headers"),
    *("unique_key", "concurrency_key", "created_at", "expires_at", "state", "ready_at"),
    *("started_at", "finished_at", "result_until", "deliveries", "losses", "attempts"),
    *("refusals", "dead", "cancel", "worker", "progress", "error", "result", "history"),
)
"""In the order of ``story_of`` in common.lua."""


def micros(duration: timedelta) -> int:
    return duration // MICROSECOND


def enqueued(jobs: Sequence[NewJob]) -> Iterator[Argument]:
    """What ``enqueue.lua`` takes."""
    for job in jobs:
        unique = job.unique
        yield job.id
        yield f"{job.queue} {job.task}"
        expires = "-" if job.expires is None else job.expires // MICROSECOND
        yield f"{job.priority} {job.delay // MICROSECOND} {expires}"
        yield made_with(job)
        yield "" if unique is None and job.concurrency_key is None else keys_of(job)


def made_with(job: NewJob) -> str:
    """What of a job never changes, the inside of a JSON list."""
    made = (job.id, job.task, job.queue, job.params, job.version, job.priority)
    unique = None if job.unique is None else job.unique.key
    return compact((*made, job.options, job.headers, unique, job.concurrency_key))[1:-1]


def keys_of(job: NewJob) -> str:
    unique = job.unique
    key, states, ttl = "", "", ""
    if unique is not None:
        key, states = unique.key, ",".join(unique.states) or "-"
        ttl = "" if unique.ttl is None else str(unique.ttl // MICROSECOND)
    return compact([key, states, ttl, job.concurrency_key or "", str(job.concurrency_limit)])


def applied(lease: Lease, terms: Terms) -> Iterator[Argument]:
    """What ``terms.lua`` takes."""
    job = NewJob(
        id=lease.id,
        task=lease.task,
        queue=lease.queue,
        params=lease.params,
        version=lease.version,
        priority=terms.priority,
        options=terms.options,
        headers=lease.headers,
        unique=terms.unique,
        concurrency_key=terms.concurrency_key,
        concurrency_limit=terms.concurrency_limit,
    )
    yield lease.id
    yield lease.receipt
    yield made_with(job)
    yield str(terms.priority)
    yield "" if terms.expires is None else str(terms.expires // MICROSECOND)
    yield "" if job.unique is None and job.concurrency_key is None else keys_of(job)


def leases_from(moment: int, rows: Iterable[list[Any]]) -> list[Lease]:
    """Of the rows that ``lease.lua`` answers, leased at this moment."""
    leases = []
    for row in rows:
        id, task, queue, params, version, priority, options, headers = row[:8]
        created, expires, deliveries, losses, attempts, refusals, cancel, due, history = row[10:]
        leases.append(
            Lease(
                id=id,
                task=task,
                queue=queue,
                receipt=f"{deliveries}-{moment}",
                params=params,
                version=version,
                priority=priority,
                options=options,
                headers=headers,
                deliveries=deliveries,
                losses=losses,
                attempts=attempts,
                refusals=refusals,
                cancel=cancel == 1,
                created_at=EPOCH + created * MICROSECOND,
                due_at=EPOCH + due * MICROSECOND,
                expires_at=None if expires is None else EPOCH + expires * MICROSECOND,
                expired=expires is not None and expires <= moment,
                history=history,
            )
        )
    return leases


def deferral(deferred: Deferred) -> str:
    """What ``lease.lua`` and ``claim.lua`` take: from how many losses on, then tasks."""
    if not deferred.tasks and deferred.losses is None:
        return ""
    losses = "-" if deferred.losses is None else str(deferred.losses)
    return " ".join([losses, *deferred.tasks])


def settled(settlements: Iterable[Settlement]) -> str:
    """What ``settle.lua`` takes."""
    said: list[str] = []
    for one in settlements:
        lease = one.lease
        said += (
            lease.id,
            lease.receipt,
            f"{one.state} {one.attempts} {one.refusals} {one.delay // MICROSECOND}"
            f" {one.result_ttl // MICROSECOND} {one.dead:d}"
            f" {'-' if one.due_at is None else to_micros(one.due_at)}",
            one.result or "",
            one.error or "",
            one.history or "",
        )
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def jobs_from(rows: Iterable[list[Any] | None]) -> list[Job | None]:
    """Of the rows that ``get.lua`` and ``find.lua`` answer."""
    return [None if row is None else job_from(row) for row in rows]


def job_from(row: list[Any]) -> Job:
    values = dict(zip(FIELDS, row, strict=True))
    values["state"] = State(values["state"])
    values["dead"], values["cancel"] = values["dead"] == 1, values["cancel"] == 1
    for name in MOMENTS:
        if values[name] is not None:
            values[name] = from_micros(values[name])
    return Job(**values)
