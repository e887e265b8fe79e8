"""The calls of the contract: what each one takes, does and answers.

The handlers are plain functions of the store and the call. Keys, faults, the token and the journal
of requests are the concern of `endpoint`, and the same for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from worker.demo.answer import Answer, Refused
from worker.demo.journal import Effect
from worker.demo.orders import Kind, Status
from worker.demo.store import Store

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100

# RFC 3339 section 5.6, where the offset is not optional.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the id in its path, decoded, or ""; its key, if it has one; its parameters."""

    subject: str
    key: str | None
    query: Mapping[str, str]

    def time(self, name: str) -> datetime:
        """A required moment. Raises `Refused`."""
        text = self.query.get(name, "")
        try:
            if _TIME.fullmatch(text):
                return datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        raise Refused(
            400,
            f"{name}: expected an RFC 3339 time with its UTC offset, such as "
            f"2026-11-21T09:30:00Z, got {text!r} (a + in a query is sent as %2B)",
        )

    def number(self, name: str, default: int, *, lowest: int, highest: int) -> int:
        """An optional integer within bounds, both included. Raises `Refused`."""
        text = self.query.get(name, str(default))
        if re.fullmatch(r"-?\d{1,18}", text, re.ASCII) and lowest <= int(text) <= highest:
            return int(text)
        raise Refused(400, f"{name}: expected {lowest} to {highest}, got {text!r}")


Handler = Callable[[Store, Call], Answer]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the contract. `keyed`: repeating it is only safe with an idempotency key."""

    method: str
    path: str
    handle: Handler
    keyed: bool = False


def cleanup(store: Store, call: Call) -> Answer:
    """Delete the orders that are done or failed and were created before the moment."""
    deleted = store.orders.cleanup(call.time("before"))
    store.journal.effect(Effect.CLEANUP, count=deleted)
    return Answer.json(200, {"deleted_count": deleted})


def sync(store: Store, call: Call) -> Answer:
    """Pretend to synchronise with somebody; the statistics are what there is."""
    store.journal.effect(Effect.SYNC, key=call.key)
    orders = store.orders.count()
    return Answer.json(200, {"synced": sum(orders.values()), "orders": orders})


def list_orders(store: Store, call: Call) -> Answer:
    """One page of the orders with a status. Those that leave it move up: the pages shift."""
    text = call.query.get("status", "")
    if text not in set(Status):
        raise Refused(400, f"status: expected one of {', '.join(Status)}, got {text!r}")
    offset = call.number("offset", 0, lowest=0, highest=10**15)
    limit = call.number("limit", DEFAULT_LIMIT, lowest=1, highest=MAX_LIMIT)
    page = store.orders.listing(Status(text), offset=offset, limit=limit)
    return Answer.json(200, {"items": [order.listed() for order in page]})


def process_order(store: Store, call: Call) -> Answer:
    """Process a pending order.

    404: there is no such order; 409: it is being processed; 410: it is done or failed already.
    A poison order is refused with its own status. A lingering order is accepted with 202 and stays
    listed: nothing but the idempotency key keeps a repetition from processing it again.
    """
    order = store.orders.get(call.subject)
    if order is None:
        raise Refused(404, f"there is no order {call.subject!r}")
    if order.status is Status.PROCESSING:
        raise Refused(409, "the order is being processed")
    if order.status is not Status.PENDING:
        raise Refused(410, f"the order is {order.status} already")
    if order.kind is Kind.POISON:
        raise Refused(order.refusal, "the order cannot be processed")
    store.journal.effect(Effect.ORDER_PROCESSED, subject=call.subject, key=call.key)
    if order.kind is Kind.LINGERING:
        store.orders.finish_later(call.subject, order.linger_s)
        return Answer.json(202, {"id": order.id, "status": "accepted"})
    store.orders.finish(call.subject)
    return Answer.json(200, {"id": order.id, "status": Status.DONE})


def invoice_order(store: Store, call: Call) -> Answer:
    """Send an order's invoice, wherever the order stands: the customer gets each of them."""
    order = store.orders.get(call.subject)
    if order is None:
        raise Refused(404, f"there is no order {call.subject!r}")
    store.journal.effect(Effect.INVOICE_SENT, subject=call.subject, key=call.key)
    return Answer.json(200, {"id": order.id, "number": f"INV-{order.id}"})


def upcoming_bookings(store: Store, call: Call) -> Answer:
    """The bookings that start within the window, whether they were reminded or not."""
    start, end = call.time("start"), call.time("end")
    if end < start:
        raise Refused(400, "end: expected a time that is not before start")
    return Answer.json(200, {"items": store.bookings.upcoming(start, end)})


def remind_booking(store: Store, call: Call) -> Answer:
    """Send a reminder, whether or not one was sent before: the customer gets each of them."""
    booking_id = store.bookings.remind(call.subject)
    if booking_id is None:
        raise Refused(404, f"there is no booking {call.subject!r}")
    store.journal.effect(Effect.REMINDER_SENT, subject=call.subject, key=call.key)
    return Answer.json(200, {"id": booking_id, "reminder_sent": True})


CONTRACT = (
    Operation("DELETE", "/api/v1/orders/cleanup", cleanup),
    Operation("POST", "/api/v1/sync", sync, keyed=True),
    Operation("GET", "/api/v1/orders", list_orders),
    Operation("POST", "/api/v1/orders/{id}/process", process_order, keyed=True),
    Operation("POST", "/api/v1/orders/{id}/invoice", invoice_order, keyed=True),
    Operation("GET", "/api/v1/bookings/upcoming", upcoming_bookings),
    Operation("POST", "/api/v1/bookings/{id}/remind", remind_booking, keyed=True),
)
