"""What a cron expression means on the calendar of a time zone. Pure: no clock.

`worker.schedules.expression` reads the expression, and `cronsim <https://github.com/cuu508/cronsim>`_
finds the days that it names, on a calendar without a zone; the days on which the clocks change are
worked out here, so that looking forwards, looking backwards and counting
agree. (Asked in a zone, cronsim 2.8 goes back in time from within an hour that comes twice, and
loses slots where the clocks change by half an hour.)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING

from cronsim import CronSim, CronSimError

from worker.schedules.expression import EXPECTED, parse_expression
from worker.schedules.zones import zone_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

__all__ = ["Table", "table_of"]

FIRST_YEAR, LAST_YEAR = 2, 9900  # beyond, a date overflows when a zone is applied to it
EARLIEST = datetime(FIRST_YEAR - 1, 12, 1, tzinfo=UTC)  # no slot is before it, or
LATEST = datetime(LAST_YEAR + 1, 2, 1, tzinfo=UTC)  # after it; both can be told in any zone
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """An expression in a time zone, ready to be looked up. All moments are in UTC.

    A *block* is a day as the zone has it, from its midnight to the next; each slot is in exactly
    one. On most days it holds the same times of the day at one distance from UTC.

    Attributes:
        times: The times of a day, since midnight, ascending.
        days: The last three fields, which name the days.
        steady: Whether slots follow real time when the clocks change, because the minute or the
            hour begins with ``*``.
        zone: The zone whose calendar and clocks count.
    """

    times: tuple[timedelta, ...]
    days: str
    steady: bool
    zone: ZoneInfo

    def after(self, moment: datetime) -> datetime | None:
        """The first slot later than ``moment``."""
        moment = min(max(moment, EARLIEST), LATEST)
        for day in self._days_from(moment.astimezone(self.zone).date()):
            midnight, offsets = block(self, day)
            place = bisect_right(offsets, moment - midnight)
            if place < len(offsets):
                return midnight + offsets[place]
        return None

    def until(self, moment: datetime) -> datetime | None:
        """The last slot at or before ``moment``."""
        moment = min(max(moment, EARLIEST), LATEST)
        # When clocks go back over midnight it is yesterday again, but in the new day's block.
        for day in self._days_back(moment.astimezone(self.zone).date() + DAY):
            midnight, offsets = block(self, day)
            place = bisect_right(offsets, moment - midnight)
            if place > 0:
                return midnight + offsets[place - 1]
        return None

    def count(self, start: datetime, end: datetime) -> int:
        """How many slots are in ``(start, end]``; takes as long as there are days in between."""
        start, end = max(start, EARLIEST), min(end, LATEST)
        if end <= start:
            return 0
        first, last = (moment.astimezone(self.zone).date() for moment in (start, end))
        total = 0
        for day in self._days_from(first):
            if day > last + DAY:
                break
            if first + DAY < day < last:
                changed = day in shifts(self.zone, day.year)
                total += len(block(self, day)[1] if changed else self.times)
            else:
                midnight, offsets = block(self, day)
                total += bisect_right(offsets, end - midnight)
                total -= bisect_right(offsets, start - midnight)
        return total

    def _days_from(self, day: date) -> Iterator[date]:
        for year in range(max(day.year, FIRST_YEAR), LAST_YEAR + 1):
            days = days_to_look_at(self.days, self.zone, year)
            for place in range(bisect_left(days, day), len(days)):
                yield days[place]

    def _days_back(self, day: date) -> Iterator[date]:
        for year in range(min(day.year, LAST_YEAR), FIRST_YEAR - 1, -1):
            days = days_to_look_at(self.days, self.zone, year)
            for place in range(bisect_right(days, day) - 1, -1, -1):
                yield days[place]


def table_of(expression: str, timezone: str) -> Table:
    """The table of an expression in the zone with the IANA name ``timezone``.

    Raises:
        ValueError: The expression is malformed or names no day that exists, or there is no such
            zone.
    """
    read = parse_expression(expression)
    try:
        some_day = next(CronSim(f"0 0 {read.days}", datetime(2000, 1, 1)), None)  # noqa: DTZ001 - no zone
    except CronSimError:  # it looks for months that have the day
        some_day = None
    if some_day is None:  # nor in the 50 years that cronsim looks at, which hold all calendars
        raise ValueError(
            f"{EXPECTED}; got {expression!r}, which names no day that exists; write L as the day "
            "for the last day of a month"
        )
    return Table(read.times, read.days, read.steady, zone_of(timezone))


@lru_cache(maxsize=128)
def days_of(fields: str, year: int) -> frozenset[date]:
    """The days of a year that the fields for day-of-month, month and day-of-week name."""
    new_year = datetime(year, 1, 1)  # noqa: DTZ001 - a calendar without a zone
    found = CronSim(f"0 0 {fields}", new_year - SECOND)
    return frozenset(when.date() for when in takewhile(lambda when: when.year == year, found))


@lru_cache(maxsize=512)
def shifts(zone: ZoneInfo, year: int) -> frozenset[date]:
    """The days of a year within which, or at whose beginning, the distance from UTC changes."""
    found = set()
    day = date(year, 1, 1)
    begin = midnight_of(day, zone)
    before = (begin - SECOND).astimezone(zone).utcoffset()
    while day.year == year:
        end = midnight_of(day + DAY, zone)
        # Two changes never lie within a day of each other: the IANA data has 95 hours at least.
        offset = (end - SECOND).astimezone(zone).utcoffset()
        if offset != before or end - begin != DAY:  # a zone that changed sides skipped a whole day
            found.add(day)
        day, begin, before = day + DAY, end, offset
    return frozenset(found)


@lru_cache(maxsize=128)
def days_to_look_at(fields: str, zone: ZoneInfo, year: int) -> tuple[date, ...]:
    """The days of a year whose block may hold slots, ascending.

    A day whose clocks change is one of them even if the expression does not name it: a time that
    the day before skipped can be made up for at its midnight.
    """
    return tuple(sorted(days_of(fields, year) | shifts(zone, year)))


@lru_cache(maxsize=512)
def block(table: Table, day: date) -> tuple[datetime, tuple[timedelta, ...]]:
    """The moment a day begins, and how long after it its slots are, ascending."""
    midnight = midnight_of(day, table.zone)
    if day not in shifts(table.zone, day.year):
        return midnight, table.times
    end = midnight_of(day + DAY, table.zone)
    slots = {
        slot
        for named in (day - DAY, day)
        if named in days_of(table.days, named.year)
        for when in table.times
        for slot in slots_at(datetime.combine(named, time()) + when, table)
        if midnight <= slot < end
    }
    return midnight, tuple(sorted(slot - midnight for slot in slots))


def slots_at(wall: datetime, table: Table) -> list[datetime]:
    """When a time of the wall clock is due: usually once."""
    if not table.steady:
        return [first_time(wall, table.zone)]
    both = [wall.replace(tzinfo=table.zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    return [slot for slot in both if slot.astimezone(table.zone).replace(tzinfo=None) == wall]


def midnight_of(day: date, zone: ZoneInfo) -> datetime:
    return first_time(datetime.combine(day, time()), zone)


def first_time(wall: datetime, zone: ZoneInfo) -> datetime:
    """When the clocks of ``zone`` first show ``wall``, or jump over it."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return moment
    # The two readings of a time that does not exist lie on either side of the jump (PEP 495).
    before, after = wall.replace(tzinfo=zone, fold=1).astimezone(UTC), moment
    old = before.astimezone(zone).utcoffset()
    while after - before > SECOND:  # changes are at whole seconds
        middle = before + (after - before) // SECOND // 2 * SECOND
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after
