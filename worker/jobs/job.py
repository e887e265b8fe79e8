"""On-demand work as values: what is asked for, what is leased, what came of it.

Parameters, results and errors are JSON texts here. A backend stores them and never looks inside.
Those that come by the hundred are named tuples, which cost a tenth of a frozen dataclass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from os import urandom
from typing import NamedTuple, NewType

from worker.model import State

__all__ = [
    "NONE_DEFERRED",
    "CancelOutcome",
    "Capabilities",
    "Deferred",
    "Enqueued",
    "Existing",
    "Grant",
    "Held",
    "Job",
    "JobId",
    "JobQuery",
    "Lease",
    "NewJob",
    "QueueCount",
    "Rate",
    "Requeued",
    "Settlement",
    "Unique",
    "is_carried",
    "new_job_id",
]

JobId = NewType("JobId", str)
TASK = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,99}")
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/+=-]{0,199}")
QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
NOW = timedelta(0)


def new_job_id() -> JobId:
    """A fresh id, unique over all producers."""
    return JobId(urandom(16).hex())


def is_carried(queue: str) -> bool:
    """Whether the jobs of this queue come to their workers through another engine: they are
    claimed by their ids, and never leased from here."""
    return "/" in queue


class Unique(NamedTuple):
    """While one job holds ``key``, another with the same key is not taken in.

    Attributes:
        key: Made of the task's name and the parameters that count.
        states: A job holds the key while it is in one of these states.
        ttl: How long it holds the key at most, from when it was enqueued; ``None`` for ever.
    """

    key: str
    states: tuple[State, ...]
    ttl: timedelta | None = None


class NewJob(NamedTuple):
    """A job to be enqueued.

    Attributes:
        params: The parameters, a JSON object.
        version: Of the parameters' schema, as the producer knew it.
        priority: Greater ones are leased first; -100 to 100.
        delay: From now, by the backend's clock, to when it may be leased first.
        expires: From now to when it is too late to begin; ``None`` for never.
        options: What is overridden for this job, a JSON object.
        headers: What the producer wants to hand on, a JSON object: a trace's context.
        concurrency_key, concurrency_limit: No more jobs than the limit, of all with this key and
            on all workers, are leased at a time.
    """

    id: JobId
    task: str
    queue: str
    params: str = "{}"
    version: int = 1
    priority: int = 0
    delay: timedelta = NOW
    expires: timedelta | None = None
    options: str = "{}"
    headers: str = "{}"
    unique: Unique | None = None
    concurrency_key: str | None = None
    concurrency_limit: int = 1


class Existing(NamedTuple):
    """What an engine reports of a job whose id was enqueued again.

    Attributes:
        cancel: Its cancellation was requested.
        started: A worker has leased it before.
        delay: From its creation to when it could be leased first; for a job that was started, or
            retried manually, this no longer says what was requested.
        expires: From its creation to when it expires; ``None`` for never.
        created_at: ``None`` for a job of the same batch.
    """

    task: str
    queue: str
    params: str
    priority: int
    options: str
    state: State
    cancel: bool
    started: bool
    delay: timedelta
    expires: timedelta | None
    unique_key: str | None
    concurrency_key: str | None
    created_at: datetime | None = None

    @classmethod
    def of(cls, job: Job) -> Existing:
        """From a job's record."""
        return cls(
            job.task,
            job.queue,
            job.params,
            job.priority,
            job.options,
            job.state,
            job.cancel,
            job.deliveries > 0,
            job.ready_at - job.created_at,
            None if job.expires_at is None else job.expires_at - job.created_at,
            job.unique_key,
            job.concurrency_key,
            job.created_at,
        )

    @classmethod
    def of_new(cls, job: NewJob) -> Existing:
        """From a job of the same batch."""
        return cls(
            job.task,
            job.queue,
            job.params,
            job.priority,
            job.options,
            State.PENDING,
            False,
            False,
            job.delay,
            job.expires,
            None if job.unique is None else job.unique.key,
            job.concurrency_key,
        )


@dataclass(slots=True)  # not frozen: there is one for each job, and freezing doubles its cost
class Enqueued:
    """The result of enqueueing a `NewJob`.

    Attributes:
        id: Of the job that is there now: the requested one, or the one that holds its unique key.
        created: Whether it is new. Otherwise nothing was changed.
        existing: The job that has this id already; ``None`` for a new job, and for one whose
            unique key another job holds. Two results are equal without regard to it.
    """

    id: JobId
    created: bool
    existing: Existing | None = field(default=None, compare=False, repr=False)


class Lease(NamedTuple):
    """A job as a worker gets it, with the right to work on it until the lease runs out.

    Attributes:
        receipt: What the backend knows this delivery by. A later delivery has another.
        deliveries: How often the job was leased, this time included.
        losses: How often a lease of it ran out without a word from its worker.
        attempts: How many attempts were spent before.
        refusals: How often workers gave it back because they could not know what it asks for.
        cancel: It was asked to end.
        due_at: When it was to be leased first, or again.
        expired: It was leased too late to begin, by the engine's clock.
        history: What is kept of earlier attempts (`worker.jobs.history`), a JSON list.
    """

    id: JobId
    task: str
    queue: str
    receipt: str
    params: str
    version: int
    priority: int
    options: str
    headers: str
    deliveries: int
    losses: int
    attempts: int
    refusals: int
    cancel: bool
    created_at: datetime
    due_at: datetime
    expires_at: datetime | None
    expired: bool = False
    history: str | None = None


class Deferred(NamedTuple):
    """Which jobs a worker does not begin directly after it has leased them.

    Their work begins with `worker.ports.JobQueue.begin`. Until then a lease that runs out is no
    loss. The work on all others counts as begun from their lease on, which costs no call.

    Attributes:
        tasks: All jobs of these tasks.
        losses: All jobs that have lost so many leases, or more; ``None`` for none.
    """

    tasks: tuple[str, ...] = ()
    losses: int | None = None

    def covers(self, task: str, losses: int) -> bool:
        """Whether a job of this task, which has lost so many leases, is one of them."""
        return task in self.tasks or (self.losses is not None and losses >= self.losses)


NONE_DEFERRED = Deferred()


class Settlement(NamedTuple):
    """What a worker says of a job it has leased. With it the lease ends.

    Attributes:
        state: The job's new state. ``PENDING`` and ``RETRY`` put it back into its queue, the
            others are final.
        delay: From now to when it may be leased again, if it goes back.
        attempts, refusals: As they shall be from now on.
        result: A JSON value; ``None`` where there is none to keep.
        result_ttl: How long the result is kept.
        error: The last failure, a JSON object with ``type`` and ``message``; ``None`` leaves that
            of an earlier attempt with the job, unless it succeeds.
        dead: It goes to the dead letters, to be retried or dropped by hand.
        history: What is to be kept of its attempts from now on, a JSON list; ``None`` leaves it as
            it is.
        due_at: If it goes back, the moment by which it takes its place in the queue, instead of
            ``delay``: its lease's own, so that it keeps the place it had.
    """

    lease: Lease
    state: State
    attempts: int
    refusals: int = 0
    delay: timedelta = NOW
    result: str | None = None
    result_ttl: timedelta = timedelta(days=1)
    error: str | None = None
    dead: bool = False
    history: str | None = None
    due_at: datetime | None = None


class Held(StrEnum):
    """What became of a lease that was to be extended."""

    YES = "yes"
    CANCEL = "cancel"
    """It holds, and its job was asked to end."""
    LOST = "lost"
    """It had run out and another worker has the job, or the job is settled or gone."""


class Rate(NamedTuple):
    """At most ``limit`` starts in each ``period``, evenly spaced but for a second's worth."""

    limit: int
    period: timedelta

    @property
    def spacing(self) -> timedelta:
        """The time from one start to the next when they come as fast as they may."""
        return self.period / self.limit

    @property
    def burst(self) -> int:
        """How many may start at once after a pause."""
        return max(1, int(timedelta(seconds=1) / self.spacing))


class Grant(NamedTuple):
    """How many starts a `Rate` allows now, and how long to wait for the next."""

    granted: int
    wait: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that is recorded of a job.

    Attributes:
        params, result: JSON texts; they may be personal, so ``repr`` leaves them out.
        state: ``PENDING`` ``STARTED`` ``PROGRESS`` ``RETRY`` ``SUCCESS`` ``FAILURE`` ``REVOKED``
            ``EXPIRED``.
        ready_at: When it can be leased, while it waits; when its lease ends, while it runs.
        finished_at: When it got its final state.
        result_until: The result is kept until then; after it, ``result`` is ``None``.
        worker: The name of the worker that leased it last.
        dead: It lies in the dead letters.
        cancel: It was asked to end.
        history: What is kept of its attempts (`worker.jobs.history`), a JSON list. Lists of jobs
            leave it out.
    """

    id: JobId
    task: str
    queue: str
    state: State
    params: str = field(repr=False)
    version: int = 1
    priority: int = 0
    options: str = "{}"
    headers: str = field(default="{}", repr=False)
    created_at: datetime
    ready_at: datetime
    expires_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result_until: datetime | None = None
    deliveries: int = 0
    losses: int = 0
    attempts: int = 0
    refusals: int = 0
    unique_key: str | None = None
    concurrency_key: str | None = None
    worker: str | None = None
    progress: str | None = None
    result: str | None = field(default=None, repr=False)
    error: str | None = None
    dead: bool = False
    cancel: bool = False
    history: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs to list, those created last first; of the same moment, by id.

    Attributes:
        states: In one of these states only; none named means any. ``PROGRESS`` counts as
            ``STARTED`` and the other way round.
        dead: Only dead letters, or only others; ``None`` for both.
        before, since: With ``since <= created_at`` and ``created_at < before``.
        limit: How many at most.
    """

    task: str | None = None
    queue: str | None = None
    states: frozenset[State] = frozenset()
    dead: bool | None = None
    since: datetime | None = None
    before: datetime | None = None
    limit: int = 50


class QueueCount(NamedTuple):
    """How many jobs of one task stand in one state in one queue.

    Attributes:
        dead: How many of them lie in the dead letters.
        oldest: Since when the one that waits longest could have been leased; ``None`` if none can.
    """

    queue: str
    task: str
    state: State
    jobs: int
    dead: int = 0
    oldest: datetime | None = None


class Requeued(StrEnum):
    """What became of a job that was to be cancelled, retried or dropped by hand."""

    DONE = "done"
    ASKED = "asked"
    """It runs; its worker was asked to end it."""
    NOT_NOW = "not_now"
    """It is in a state in which that cannot be done."""
    UNKNOWN = "unknown"


class CancelOutcome(StrEnum):
    """What ``job.cancel()`` did. True, unless the job had ended already."""

    REVOKED = "revoked"
    """It waited, and will not run."""
    REQUESTED = "requested"
    """It runs, and still does: its end is requested. It ends when its code does, and a result that
    the code returns all the same is the job's result."""
    ENDED = "ended"
    """It had ended already; nothing was changed."""

    def __bool__(self) -> bool:
        return self is not CancelOutcome.ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can promise. What it cannot is refused at enqueue or at start.

    Attributes:
        backend: Its name, for messages.
        shared: Several machines can use it.
        longest_delay: ``None`` for any.
        most_leased: How many jobs one call leases at most.
        most_payload: How many bytes of parameters one job can have; ``None`` for any.
        lookup: Jobs can be found by their ids, listed, cancelled and waited for.
        ordered: Jobs are leased in the order that `JobQueue` promises; otherwise, about in it.
        atomic: One call of ``enqueue`` takes in all of its jobs or none.
        unique: The same id twice is one job, and unique keys are looked at.
        transactions: A job can be enqueued in the caller's own transaction.
        claims: It can keep the records of an engine that keeps none.
    """

    backend: str
    shared: bool = False
    longest_delay: timedelta | None = None
    most_leased: int = 1000
    most_payload: int | None = None
    lookup: bool = True
    ordered: bool = True
    atomic: bool = True
    priorities: bool = True
    unique: bool = True
    concurrency: bool = True
    rates: bool = True
    transactions: bool = False
    claims: bool = True
