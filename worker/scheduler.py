"""Slots become runs. APScheduler keeps the timers; what is due is decided here.

APScheduler's defaults drop work in silence: a run late by more than a second, a second instance,
a shutdown. None of them is left in charge. Its executor is replaced by one that only hands over
what is due, and every slot that does not become a run is announced.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

from apscheduler.executors.base import BaseExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from worker.errors import TaskDefinitionError
from worker.events import SlotSkipped
from worker.model import Trigger
from worker.schedule import LONGEST, OFF, Interval, first_slots
from worker.tasks.base import BaseTask, TaskDefinition

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from datetime import datetime

    from worker.clock import Clock
    from worker.events import Events
    from worker.retry import RetryPolicy
    from worker.runner import Runner

__all__ = ["FirstRun", "ScheduledTask", "Scheduler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRun:
    """When tasks run first after a start.

    Attributes:
        delay: From the start to the first of them.
        spread: Over how long the first runs of all tasks are spread.
    """

    delay: timedelta = timedelta(seconds=1)
    spread: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class ScheduledTask:
    """A registered task. ``interval`` is ``None`` for one that only runs by hand."""

    definition: TaskDefinition
    interval: timedelta | None


class Scheduler:
    """Runs each registered task every interval, never two runs of one at the same time."""

    def __init__(
        self,
        runner: Runner,
        *,
        clock: Clock,
        events: Events,
        first_run: FirstRun = FirstRun(),
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._events = events
        self._first_run = first_run
        self._tasks: dict[str, ScheduledTask] = {}
        self._schedules: dict[str, Interval] = {}
        self._timers: Any = AsyncIOScheduler(timezone=UTC)
        self._timers.add_executor(SlotExecutor(self.take), alias="slots")
        self._runs: set[asyncio.Task[Any]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._stopping = False

    @property
    def tasks(self) -> Mapping[str, ScheduledTask]:
        """Every registered task, by name."""
        return self._tasks

    def register_task(
        self,
        task: type[BaseTask] | Callable[..., Any],
        *,
        interval_seconds: float | None = None,
        interval: timedelta | None = None,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        time_limit: timedelta | None = None,
    ) -> None:
        """Have ``task`` run every interval.

        Args:
            task: A `BaseTask` subclass, of which each run gets a new instance with the shared
                client; or an async function without arguments, or with one for the shared client.
                A ``functools.partial`` of either fixes further arguments.
            interval_seconds: The interval in seconds. Give this or ``interval``, not both.
            interval: The interval. ``0`` keeps the task for ``worker run`` and schedules nothing.
            name: The task's name, if not the class's or function's own.
            retry: Overrides the class's own policy.
            time_limit: Overrides the class's own limit.

        Raises:
            TaskDefinitionError: Not a task, no or two intervals, a negative one, or a name that
                another task has.
        """
        definition = TaskDefinition.of(task, name=name, retry=retry, time_limit=time_limit)
        every = one_interval(definition.name, interval_seconds, interval)
        other = self._tasks.get(definition.name)
        if other is not None:
            raise TaskDefinitionError(
                f"two tasks are named {definition.name!r}: {other.definition.defined_in} and "
                f"{definition.defined_in}; give one of them another name"
            )
        if self._timers.running:
            raise TaskDefinitionError(
                f"{definition.name!r} comes too late: register tasks before the scheduler starts"
            )
        self._tasks[definition.name] = ScheduledTask(definition, every or None)

    def start(self, group: asyncio.TaskGroup | None = None) -> None:
        """Begin to take slots, in the running event loop.

        Args:
            group: Owns the runs' asyncio tasks; without one, the scheduler itself holds them.
        """
        self._group = group
        self._stopping = False
        active = [(name, task.interval) for name, task in self._tasks.items() if task.interval]
        starts = first_slots(
            self._clock.now(),
            [every for _, every in active],
            delay=self._first_run.delay,
            spread=self._first_run.spread,
        )
        for (name, every), first in zip(active, starts, strict=True):
            self._schedules[name] = schedule = Interval(every, first)
            self._timers.add_job(
                never_called,
                SlotTrigger(schedule),
                id=name,
                executor="slots",
                next_run_time=first,
                misfire_grace_time=None,
                coalesce=False,
            )
        self._timers.start()

    def next_slot(self, name: str) -> datetime | None:
        """The next slot of a task; ``None`` when it has no schedule, or none yet."""
        schedule = self._schedules.get(name)
        return schedule.after(self._clock.now()) if schedule else None

    def take(self, name: str, due: Sequence[datetime]) -> None:
        """Run the last of the slots that are due, and account for the others."""
        oldest, slot = due[0], due[-1]
        missed = self._schedules[name].count(oldest, slot)
        if missed:
            self._skip(name, oldest, "missed", count=missed)
        if self._stopping:
            self._skip(name, slot, "stopping")
            return
        if self._runner.running_since(name) is not None:
            self._skip(name, slot, "overlap")
            return
        run = self._runner.run(self._tasks[name].definition, trigger=Trigger.SCHEDULE, slot=slot)
        self._spawn(run, f"slot:{name}")

    async def stop(self, grace: timedelta) -> None:
        """Take no more slots, wait up to ``grace`` for the runs to end, then cancel the rest."""
        self._stopping = True  # the timers go on, so that a slot that is due meanwhile is told
        if self._runs:
            await asyncio.wait(self._runs, timeout=grace.total_seconds())
        for run in self._runs:
            run.cancel()
        if self._runs:
            await asyncio.wait(self._runs)  # the runner bounds this: it leaves behind what hangs
        if self._timers.running:
            self._timers.shutdown(wait=False)

    def _skip(self, name: str, slot: datetime, reason: str, count: int = 1) -> None:
        self._events.announce(
            SlotSkipped(
                task=name,
                slot=slot,
                reason=reason,
                count=count,
                running_since=self._runner.running_since(name),
            )
        )

    def _spawn(self, run: Coroutine[Any, Any, Any], name: str) -> None:
        owner = self._group or asyncio.get_running_loop()
        task = owner.create_task(run, name=name)
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)


class SlotTrigger(BaseTrigger):
    """Tells APScheduler the slots of an `Interval`.

    When many slots have passed it names only the first and the last of them, so that a machine
    that slept for a week does not wake up to a list of 600,000.
    """

    def __init__(self, schedule: Interval) -> None:
        self._schedule = schedule

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        if previous_fire_time is None:
            return self._schedule.first
        following = self._schedule.after(previous_fire_time)
        latest = self._schedule.latest(now)
        return max(following, latest) if latest else following


class SlotExecutor(BaseExecutor):
    """Hands what is due to the scheduler, at once and in the event loop."""

    def __init__(self, take: Callable[[str, Sequence[datetime]], None]) -> None:
        super().__init__()
        self._take = take

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        self._take(job.id, run_times)
        # Balances what APScheduler counts as a running instance, as its own DebugExecutor does.
        self._run_job_success(job.id, [])


def never_called() -> None:
    """What APScheduler believes to be the job; `SlotExecutor` runs the task instead."""


def one_interval(
    name: str, interval_seconds: float | None, interval: timedelta | None
) -> timedelta:
    if (interval_seconds is None) == (interval is None):
        raise TaskDefinitionError(
            f"{name!r} needs its interval once: expected interval_seconds=… or interval=…, got "
            f"{'neither' if interval is None else 'both'}"
        )
    if interval is None:
        assert interval_seconds is not None
        try:
            interval = timedelta(seconds=interval_seconds)
        except (TypeError, ValueError, OverflowError) as exc:
            raise TaskDefinitionError(
                f"{name!r}: expected a number of seconds, got {interval_seconds!r}"
            ) from exc
    if not isinstance(interval, timedelta):
        raise TaskDefinitionError(f"{name!r}: expected a timedelta, got {interval!r}")
    if interval < OFF:
        raise TaskDefinitionError(f"{name!r}: an interval cannot be negative, got {interval}")
    if interval > LONGEST:
        raise TaskDefinitionError(
            f"{name!r}: an interval can be up to {LONGEST.days} days, got {interval}; 0 is never"
        )
    return interval
