"""``worker check``: looks at all that a worker needs, and says what it found."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from worker.app import open_worker
from worker.config.stores import queue_url, store_url
from worker.context import RunContext
from worker.data_api import DataApi
from worker.durations import format_duration
from worker.errors import DataApiError, DataApiUnreachable, StoreError, StoreUnavailable
from worker.ledger.book import BY_HAND
from worker.ledger.presence import Presence
from worker.retry import RetryPolicy
from worker.scheduling.schedule_fields import describe_fields
from worker.starting import ops_of, side_services
from worker.urls import display_url

if TYPE_CHECKING:
    from worker.app import Worker
    from worker.settings import Settings

__all__ = ["Finding", "check_worker"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `check_worker` looked at.

    Attributes:
        word: ``ok``, ``warn`` for what a worker starts with nevertheless, or ``FAIL``.
    """

    word: Literal["ok", "warn", "FAIL"]
    what: str
    unreachable: bool = False

    @property
    def ok(self) -> bool:
        return self.word != "FAIL"


async def check_worker(settings: Settings) -> list[Finding]:
    """Load all tasks, and make the Data API's cheapest safe call once, without retries.

    Raises:
        ConfigurationError: What the worker would not start with.
    """
    async with open_worker(settings) as worker:
        if (ops := ops_of(worker)) is not None:
            ops.check()
        for service in side_services(worker):
            service.check()
        tasks = worker.scheduler.tasks
        on = sum(task.terms.schedule is not None for task in tasks.values())
        asked = sum(task.definition.options is not None for task in tasks.values())
        token = "with a token" if settings.data_api_token else "without a token"
        findings = [
            Finding("ok", "the configuration is valid"),
            Finding(
                "ok",
                f"{len(tasks)} tasks are registered, {on} of them on a schedule"
                + (f", {asked} on demand" if asked else ""),
            ),
        ]
        findings += [
            Finding("ok", describe_fields(task.terms, task.fields))
            for task in tasks.values()
            # `worker list` shows all there is to know of a schedule of one field.
            if not task.on_demand and (settings.schedules_file or len(task.fields) > 1)
        ]
        findings += await check_store(worker)
        findings += await check_queues(worker)
        run = RunContext(task="check", retry=RetryPolicy(attempts=1))
        began = run.clock.monotonic()
        where = f"the Data API at {settings.data_api_url}"
        limit = 2 * settings.data_api_timeout
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await DataApi(worker.http_client, run).pending_orders(offset=0, limit=1)
        except DataApiError as exc:
            unreachable = isinstance(exc, DataApiUnreachable)
            findings.append(Finding("FAIL", f"{where}: {exc}", unreachable))
        except TimeoutError:
            late = f"{where}: no whole answer within {format_duration(limit)}"
            findings.append(Finding("FAIL", late, unreachable=True))
        else:
            took_ms = (run.clock.monotonic() - began) * 1000
            findings.append(Finding("ok", f"{where} answers {token} in {took_ms:.0f} ms"))
        return findings


async def check_store(worker: Worker) -> list[Finding]:
    where = f"the ledger at {display_url(store_url(worker.settings))}"
    try:
        store = await asyncio.to_thread(worker.ledger.connect)
        # A full disk can be read as ever: only writing shows it.
        hand = Presence(hand=True)
        store.close_session(store.open_session(f"{BY_HAND}check", worker.settings.lease, hand))
    except StoreUnavailable as exc:
        return [Finding("FAIL", f"the ledger: {exc}", unreachable=True)]
    except StoreError as exc:
        return [Finding("FAIL", f"the ledger: {exc}")]
    warnings = [Finding("warn", f"the ledger: {warning}") for warning in store.warnings]
    store.close()
    return [Finding("ok", f"{where} can be used"), *warnings]


async def check_queues(worker: Worker) -> list[Finding]:
    """Look at the queues' engine, if there is anything to poll, or a URL was given for it."""
    consumer = worker.consumer
    if consumer is None and worker.settings.queue_url is None:
        return []
    where = f"the queue at {display_url(queue_url(worker.settings))}"
    try:
        jobs = await worker.client.engine()
        unknown = {} if consumer is None else await consumer.unknown_jobs()
    except StoreUnavailable as exc:
        return [Finding("FAIL", f"the queue: {exc}", unreachable=True)]
    except StoreError as exc:
        return [Finding("FAIL", f"the queue: {exc}")]
    told = [f"the queue: {warning}" for warning in jobs.warnings]
    for queue, tasks in unknown.items():
        shown = ", ".join(f"{name} ({count})" for name, count in tasks.items())
        told.append(f"the queue {queue} has jobs of tasks that are not known here: {shown}")
    polled = "no task here has a queue"
    if consumer is not None:
        polled = f"a worker polls {', '.join(plan.name for plan in consumer.queues)}"
    ready = Finding("ok", f"{where} can be used; {polled}")
    return [ready, *(Finding("warn", text) for text in told)]
