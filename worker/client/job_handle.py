"""A job, as whoever asked for it sees it: where it stands, what came of it, its end."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from worker.durations import format_duration
from worker.errors import JobExpired, JobFailed, JobRevoked, UnknownJob
from worker.jobs.job import NOW, CancelOutcome, Requeued
from worker.jobs.options import as_delay
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from worker.jobs.job import Job, JobId
    from worker.ports import JobStore

__all__ = ["JobHandle"]

T = TypeVar("T")

WAIT = timedelta(seconds=30)
"""How long one request for a job's end may wait."""


class Client(Protocol):
    """What a handle asks."""

    async def in_engine(self, work: Callable[[JobStore], Coroutine[Any, Any, T]]) -> T:
        """What ``work`` returns for the open engine, from any event loop."""
        ...


class JobHandle:
    """A job, as its producer sees it.

    Its methods can be called from any event loop, as those of its client.

    Attributes:
        id: Its id.
        created: Whether it was new; otherwise it is one that was there.
        published: Whether the task is known: its code is here, or a worker has published it.
        state: Of a job that was there already: its state when it was requested again.
    """

    def __init__(
        self,
        id: JobId,
        client: Client,
        *,
        created: bool = True,
        published: bool = True,
        state: State | None = None,
    ) -> None:
        self.id = id
        self.created = created
        self.published = published
        self.state = state
        self._client = client

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    async def info(self) -> Job:
        """All that is recorded of it.

        Raises:
            UnknownJob: Nothing is.
        """
        (job,) = await self._client.in_engine(lambda jobs: jobs.get([self.id]))
        if job is None:
            raise UnknownJob(f"no job {self.id} is recorded here, or no longer")
        return job

    async def status(self) -> State:
        """Where it stands; ``UNKNOWN`` for an id that nobody recorded, and once it is pruned."""
        (job,) = await self._client.in_engine(lambda jobs: jobs.get([self.id]))
        return State.UNKNOWN if job is None else job.state

    async def progress(self) -> dict[str, Any] | None:
        """What it last told: ``percent`` and whatever else; ``None`` if nothing.

        Raises:
            UnknownJob: Nobody has recorded such a job.
        """
        job = await self.info()
        return None if job.progress is None else json.loads(job.progress)

    async def cancel(self) -> CancelOutcome:
        """Revoke it, if it waits. If it runs, request its end: its code finds
        ``context.cancelled``, and async code is cancelled a little later.

        Returns:
            ``REVOKED`` or ``REQUESTED``; ``ENDED``, which is false, if it had ended already. A job
            whose end is requested still runs: ``await job.ended()`` waits for its end.

        Raises:
            UnknownJob: Nobody has recorded such a job.
        """
        (told,) = await self._client.in_engine(lambda jobs: jobs.cancel([self.id]))
        if told is Requeued.UNKNOWN:
            raise UnknownJob(f"no job {self.id} is recorded here, or no longer")
        match told:
            case Requeued.DONE:
                return CancelOutcome.REVOKED
            case Requeued.ASKED:
                return CancelOutcome.REQUESTED
        return CancelOutcome.ENDED

    async def result(self, timeout: timedelta | str | float | None = None) -> Any:
        """What came of it, waiting for its end.

        Args:
            timeout: How long to wait; ``None`` for ever.

        Raises:
            TimeoutError: It has not ended by then.
            JobFailed: It failed for good.
            JobRevoked: It was cancelled.
            JobExpired: It was too late to begin, or its result was kept no longer.
            UnknownJob: Nobody has recorded such a job.
        """
        return result_of(await self.ended(timeout))

    async def ended(self, timeout: timedelta | str | float | None = None) -> Job:
        """All that is recorded of it, once it has ended, whatever came of it.

        Raises:
            TimeoutError: It has not ended by then.
            UnknownJob: Nobody has recorded such a job.
        """
        limit = None if timeout is None else as_delay("timeout", timeout)
        until = None if limit is None else monotonic() + limit.total_seconds()
        while True:
            left = WAIT
            if until is not None:
                left = max(NOW, min(WAIT, timedelta(seconds=until - monotonic())))
            job = await self._client.in_engine(partial(waited_for, self.id, left))
            if job is None:
                raise UnknownJob(f"no job {self.id} is recorded here, or no longer")
            if job.state.final:
                return job
            if limit is not None and until is not None and monotonic() >= until:
                raise TimeoutError(
                    f"job {self.id} has not ended within {format_duration(limit)}: "
                    f"{job.state}{after_failure(job)}"
                )


async def waited_for(job: JobId, left: timedelta, jobs: JobStore) -> Job | None:
    return await jobs.wait(job, left)


def after_failure(job: Job) -> str:
    """The last error of a job that goes on; empty if there was none."""
    if job.error is None:
        return ""
    error = json.loads(job.error)
    return f", after {error.get('type', '?')}: {error.get('message', '?')}"


def result_of(job: Job) -> Any:
    """The result of a job that has ended.

    Raises:
        JobFailed, JobRevoked, JobExpired: There is none.
    """
    match job.state:
        case State.SUCCESS if job.result is not None:
            return json.loads(job.result)
        case State.SUCCESS if job.result_until is not None:
            raise JobExpired(f"the result of job {job.id} was kept until {job.result_until}")
        case State.SUCCESS:
            return None
        case State.REVOKED:
            if job.error is not None:  # a worker refused it, such as a duplicate
                raise JobRevoked(f"job {job.id} was not run{after_failure(job)}")
            raise JobRevoked(f"job {job.id} was cancelled")
        case State.EXPIRED:
            raise JobExpired(f"job {job.id} could not begin before it was too late")
        case _:
            error = json.loads(job.error) if job.error else {}
            raise JobFailed(job.id, error.get("type", "?"), error.get("message", "?"))
