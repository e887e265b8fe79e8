"""The jobs that are leased and not run: what becomes of them, and who is told.

Nothing is stored here; `Unrun` makes the settlements, the consumer has them stored.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.errors import DuplicateJob, UnknownTaskError, UnnamedJob, WorkerLost
from worker.events import JobDead, JobRefused, JobUnrun
from worker.jobs.job import Settlement
from worker.jobs.unnamed import what_came
from worker.jobs.verdict import has_begun, unspent
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from worker.events import Events
    from worker.jobs.job import Lease
    from worker.tasks.base import TaskDefinition

__all__ = ["Unrun", "error_text", "until_given_up"]

REFUSED = timedelta(seconds=5)
"""How long a job waits that is left to a worker that knows more; longer each time."""
LONGEST_REFUSED = timedelta(minutes=5)


class Unrun:
    """Finds the jobs that are not to be run, and says what becomes of them.

    Args:
        tasks: Those that the worker can run, by name.
        spared: The names of tasks that it knows and leaves to others.
        max_losses: A job whose workers died so often is dead-lettered.
        max_refusals: So is one that so many deliveries could not make sense of.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskDefinition],
        *,
        spared: Collection[str],
        events: Events,
        max_losses: int,
        max_refusals: int,
    ) -> None:
        self._tasks = tasks
        self._spared = frozenset(spared)
        self._events = events
        self._max_losses = max_losses
        self._max_refusals = max_refusals

    def judged(self, lease: Lease, definition: TaskDefinition | None) -> Settlement | None:
        """What becomes of a job that is not to be run; ``None`` for one that is."""
        if lease.cancel:
            return self.ended(lease, State.REVOKED)
        if lease.expired and not has_begun(lease):
            return self.ended(lease, State.EXPIRED)
        if lease.losses >= self._max_losses:
            lost = WorkerLost(
                f"{lease.losses} times its lease ran out while it ran: its worker died, was cut "
                "off from the queue, or its event loop stood still for longer than "
                "WORKER_STALL_LIMIT; it was not tried again"
            )
            return self.buried(lease, lost)
        if not lease.task:
            return self.buried(lease, UnnamedJob(what_came(lease.params)))
        if lease.task in self._spared:
            return unspent(lease, delay=REFUSED)
        if definition is None or definition.options is None:
            return self.refused(lease, UnknownTaskError(lease.task, self._tasks))
        if lease.version > definition.options.version:
            newer = UnknownTaskError.newer(lease.task, lease.version, definition.options.version)
            return self.refused(lease, newer)
        return None

    def ended(self, lease: Lease, state: State) -> Settlement:
        """The end of a job that came too late to begin, or that somebody wished away."""
        self._events.announce(JobUnrun(task=lease.task, job_id=lease.id, state=state))
        return Settlement(lease, state, attempts=lease.attempts, refusals=lease.refusals)

    def duplicate(self, lease: Lease, holder: str) -> Settlement:
        """The end of a job whose unique key another one holds, which shows only now: its producer
        did not know what its task declares."""
        reason = (
            f"job {holder} holds its unique key, which its producer did not know; it was not run"
        )
        self._events.announce(
            JobUnrun(task=lease.task, job_id=lease.id, state=State.REVOKED, reason=reason)
        )
        return Settlement(
            lease,
            State.REVOKED,
            attempts=lease.attempts,
            refusals=lease.refusals,
            error=error_text(DuplicateJob.__name__, reason),
        )

    def refused(self, lease: Lease, reason: Exception) -> Settlement:
        """Leave a job to a worker that knows more; nobody does after several deliveries."""
        refusals = lease.refusals + 1
        if refusals >= self._max_refusals:
            return self.buried(lease, reason)
        delay = delay_after(refusals)
        self._events.announce(
            JobRefused(
                task=lease.task,
                job_id=lease.id,
                queue=lease.queue,
                reason=str(reason),
                refusals=refusals,
                wait_s=delay.total_seconds(),
            )
        )
        return unspent(lease, delay=delay)._replace(refusals=refusals)

    def buried(self, lease: Lease, failure: Exception) -> Settlement:
        """Put a job that can be run by nobody among the dead letters."""
        kind = type(failure).__name__
        self._events.announce(
            JobDead(task=lease.task, job_id=lease.id, kind=kind, reason=str(failure))
        )
        return Settlement(
            lease,
            State.FAILURE,
            attempts=lease.attempts,
            refusals=lease.refusals,
            error=error_text(kind, str(failure)),
            dead=True,
        )


def delay_after(refusals: int) -> timedelta:
    times: int = 2 ** min(refusals - 1, 30)
    return min(REFUSED * times, LONGEST_REFUSED)


def until_given_up(refusals: int, most: int) -> timedelta:
    """How long a job is passed on yet that was refused so often, from its next delivery on."""
    return sum((delay_after(n) for n in range(refusals + 1, most)), timedelta(0))


def error_text(kind: str, message: str) -> str:
    """A failure, as it is stored with its job."""
    return json.dumps({"type": kind, "message": message}, separators=(",", ":"))
