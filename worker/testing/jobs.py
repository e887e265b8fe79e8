"""The engine in memory, which notes what was asked for and what came of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worker.client.job_handle import WAIT
from worker.errors import JobFailed
from worker.jobs.job import NOW, JobId, JobQuery
from worker.model import State
from worker.queues.memory import MemoryJobs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from worker.clock import Clock
    from worker.jobs.job import Enqueued, Job, NewJob, Settlement

__all__ = ["EnqueuedJob", "JobOutcome", "WatchedJobs"]

ALL = 10**9
WAITING = frozenset({State.PENDING, State.RETRY})
RUNNING = frozenset({State.STARTED, State.PROGRESS})


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueuedJob:
    """A job that was asked for.

    Attributes:
        params: As they travel: JSON values.
        at: When it was asked for, on the test's clock.
        options: What was overridden for this job; durations in seconds.
    """

    id: str
    task: str
    params: Mapping[str, Any]
    queue: str
    delay: timedelta
    priority: int
    expires: timedelta | None
    headers: Mapping[str, str]
    options: Mapping[str, Any]
    at: datetime

    def __str__(self) -> str:
        said = [f"{self.task} {json.dumps(self.params)}", f"queue={self.queue!r}"]
        if self.delay:
            said.append(f"delay={self.delay}")
        if self.priority:
            said.append(f"priority={self.priority}")
        if self.options:
            said.append(f"options={json.dumps(self.options)}")
        return " ".join([*said, f"id={self.id!r}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """What came of one attempt of a job.

    Attributes:
        state: ``SUCCESS``, ``FAILURE``, ``REVOKED`` or ``EXPIRED``; ``RETRY`` if another attempt
            follows. Of a job that has snoozed ``PENDING``, or ``RETRY`` if it failed before.
        result: What whoever asked for the job gets.
        error: What the attempt raised.
        attempts: How many are spent by now.
        delay: After which the job can begin again.
        dead: It lies in the dead letters.
        progress: What it told last.
    """

    id: str
    task: str
    queue: str
    params: Mapping[str, Any]
    state: State
    result: Any = None
    error: BaseException | None = None
    attempts: int = 0
    delay: timedelta = NOW
    dead: bool = False
    progress: Mapping[str, Any] | None = None


class WatchedJobs(MemoryJobs):
    """Jobs in memory, and what became of them.

    Args:
        clock: Whose time counts.
        on_wait: Called when somebody waits for a job that has not ended, to work off what is ready;
            whether it did, or somebody is at it.

    Attributes:
        enqueued: What was taken in.
        outcomes: What came of each attempt.
        settled: How many times a job was settled.
        failures: What the attempts that have ended and are not settled yet raised, by job.
        told: What they told of their progress.
        on_settled: Called after each batch of outcomes.
    """

    capabilities = replace(MemoryJobs.capabilities, transactions=True)

    def __init__(self, clock: Clock, on_wait: Callable[[], Awaitable[bool]]) -> None:
        super().__init__(clock)
        self.enqueued: list[EnqueuedJob] = []
        self.outcomes: list[JobOutcome] = []
        self.settled = 0
        self.failures: dict[str, BaseException | None] = {}
        self.told: dict[str, str] = {}
        self.on_settled: list[Callable[[], None]] = []
        self._on_wait = on_wait

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        told = await super().enqueue(jobs)
        now = self._clock.now()
        self.enqueued += [
            enqueued_job(job, now) for job, one in zip(jobs, told, strict=True) if one.created
        ]
        return told

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        for one in settlements:
            if one.lease.id in self.told:
                await self.tell(one.lease, self.told[one.lease.id])
        answers = await super().settle(settlements)
        for one, answer in zip(settlements, answers, strict=True):
            if answer:
                self._note(one)
        self.settled += len(settlements)
        for listener in list(self.on_settled):
            listener()
        return answers

    def _note(self, said: Settlement) -> None:
        job = said.lease.id
        ran = job in self.failures
        if not ran and not said.state.final:
            return  # it was given back, to be leased again
        failure, told = self.failures.pop(job, None), self.told.pop(job, None)
        went_back = not said.state.final and said.attempts == said.lease.attempts
        if not ran and said.error is not None:
            error = json.loads(said.error)
            failure = JobFailed(job, error["type"], error["message"])
        self.outcomes.append(
            JobOutcome(
                id=job,
                task=said.lease.task,
                queue=said.lease.queue,
                params=json.loads(said.lease.params),
                state=said.state,
                result=None if said.result is None else json.loads(said.result),
                error=None if went_back else failure,
                attempts=said.attempts,
                delay=said.delay,
                dead=said.dead,
                progress=None if told is None else json.loads(told),
            )
        )

    async def wait(self, job: JobId, timeout: timedelta) -> Job | None:
        """The job once it has ended; whoever waits has it worked off.

        Raises:
            AssertionError: It will not end by itself, and the caller would wait for ever.
        """
        (found,) = await self.get([job])
        if found is None or found.state.final:
            return found
        done = await self._on_wait()
        (found,) = await self.get([job])
        if found is None or found.state.final or timeout < WAIT or not done:
            return await super().wait(job, timeout)
        raise AssertionError(
            f"somebody waits for the end of job {job}, which is {found.state} until "
            f"{found.ready_at.isoformat()}, and nobody moves the clock, which shows "
            f"{self._clock.now().isoformat()}; move it and drain, or give result() a timeout"
        )

    async def until_settled(self, ids: Sequence[str]) -> None:
        """Return when none of these jobs runs."""
        jobs = [JobId(job) for job in ids]
        while any(job is not None and job.state in RUNNING for job in await self.get(jobs)):
            settled = asyncio.Event()
            self.on_settled.append(settled.set)
            try:
                await settled.wait()
            finally:
                self.on_settled.remove(settled.set)

    async def waiting(self) -> list[Job]:
        """Those that wait, the first to become ready first."""
        found = await self.find(JobQuery(states=WAITING, limit=ALL))
        return sorted(found, key=lambda job: job.ready_at)


def enqueued_job(new: NewJob, now: datetime) -> EnqueuedJob:
    return EnqueuedJob(
        id=new.id,
        task=new.task,
        params=json.loads(new.params),
        queue=new.queue,
        delay=new.delay,
        priority=new.priority,
        expires=new.expires,
        headers=json.loads(new.headers),
        options=json.loads(new.options),
        at=now,
    )
