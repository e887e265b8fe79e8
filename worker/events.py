"""What the worker announces, and who listens.

Logs, metrics and displays only listen: they are told, they never reach in. A listener that fails
is dropped from nothing and stops nothing; its failure is logged by the standard library's logger,
since the usual one may be what failed.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime, timedelta

    from worker.ledger.book import Entry
    from worker.model import CancelReason, Run, RunId, State

__all__ = [
    "BatchEnded",
    "BatchStarted",
    "CallEnded",
    "CallRetrying",
    "Event",
    "Events",
    "HookFailed",
    "JobDead",
    "JobRefused",
    "JobTakenOver",
    "JobUnrun",
    "LeaseExpired",
    "LeaseWasLost",
    "LoopResumed",
    "LoopStalled",
    "OutcomeRefused",
    "QueueChanged",
    "RunAbandoned",
    "RunFinished",
    "RunRetrying",
    "RunStarted",
    "RunStuck",
    "ScheduleChanged",
    "SchedulePaused",
    "ScheduleRetired",
    "SlotSkipped",
    "SlotsElsewhere",
    "StoreChanged",
    "Tally",
    "TaskFresh",
    "TaskStale",
    "UnknownJobs",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run begins. Announced in the context in which its code will run.

    Attributes:
        queue: Of a job, where it lay; empty for any other run.
        due_at: When the job could have been leased, by the engine's clock.
        headers: What whoever asked for the job handed on with it.
    """

    run: Run
    queue: str = ""
    due_at: datetime | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStarted(Event):
    """Jobs whose runs were announced begin together. Announced in the context of their code."""

    run_id: RunId
    jobs: tuple[RunId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEnded(Event):
    """The code of a batch has ended; what became of each of its jobs is announced after it."""

    run_id: RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRetrying(Event):
    """An attempt of a run failed in a way that may pass; another follows after ``wait_s``."""

    run_id: RunId
    attempt: int
    wait_s: float
    failure: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRetrying(Event):
    """A call of the Data API failed in a way that may pass; it is repeated after ``wait_s``."""

    run_id: RunId
    call: str
    attempt: int
    wait_s: float
    failure: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded(Event):
    """One try of an HTTP call that a run made: its answer was read, or it failed.

    Attributes:
        call: The call's name in the Data API's contract; ``other`` for any that a task makes with
            the shared client by itself.
        attempt: Which try of the call it was, from 1.
        status: Of the answer; ``None`` if none came.
        failure: What the run's code got in the place of an answer. A status that is no success is
            a failure of the contract's calls, and none of the others.
    """

    run_id: RunId
    call: str
    attempt: int
    status: int | None
    duration_s: float
    failure: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """A run ended; ``failure`` is what it raised, with its traceback."""

    run: Run
    failure: BaseException | None = None
    calls_retried: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFailed(Event):
    """A hook of a task raised, or took too long. It changes nothing for the run."""

    run_id: RunId
    hook: str
    failure: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStuck(Event):
    """A run's code goes on although it was cancelled: it is in a thread, or swallows that.

    The run goes on with it, and keeps its job's lease. Announced again at growing intervals.

    Attributes:
        reason: Why the run was requested to end.
        overdue_s: Since when, in seconds.
        stack: Where the code is now, with secrets taken out.
        stuck: How many runs of this worker are stuck.
    """

    run_id: RunId
    reason: CancelReason
    overdue_s: float
    stack: str
    stuck: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAbandoned(Event):
    """The worker has to exit, and left a run's code behind that did not end when cancelled.

    Attributes:
        stack: Where the code was, with secrets taken out.
    """

    run_id: RunId
    waited_s: float
    stack: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSkipped(Event):
    """The ledger recorded that a slot, or several in a row, did not run, or not to an end.

    Attributes:
        entry: What was recorded: ``skipped_overlap``, ``missed``, ``paused`` or ``lost``.
        running_since: When the run that is in the way started.
    """

    entry: Entry
    running_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleChanged(Event):
    """A task's schedule is another than the one that the ledger knew.

    Attributes:
        replaces: The schedules that were known.
        since: Slots of the new schedule later than this are accounted for.
    """

    schedule: str
    replaces: tuple[str, ...]
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRetired(Event):
    """No worker has this schedule any more, and each of its slots up to ``until`` is recorded."""

    schedule: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotsElsewhere(Event):
    """Other replicas dealt with slots that were due here, too."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRefused(Event):
    """A run's outcome could not be recorded, because the replica's lease had run out."""

    run_id: str
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePaused(Event):
    """A schedule was paused by itself, after too many failures in a row."""

    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChanged(Event):
    """The store cannot be used, or can again. ``task`` is empty: it concerns them all.

    Attributes:
        trouble: What is wrong; ``None`` when it works again.
        waiting: The tasks that do not run meanwhile.
        unrecorded: The tasks that run without a record of it.
    """

    trouble: str | None
    waiting: tuple[str, ...] = ()
    unrecorded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseExpired(Event):
    """This replica was silent for too long: what it ran is lost. ``task`` is empty.

    Attributes:
        forgotten: It was not silent: the store has forgotten it, and all that it knew before.
    """

    running: tuple[str, ...]
    forgotten: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRefused(Event):
    """A job asks for what this worker does not know; it went back into its queue."""

    job_id: str
    queue: str
    reason: str
    refusals: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTakenOver(Event):
    """A job is begun again: so many workers died, or were silent too long, while they ran it."""

    job_id: str
    losses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDead(Event):
    """A job went to the dead letters without having been run.

    Attributes:
        kind: The name of the error that it got.
    """

    job_id: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUnrun(Event):
    """A job ended before it began: ``EXPIRED``, or ``REVOKED`` because it was cancelled.

    Attributes:
        reason: Why it was revoked, if it was not cancelled.
    """

    job_id: str
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWasLost(Event):
    """A job's outcome could not be recorded; it is run again, here or elsewhere."""

    job_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueChanged(Event):
    """The queues' engine cannot be used, or can again. ``task`` is empty.

    Attributes:
        trouble: What is wrong; ``None`` when it works again.
    """

    trouble: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownJobs(Event):
    """In a queue that is polled lie jobs of tasks that this worker does not know, by task."""

    queue: str
    jobs: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopStalled(Event):
    """The event loop does not turn. Announced in a thread of its own, as the loop cannot.

    Attributes:
        task: The task whose run holds the loop; empty if that is not known.
        stalled_s: How long the loop has not turned so far.
        holder: The name of the asyncio task that runs; ``None`` if it is a mere callback.
        stack: Where the loop's thread is, as a traceback shows it.
    """

    task: str = ""
    run_id: str | None = None
    stalled_s: float
    holder: str | None = None
    stack: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResumed(Event):
    """The event loop turns again, after ``stalled_s``. Announced in the thread of `LoopStalled`."""

    task: str = ""
    stalled_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStale(Event):
    """A task's last success is longer ago than its ``max_age`` allows, since ``stale_since``."""

    max_age: timedelta
    last_success: datetime | None
    stale_since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFresh(Event):
    """A task that was stale has succeeded again."""

    last_success: datetime | None
    stale_since: datetime


class Events:
    """Hands every event to every listener, in the order in which they subscribed."""

    def __init__(self, *listeners: Callable[[Event], None]) -> None:
        self._listeners = list(listeners)

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with each later event. It must return quickly: it runs in the loop."""
        self._listeners.append(listener)

    def announce(self, event: Event) -> None:
        """Tell all listeners. Never raises."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                logging.getLogger(__name__).exception(
                    "listener %r failed on %s", listener, type(event).__name__
                )


class Tally:
    """Counts what became of runs and slots: ``(task, what)`` → how often.

    ``what`` is a run's state in lower case (``success``), the outcome of a slot that did not run
    (``skipped_overlap``, ``missed``, ``paused``, ``lost``), ``elsewhere``, or ``calls_retried``.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def __call__(self, event: Event) -> None:
        match event:
            case RunFinished(run=run):
                self.counts[run.task, run.state.lower()] += 1
            case SlotSkipped(entry=entry):
                self.counts[event.task, entry.outcome.value] += entry.count
            case SlotsElsewhere():
                self.counts[event.task, "elsewhere"] += event.count
            case CallRetrying():
                self.counts[event.task, "calls_retried"] += 1

    def total(self, *what: str) -> int:
        """How often any of ``what`` happened, over all tasks."""
        return sum(count for (_, kind), count in self.counts.items() if kind in what)

    @property
    def skipped(self) -> int:
        """How many slots did not become runs, whatever the reason."""
        return self.total("skipped_overlap", "missed", "paused", "lost")
