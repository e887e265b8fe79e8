"""What a replica remembers of a task between two slots, and how it goes on without a store."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from worker.ledger.ledger import Answer, Claimant, Request, decide
from worker.model import RunId

if TYPE_CHECKING:
    from collections.abc import Set
    from datetime import datetime

    from worker.ledger.book import Book, Entry

__all__ = ["Attention"]

UNRECORDED = 1000
"""How many last words on runs without a store are kept for it, a task."""


@dataclass(slots=True)
class Attention:
    """What this replica remembers of a task between two slots.

    Attributes:
        book: As the store last had it.
        lone: As this replica goes on with it while the store is down.
        asking: The ledger is being asked about what is due.
        again: Something was due meanwhile, or the ledger could not be asked.
        alone: The runs that go on without the store's knowledge: begun while it was down, or
            under a lease that is lost. Until they end, this replica takes nothing else.
        unrecorded: What the store will have to be told of such runs.
    """

    book: Book
    lone: Book | None = None
    asking: bool = False
    again: bool = False
    alone: set[RunId] = field(default_factory=set)
    unrecorded: list[Entry] = field(default_factory=list)

    def go_alone(self, going_on: Set[RunId]) -> None:
        """Go on without the store, by what was last known of the book.

        What others run and what waits in the store is left out: nobody can tell what became of it.

        Args:
            going_on: The runs of this replica that still go on.
        """
        self.again = True  # the store shall hear of it
        book = self.lone or replace(self.book, active=under_lease(self.book))
        active = tuple(e for e in book.active if e.session is None or e.run_id in going_on)
        self.lone = replace(book, active=active)

    def decide(self, request: Request, claimant: Claimant, now: datetime) -> Answer:
        """Decide without the store, and keep for it what came of that."""
        assert self.lone is not None
        answer = decide(request, self.lone, claimant=claimant, now=now)
        self.lone = answer.book
        self.alone |= {RunId(entry.run_id) for entry in answer.granted if entry.run_id}
        done = [entry for entry in answer.recorded if entry.outcome.final]
        self.unrecorded = [*self.unrecorded, *done][-UNRECORDED:]
        return answer


def under_lease(book: Book) -> tuple[Entry, ...]:
    """What goes on with the store's knowledge."""
    return tuple(entry for entry in book.active if entry.session is not None)
