"""The composition root: settings in, a running worker out."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from worker.backends.opening import open_store
from worker.client.client import WorkerClient
from worker.clock import Clock, SystemClock
from worker.config.at_once import unusable
from worker.config.collecting import register_modules
from worker.config.queue_plans import plan_problems, queue_plans, unsupported
from worker.config.schedules_file import load_schedules
from worker.config.stores import engine_of, is_private, location, queue_url, store_url
from worker.consuming.consumer import Consumer, ConsumerLimits
from worker.consuming.stand_in import StandIn
from worker.errors import (
    ConfigurationError,
    UnknownTaskError,
    installing,
    nearest,
)
from worker.events import Events, Tally
from worker.ledger.book import BY_HAND
from worker.ledger.presence import Presence
from worker.ledger.thread import Lease, LedgerThread
from worker.log_stream import LogStream
from worker.open_files import within_limit
from worker.redaction import Redaction
from worker.retry import RetryPolicy
from worker.running.executor import RunExecutor
from worker.running.runner import RunLimits, Runner
from worker.schedules.schedule import OFF
from worker.scheduling.freshness import Freshness
from worker.scheduling.scheduler import FirstRun, Scheduler
from worker.settings import SECRETS, variable
from worker.tasks.call import calling
from worker.tasks.register import register_all_tasks
from worker.telemetry.event_log import EventLog
from worker.telemetry.logs import configure_logging
from worker.telemetry.watchdog import Watchdog
from worker.transport import ClientOptions, open_client
from worker.urls import display_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    import httpx

    from worker.consuming.queue_plan import QueuePlan
    from worker.ledger.book import Book
    from worker.ports import JobStore
    from worker.settings import Settings
    from worker.tasks.base import TaskDefinition

__all__ = [
    "Doors",
    "Worker",
    "client_options",
    "connections_wanted",
    "open_worker",
    "redaction",
    "set_up_logging",
]

OTHER_CONNECTIONS = 16
"""Connections beyond those that order processing takes, so that no task waits for another's."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker, put together and not yet started."""

    settings: Settings
    http_client: httpx.AsyncClient
    events: Events
    tally: Tally
    runner: Runner
    ledger: LedgerThread
    scheduler: Scheduler
    client: WorkerClient
    consumer: Consumer | None
    watchdog: Watchdog
    freshness: Freshness


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What of its work a worker does.

    Attributes:
        queues: Poll these only, which a task or the queues file has to have; empty for every queue
            of a known task, ``None`` for none.
        schedules: Whether slots are taken.
        only: Run jobs and slots of these tasks only; empty for all.
        max_jobs: Has done after so many jobs.
        burst: Has done when its queues are empty.
    """

    queues: tuple[str, ...] | None = ()
    schedules: bool = True
    only: tuple[str, ...] = ()
    max_jobs: int | None = None
    burst: bool = False

    def lets(self, name: str) -> bool:
        """Whether a task's slots are taken."""
        return self.schedules and (not self.only or name in self.only)


@asynccontextmanager
async def open_worker(
    settings: Settings,
    *,
    clock: Clock | None = None,
    by_hand: bool = False,
    doors: Doors = Doors(),
) -> AsyncIterator[Worker]:
    """Put a worker together with all its tasks; on leaving, close what it holds open.

    Args:
        by_hand: It takes no slots, it is for one run.
        doors: What of its work it does.

    Raises:
        ConfigurationError: A module of ``WORKER_TASK_MODULES`` cannot be used.
        TaskDefinitionError: A task breaks a rule.
    """
    queue = None if settings.queue_url is None else queue_url(settings)
    if problems := list(unusable(store_url(settings), queue, settings.task_modules)):
        raise ConfigurationError(problems)
    clock = clock or SystemClock()
    tally = Tally()
    redact = redaction(settings)
    events = Events(EventLog(redact), tally)
    watchdog = Watchdog(limit=settings.stall_after, events=events)
    ledger = LedgerThread(
        partial(open_store, store_url(settings)),
        replica=(BY_HAND if by_hand else "") + worker_name(settings),
        keep=settings.ledger_keep,
        lease=Lease(
            ttl=settings.lease,
            stall_limit=settings.stall_limit,
            stalled_for=watchdog.stalled_for,
        ),
        clock=clock,
    )
    asyncio.get_running_loop().set_default_executor(RunExecutor(thread_name_prefix="asyncio"))
    async with open_client(client_options(settings)) as http_client:
        limits = RunLimits(
            retry=retry_policy(settings),
            time_limit=settings.task_time_limit,
            result_limit=settings.payload_limit,
        )
        runner = Runner(http_client, clock=clock, events=events, limits=limits, redact=redact)
        scheduler = Scheduler(
            runner,
            clock=clock,
            events=events,
            ledger=ledger,
            first_run=FirstRun(delay=settings.first_run_delay, spread=settings.first_run_spread),
            schedules=load_schedules(settings.schedules_file) if settings.schedules_file else {},
            schedules_said_by=str(settings.schedules_file),
            only=doors.only,
        )
        register_all_tasks(scheduler, settings)
        register_modules(scheduler, settings.task_modules)
        if settings.call_functions:
            scheduler.register_task(
                calling(settings.call_functions), interval=OFF, said_by=variable("call_functions")
            )
        refuse_unused(scheduler)
        if unknown := [name for name in doors.only if name not in scheduler.tasks]:
            raise UnknownTaskError(unknown[0], scheduler.tasks, *unknown[1:])
        max_ages = {
            name: task.terms.policies.max_age
            for name, task in scheduler.tasks.items()
            if task.terms.policies.max_age is not None
        }
        freshness = Freshness(max_ages, clock=clock, events=events)
        events.subscribe(freshness)
        ledger.watched = tuple(max_ages)
        ledger.on_books = partial(note_books, freshness, clock)
        plans = [] if by_hand else plans_of(settings, doors, scheduler)
        queues = [plan.name for plan in plans]
        ledger.presence = Presence(
            hand=by_hand, slots=doors.schedules, queues=tuple(queues), only=doors.only
        )
        jobs = engine_of(settings, queues=queues, clock=clock)
        client = WorkerClient(
            jobs=jobs,
            location=location(settings),
            is_open=False,
            payload_limit=settings.payload_limit,
            tasks={name: task.definition for name, task in scheduler.tasks.items()},
        )
        runner.client = client
        consumer = None
        if plans:
            consumer = consumer_of(settings, doors, jobs, runner, scheduler, plans, clock, events)
            consumer.stand_in = stand_in_of(settings, plans, watchdog)
        try:
            async with tracing(settings, events, http_client), client:
                yield Worker(
                    settings,
                    http_client,
                    events,
                    tally,
                    runner,
                    ledger,
                    scheduler,
                    client,
                    consumer,
                    watchdog,
                    freshness,
                )
        finally:
            await jobs.close()


def tracing(
    settings: Settings, events: Events, http_client: httpx.AsyncClient
) -> AbstractAsyncContextManager[None]:
    """Spans of what goes on, if they are wanted; otherwise nothing is imported for them.

    Raises:
        ConfigurationError: The library is missing; on entering: there is nowhere for them to go.
    """
    if not settings.tracing:
        return nullcontext()
    try:
        from worker.telemetry.tracing_set_up import traced
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            [f"WORKER_TRACING needs {exc.name}: {installing('otel')}"]
        ) from exc
    return traced(events, http_client, redaction(settings))


def worker_name(settings: Settings) -> str:
    """What the stores call this worker."""
    return settings.replica or f"{socket.gethostname()}:{os.getpid()}"


def queue_tasks(doors: Doors, scheduler: Scheduler) -> dict[str, TaskDefinition]:
    """The tasks that are to be run when somebody asks for them."""
    return {
        name: task.definition
        for name, task in scheduler.tasks.items()
        if task.definition.options is not None and (not doors.only or name in doors.only)
    }


def plans_of(settings: Settings, doors: Doors, scheduler: Scheduler) -> list[QueuePlan]:
    """The queues to be polled, and how.

    Raises:
        ConfigurationError: The queues file is wrong, or a name is none.
    """
    if doors.queues is None:
        return []
    every = queue_tasks(Doors(), scheduler)
    others = [task.options.queue for task in every.values() if task.options is not None]
    return queue_plans(settings, doors.queues, queue_tasks(doors, scheduler), others)


def consumer_of(
    settings: Settings,
    doors: Doors,
    jobs: JobStore,
    runner: Runner,
    scheduler: Scheduler,
    plans: Sequence[QueuePlan],
    clock: Clock,
    events: Events,
) -> Consumer:
    """What works off the queues.

    Raises:
        ConfigurationError: A queue's plan cannot be kept, or the engine cannot do what a task
            asks for.
    """
    tasks = queue_tasks(doors, scheduler)
    askable = queue_tasks(Doors(), scheduler)
    problems = [*plan_problems(settings, plans, tasks), *unsupported(jobs.capabilities, tasks)]
    if problems:
        raise ConfigurationError(problems)
    return Consumer(
        jobs,
        runner,
        tasks,
        queues=plans,
        clock=clock,
        events=events,
        worker=worker_name(settings),
        limits=ConsumerLimits(
            concurrency=settings.concurrency,
            max_jobs=doors.max_jobs,
            burst=doors.burst,
            max_losses=settings.job_losses,
            max_refusals=settings.job_refusals,
            keep=settings.jobs_keep,
        ),
        spared=askable.keys() - tasks.keys(),
    )


def stand_in_of(
    settings: Settings, plans: Sequence[QueuePlan], watchdog: Watchdog
) -> StandIn | None:
    """What holds the leases of jobs while the loop stands still, where others could take them."""
    if is_private(settings):
        return None
    return StandIn(
        partial(engine_of, settings, queues=[plan.name for plan in plans]),
        stalled_for=watchdog.stalled_for,
        limit=settings.stall_limit,
    )


def note_books(freshness: Freshness, clock: Clock, books: Sequence[Book]) -> None:
    """What others have done counts, too: other replicas, earlier lives, whoever paused a task."""
    for book in books:
        freshness.seed(book.task, book.last_success, book.known_since or clock.now())
        freshness.note_pause(book.task, book.pause is not None)


def refuse_unused(scheduler: Scheduler) -> None:
    """A schedule for a task that does not exist is a slip of the pen, not a wish for nothing."""
    problems = [
        f"{scheduler.schedules_said_by}: no task is named {name!r}{nearest(name, scheduler.tasks)}"
        for name in scheduler.unused_schedules
    ]
    if problems:
        raise ConfigurationError(problems)


def set_up_logging(settings: Settings) -> LogStream:
    """Log as the settings say."""
    return configure_logging(
        level=settings.log_level, form=settings.log_format, redact=redaction(settings)
    )


def redaction(settings: Settings) -> Redaction:
    """What takes the settings' secrets out of a text."""
    secrets = {name: getattr(settings, name) for name in SECRETS}
    values = {n: secret.get_secret_value() for n, secret in secrets.items() if secret is not None}
    for name in ("store_url", "queue_url"):
        if name in values and display_url(values[name]) == values[name]:
            del values[name]  # without credentials: the log shall say which server is down
    return Redaction(values.values())


def connections_wanted(settings: Settings) -> int:
    """How many connections to the Data API the tasks can use at once."""
    return settings.orders_concurrency + OTHER_CONNECTIONS


def client_options(settings: Settings) -> ClientOptions:
    token = settings.data_api_token
    return ClientOptions(
        base_url=settings.data_api_url,
        token=token.get_secret_value() if token is not None else None,
        timeout=settings.data_api_timeout,
        connect_timeout=settings.data_api_timeout / 2,
        connections=within_limit(connections_wanted(settings), share=2),
        body_limit=settings.data_api_body_limit,
        trust_env=settings.data_api_trust_env,
        user_agent=f"sidecar-worker/{version('sidecar-worker')}",
    )


def retry_policy(settings: Settings) -> RetryPolicy:
    return RetryPolicy(
        attempts=settings.retry_attempts,
        base=settings.retry_base,
        longest=settings.retry_longest,
        retry_after_cap=settings.retry_after_cap,
    )
