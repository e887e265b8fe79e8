"""Which of the slots that nobody looked after still run. Pure arithmetic: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from worker.schedules.schedule import EARLIEST, OFF, Schedule, as_utc, just_before, slots_between

__all__ = ["CatchUp", "CatchUpPolicy", "Plan", "Span"]

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive slots of a schedule.

    Attributes:
        first: The oldest of them.
        last: The newest of them; the same as ``first`` if it is one.
        count: How many, both ends included.
    """

    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of slots that nobody looked after yet: each is in exactly one of the two.

    Attributes:
        run: The slots that run now, ascending.
        missed: Those that never will, ascending, in as few spans as possible.
    """

    run: tuple[datetime, ...] = ()
    missed: tuple[Span, ...] = ()


class CatchUpPolicy(StrEnum):
    """Which of the slots that are late, but not too late, run."""

    LATEST = "latest"
    """The newest only."""
    EARLIEST = "earliest"
    """The oldest only."""
    ALL = "all"
    """All, but not more than the limit; the newest have precedence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp:
    """How late a slot may run, and how many of those that are late do.

    Attributes:
        policy: Which ones; by default the newest.
        window: How late a slot may be. ``None``, the default: until the next slot, and at most an
            hour. So the newest slot runs unless it is more than an hour late.
        limit: How many run at most with the policy ``all``; by default 10.

    Raises:
        ValueError: ``window`` is not positive, or ``limit`` is less than one.
    """

    policy: CatchUpPolicy = CatchUpPolicy.LATEST
    window: timedelta | None = None
    limit: int = 10

    def __post_init__(self) -> None:
        if self.window is not None and self.window <= OFF:
            raise ValueError(
                f"a catch-up window must be positive, got {self.window}: a run always starts a "
                "little late; leave it out for one interval"
            )
        if self.limit < 1:
            raise ValueError(
                f"the limit of runs to catch up with must be 1 or more, got {self.limit}; use the "
                "policy 'latest' for no more than one"
            )

    def plan(
        self,
        schedule: Schedule,
        *,
        since: datetime,
        now: datetime,
        until: datetime | None = None,
    ) -> Plan:
        """What becomes of every slot later than ``since`` and not later than ``until``.

        Args:
            since: The furthest moment that an earlier plan accounted for.
            now: What a slot's lateness is judged by. If it is not later than ``since``, because
                the clock was set back, there is nothing to do.
            until: Slots after it are not due yet, for their jitter; by default ``now``.

        Raises:
            ValueError: A moment has no time zone.
        """
        since, now = as_utc(since), as_utc(now)
        end = now if until is None else min(now, as_utc(until))
        run = self._run(schedule, max(since, self._reach(schedule, now)), end)
        if not run:
            return Plan(missed=spans(schedule, since, end))
        earlier = spans(schedule, since, just_before(run[0]))
        return Plan(run, earlier + spans(schedule, run[-1], end))

    def _reach(self, schedule: Schedule, now: datetime) -> datetime:
        """A slot after this moment is not too late."""
        reach = now - min(HOUR if self.window is None else self.window, now - EARLIEST)
        if self.window is None:
            # The slots whose next one is not before now: this one, and one that is now.
            newest = schedule.until(just_before(now))
            reach = reach if newest is None else max(reach, newest)
        return just_before(reach)

    def _run(self, schedule: Schedule, reach: datetime, now: datetime) -> tuple[datetime, ...]:
        match self.policy:
            case CatchUpPolicy.LATEST:
                return newest_slots(schedule, reach, now, 1)
            case CatchUpPolicy.ALL:
                return newest_slots(schedule, reach, now, self.limit)
            case CatchUpPolicy.EARLIEST:
                oldest = next(slots_between(schedule, reach, now), None)
                return () if oldest is None else (oldest,)
        assert_never(self.policy)


def newest_slots(
    schedule: Schedule, start: datetime, end: datetime, limit: int
) -> tuple[datetime, ...]:
    """The last slots later than ``start`` and not later than ``end``, ascending."""
    found: list[datetime] = []
    slot = schedule.until(end)
    while slot is not None and slot > start and len(found) < limit:
        found.append(slot)
        slot = schedule.until(just_before(slot))
    return tuple(reversed(found))


def spans(schedule: Schedule, start: datetime, end: datetime) -> tuple[Span, ...]:
    """All slots later than ``start`` and not later than ``end``: one span, or none."""
    first, last = schedule.after(start), schedule.until(end)
    if first is None or last is None or last < first:
        return ()
    return (Span(first, last, schedule.count(start, end)),)
