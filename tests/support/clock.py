"""Clocks that tests move."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


class FakeClock:
    """A `worker.clock.Clock` that does not wait: a sleep moves it, and is written down."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._monotonic = 1000.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


class GatedClock(FakeClock):
    """A clock on which whoever sleeps sleeps until the test opens ``gate``."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.sleeping = 0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.sleeping += 1
        try:
            await self.gate.wait()
        finally:
            self.sleeping -= 1


class SteppedClock(FakeClock):
    """A clock on which whoever sleeps wakes once the test has moved the time that far."""

    def __init__(self) -> None:
        super().__init__()
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    @property
    def sleeping(self) -> int:
        return sum(1 for _, woken in self._sleepers if not woken.done())

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.monotonic() + seconds, woken))
        await woken

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        due = [woken for at, woken in self._sleepers if at <= self.monotonic()]
        self._sleepers = [(at, woken) for at, woken in self._sleepers if woken not in due]
        for woken in due:
            if not woken.done():
                woken.set_result(None)


class WallClock:
    """A wall clock that the test moves; what waits does so in real time."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def advance(self, duration: timedelta) -> None:
        self._now += duration
