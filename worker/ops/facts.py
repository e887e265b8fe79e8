"""What there is to see, gathered once for all who look at about the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from worker.admin.overdue import limit_of_job, overdue_jobs
from worker.admin.presence import blind_to_pollers
from worker.admin.queues import QueueFacts, queue_facts
from worker.config.stores import queue_url, store_url
from worker.errors import ConfigurationError, NotSupported, StoreError
from worker.jobs.job import JobId
from worker.model import RunId
from worker.ops.banner import problems_of, status_of
from worker.ops.jobs import JobBook
from worker.ops.models import (
    Overview,
    ReplicaFacts,
    Running,
    RunningRun,
    ScheduleFacts,
    StateFacts,
    TaskFacts,
    WorkerFacts,
)
from worker.ops.schedules import Ledger, running_slots
from worker.ops.sources import FRESH_S, Shared, Sources
from worker.ops.throughput import Throughput
from worker.secret_keys import without_secret_values
from worker.urls import display_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from worker.admin.presence import Casualty
    from worker.admin.schedules import ScheduleAdmin
    from worker.app import Worker
    from worker.jobs.job import Job
    from worker.ledger.attendance import Pollers
    from worker.ledger.book import Replica
    from worker.ops.banner import LostReplica
    from worker.ops.health import Health
    from worker.scheduling.dropped import Dropped

__all__ = ["Facts"]

DEAD_FRESH_S = 10.0
MOST_REPLICAS = 50
PAST = timedelta(hours=1)
"""How long a worker that ended is still listed."""

T = TypeVar("T")


class There(NamedTuple):
    """What the ledger knows of workers at one moment."""

    replicas: list[Replica]
    casualties: list[Casualty]
    pollers: Pollers


class Facts:
    """Reads the ledger and the queues' records, at most once in two seconds.

    Attributes:
        sources: How they are asked.
        jobs: What is known of jobs.

    Args:
        hide: Takes values out of parameters and results by their names.
    """

    def __init__(
        self,
        worker: Worker,
        health: Health,
        sources: Sources,
        *,
        hide: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self._worker = worker
        self._health = health
        self._started_at = datetime.now(UTC)
        self.sources = sources
        self.ledger = Ledger(self.sources, worker.scheduler.tasks)
        self.jobs = JobBook(self.sources, hide)
        self._throughput = Throughput()
        self._views = Shared(self.ledger.views, fresh_s=FRESH_S)
        self._there = Shared(self._read_there, fresh_s=FRESH_S)
        self._dropped = Shared(self._read_dropped, fresh_s=FRESH_S)
        self._counts = Shared(self._count, fresh_s=FRESH_S)
        self._running = Shared(self.jobs.running, fresh_s=FRESH_S)
        self._dead = Shared(self.jobs.dead, fresh_s=DEAD_FRESH_S)

    @property
    def worker(self) -> Worker:
        return self._worker

    def outdate(self) -> None:
        """Read all anew: something was changed."""
        shared_by_all = (self._views, self._there, self._dropped, self._counts)
        mine = (*shared_by_all, self._running, self._dead)
        for shared in (*mine, self.sources.counts):
            shared.outdate()

    async def overview(self) -> Overview:
        """Whether all is well. What cannot be asked is part of the answer."""
        replicas, views, queues, lost, dropped = await asyncio.gather(
            attempted(self._list_replicas),
            attempted(self._views.get),
            attempted(self.queues),
            attempted(self._lost),
            attempted(self._dropped.get),
        )
        problems = problems_of(
            self._worker,
            self._health,
            replicas=replicas,
            views=views,
            queues=queues,
            lost=lost if isinstance(lost, list) else [],
            dropped=dropped,
            redact=self.sources.redact,
        )
        return Overview(
            now=datetime.now(UTC),
            worker=self._own(),
            status=status_of(problems),
            problems=problems,
            replicas=replicas if isinstance(replicas, list) else [],
        )

    async def schedules(self) -> list[ScheduleFacts]:
        """How every schedule stands.

        Raises:
            StoreUnavailable: The ledger cannot be read.
        """
        return self.ledger.schedules(await self._views.get())

    async def running(self) -> Running:
        """What runs, slots first.

        Raises:
            StoreError: The ledger or the engine cannot be asked.
        """
        views, (jobs, more) = await asyncio.gather(self._views.get(), self._running.get())
        runs = [*running_slots(views), *map(self.jobs.run, jobs)]
        return Running(running=self._with_overdue(runs, jobs), more=more)

    def _with_overdue(self, runs: list[RunningRun], jobs: list[Job]) -> list[RunningRun]:
        """The runs, with how long they go on past their end; of those of this worker, where."""
        stuck = {
            run_id: one
            for one in self._worker.runner.stuck()
            for run_id in one.jobs or [one.run_id]
        }
        late = {one.job.id: one.by for one in overdue_jobs(jobs, self._limit, datetime.now(UTC))}
        found = []
        for run in runs:
            own, by = stuck.get(RunId(run.id)), late.get(JobId(run.id))
            if own is not None:
                run = replace(run, overdue_s=round(own.overdue_s, 1), stack=own.stack)
            elif by is not None:
                run = replace(run, overdue_s=by.total_seconds())
            found.append(run)
        return found

    def _limit(self, job: Job) -> timedelta:
        known = self._worker.scheduler.tasks.get(job.task)
        definition = None if known is None else known.definition
        return limit_of_job(job, definition, self._worker.settings.task_time_limit)

    async def queues(self) -> list[QueueFacts]:
        """How each queue stands.

        Raises:
            StoreError: The engine cannot be asked.
        """
        return await self._counts.get()

    async def state(self) -> StateFacts:
        """All that the page shows at first; what cannot be asked is ``None``."""
        overview, schedules, running, queues = await asyncio.gather(
            self.overview(),
            attempted(self.schedules),
            attempted(self.running),
            attempted(self.queues),
        )
        return StateFacts(
            overview=overview,
            schedules=None if isinstance(schedules, Exception) else schedules,
            running=None if isinstance(running, Exception) else running.running,
            queues=None if isinstance(queues, Exception) else queues,
        )

    def tasks(self) -> list[TaskFacts]:
        """Every task of the application."""
        return [
            TaskFacts(
                name=name,
                summary=task.definition.summary,
                queue=None if task.definition.options is None else task.definition.options.queue,
                schedule=None if task.terms.schedule is None else str(task.terms.schedule),
                params_schema=without_secret_values(task.definition.params.schema()),
                defined_in=task.definition.defined_in,
            )
            for name, task in self._worker.scheduler.tasks.items()
        ]

    def _own(self) -> WorkerFacts:
        settings = self._worker.settings
        return WorkerFacts(
            version=version("sidecar-worker"),
            replica=self._worker.ledger.replica,
            started_at=self._started_at,
            store=display_url(store_url(settings)),
            queue=display_url(queue_url(settings)),
            queues=self._polled(),
        )

    def _polled(self) -> list[str]:
        consumer = self._worker.consumer
        return [] if consumer is None else [plan.name for plan in consumer.queues]

    async def _read_dropped(self) -> list[Dropped]:
        return await self.sources.ledger(lambda admin: admin.dropped())

    async def _read_there(self) -> There:
        ledger = self._worker.ledger
        own = None if ledger.presence is None else (ledger.replica, ledger.presence)
        blind = blind_to_pollers(self._worker.settings)

        def look(admin: ScheduleAdmin) -> There:
            known = admin.replicas()
            return There(known, admin.casualties(), admin.pollers(blind, own))

        return await self.sources.ledger(look)

    async def _list_replicas(self) -> list[ReplicaFacts]:
        known = (await self._there.get()).replicas
        since = datetime.now(UTC) - PAST
        latest = {one.name: one for one in sorted(known, key=lambda one: one.since)}
        return [
            ReplicaFacts(
                name=one.name,
                since=one.since,
                seen=one.seen,
                alive=one.alive,
                lost=one.lost,
                queues=None if one.presence is None else list(one.presence.queues),
                slots=None if one.presence is None else one.presence.slots,
            )
            for one in known
            if one is latest[one.name]
            if one.works and (one.alive or one.seen > since)
        ][:MOST_REPLICAS]

    async def _lost(self) -> list[LostReplica]:
        """Who was lost, and how many of the jobs that it ran are still to be taken over."""
        there = await self._there.get()
        if not there.casualties:
            return []
        jobs = await attempted(self._running.get)
        held = Counter() if isinstance(jobs, Exception) else Counter(j.worker for j in jobs[0])
        return [(one, held[one.lost.name]) for one in there.casualties]

    async def _count(self) -> list[QueueFacts]:
        counts, (running, _), ended, there = await asyncio.gather(
            self.sources.counts.get(),
            self._running.get(),
            self.sources.engine(lambda jobs: jobs.ended(self._throughput.window)),
            attempted(self._there.get),
        )
        rates = self._throughput.note(ended)
        known = {
            name: task.definition.options.queue
            for name, task in self._worker.scheduler.tasks.items()
            if task.definition.options is not None
        }
        return queue_facts(
            counts,
            now=datetime.now(UTC),
            known=known,
            polled=self._polled(),
            seen=running,
            rates=rates,
            pollers=there.pollers if isinstance(there, There) else None,
            dead=await self._dead.get() if any(count.dead for count in counts) else {},
        )


async def attempted(
    ask: Callable[[], Awaitable[T]],
) -> T | StoreError | ConfigurationError | NotSupported:
    """The answer, or what is wrong with the store."""
    try:
        return await ask()
    except (StoreError, ConfigurationError, NotSupported) as exc:
        return exc
