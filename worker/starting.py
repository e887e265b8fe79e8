"""A worker's life, from the first log line to the last: opened, connected, run, stopped."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

import structlog

from worker.app import Doors, client_options, connections_wanted, open_worker
from worker.clock import SystemClock
from worker.config.stores import queue_url, store_url
from worker.errors import (
    ConfigurationError,
    ServiceFailed,
    StoreUnavailable,
    installing,
    nearest,
)
from worker.jobs.declaration import Declaration
from worker.open_files import open_files_limit
from worker.scheduling.freshness import DeadManPing
from worker.supervisor import Service, StopRequest, Together, supervise
from worker.telemetry.heartbeat import Heartbeat
from worker.telemetry.loop_errors import LoopErrors
from worker.urls import display_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.app import Worker
    from worker.events import Tally
    from worker.log_stream import LogStream
    from worker.ops.opening import Ops
    from worker.settings import Settings

__all__ = ["ops_of", "side_services", "start_worker"]


OWN_FILES = 100
"""What the stores, the queue's engine, the log and the event loop may have open."""
OPS_CONNECTIONS = 100
"""What each listener of the ops part may have open (`worker.ops.server`, not imported for it)."""


@contextmanager
def settled_memory() -> Iterator[None]:
    """What was imported stays: for the collector to look through it again would delay slots."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def start_worker(
    settings: Settings,
    *,
    doors: Doors = Doors(),
    output: LogStream | None = None,
    on_open: Callable[[Worker, StopRequest], None] | None = None,
    on_link: Callable[[str], None] | None = None,
) -> Tally:
    """Run until a signal asks for the end; what became of the runs.

    Args:
        output: Where the log goes; when nobody reads it any more, the worker ends.
        on_open: Given the worker before it starts, and the way to end it.
        on_link: Shows a person what opens the dashboard, where no token is set; by default it is
            written to ``output`` if that is a terminal.
    """
    log = structlog.get_logger("worker")
    stop = StopRequest()
    if output is not None:
        output.on_reader_gone = partial(stop.ask, "nobody reads the log")
    asyncio.get_running_loop().set_exception_handler(
        LoopErrors(lambda event, keys: log.error(event, **keys))
    )
    with stop.on_signals():
        async with open_worker(settings, doors=doors) as worker:
            if on_open is not None:
                on_open(worker, stop)
            scheduled = {
                name: str(task.terms.schedule)
                for name, task in worker.scheduler.tasks.items()
                if task.terms.schedule is not None and doors.lets(name)
            }
            ops = ops_of(worker)
            tell_of_few_files(settings, 0 if ops is None else len(ops.listeners))
            await connect(worker)
            if worker.consumer is not None:
                worker.consumer.on_done = stop.ask
                worker.consumer.on_begin = partial(connect_queues, worker)
                with suppress(StoreUnavailable):  # the pollers try again, and tell
                    await worker.consumer.begin()

            def on_ready() -> None:
                if ops is not None:
                    ops.health.started = True
                    tell_addresses(ops, settings, output, on_link)
                log.info(
                    "worker.ready",
                    version=version("sidecar-worker"),
                    python=platform.python_version(),
                    pid=os.getpid(),
                    data_api=settings.data_api_url,
                    store=display_url(store_url(settings)),
                    replica=worker.ledger.replica,
                    schedules=scheduled,
                    **queues_shown(worker),
                )
                if not scheduled and worker.consumer is None:
                    log.warning("worker.idle", hint="every task is off, nothing will ever run")

            def on_stopping(reason: str) -> None:
                if ops is not None:
                    ops.health.stopping = True
                log.info(
                    "worker.stopping",
                    reason=reason,
                    grace_s=settings.shutdown_grace.total_seconds(),
                    running=worker.runner.busy,
                )

            failure: ServiceFailed | None = None
            with settled_memory():
                try:
                    await supervise(
                        # The first to start is the last to stop: a worker that drains is alive.
                        [
                            worker.ledger,
                            worker.watchdog,
                            worker.freshness,
                            *([ops] if ops is not None else []),
                            *side_services(worker),
                            Together(
                                *([worker.scheduler] if doors.schedules else []),
                                *([] if worker.consumer is None else [worker.consumer]),
                            ),
                        ],
                        stop=stop,
                        grace=settings.shutdown_grace,
                        on_ready=on_ready,
                        on_stopping=on_stopping,
                    )
                except ServiceFailed as exc:
                    failure = exc
            log.info(
                "worker.stopped",
                succeeded=worker.tally.total("success"),
                failed=worker.tally.total("failure"),
                interrupted=worker.tally.total("revoked"),
                **jobs_told(worker),
                skipped=worker.tally.skipped,
                elsewhere=worker.tally.total("elsewhere"),
                stalls=worker.watchdog.stalls,
                unrecorded=worker.scheduler.unrecorded,
                abandoned=worker.runner.busy,
            )
            if failure is not None:
                raise failure
            return worker.tally


def tell_of_few_files(settings: Settings, listeners: int) -> None:
    """Log that fewer files may be open than this worker can have connections."""
    limit = open_files_limit()
    wanted = connections_wanted(settings)
    needed = OWN_FILES + wanted + OPS_CONNECTIONS * listeners
    if limit is not None and limit < needed:
        structlog.get_logger("worker").warning(
            "worker.few_open_files",
            limit=limit,
            needed=needed,
            data_api_connections=min(wanted, client_options(settings).connections),
            hint="raise the limit of open files (ulimit -n, LimitNOFILE=, or the container's "
            "ulimits); until then connections are fewer, and may fail",
        )


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


async def connect_queues(worker: Worker) -> None:
    """Open the queues' engine, and tell what is to be known of it.

    Raises:
        ConfigurationError: Its URL, folder or library is wrong.
        StoreUnavailable: It cannot be used now.
        StoreSchemaError: Its tables do not fit this worker.
    """
    log = structlog.get_logger("worker")
    jobs = worker.client.jobs
    assert worker.consumer is not None
    await worker.client.open()
    for warning in jobs.warnings:
        log.warning("queue.warning", warning=warning)
    options = {name: task.definition.options for name, task in worker.scheduler.tasks.items()}
    await jobs.publish(
        [
            Declaration.of(name, task.definition.params, task.definition.options)
            for name, task in worker.scheduler.tasks.items()
            if task.definition.options is not None
        ]
    )
    of_tasks = {one.queue for one in options.values() if one is not None}
    for plan in worker.consumer.queues:
        if plan.name not in of_tasks:
            log.warning(
                "queue.without_tasks",
                queue=plan.name,
                hint=f"no task here has this queue{nearest(plan.name, of_tasks)}: it only brings "
                "jobs for which it was named when they were enqueued",
            )
    await worker.consumer.tell_unknown()


def queues_shown(worker: Worker) -> dict[str, object]:
    """What the log says of the queues when the worker is ready."""
    if worker.consumer is None:
        return {}
    return {
        "queue": display_url(queue_url(worker.settings)),
        "queues": [plan.name for plan in worker.consumer.queues],
    }


def jobs_told(worker: Worker) -> dict[str, object]:
    """What the log says of jobs that went back into their queues when the worker has ended."""
    if worker.consumer is None:
        return {}
    return {"retried": worker.tally.total("retry"), "returned": worker.tally.total("pending")}


def ops_of(worker: Worker) -> Ops | None:
    """What people look at; nothing of it is imported where nobody does.

    Raises:
        ConfigurationError: Its libraries are missing.
    """
    if not worker.settings.ops_port and not worker.settings.probe_port:
        return None
    try:
        from worker.ops.opening import open_ops
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            [f"WORKER_OPS_PORT and WORKER_PROBE_PORT need {exc.name}: {installing('ops')}"]
        ) from exc
    return open_ops(worker)


def tell_addresses(
    ops: Ops,
    settings: Settings,
    output: LogStream | None,
    on_link: Callable[[str], None] | None,
) -> None:
    """Say where the ops part listens, and to a person at a terminal how to get in."""
    log = structlog.get_logger("worker")
    log.info("ops.listening", addresses=[f"{host}:{port}" for host, port in ops.addresses])
    if ops.sign_in_link is None:
        return
    if on_link is not None:
        ops.sign_in_link.shown_by(on_link)
        return
    if output is not None and output.isatty() and settings.log_format != "json":
        ops.sign_in_link.shown_by(lambda link: write_link(output, link))
        return
    log.warning("ops.no_token", hint="set WORKER_OPS_TOKEN: without it nobody can get in")


def write_link(output: LogStream, link: str) -> None:
    """Past the log, which takes every secret out. The link opens once, and dies with us."""
    output.write(f"\nThe dashboard: {link}\n\n")
    output.flush()


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
