"""Asking for a job by an id that may have one already: whether that is the job that was meant."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from worker.errors import DuplicateJob, JobError, NotSupported, UnknownJob

if TYPE_CHECKING:
    from worker.client.client import WorkerClient
    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.job_handle import JobHandle
    from worker.jobs.job import Job, NewJob

__all__ = ["ask_by_id"]


async def ask_by_id(
    client: WorkerClient, task: str, params: object, options: EnqueueOptions
) -> JobHandle:
    """As `WorkerClient.enqueue`, for a person, who may have taken an id by mistake.

    It takes one more look at a job that was there already.

    Raises:
        DuplicateJob: The id is that of another task's job, or of one with other parameters.
    """
    job = await client.enqueue(task, params, **options)
    if job.created:
        return job
    new = client.request(task, params, **options)
    if job.id != new.id:
        return job  # it holds the unique key, which may leave parameters out
    try:
        known = await job.info()
    except (NotSupported, UnknownJob):  # the engine cannot tell, or the job is gone meanwhile
        return job
    if (other := difference(client, known, new)) is not None:
        raise DuplicateJob(
            f"{new.task}: job {job.id} was there already, {other}; nothing was asked for: "
            "say another id",
            job.id,
        )
    return job


def difference(client: WorkerClient, known: Job, new: NewJob) -> str | None:
    """What tells the job that is there from the one that was asked for; ``None`` if nothing."""
    if known.task != new.task:
        return f"of the task {known.task}"
    if known.params == new.params:
        return None
    try:  # another program may have written it in other words
        same = client.request(known.task, json.loads(known.params)).params == new.params
    except (JobError, ValueError):
        same = False
    return None if same else "with other parameters"
