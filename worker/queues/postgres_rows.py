"""Jobs as PostgreSQL takes and gives them: JSON in, rows out."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from worker.backends.postgres_json import packed
from worker.jobs.job import Enqueued, Existing, Job, JobId, Lease
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from worker.jobs.job import NewJob, Settlement

__all__ = [
    "enqueued",
    "jobs_of",
    "leases_of",
    "new_jobs",
    "outcomes",
    "receipts",
    "seq_and_token",
]


def new_jobs(jobs: Sequence[NewJob]) -> tuple[str, str | None]:
    """The jobs, and the unique keys they want, if any; of those with one id the first."""
    first: dict[JobId, NewJob] = {}
    for job in jobs:
        first.setdefault(job.id, job)
    wishes = [
        {
            "key": job.unique.key,
            "job": job.id,
            "states": job.unique.states,
            "ttl": None if job.unique.ttl is None else job.unique.ttl.total_seconds(),
        }
        for job in first.values()
        if job.unique is not None
    ]
    rows = [job_row(job) for job in first.values()]
    return packed(rows), packed(wishes) if wishes else None


def job_row(job: NewJob) -> dict[str, Any]:
    """What differs from the defaults, which are the database's, too."""
    row: dict[str, Any] = {
        "id": job.id,
        "task": job.task,
        "queue": job.queue,
        "params": job.params,
        "version": job.version,
    }
    if job.priority:
        row["priority"] = job.priority
    if job.delay:
        row["delay"] = job.delay.total_seconds()
    if job.expires is not None:
        row["expires"] = job.expires.total_seconds()
    if job.options != "{}":
        row["options"] = job.options
    if job.headers != "{}":
        row["headers"] = job.headers
    if job.unique is not None:
        row["unique_key"] = job.unique.key
    if job.concurrency_key is not None:
        row["concurrency_key"] = job.concurrency_key
        row["concurrency_limit"] = job.concurrency_limit
    return row


def enqueued(jobs: Sequence[NewJob], refused: Iterable[tuple[Any, ...]]) -> list[Enqueued]:
    """What became of ``jobs``, of which some were refused in favour of others that are there."""
    there = {asked: (JobId(job), existing) for asked, job, existing in refused}
    told: list[Enqueued] = []
    seen: dict[JobId, NewJob] = {}
    for job in jobs:
        if job.id in there:
            other, existing = there[job.id]
            told.append(Enqueued(other, False, None if existing is None else existing_of(existing)))
        elif job.id in seen:
            told.append(Enqueued(job.id, False, Existing.of_new(seen[job.id])))
        else:
            told.append(Enqueued(job.id, True))
        seen.setdefault(job.id, job)
    return told


def existing_of(text: str) -> Existing:
    """What ``worker_enqueue_jobs`` returns of a job whose id is known."""
    said: dict[str, Any] = json.loads(text)
    expires = said["expires"]
    return Existing(
        **{
            **said,
            "state": State(said["state"]),
            "delay": timedelta(seconds=said["delay"]),
            "expires": None if expires is None else timedelta(seconds=expires),
            "created_at": datetime.fromtimestamp(said["created_at"], UTC),
        }
    )


def leases_of(rows: Sequence[Sequence[Any]]) -> list[Lease]:
    leases = [Lease._make(row) for row in rows]
    if leases and leases[0].created_at.tzinfo is not UTC:
        return [
            lease._replace(
                created_at=lease.created_at.astimezone(UTC),
                due_at=lease.due_at.astimezone(UTC),
                expires_at=None if lease.expires_at is None else lease.expires_at.astimezone(UTC),
            )
            for lease in leases
        ]
    return leases


def seq_and_token(lease: Lease) -> tuple[int, int]:
    """What a receipt says: the job's number, and which delivery of it this is."""
    seq, _, token = lease.receipt.partition(".")
    return int(seq), int(token)


def receipts(leases: Sequence[Lease]) -> str:
    rows = []
    for place, lease in enumerate(leases):
        seq, token = seq_and_token(lease)
        rows.append({"place": place, "seq": seq, "token": token})
    return packed(sorted(rows, key=by_seq))


def outcomes(said: Sequence[Settlement]) -> tuple[str | None, str | None, set[int]]:
    """What is final, what goes back, and the places of those that repeat a lease's settlement."""
    ended: list[dict[str, Any]] = []
    back: list[dict[str, Any]] = []
    repeated: set[int] = set()
    seen: set[str] = set()
    for place, one in enumerate(said):
        if one.lease.receipt in seen:
            repeated.add(place)
            continue
        seen.add(one.lease.receipt)
        seq, token = seq_and_token(one.lease)
        row: dict[str, Any] = {
            "place": place,
            "seq": seq,
            "token": token,
            "state": one.state,
            "attempts": one.attempts,
        }
        if one.refusals:
            row["refusals"] = one.refusals
        if one.error is not None:
            row["error"] = one.error
        if one.history is not None:
            row["history"] = one.history
        if not one.state.final:
            row["delay"] = one.delay.total_seconds()
            if one.due_at is not None:
                row["due"] = one.due_at.isoformat()
            back.append(row)
            continue
        if one.result is not None:
            row["result"] = one.result
            row["keep"] = one.result_ttl.total_seconds()
        if one.dead:
            row["dead"] = True
        ended.append(row)
    # In one order, so that nobody waits for each other in a circle.
    ended.sort(key=by_seq)
    back.sort(key=by_seq)
    return packed(ended) if ended else None, packed(back) if back else None, repeated


def by_seq(row: Mapping[str, Any]) -> int:
    seq: int = row["seq"]
    return seq


def jobs_of(rows: Iterable[Mapping[str, Any]]) -> list[Job]:
    return [job_of(row) for row in rows]


def job_of(row: Mapping[str, Any]) -> Job:
    values: dict[str, Any] = {
        name: value.astimezone(UTC) if isinstance(value, datetime) else value
        for name, value in row.items()
    }
    values["state"] = State(row["state"])
    return Job(**values)
