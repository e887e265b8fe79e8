"""Messages of SQS whose ``JobId`` is that of another job: they are dead letters of their own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import structlog

from worker.jobs.job import Job, Lease, Settlement
from worker.jobs.keys import same_json
from worker.model import State
from worker.queues.sqs_dead import Dying
from worker.queues.sqs_messages import as_dead_letter, params_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from worker.ports import JobStore
    from worker.queues.sqs_messages import Arrived
    from worker.queues.sqs_url import SqsAddress

__all__ = ["is_another", "refuse_taken"]


def is_another(message: Arrived, known: Lease | Job | None) -> bool:
    """Whether a message is of another job than the one that has its id."""
    job = message.job
    if known is None:
        return False
    return job.task != known.task or not same_json(job.params, params_in(known.params))


async def refuse_taken(
    records: JobStore,
    address: SqsAddress,
    taken: Sequence[Arrived],
    ttl: timedelta,
    worker: str,
) -> list[Dying]:
    """Record each message as a dead job under its own id.

    Returns:
        The messages, to be deleted once their dead letters are sent.

    Raises:
        StoreError: The records cannot be used; the messages come back.
    """
    jobs = [one.job._replace(id=one.message) for one in taken]
    await records.enqueue([job._replace(queue=address.recorded(job.queue)) for job in jobs])
    leases = await records.claim([job.id for job in jobs], ttl=ttl, worker=worker)
    errors = [error_of(one) for one in taken]
    await records.settle(
        [
            Settlement(lease, State.FAILURE, attempts=lease.attempts, error=error, dead=True)
            for lease, error in zip(leases, errors, strict=True)
            if isinstance(lease, Lease)
        ]
    )
    dying = []
    for one, job, error in zip(taken, jobs, errors, strict=True):
        structlog.get_logger("worker").warning(
            "queue.id_taken", queue=job.queue, task=job.task, run_id=job.id, taken=one.job.id
        )
        letter = as_dead_letter(
            job, expires_at=None, error=error, body=one.body, others=one.others, delivery=1
        )
        dying.append(Dying(one.handle, letter))
    return dying


def error_of(message: Arrived) -> str:
    return json.dumps(
        {
            "type": "JobExists",
            "message": f"its JobId {message.job.id} is that of another job; expected an id of its "
            "own. It is recorded by the id of its message, and was not run",
        }
    )
