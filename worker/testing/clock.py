"""A clock that a test moves."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from worker.jobs.options import as_delay

__all__ = ["FakeClock", "HalfFakeTime"]

ZERO = timedelta(0)
SHORT_S, SHORTEST_S = 0.05, 0.001


class FakeClock:
    """A `worker.Clock` that stands still until the test moves it.

    Args:
        now: Where it begins, with its time zone; by default at the present.

    Raises:
        ValueError: The moment has no time zone.
    """

    def __init__(self, now: datetime | None = None) -> None:
        if now is not None and now.tzinfo is None:
            raise ValueError(f"expected a datetime with its time zone, got {now!r}")
        self._now = (now or datetime.now(UTC)).astimezone(UTC)
        self._monotonic = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def __repr__(self) -> str:
        return f"FakeClock({self._now.isoformat()})"

    def now(self) -> datetime:
        """Wall time, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """How far it was moved, in seconds."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was moved that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic + seconds, woken))
        await woken

    def advance(self, duration: timedelta | str | float) -> None:
        """Move on by ``duration``, a ``timedelta`` or a text such as ``"5m"``."""
        by = as_delay("advance", duration)
        self._now += by
        self._monotonic += by.total_seconds()
        due = [woken for at, woken in self._sleepers if at <= self._monotonic]
        self._sleepers = [(at, woken) for at, woken in self._sleepers if at > self._monotonic]
        for woken in due:
            if not woken.done():
                woken.set_result(None)

    def move_to(self, moment: datetime) -> None:
        """Move on to ``moment``; never back."""
        self.advance(max(ZERO, moment - self._now))


@dataclass(frozen=True, slots=True)
class HalfFakeTime:
    """The test's wall clock, while what lasts is measured in real time.

    So a job that hangs is ended by its time limit, though the test's clock stands still.

    Attributes:
        waits: Whether a sleep takes its time. The pauses between the attempts of a run do not.
    """

    clock: FakeClock
    waits: bool

    def now(self) -> datetime:
        return self.clock.now()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        if seconds <= SHORT_S:  # somebody looks again and again, and a test has no time to lose
            seconds = min(seconds, SHORTEST_S)
        await asyncio.sleep(seconds if self.waits else 0)
