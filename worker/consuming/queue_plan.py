"""How one queue is polled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

__all__ = ["QueuePlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlan:
    """How one queue is polled.

    Attributes:
        poll_interval: How often it is looked at, if nothing wakes the poller before.
        push: Whether the engine may wake the poller when a job comes.
        visibility_timeout: How long a lease holds, unless it is extended. While a job goes on it
            is, three times in this time.
        max_batch_size: How many jobs are leased at once at most.
        concurrency: How many of its jobs run at the same time at most; ``None`` for as many as
            the worker runs in all.
    """

    name: str
    poll_interval: timedelta = timedelta(seconds=20)
    push: bool = True
    visibility_timeout: timedelta = timedelta(minutes=1)
    max_batch_size: int = 100
    concurrency: int | None = None
