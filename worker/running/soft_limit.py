"""The soft time limit: an exception of its own inside of a coroutine, at the place where it waits.

asyncio can only cancel. So a cancellation is asked for, and turned into the exception on its way
into the coroutine. There it is a cancellation, too, so that what the coroutine waits in (a
``TaskGroup``, a timeout, a connection) cleans up as after any other.
"""

from __future__ import annotations

import asyncio
import types
from typing import TYPE_CHECKING, Any

from worker.durations import format_duration
from worker.errors import SoftTimeLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator
    from datetime import timedelta

    from worker.context import RunContext

__all__ = ["raising_softly"]


async def raising_softly(
    coroutine: Coroutine[Any, Any, object], limit: timedelta, context: RunContext
) -> object:
    """Await ``coroutine``; after ``limit``, raise `SoftTimeLimitExceeded` in it, once.

    Where it waits for code in a thread, ``context.raise_if_cancelled()`` raises it in that code.
    """
    task = asyncio.current_task()
    assert task is not None
    over = Over(task, limit, context)
    timer = asyncio.get_running_loop().call_later(limit.total_seconds(), over.happen)
    try:
        return await driven(coroutine, over)
    except OverInside as exc:
        raise SoftTimeLimitExceeded(str(exc)).with_traceback(exc.__traceback__) from exc.__cause__
    finally:
        timer.cancel()
        coroutine.close()


class OverInside(SoftTimeLimitExceeded, asyncio.CancelledError):
    """What the coroutine gets."""


class Over:
    """Whether the limit is over, and the coroutine has received the exception."""

    def __init__(self, task: asyncio.Task[Any], limit: timedelta, context: RunContext) -> None:
        self._task = task
        self._context = context
        self._message = f"took longer than its soft time limit of {format_duration(limit)}"
        self._pending = False

    def happen(self) -> None:
        """Request the cancellation that becomes the exception."""
        if not self._task.done():
            self._pending = True
            self._task.cancel()

    def _again(self) -> None:
        """A thread has ended that did not raise the exception: the coroutine gets it."""
        if asyncio.current_task() is self._task:
            asyncio.get_running_loop().call_soon(self.happen)

    def turned(self, arrived: BaseException) -> BaseException:
        """What the coroutine gets in the place of what arrived."""
        if not self._pending or not isinstance(arrived, asyncio.CancelledError):
            return arrived
        self._pending = False
        if self._task.uncancel():
            return arrived  # a real cancellation was requested, too
        self._context.soft_limit_passed(self._message, self._again)
        return OverInside(self._message)


@types.coroutine
def driven(coroutine: Coroutine[Any, Any, object], over: Over) -> Generator[Any, Any, object]:
    """Hand everything to and fro, as ``await`` does, but for what `Over` turns."""
    try:
        wanted = coroutine.send(None)
        while True:
            try:
                got = yield wanted
            except BaseException as exc:
                wanted = coroutine.throw(over.turned(exc))
            else:
                wanted = coroutine.send(got)
    except StopIteration as exc:
        return exc.value
