"""Makes guessing slow: who is wrong again has to wait for the answer.

Only who is wrong waits, and never for long: nobody can lock others out by being wrong, not even
those of his own address. A right token, and a session that is open, do not wait at all.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import structlog
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

__all__ = ["SlowDown", "address_of"]

T = TypeVar("T")

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 1.0
FORGOTTEN_AFTER_S = 60.0
MOST_ADDRESSES = 1024
MOST_WAITING = 4
"""Of one address; more are told to come back."""


@dataclass(slots=True)
class Guesses:
    """What an address got wrong.

    Attributes:
        last: When it did so last, in monotonic seconds.
        waiting: How many of its requests wait.
    """

    wrong: int
    last: float
    waiting: int = 0

    @property
    def wait_s(self) -> float:
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self.wrong - 1, 10))


class SlowDown:
    """Knows the addresses that were wrong of late, and not too many of them."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._monotonic = monotonic
        self._sleep = sleep
        self._known: OrderedDict[str, Guesses] = OrderedDict()
        self._log = structlog.get_logger("worker.ops")

    async def judge(self, address: str, compare: Callable[[], T | None]) -> T | None:
        """What ``compare`` finds; ``None``, or an exception, is a wrong guess of ``address``.

        Raises:
            HTTPException: 429, too many of its guesses wait already.
        """
        known = self._recent(address)
        found = None
        try:
            found = compare()
        finally:
            if found is None:
                self._wrong(address)
        if found is None and known is not None:
            await self._wait(known)
        return found

    async def _wait(self, guesses: Guesses) -> None:
        if guesses.waiting >= MOST_WAITING:
            raise HTTPException(
                429, "too many wrong tokens came from this address", {"Retry-After": "1"}
            )
        guesses.waiting += 1
        try:
            await self._sleep(guesses.wait_s)
        finally:
            guesses.waiting -= 1

    def _recent(self, address: str) -> Guesses | None:
        guesses = self._known.get(address)
        if guesses is None:
            return None
        if guesses.last + FORGOTTEN_AFTER_S < self._monotonic() and not guesses.waiting:
            del self._known[address]
            return None
        return guesses

    def _wrong(self, address: str) -> None:
        now = self._monotonic()
        guesses = self._known.setdefault(address, Guesses(0, now))
        guesses.wrong += 1
        guesses.last = now
        self._known.move_to_end(address)
        if len(self._known) > MOST_ADDRESSES:
            self._known.popitem(last=False)
        if guesses.wrong in (1, 10, 100) or guesses.wrong % 1000 == 0:
            self._log.warning("ops.refused", address=address, guesses=guesses.wrong)


def address_of(request: Request) -> str:
    """Whom a request comes from; of IPv6 the network, since who has one has all its addresses."""
    if request.client is None:
        return ""
    host = request.client.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((int(address), 64), strict=False))
