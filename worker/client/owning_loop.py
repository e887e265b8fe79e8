"""The event loop and the process that a client's connections belong to.

A connection works in the event loop that opened it, and in no other. So a call that comes from
another loop, or from a thread without one, runs in that loop while the caller waits. If it cannot
run there, the caller gets an error at once.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import wait as wait_for_futures
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from worker.errors import StoreUnavailable
from worker.forking import detach_in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["FORKED", "OwningLoop", "running_loop"]

T = TypeVar("T")

LOOK_S = 0.5
"""How often a caller looks whether the owning loop still runs."""
BEGIN_S = 10.0
"""How soon the owning loop must begin a call."""

FORKED = (
    "this client was opened before the process was forked, and its connections belong to the "
    "parent process; open a client in each process"
)
ENDED = "the event loop in which this client was opened has ended; open a client in each event loop"
PAUSED = (
    "the event loop in which this client was opened is not running; open a client in the event "
    "loop that uses it"
)
BLOCKED = (
    f"the event loop in which this client was opened has not answered for {BEGIN_S:g} s; does it "
    "wait for the thread that calls?"
)


class OwningLoop:
    """Runs calls in the event loop that owns a client's connections.

    The first loop that uses the client becomes its owner.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The owner; ``None`` if no loop has used the client."""
        return self._loop

    @property
    def is_of_parent(self) -> bool:
        """Whether the process was forked since the client was first used."""
        return self._loop is not None and self._process != os.getpid()

    @property
    def can_be_called(self) -> bool:
        """Whether the owner runs, here or in another thread, and takes calls."""
        return self._loop is not None and self._loop.is_running() and not self.is_of_parent

    def own(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make ``loop`` the owner."""
        self._loop, self._process = loop, os.getpid()
        detach_in_child(loop)

    def is_here(self) -> bool:
        """Whether the running loop is the owner. It becomes the owner if there is none.

        Raises:
            StoreUnavailable: The process was forked since.
        """
        if self.is_of_parent:
            raise StoreUnavailable(FORKED)
        loop = running_loop()
        if self._loop is None:
            self.own(loop)
        return loop is self._loop

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` in the owner, from another loop, and return what it returns.

        A cancellation is passed on.

        Raises:
            StoreUnavailable: The owner does not run or does not answer.
        """
        call = self._begin(work)
        answer = asyncio.wrap_future(call.answer)
        try:
            while not answer.done():
                await asyncio.wait({answer}, timeout=LOOK_S)
                if not answer.done():
                    self._check_on(call)
        except BaseException:
            call.cancel()
            raise
        return answer.result()

    def call_blocking(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The same from a thread, which waits.

        Raises:
            StoreUnavailable: As `call`, or the caller is the owner's own thread.
        """
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                raise StoreUnavailable(
                    "this call would block the event loop that has to answer it; await the same "
                    "method of WorkerClient or JobHandle instead"
                )
        call = self._begin(work)
        try:
            while not wait_for_futures([call.answer], timeout=LOOK_S).done:
                self._check_on(call)
        except BaseException:
            call.cancel()
            raise
        return call.answer.result()

    def _begin(self, work: Callable[[], Coroutine[Any, Any, T]]) -> BridgedCall[T]:
        if self.is_of_parent:
            raise StoreUnavailable(FORKED)
        if self._loop is None or self._loop.is_closed():
            raise StoreUnavailable(ENDED)
        if not self._loop.is_running():
            raise StoreUnavailable(PAUSED)
        return BridgedCall(self._loop, work)

    def _check_on(self, call: BridgedCall[Any]) -> None:
        if self._loop is None or self._loop.is_closed():
            raise StoreUnavailable(ENDED)
        if not self._loop.is_running():
            raise StoreUnavailable(PAUSED)
        if not call.begun and monotonic() > call.since + BEGIN_S:
            raise StoreUnavailable(BLOCKED)


class BridgedCall(Generic[T]):
    """One call in the event loop of another thread, with the context variables of the caller.

    Attributes:
        answer: Its result.
        begun: Whether the loop has begun it.
        since: When it was made, on the monotonic clock.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> None:
        self.answer: Future[T] = Future()
        self.begun = False
        self.since = monotonic()
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._schedule(self._begin)

    def cancel(self) -> None:
        """End it; the caller does not wait any more."""
        self.answer.cancel()
        with suppress(StoreUnavailable):
            self._schedule(self._cancel)

    def _schedule(self, step: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(step)
        except RuntimeError as exc:
            raise StoreUnavailable(ENDED) from exc

    def _begin(self) -> None:
        if not self.answer.cancelled():
            self.begun = True
            self._task = self._loop.create_task(self._work(), name="bridged-call")
            self._task.add_done_callback(self._ended)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[T]) -> None:
        failure = StoreUnavailable(ENDED) if task.cancelled() else task.exception()
        with suppress(InvalidStateError):  # the caller does not wait any more
            if failure is None:
                self.answer.set_result(task.result())
            else:
                self.answer.set_exception(failure)


def running_loop() -> asyncio.AbstractEventLoop:
    """The running event loop.

    Raises:
        StoreUnavailable: None is running: a forked child goes on in its parent's.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError as exc:
        raise StoreUnavailable(
            "no event loop is running in this process, which was forked from one that had one; use "
            "asyncio.run(…), or SyncWorkerClient, in the child"
        ) from exc
