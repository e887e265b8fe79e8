"""The shapes of what the API answers. The one definition of each; `worker.ops.said` has the others.

Moments are ISO 8601 in UTC. Durations carry their unit in their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from worker.admin.queues import QueueFacts, TaskCount
from worker.jobs.history import AttemptOutcome
from worker.jobs.job import Requeued
from worker.model import State

__all__ = [
    "AttemptFacts",
    "BulkAnswer",
    "Done",
    "EnqueueAnswer",
    "EntryFacts",
    "Explained",
    "JobDetail",
    "JobError",
    "JobFacts",
    "Jobs",
    "Last",
    "Moment",
    "Overview",
    "PauseFacts",
    "Payload",
    "Problem",
    "QueueFacts",
    "Queues",
    "ReplicaFacts",
    "Running",
    "RunningRun",
    "ScheduleDetail",
    "ScheduleFacts",
    "Schedules",
    "SlotRun",
    "StateFacts",
    "Strip",
    "TaskCount",
    "TaskFacts",
    "Tasks",
    "WorkerFacts",
]

Severity = Literal["info", "warning", "critical"]
Kind = Literal["schedule", "queue", "store", "data_api", "dead", "worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        severity: ``info`` is worth knowing, and leaves the status as it is.
        name: Of the schedule, the queue or whatever it concerns.
    """

    severity: Severity
    what: str
    why: str
    kind: Kind
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """The worker that answers.

    Attributes:
        store, queue: Where the ledger and the jobs are, without credentials.
        queues: Those that it polls.
    """

    version: str
    replica: str
    started_at: datetime
    store: str
    queue: str
    queues: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """A worker that the ledger knows.

    Attributes:
        lost: Its lease ran out without a word of it; it did not stop in order.
        queues: Those that it polls; ``None`` if it does not say, as older versions do not.
        slots: Whether it takes slots.
    """

    name: str
    since: datetime
    seen: datetime
    alive: bool
    lost: bool
    queues: list[str] | None
    slots: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Whether all is well, and what is not."""

    now: datetime
    worker: WorkerFacts
    status: Literal["ok", "warning", "critical"]
    problems: list[Problem]
    replicas: list[ReplicaFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """What became of the latest slot that has an outcome."""

    slot: datetime
    outcome: str
    trigger: str
    recorded_at: datetime
    duration_ms: float | None
    late_ms: float | None
    error: str | None
    run_id: str | None
    replica: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseFacts:
    """Since when, by whom and why a schedule is paused."""

    at: datetime
    by: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRun:
    """A slot that runs."""

    slot: datetime
    run_id: str | None
    trigger: str
    since: datetime
    replica: str | None
    cancel: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """What became of a slot, or of several in a row."""

    slot: datetime
    last: datetime | None
    count: int
    outcome: str
    duration_ms: float | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleFacts:
    """How a schedule stands.

    Attributes:
        schedule: In words; ``None`` for a task that is off.
        said_by: The setting, the file or the code that says so.
        queue: Where its jobs wait, if it can be asked for as well.
        next: The next slots.
        due: When the first of them may start, its jitter included.
        failures: How many runs failed since the last success.
        max_age_s: How old its last success may be.
        waiting: How many slots wait for their turn.
        strip: The latest slots, at most 50, the oldest first.
        durations_ms: Of those of them that ran.
    """

    name: str
    summary: str
    standing: str
    schedule: str | None
    said_by: str
    queue: str | None
    next: list[datetime]
    due: datetime | None
    last: Last | None
    failures: int
    last_success: datetime | None
    pause: PauseFacts | None
    max_age_s: float | None
    stale_since: datetime | None
    waiting: int
    running: list[SlotRun]
    strip: list[Strip]
    durations_ms: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedules:
    """Every schedule of the application."""

    schedules: list[ScheduleFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """Why a task does not run now, or when it will."""

    verdict: str
    facts: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFacts:
    """What the ledger has of a slot, or of several in a row."""

    slot: datetime
    last: datetime | None
    count: int
    trigger: str
    outcome: str
    recorded_at: datetime
    run_id: str | None
    replica: str | None
    late_ms: float | None
    duration_ms: float | None
    error: str | None
    losses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDetail(ScheduleFacts):
    """A schedule, why it does not run now, and its history, the newest slots first."""

    explanation: Explained
    history: list[EntryFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRun:
    """A slot or a job that runs.

    Attributes:
        id: The job's, which can be cancelled, or the run's.
        progress: ``percent``, and whatever else the task tells.
        cancel: Its end was requested; it still runs.
        overdue_s: For how long it goes on past its time limit, or since it was cancelled;
            ``None`` if it does not.
        stack: Where its code is now, if it runs on the worker that answers and does not end.
    """

    kind: Literal["slot", "job"]
    task: str
    id: str
    since: datetime
    replica: str | None
    attempt: int
    progress: dict[str, Any] | None
    cancel: bool
    overdue_s: float | None = None
    stack: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What runs, on whatever worker.

    Attributes:
        more: There are more jobs than are listed.
    """

    running: list[RunningRun]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """Every queue that has jobs, or that a task here has."""

    queues: list[QueueFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """The last failure."""

    type: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """A job, without what it was asked with and what came of it.

    Attributes:
        ready_at: When it can begin, while it waits; when its lease ends, while it runs.
        worker: The one that leased it last.
        cancel: Its cancellation was requested. If it runs, it still does.
    """

    id: str
    task: str
    queue: str
    state: State
    dead: bool
    attempts: int
    losses: int
    refusals: int
    priority: int
    created_at: datetime
    ready_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    worker: str | None
    progress: dict[str, Any] | None
    error: JobError | None
    cancel: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """Jobs, those created last first.

    Attributes:
        next: What to say as ``before`` to get those after them; ``None`` if there are none.
    """

    jobs: list[JobFacts]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something that happened to a job; ``at`` is ``None`` where nobody recorded when."""

    at: datetime | None
    what: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFacts:
    """One attempt of a job.

    Attributes:
        attempt: Which one it was. One that was not spent (lost, given back, snoozed) has the
            number of the next one.
        error: If it failed; the beginning of its message.
        overtime_ms: From its time limit, or from when its cancellation was requested, to its end;
            ``None`` if it ended before either.
    """

    attempt: int
    outcome: AttemptOutcome
    started_at: datetime
    finished_at: datetime
    worker: str
    error: JobError | None
    overtime_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail(JobFacts):
    """A job and its life.

    Attributes:
        history: What came of its attempts: of the first one, and of the last few.
        options: What was said for this job in the place of its task's options.
        headers: Their names; their values may be personal.
        result_until: How long its result is kept.
    """

    deliveries: int
    timeline: list[Moment]
    history: list[AttemptFacts]
    options: dict[str, Any]
    headers: list[str]
    unique_key: str | None
    concurrency_key: str | None
    result_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What a job was asked with, and what came of it; secrets are left out by their names.

    Attributes:
        params_bytes, result_bytes: How large they are as JSON.
    """

    params: Any
    params_bytes: int
    version: int
    result: Any
    result_bytes: int
    headers: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """A task of the application.

    Attributes:
        queue: ``None`` if nobody can ask for it.
        schedule: In words; ``None`` if it is off, or on demand only.
        params_schema: A JSON schema; ``None`` if it takes none.
    """

    name: str
    summary: str
    queue: str | None
    schedule: str | None
    params_schema: dict[str, Any] | None
    defined_in: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Every task of the application."""

    tasks: list[TaskFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a job that was to be cancelled, retried or dropped.

    Attributes:
        what: ``done``: it is cancelled, back in its queue, or forgotten, as was asked. ``asked``:
            its cancellation was requested, and it still runs. ``not_now``: it is in a state in
            which that cannot be done.
    """

    id: str
    what: Requeued


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkAnswer:
    """What would be done to dead letters, or was.

    Attributes:
        count: How many there are; of a dry run only.
        before: What to say to have it done to just these.
        done: To how many it was done.
        left: How many were retried, dropped or pruned meanwhile.
        more: There are more than one call goes through: ask again.
    """

    count: int | None = None
    before: datetime | None = None
    done: int | None = None
    left: int | None = None
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueAnswer:
    """The job that is there now; ``created`` is false if it was there before."""

    id: str
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFacts:
    """What the event ``state`` tells; ``None`` for what cannot be asked now."""

    overview: Overview
    schedules: list[ScheduleFacts] | None
    running: list[RunningRun] | None
    queues: list[QueueFacts] | None
