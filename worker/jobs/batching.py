"""Many small requests share few round trips, without a timer.

What comes while a batch is on its way waits for the next one. So whoever is alone goes at once,
and the busier it gets, the larger the batches become.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from worker.errors import StoreUnavailable
from worker.shared_tasks import start_shared_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["Batcher"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Gathers items into batches, one batch on its way at a time.

    Args:
        send: Sends a batch, and returns an answer to each item, in order. What it raises is the
            answer to each of them.
        most: How many items make a full batch.
        name: Of the asyncio task that sends.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        most: int,
        name: str,
    ) -> None:
        self._send = send
        self._most = most
        self._name = name
        self._waiting: list[tuple[Item, Callable[[Answer | Exception], None]]] = []
        self._sending: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether everything that came in was answered."""
        return self._sending is None

    def put(self, item: Item, done: Callable[[Answer | Exception], None]) -> None:
        """Have ``item`` sent, and ``done`` called with the answer, or with what went wrong."""
        self._waiting.append((item, done))
        if self._sending is None:
            self._sending = start_shared_task(self._flush(), name=self._name)

    async def ask(self, item: Item) -> Answer:
        """Have ``item`` sent; the answer.

        Raises:
            Exception: What sending its batch raised.
        """
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(answer: Answer | Exception) -> None:
            if answered.done():
                return  # whoever asked has gone
            if isinstance(answer, Exception):
                answered.set_exception(answer)
            else:
                answered.set_result(answer)

        self.put(item, done)
        return await answered

    async def drained(self) -> None:
        """Return when everything that came in was answered."""
        while self._sending is not None:
            await asyncio.wait({self._sending})

    async def close(self, limit_s: float) -> None:
        """Send what waits, but give up after ``limit_s``. Nothing may come in any more."""
        if self._sending is not None:
            _, late = await asyncio.wait({self._sending}, timeout=limit_s)
            for sending in late:
                sending.cancel()
                await asyncio.wait({sending}, timeout=limit_s)

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                answers: Sequence[Answer | Exception]
                try:
                    answers = await self._send([item for item, _ in batch])
                    if len(answers) != len(batch):
                        raise RuntimeError(f"expected {len(batch)} answers, got {len(answers)}")
                except Exception as exc:
                    answers = [exc] * len(batch)
                except asyncio.CancelledError:
                    if is_cancelled():
                        self._waiting = [*batch, *self._waiting]
                        raise
                    answers = [StoreUnavailable("the request was cancelled")] * len(batch)
                for (_, done), answer in zip(batch, answers, strict=True):
                    done(answer)
        finally:
            self._sending = None
            waiting, self._waiting = self._waiting, []
            for _, done in waiting:  # it was cancelled; nobody else would answer them
                done(StoreUnavailable("it was not sent, or not to the end, before its loop ended"))


def is_cancelled() -> bool:
    """Whether somebody asked for the end of the asyncio task that calls."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
