"""Why a slot in a preview came out as it did, in a few words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from worker.durations import format_duration
from worker.schedules.catch_up import HOUR
from worker.schedules.cron import days_of, shifts, table_of
from worker.schedules.expression import rhythm_notes
from worker.schedules.schedule import SECOND, Cron, Schedule, Within

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from zoneinfo import ZoneInfo

    from worker.ledger.book import Entry
    from worker.schedules.catch_up import CatchUp
    from worker.schedules.cron import Table
    from worker.schedules.policies import TaskSchedule

__all__ = ["clock_note", "joined", "missed_note", "short", "uneven_notes"]

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def short(duration: timedelta) -> str:
    """``duration`` for reading: what does not matter beside the rest is cut off."""
    for least, unit in ((DAY, HOUR), (HOUR, MINUTE), (SECOND, SECOND)):
        if duration >= least:
            return format_duration(duration // unit * unit)
    return format_duration(duration)


def missed_note(
    missed: Entry, taken: Sequence[Entry], *, now: datetime, catch_up: CatchUp, down: bool
) -> str:
    """Why the slots of ``missed`` never ran, and others that were late as well were ``taken``."""
    late = now - (missed.last or missed.slot)
    window = HOUR if catch_up.window is None else catch_up.window
    if late > window:
        told = short(late) if late >= window + MINUTE else format_duration(late // SECOND * SECOND)
        reason = f"{told} late, beyond the catch-up window of {format_duration(window)}"
    elif any(entry.slot > missed.slot for entry in taken):
        reason = "a later slot ran instead"
    elif taken:
        reason = "an earlier slot ran instead"
    else:
        reason = f"{short(late)} late, after the next slot had begun"
    return joined("worker down" if down else "", reason)


def uneven_notes(schedules: Iterable[TaskSchedule]) -> list[str]:
    """Where the steps of a cron expression are not all of one length."""
    notes = []
    for terms in schedules:
        schedule = terms.schedule
        while isinstance(schedule, Within):
            schedule = schedule.schedule
        if isinstance(schedule, Cron):
            notes += [f"{terms.task}: {note}" for note in rhythm_notes(schedule.expression)]
    return notes


def clock_note(schedule: Schedule, slot: datetime) -> str:
    """What a change of the clocks has to do with a slot; empty if nothing."""
    while isinstance(schedule, Within):
        schedule = schedule.schedule
    if not isinstance(schedule, Cron):
        return ""
    table = table_for(schedule.expression, schedule.timezone)
    local = slot.astimezone(table.zone)
    if local.date() not in shifts(table.zone, local.year):
        return ""
    wall = local.replace(tzinfo=None)
    skipped = skipped_before(table, slot, wall)
    if skipped:
        several = f"{skipped[0]:%H:%M} … {skipped[-1]:%H:%M} do"
        one = f"{skipped[0]:%H:%M} does"
        which = one if len(skipped) == 1 else several
        return f"clocks jumped: {which} not exist in {schedule.timezone}"
    first, second = both_readings(wall, table.zone)
    if first == second:
        return ""
    this = "first" if slot == first else "second"
    what = f"this is the {this} time" if table.steady else "runs the first time"
    return f"{wall:%H:%M} comes twice in {schedule.timezone}, {what}"


@lru_cache(maxsize=64)
def table_for(expression: str, timezone: str) -> Table:
    return table_of(expression, timezone)


def skipped_before(table: Table, slot: datetime, wall: datetime) -> list[datetime]:
    """The times that the expression names and that the clocks jumped over to arrive at a slot."""
    gap = wall - (slot - SECOND).astimezone(table.zone).replace(tzinfo=None) - SECOND
    begin, skipped = wall - gap, []
    day = begin.date()
    while gap > timedelta(0) and day <= wall.date():
        if day in days_of(table.days, day.year):
            midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - no zone has it
            skipped += [midnight + when for when in table.times if begin <= midnight + when < wall]
        day += DAY
    return skipped


def both_readings(wall: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """When the clocks show ``wall`` the first, and the last time."""
    return (
        wall.replace(tzinfo=zone, fold=0).astimezone(UTC),
        wall.replace(tzinfo=zone, fold=1).astimezone(UTC),
    )
