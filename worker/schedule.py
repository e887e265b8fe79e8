"""When a task is due. Pure arithmetic: no clock, no I/O.

Slots are counted from the start of the worker. They do not drift, but a restart moves them; slots
that are anchored to the calendar come with the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Interval", "first_slots"]

OFF = timedelta(0)
"""The interval that stands for "never"."""
LONGEST = timedelta(days=3650)
"""The longest interval: with it, no slot lies beyond what a date can hold."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Slots at ``first + n * every``. A slot's nominal time does not move, however late it runs.

    Raises:
        ValueError: ``every`` is not positive, or ``first`` is naive.
    """

    every: timedelta
    first: datetime

    def __post_init__(self) -> None:
        if self.every <= timedelta(0):
            raise ValueError(f"an interval must be positive, got {self.every}")
        if self.first.tzinfo is None:
            raise ValueError(f"the first slot must have a time zone, got {self.first}")

    def after(self, moment: datetime) -> datetime:
        """The first slot later than ``moment``."""
        if moment < self.first:
            return self.first
        return self.first + ((moment - self.first) // self.every + 1) * self.every

    def latest(self, moment: datetime) -> datetime | None:
        """The last slot at or before ``moment``; ``None`` if there is none yet."""
        if moment < self.first:
            return None
        return self.first + (moment - self.first) // self.every * self.every

    def count(self, start: datetime, end: datetime) -> int:
        """How many slots lie from the slot ``start`` up to the slot ``end``, without ``end``."""
        return (end - start) // self.every


def first_slots(
    start: datetime, intervals: list[timedelta], *, delay: timedelta, spread: timedelta
) -> list[datetime]:
    """The first slot of each task: soon after ``start``, but not all in the same instant.

    They are spread evenly over ``spread``; a task whose interval is shorter than that keeps its
    share within its interval.
    """
    count = len(intervals)
    return [
        start + delay + min(spread, every) * number / count
        for number, every in enumerate(intervals)
    ]
