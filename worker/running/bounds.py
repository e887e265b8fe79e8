"""A run's code between its bounds: it ends by itself, its time is up, or somebody wants its end.

A run's code lives in an asyncio task of its own. Whatever it does there — raise, hang, exit,
cancel itself, recurse without end — ends that task, or it is left behind.

Who cancelled is told by where it arrives: a cancellation of the code that nobody here asked for is
the code's own doing, and a failure; one of whoever waits for it is the worker shutting down.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from worker.client.open_clients import refuse_unawaited
from worker.durations import format_duration
from worker.errors import RunInterrupted, TaskCrashed, TimeLimitExceeded
from worker.events import RunAbandoned
from worker.forking import child_ends_here, guard_loop
from worker.running.soft_limit import raising_softly

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context
    from datetime import timedelta

    from worker.clock import Clock
    from worker.context import RunContext
    from worker.events import Events
    from worker.model import RunId

__all__ = ["Bounds", "Ending", "contained", "outlasting"]

T = TypeVar("T")

SHUTTING_DOWN = "the worker is shutting down"


@dataclass(slots=True, eq=False)
class Going:
    """A run's code while it goes on.

    Attributes:
        around: What the code and all that concerns it runs in, with the run as the current one.
        limit: How long it may take.
        tell: Told how it ended, once.
        ending: What ends it early, from when somebody wants that.
    """

    code: asyncio.Task[object]
    context: RunContext
    around: Context
    limit: timedelta
    tell: Callable[[Ending], None]
    timer: asyncio.TimerHandle | None = None
    ending: asyncio.Task[None] | None = None


class Ending(NamedTuple):
    """How a run's code ended."""

    result: object
    failure: BaseException | None


class Bounds:
    """Keeps the code of all runs that go on between its bounds.

    Args:
        cancel_grace: How long cancelled code may take to clean up before it is left behind.
    """

    def __init__(self, *, clock: Clock, events: Events, cancel_grace: timedelta) -> None:
        self._clock = clock
        self._events = events
        self._cancel_grace = cancel_grace
        self._running: dict[RunId, Going] = {}
        self._left_behind: set[Going] = set()

    @property
    def busy(self) -> list[str]:
        """The tasks whose code still goes on, even if it was given up."""
        going = [*self._running.values(), *self._left_behind]
        return sorted({one.context.task for one in going})

    def ask_to_end(self, run_id: RunId) -> None:
        """Have the code find ``context.cancelled``. Does nothing if it has ended."""
        going = self._running.get(run_id)
        if going is not None:
            going.context.cancelled = going.context.asked_to_end = True

    def interrupt(self, run_id: RunId, reason: str) -> None:
        """Have the code end as interrupted, because of ``reason``. Nothing if it has ended."""
        going = self._running.get(run_id)
        if going is not None:
            self._end_early(going, reason)

    async def code_ended(self, run_id: RunId) -> None:
        """Return once the code of a run has ended that was left behind; at once, if none was."""
        left = {going.code for going in self._left_behind if going.context.run_id == run_id}
        if left:
            await asyncio.wait(left)

    def is_left_behind(self, run_id: RunId) -> bool:
        """Whether code of this run was given up, and still goes on."""
        return any(going.context.run_id == run_id for going in self._left_behind)

    def begin(
        self,
        context: RunContext,
        work: Coroutine[Any, Any, object],
        around: Context,
        *,
        limit: timedelta,
        soft: timedelta | None,
        tell: Callable[[Ending], None],
    ) -> None:
        """Run the code until it ends, its time is up, or it is interrupted.

        Args:
            around: What the code runs in.
            tell: Told how it ended, once, in ``around``.
        """
        limit_s = limit.total_seconds()
        context.ends = self._clock.monotonic() + limit_s
        loop = asyncio.get_running_loop()
        guard_loop(loop)
        code = loop.create_task(
            contained(work if soft is None else raising_softly(work, soft)),
            name=f"run:{context.task}:{context.run_id}",
            context=around,
        )
        going = self._running[context.run_id] = Going(code, context, around, limit, tell)
        going.timer = loop.call_later(limit_s, self._end_early, going, None, context=around)
        code.add_done_callback(partial(self._ended, going), context=around)

    def _ended(self, going: Going, code: asyncio.Task[object]) -> None:
        self._forget(going)
        self._left_behind.discard(going)
        assert going.timer is not None
        going.timer.cancel()
        if going.ending is None:
            going.tell(own_ending(code))
        elif not code.cancelled():
            code.exception()  # seen: of code that was left behind, nobody else would look

    def _end_early(self, going: Going, reason: str | None) -> None:
        """Begin to end the code, because of ``reason``, or because its time is up."""
        if going.ending is None and not going.code.done():
            going.ending = asyncio.get_running_loop().create_task(
                self._end(going, reason), name=f"end:{going.context.task}", context=going.around
            )

    async def _end(self, going: Going, reason: str | None) -> None:
        await self._cancel(going)
        code = going.code
        cause = failure_in(code)
        if reason is not None and code.done() and cause is None:
            going.tell(Ending(code.result(), None))
            return
        failure = (
            TimeLimitExceeded(f"took longer than its time limit of {format_duration(going.limit)}")
            if reason is None
            else RunInterrupted(reason)
        )
        failure.__cause__ = cause  # its traceback leads to where the code was
        going.tell(Ending(None, failure))

    async def _cancel(self, going: Going) -> None:
        """Cancel the code, let it clean up, ask once more, and leave it behind if need be."""
        going.context.cancelled = True
        grace_s = self._cancel_grace.total_seconds()
        for wait_s in (grace_s, grace_s / 10):
            going.code.cancel()
            await asyncio.wait({going.code}, timeout=wait_s)
            if going.code.done():
                return
        self._forget(going)
        self._left_behind.add(going)
        self._events.announce(
            RunAbandoned(task=going.context.task, run_id=going.context.run_id, waited_s=grace_s)
        )

    def _forget(self, going: Going) -> None:
        """It can be told nothing any more. Another attempt of its job may have begun since."""
        if self._running.get(going.context.run_id) is going:
            del self._running[going.context.run_id]


async def outlasting(
    ended: asyncio.Future[T], hasten: Callable[[], None]
) -> tuple[T, asyncio.CancelledError | None]:
    """Wait to the end, although cancelled: that has it hastened, once.

    Returns:
        What it came to, and the latest cancellation, to be passed on.
    """
    interruption: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.wait({ended})
        except asyncio.CancelledError as exc:
            if interruption is None:
                hasten()
            interruption = exc
    return ended.result(), interruption


def own_ending(code: asyncio.Task[object]) -> Ending:
    """The ending of code that nobody cancelled but, perhaps, itself."""
    if code.cancelled():
        crash = TaskCrashed("the task was cancelled by its own code, not by the worker")
        crash.__cause__ = failure_in(code)
        return Ending(None, crash)
    failure = code.exception()
    return Ending(None if failure else code.result(), failure)


def failure_in(code: asyncio.Task[object]) -> BaseException | None:
    """What the code ended with; for cancelled code the cancellation, which leads to its place."""
    if not code.done():
        return None
    try:
        return code.exception()
    except asyncio.CancelledError as exc:
        return exc


async def contained(code: Coroutine[Any, Any, object]) -> Any:
    """The code, with what would end the event loop turned into a failure of the run."""
    try:
        with child_ends_here():
            result = await code
    except (SystemExit, KeyboardInterrupt) as exc:
        raise TaskCrashed(f"the task raised {type(exc).__name__}({exc})") from exc
    refuse_unawaited()
    return result
