"""How things stand, read when Prometheus asks: ledger and queues once each, with a deadline.

A store that is down or hangs costs a scrape its figures and the deadline, and nothing else: the
question goes on by itself, and until it is answered nobody asks again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from worker.admin.schedules import ScheduleAdmin
from worker.clock import SystemClock
from worker.errors import WorkerError
from worker.model import State
from worker.ops import families
from worker.telemetry.exposition import Figures, last_successes, ledger_figures

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from prometheus_client.metrics_core import Metric

    from worker.app import Worker
    from worker.jobs.job import QueueCount
    from worker.ledger.book import Replica
    from worker.ops.health import Health
    from worker.ops.sources import Sources
    from worker.ports import LedgerStore
    from worker.scheduling.standing import View

__all__ = ["Reading", "metric_of"]

T = TypeVar("T")
LONGEST_S = 2.0
"""How long a scrape waits for the ledger and the queues; Prometheus' own patience ends at 10 s."""
OTHER = "other"
WAITING = (State.PENDING, State.RETRY, State.STARTED, State.PROGRESS)


class Reading:
    """Reads how things stand with a worker.

    Args:
        queues: The names of the queues that are configured; others are told as ``other``.
    """

    def __init__(
        self, worker: Worker, health: Health, sources: Sources, *, queues: Collection[str]
    ) -> None:
        self._worker = worker
        self._health = health
        self._sources = sources
        self._queues = frozenset(queues)
        self._clock = SystemClock()
        self._ledger = Question(self._ask_ledger)
        self._jobs = Question(self._ask_queues)

    async def figures(self, successes: Mapping[str, datetime]) -> list[Figures]:
        """All figures; without those that could not be read in time.

        Args:
            successes: When each task last succeeded in this worker.
        """
        worker = self._worker
        ledger, counts = await asyncio.gather(self._ledger.answer(), self._jobs.answer())
        ready = self._health.ready()
        found = [
            Figures(families.INFO, [((version("sidecar-worker"),), 1.0)]),
            Figures(families.READY, [((), float(ready.ok))]),
            Figures(families.STALLS, [((), float(worker.watchdog.stalls))]),
            Figures(families.BEHIND, [((), worker.scheduler.behind.total_seconds())]),
            Figures(families.RUNNING, by_task(worker.runner.busy, worker.scheduler.tasks)),
            Figures(
                families.STUCK,
                by_task(
                    [one.task for one in worker.runner.stuck() for _ in one.jobs or (one.run_id,)],
                    worker.scheduler.tasks,
                ),
            ),
            Figures(
                families.STORE_UP,
                [((), float(ledger is not None and "store" not in ready.problems))],
            ),
        ]
        views, replicas, dropped = ledger or ([], [], 0)
        if ledger is not None:
            found += ledger_figures(views, replicas, self._clock.now(), dropped=dropped)
        found.append(last_successes(views, successes))
        if worker.consumer is not None:
            usable = counts is not None and "queue" not in ready.problems
            found.append(Figures(families.QUEUE_UP, [((), float(usable))]))
            if counts is not None:
                found += queue_figures(counts, self._queues, self._clock.now())
        return found

    async def _ask_ledger(self) -> tuple[list[View], list[Replica], int]:
        def look(store: LedgerStore) -> tuple[list[View], list[Replica], int]:
            admin = ScheduleAdmin(self._worker.scheduler.tasks, store)
            dropped = sum(gone.elsewhere is None for gone in admin.dropped())
            return admin.views(), admin.replicas(), dropped

        return await self._worker.ledger.look(look)

    async def _ask_queues(self) -> Sequence[QueueCount]:
        if self._worker.consumer is None:
            return []
        return await self._sources.counts.get()


class Question(Generic[T]):
    """Something to be asked of what may be slow: by all who want to know together."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[T | None] | None = None

    async def answer(self) -> T | None:
        """What was answered; ``None`` if nothing was in time."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._asked(), name="metrics-question")
        done, _ = await asyncio.wait({self._asking}, timeout=LONGEST_S)
        return self._asking.result() if done else None

    async def _asked(self) -> T | None:
        try:
            return await self._ask()
        except WorkerError:
            return None  # that the store is down is told by those who need it


def metric_of(figures: Figures) -> Metric:
    """Figures in prometheus_client's terms."""
    family = figures.family
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric: CounterMetricFamily | GaugeMetricFamily = kind(
        family.name, family.help, labels=family.labels
    )
    for labels, value in figures.samples:
        metric.add_metric(labels, value)
    return metric


def by_task(names: Sequence[str], tasks: Collection[str]) -> list[tuple[tuple[str, ...], float]]:
    going = Counter(names)
    return [((task,), float(going[task])) for task in tasks]


def queue_figures(
    counts: Sequence[QueueCount], queues: Collection[str], now: datetime
) -> list[Figures]:
    """How many jobs there are that have not succeeded, by queue and state; nought, too, of what is
    configured."""
    jobs: Counter[tuple[str, State]] = Counter({(q, s): 0 for q in queues for s in WAITING})
    dead: Counter[str] = Counter(dict.fromkeys(queues, 0))
    oldest: dict[str, datetime] = {}
    for count in counts:
        name = count.queue.rpartition("/")[2]  # an engine's records say whose they are
        queue = name if name in queues else OTHER
        jobs[queue, count.state] += count.jobs
        dead[queue] += count.dead
        if count.oldest is not None:
            oldest[queue] = min(count.oldest, oldest.get(queue, count.oldest))
    return [
        Figures(
            families.QUEUE_JOBS,
            [((queue, state.value.lower()), float(n)) for (queue, state), n in jobs.items()],
        ),
        Figures(
            families.QUEUE_AGE,
            [
                ((queue,), max(0.0, (now - oldest.get(queue, now)).total_seconds()))
                for queue in dead
            ],
        ),
        Figures(families.DEAD_LETTERS, [((queue,), float(n)) for queue, n in dead.items()]),
    ]
