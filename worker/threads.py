"""Threads for code that blocks: as many as are needed, and none that keeps the process alive.

The event loop's own pool has a few threads for all, and the process waits for them at its end. Here
a thread that hangs takes no place from others, and is left behind.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from worker.forking import child_ends_here

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Threads"]

T = TypeVar("T")
IDLE_S = 10.0


class Threads:
    """Calls functions in threads. Who calls bounds their number, for each call has one.

    Args:
        idle_s: How long a thread without work stays.
    """

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._idle: list[SimpleQueue[Callable[[], None]]] = []
        self._lock = Lock()

    async def call(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a thread, with the caller's context variables.

        A thread cannot be cancelled. A caller that is cancelled meanwhile waits for the end of
        the call and gets its result. The cancellation is delivered at the caller's next ``await``
        after that.

        Raises:
            BaseException: What it raised.
        """
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()
        around = copy_context()

        def work() -> None:
            try:
                with child_ends_here():
                    result = around.run(function)
            except StopIteration as exc:  # no future can hold one
                failure: BaseException = RuntimeError(f"{type(exc).__name__}({exc})")
                failure.__cause__ = exc
                tell(loop, answered.set_exception, failure)
            except BaseException as exc:
                tell(loop, answered.set_exception, exc)
            else:
                tell(loop, answered.set_result, result)

        self._begin(work)
        cancelled = False
        while not answered.done():
            try:
                await asyncio.wait({answered})
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            # A caller that returns at once keeps its result; `Task.cancel` would discard it.
            loop.call_soon(cancel_again, asyncio.current_task(loop))
        return answered.result()

    def _begin(self, work: Callable[[], None]) -> None:
        with self._lock:
            given = self._idle.pop() if self._idle else None
        if given is None:
            given = SimpleQueue()
            Thread(target=self._go_on, args=[given], name="task-thread", daemon=True).start()
        given.put(work)

    def _go_on(self, given: SimpleQueue[Callable[[], None]]) -> None:
        while True:
            try:
                work = given.get(timeout=self._idle_s)
            except Empty:
                with self._lock:
                    if given in self._idle:
                        self._idle.remove(given)
                        return
                continue  # there is work by now
            work()
            del work  # it holds what it was called with
            with self._lock:
                self._idle.append(given)


def tell(loop: asyncio.AbstractEventLoop, to: Callable[[Any], None], what: object) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(to, what)


def cancel_again(caller: asyncio.Task[Any] | None) -> None:
    """Cancel a task that still waits, unless its cancellation was withdrawn meanwhile."""
    if caller is not None and not caller.done() and caller.cancelling():
        caller.cancel()
