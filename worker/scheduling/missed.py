"""Finds a slot that came to nothing and was not made good: a nightly task that nobody ran.

What a book says tells cheaply whether there can be one; only then the history is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.ledger.book import Entry, HistoryQuery, Outcome
from worker.ledger.rules import is_begun_by_hand
from worker.scheduling.moments import at

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.ledger.book import Book, Replica
    from worker.ports import LedgerStore
    from worker.scheduling.scheduled_task import ScheduledTask

__all__ = ["Missed", "find_missed"]

UNSEEN = timedelta(seconds=5)
"""How much longer than it was seen a replica may have been up; it renews every two seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """A slot that was missed, or whose run was lost, and after which no run has ended.

    Attributes:
        entry: What is recorded of it; for a row of slots, of all of them.
        nobody: From when to when no replica that takes its slots renewed its lease, as far as that
            is known; ``None`` if one did at that moment.
    """

    entry: Entry
    nobody: tuple[datetime | None, datetime | None] | None = None

    @property
    def slot(self) -> datetime:
        """The latest of them."""
        return self.entry.last or self.entry.slot

    def why(self, now: datetime) -> str:
        """How it came to that, for people."""
        recorded = self.entry.error or "no worker looked at it in time"
        if self.nobody is None or self.entry.outcome is Outcome.LOST:
            return recorded
        start, end = self.nobody
        since = "" if start is None else f" from {at(start, now)}"
        until = "" if end is None else f" {'to' if since else 'before'} {at(end, now)}"
        return (
            f"no worker that takes its slots was up, or none could reach the ledger,{since}{until}"
        )


def find_missed(store: LedgerStore, task: ScheduledTask, book: Book) -> Missed | None:
    """What was missed or lost of a task's schedule, unless a run has ended since.

    Raises:
        StoreUnavailable: The ledger cannot be read.
    """
    if not may_be_missed(task, book):
        return None
    outcomes = frozenset({Outcome.MISSED, Outcome.LOST})
    for entry in store.history(HistoryQuery(task=book.task, outcomes=outcomes, limit=1)):
        if is_begun_by_hand(entry) or not is_the_latest(entry, book):
            return None
        missed = entry.outcome is Outcome.MISSED
        return Missed(
            entry=entry,
            nobody=absence(store.replicas(), book.task, entry.last or entry.slot)
            if missed
            else None,
        )
    return None


def may_be_missed(task: ScheduledTask, book: Book) -> bool:
    """Whether the latest slot that is accounted for came to nothing, by the book alone."""
    schedule = task.terms.schedule
    cursor = book.accounted_until(schedule)
    if schedule is None or cursor is None or book.running or book.waiting:
        return False
    if book.last_outcome is Outcome.LOST:
        return True
    if not book.counts.get(Outcome.MISSED):
        return False
    latest, ended = schedule.until(cursor), book.last_ended
    return latest is not None and (ended is None or latest > ended)


def is_the_latest(entry: Entry, book: Book) -> bool:
    """Whether no run has ended since the entry was recorded."""
    ended = book.last_ended
    if ended is None:
        return True
    if entry.outcome is Outcome.LOST:
        return book.last_outcome is Outcome.LOST and entry.recorded_at >= ended
    return entry.recorded_at > ended


def absence(
    replicas: Sequence[Replica], task: str, moment: datetime
) -> tuple[datetime | None, datetime | None] | None:
    """From when to when nobody who takes the task's slots held a lease around ``moment``.

    ``None`` if somebody did then, or nothing is known.
    """
    workers = [
        one for one in replicas if one.works and (one.presence is None or one.presence.takes(task))
    ]
    if any(one.since <= moment <= one.seen + UNSEEN for one in workers):
        return None
    before = [one.seen for one in workers if one.seen < moment]
    after = [one.since for one in workers if one.since > moment]
    if not before and not after:
        return None
    return max(before, default=None), min(after, default=None)
