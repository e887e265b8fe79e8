"""What can be said of a task's schedule when it is registered, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypedDict, TypeVar

from worker.durations import as_duration
from worker.errors import TaskDefinitionError, nearest
from worker.schedules.catch_up import CatchUp, CatchUpPolicy
from worker.schedules.policies import Overlap, Policies, TaskSchedule
from worker.schedules.schedule import (
    EPOCH,
    LONGEST,
    OFF,
    Cron,
    Interval,
    Once,
    Schedule,
    Within,
    as_utc,
    phase_of,
)

__all__ = ["ScheduleOptions", "task_schedule"]

Choice = TypeVar("Choice", bound=StrEnum)
WHEN = ("interval", "interval_seconds", "cron", "at")
GOES_WITH = {"timezone": ("cron",), "phase": ("interval", "interval_seconds")}
"""Options that only have a meaning beside one of the others."""


class ScheduleOptions(TypedDict, total=False):
    """When a task runs: one of ``interval``, ``interval_seconds``, ``cron`` and ``at``, and more.

    A duration is a ``timedelta``, a number of seconds, or a text such as ``"5m"``.

    Keys:
        interval: The time between two slots; ``0`` keeps the task for runs by hand.
        interval_seconds: The same; a number reads well here.
        phase: From midnight UTC of 1970 to a slot. By default the first slot is at ``start_at``;
            without that, the phase is derived from the name.
        cron: Five fields, or ``@hourly`` and the like.
        timezone: The IANA time zone of ``cron``; by default UTC.
        at: One moment, with its time zone.
        start_at, end_at: No slot before the one, nor from the other on.
        jitter: The most a run may be put off.
        overlap: ``skip`` (default), ``buffer_one``, ``buffer_all``, ``cancel_other``,
            ``allow_all``.
        buffer_limit: How many slots may wait with ``buffer_all``; by default 100.
        catchup: ``latest`` (default), ``earliest`` or ``all`` of the slots that are late.
        catchup_window: How late a slot may run; by default one interval, at most one hour.
        catchup_limit: How many late slots ``all`` runs; by default 10.
        max_runs: How many slots run in all; a schedule that changes counts from zero.
        pause_after_failures: Pause the schedule after so many failures in a row.
        retry_lost: How often a slot is run again whose worker died; by default never.
        needs_ledger: Whether the task waits while the store is down; by default it does.
        max_age: How old the last success may become before the task counts as stale; ``off`` for
            no limit.
        params: What a task that takes parameters is run with.
        enqueue: Whether each slot puts a job into the task's queue, instead of running it.
    """

    interval: timedelta | str | float
    interval_seconds: timedelta | str | float
    phase: timedelta | str | float
    cron: str
    timezone: str
    at: datetime | str
    start_at: datetime | str
    end_at: datetime | str
    jitter: timedelta | str | float
    overlap: Overlap | str
    buffer_limit: int
    catchup: CatchUpPolicy | str
    catchup_window: timedelta | str | float
    catchup_limit: int
    max_runs: int
    pause_after_failures: int
    retry_lost: int
    needs_ledger: bool
    max_age: timedelta | str | float
    params: Mapping[str, Any]
    enqueue: bool


def task_schedule(task: str, options: ScheduleOptions | Mapping[str, Any]) -> TaskSchedule:
    """The schedule that ``options`` describe.

    Raises:
        TaskDefinitionError: An option is unknown or out of range, or not exactly one says when.
    """
    said = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(said) - set(ScheduleOptions.__annotations__))
    if unknown:
        known = sorted(ScheduleOptions.__annotations__)
        named = ", ".join(f"{name}{nearest(name, known)}" for name in unknown)
        raise TaskDefinitionError(f"{task!r}: unknown option {named}; known: {', '.join(known)}")
    given = [name for name in WHEN if name in said]
    if len(given) != 1:
        raise TaskDefinitionError(
            f"{task!r} needs to know once when it runs: expected one of interval=…, "
            f"interval_seconds=…, cron=…, at=…, got {' and '.join(given) or 'none'}"
        )
    try:
        return TaskSchedule(task, bounded(schedule_of(task, said), said), policies_of(said))
    except ValueError as exc:
        raise TaskDefinitionError(f"{task!r}: {exc}") from exc


def schedule_of(task: str, said: Mapping[str, Any]) -> Schedule | None:
    for name, owners in GOES_WITH.items():
        if name in said and not any(owner in said for owner in owners):
            raise ValueError(f"{name} goes with {owners[0]}, which is not given")
    if "cron" in said:
        return Cron(as_text(said, "cron"), as_text(said, "timezone", default="UTC"))
    if "at" in said:
        moment = as_moment(said, "at")
        assert moment is not None
        return Once(moment)
    every = interval_of(said)
    if every == OFF:
        return None
    phase, start = duration_of(said, "phase"), as_moment(said, "start_at")
    if phase is None:
        phase = phase_of(task, every) if start is None else start - EPOCH
    return Interval(every, phase)


def interval_of(said: Mapping[str, Any]) -> timedelta:
    name = "interval_seconds" if "interval_seconds" in said else "interval"
    every = duration_of(said, name) or OFF
    if every < OFF:
        raise ValueError(f"an interval cannot be negative, got {every}")
    if every > LONGEST:
        raise ValueError(f"an interval can be up to {LONGEST.days} days, got {every}; 0 is never")
    return every


def bounded(schedule: Schedule | None, said: Mapping[str, Any]) -> Schedule | None:
    start, end = as_moment(said, "start_at"), as_moment(said, "end_at")
    if schedule is None or (start is None and end is None):
        return schedule
    return Within(schedule, start, end)


def policies_of(said: Mapping[str, Any]) -> Policies:
    plain = Policies()
    return Policies(
        overlap=as_choice(said, "overlap", Overlap) or plain.overlap,
        buffer_limit=as_count(said, "buffer_limit") or plain.buffer_limit,
        catch_up=CatchUp(
            policy=as_choice(said, "catchup", CatchUpPolicy) or plain.catch_up.policy,
            window=duration_of(said, "catchup_window"),
            limit=as_count(said, "catchup_limit") or plain.catch_up.limit,
        ),
        jitter=duration_of(said, "jitter") or OFF,
        max_runs=as_count(said, "max_runs"),
        pause_after_failures=as_count(said, "pause_after_failures"),
        retry_lost=as_count(said, "retry_lost", least=0) or 0,
        needs_ledger=as_flag(said, "needs_ledger", default=plain.needs_ledger),
        max_age=duration_of(said, "max_age") or None,
    )


def duration_of(said: Mapping[str, Any], name: str) -> timedelta | None:
    value = said.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value.strip().lower() == "off":
        return OFF
    try:
        return as_duration(value)
    except ValueError as exc:
        raise ValueError(f"{name}: {exc}") from exc


def as_moment(said: Mapping[str, Any], name: str) -> datetime | None:
    value = said.get(name)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as exc:
            raise ValueError(
                f"{name}: expected a moment such as 2026-11-21T09:30:00Z, got {value!r}"
            ) from exc
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(
            f"{name}: expected a moment with its time zone, such as 2026-11-21T09:30:00Z, "
            f"got {value!s}"
        )
    return as_utc(value)


def as_text(said: Mapping[str, Any], name: str, *, default: str = "") -> str:
    value = said.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {value!r}")
    return value


def as_count(said: Mapping[str, Any], name: str, *, least: int = 1) -> int | None:
    value = said.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number from {least} on, got {value!r}")
    return value


def as_flag(said: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = said.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")
    return value


def as_choice(said: Mapping[str, Any], name: str, choices: type[Choice]) -> Choice | None:
    value = said.get(name)
    if value is None:
        return None
    try:
        return choices(value)
    except ValueError as exc:
        known = ", ".join(choices)
        raise ValueError(f"{name}: expected one of {known}, got {value!r}") from exc
