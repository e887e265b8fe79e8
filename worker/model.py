"""The worker's nouns, as frozen values without any I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from os import urandom
from typing import TYPE_CHECKING, NamedTuple, NewType

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["CancelReason", "Run", "RunError", "RunId", "State", "Trigger", "new_run_id"]

RunId = NewType("RunId", str)


def new_run_id() -> RunId:
    """A fresh id, unique over all workers."""
    return RunId(urandom(16).hex())


class Trigger(StrEnum):
    """The door through which a run came."""

    SCHEDULE = "schedule"
    QUEUE = "queue"
    MANUAL = "manual"
    BACKFILL = "backfill"
    """A slot of the past, run again because someone asked for it."""


class CancelReason(StrEnum):
    """Why a run that goes on was requested to end."""

    CANCEL = "cancel"
    """Somebody cancelled the job."""
    TIME_LIMIT = "time_limit"
    """The run took longer than its time limit."""
    SHUTDOWN = "shutdown"
    """The worker shuts down, and its grace period is over."""
    LEASE_LOST = "lease_lost"
    """The worker lost the lease: another worker may run the same job or slot."""
    REPLACED = "replaced"
    """A later slot of the task takes its place (overlap policy ``cancel_other``)."""

    @property
    def text(self) -> str:
        """The reason as a run's error records it."""
        return REASON_TEXTS[self]


REASON_TEXTS = {
    CancelReason.CANCEL: "cancelled: its end was requested",
    CancelReason.TIME_LIMIT: "took longer than its time limit",
    CancelReason.SHUTDOWN: "the worker is shutting down",
    CancelReason.LEASE_LOST: "cancelled: its lease was lost, another worker may run it",
    CancelReason.REPLACED: "cancelled: a later slot of the task has precedence",
}


class State(StrEnum):
    """Where a run stands, in the field's words."""

    PENDING = "PENDING"
    """A job waits in its queue."""
    STARTED = "STARTED"
    PROGRESS = "PROGRESS"
    """Started, and it has told how far it is."""
    RETRY = "RETRY"
    """An attempt failed; another follows."""
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"
    """The worker ended the run (it shuts down, a later slot has precedence, its lease is lost):
    neither a success nor the task's failure."""
    EXPIRED = "EXPIRED"
    """A job that could not begin before it was too late."""
    UNKNOWN = "UNKNOWN"
    """Nobody has recorded such an id, or its record is pruned. Never mistaken for ``PENDING``."""

    @property
    def final(self) -> bool:
        """Whether it stays as it is, unless somebody acts by hand."""
        return self in FINAL


FINAL = frozenset({State.SUCCESS, State.FAILURE, State.REVOKED, State.EXPIRED})


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run failed: the exception's type and its message.

    Attributes:
        unreachable: The network was the reason, not an answer that came over it.
    """

    type: str
    message: str
    unreachable: bool = False


class Run(NamedTuple):
    """One execution of a task. A named tuple, as there are two for each job.

    Attributes:
        slot: The nominal time it was due, for a run that a schedule triggered.
        started_at: Wall time, UTC.
        duration_ms: On the monotonic clock; ``None`` while it runs.
        attempts: How often ``execute`` was begun; of a job, this one and those before.
        encoded: A job's result as JSON.
        delay: From now to when a job that goes back into its queue may begin again.
        dead: A job that goes to the dead letters.
        overtime_ms: From its time limit, or from when its cancellation was requested, to the end
            of its code; ``None`` for a run that ended before either.
    """

    run_id: RunId
    task: str
    trigger: Trigger
    state: State
    started_at: datetime
    slot: datetime | None = None
    attempts: int = 1
    duration_ms: float | None = None
    result: object = None
    error: RunError | None = None
    encoded: str | None = None
    delay: timedelta = timedelta(0)
    dead: bool = False
    overtime_ms: float | None = None

    @property
    def late_ms(self) -> float | None:
        """How long after its slot the run started, if it was the schedule that asked for it."""
        if self.slot is None or self.trigger is not Trigger.SCHEDULE:
            return None
        return (self.started_at - self.slot).total_seconds() * 1000
