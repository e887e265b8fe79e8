"""Time, injected: the wall clock says *when*, the monotonic clock says *how long*."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Where the worker gets its time from. Tests hand in one that they move by hand."""

    def now(self) -> datetime:
        """Wall time, aware, in UTC. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment. Never jumps, so durations are measured on it."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` on the monotonic clock."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
