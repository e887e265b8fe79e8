"""Runs one thing. Every door leads here, and what is promised of runs is kept here.

`worker.running.bounds` makes sure that a run ends, `worker.running.hooks` that its hooks do no
harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from worker.client.open_clients import choose
from worker.context import RunContext
from worker.errors import DataApiError, InvalidResult, RunInterrupted
from worker.events import BatchEnded, BatchStarted, RunFinished, RunRetrying, RunStarted
from worker.forking import child_ends_here
from worker.groups import leaves
from worker.jobs.verdict import Snoozed, Verdict, judge
from worker.model import CancelReason, Run, RunId, State, Trigger, new_run_id
from worker.retry import RetryPolicy, retry_after_s
from worker.running.bounds import Bounds, Ending, crash_of, outlasting
from worker.running.hooks import Held, Hooks
from worker.running.outcome import (
    encode_result,
    error_of,
    is_one_jobs_fault,
    is_own,
    result_in,
    state_of,
    unwrapped,
)
from worker.tasks.bulk import BulkJob
from worker.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import httpx

    from worker.client.client import WorkerClient
    from worker.clock import Clock
    from worker.events import Events
    from worker.jobs.options import JobOptions
    from worker.jobs.verdict import Wish
    from worker.running.bounds import StuckRun
    from worker.tasks.base import TaskCode, TaskDefinition
    from worker.tasks.bulk import BulkTask

__all__ = ["BatchJob", "JobTerms", "RunLimits", "Runner"]

ONCE = RetryPolicy(attempts=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """What holds for a task that does not say otherwise.

    Attributes:
        retry: How transient failures are tried again. A job that a service turned away with a
            ``Retry-After`` waits at least that long for its next attempt, up to this one's cap.
        time_limit: The longest a run may take, retries included.
        cancel_grace: How long cancelled code may take to clean up before it is reported as stuck
            (in a shutdown: before it is left behind), and how long a hook may take.
        result_limit: The most bytes that a job's result may have as JSON.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    time_limit: timedelta = timedelta(minutes=5)
    cancel_grace: timedelta = timedelta(seconds=5)
    result_limit: int = 256 * 1024


class JobTerms(NamedTuple):
    """What makes a run a job: it has one attempt now, and perhaps another later.

    Attributes:
        attempt: Which attempt it is, from 1.
        on_progress: Told what the code says of its progress.
        headers: What was handed on with it.
        queue: Where it lay.
        due_at: When it could have been leased, by the engine's clock.
    """

    options: JobOptions
    attempt: int
    on_progress: Callable[[str], None] | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    queue: str = ""
    due_at: datetime | None = None


class BatchJob(NamedTuple):
    """A job to be run together with others."""

    id: RunId
    params: str
    terms: JobTerms


@dataclass(slots=True)
class Underway:
    """A run that was begun, and how it ended.

    Attributes:
        around: What all that concerns it runs in.
        started: What was announced when it began.
        encoded: A job's result as JSON.
    """

    task: TaskDefinition
    context: RunContext
    around: Context
    started: Run
    held: Held
    job: JobTerms | None
    result: object = None
    failure: BaseException | None = None
    encoded: str | None = None
    overtime_s: float | None = None


class Runner:
    """Runs tasks, one call of `run` or `begin` a run. Any number may go on at once.

    Args:
        redact: Takes secrets out of a failure's words, before anybody is told or keeps them.

    Attributes:
        client: What its runs ask for jobs with, whatever door they came through; without it, the
            client that whoever begins a run would ask with.
    """

    def __init__(
        self,
        http_client: httpx.AsyncClient,
        *,
        clock: Clock,
        events: Events,
        limits: RunLimits = RunLimits(),
        redact: Callable[[str], str] = str,
    ) -> None:
        self._redact = redact
        self._client = http_client
        self._clock = clock
        self._events = events
        self._limits = limits
        self._bounds = Bounds(
            clock=clock, events=events, cancel_grace=limits.cancel_grace, redact=redact
        )
        self._hooks = Hooks(events=events, limit=limits.cancel_grace)
        self.client: WorkerClient | None = None
        self._threads = Threads()
        self._going: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> list[str]:
        """The tasks whose code still goes on, even if it was given up."""
        return self._bounds.busy

    def stuck(self) -> list[StuckRun]:
        """The runs whose code goes on although it was cancelled, the longest overdue first."""
        return self._bounds.stuck()

    def request_end(self, run_id: RunId) -> None:
        """Have the code find ``context.cancelled``, since its job was cancelled. Does nothing if
        it has ended."""
        self._bounds.request_end(run_id)

    def interrupt(self, run_id: RunId, reason: CancelReason) -> None:
        """Cancel a run's code. The run ends when its code does; in a shutdown at the end of the
        code's grace at the latest. Does nothing if it has ended."""
        self._bounds.interrupt(run_id, reason)

    async def run(
        self,
        task: TaskDefinition,
        *,
        trigger: Trigger,
        slot: datetime | None = None,
        run_id: RunId | None = None,
        params: str = "{}",
        job: JobTerms | None = None,
    ) -> Run:
        """Run ``task`` once, and return what came of it. Raises nothing that the task raised.

        Args:
            slot: The nominal time it is due, if a schedule says so.
            run_id: The id it is already known by; a fresh one otherwise.
            params: A JSON object.
            job: For a job, on what terms it is run.

        Raises:
            asyncio.CancelledError: Whoever called was cancelled; the run ended as ``REVOKED``.
        """
        run_id = run_id or new_run_id()
        ended: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        self.begin(
            task,
            trigger=trigger,
            slot=slot,
            run_id=run_id,
            params=params,
            job=job,
            done=ended.set_result,
        )
        run, interruption = await outlasting(
            ended, partial(self._bounds.interrupt, run_id, CancelReason.SHUTDOWN)
        )
        if interruption is not None:
            raise interruption
        return run

    def begin(
        self,
        task: TaskDefinition,
        *,
        trigger: Trigger,
        run_id: RunId,
        done: Callable[[Run], None],
        slot: datetime | None = None,
        params: str = "{}",
        job: JobTerms | None = None,
    ) -> None:
        """As `run`, but nobody waits: ``done`` is called with what came of it, once.

        So a run costs no asyncio task beside the one of its code.
        """
        underway = self._begun(task, trigger, run_id, Held(), job, slot)
        limit, soft = self._limits_of(task, job)
        self._bounds.begin(
            underway.context,
            self._once(underway, params),
            underway.around,
            limit=limit,
            soft=soft,
            tell=partial(self._ended, underway, done),
        )

    def begin_many(
        self,
        task: TaskDefinition,
        jobs: Sequence[BatchJob],
        *,
        trigger: Trigger,
        run_id: RunId,
        ended: Callable[[int, Run], None],
        done: Callable[[], None],
    ) -> None:
        """Run a task that takes many jobs at once.

        A batch that fails as a whole is split in two, and each half is run again, down to the job
        that fails: so one that is poison fails alone. Not so if the network or the store failed:
        each half would fail as well.

        Args:
            run_id: Of the batch, for `interrupt`.
            ended: Called once for each job, with its place in ``jobs`` and what came of it, as soon
                as that is known: one whose hook takes long holds up no other.
            done: Called once, after the last of them.
        """
        batch = self._context(task, trigger, run_id, None, None)
        batch.retry = self._retry_of(task, jobs[0].terms)
        batch.is_batch = True
        self._follow(self._many(task, batch, jobs, ended, done), self._around(batch))

    def _follow(self, work: Coroutine[Any, Any, None], around: Context) -> asyncio.Task[None]:
        """Have what belongs to a run go on, in its own surroundings."""
        going = asyncio.get_running_loop().create_task(work, context=around)
        self._going.add(going)
        going.add_done_callback(self._going.discard)
        return going

    async def _many(
        self,
        task: TaskDefinition,
        batch: RunContext,
        jobs: Sequence[BatchJob],
        ended: Callable[[int, Run], None],
        done: Callable[[], None],
    ) -> None:
        held = Held()
        runs = [self._begun(task, batch.trigger, job.id, held, job.terms, None) for job in jobs]
        endings: list[Ending | None] = [None] * len(jobs)
        fit: list[tuple[int, BulkJob[Any]]] = []
        for place, job in enumerate(jobs):
            try:
                arguments, _ = task.params.load(job.params)
            except BaseException as exc:  # a model may have code of its own for this
                failure = exc if isinstance(exc, Exception) else crash_of(exc)
                endings[place] = Ending(None, failure)
            else:
                params = arguments[0] if arguments else None
                runs[place].context.params = params
                fit.append((place, BulkJob(job.id, params, job.terms.attempt)))
        together = tuple(RunId(job.id) for _, job in fit)
        self._events.announce(BatchStarted(task=task.name, run_id=batch.run_id, jobs=together))
        await self._in_parts(task, batch, held, fit, endings)
        self._events.announce(BatchEnded(task=task.name, run_id=batch.run_id))
        hooked: list[asyncio.Task[None]] = []
        for place, (underway, ending) in enumerate(zip(runs, endings, strict=True)):
            assert ending is not None
            tell = partial(ended, place)
            self._take(underway, ending)
            if task.hooks:
                hooked.append(self._follow(self._with_hooks(underway, tell), underway.around))
            else:
                underway.around.run(self._conclude, underway, None, tell)
        if hooked:
            await asyncio.wait(hooked)
        done()

    async def _in_parts(
        self,
        task: TaskDefinition,
        batch: RunContext,
        held: Held,
        jobs: list[tuple[int, BulkJob[Any]]],
        endings: list[Ending | None],
    ) -> None:
        """Run ``jobs`` at once, or in halves if that fails; put each one's ending in its place."""
        parts = [jobs] if jobs else []
        while parts:
            part = parts.pop()
            ending = await self._part(task, batch, held, [job for _, job in part])
            if ending.failure is None:
                answers = list(cast("Sequence[object]", ending.result))
                delay = batch.snooze_delay
                if delay is not None and not any(isinstance(one, Snoozed) for one in answers):
                    answers = [Snoozed(delay)] * len(part)  # its code caught the request
                for (place, _), answer in zip(part, answers, strict=True):
                    if isinstance(answer, BaseException):
                        endings[place] = Ending(None, unwrapped(answer), ending.overtime_s)
                    else:
                        endings[place] = Ending(answer, None, ending.overtime_s)
                continue
            if len(part) > 1 and is_one_jobs_fault(ending.failure):
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            interrupted = isinstance(ending.failure, RunInterrupted)
            for some in (part, *(parts if interrupted else ())):
                for place, _ in some:
                    endings[place] = ending
            if interrupted:
                return

    async def _part(
        self, task: TaskDefinition, batch: RunContext, held: Held, jobs: list[BulkJob[Any]]
    ) -> Ending:
        ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        batch.withdraw_end()
        batch.snooze_delay = None
        limit, soft = self._limits_of(task, None)
        self._bounds.begin(
            batch,
            self._batch(task, held, jobs),
            self._around(batch),
            limit=limit,
            soft=soft,
            tell=ended.set_result,
            jobs=tuple(RunId(job.id) for job in jobs),
        )
        return await ended

    async def _batch(self, task: TaskDefinition, held: Held, jobs: list[BulkJob[Any]]) -> object:
        """The code of one batch."""
        if held.code is None:
            held.code = task.prepare(self._client)
        answers: object = await cast("BulkTask", held.code).execute_many(jobs)
        listed = isinstance(answers, Sequence) and not isinstance(answers, str | bytes)
        count = len(cast("Sequence[object]", answers)) if listed else None
        if count != len(jobs):
            got = f"a {type(answers).__name__}" if count is None else f"{count} answers"
            raise InvalidResult(
                f"execute_many: expected a list of {len(jobs)} answers, one a job, got {got}"
            )
        return answers

    def _begun(
        self,
        task: TaskDefinition,
        trigger: Trigger,
        run_id: RunId,
        held: Held,
        job: JobTerms | None,
        slot: datetime | None,
    ) -> Underway:
        """What is known of a run from its beginning, which is announced."""
        context = self._context(task, trigger, run_id, job, slot)
        around = self._around(context)
        started = Run(
            run_id=run_id,
            task=task.name,
            trigger=trigger,
            state=State.STARTED,
            started_at=self._clock.now(),
            slot=slot,
            attempts=context.attempt,
        )
        announced = (
            RunStarted(task=task.name, run=started)
            if job is None
            else RunStarted(
                task=task.name,
                run=started,
                queue=job.queue,
                due_at=job.due_at,
                headers=job.headers,
            )
        )
        around.run(self._events.announce, announced)
        return Underway(task, context, around, started, held, job)

    def _around(self, context: RunContext) -> Context:
        """What a run's code runs in. A door may be a timer, or a thread, that knows nothing."""
        around = copy_context()
        around.run(self._enter, context)
        return around

    def _enter(self, context: RunContext) -> None:
        context.become_current()
        choose(self.client, in_run=True)

    def _context(
        self,
        task: TaskDefinition,
        trigger: Trigger,
        run_id: RunId,
        job: JobTerms | None,
        slot: datetime | None,
    ) -> RunContext:
        context = RunContext(
            task=task.name,
            run_id=run_id,
            trigger=trigger,
            slot=slot,
            clock=self._clock,
            retry=self._retry_of(task, job),
            events=self._events,
            http_client=self._client,
            threads=self._threads,
            redact=self._redact,
        )
        if job is not None:
            context.attempt = job.attempt
            context.on_progress = job.on_progress
            context.headers = job.headers
        context.began = self._clock.monotonic()
        return context

    def _limits_of(
        self, task: TaskDefinition, job: JobTerms | None
    ) -> tuple[timedelta, timedelta | None]:
        """The time limit and the soft one."""
        own = (job.options.time_limit if job is not None else None) or task.time_limit
        soft = (job.options.soft_time_limit if job is not None else None) or task.soft_time_limit
        return self._limits.time_limit if own is None else own, soft

    def _retry_of(self, task: TaskDefinition, job: JobTerms | None) -> RetryPolicy:
        """How calls are repeated: not at all in a job, which is itself repeated."""
        if task.retry is not None:
            return task.retry
        return self._limits.retry if job is None else ONCE

    def _ended(self, underway: Underway, done: Callable[[Run], None], ending: Ending) -> None:
        """The code has ended: find out what became of the run, and say so."""
        self._take(underway, ending)
        if underway.task.hooks:
            self._follow(self._with_hooks(underway, done), underway.around)
        else:
            self._conclude(underway, None, done)

    def _take(self, underway: Underway, ending: Ending) -> None:
        """Take in how the code ended. A result that cannot be kept is a failure."""
        underway.result, underway.failure, underway.overtime_s = ending
        job, delay = underway.job, underway.context.snooze_delay
        if underway.failure is None and delay is not None:
            underway.failure = Snoozed(delay)  # its code caught the request
        failure = underway.failure
        if failure is None and job is not None and not job.options.ignore_result:
            try:
                underway.encoded = encode_result(underway.result, self._limits.result_limit)
            except InvalidResult as exc:
                underway.failure = exc

    async def _with_hooks(self, underway: Underway, done: Callable[[Run], None]) -> None:
        """Call the hooks of a run whose code has ended, and conclude it."""
        hooks, failure = underway.task.hooks, underway.failure
        held, context = underway.held, underway.context
        if held.code is None:  # its parameters did not fit, so nothing was run
            with suppress(Exception):
                held.code = underway.task.prepare(self._client)
        wish = None
        if (
            underway.job is not None
            and failure is not None
            and "handle_error" in hooks
            and is_own(failure)
        ):
            wish = await self._hooks.wish(held, context, failure)
        verdict = self._verdict(underway, wish)
        await self._hooks.tell(
            underway.task, context, held, verdict.state, failure, underway.result
        )
        self._conclude(underway, verdict, done)

    def _conclude(
        self, underway: Underway, verdict: Verdict | None, done: Callable[[Run], None]
    ) -> None:
        """Call ``done`` with the run, once, whatever its exception or its result does when asked
        for its text: a job that nobody settles would be leased for ever."""
        try:
            run = self._concluded(underway, verdict)
        except BaseException as exc:
            underway.failure = crash_of(exc)
            run = self._concluded(underway, None)
        done(run)

    def _concluded(self, underway: Underway, verdict: Verdict | None) -> Run:
        """The run, with what became of it, which is announced."""
        context, started, failure = underway.context, underway.started, underway.failure
        state, delay, dead = verdict or self._verdict(underway, None)
        overtime_s = underway.overtime_s
        run = Run(
            run_id=started.run_id,
            task=started.task,
            trigger=started.trigger,
            state=state,
            started_at=started.started_at,
            slot=started.slot,
            attempts=context.attempt,
            duration_ms=round((self._clock.monotonic() - context.began) * 1000, 1),
            result=underway.result if failure is None else result_in(failure),
            error=None if failure is None else error_of(failure, self._redact),
            encoded=underway.encoded,
            delay=delay,
            dead=dead,
            overtime_ms=None if overtime_s is None else round(overtime_s * 1000, 1),
        )
        self._events.announce(
            RunFinished(
                task=run.task, run=run, failure=failure, calls_retried=context.calls_retried
            )
        )
        return run

    def _verdict(self, underway: Underway, wish: Wish | None) -> Verdict:
        """What becomes of a run: of a job, as its options, its task and who turned it away wish."""
        job, failure = underway.job, underway.failure
        if job is None:
            return Verdict(state_of(failure))
        asked_s = None if failure is None else retry_after_s(failure, self._clock.now())
        at_least = timedelta(0)
        if asked_s is not None:
            policy = underway.task.retry or self._limits.retry
            at_least = timedelta(seconds=min(asked_s, policy.retry_after_cap.total_seconds()))
        return judge(
            failure, options=job.options, attempt=job.attempt, wish=wish, at_least=at_least
        )

    async def _once(self, underway: Underway, params: str) -> object:
        """The code of one run."""
        task, context, held = underway.task, underway.context, underway.held
        arguments, named = task.params.load(params)
        context.params = arguments[0] if arguments else named or None
        if context.retry.attempts == 1:
            held.code = task.prepare(self._client)
            return await held.code.execute(*arguments, **named)
        return await self._attempts(task, context, held, partial(unpacked, arguments, named))

    async def _attempts(
        self,
        task: TaskDefinition,
        context: RunContext,
        held: Held,
        call: Callable[[TaskCode], Any],
    ) -> object:
        before = context.attempt - 1
        number = 0

        async def attempt() -> object:
            nonlocal number
            number += 1
            context.attempt, context.snooze_delay = before + number, None
            if held.code is None:
                held.code = task.prepare(self._client)
            with child_ends_here():  # before the retry policy judges what it raised
                return await call(held.code)

        def should_retry(failure: BaseException) -> bool:
            # A DataApiError comes from a call that was repeated already: retries do not multiply.
            return (
                context.repeatable
                and context.end_reason is None
                and not any(isinstance(leaf, DataApiError) for leaf in leaves(failure))
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


def unpacked(arguments: tuple[Any, ...], named: dict[str, Any], code: TaskCode) -> Any:
    return code.execute(*arguments, **named)
