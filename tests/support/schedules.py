"""Schedules to try, moments to try them at, and what their slots are by plain counting."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim
from hypothesis import strategies as st

from tests.support.clock import START
from worker.schedules.schedule import Cron, Interval, Once, Schedule, Within

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
# When clocks changed: by an hour, by half of one, at midnight, a minute after it, by a
# whole day, half an hour before the new year.
CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ("Africa/Casablanca", datetime(2026, 2, 15, 2, tzinfo=UTC)),
    ("Africa/Casablanca", datetime(2026, 3, 22, 2, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 2, 18, 2, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 4, 3, tzinfo=UTC)),
    ("America/St_Johns", datetime(2010, 3, 14, 3, 31, tzinfo=UTC)),
    ("America/St_Johns", datetime(2010, 11, 7, 2, 31, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),
    ("Asia/Singapore", datetime(1981, 12, 31, 16, tzinfo=UTC)),
    ("Asia/Kolkata", datetime(2026, 12, 31, 18, 30, tzinfo=UTC)),
    ("UTC", datetime(2028, 2, 29, tzinfo=UTC)),
]

offsets = st.timedeltas(min_value=-2 * DAY, max_value=2 * DAY)
near_the_change = st.one_of(
    st.integers(-240, 240).map(lambda minutes: minutes * MINUTE),
    st.timedeltas(min_value=-4 * HOUR, max_value=4 * HOUR),
    offsets,
)
minutes = st.sampled_from(["*", "*/20", "*/7", "0", "1", "30", "0,30", "15-45/15", "59", "0-59/20"])
hours = st.sampled_from(["*", "*/2", "0", "1", "2", "2,3", "0-3", "23", "0,12", "22-23", "0-23"])
days = st.sampled_from(
    ["* * *"] * 6
    + ["25 * *", "29,30 * *", "1-15 * *", "L * *", "LW * *", "* * SUN", "* * 6", "* * SUN#2"]
    + ["* 3,10 *", "31 12 *", "30 12 *", "4 11 SUN", "*/2 * SUN", "* 2 MON#5", "* * 0L"]
)
expressions = st.builds("{} {} {}".format, minutes, hours, days)


def slots_by_counting(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """The slots of a cron expression later than ``start``, up to ``end``; both whole minutes.

    Looks at each minute on its own. `CronSim` is asked on a calendar without a zone.
    """
    place = ZoneInfo(zone)
    begin, stop = (moment.replace(tzinfo=None) for moment in (start - 3 * DAY, end + 3 * DAY))
    walls = set(takewhile(lambda wall: wall < stop, CronSim(expression, begin)))
    if any(clock.startswith("*") for clock in expression.split()[:2]):
        found = {
            moment
            for number in range((end - start) // MINUTE + 1)
            if (moment := start + number * MINUTE).astimezone(place).replace(tzinfo=None) in walls
        }
    else:
        found = {first_that_exists(wall, place) for wall in walls}
    return sorted(slot for slot in found if start < slot <= end)


def first_that_exists(wall: datetime, zone: ZoneInfo) -> datetime:
    while (moment := wall.replace(tzinfo=zone).astimezone(UTC)).astimezone(zone).replace(
        tzinfo=None
    ) != wall:
        wall += MINUTE
    return moment


def strictly_ascending(moments: list[datetime]) -> bool:
    return all(one < other for one, other in pairwise(moments))


def around(slots: list[datetime], moment: datetime) -> tuple[datetime | None, datetime | None]:
    """The last of ``slots`` at or before ``moment``, and the first later one."""
    place = bisect_left(slots, moment + datetime.resolution)
    return (slots[place - 1] if place else None), (slots[place] if place < len(slots) else None)


moments = st.one_of(
    st.builds(lambda change, offset: change[1] + offset, st.sampled_from(CHANGES), near_the_change),
    offsets.map(lambda offset: START + offset),
)
intervals = st.builds(
    Interval,
    st.one_of(
        st.timedeltas(min_value=timedelta(minutes=2), max_value=5 * HOUR),
        st.sampled_from([MINUTE, 15 * MINUTE, HOUR, 6 * HOUR, DAY]),
    ),
    st.timedeltas(min_value=-DAY, max_value=DAY),
)
crons = st.builds(Cron, expressions, st.sampled_from(CHANGES).map(lambda change: change[0]))
unbounded: st.SearchStrategy[Schedule] = st.one_of(intervals, crons, st.builds(Once, moments))


@st.composite
def periods(draw: st.DrawFn) -> Schedule:
    start, end = sorted(draw(st.lists(moments, min_size=2, max_size=2, unique=True)))
    return Within(
        draw(unbounded),
        draw(st.sampled_from([None, start])),
        draw(st.sampled_from([None, end])),
    )


schedules = st.one_of(unbounded, periods())
