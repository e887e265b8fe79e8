"""Everything the service knows, in one SQLite file or in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from worker.demo.bookings import Bookings
from worker.demo.database import Database, Now, utc_now
from worker.demo.journal import Effect, Journal
from worker.demo.keys import Keys
from worker.demo.orders import Kind, Orders
from worker.demo.seed import SeedSpec


class Store:
    """The orders, the bookings, the journal and the idempotency keys.

    `database` is a file's path, or ":memory:". A file keeps its content through a `kill -9`; one
    process uses it at a time. The store may be read from another thread while the server runs.
    """

    def __init__(self, database: str = ":memory:", *, now: Now = utc_now) -> None:
        self._database = Database(database, now=now)
        self.orders = Orders(self._database)
        self.bookings = Bookings(self._database)
        self.journal = Journal(self._database)
        self.keys = Keys(self._database)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is written together or not at all. Never await inside."""
        with self._database.transaction():
            yield

    def is_new(self) -> bool:
        """Whether no order and no booking was ever added."""
        return self.orders.last_number() == 0 and self.bookings.last_number() == 0

    def seed(self, spec: SeedSpec) -> dict[str, object]:
        """Add what the spec asks for; returns the ids, so that a test knows what to expect."""
        with self.transaction():
            now = self._database.now()
            orders = list(spec.new_orders(self.orders.last_number() + 1, now))
            bookings = list(spec.new_bookings(self.bookings.last_number() + 1))
            self.orders.add(orders)
            self.bookings.add(bookings)
        pending = orders[: spec.orders]
        return {
            "orders": [order.id for order in pending],
            "poison": [order.id for order in pending if order.kind is Kind.POISON],
            "lingering": [order.id for order in pending if order.kind is Kind.LINGERING],
            "old_orders": [order.id for order in orders[spec.orders :]],
            "bookings": [booking.id for booking in bookings],
            "to_remind": [booking.id for booking in bookings if not booking.reminder_sent],
        }

    def effects(self) -> list[dict[str, object]]:
        """Every effect there was: `{"at", "kind", "subject", "key", "count"}`."""
        return self.journal.effects()

    def requests(self) -> list[dict[str, object]]:
        """Every request there was, with its status (None if it saw none) and the fault it met."""
        return self.journal.requests()

    def summary(self) -> dict[str, object]:
        """The counts: orders by status, effects by kind, requests by status."""
        effects = self.journal.count_effects()
        requests = self.journal.count_requests()
        return {
            "orders": self.orders.count(),
            "bookings": self.bookings.count(),
            "processed": effects[Effect.ORDER_PROCESSED],
            "invoices": effects[Effect.INVOICE_SENT],
            "reminders": effects[Effect.REMINDER_SENT],
            "syncs": effects[Effect.SYNC],
            "cleanups": effects[Effect.CLEANUP],
            "repeated_effects": self.journal.count_repeated(),
            "requests": sum(requests.values()),
            "requests_by_status": requests,
        }

    def reset(self) -> None:
        """Forget everything, as if new."""
        with self.transaction():
            self.orders.clear()
            self.bookings.clear()
            self.journal.clear()
            self.keys.clear()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
