"""Remembers for a while that the event loop stood still, and what held it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from worker.events import LoopResumed, LoopStalled

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.events import Event

__all__ = ["PAST", "Stall", "Stalls"]

PAST = timedelta(minutes=10)
"""How long a stall is remembered."""
MOST = 100


@dataclass(frozen=True, slots=True)
class Stall:
    """Once that the loop did not turn.

    Attributes:
        holder: What held it: a task, else an asyncio task; empty if neither is known.
        at: When it began.
        told: When it was last told of, on a monotonic clock, in seconds.
        lasted_s: How long it lasted, as far as it is known.
        ended: Whether that is all of it; else it lasted at least so long.
    """

    holder: str
    at: datetime
    told: float
    lasted_s: float
    ended: bool = False


class Stalls:
    """A listener, to be subscribed to the worker's events: they come from the watchdog's thread.

    So what it knows is replaced as a whole, never changed.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._known: tuple[Stall, ...] = ()
        self._goes_on = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, LoopStalled):
            if not self._goes_on:
                holder = event.task or event.holder or ""
                began = datetime.now(UTC) - timedelta(seconds=event.stalled_s)
                self._known = (*self._known[1 - MOST :], Stall(holder, began, 0.0, 0.0))
            self._goes_on = True
            self._lasted(event.stalled_s)
        elif isinstance(event, LoopResumed) and self._goes_on:
            self._lasted(event.stalled_s, ended=True)
            self._goes_on = False

    def lately(self) -> list[Stall]:
        """Those that ended, or went on, within the last ten minutes; the longest first."""
        since = self._monotonic() - PAST.total_seconds()
        found = [stall for stall in self._known if stall.told >= since]
        return sorted(found, key=lambda stall: -stall.lasted_s)

    def _lasted(self, seconds: float, *, ended: bool = False) -> None:
        *before, latest = self._known
        told = self._monotonic()
        self._known = (*before, replace(latest, told=told, lasted_s=seconds, ended=ended))
