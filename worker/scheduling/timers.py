"""APScheduler's timers, told what is due, and kept from stopping in silence.

APScheduler's defaults drop work: a run late by more than a second, a second instance, a shutdown.
None of them is left in charge: its executor is replaced by one that only says who is due, and what
becomes of it is decided in the ledger.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog
from apscheduler.executors.base import BaseExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from worker.schedules.schedule import next_due

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.schedules.policies import TaskSchedule

__all__ = ["Timers"]

SECOND = timedelta(seconds=1)
SHORTEST_S = 0.001
"""uvloop counts in whole milliseconds: a shorter wait is none, and the loop would spin."""
LONGEST_S = 30.0
"""How long a wall clock that was set may go unseen: timers wait on the monotonic one."""


class Timers:
    """Calls ``wake`` with a task's name whenever one of its slots is due."""

    def __init__(self, wake: Callable[[str], None]) -> None:
        self._scheduler: Any = BoundedScheduler(self._begin_anew, timezone=UTC)
        self._scheduler.add_executor(WakingExecutor(wake), alias="wake")

    @property
    def running(self) -> bool:
        return bool(self._scheduler.running)

    def add(self, terms: TaskSchedule, first: datetime) -> None:
        """Wake the task at ``first``, and from then on whenever a slot is due."""
        self._scheduler.add_job(
            never_called,
            SlotTrigger(terms),
            id=terms.task,
            replace_existing=True,
            executor="wake",
            next_run_time=first,
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
        )

    def _begin_anew(self) -> None:
        """The clock was set back: what was to come in an hour comes in two, or was wrong."""
        structlog.get_logger("worker").warning("clock.set_back")
        for job in self._scheduler.get_jobs():
            job.reschedule(job.trigger)

    def behind(self) -> timedelta:
        """For how long the most overdue timer has waited; next to nothing while they turn."""
        now = datetime.now(UTC)
        due = [job.next_run_time for job in self._scheduler.get_jobs() if job.next_run_time]
        return max((now - moment for moment in due if moment < now), default=timedelta(0))

    def start(self) -> None:
        """Begin to wake, in the running event loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """Wake nobody any more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)


class BoundedScheduler(AsyncIOScheduler):
    """Waits neither so short that it spins, nor so long that it misses a clock that is set."""

    def __init__(self, clock_set_back: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._clock_set_back = clock_set_back
        self._last_wake = datetime.now(UTC)

    def wakeup(self) -> None:
        # Called in the loop only, so the detour over its other threads' door is not needed.
        self._stop_timer()
        wait_s = 1.0
        try:
            now = datetime.now(UTC)
            set_back, self._last_wake = now < self._last_wake - SECOND, now
            if set_back:
                self._clock_set_back()
            wait_s = self._process_jobs()
        except Exception:
            structlog.get_logger("worker").exception("timers.failed", retry_s=wait_s)
        self._start_timer(wait_s)

    def _start_timer(self, wait_seconds: float | None) -> None:
        wait_s = LONGEST_S if wait_seconds is None else wait_seconds
        super()._start_timer(min(max(wait_s, SHORTEST_S), LONGEST_S))


class SlotTrigger(BaseTrigger):
    """Tells APScheduler the next moment at which one of a task's slots is due.

    However many have passed meanwhile, it names one: the ledger accounts for the others.
    """

    def __init__(self, terms: TaskSchedule) -> None:
        self._terms = terms
        self._known: tuple[datetime | None, datetime | None] = (None, None)

    def get_next_fire_time(
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        after = now if previous_fire_time is None else max(now, previous_fire_time)
        if after != self._known[0]:  # APScheduler asks twice
            self._known = (after, self._due(after))
        return self._known[1]

    def _due(self, after: datetime) -> datetime | None:
        terms = self._terms
        assert terms.schedule is not None
        try:
            due = next_due(terms.schedule, terms.task, terms.policies.jitter, after)
        except Exception:
            # APScheduler would stay with this timer, and the others would never be due.
            structlog.get_logger("worker").exception("timer.failed", task=terms.task)
            return after + timedelta(seconds=LONGEST_S)
        return None if due is None else due[1]


class WakingExecutor(BaseExecutor):
    """Says who is due, at once and in the event loop."""

    def __init__(self, wake: Callable[[str], None]) -> None:
        super().__init__()
        self._wake = wake

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        self._wake(job.id)
        # Balances what APScheduler counts as a running instance, as its own DebugExecutor does.
        self._run_job_success(job.id, [])


def never_called() -> None:
    """What APScheduler believes to be the job."""


def first_wakes(
    starts: list[datetime | None], now: datetime, *, delay: timedelta, spread: timedelta
) -> list[datetime]:
    """When each task is looked at first: when its next slot is due, or sooner, for an overdue one.

    The overdue ones are spread evenly over ``spread``, so that an outage does not end in a
    stampede.
    """
    count = len(starts)
    looks = [now + delay + spread * number / count for number in range(count)]
    return [
        look if due is None else min(due, look) for due, look in zip(starts, looks, strict=True)
    ]
