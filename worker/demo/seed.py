"""What to fill the service with: how many of each, spread so that every page has its share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, model_validator

from worker.demo.bookings import NewBooking
from worker.demo.orders import Kind, NewOrder, Refusal, Seconds, Status

_OLD = timedelta(days=400)
_SOON_S = 3600.0
_REMINDED_EVERY = 4

# Ids that a client can get wrong: each must arrive as the one path segment that it is.
_TEXT_IDS = ("{}", "{}/a", "{} b", "{}%2Fc", "{}-é", "{}?d=1&e#f", "{};g=2", "{}+h")


class SeedSpec(BaseModel):
    """How many of each to add.

    The poison and the lingering orders are among `orders`, spread evenly; the old orders (finished
    long ago, which is what a cleanup takes) come on top. `linger_s` None means for ever; `refusal`
    is what a poison order answers. With `string_ids` the ids are text that needs percent-encoding,
    else numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    orders: NonNegativeInt = 0
    poison: NonNegativeInt = 0
    lingering: NonNegativeInt = 0
    linger_s: Seconds | None = None
    refusal: Refusal = 422
    old_orders: NonNegativeInt = 0
    bookings: NonNegativeInt = 0
    string_ids: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.poison + self.lingering > self.orders:
            raise ValueError("poison and lingering are among the orders: they cannot be more")
        return self

    def new_orders(self, first: int, now: datetime) -> Iterator[NewOrder]:
        """The orders, numbered from `first`; the old ones come last."""
        special = self.poison + self.lingering
        for index in range(self.orders):
            kind = Kind.NORMAL
            if _is_marked(index, special, self.orders):
                rank = index * special // self.orders
                poisoned = _is_marked(rank, self.poison, special)
                kind = Kind.POISON if poisoned else Kind.LINGERING
            yield NewOrder(
                id=self._id("order", first + index),
                kind=kind,
                linger_s=self.linger_s,
                refusal=self.refusal,
            )
        for index in range(self.old_orders):
            yield NewOrder(
                id=self._id("order", first + self.orders + index),
                status=Status.FAILED if index % 5 == 4 else Status.DONE,
                created_at=now - _OLD,
            )

    def new_bookings(self, first: int) -> Iterator[NewBooking]:
        """The bookings, all within the next hour, every fourth of them reminded already."""
        for index in range(self.bookings):
            yield NewBooking(
                id=self._id("booking", first + index),
                starts_in_s=_SOON_S * (index + 0.5) / self.bookings,
                reminder_sent=index % _REMINDED_EVERY == _REMINDED_EVERY - 1,
            )

    def _id(self, word: str, number: int) -> int | str:
        if not self.string_ids:
            return number
        return _TEXT_IDS[number % len(_TEXT_IDS)].format(f"{word}-{number}")


def _is_marked(index: int, marked: int, total: int) -> bool:
    """Whether this one is among `marked` ones spread evenly over `total`."""
    return (index + 1) * marked // total > index * marked // total
