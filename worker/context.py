"""What surrounds the code of a task while it runs: its run's id, its clock, its retries.

The runner opens a `RunContext` around each run. Code far below (a call of the Data API, the
shared client) finds it without being handed it, and tells it what the runner has to know.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack, cast

import structlog

from worker.client import current
from worker.client.child_ids import ChildIds
from worker.client.job_handle import JobHandle
from worker.clock import Clock, SystemClock
from worker.errors import InvalidOptions, JobExists, RunInterrupted, SoftTimeLimitExceeded
from worker.events import CallEnded, CallRetrying, Event, Events
from worker.jobs.options import as_delay
from worker.jobs.verdict import Snoozed
from worker.model import CancelReason, RunId, Trigger, new_run_id
from worker.progress import progress_of
from worker.retry import RetryPolicy
from worker.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from contextvars import Context
    from datetime import datetime
    from uuid import UUID

    import httpx

    from worker.client.asking import Askable
    from worker.client.client import WorkerClient
    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.sync_client import SyncJobHandle
    from worker.jobs.job import JobId

__all__ = ["CALL", "Calling", "RunContext", "current_run", "run_in"]

CALL = "worker.call"
"""The extension of an `httpx.Request` that holds its `Calling`."""

T = TypeVar("T")
_current: ContextVar[RunContext | None] = ContextVar("worker_run", default=None)


def nothing() -> None:
    """Do nothing."""


class Calling:
    """One try of an HTTP call of a run: enter it before the request is sent, and leave it when the
    answer is read, which is announced.

    Attributes:
        run: Whose call it is.
        call: As `CallEnded` has it.
        attempt: Which try it is, from 1.
        status: Of the answer, to be set once it is known.
    """

    __slots__ = ("_began", "attempt", "call", "run", "status")

    def __init__(self, run: RunContext, call: str, attempt: int) -> None:
        self.run = run
        self._began = 0.0
        self.call = call
        self.attempt = attempt
        self.status: int | None = None

    def __enter__(self) -> Calling:
        self._began = self.run.clock.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: object
    ) -> None:
        run = self.run
        run.events.announce(
            CallEnded(
                task=run.task,
                run_id=run.run_id,
                call=self.call,
                attempt=self.attempt,
                status=self.status,
                duration_s=run.clock.monotonic() - self._began,
                failure=exc,
            )
        )


@dataclass(slots=True, kw_only=True)
class RunContext:
    """One run, as its code sees it.

    Attributes:
        slot: The nominal time of the slot that the run takes, if a schedule triggered it.
        retry: How calls of the Data API, and the run itself, are repeated.
        attempt: Which try of ``execute`` this is, from 1.
        calls_retried: Repetitions of single calls so far.
        repeatable: Cleared once the run sent an unsafe request without an idempotency key: from
            then on the runner does not repeat ``execute``.
        snooze_delay: How long its code asked to wait before the job begins again, if it did.
        began: When it began, on the monotonic clock.
        ends: When its time limit ends it, on the monotonic clock.
        params: What it was asked with: an instance of the task's ``Params``, or the arguments of a
            function by name. ``None`` until they are known to fit.
        headers: What whoever asked for the job handed on beside them.
        http_client: The worker's shared client.
        threads: Where code that blocks is called.
        on_progress: Told what the code says of its progress, as a JSON object.
        redact: Takes secrets out of a text.
        is_batch: It is a batch of a bulk task.
        saw_end: The code knows that the run was requested to end.
    """

    task: str
    run_id: RunId = field(default_factory=new_run_id)
    trigger: Trigger = Trigger.MANUAL
    slot: datetime | None = None
    clock: Clock = field(default_factory=SystemClock)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    events: Events = field(default_factory=Events)
    attempt: int = 1
    calls_retried: int = 0
    repeatable: bool = True
    snooze_delay: timedelta | None = None
    began: float = 0.0
    ends: float | None = None
    params: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    http_client: httpx.AsyncClient | None = None
    threads: Threads = field(default_factory=Threads)
    on_progress: Callable[[str], None] | None = None
    redact: Callable[[str], str] = str
    _percent: float = 0
    _reported_badly: bool = False
    is_batch: bool = False
    _child_ids: ChildIds | None = field(default=None, init=False, repr=False)
    saw_end: bool = field(default=False, init=False)
    _reason: CancelReason | None = field(default=None, init=False)
    _requested_at: float = field(default=0.0, init=False)
    _soft: str | None = field(default=None, init=False)
    _on_soft_unraised: Callable[[], None] = field(default=nothing, init=False)
    _calls: int = field(default=0, init=False)
    _inside: set[int] = field(default_factory=set, init=False)
    _others: set[Future[Any]] = field(default_factory=set, init=False)

    @property
    def cancelled(self) -> bool:
        """Whether the run was requested to end; ``cancel_reason`` tells why. From any thread.

        Code that has read it as true and then returns counts as stopped, not as finished: its
        result is not recorded. In a shutdown the job is handed back, and the attempt is not
        spent. If the job was cancelled, it ends as ``REVOKED``. After the time limit the attempt
        fails with `TimeLimitExceeded`.
        """
        return self.cancel_reason is not None

    @property
    def cancel_reason(self) -> CancelReason | None:
        """Why the run was requested to end; ``None`` while it was not.

        Reading a reason counts as reading ``cancelled`` as true.
        """
        reason = self._reason
        if reason is not None:
            self.saw_end = True
        return reason

    def raise_if_cancelled(self) -> None:
        """Stop here if the run was requested to end. From any thread; costs nothing.

        Raises:
            RunInterrupted: The run was requested to end. Its ``reason`` tells why.
            SoftTimeLimitExceeded: The soft time limit has passed, and code in a thread finds that
                out; once.
        """
        reason = self.cancel_reason
        if reason is not None:
            raise RunInterrupted(reason.text, reason=reason)
        message = self._soft
        if message is not None:
            self._soft = None
            raise SoftTimeLimitExceeded(message)

    def request_end(self, reason: CancelReason) -> None:
        """Have the code find ``cancelled``. The first reason stays, unless the job is cancelled.

        The worker calls it. A unit test may, to see what a task does then.
        """
        if self._reason is None:
            self._requested_at = self.clock.monotonic()
            self._reason = reason
        elif reason is CancelReason.CANCEL:
            self._reason = reason

    def withdraw_end(self) -> None:
        """Forget a request to end, for a further part of a batch."""
        self._reason, self.saw_end = None, False

    @property
    def end_reason(self) -> CancelReason | None:
        """As ``cancel_reason``, for the worker: reading it does not count as the code's."""
        return self._reason

    @property
    def overdue_s(self) -> float | None:
        """Seconds since the run was requested to end; ``None`` if it was not."""
        return None if self._reason is None else self.clock.monotonic() - self._requested_at

    def soft_limit_passed(self, message: str, on_unraised: Callable[[], None]) -> None:
        """Have code that is in a thread now raise `SoftTimeLimitExceeded`, once, when it asks.

        Args:
            on_unraised: Called where the code that waits for the thread goes on, if the code in
                the thread did not ask.
        """
        if self._calls:
            self._soft, self._on_soft_unraised = message, on_unraised

    def inside(self, function: Callable[[], T]) -> T:
        """Call ``function``, and know this thread as one of the run's meanwhile."""
        thread = threading.get_ident()
        self._inside.add(thread)
        try:
            return function()
        finally:
            self._inside.discard(thread)

    def note_call(self, call: Future[Any]) -> None:
        """Know of a call in the event loop's own pool of threads."""
        self._others.add(call)
        call.add_done_callback(self._others.discard)

    def calls_left(self) -> list[Future[Any]]:
        """The calls in that pool that have not ended."""
        return list(self._others)

    def threads_inside(self) -> list[int]:
        """The idents of the threads in which code of this run is now."""
        return list(self._inside)

    @property
    def job_id(self) -> str:
        """The job's id, and for a run that is no job the run's: good for an idempotency key."""
        return self.run_id

    @property
    def deadline(self) -> datetime | None:
        """When the time limit ends this attempt, by the wall clock; ``None`` outside a worker."""
        if self.ends is None:
            return None
        return self.clock.now() + timedelta(seconds=self.ends - self.clock.monotonic())

    @property
    def logger(self) -> structlog.stdlib.BoundLogger:
        """A logger whose lines carry the task's name and the run's id."""
        logger: structlog.stdlib.BoundLogger = structlog.get_logger(self.task)
        return logger

    def progress(self, percent: float, **meta: Any) -> None:
        """Report how far the job is, and more, for ``job.progress()``. From any thread.

        It returns at once, and the latest report is recorded within half a second. It never fails:
        a report that cannot be recorded as it is is changed so that it can, and the log says so
        once per run.

        Args:
            percent: 0 to 100. Anything less or more becomes 0 or 100; what is not a number leaves
                the percentage as it was.
            meta: JSON values. A date becomes ISO 8601, anything else its ``str()``. Of more than
                1,000 characters as JSON, texts are cut and the last entries left out.
        """
        report = progress_of(percent, meta, self._percent)
        self._percent = report.percent
        problems = report.problems
        if self.on_progress is not None:
            try:
                self.on_progress(report.text)
            except Exception as exc:  # to report is not the work
                problems = [*problems, f"not recorded: {type(exc).__name__}"]
        if problems and not self._reported_badly:
            self._reported_badly = True
            self.logger.warning("job.progress_changed", problems=problems[:10])

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a thread of its own, and return what it returns.

        A thread cannot be interrupted: the run goes on until the function ends. Long work calls
        ``raise_if_cancelled()``, or reads ``cancelled``, now and then.
        """

        self._calls += 1
        try:
            return await self.threads.call(partial(self.inside, function))
        finally:
            self._calls -= 1
            if self._soft is not None:
                self._soft = None
                self._on_soft_unraised()

    def snooze(self, delay: timedelta | str | float) -> NoReturn:
        """Leave ``execute`` now, and have the job begin again after ``delay``. Spends no attempt.

        The request is recorded as well: if the code catches `Snoozed` and returns, the job is
        snoozed all the same. If the code then raises another exception, that is the outcome.

        Raises:
            Snoozed: Always. It is a `BaseException`, so ``except Exception`` does not catch it.
        """
        self.snooze_delay = as_delay("snooze", delay)
        raise Snoozed(self.snooze_delay)

    def enqueue(
        self,
        task: Askable | str,
        params: object = None,
        *,
        name: str | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> Coroutine[Any, Any, JobHandle]:
        """Enqueue another job, as `WorkerClient.enqueue` does, once over all attempts of this run:
        ``await context.enqueue(…)``. In a function that is not async, see `enqueue_sync`.

        Without an ``id``, the child's id is derived from the run (of a scheduled run, from the task
        and its slot) and from the call: its ``name``, or else the child's task, queue and
        parameters, and how many such calls the attempt has made before. So an attempt that repeats
        the call gets the handle of the job that is there (``created`` is ``False``). Parameters
        that differ between attempts, such as the current time, make another job: give a name.

        In a bulk task each call enqueues a new job, since each attempt has another batch: give an
        ``id`` made of the id of the bulk job.

        Args:
            name: Identifies the child within this run.

        Raises:
            InvalidOptions: As `WorkerClient.enqueue`; or a name where it has no meaning: beside an
                ``id``, or in a bulk task.
        """
        work = partial(self._enqueue_child, task, params, name, options)
        return current.enqueue_by(work, name="context.enqueue")

    def enqueue_sync(
        self,
        task: Askable | str,
        params: object = None,
        *,
        name: str | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> SyncJobHandle:
        """The same in a function that is not async, which waits until the job is enqueued.

        Raises:
            StoreUnavailable: It was called in the event loop; or as `WorkerClient.enqueue`.
        """
        return current.enqueue_in_thread(partial(self._enqueue_child, task, params, name, options))

    def enqueue_many(
        self,
        task: Askable | str,
        params: Iterable[object],
        *,
        ids: Iterable[str | UUID | None] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> Coroutine[Any, Any, list[JobHandle]]:
        """Enqueue many jobs of one task, as `WorkerClient.enqueue_many` does, each of them once
        over all attempts of this run, as `enqueue` does."""
        children = list(params)

        async def work(client: WorkerClient) -> list[JobHandle]:
            derived = self._ids_for_children(None, ids)
            if derived is None:
                return await client.enqueue_many(task, children, ids=ids, **options)
            chosen = [self._derived(derived, client, task, one, options) for one in children]
            try:
                return await client.enqueue_many(task, children, ids=chosen, **options)
            except JobExists as exc:  # an earlier attempt has enqueued some, with other options
                new = {job.id: job for job in exc.enqueued}
                handles = [
                    None if one is None else new.get(one, JobHandle(one, client, created=False))
                    for one in chosen
                ]
                found = [handle for handle in handles if handle is not None]
                if len(found) < len(chosen):
                    raise
                return found

        return current.enqueue_many_by(work, name="context.enqueue_many")

    async def _enqueue_child(
        self,
        task: Askable | str,
        params: object,
        name: str | None,
        options: EnqueueOptions,
        client: WorkerClient,
    ) -> JobHandle:
        ids = self._ids_for_children(name, options.get("id"))
        if ids is None:
            return await client.enqueue(task, params, **options)
        child = (
            self._derived(ids, client, task, params, options) if name is None else ids.named(name)
        )
        if child is None:
            return await client.enqueue(task, params, **options)
        options["id"] = child
        try:
            return await client.enqueue(task, params, **options)
        except JobExists as exc:  # an earlier attempt has enqueued it, with other options
            return cast("JobHandle", exc.job)

    def _derived(
        self,
        ids: ChildIds,
        client: WorkerClient,
        task: Askable | str,
        params: object,
        options: EnqueueOptions,
    ) -> JobId | None:
        """The id of this child; ``None`` if the child's task says one (``enqueue_options``)."""
        new = client.request(task, params, **options)
        if client.has_own_id(task, new, options):
            return None
        return ids.next(new, self.attempt, options.get("queue"))

    def _ids_for_children(self, name: str | None, chosen: object) -> ChildIds | None:
        """What derives the ids of jobs that this run enqueues; ``None`` if it derives none."""
        if name is not None and chosen is not None:
            raise InvalidOptions("id and name: expected one of them")
        if name is not None and self.is_batch:
            raise InvalidOptions(
                "name: a batch of a bulk task is another one in each attempt; expected an id made "
                "of the id of the bulk job"
            )
        if chosen is not None or self.is_batch:
            return None
        if self._child_ids is None:
            slot = None if self.trigger is Trigger.BACKFILL else self.slot
            parent = self.run_id if slot is None else f"{self.task}:{slot.isoformat()}"
            self._child_ids = ChildIds(parent)
        return self._child_ids

    def calling(self, call: str, attempt: int = 1) -> Calling:
        """One try of an HTTP call, as a context manager that announces its end."""
        return Calling(self, call, attempt)

    def call_retrying(self, call: str, attempt: int, wait_s: float, failure: BaseException) -> None:
        """Count and announce that one call is about to be repeated."""
        self.calls_retried += 1
        event: Event = CallRetrying(
            task=self.task,
            run_id=self.run_id,
            call=call,
            attempt=attempt,
            wait_s=wait_s,
            failure=failure,
        )
        self.events.announce(event)

    @contextmanager
    def entered(self) -> Iterator[RunContext]:
        """Make this the current run of the code inside."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    def become_current(self) -> None:
        """Make this the current run of the calling code, and of what it begins."""
        _current.set(self)


def current_run() -> RunContext | None:
    """The run that the calling code belongs to; ``None`` outside of any."""
    return _current.get()


def run_in(context: Context) -> RunContext | None:
    """The run that code in ``context`` belongs to, asked from elsewhere: another thread, say."""
    return context.get(_current)
