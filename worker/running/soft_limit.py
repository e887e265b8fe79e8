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

__all__ = ["raising_softly"]


async def raising_softly(coroutine: Coroutine[Any, Any, object], limit: timedelta) -> object:
    """Await ``coroutine``; after ``limit``, raise `SoftTimeLimitExceeded` in it, once."""
    task = asyncio.current_task()
    assert task is not None
    over = Over(task, limit)
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
    """Whether the limit is over, and the coroutine was told."""

    def __init__(self, task: asyncio.Task[Any], limit: timedelta) -> None:
        self._task = task
        self._limit = limit
        self._pending = False

    def happen(self) -> None:
        """Ask for the cancellation that becomes the exception."""
        self._pending = True
        self._task.cancel()

    def turned(self, arrived: BaseException) -> BaseException:
        """What the coroutine gets in the place of what arrived."""
        if not self._pending or not isinstance(arrived, asyncio.CancelledError):
            return arrived
        self._pending = False
        if self._task.uncancel():
            return arrived  # somebody else has asked for a real one, too
        return OverInside(f"took longer than its soft time limit of {format_duration(self._limit)}")


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
