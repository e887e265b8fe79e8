"""Finds schedules that the ledger knows and the application has no task for any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.ledger.book import HistoryQuery
from worker.scheduling.moments import at
from worker.scheduling.overview import BECAME

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from worker.ledger.book import Book, Entry
    from worker.ports import LedgerStore

__all__ = ["Dropped", "find_dropped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A schedule without a task.

    Attributes:
        last: The latest that is known of it.
        elsewhere: The worker that had that, if it is up still: another application's, say, or one
            that a deploy has not reached yet.
    """

    book: Book
    last: Entry | None
    elsewhere: str | None

    @property
    def name(self) -> str:
        return self.book.task

    @property
    def what(self) -> str:
        return f"{self.name} has a schedule in the ledger, and this application has no such task"

    def why(self, now: datetime) -> str:
        """What is known of it, and what to do."""
        told = f"it was {self.book.schedule}; " if self.book.schedule else ""
        if self.last is None:
            told += "it never ran"
        else:
            on = f" on {self.last.replica}" if self.last.replica else ""
            became = BECAME[self.last.outcome]
            told += f"its latest slot, of {at(self.last.slot, now)}, {became}{on}"
        if self.elsewhere is not None:
            return f"{told}, which is up"
        return f"{told}; if it was taken out on purpose: `worker schedule forget {self.name}`"


def find_dropped(store: LedgerStore, known: Collection[str]) -> list[Dropped]:
    """The schedules of the ledger that are none of the ``known`` tasks', and are not forgotten.

    Raises:
        StoreUnavailable: The ledger cannot be read.
    """
    names = sorted(set(store.tasks()) - set(known))
    books = [book for book in store.read(names).values() if book.schedule] if names else []
    if not books:
        return []
    alive = {replica.session: replica.name for replica in store.replicas() if replica.alive}
    found = []
    for book in books:
        last = next(iter(store.history(HistoryQuery(task=book.task, limit=1))), None)
        session = None if last is None else last.session
        elsewhere = None if session is None else alive.get(session)
        found.append(Dropped(book=book, last=last, elsewhere=elsewhere))
    return found
