"""A schedule as text that is stored, compared, and turned back into the schedule.

Two schedules with the same text have the same slots. Two texts may still name the same slots
(``1h`` and ``0 * * * *``): that costs nothing but a second version in the ledger.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from worker.schedules.expression import canonical
from worker.schedules.schedule import EPOCH, MICROSECOND, Cron, Interval, Once, Schedule, Within

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["schedule_from", "spec_of"]

UTC_NAMES = frozenset(
    {"Etc/UCT", "Etc/UTC", "Etc/Universal", "Etc/Zulu", "UCT", "Universal", "Zulu"}
)
"""Names of UTC itself."""

compact = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


def spec_of(schedule: Schedule) -> str:
    """The text of a schedule, the same for the same schedule however it was written."""
    return made_spec(cast("Hashable", schedule))


@lru_cache(maxsize=4096)
def made_spec(schedule: Hashable) -> str:
    return compact(plain(schedule))


@lru_cache(maxsize=4096)
def schedule_from(spec: str) -> Schedule | None:
    """The schedule that `spec_of` described; ``None`` if this process cannot make it.

    That is so for a time zone that this machine lacks, and for what a newer version added.
    """
    try:
        return made(json.loads(spec))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def plain(schedule: object) -> dict[str, Any]:
    match schedule:
        case Interval(every=every, phase=phase):
            return {"every": every // MICROSECOND, "phase": phase // MICROSECOND}
        case Cron(expression=expression, timezone=timezone):
            zone = "UTC" if timezone in UTC_NAMES else timezone
            return {"cron": plain_cron(expression), "timezone": zone}
        case Once(at=at):
            return {"at": micros(at)}
        case Within(schedule=inner, start_at=start, end_at=end):
            return {
                "within": plain(inner),
                "start_at": None if start is None else micros(start),
                "end_at": None if end is None else micros(end),
            }
        case _:  # a schedule of another package, which only its own process can make
            return {
                "other": f"{type(schedule).__module__}.{type(schedule).__qualname__} {schedule}"
            }


def made(kept: dict[str, Any]) -> Schedule:
    if "every" in kept:
        return Interval(kept["every"] * MICROSECOND, kept["phase"] * MICROSECOND)
    if "cron" in kept:
        return Cron(kept["cron"], kept["timezone"])
    if "at" in kept:
        return Once(moment(kept["at"]))
    start, end = kept["start_at"], kept["end_at"]
    return Within(
        made(kept["within"]),
        None if start is None else moment(start),
        None if end is None else moment(end),
    )


def micros(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def moment(at: int) -> datetime:
    return EPOCH + at * MICROSECOND


def plain_cron(expression: str) -> str:
    """The five fields without the freedom that they leave: ``@daily``, ``MON``, ``05``, ``1-3``."""
    try:
        fields = canonical(expression)
    except ValueError:
        return expression
    return " ".join(map(plain_field, fields))


def plain_field(field: str) -> str:
    """A field with its numbers in order, if it names nothing but numbers.

    What has a ``*`` keeps its order: how the field begins decides what happens when the clocks
    change, and how the two day fields go together.
    """
    items = field.split(",")
    if not all(item.isdecimal() for item in items):
        return field
    return ",".join(map(str, sorted({int(item) for item in items})))
