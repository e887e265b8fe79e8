"""What surrounds the code of a task while it runs: its run's id, its clock, its retries.

The runner opens a `RunContext` around each run. Code far below (a call of the Data API, the
shared client) finds it without being handed it, and tells it what the runner has to know.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.clock import Clock, SystemClock
from worker.events import CallRetrying, Event, Events
from worker.model import RunId, Trigger, new_run_id
from worker.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import Context
    from datetime import datetime

__all__ = ["RunContext", "current_run", "run_in"]

_current: ContextVar[RunContext | None] = ContextVar("worker_run", default=None)


@dataclass(slots=True, kw_only=True)
class RunContext:
    """One run, as its code sees it.

    Attributes:
        slot: The nominal time of the slot that the run takes, if a schedule triggered it.
        retry: How calls of the Data API, and the run itself, are repeated.
        attempt: Which try of ``execute`` this is, from 1.
        calls_retried: Repetitions of single calls so far.
        repeatable: Cleared once the run sent an unsafe request without an idempotency key: from
            then on the runner does not repeat ``execute``.
    """

    task: str
    run_id: RunId = field(default_factory=new_run_id)
    trigger: Trigger = Trigger.MANUAL
    slot: datetime | None = None
    clock: Clock = field(default_factory=SystemClock)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    events: Events = field(default_factory=Events)
    attempt: int = 1
    calls_retried: int = 0
    repeatable: bool = True

    def call_retrying(self, call: str, attempt: int, wait_s: float, failure: BaseException) -> None:
        """Count and announce that one call is about to be repeated."""
        self.calls_retried += 1
        event: Event = CallRetrying(
            task=self.task,
            run_id=self.run_id,
            call=call,
            attempt=attempt,
            wait_s=wait_s,
            failure=failure,
        )
        self.events.announce(event)

    @contextmanager
    def entered(self) -> Iterator[RunContext]:
        """Make this the current run of the code inside."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)


def current_run() -> RunContext | None:
    """The run that the calling code belongs to; ``None`` outside of any."""
    return _current.get()


def run_in(context: Context) -> RunContext | None:
    """The run that code in ``context`` belongs to, asked from elsewhere: another thread, say."""
    return context.get(_current)
