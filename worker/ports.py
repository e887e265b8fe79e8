"""What a backend implements. A port carries no rules of its own: those stand in `worker.ledger`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from worker.book import (
        Book,
        Change,
        Entry,
        HistoryQuery,
        Pulse,
        Replica,
        SessionId,
        Written,
    )

__all__ = ["LedgerStore"]


class LedgerStore(Protocol):
    """Where the ledger is kept.

    Blocking, and called from one thread at a time. Every method may raise `StoreUnavailable`, and
    nothing else that the store's library knows; after that it may be called again, and works again
    once the store does.

    Leases are judged by the store's clock: a session whose lease has run out stays dead, whatever
    the clock of its replica says.
    """

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever chose this store should know: what is lost with it, and when."""
        ...

    def open_session(self, replica: str, ttl: timedelta) -> SessionId:
        """Begin a session whose lease holds for ``ttl``; its id is greater than all before it."""
        ...

    def renew(self, session: SessionId, ttl: timedelta) -> Pulse:
        """Have the lease hold for ``ttl`` from now, and tell what there is to do.

        Raises:
            LeaseLost: The lease had run out, or the session was closed.
        """
        ...

    def close_session(self, session: SessionId) -> None:
        """End the lease now. What the session still runs is orphaned."""
        ...

    def read(self, tasks: Sequence[str]) -> Mapping[str, Book]:
        """The books of ``tasks``, with their active entries; version 0 where there is none."""
        ...

    def write(self, changes: Sequence[Change]) -> list[Written]:
        """Make each change that can be made, wholly or not at all; what became of each.

        A change is made if the book still has the version that was read (and no book is there for
        version 0), if the lease of its session holds at that moment, and if none of its entries
        would replace one with a last word. The book's version rises by one.
        """
        ...

    def tasks(self) -> list[str]:
        """The names of all tasks that have a book."""
        ...

    def history(self, query: HistoryQuery) -> list[Entry]:
        """The entries that ``query`` asks for, newest slots first."""
        ...

    def replicas(self) -> list[Replica]:
        """Every session that is not pruned yet, the latest first."""
        ...

    def prune(self, *, age: timedelta, limit: int = 5000) -> int:
        """Forget up to ``limit`` last words recorded longer ago than ``age``.

        Once fewer are left, dead sessions of that age without entries are forgotten, too. It
        is called between claims, so it takes milliseconds.

        Returns:
            How many last words were forgotten; fewer than ``limit`` when none is left.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files. Never raises."""
        ...
