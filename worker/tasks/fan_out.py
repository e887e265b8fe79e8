"""Many items at once, but no more than a bound, and none in another's way."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from worker.clock import Clock

__all__ = ["FanOut"]

T = TypeVar("T")


class FanOut(Generic[T]):
    """Handles the items of a growing list with at most ``concurrency`` under way.

    Items are read ahead while others are handled: nobody waits for a page to be finished. An item
    that waits (see `pause`) gives its place to the next one, so a failing item does not delay its
    neighbours; at most ``10 * concurrency`` items wait like that at any one time.
    """

    def __init__(self, *, concurrency: int, clock: Clock) -> None:
        self._clock = clock
        self._places = asyncio.Semaphore(concurrency)
        self._waiting_places = 10 * concurrency

    async def run(
        self, batches: AsyncIterator[Sequence[T]], handle: Callable[[T], Awaitable[None]]
    ) -> None:
        """Await ``handle(item)`` for each item of each batch.

        ``handle`` must not raise: it is the edge of a unit of work, and records what went wrong.
        When ``batches`` raises, the items that were read are handled before the error is.
        """
        items: deque[T] = deque()
        more = asyncio.Event()
        done = False
        failure: Exception | None = None

        async def read() -> None:
            nonlocal done, failure
            try:
                async for batch in batches:
                    items.extend(batch)
                    more.set()
            except Exception as exc:
                failure = exc
            finally:
                done = True
                more.set()

        async def handle_one(item: T) -> None:
            try:
                await handle(item)
            finally:
                self._places.release()

        async with asyncio.TaskGroup() as group:
            group.create_task(read(), name="fan-out-read")
            while items or not done:
                if not items:
                    more.clear()
                    await more.wait()
                    continue
                await self._places.acquire()
                group.create_task(handle_one(items.popleft()), name="fan-out-item")
        if failure is not None:
            raise failure

    async def pause(self, seconds: float) -> None:
        """Wait inside of ``handle`` while other items take the place."""
        if self._waiting_places == 0:
            await self._clock.sleep(seconds)
            return
        self._waiting_places -= 1
        self._places.release()
        try:
            await self._clock.sleep(seconds)
        finally:
            self._waiting_places += 1
        # Only a cancellation of the whole fan-out skips this, and then no place matters any more.
        await self._places.acquire()
