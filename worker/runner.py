"""Runs one thing. Every door leads here, and what is promised of runs is kept here.

A run's code lives in an asyncio task of its own. Whatever it does there — raise, hang, exit,
cancel itself, recurse without end — ends that task, and the runner records what came of it.

Who cancelled is told by where it arrives: a cancellation of the code that nobody here asked for is
the code's own doing, and a failure; one of `Runner.run` itself is the worker shutting down.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import structlog

from worker.context import RunContext
from worker.durations import format_duration
from worker.errors import (
    DataApiError,
    DataApiUnreachable,
    RunInterrupted,
    TaskCrashed,
    TimeLimitExceeded,
    WorkerError,
)
from worker.events import RunAbandoned, RunFinished, RunRetrying, RunStarted
from worker.model import Run, RunError, RunId, State, Trigger, new_run_id
from worker.retry import RetryPolicy
from worker.summary import describe

if TYPE_CHECKING:
    from worker.clock import Clock
    from worker.events import Events
    from worker.tasks.base import Execute, TaskDefinition

__all__ = ["RunLimits", "Runner"]

SHUTTING_DOWN = "the worker is shutting down"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """What holds for a task that does not say otherwise.

    Attributes:
        retry: How transient failures are tried again.
        time_limit: The longest a run may take, retries included.
        cancel_grace: How long cancelled code may take to clean up before it is left behind.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    time_limit: timedelta = timedelta(minutes=5)
    cancel_grace: timedelta = timedelta(seconds=5)


class Runner:
    """Runs tasks, one call of `run` a run. Any number may go on at once."""

    def __init__(
        self,
        http_client: httpx.AsyncClient,
        *,
        clock: Clock,
        events: Events,
        limits: RunLimits = RunLimits(),
    ) -> None:
        self._client = http_client
        self._clock = clock
        self._events = events
        self._limits = limits
        self._running: dict[RunId, Going] = {}

    @property
    def busy(self) -> list[str]:
        """The tasks whose code still goes on, even if it was given up."""
        return sorted({going.task for going in self._running.values()})

    def interrupt(self, run_id: RunId, reason: str) -> None:
        """End a run early, as ``REVOKED``, because of ``reason``. Does nothing if it has ended."""
        going = self._running.get(run_id)
        if going is not None and not going.wish.done():
            going.wish.set_result(reason)

    async def code_ended(self, run_id: RunId) -> None:
        """Return once the code of a run has ended that was left behind; at once, if none was."""
        going = self._running.get(run_id)
        if going is not None:
            await asyncio.wait({going.code})

    async def run(
        self,
        task: TaskDefinition,
        *,
        trigger: Trigger,
        slot: datetime | None = None,
        run_id: RunId | None = None,
    ) -> Run:
        """Run ``task`` once, and return what came of it. Raises nothing that the task raised.

        Args:
            slot: The nominal time it is due, if a schedule says so.
            run_id: The id it is already known by; a fresh one otherwise.

        Raises:
            asyncio.CancelledError: Whoever called was cancelled; the run ended as ``REVOKED``.
        """
        context = RunContext(
            task=task.name,
            run_id=run_id or new_run_id(),
            trigger=trigger,
            slot=slot,
            clock=self._clock,
            retry=task.retry or self._limits.retry,
            events=self._events,
        )
        run = Run(
            run_id=context.run_id,
            task=task.name,
            trigger=trigger,
            state=State.STARTED,
            started_at=self._clock.now(),
            slot=slot,
        )
        began = self._clock.monotonic()
        with (
            context.entered(),
            structlog.contextvars.bound_contextvars(
                task=task.name, run_id=run.run_id, trigger=trigger.value
            ),
        ):
            self._events.announce(RunStarted(task=task.name, run=run))
            ending = await self._bounded(task, context)
            failure = ending.failure
            run = replace(
                run,
                state=state_of(failure),
                attempts=context.attempt,
                duration_ms=round((self._clock.monotonic() - began) * 1000, 1),
                result=failure.result if isinstance(failure, WorkerError) else ending.result,
                error=error_of(failure) if failure else None,
            )
            self._events.announce(
                RunFinished(
                    task=task.name,
                    run=run,
                    failure=failure,
                    calls_retried=context.calls_retried,
                )
            )
        if ending.interruption is not None:
            raise ending.interruption
        return run

    async def _bounded(self, task: TaskDefinition, context: RunContext) -> Ending:
        """Run the code until it ends, its time is up, or the worker shuts down."""
        limit = self._limits.time_limit if task.time_limit is None else task.time_limit
        limit_s = limit.total_seconds()
        code = asyncio.create_task(
            self._contained(task, context), name=f"run:{task.name}:{context.run_id}"
        )
        wish: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._running[context.run_id] = Going(code, task.name, wish)
        code.add_done_callback(partial(self._ended, context.run_id))
        interruption: asyncio.CancelledError | None = None
        try:
            either: set[asyncio.Future[Any]] = {code, wish}
            await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as exc:
            interruption = exc
        if code.done():
            return own_ending(code, interruption)

        overdue = interruption is None and not wish.done()
        interruption = await self._end(code, context) or interruption
        cause = failure_in(code)
        if overdue:
            late = TimeLimitExceeded(f"took longer than its time limit of {format_duration(limit)}")
            late.__cause__ = cause  # its traceback leads to where the code was
            return Ending(None, late, interruption)
        if code.done() and cause is None:
            return Ending(code.result(), None, interruption)
        stopped = RunInterrupted(wish.result() if wish.done() else SHUTTING_DOWN)
        stopped.__cause__ = cause
        return Ending(None, stopped, interruption)

    async def _end(
        self, code: asyncio.Task[object], context: RunContext
    ) -> asyncio.CancelledError | None:
        """Cancel the code, let it clean up, ask once more, and leave it behind if need be.

        Returns:
            The worker's wish to shut down, if it came meanwhile: it shortens nothing.
        """
        interruption: asyncio.CancelledError | None = None
        grace_s = self._limits.cancel_grace.total_seconds()
        for wait_s in (grace_s, grace_s / 10):
            deadline = self._clock.monotonic() + wait_s
            code.cancel()
            while not code.done() and (left_s := deadline - self._clock.monotonic()) > 0:
                try:
                    await asyncio.wait({code}, timeout=left_s)
                except asyncio.CancelledError as exc:
                    interruption = exc
        if not code.done():
            self._events.announce(
                RunAbandoned(task=context.task, run_id=context.run_id, waited_s=grace_s)
            )
        return interruption

    def _ended(self, run_id: RunId, code: asyncio.Task[object]) -> None:
        del self._running[run_id]
        if not code.cancelled():
            code.exception()  # seen: of code that was left behind, nobody else would look

    async def _contained(self, task: TaskDefinition, context: RunContext) -> object:
        """The code, with what would end the event loop turned into a failure of the run."""
        try:
            return await self._attempts(task, context)
        except (SystemExit, KeyboardInterrupt) as exc:
            raise TaskCrashed(f"the task raised {type(exc).__name__}({exc})") from exc

    async def _attempts(self, task: TaskDefinition, context: RunContext) -> object:
        execute: Execute | None = None
        number = 0

        async def attempt() -> object:
            nonlocal execute, number
            number += 1
            context.attempt = number
            execute = execute or task.prepare(self._client)
            return await execute()

        def should_retry(failure: BaseException) -> bool:
            # A DataApiError comes from a call that was repeated already: retries do not multiply.
            return (
                context.repeatable
                and not isinstance(failure, DataApiError)
                and context.retry.covers(failure)
            )

        def before_wait(number: int, wait_s: float, failure: BaseException) -> None:
            self._events.announce(
                RunRetrying(
                    task=task.name,
                    run_id=context.run_id,
                    attempt=number,
                    wait_s=wait_s,
                    failure=failure,
                )
            )

        return await context.retry.call(
            attempt, clock=self._clock, should_retry=should_retry, before_wait=before_wait
        )


@dataclass(frozen=True, slots=True)
class Going:
    """A run's code while it goes on, and where the wish that it ends is put."""

    code: asyncio.Task[object]
    task: str
    wish: asyncio.Future[str]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run's code ended, and the worker's own cancellation, to be passed on."""

    result: object
    failure: BaseException | None
    interruption: asyncio.CancelledError | None


def own_ending(code: asyncio.Task[object], interruption: asyncio.CancelledError | None) -> Ending:
    """The ending of code that nobody cancelled but, perhaps, itself."""
    if code.cancelled():
        crash = TaskCrashed("the task was cancelled by its own code, not by the worker")
        crash.__cause__ = failure_in(code)
        return Ending(None, crash, interruption)
    failure = code.exception()
    return Ending(None if failure else code.result(), failure, interruption)


def failure_in(code: asyncio.Task[object]) -> BaseException | None:
    """What the code ended with; for cancelled code the cancellation, which leads to its place."""
    if not code.done():
        return None
    try:
        return code.exception()
    except asyncio.CancelledError as exc:
        return exc


def error_of(failure: BaseException) -> RunError:
    return RunError(
        type(failure).__name__,
        describe(failure),
        unreachable=isinstance(failure, DataApiUnreachable | httpx.TransportError),
    )


def state_of(failure: BaseException | None) -> State:
    match failure:
        case None:
            return State.SUCCESS
        case RunInterrupted():
            return State.REVOKED
        case _:
            return State.FAILURE
