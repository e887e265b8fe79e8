"""The worker of a test."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from pydantic_core import to_jsonable_python

from worker.config.collecting import register_module
from worker.consuming.consumer import Consumer, ConsumerLimits
from worker.consuming.queue_plan import QueuePlan
from worker.errors import ConfigurationError, UnknownTaskError
from worker.events import Event, Events, RunFinished
from worker.jobs.job import NOW
from worker.jobs.options import as_delay
from worker.model import Trigger, new_run_id
from worker.running.runner import RunLimits
from worker.schedules.schedule import OFF
from worker.scheduling.scheduler import Scheduler
from worker.tasks.base import TaskDefinition
from worker.testing.asking import LoopClient, WatchedClient, WatchedRunner, made_client
from worker.testing.clock import FakeClock, HalfFakeTime
from worker.testing.jobs import WatchedJobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from types import TracebackType

    import httpx

    from worker.scheduling.scheduled_task import ScheduledTask
    from worker.tasks.base import BaseTask, Defined
    from worker.testing.jobs import EnqueuedJob, JobOutcome

    Task = type[BaseTask] | Defined | Callable[..., Any]

__all__ = ["InMemoryWorker"]

FOR_EVER = timedelta(days=3650)
MOST = 1000
SHOWN = 20
"""How many jobs a message lists."""


class InMemoryWorker:
    """A worker for tests: ``async with InMemoryWorker(SendInvoice, ping) as worker: …``.

    Inside of the block it is this worker that ``Task.enqueue`` asks. Nothing runs before `drain`,
    or before somebody waits for a result.

    Args:
        tasks: Tasks, or modules that have some. One that is asked for by its class or function
            need not be named.
        http_client: The tasks' client. It is not closed.
        transport: What a client made for them sends its requests through, such as
            ``httpx.MockTransport``. Without either, every request is refused.
        clock: By default one that begins at the present.
        eager: Run each job in place when it is asked for, whatever its delay, and raise what it
            raises.
        concurrency: How many jobs run at the same time. With 1, one after the other.
        limits: What holds for tasks that do not say otherwise; by default what does in production.

    Attributes:
        client: Asks this worker.
        sync_client: The same for code that is not async, which the test runs in a thread.
        clock: What delays, expiry and the like are judged by. Time limits take real time.

    Raises:
        TaskDefinitionError: A task breaks a rule, or two have the same name.
    """

    def __init__(
        self,
        *tasks: Task | ModuleType,
        http_client: httpx.AsyncClient | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: FakeClock | None = None,
        eager: bool = False,
        concurrency: int = 100,
        limits: RunLimits | None = None,
    ) -> None:
        if http_client is not None and transport is not None:
            raise ConfigurationError(["http_client and transport: expected one of them"])
        limits = limits or RunLimits()
        self.clock = clock or FakeClock()
        self._owned = made_client(transport) if http_client is None else None
        self._time = HalfFakeTime(self.clock, waits=True)
        self._jobs = WatchedJobs(self._time, self._on_wait)
        self._events = Events(self._note)
        self._runner = WatchedRunner(
            http_client or self._owned,
            clock=HalfFakeTime(self.clock, waits=False),
            events=self._events,
            limits=limits,
            on_progress=self._jobs.told.__setitem__,
        )
        self._scheduler = Scheduler(self._runner, clock=self._time, events=self._events)
        for task in tasks:
            self._register(task)
        self._tasks = {
            name: at_once(task.definition) for name, task in self._scheduler.tasks.items()
        }
        self._concurrency = concurrency
        self._working = 0
        self._current = AsyncExitStack()
        self.client = WatchedClient(
            self._jobs,
            self.clock,
            learn=self._learn,
            at_once=self._run_in_place if eager else None,
            tasks=self._tasks,
            payload_limit=limits.result_limit,
        )

    def _register(self, task: Task | ModuleType) -> None:
        if not isinstance(task, ModuleType):
            self._scheduler.register_task(task, interval=OFF)
        else:
            register_module(self._scheduler, task)

    def _learn(self, definition: TaskDefinition) -> None:
        self._tasks.setdefault(definition.name, at_once(definition))

    async def __aenter__(self) -> Self:
        await self._current.enter_async_context(self.client)
        self._current.enter_context(self.client.as_current())
        self.sync_client = LoopClient(self.client)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._current.aclose()
        if self._owned is not None:
            await self._owned.aclose()

    @property
    def enqueued(self) -> list[EnqueuedJob]:
        """All jobs that were asked for, in that order. A duplicate is no job."""
        return list(self._jobs.enqueued)

    @property
    def outcomes(self) -> list[JobOutcome]:
        """What came of all attempts, in the order of their ends."""
        return list(self._jobs.outcomes)

    async def drain(
        self, *queues: str, delayed: bool = False, most: int = MOST, raising: bool = False
    ) -> list[JobOutcome]:
        """Run every job that is ready, and those that become ready through it, until none is.

        Args:
            queues: Only the jobs of these; none named means all.
            delayed: Move the clock on to each job that waits, retries too, until none does.
            most: How many attempts there may be beyond the jobs that wait now: one that always asks
                for the next has no end.
            raising: Raise what the first attempt that failed has raised.

        Returns:
            What came of each attempt, in the order of their ends.

        Raises:
            AssertionError: There is no end to it.
            UnknownTaskError: A job asks for a task that is not known here.
        """
        before = len(self._jobs.outcomes)
        limit = before + len(await self._waiting(queues)) + most
        while True:
            await self._drain_ready(queues, limit)
            waiting = await self._waiting(queues) if delayed else []
            if not waiting:
                break
            self.clock.move_to(waiting[0].ready_at)
        outcomes = self._jobs.outcomes[before:]
        if raising:
            raise_first(outcomes)
        return outcomes

    async def run(self, task: Task | str, params: object = None) -> Any:
        """Run a task once, as ``worker run`` does, and return its result.

        Raises:
            Exception: What it raised.
        """
        definition = self._found(task).definition
        return await self._run(definition, Trigger.MANUAL, definition.params.dump(params))

    async def run_slot(self, task: Task | str, slot: datetime | None = None) -> Any:
        """Do what the task's schedule does when it is due: run it, or enqueue a job.

        Args:
            slot: When it is due; by default now.

        Raises:
            Exception: What it raised.
        """
        found = self._found(task)
        params = "{}" if found.slots else found.params
        return await self._run(
            found.slots or found.definition, Trigger.SCHEDULE, params, slot or self.clock.now()
        )

    def assert_enqueued(
        self,
        task: Task | str,
        params: object = None,
        *,
        queue: str | None = None,
        delay: timedelta | str | float | None = None,
        count: int | None = None,
        where: Callable[[EnqueuedJob], bool] | None = None,
    ) -> list[EnqueuedJob]:
        """Check that such a job was asked for since the block was entered, and return it.

        Args:
            params: Those that count, with their values; the others may have any.
            delay: Exactly this one.
            count: How many there are; by default one or more.
            where: What else is to hold.

        Raises:
            AssertionError: There is none, or another number of them. It lists what there is.
        """
        name = task if isinstance(task, str) else name_of(task)
        wanted: dict[str, Any] = to_jsonable_python(params or {})
        exactly = None if delay is None else as_delay("delay", delay)

        def fits(job: EnqueuedJob) -> bool:
            return (
                job.task == name
                and all(key in job.params and job.params[key] == wanted[key] for key in wanted)
                and (queue is None or job.queue == queue)
                and (exactly is None or job.delay == exactly)
                and (where is None or where(job))
            )

        found = [job for job in self._jobs.enqueued if fits(job)]
        if len(found) == count or (count is None and found):
            return found
        said = [name] + [f"with {wanted}"] * bool(wanted)
        said += [f"in the queue {queue!r}"] * (queue is not None)
        said += [f"with a delay of {exactly}"] * (exactly is not None)
        said += ["for which the condition holds"] * (where is not None)
        number = "a job" if count is None else f"{count} jobs" if count != 1 else "1 job"
        raise AssertionError(
            f"expected {number} of {' '.join(said)}, got {len(found) or 'none'}; "
            f"{listed(self._jobs.enqueued)}"
        )

    def assert_not_enqueued(
        self,
        task: Task | str,
        params: object = None,
        *,
        queue: str | None = None,
        where: Callable[[EnqueuedJob], bool] | None = None,
    ) -> None:
        """Check that no such job was asked for since the block was entered.

        Raises:
            AssertionError: One was.
        """
        self.assert_enqueued(task, params, queue=queue, where=where, count=0)

    def _found(self, task: Task | str) -> ScheduledTask:
        name = task if isinstance(task, str) else name_of(task)
        if name not in self._scheduler.tasks and not isinstance(task, str):
            self._register(task)
        if name not in self._scheduler.tasks:
            raise UnknownTaskError(name, self._scheduler.tasks)
        return self._scheduler.tasks[name]

    async def _run(
        self, task: TaskDefinition, trigger: Trigger, params: str, slot: datetime | None = None
    ) -> Any:
        run_id = new_run_id()
        run = await self._runner.run(task, trigger=trigger, params=params, slot=slot, run_id=run_id)
        failure = self._jobs.failures.pop(run_id, None)
        if failure is not None:
            raise failure
        return run.result

    def _note(self, event: Event) -> None:
        if isinstance(event, RunFinished):
            self._jobs.failures[event.run.run_id] = event.failure

    async def _on_wait(self) -> bool:
        """Somebody waits for a job."""
        if self._working:
            return False
        await self.drain()
        return True

    async def _run_in_place(self, ids: Sequence[str]) -> None:
        """Run what was just asked for, and raise what the first of them raised."""
        before = len(self._jobs.outcomes)
        await self._drain_ready((), before + MOST)
        await self._jobs.until_settled(ids)  # somebody else may have them
        raise_first([one for one in self._jobs.outcomes[before:] if one.id in ids])

    async def _waiting(self, queues: Sequence[str]) -> list[Any]:
        """The jobs that wait in the queues that this worker polls, the first to be ready first."""
        polled = {t.options.queue for t in self._tasks.values() if t.options is not None}
        jobs = [job for job in await self._jobs.waiting() if not queues or job.queue in queues]
        for job in jobs:
            if job.queue in polled and job.task not in self._tasks:
                raise UnknownTaskError(job.task, self._tasks)
        return [job for job in jobs if job.task in self._tasks]

    async def _drain_ready(self, queues: Sequence[str], limit: int) -> None:
        while True:
            now, settled = self.clock.now(), self._jobs.settled
            ready = {j.queue: None for j in await self._waiting(queues) if j.ready_at <= now}
            if not ready:
                return
            await self._work_off(list(ready), limit)
            if self._jobs.settled == settled:
                return  # what waits, waits for a job that runs outside of this call

    async def _work_off(self, queues: Sequence[str], limit: int) -> None:
        """Have a consumer work on the queues until they are empty."""
        over = asyncio.Event()
        queues = queues[: self._concurrency]  # each needs a poller, the others come next

        def look() -> None:
            if len(self._jobs.outcomes) > limit:
                over.set()

        consumer = Consumer(
            self._jobs,
            self._runner,
            self._tasks,
            queues=[QueuePlan(name=name, visibility_timeout=FOR_EVER) for name in queues],
            clock=self._time,
            events=self._events,
            worker="test",
            limits=ConsumerLimits(concurrency=self._concurrency, burst=True),
            on_done=lambda reason: over.set(),
        )
        self._jobs.on_settled.append(look)
        self._working += 1
        try:
            with self.client.as_current():  # of those, too, who asked from a context of their own
                async with asyncio.TaskGroup() as group:
                    consumer.start(group)
                    await over.wait()
                    await consumer.stop(NOW)
        finally:
            self._working -= 1
            self._jobs.on_settled.remove(look)
        if len(self._jobs.outcomes) > limit:
            raise AssertionError(
                f"there is no end to it: {limit} attempts in all, and there are still jobs to "
                "run. Does one always ask for the next, or for another try? "
                f"{listed(self._jobs.enqueued)}"
            )


def name_of(task: Task) -> str:
    """The task's name."""
    define = getattr(task, "define", None)
    return TaskDefinition.of(task).name if define is None else str(define().name)


def raise_first(outcomes: Sequence[JobOutcome]) -> None:
    """Raise what the first attempt that failed has raised."""
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error


def at_once(definition: TaskDefinition) -> TaskDefinition:
    """The task, without waiting for more jobs if it takes many."""
    if definition.bulk is None:
        return definition
    return replace(definition, bulk=replace(definition.bulk, max_wait=NOW))


def listed(jobs: Sequence[EnqueuedJob]) -> str:
    """The jobs, for a message."""
    if not jobs:
        return "nothing was enqueued"
    lines = [f"  {job}" for job in jobs[-SHOWN:]]
    if len(jobs) > SHOWN:
        lines.insert(0, f"  … {len(jobs) - SHOWN} before")
    return "\n".join(["enqueued:", *lines])
