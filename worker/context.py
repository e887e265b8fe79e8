"""What surrounds the code of a task while it runs: its run's id, its clock, its retries.

The runner opens a `RunContext` around each run. Code far below (a call of the Data API, the
shared client) finds it without being handed it, and tells it what the runner has to know.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack

import structlog

from worker.client import current
from worker.clock import Clock, SystemClock
from worker.errors import InvalidParams
from worker.events import CallEnded, CallRetrying, Event, Events
from worker.jobs.options import as_delay
from worker.jobs.verdict import Snoozed
from worker.model import RunId, Trigger, new_run_id
from worker.retry import RetryPolicy
from worker.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from contextvars import Context
    from datetime import datetime

    import httpx

    from worker.client.asking import Askable
    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.job_handle import JobHandle
    from worker.client.sync_client import SyncJobHandle

__all__ = ["CALL", "Calling", "RunContext", "current_run", "run_in"]

CALL = "worker.call"
"""The extension of an `httpx.Request` that holds its `Calling`."""

LONGEST_PROGRESS = 1000

T = TypeVar("T")
_current: ContextVar[RunContext | None] = ContextVar("worker_run", default=None)


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
        cancelled: Its end is wanted: somebody asked for it, its time is up, or the worker shuts
            down. If its code goes on, it is cancelled after a while.
        asked_to_end: It was somebody who asked.
        began: When it began, on the monotonic clock.
        ends: When its time limit ends it, on the monotonic clock.
        params: What it was asked with: an instance of the task's ``Params``, or the arguments of a
            function by name. ``None`` until they are known to fit.
        headers: What whoever asked for the job handed on beside them.
        http_client: The worker's shared client.
        threads: Where code that blocks is called.
        on_progress: Told what the code says of its progress, as a JSON object.
        redact: Takes secrets out of a text.
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
    cancelled: bool = False
    asked_to_end: bool = False
    began: float = 0.0
    ends: float | None = None
    params: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    http_client: httpx.AsyncClient | None = None
    threads: Threads = field(default_factory=Threads)
    on_progress: Callable[[str], None] | None = None
    redact: Callable[[str], str] = str

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
        """Tell how far the job is, and whatever else, for ``job.progress()``. From any thread.

        It returns at once, and the latest word is recorded within half a second.

        Args:
            percent: 0 to 100.
            meta: JSON values. All of it has up to 1,000 characters as JSON, since it is stored
                again and again, and told to everybody who looks.

        Raises:
            InvalidParams: It is no JSON, too long, or no percentage.
        """
        if not 0 <= percent <= 100:
            raise InvalidParams(f"progress: expected 0 to 100 percent, got {percent}")
        try:
            told = json.dumps({"percent": percent, **meta}, allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise InvalidParams(f"progress: expected what can be written as JSON: {exc}") from exc
        if len(told) > LONGEST_PROGRESS:
            raise InvalidParams(
                f"progress: expected up to {LONGEST_PROGRESS} characters as JSON, got {len(told)}; "
                "store large data elsewhere and tell where it is"
            )
        if self.on_progress is not None:
            self.on_progress(told)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a thread of its own, and return what it returns.

        A thread cannot be cancelled: long work looks at ``cancelled`` now and then.
        """
        return await self.threads.call(function)

    def snooze(self, delay: timedelta | str) -> NoReturn:
        """Leave ``execute`` now, and have the job begin again after ``delay``. Spends no attempt.

        Raises:
            Snoozed: Always; let it pass.
        """
        raise Snoozed(as_delay("snooze", delay))

    def enqueue(
        self, task: Askable | str, params: object = None, **options: Unpack[EnqueueOptions]
    ) -> Coroutine[Any, Any, JobHandle]:
        """Enqueue another job, as `WorkerClient.enqueue` does: ``await context.enqueue(…)``.

        In a function that is not async, see `enqueue_sync`.
        """
        return current.enqueue(task, params, options, name="context.enqueue")

    def enqueue_sync(
        self, task: Askable | str, params: object = None, **options: Unpack[EnqueueOptions]
    ) -> SyncJobHandle:
        """The same in a function that is not async, which waits until the job is enqueued.

        Raises:
            StoreUnavailable: It was called in the event loop; or as `WorkerClient.enqueue`.
        """
        return current.enqueue_in_thread(task, params, options)

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

    def copied(self) -> Context:
        """A copy of the caller's context variables, in which this is the current run."""
        around = copy_context()
        around.run(_current.set, self)
        return around


def current_run() -> RunContext | None:
    """The run that the calling code belongs to; ``None`` outside of any."""
    return _current.get()


def run_in(context: Context) -> RunContext | None:
    """The run that code in ``context`` belongs to, asked from elsewhere: another thread, say."""
    return context.get(_current)
