"""A run's code, from its beginning to its end: by itself, at its time limit, or on request.

A run's code lives in an asyncio task of its own. Code in a thread cannot be interrupted, and async
code may swallow its cancellation. Such code goes on after it was requested to end, and its run with
it: the run ends when its code does, and what the code comes to is the run's outcome. Only a worker
that has to exit leaves code behind.

A cancellation of the code that the worker did not request is the code's own doing, and a failure.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from worker.client.open_clients import refuse_unawaited
from worker.durations import format_duration
from worker.errors import RunInterrupted, TaskCrashed, TimeLimitExceeded
from worker.events import RunAbandoned, RunStuck
from worker.forking import child_ends_here, guard_loop
from worker.jobs.verdict import Snoozed
from worker.model import CancelReason
from worker.running.outcome import unwrapped
from worker.running.soft_limit import raising_softly
from worker.running.stacks import stack_of_task, stack_of_threads
from worker.summary import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import timedelta

    from worker.clock import Clock
    from worker.context import RunContext
    from worker.events import Events
    from worker.model import RunId

__all__ = ["Bounds", "Ending", "StuckRun", "contained", "crash_of", "outlasting"]

T = TypeVar("T")

REPORT_S = 30.0
"""How long after its first report a run that does not end is reported again; each further interval
is twice as long as the one before."""
LONGEST_REPORT_S = 3600.0
LATE = (CancelReason.TIME_LIMIT, CancelReason.CANCEL)
"""Reasons after which an outcome counts as late."""


@dataclass(slots=True, eq=False)
class Going:
    """A run's code while it goes on.

    Attributes:
        around: What the code and all that concerns it runs in, with the run as the current one.
        limit: How long it may take.
        until: When its time is up, on the loop's clock; infinite once that was seen to.
        tell: Called with how the code ended, once.
        jobs: The jobs that the code works on, if it is a batch.
        ending: Cancels the code, once it was requested to end.
        leave: Set once the worker has to exit without waiting for the code.
        stuck: The code went on although it was cancelled and had its grace.
    """

    code: asyncio.Task[object]
    context: RunContext
    around: Context
    limit: timedelta
    until: float
    tell: Callable[[Ending], None]
    jobs: tuple[RunId, ...] = ()
    ending: asyncio.Task[None] | None = None
    leave: asyncio.Future[None] | None = None
    stuck: bool = False
    left_behind: bool = False


class Ending(NamedTuple):
    """How a run's code ended.

    Attributes:
        overtime_s: From its time limit, or from when its cancellation was requested, to its end.
    """

    result: object
    failure: BaseException | None
    overtime_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckRun:
    """A run whose code goes on although it was cancelled.

    Attributes:
        jobs: The jobs that it works on, if it is a batch.
        overdue_s: Since when it was requested to end, in seconds.
        stack: Where its code is now, with secrets taken out.
    """

    task: str
    run_id: RunId
    jobs: tuple[RunId, ...]
    reason: CancelReason
    overdue_s: float
    stack: str


class Bounds:
    """Keeps the code of all runs that go on between its bounds.

    Args:
        cancel_grace: How long cancelled code may take to clean up before it counts as stuck.
        redact: Takes secrets out of a text.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        events: Events,
        cancel_grace: timedelta,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._clock = clock
        self._events = events
        self._cancel_grace = cancel_grace
        self._redact = redact
        self._running: dict[RunId, Going] = {}
        self._left_behind: set[Going] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next_look = inf
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def busy(self) -> list[str]:
        """The tasks whose code still goes on, even if it was left behind."""
        going = [*self._running.values(), *self._left_behind]
        return sorted({one.context.task for one in going})

    def stuck(self) -> list[StuckRun]:
        """The runs whose code goes on although it was cancelled, the longest overdue first."""
        found = [self._stuck_run(going) for going in self._running.values() if going.stuck]
        return sorted(found, key=lambda one: -one.overdue_s)

    def request_end(self, run_id: RunId) -> None:
        """Have the code find ``context.cancelled``, since its job was cancelled. Does nothing if
        it has ended."""
        going = self._running.get(run_id)
        if going is not None:
            going.context.request_end(CancelReason.CANCEL)

    def interrupt(self, run_id: RunId, reason: CancelReason) -> None:
        """Cancel the code. Does nothing if it has ended.

        With ``SHUTDOWN`` code that does not end within its grace is left behind.
        """
        going = self._running.get(run_id)
        if going is not None:
            self._end_early(going, reason)

    def begin(
        self,
        context: RunContext,
        work: Coroutine[Any, Any, object],
        around: Context,
        *,
        limit: timedelta,
        soft: timedelta | None,
        tell: Callable[[Ending], None],
        jobs: tuple[RunId, ...] = (),
    ) -> None:
        """Run the code until it ends; request its end when its time is up.

        Args:
            around: What the code runs in.
            tell: Called with how it ended, once, in ``around``.
            jobs: Those that the code works on, if it is a batch.
        """
        limit_s = limit.total_seconds()
        context.ends = self._clock.monotonic() + limit_s
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            guard_loop(loop)
            self._loop, self._timer, self._next_look = loop, None, inf
        code = loop.create_task(
            whole(work if soft is None else raising_softly(work, soft, context), context),
            name=f"run:{context.task}:{context.run_id}",
            context=around,
        )
        until = loop.time() + limit_s
        going = Going(code, context, around, limit, until, tell, jobs)
        self._running[context.run_id] = going
        if until < self._next_look:
            self._look_at(loop, until)
        code.add_done_callback(partial(self._ended, going), context=around)

    def _look_at(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        """Look for runs over their limit then. One timer for all costs each run nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self._next_look = when
        self._timer = loop.call_at(when, self._end_overdue, loop, context=Context())

    def _end_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the runs whose time is up, and look again when the next one's is."""
        self._timer, self._next_look = None, inf
        now = loop.time()
        for going in [one for one in self._running.values() if one.until <= now]:
            going.until = inf
            self._end_early(going, CancelReason.TIME_LIMIT)
        first = min((one.until for one in self._running.values()), default=inf)
        if first < inf:
            self._look_at(loop, first)

    def _ended(self, going: Going, code: asyncio.Task[object]) -> None:
        if going.left_behind:
            self._left_behind.discard(going)
            if not code.cancelled():
                code.exception()  # seen: nothing else looks at what it raised
            return
        del self._running[going.context.run_id]
        going.tell(self._outcome(going))

    def _outcome(self, going: Going) -> Ending:
        """What the code came to. Code that was requested to end, and ended for that reason, was
        stopped; otherwise its result or its exception is the outcome, late as it may be."""
        code, context = going.code, going.context
        reason = context.end_reason
        if reason is None:
            return own_ending(code)
        overtime_s = context.overdue_s if reason in LATE else None
        failure = failure_in(code)
        if failure is None and not context.saw_end:
            return Ending(code.result(), None, overtime_s)
        if is_its_own(failure, reason, saw_end=context.saw_end):
            return Ending(None, failure, overtime_s)
        stop: Exception = RunInterrupted(reason.text + ended_with(failure), reason=reason)
        if reason is CancelReason.TIME_LIMIT:
            stop = TimeLimitExceeded(f"{reason.text} of {format_duration(going.limit)}")
        stop.__cause__ = failure  # its traceback leads to where the code was
        return Ending(None, stop, overtime_s)

    def _end_early(self, going: Going, reason: CancelReason) -> None:
        """Begin to end the code."""
        if going.code.done():
            return
        going.context.request_end(reason)
        loop = asyncio.get_running_loop()
        if going.leave is None:
            going.leave = loop.create_future()
        if reason is CancelReason.SHUTDOWN and not going.leave.done():
            going.leave.set_result(None)
        if going.ending is None:
            going.ending = loop.create_task(
                self._end(going, going.leave),
                name=f"end:{going.context.task}",
                context=going.around,
            )

    async def _end(self, going: Going, leave: asyncio.Future[None]) -> None:
        """Cancel the code, let it clean up, cancel it once more; report it while it does not end.

        It is cancelled again with each report, for code that has swallowed a cancellation.
        """
        code = going.code
        grace_s = self._cancel_grace.total_seconds()
        for wait_s in (grace_s, grace_s / 10):
            code.cancel()
            await asyncio.wait({code}, timeout=wait_s)
            if code.done():
                return
        going.stuck = True
        report_s = REPORT_S
        while not leave.done():
            self._report(going)
            either: set[asyncio.Future[Any]] = {code, leave}
            await asyncio.wait(either, timeout=report_s, return_when=asyncio.FIRST_COMPLETED)
            if code.done():
                return
            if not leave.done():
                code.cancel()
            report_s = min(2 * report_s, LONGEST_REPORT_S)
        self._leave_behind(going)

    def _report(self, going: Going) -> None:
        stuck = self._stuck_run(going)
        self._events.announce(
            RunStuck(
                task=stuck.task,
                run_id=stuck.run_id,
                reason=stuck.reason,
                overdue_s=stuck.overdue_s,
                stack=stuck.stack,
                stuck=sum(max(1, len(one.jobs)) for one in self._running.values() if one.stuck),
            )
        )

    def _stuck_run(self, going: Going) -> StuckRun:
        context = going.context
        stack = stack_of_threads(context.threads_inside()) or stack_of_task(going.code)
        return StuckRun(
            task=context.task,
            run_id=context.run_id,
            jobs=going.jobs,
            reason=context.end_reason or CancelReason.TIME_LIMIT,
            overdue_s=context.overdue_s or 0.0,
            stack=self._redact(stack),
        )

    def _leave_behind(self, going: Going) -> None:
        """The worker has to exit: its run ends as interrupted, while the code goes on."""
        stuck = self._stuck_run(going)
        going.left_behind = True
        del self._running[going.context.run_id]
        self._left_behind.add(going)
        self._events.announce(
            RunAbandoned(
                task=stuck.task,
                run_id=stuck.run_id,
                waited_s=self._cancel_grace.total_seconds(),
                stack=stuck.stack,
            )
        )
        reason = CancelReason.SHUTDOWN
        going.tell(Ending(None, RunInterrupted(reason.text, reason=reason, left_behind=True)))


def is_its_own(failure: BaseException | None, reason: CancelReason, *, saw_end: bool) -> bool:
    """Whether an exception is the outcome of code that was requested to end.

    Not if it only says that the code was stopped. After a cancel any exception does. In a shutdown
    (or if another worker may run the same), one does that the code raised because of the request.
    """
    if failure is None or isinstance(failure, RunInterrupted | asyncio.CancelledError):
        return False
    if reason is CancelReason.CANCEL:
        return False
    if isinstance(failure, Snoozed) or reason is CancelReason.TIME_LIMIT:
        return True
    return not (saw_end or answers_cancellation(failure))


def ended_with(failure: BaseException | None) -> str:
    """What stopped code raised of its own, to be added to the reason."""
    if failure is None or isinstance(failure, RunInterrupted | asyncio.CancelledError | Snoozed):
        return ""
    return f"; its code ended with {type(failure).__name__}: {describe(failure, str)}"


def answers_cancellation(failure: BaseException) -> bool:
    """Whether an exception was raised while a cancellation was handled."""
    seen: set[int] = set()
    ahead = [failure]
    while ahead:
        one = ahead.pop()
        if isinstance(one, asyncio.CancelledError):
            return True
        if id(one) in seen:
            continue
        seen.add(id(one))
        inside = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        ahead += [exc for exc in (one.__cause__, one.__context__, *inside) if exc is not None]
    return False


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
    failure = failure_in(code)
    if code.cancelled():
        crash = TaskCrashed("the task was cancelled by its own code, not by the worker")
        crash.__cause__ = failure
        return Ending(None, crash)
    return Ending(None if failure else code.result(), failure)


def failure_in(code: asyncio.Task[object]) -> BaseException | None:
    """What the code ended with; for cancelled code the cancellation, which leads to its place."""
    try:
        failure = code.exception()
        return None if failure is None else unwrapped(failure)
    except asyncio.CancelledError as exc:
        return exc


async def whole(code: Coroutine[Any, Any, object], context: RunContext) -> Any:
    """The code, and what it has left in threads if it was stopped or has failed."""
    try:
        with child_ends_here():
            result = await code
    except BaseException as exc:
        await calls_end(context)
        if isinstance(exc, SystemExit | KeyboardInterrupt):
            raise crash_of(exc) from exc
        raise
    if context.end_reason is not None:
        await calls_end(context)
    refuse_unawaited()
    return result


async def calls_end(context: RunContext) -> None:
    """Return once no call of the run goes on in the event loop's own pool of threads."""
    loop = asyncio.get_running_loop()
    while calls := context.calls_left():
        one_ended = asyncio.Event()
        for call in calls:
            call.add_done_callback(partial(wake, loop, one_ended))
        with suppress(asyncio.CancelledError):
            await one_ended.wait()


def wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event, call: object) -> None:
    with suppress(RuntimeError):  # the loop is closed: the code was left behind
        loop.call_soon_threadsafe(event.set)


async def contained(code: Coroutine[Any, Any, object]) -> Any:
    """The code, with what would end the event loop turned into a failure of the run."""
    try:
        with child_ends_here():
            result = await code
    except (SystemExit, KeyboardInterrupt) as exc:
        raise crash_of(exc) from exc
    refuse_unawaited()
    return result


def crash_of(exc: BaseException) -> TaskCrashed:
    return TaskCrashed(f"the task raised {type(exc).__name__}({exc})")
