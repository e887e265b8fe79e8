"""Counts what the worker announces, and serves all metrics to Prometheus.

A label's value is the name of a registered task, of a configured queue or of a call of the Data
API's contract, or a word of an enumeration; anything else is ``other``. So the number of series
does not grow with what comes in.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response
from starlette.routing import Route

from worker.clock import SystemClock
from worker.data_api import CALLS
from worker.events import (
    CallEnded,
    CallRetrying,
    HookFailed,
    JobDead,
    JobRefused,
    JobTakenOver,
    JobUnrun,
    LeaseExpired,
    LeaseWasLost,
    RunAbandoned,
    RunFinished,
    RunRetrying,
    RunStarted,
)
from worker.model import State, Trigger
from worker.ops import families
from worker.ops.figures import Reading, metric_of
from worker.ops.reasons import reason_of, status_class

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from datetime import datetime
    from typing import Any

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from worker.app import Worker
    from worker.events import Event
    from worker.ops.health import Health
    from worker.ops.sources import Sources
    from worker.telemetry.exposition import Family, Figures

__all__ = ["Metrics", "metrics_routes"]

OTHER = "other"


class Metrics:
    """A listener that counts.

    Args:
        tasks: The names of all tasks.
        queues: The names of all queues.

    Attributes:
        successes: When each task last succeeded here.
    """

    def __init__(self, *, tasks: Collection[str], queues: Collection[str]) -> None:
        self.registry = CollectorRegistry()
        self.successes: dict[str, datetime] = {}
        self._tasks = frozenset(tasks)
        self._queues = frozenset(queues)
        self._calls = frozenset(CALLS)
        self._clock = SystemClock()
        self._counts = {one: Counted(one, self.registry) for one in families.COUNTERS}
        self._timings = {one: Timed(one, self.registry) for one in families.DURATIONS}
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._heard: dict[type[Event], Callable[[Any], None]] = {
            RunStarted: self._run_started,
            RunFinished: self._run_finished,
            RunRetrying: self._run_retrying,
            CallEnded: self._call_ended,
            CallRetrying: self._call_retrying,
            RunAbandoned: lambda e: self._count(families.ABANDONED, self.task(e)),
            HookFailed: lambda e: self._count(families.HOOK_FAILURES, self.task(e)),
            LeaseWasLost: lambda e: self._count(families.LEASES_LOST, self.task(e)),
            JobTakenOver: lambda e: self._count(families.TAKEN_OVER, self.task(e)),
            JobDead: lambda e: self._count(families.JOBS_DEAD, self.task(e)),
            JobRefused: lambda e: self._count(families.JOBS_REFUSED, self.queue(e.queue)),
            JobUnrun: lambda e: self._count(
                families.JOBS_UNRUN, self.task(e), e.state.value.lower()
            ),
            LeaseExpired: lambda e: self._count(families.LEDGER_LEASES_LOST),
        }

    def __call__(self, event: Event) -> None:
        heard = self._heard.get(type(event))
        if heard is not None:
            heard(event)

    def expect(self, task: str, trigger: Trigger) -> None:
        """Begin to count a task's runs at nought: a rise from nothing would not be seen."""
        for outcome in (State.SUCCESS, State.FAILURE):
            self._counts[families.RUNS].of(task, trigger.value, outcome.value.lower())

    def lagged(self, late_s: float) -> None:
        """Take in how late the event loop was."""
        self._took(families.LAG_SECONDS, late_s)

    def task(self, event: Event) -> str:
        """The task of an event, if it is one of ours: a queue may hold any name."""
        return event.task if event.task in self._tasks else OTHER

    def queue(self, name: str) -> str:
        """The queue, if it is one of ours."""
        return name if name in self._queues else OTHER

    def call(self, name: str) -> str:
        """The call, if it is of the contract."""
        return name if name in self._calls else OTHER

    def _count(self, family: Family, *labels: str) -> None:
        self._counts[family].of(*labels).inc()

    def _took(self, family: Family, seconds: float, *labels: str) -> None:
        self._timings[family].of(*labels).observe(seconds)

    def _run_started(self, event: RunStarted) -> None:
        run = event.run
        if run.late_ms is not None:
            self._took(families.LATE_SECONDS, max(0.0, run.late_ms / 1000), self.task(event))
        if event.due_at is not None:
            waited_s = (run.started_at - event.due_at).total_seconds()
            self._took(families.WAIT_SECONDS, max(0.0, waited_s), self.queue(event.queue))

    def _run_finished(self, event: RunFinished) -> None:
        run, task = event.run, self.task(event)
        self._count(families.RUNS, task, run.trigger.value, run.state.value.lower())
        if run.duration_ms is not None:
            self._took(families.RUN_SECONDS, run.duration_ms / 1000, task)
        if run.state is State.SUCCESS and task != OTHER:
            self.successes[task] = self._clock.now()
        if run.state is State.RETRY:
            self._count(families.RUN_RETRIES, task, reason_of(event.failure).value)
        if run.dead:
            self._count(families.JOBS_DEAD, task)

    def _run_retrying(self, event: RunRetrying) -> None:
        self._count(families.RUN_RETRIES, self.task(event), reason_of(event.failure).value)

    def _call_ended(self, event: CallEnded) -> None:
        call, attempt = self.call(event.call), str(event.attempt) if event.attempt < 3 else "3+"
        self._count(families.HTTP_REQUESTS, call, status_class(event.status), attempt)
        self._took(families.HTTP_SECONDS, event.duration_s, call)

    def _call_retrying(self, event: CallRetrying) -> None:
        reason = reason_of(event.failure).value
        self._count(families.CALL_RETRIES, self.call(event.call), reason)


class Counted:
    """The counter of a family. Its series are kept at hand: to look one up costs most of it."""

    def __init__(self, family: Family, registry: CollectorRegistry) -> None:
        self._counter = Counter(family.name, family.help, family.labels, registry=registry)
        self._series: dict[tuple[str, ...], Counter] = {}

    def of(self, *labels: str) -> Counter:
        series = self._series.get(labels)
        if series is None:
            series = self._counter.labels(*labels) if labels else self._counter
            self._series[labels] = series
        return series


class Timed:
    """The histogram of a family, likewise."""

    def __init__(self, family: Family, registry: CollectorRegistry) -> None:
        self._histogram = Histogram(
            family.name,
            family.help,
            family.labels,
            buckets=families.BUCKETS_S,
            registry=registry,
        )
        self._series: dict[tuple[str, ...], Histogram] = {}

    def of(self, *labels: str) -> Histogram:
        series = self._series.get(labels)
        if series is None:
            series = self._histogram.labels(*labels) if labels else self._histogram
            self._series[labels] = series
        return series


class Scrape:
    """What one scrape says: what was counted, and how things stand."""

    def __init__(self, registry: CollectorRegistry, figures: Sequence[Figures]) -> None:
        self._registry = registry
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            # When a series began is told by nobody's dashboard, and would be one more for each.
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric
        yield from map(metric_of, self._figures)


def metrics_routes(worker: Worker, health: Health, sources: Sources) -> list[BaseRoute]:
    """``/metrics``, as text or OpenMetrics, whichever is asked for.

    It begins to count at once, so call it once: several applications may have the routes.
    """
    tasks = worker.scheduler.tasks
    askable = {n: t.definition.options.queue for n, t in tasks.items() if t.definition.options}
    polled = worker.consumer.queues if worker.consumer is not None else ()
    queues = {*askable.values(), *(plan.name for plan in polled)}
    metrics = Metrics(tasks=tasks, queues=queues)
    for name, task in tasks.items():
        if task.terms.schedule is not None:
            metrics.expect(name, Trigger.SCHEDULE)
        if name in askable:
            metrics.expect(name, Trigger.QUEUE)
    worker.events.subscribe(metrics)
    worker.watchdog.on_turn = metrics.lagged
    reading = Reading(worker, health, sources, queues=queues)

    async def scrape(request: Request) -> Response:
        figures = await reading.figures(metrics.successes)
        encode, content_type = encoder(request.headers.get("accept", ""))
        # Thousands of lines take a while, and the loop has better things to do.
        text = await asyncio.to_thread(encode, Scrape(metrics.registry, figures))
        return Response(text, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    return [Route("/metrics", scrape, methods=["GET"], name="metrics")]


def encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """What writes in a form that is asked for, and that form; text for what makes no sense."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none
        return choose_encoder("")
