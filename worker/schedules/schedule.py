"""When a task is due, and when it may start. Pure arithmetic: no clock, no I/O.

A *slot* is one moment at which a schedule is due. Slots are anchored to the calendar, not to the
start of the worker: a restart moves nothing. All moments that are handed in are aware, of whatever
time zone; all that are handed out are in UTC.

Jitter puts off the start of a slot's run, never the slot: its *due moment* is the slot plus a
delay that follows from the task's name and the slot, the same on each machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from worker.durations import format_duration
from worker.schedules.cron import Table, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Cron",
    "Interval",
    "Once",
    "Schedule",
    "Within",
    "due_until",
    "jitter_of",
    "next_due",
    "phase_of",
    "slots_between",
]

OFF = timedelta(0)
"""The interval that stands for "never"."""
LONGEST = timedelta(days=3650)
"""The longest interval: with it, no slot lies beyond what a date can hold."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Where the slots of intervals are counted from."""
EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MILLISECOND = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@runtime_checkable
class Schedule(Protocol):
    """When something is due. An implementation guarantees:

    * Slots are in UTC, strictly ascending, and the same whenever and wherever one asks.
    * ``after`` and ``until`` meet: ``after(m)`` is the slot that follows ``until(m)``.
    * ``str()`` says to humans what it is: ``every 1h``, ``0 3 * * * Europe/Berlin``.
    * Nothing raises but ``ValueError``, and that only for a moment without a time zone.
    """

    def after(self, moment: datetime) -> datetime | None:
        """The first slot later than ``moment``; ``None`` if there is never one again."""
        ...

    def until(self, moment: datetime) -> datetime | None:
        """The last slot at or before ``moment``; ``None`` if there was none yet."""
        ...

    def count(self, start: datetime, end: datetime) -> int:
        """How many slots are later than ``start`` and not later than ``end``; 0 if none can be."""
        ...


@dataclass(frozen=True, slots=True)
class Interval:
    """Slots at ``EPOCH + phase + n * every``, for all whole ``n``: no beginning, and no end.

    Attributes:
        every: The distance of two slots; more than nothing, at most `LONGEST`.
        phase: Where in the interval the slots are. What comes is reduced to less than ``every``.

    Raises:
        ValueError: ``every`` is out of its range.
    """

    every: timedelta
    phase: timedelta = OFF

    def __post_init__(self) -> None:
        if self.every <= OFF:
            raise ValueError(f"an interval must be positive, such as 90s or 1h; got {self.every}")
        if self.every > LONGEST:
            raise ValueError(
                f"an interval can be up to {LONGEST.days} days, got {self.every}; use a cron "
                "expression, or a moment, for what is rarer"
            )
        object.__setattr__(self, "phase", self.phase % self.every)

    def after(self, moment: datetime) -> datetime | None:
        return self._slot(self._number(as_utc(moment)) + 1)

    def until(self, moment: datetime) -> datetime | None:
        return self._slot(self._number(as_utc(moment)))

    def count(self, start: datetime, end: datetime) -> int:
        return max(0, self._number(as_utc(end)) - self._number(as_utc(start)))

    def _number(self, moment: datetime) -> int:
        return (moment - EPOCH - self.phase) // self.every

    def _slot(self, number: int) -> datetime | None:
        try:
            return EPOCH + (self.phase + number * self.every)
        except OverflowError:  # before the year 1 or after the year 9999
            return None

    def __str__(self) -> str:
        return f"every {format_duration(self.every)}"


@dataclass(frozen=True, slots=True)
class Cron:
    """Slots that a cron expression names on the clocks of a time zone.

    Five fields: minute, hour, day of month (also ``L`` and ``LW``, the last day and the last
    weekday), month, day of week (0 and 7 are Sunday; ``FRI#2`` is the second, ``5L`` the last
    Friday), with names, lists, ranges and steps; or ``@hourly``, ``@daily`` (``@midnight``),
    ``@weekly``, ``@monthly``, ``@yearly`` (``@annually``).

    * A name is English, in any case, and three letters or longer: ``FRI``, ``Friday``.
    * ``?`` is ``*``.
    * A range may go on past the end of its field: ``22-2``, ``FRI-MON``, ``NOV-FEB``.
    * A step counts within its range, so ``5-5/15`` is ``5``; ``5/15`` is ``5-59/15``. A step as
      large as its field is refused, since each field begins again (``*/90``).

    If both day fields are restricted, a day that matches either is meant; if one of them begins
    with ``*``, both must match: Debian cron's rule, by which ``0 0 */2 * MON`` are the Mondays
    with an odd date.

    When the clocks change, Debian cron's rule holds too:

    * A fixed minute and hour: a time that does not exist is due the moment the clocks jump (02:30
      at 03:00, and with all else that was skipped: one slot). A time that comes twice is due the
      first time only. So each day has its run.
    * A minute or hour that begins with ``*``: real time counts. What does not exist is left out,
      what comes twice is due twice. In Europe/Berlin, ``*/30 * * * *`` has 46 slots on the day in
      March and 50 on the day in October, ``*/30 2 * * *`` none and four.

    Slots lie in the years 2 to 9900.

    Attributes:
        expression: The fields, or one of the names.
        timezone: The IANA name of the zone; UTC unless said otherwise.

    Raises:
        ValueError: The expression is malformed, or names no day that exists (``0 0 31 2 *``); or
            there is no such time zone.
    """

    expression: str
    timezone: str = "UTC"
    _table: Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_table", table_of(self.expression, self.timezone))
        object.__setattr__(self, "expression", " ".join(self.expression.split()))

    def after(self, moment: datetime) -> datetime | None:
        return self._table.after(as_utc(moment))

    def until(self, moment: datetime) -> datetime | None:
        return self._table.until(as_utc(moment))

    def count(self, start: datetime, end: datetime) -> int:
        return self._table.count(as_utc(start), as_utc(end))

    def __str__(self) -> str:
        return f"{self.expression} {self.timezone}"


@dataclass(frozen=True, slots=True)
class Once:
    """A single slot.

    Raises:
        ValueError: ``at`` has no time zone.
    """

    at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", as_utc(self.at))

    def after(self, moment: datetime) -> datetime | None:
        return self.at if as_utc(moment) < self.at else None

    def until(self, moment: datetime) -> datetime | None:
        return self.at if self.at <= as_utc(moment) else None

    def count(self, start: datetime, end: datetime) -> int:
        start, end = as_utc(start), as_utc(end)
        return int(start < self.at <= end)

    def __str__(self) -> str:
        return f"once at {told(self.at)}"


@dataclass(frozen=True, slots=True)
class Within:
    """The slots of another schedule that lie in a period.

    Attributes:
        schedule: The schedule whose slots these are.
        start_at: The first moment of the period; ``None``: it has no beginning.
        end_at: The first moment that is not in the period any more; ``None``: it has no end.

    Raises:
        ValueError: A moment has no time zone, or the period does not end after it starts.
    """

    schedule: Schedule
    start_at: datetime | None = None
    end_at: datetime | None = None

    def __post_init__(self) -> None:
        start = EARLIEST if self.start_at is None else as_utc(self.start_at)
        end = LATEST if self.end_at is None else as_utc(self.end_at)
        if self.start_at is not None:
            object.__setattr__(self, "start_at", start)
        if self.end_at is not None:
            object.__setattr__(self, "end_at", end)
        if end <= start:
            raise ValueError(
                f"a schedule must end after it starts, but it starts at {told(start)} and ends at "
                f"{told(end)}; the end itself is not part of it"
            )

    def after(self, moment: datetime) -> datetime | None:
        moment = as_utc(moment)
        if self.start_at is not None and moment < self.start_at:
            moment = just_before(self.start_at)
        return self._if_inside(self.schedule.after(moment))

    def until(self, moment: datetime) -> datetime | None:
        moment = as_utc(moment)
        if self.end_at is not None and moment >= self.end_at:
            moment = just_before(self.end_at)
        return self._if_inside(self.schedule.until(moment))

    def count(self, start: datetime, end: datetime) -> int:
        start, end = as_utc(start), as_utc(end)
        if self.start_at is not None and start < self.start_at:
            start = just_before(self.start_at)
        if self.end_at is not None and end >= self.end_at:
            end = just_before(self.end_at)
        return self.schedule.count(start, end)

    def _if_inside(self, slot: datetime | None) -> datetime | None:
        if slot is None or (self.start_at is not None and slot < self.start_at):
            return None
        return None if self.end_at is not None and slot >= self.end_at else slot

    def __str__(self) -> str:
        start = "" if self.start_at is None else f" from {told(self.start_at)}"
        end = "" if self.end_at is None else f" until {told(self.end_at)}"
        return f"{self.schedule}{start}{end}"


def slots_between(schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    """The slots later than ``start`` and not later than ``end``, ascending."""
    end = as_utc(end)
    slot = schedule.after(start)
    while slot is not None and slot <= end:
        yield slot
        slot = schedule.after(slot)


def phase_of(name: str, every: timedelta) -> timedelta:
    """Where in an interval the slots of the task ``name`` are: the same on each machine.

    Tasks with the same interval are spread over it. Whole seconds for intervals from a minute on,
    whole milliseconds for shorter ones; less than ``every``.

    Raises:
        ValueError: ``every`` is not positive.
    """
    if every <= OFF:
        raise ValueError(f"an interval must be positive, such as 90s or 1h; got {every}")
    unit = SECOND if every >= MINUTE else MILLISECOND
    return number_of(name) % max(1, every // unit) * unit


def jitter_of(name: str, slot: datetime, most: timedelta, gap: timedelta) -> timedelta:
    """How long the run of the task ``name`` for ``slot`` is put off: the same on each machine.

    At most ``most``, and less than ``gap``, the distance to the next slot, so that due moments
    keep the order of the slots.

    Raises:
        ValueError: ``most`` is negative, ``gap`` is not positive, or ``slot`` has no time zone.
    """
    if most < OFF:
        raise ValueError(f"the longest jitter must not be negative, got {most}; 0 is none")
    if gap <= OFF:
        raise ValueError(f"the next slot must be later, got a distance of {gap}")
    slot = as_utc(slot)
    choices = min(most // MICROSECOND + 1, gap // MICROSECOND)
    return number_of(f"{name} {slot.isoformat()}") % choices * MICROSECOND


def due_until(
    schedule: Schedule, name: str, most_jitter: timedelta, now: datetime
) -> datetime | None:
    """The last slot whose due moment is at or before ``now``; ``None`` if there was none yet."""
    now = as_utc(now)
    slot = schedule.until(now)
    if slot is None or delay_of(schedule, name, most_jitter, slot) <= now - slot:
        return slot
    return schedule.until(just_before(slot))  # it was due before this slot began


def next_due(
    schedule: Schedule, name: str, most_jitter: timedelta, now: datetime
) -> tuple[datetime, datetime] | None:
    """The first slot whose due moment is later than ``now``, and that moment; ``None``: no more."""
    now = as_utc(now)
    slot = schedule.until(now)
    if slot is not None:
        delay = delay_of(schedule, name, most_jitter, slot)
        if delay > now - slot:
            return slot, slot + min(delay, LATEST - slot)
    slot = schedule.after(now)
    if slot is None:
        return None
    return slot, slot + min(delay_of(schedule, name, most_jitter, slot), LATEST - slot)


def delay_of(schedule: Schedule, name: str, most: timedelta, slot: datetime) -> timedelta:
    if most == OFF:
        return OFF
    following = schedule.after(slot)
    # Nothing comes after the last slot that its run could be mixed up with.
    return jitter_of(name, slot, most, LONGEST if following is None else following - slot)


def number_of(text: str) -> int:
    """A number that looks random, and is the same for the same text everywhere."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def as_utc(moment: datetime) -> datetime:
    """``moment`` in UTC; what UTC has no date for is the first or the last moment that it has.

    Raises:
        ValueError: ``moment`` has no time zone.
    """
    if moment.tzinfo is UTC:
        return moment
    if moment.utcoffset() is None:
        raise ValueError(
            f"a moment must have a time zone, got {moment.isoformat()}; say which, such as "
            f"{moment.isoformat()}Z for UTC"
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return EARLIEST if moment.year == EARLIEST.year else LATEST


def just_before(moment: datetime) -> datetime:
    """The last moment in UTC before this one, if there is any."""
    return moment - MICROSECOND if moment > EARLIEST else moment


def told(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
