"""What an answer of the ledger says about the versions of a task's schedule, as events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.events import ScheduleChanged, ScheduleRetired

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.ledger.ledger import Answer

__all__ = ["version_events"]


def version_events(task: str, answer: Answer) -> Iterator[ScheduleChanged | ScheduleRetired]:
    """That a schedule took over from another, and that one is accounted for to its end."""
    before = [one.text for one in answer.book.versions if one not in answer.added]
    replaced = (*before, *(one.text for one in answer.removed))
    for added in answer.added if replaced else ():
        yield ScheduleChanged(task=task, schedule=added.text, replaces=replaced, since=added.since)
    for removed in answer.removed:
        yield ScheduleRetired(
            task=task, schedule=removed.text, until=removed.until or removed.cursor
        )
