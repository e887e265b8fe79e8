"""Wakes those tasks of a loop that wait for something under a name."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Bell", "heard"]


class Bell:
    """Whoever listens from before they look misses nothing that happens after they have looked."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[asyncio.Event]] = {}

    def __len__(self) -> int:
        """How many names somebody listens for."""
        return len(self._listeners)

    @property
    def names(self) -> list[str]:
        return list(self._listeners)

    @contextmanager
    def listening(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set at each ring for ``name``."""
        event = asyncio.Event()
        listeners = self._listeners.setdefault(name, set())
        listeners.add(event)
        try:
            yield event
        finally:
            listeners.discard(event)
            if not listeners and self._listeners.get(name) is listeners:
                del self._listeners[name]

    def ring(self, names: Iterable[str]) -> None:
        for name in names:
            for event in self._listeners.get(name, ()):
                event.set()

    def ring_all(self) -> None:
        self.ring(self._listeners)


async def heard(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
