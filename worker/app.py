"""The composition root: settings in, a running worker out."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import platform
import signal
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

import structlog

from worker.backends.opening import backend, display_url, kind_of, open_store
from worker.book import BY_HAND
from worker.clock import Clock, SystemClock
from worker.context import RunContext
from worker.data_api import DataApi
from worker.durations import format_duration
from worker.errors import (
    ConfigurationError,
    DataApiError,
    DataApiUnreachable,
    StoreError,
    StoreUnavailable,
    UnknownTaskError,
    WorkerError,
    nearest,
)
from worker.event_log import EventLog
from worker.events import Event, Events, RunFinished, Tally
from worker.freshness import DeadManPing, Freshness
from worker.heartbeat import Heartbeat
from worker.ledger_thread import Lease, LedgerThread
from worker.logs import LogStream, Redaction, configure_logging
from worker.model import Run
from worker.retry import RetryPolicy
from worker.runner import RunLimits, Runner
from worker.scheduler import FirstRun, Scheduler
from worker.schedules_file import load_schedules
from worker.settings import SECRETS
from worker.supervisor import Service, StopRequest, supervise
from worker.tasks.register import register_all_tasks
from worker.transport import ClientOptions, open_client
from worker.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import httpx

    from worker.book import Book
    from worker.policies import Overlap
    from worker.settings import Settings

__all__ = [
    "Finding",
    "Worker",
    "check_worker",
    "migrate_store",
    "open_worker",
    "redaction",
    "run_task",
    "set_up_logging",
    "start_worker",
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
    watchdog: Watchdog
    freshness: Freshness


@asynccontextmanager
async def open_worker(
    settings: Settings, *, clock: Clock | None = None, by_hand: bool = False
) -> AsyncIterator[Worker]:
    """Put a worker together with all its tasks; on leaving, close what it holds open.

    Args:
        by_hand: It takes no slots, it is for one run.

    Raises:
        ConfigurationError: A module of ``WORKER_TASK_MODULES`` cannot be used.
        TaskDefinitionError: A task breaks a rule.
    """
    clock = clock or SystemClock()
    tally = Tally()
    events = Events(EventLog(), tally)
    watchdog = Watchdog(limit=settings.stall_after, events=events)
    ledger = LedgerThread(
        partial(open_store, store_url(settings)),
        replica=(BY_HAND if by_hand else "")
        + (settings.replica or f"{socket.gethostname()}:{os.getpid()}"),
        keep=settings.ledger_keep,
        lease=Lease(
            ttl=settings.lease,
            stall_limit=settings.stall_limit,
            stalled_for=watchdog.stalled_for,
        ),
        clock=clock,
    )
    async with open_client(client_options(settings)) as http_client:
        limits = RunLimits(retry=retry_policy(settings), time_limit=settings.task_time_limit)
        runner = Runner(http_client, clock=clock, events=events, limits=limits)
        scheduler = Scheduler(
            runner,
            clock=clock,
            events=events,
            ledger=ledger,
            first_run=FirstRun(delay=settings.first_run_delay, spread=settings.first_run_spread),
            schedules=load_schedules(settings.schedules_file) if settings.schedules_file else {},
            schedules_said_by=str(settings.schedules_file),
        )
        register_all_tasks(scheduler, settings)
        register_modules(scheduler, settings.task_modules)
        refuse_unused(scheduler)
        max_ages = {
            name: task.terms.policies.max_age
            for name, task in scheduler.tasks.items()
            if task.terms.policies.max_age is not None
        }
        freshness = Freshness(max_ages, clock=clock, events=events)
        events.subscribe(freshness)
        ledger.watched = tuple(max_ages)
        ledger.on_books = partial(note_books, freshness, clock)
        yield Worker(
            settings,
            http_client,
            events,
            tally,
            runner,
            ledger,
            scheduler,
            watchdog,
            freshness,
        )


def store_url(settings: Settings) -> str:
    """Where the ledger is kept."""
    if settings.store_url is not None:
        return settings.store_url.get_secret_value()
    return f"sqlite:///{settings.state_dir / 'worker.db'}"


def note_books(freshness: Freshness, clock: Clock, books: Sequence[Book]) -> None:
    """What other replicas and earlier lives of this one have done counts, too."""
    for book in books:
        freshness.seed(book.task, book.last_success, book.known_since or clock.now())


def refuse_unused(scheduler: Scheduler) -> None:
    """A schedule for a task that does not exist is a slip of the pen, not a wish for nothing."""
    problems = [
        f"{scheduler.schedules_said_by}: no task is named {name!r}{nearest(name, scheduler.tasks)}"
        for name in scheduler.unused_schedules
    ]
    if problems:
        raise ConfigurationError(problems)


async def start_worker(
    settings: Settings,
    *,
    output: LogStream | None = None,
    on_open: Callable[[Worker, StopRequest], None] | None = None,
) -> Tally:
    """Run until a signal asks for the end; what became of the runs.

    Args:
        output: Where the log goes; when nobody reads it any more, the worker ends.
        on_open: Given the worker before it starts, and the way to end it.
    """
    log = structlog.get_logger("worker")
    stop = StopRequest()
    if output is not None:
        output.on_reader_gone = partial(stop.ask, "nobody reads the log")
    with stop.on_signals():
        async with open_worker(settings) as worker:
            if on_open is not None:
                on_open(worker, stop)
            scheduled = {
                name: str(task.terms.schedule)
                for name, task in worker.scheduler.tasks.items()
                if task.terms.schedule is not None
            }
            await connect(worker)

            def on_ready() -> None:
                log.info(
                    "worker.ready",
                    version=version("sidecar-worker"),
                    python=platform.python_version(),
                    pid=os.getpid(),
                    data_api=settings.data_api_url,
                    store=display_url(store_url(settings)),
                    replica=worker.ledger.replica,
                    schedules=scheduled,
                )
                if not scheduled:
                    log.warning("worker.idle", hint="every task is off, nothing will ever run")

            def on_stopping(reason: str) -> None:
                log.info(
                    "worker.stopping",
                    reason=reason,
                    grace_s=settings.shutdown_grace.total_seconds(),
                    running=worker.runner.busy,
                )

            gc.collect()
            gc.freeze()  # what was imported stays: looking through it again would delay slots
            await supervise(
                # The first to start is the last to stop: a worker that drains is alive.
                [
                    worker.ledger,
                    worker.watchdog,
                    worker.freshness,
                    *side_services(worker),
                    worker.scheduler,
                ],
                stop=stop,
                grace=settings.shutdown_grace,
                on_ready=on_ready,
                on_stopping=on_stopping,
            )
            log.info(
                "worker.stopped",
                succeeded=worker.tally.total("success"),
                failed=worker.tally.total("failure"),
                interrupted=worker.tally.total("revoked"),
                skipped=worker.tally.skipped,
                elsewhere=worker.tally.total("elsewhere"),
                stalls=worker.watchdog.stalls,
                unrecorded=worker.scheduler.unrecorded,
                abandoned=worker.runner.busy,
            )
            return worker.tally


async def connect(worker: Worker) -> None:
    """Open the store before anything starts, and tell what is to be known of it.

    Raises:
        ConfigurationError: The store's URL, folder or library is wrong.
        StoreSchemaError: Its tables do not fit this worker.
    """
    log = structlog.get_logger("worker")
    try:
        store = await asyncio.to_thread(worker.ledger.connect)
        books = await asyncio.to_thread(store.read, worker.ledger.watched)
    except StoreUnavailable:
        return  # It may come up later, as the Data API may. The ledger's thread tries, and tells.
    for warning in store.warnings:
        log.warning("store.warning", warning=warning)
    worker.ledger.on_books(list(books.values()))


def side_services(worker: Worker) -> list[Checked]:
    """What a started worker does beside its tasks."""
    settings, clock = worker.settings, SystemClock()
    services: list[Checked] = []
    if settings.heartbeat_file is not None:
        services.append(Heartbeat(settings.heartbeat_file, clock=clock))
    if settings.heartbeat_url is not None:
        services.append(
            DeadManPing(
                settings.heartbeat_url.get_secret_value(),
                freshness=worker.freshness,
                clock=clock,
                every=settings.heartbeat_url_interval,
                trust_env=settings.data_api_trust_env,
            )
        )
    return services


class Checked(Service, Protocol):
    """A service that can be asked whether it would start."""

    def check(self) -> None:
        """Raise the `ConfigurationError` that ``start`` would raise."""
        ...


async def run_task(
    settings: Settings, name: str, *, overlap: Overlap | None = None
) -> tuple[Run | None, signal.Signals | None]:
    """Run one task once, by hand.

    Args:
        overlap: What to do about a run that goes on, instead of the task's own policy.

    Returns:
        The run, if it began, and the signal that ended it early, if one did.

    Raises:
        UnknownTaskError: No task has that name.
        TaskBusy: Another run of it goes on, here or in another worker.
        StoreUnavailable: Whether one does cannot be known.
    """
    stop = StopRequest()
    finished: list[Run] = []

    def keep(event: Event) -> None:
        if isinstance(event, RunFinished):
            finished.append(event.run)

    with stop.on_signals():
        async with open_worker(settings, by_hand=True) as worker:
            if name not in worker.scheduler.tasks:
                raise UnknownTaskError(name, worker.scheduler.tasks)
            await asyncio.to_thread(worker.ledger.connect)
            worker.events.subscribe(keep)
            worker.ledger.start()
            run = worker.scheduler.run_now(name, overlap=overlap)
            running = asyncio.create_task(run, name=f"manual:{name}")
            asked = asyncio.create_task(stop.wait(), name="stop-request")
            try:
                await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
                worker.scheduler.interrupt()
                if asked.done() and not worker.runner.busy:
                    running.cancel()  # it still waits for its turn
                asked.cancel()
                await asyncio.wait({running, asked})
            finally:
                await worker.ledger.stop(settings.shutdown_grace)
            if not running.cancelled():
                await running
    return (finished[0] if finished else None), stop.signal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `check_worker` looked at."""

    ok: bool
    what: str
    unreachable: bool = False


async def check_worker(settings: Settings) -> list[Finding]:
    """Load all tasks, and make the Data API's cheapest safe call once, without retries.

    Raises:
        ConfigurationError: What the worker would not start with.
    """
    async with open_worker(settings) as worker:
        for service in side_services(worker):
            service.check()
        tasks = worker.scheduler.tasks
        on = sum(1 for task in tasks.values() if task.terms.schedule is not None)
        token = "with a token" if settings.data_api_token else "without a token"
        findings = [
            Finding(True, "the configuration is valid"),
            Finding(True, f"{len(tasks)} tasks are registered, {on} of them on a schedule"),
        ]
        findings += await check_store(worker)
        run = RunContext(task="check", retry=RetryPolicy(attempts=1))
        began = run.clock.monotonic()
        where = f"the Data API at {settings.data_api_url}"
        limit = 2 * settings.data_api_timeout
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await DataApi(worker.http_client, run).pending_orders(offset=0, limit=1)
        except DataApiError as exc:
            unreachable = isinstance(exc, DataApiUnreachable)
            findings.append(Finding(False, f"{where}: {exc}", unreachable))
        except TimeoutError:
            late = f"{where}: no whole answer within {format_duration(limit)}"
            findings.append(Finding(False, late, unreachable=True))
        else:
            took_ms = (run.clock.monotonic() - began) * 1000
            findings.append(Finding(True, f"{where} answers {token} in {took_ms:.0f} ms"))
        return findings


def migrate_store(settings: Settings) -> str:
    """Create or update the store's tables; what was done, in words.

    Raises:
        ConfigurationError: The store's URL, folder or library is wrong.
        StoreError: The store cannot be reached, or refuses.
    """
    url = store_url(settings)
    where = display_url(url)
    if kind_of(url) == "postgres":
        before, after = backend("migrate", "postgres").migrate(url)
        if before == after:
            return f"{where} is up to date, at {after}"
        return f"{where} was migrated from {before or 'nothing'} to {after}"
    open_store(url).close()
    return f"{where} is up to date: this kind of store needs no migration by hand"


async def check_store(worker: Worker) -> list[Finding]:
    where = f"the ledger at {display_url(store_url(worker.settings))}"
    try:
        store = await asyncio.to_thread(worker.ledger.connect)
        # A full disk can be read as ever: only writing shows it.
        store.close_session(store.open_session(f"{BY_HAND}check", worker.settings.lease))
    except StoreUnavailable as exc:
        return [Finding(False, f"the ledger: {exc}", unreachable=True)]
    except StoreError as exc:
        return [Finding(False, f"the ledger: {exc}")]
    warnings = [Finding(True, f"{where}, but: {warning}") for warning in store.warnings]
    store.close()
    return [Finding(True, f"{where} can be used"), *warnings]


def set_up_logging(settings: Settings) -> LogStream:
    """Log as the settings say."""
    return configure_logging(
        level=settings.log_level, form=settings.log_format, redact=redaction(settings)
    )


def redaction(settings: Settings) -> Redaction:
    """What takes the settings' secrets out of a text."""
    secrets = {name: getattr(settings, name) for name in SECRETS}
    values = {n: secret.get_secret_value() for n, secret in secrets.items() if secret is not None}
    store = values.get("store_url")
    if store is not None and display_url(store) == store:
        del values["store_url"]  # without credentials: the log shall say which server is down
    return Redaction(values.values())


def client_options(settings: Settings) -> ClientOptions:
    token = settings.data_api_token
    return ClientOptions(
        base_url=settings.data_api_url,
        token=token.get_secret_value() if token is not None else None,
        timeout=settings.data_api_timeout,
        connect_timeout=settings.data_api_timeout / 2,
        connections=settings.orders_concurrency + OTHER_CONNECTIONS,
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


def register_modules(scheduler: Scheduler, modules: tuple[str, ...]) -> None:
    """Import each module and have it register its tasks.

    Raises:
        ConfigurationError: A module cannot be imported, has no ``register``, or that fails.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, so that a script beside it is found
    for name in modules:
        try:
            register = import_module(name).register
        except (Exception, SystemExit) as exc:
            raise ConfigurationError(
                [f"WORKER_TASK_MODULES: {name}: {import_problem(exc)}"]
            ) from exc
        if inspect.iscoroutinefunction(register):
            raise ConfigurationError(
                [f"WORKER_TASK_MODULES: {name}.register must be `def`, not `async def`"]
            )
        try:
            register(scheduler)
        except WorkerError:
            raise
        except Exception as exc:
            raise ConfigurationError(
                [f"WORKER_TASK_MODULES: {name}.register failed: {type(exc).__name__}: {exc}"]
            ) from exc


def import_problem(exc: BaseException) -> str:
    if isinstance(exc, AttributeError):
        return "expected a function register(scheduler) in it"
    return f"cannot be imported: {type(exc).__name__}: {exc}"
