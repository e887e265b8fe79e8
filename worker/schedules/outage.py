"""Times without any worker, as one would like to see them in a preview."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

from worker.schedules.cron import first_time
from worker.schedules.schedule import as_utc

if TYPE_CHECKING:
    from collections.abc import Iterable
    from zoneinfo import ZoneInfo

__all__ = ["Outage", "merged", "parse_outage"]

DAY = timedelta(days=1)
DAILY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-4]):([0-5]\d)")
EXPECTED = (
    "expected an outage such as 02:00-05:00 (each day), or 2026-10-25T02:00/2026-10-25T05:00 (once)"
)


@dataclass(frozen=True, slots=True)
class Outage:
    """From ``start`` on no worker is up, until ``end``, when all are started again.

    Raises:
        ValueError: A moment has no time zone, or the outage does not end after it starts.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", as_utc(self.start))
        object.__setattr__(self, "end", as_utc(self.end))
        if self.end <= self.start:
            raise ValueError(
                f"an outage must end after it starts, got {self.start.isoformat()} to "
                f"{self.end.isoformat()}"
            )


def parse_outage(
    text: str, zone: ZoneInfo, *, start: datetime, end: datetime
) -> tuple[Outage, ...]:
    """The outages that ``text`` names and that touch the time from ``start`` to ``end``.

    ``02:00-05:00`` is one each day on the clocks of ``zone``, also over midnight
    (``22:00-04:00``); so on a day whose clocks change it is longer or shorter.
    ``2026-10-25T02:00/2026-10-25T05:00`` is one outage; moments without a distance from UTC are
    read on the same clocks, the first time where they come twice.

    Raises:
        ValueError: It is neither, or ends when it starts.
    """
    compact = text.strip()
    daily = DAILY.fullmatch(compact)
    if daily is not None:
        hours = [int(number) for number in daily.groups()]
        begin, close = (
            timedelta(hours=hours[0], minutes=hours[1]),
            timedelta(hours=hours[2], minutes=hours[3]),
        )
        if begin == close or close > DAY:
            raise ValueError(f"{EXPECTED}, got {text!r}")
        found = daily_outages(begin, close, zone, start, end)
    else:
        begins, _, ends = compact.partition("/")
        try:
            start_of, end_of = moment_of(begins, zone), moment_of(ends, zone)
        except ValueError as exc:
            raise ValueError(f"{EXPECTED}, got {text!r}") from exc
        found = [Outage(start_of, end_of)]
    return tuple(outage for outage in found if outage.start < end and outage.end > start)


def daily_outages(
    begin: timedelta, close: timedelta, zone: ZoneInfo, start: datetime, end: datetime
) -> list[Outage]:
    if close < begin:
        close += DAY
    day: date = start.astimezone(zone).date() - DAY
    found = []
    while day <= end.astimezone(zone).date():
        midnight = datetime.combine(day, time())
        first, last = first_time(midnight + begin, zone), first_time(midnight + close, zone)
        if first < last:  # not so where the clocks jump over all of it
            found.append(Outage(first, last))
        day += DAY
    return found


def moment_of(text: str, zone: ZoneInfo) -> datetime:
    moment = datetime.fromisoformat(text.strip())
    return first_time(moment, zone) if moment.tzinfo is None else moment


def merged(outages: Iterable[Outage]) -> list[Outage]:
    """The same times without a worker, ascending, as few and as long as possible."""
    found: list[Outage] = []
    for outage in sorted(outages, key=lambda outage: outage.start):
        if found and outage.start <= found[-1].end:
            found[-1] = Outage(found[-1].start, max(found[-1].end, outage.end))
        else:
            found.append(outage)
    return found
