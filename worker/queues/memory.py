"""Jobs in this process's memory: for tests, and for whoever can lose them with the process."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from worker.clock import Clock, SystemClock
from worker.jobs.history import MOST_LOSSES, with_loss
from worker.jobs.job import (
    NONE_DEFERRED,
    Capabilities,
    Enqueued,
    Existing,
    Held,
    Job,
    JobId,
    JobQuery,
    Lease,
    NewJob,
    QueueCount,
    Requeued,
    Settlement,
    is_carried,
)
from worker.model import State
from worker.queues.rates import grant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta

    from worker.jobs.declaration import Declaration, Terms
    from worker.jobs.job import Deferred, Grant, Rate, Unique

__all__ = ["MemoryJobs"]


@dataclass(slots=True, eq=False)
class Row:
    """A job as it is kept. ``stamp`` names its place in a queue: a heap's entry of another stamp
    is out of date."""

    new: NewJob
    created_at: datetime
    ready_at: datetime
    expires_at: datetime | None
    order: int
    stamp: int = 0
    receipt: str = ""
    state: State = State.PENDING
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result_until: datetime | None = None
    due_at: datetime | None = None
    deliveries: int = 0
    losses: int = 0
    attempts: int = 0
    refusals: int = 0
    worker: str | None = None
    progress: str | None = None
    result: str | None = None
    error: str | None = None
    dead: bool = False
    cancel: bool = False
    begun: bool = True
    history: str | None = None


@dataclass(slots=True)
class Waiting:
    """The jobs of one queue that wait or run.

    Attributes:
        ready: Those whose time has come, the first to be leased on top.
        later: Those whose time comes, and those that are leased, by the end of their lease.
        changed: Set when there is something new to look at.
    """

    ready: list[tuple[int, datetime, int, int, JobId]] = field(default_factory=list)
    later: list[tuple[datetime, int, int, JobId]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryJobs:
    """A `worker.ports.JobStore` in memory.

    Args:
        clock: Whose time counts for delays and leases.
    """

    capabilities = Capabilities(backend="memory")
    warnings: tuple[str, ...] = ()

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._rows: dict[JobId, Row] = {}
        self._queues: defaultdict[str, Waiting] = defaultdict(Waiting)
        self._uniques: dict[str, tuple[JobId, Unique, datetime]] = {}
        self._holders: defaultdict[str, set[JobId]] = defaultdict(set)
        self._blocked: defaultdict[str, dict[JobId, None]] = defaultdict(dict)
        self._arrivals: dict[str, datetime] = {}
        self._ended: dict[JobId, set[asyncio.Event]] = {}
        self._declarations: dict[str, Declaration] = {}
        self._order = 0
        self._deliveries = 0

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        now = self._clock.now()
        return [self._take_in(job, now) for job in jobs]

    def _take_in(self, job: NewJob, now: datetime) -> Enqueued:
        if job.id in self._rows:
            return Enqueued(job.id, False, Existing.of(job_of(self._rows[job.id], now)))
        if job.unique is not None:
            holder = self._holder(job.unique.key, now)
            if holder is not None:
                return Enqueued(holder, False)
            self._uniques[job.unique.key] = (job.id, job.unique, now)
        self._order += 1
        row = self._rows[job.id] = Row(
            new=job,
            created_at=now,
            ready_at=now + job.delay,
            expires_at=None if job.expires is None else now + job.expires,
            order=self._order,
        )
        self._put(row)
        return Enqueued(job.id, True)

    def _holder(self, key: str, now: datetime) -> JobId | None:
        """The job that holds a unique key."""
        if key not in self._uniques:
            return None
        job, unique, since = self._uniques[key]
        row = self._rows.get(job)
        in_time = unique.ttl is None or now < since + unique.ttl
        return job if row is not None and in_time and holds(row, unique) else None

    def _put(self, row: Row) -> None:
        """Have the row stand in its queue where ``ready_at`` says."""
        row.stamp += 1
        if is_carried(row.new.queue):
            return  # nobody comes to look
        queue = self._queues[row.new.queue]
        heappush(queue.later, (row.ready_at, row.order, row.stamp, row.new.id))
        queue.changed.set()

    def _advance(self, queue: Waiting, now: datetime) -> None:
        """Have those stand ready whose time has come."""
        while queue.later and queue.later[0][0] <= now:
            _, order, stamp, job = heappop(queue.later)
            row = self._rows.get(job)
            if row is None or row.stamp != stamp:
                continue
            if is_running(row):
                self._release(row)
            heappush(queue.ready, (-row.new.priority, row.ready_at, order, stamp, job))

    def _release(self, row: Row) -> None:
        """Let others with its concurrency key go on."""
        key = row.new.concurrency_key
        if key is None or row.new.id not in self._holders[key]:
            return
        self._holders[key].discard(row.new.id)
        for job in self._blocked.pop(key, ()):
            blocked = self._rows.get(job)
            if blocked is not None and not blocked.state.final:
                self._put(blocked)

    async def lease(
        self,
        queue: str,
        *,
        limit: int,
        ttl: timedelta,
        wait: timedelta,
        worker: str,
        deferred: Deferred = NONE_DEFERRED,
    ) -> list[Lease]:
        waiting = self._queues[queue]
        until = self._clock.monotonic() + wait.total_seconds()
        while True:
            waiting.changed.clear()
            now = self._clock.now()
            leases = self._lease(waiting, limit, now, ttl, worker, deferred)
            left_s = until - self._clock.monotonic()
            if leases or left_s <= 0:
                return leases
            if waiting.later:
                left_s = min(left_s, (waiting.later[0][0] - now).total_seconds())
            await self._either(waiting.changed, left_s)

    async def _either(self, event: asyncio.Event, wait_s: float) -> None:
        """Return when the event is set, or after ``wait_s``."""
        changed = asyncio.ensure_future(event.wait())
        over = asyncio.ensure_future(self._clock.sleep(max(0.0, wait_s)))
        try:
            await asyncio.wait({changed, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            over.cancel()

    def _lease(
        self,
        queue: Waiting,
        limit: int,
        now: datetime,
        ttl: timedelta,
        worker: str,
        deferred: Deferred,
    ) -> list[Lease]:
        self._advance(queue, now)
        leases: list[Lease] = []
        while queue.ready and len(leases) < limit:
            _, ready_at, order, stamp, job = heappop(queue.ready)
            row = self._rows.get(job)
            if row is None or row.stamp != stamp:
                continue
            key = row.new.concurrency_key
            if key is not None:
                ends = self._ends(key, now)
                if len(ends) >= row.new.concurrency_limit:
                    self._blocked[key][job] = None
                    heappush(queue.later, (ends[0], order, stamp, job))
                    continue
                self._holders[key].add(job)
            leases.append(self._start(row, ready_at, now, ttl, worker, deferred))
        if leases:
            queue.changed.clear()  # it was only this that has changed
        return leases

    def _start(
        self,
        row: Row,
        due_at: datetime,
        now: datetime,
        ttl: timedelta,
        worker: str,
        deferred: Deferred,
    ) -> Lease:
        if is_running(row) and row.begun:
            self._lost(row, due_at)
        row.begun = not deferred.covers(row.new.task, row.losses)
        row.deliveries += 1
        self._deliveries += 1
        row.receipt = str(self._deliveries)
        row.state = State.STARTED
        row.progress = None
        row.worker, row.started_at, row.ready_at = worker, now, now + ttl
        self._put(row)
        return lease_of(row, due_at, now)

    def _lost(self, row: Row, ended_at: datetime) -> None:
        """Note that a lease ran out without a word from its worker."""
        if row.losses < MOST_LOSSES and row.started_at is not None:
            row.history = with_loss(
                row.history,
                attempt=row.attempts + 1,
                worker=row.worker,
                started_at=row.started_at,
                finished_at=ended_at,
            )
        row.losses += 1

    async def claim(
        self,
        ids: Sequence[JobId],
        *,
        ttl: timedelta,
        worker: str,
        deferred: Deferred = NONE_DEFERRED,
    ) -> list[Lease | Job | None]:
        now = self._clock.now()
        return [self._claim(job, now, ttl, worker, deferred) for job in ids]

    def _claim(
        self, job: JobId, now: datetime, ttl: timedelta, worker: str, deferred: Deferred
    ) -> Lease | Job | None:
        row = self._rows.get(job)
        if row is None:
            return None
        if not is_carried(row.new.queue) or row.state.final or row.ready_at > now:
            return job_of(row, now)
        return self._start(row, row.ready_at, now, ttl, worker, deferred)

    def _ends(self, key: str, now: datetime) -> list[datetime]:
        """When the leases end that hold a concurrency key, the first one first."""
        ends = (self._rows[job].ready_at for job in self._holders[key])
        return sorted(end for end in ends if end > now)

    def _held(self, lease: Lease) -> Row | None:
        row = self._rows.get(lease.id)
        if row is None or not is_running(row) or row.receipt != lease.receipt:
            return None
        return row

    async def begin(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        for lease in leases:
            if (row := self._held(lease)) is not None:
                row.begun = True
        return await MemoryJobs.extend(self, leases, ttl)

    async def extend(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        now = self._clock.now()
        held: list[Held] = []
        for lease in leases:
            row = self._held(lease)
            if row is None:
                held.append(Held.LOST)
                continue
            row.ready_at = now + ttl
            if row.new.concurrency_key is not None:
                self._holders[row.new.concurrency_key].add(row.new.id)
            self._put(row)
            held.append(Held.CANCEL if row.cancel else Held.YES)
        return held

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        now = self._clock.now()
        return [self._settle(settlement, now) for settlement in settlements]

    def _settle(self, said: Settlement, now: datetime) -> bool:
        row = self._held(said.lease)
        if row is None:
            return False
        row.attempts, row.refusals, row.dead = said.attempts, said.refusals, said.dead
        if said.error is not None or said.state is State.SUCCESS:
            row.error = said.error
        if said.history is not None:
            row.history = said.history
        self._release(row)
        if said.state.final:
            row.result = said.result
            row.result_until = None if said.result is None else now + said.result_ttl
            self._end(row, said.state, now)
        else:
            row.state, row.progress = said.state, None
            row.ready_at = said.due_at or (now if row.cancel else now + said.delay)
            self._put(row)
        return True

    def _end(self, row: Row, state: State, now: datetime) -> None:
        row.state, row.finished_at = state, now
        row.stamp += 1
        for event in self._ended.pop(row.new.id, ()):
            event.set()

    async def take(self, key: str, rate: Rate, wanted: int) -> Grant:
        allowed, arrival = grant(rate, self._arrivals.get(key), self._clock.now(), wanted)
        self._arrivals[key] = arrival
        return allowed

    async def publish(self, declarations: Sequence[Declaration]) -> None:
        for one in declarations:
            known = self._declarations.get(one.task)
            if known is None or known.version <= one.version:
                self._declarations[one.task] = one

    async def declaration(self, task: str) -> Declaration | None:
        return self._declarations.get(task)

    async def apply_terms(self, lease: Lease, terms: Terms) -> JobId | None:
        now = self._clock.now()
        row = self._held(lease)
        if row is None:
            return None
        new, unique = row.new, terms.unique
        if unique is not None:
            holder = self._holder(unique.key, now)
            if holder not in (None, new.id):
                return holder
            self._uniques[unique.key] = (new.id, unique, row.created_at)
        if terms.concurrency_key is not None:
            new = new._replace(
                concurrency_key=terms.concurrency_key, concurrency_limit=terms.concurrency_limit
            )
        row.new = new._replace(
            priority=terms.priority, options=terms.options, unique=unique or new.unique
        )
        if terms.expires is not None:
            row.expires_at = row.created_at + terms.expires
        return new.id

    async def get(self, ids: Sequence[JobId]) -> list[Job | None]:
        now = self._clock.now()
        return [self._get(job, now) for job in ids]

    def _get(self, job: JobId, now: datetime) -> Job | None:
        row = self._rows.get(job)
        return None if row is None else job_of(row, now)

    async def wait(self, job: JobId, timeout: timedelta) -> Job | None:
        until = self._clock.monotonic() + timeout.total_seconds()
        while True:
            (found,) = await self.get([job])
            left_s = until - self._clock.monotonic()
            if found is None or found.state.final or left_s <= 0:
                return found
            ended = asyncio.Event()
            self._ended.setdefault(job, set()).add(ended)
            try:
                await self._either(ended, left_s)
            finally:
                self._ended.get(job, set()).discard(ended)

    async def find(self, query: JobQuery) -> list[Job]:
        found = [job for job in self._jobs() if fits(job, query)]
        found.sort(key=lambda job: job.id)
        found.sort(key=lambda job: job.created_at, reverse=True)
        return [replace(job, history=None) for job in found[: query.limit]]

    def _jobs(self) -> Iterator[Job]:
        now = self._clock.now()
        for row in self._rows.values():
            yield job_of(row, now)

    async def counts(self) -> list[QueueCount]:
        now = self._clock.now()
        groups: dict[tuple[str, str, State], list[Job]] = {}
        for job in self._jobs():
            if job.state is State.SUCCESS:
                continue
            groups.setdefault((job.queue, job.task, job.state), []).append(job)
        return [
            QueueCount(
                *(queue, task, state),
                jobs=len(jobs),
                dead=sum(job.dead for job in jobs),
                oldest=min(
                    (j.ready_at for j in jobs if not state.final and j.ready_at <= now),
                    default=None,
                ),
            )
            for (queue, task, state), jobs in sorted(groups.items())
        ]

    async def ended(self, within: timedelta) -> dict[str, int]:
        since = self._clock.now() - within
        return Counter(
            row.new.queue
            for row in self._rows.values()
            if row.finished_at is not None and row.finished_at > since and not row.dead
        )

    async def tell(self, lease: Lease, progress: str) -> None:
        row = self._held(lease)
        if row is not None:
            row.progress = progress

    async def cancelled(self, ids: Sequence[JobId]) -> list[JobId]:
        return [job for job in ids if job in self._rows and self._rows[job].cancel]

    async def cancel(self, ids: Sequence[JobId]) -> list[Requeued]:
        return [self._cancel(job) for job in ids]

    def _cancel(self, job: JobId) -> Requeued:
        row = self._rows.get(job)
        if row is None:
            return Requeued.UNKNOWN
        if row.state.final:
            return Requeued.NOT_NOW
        row.cancel = True
        if is_running(row):
            return Requeued.ASKED
        self._end(row, State.REVOKED, self._clock.now())
        return Requeued.DONE

    async def retry(self, ids: Sequence[JobId]) -> list[Requeued]:
        return [self._retry(job) for job in ids]

    def _retry(self, job: JobId) -> Requeued:
        row = self._rows.get(job)
        if row is None:
            return Requeued.UNKNOWN
        if not row.state.final or row.state is State.SUCCESS:
            return Requeued.NOT_NOW
        row.attempts = row.losses = row.refusals = 0
        row.error = row.finished_at = row.expires_at = row.progress = None
        row.result = row.result_until = None
        row.dead = row.cancel = False
        row.state, row.ready_at = State.PENDING, self._clock.now()
        self._put(row)
        return Requeued.DONE

    async def drop(self, ids: Sequence[JobId]) -> list[Requeued]:
        return [self._drop(job) for job in ids]

    def _drop(self, job: JobId) -> Requeued:
        row = self._rows.get(job)
        if row is None:
            return Requeued.UNKNOWN
        if not row.state.final:
            return Requeued.NOT_NOW
        del self._rows[job]
        return Requeued.DONE

    async def prune(self, *, keep: timedelta, limit: int = 5000) -> int:
        now = self._clock.now()
        old = [
            job
            for job, row in self._rows.items()
            if row.finished_at is not None and row.finished_at < now - keep and not row.dead
        ][:limit]
        for job in old:
            del self._rows[job]
        for key in [key for key in self._uniques if self._holder(key, now) is None]:
            del self._uniques[key]
        return len(old)


def is_running(row: Row) -> bool:
    return row.state is State.STARTED


def holds(row: Row, unique: Unique) -> bool:
    state = State.STARTED if row.state is State.PROGRESS else row.state
    return state in unique.states


def lease_of(row: Row, due_at: datetime, now: datetime) -> Lease:
    new = row.new
    return Lease(
        new.id,
        new.task,
        new.queue,
        row.receipt,
        new.params,
        new.version,
        new.priority,
        new.options,
        new.headers,
        row.deliveries,
        row.losses,
        row.attempts,
        row.refusals,
        row.cancel,
        row.created_at,
        due_at,
        row.expires_at,
        row.expires_at is not None and row.expires_at <= now,
        row.history,
    )


def job_of(row: Row, now: datetime) -> Job:
    new = row.new
    over = row.result_until is not None and row.result_until <= now
    told = row.state is State.STARTED and row.progress is not None
    return Job(
        id=new.id,
        task=new.task,
        queue=new.queue,
        state=State.PROGRESS if told else row.state,
        params=new.params,
        version=new.version,
        priority=new.priority,
        options=new.options,
        headers=new.headers,
        created_at=row.created_at,
        ready_at=row.ready_at,
        expires_at=row.expires_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        result_until=row.result_until,
        deliveries=row.deliveries,
        losses=row.losses,
        attempts=row.attempts,
        refusals=row.refusals,
        unique_key=None if new.unique is None else new.unique.key,
        concurrency_key=new.concurrency_key,
        worker=row.worker,
        progress=row.progress,
        result=None if over else row.result,
        error=row.error,
        dead=row.dead,
        cancel=row.cancel,
        history=row.history,
    )


def fits(job: Job, query: JobQuery) -> bool:
    states = query.states
    if states & {State.STARTED, State.PROGRESS}:
        states = states | {State.STARTED, State.PROGRESS}
    return (
        (query.task is None or job.task == query.task)
        and (query.queue is None or job.queue == query.queue)
        and (not states or job.state in states)
        and (query.dead is None or job.dead is query.dead)
        and (query.since is None or job.created_at >= query.since)
        and (query.before is None or job.created_at < query.before)
    )
