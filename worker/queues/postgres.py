"""Jobs in PostgreSQL, for any number of workers on any number of machines.

Its tables and functions come from `worker.backends.migrate`, its queries from ``postgres.sql``.

* A lease is one statement, for all free slots. ``FOR UPDATE SKIP LOCKED`` gives each job to one.
* Outcomes are one statement for a whole batch, durable when it returns. A lease need not be: one
  that a crash of the server forgets is a job that nobody has, with a receipt that never comes
  again.
* Notifications are hints. Whoever waits looks again every second, and when the next job is due.
  Behind a pooler, where nothing is heard, it looks more often.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from secrets import randbits
from typing import TYPE_CHECKING, Any

from worker.backends.postgres_json import packed, readable
from worker.backends.postgres_server import server_of
from worker.errors import StoreError, StoreUnavailable
from worker.jobs.declaration import Declaration
from worker.jobs.job import NONE_DEFERRED, Capabilities, Grant, Held, JobId, QueueCount, Requeued
from worker.model import State
from worker.queues.postgres_connections import Connections
from worker.queues.postgres_news import News
from worker.queues.postgres_rows import (
    enqueued,
    jobs_of,
    leases_of,
    new_jobs,
    outcomes,
    receipts,
    seq_and_token,
)
from worker.shared_tasks import start_shared_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from worker.jobs.declaration import Terms
    from worker.jobs.job import (
        Deferred,
        Enqueued,
        Job,
        JobQuery,
        Lease,
        NewJob,
        Rate,
        Settlement,
    )

__all__ = ["PostgresJobs"]

POLL_S = 1.0
"""How often those look that wait for what they would be notified of."""
DEAF_S = 0.2
"""The same where nothing is heard of notifications."""
DEAF_END_S = 0.1
FRESH_S = 0.05
"""The same after having said for the first time that somebody waits: who did not read that yet
does not notify."""
AGAIN_S = 1.0
STUMBLE_S = 0.01
TRIES = 8
"""How often a lease is tried without a pause while what is ready changes."""
OLD_S = 2.0
"""After so long the priorities and floors of a queue are asked for anew."""
SLACK = timedelta(milliseconds=100)
"""For how long a job may have been on its way into the table."""
STARTED = frozenset({State.STARTED, State.PROGRESS})
MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class Look:
    """What was seen of a queue at last.

    Attributes:
        at: On the loop's clock; 0 for never.
        floors: The priorities that jobs had, and from when on each may have some that are ready.
        firsts: The moments from which on the first job of each priority could be leased.
        moment: Of the answer, by the server's clock.
        fresh: Nobody had been told before that somebody waits.
    """

    at: float = 0.0
    floors: dict[int, datetime] = field(default_factory=dict)
    firsts: tuple[datetime, ...] = ()
    moment: datetime | None = None
    fresh: bool = False

    def take(self, row: Sequence[Any], at: float) -> None:
        levels, firsts, moment, self.fresh = row
        self.at, self.moment, self.firsts = at, moment, tuple(firsts)
        for level in self.floors:
            self.floors[level] = moment - SLACK
        for level, first in zip(levels, firsts, strict=True):
            self.floors[level] = min(first, moment) - SLACK

    @property
    def ready(self) -> bool:
        """Whether there was a job that could be leased, unless another had it."""
        return any(first <= self.moment for first in self.firsts if self.moment)

    def next_s(self) -> float | None:
        """From then until the next job is due."""
        if self.moment is None or not self.firsts:
            return None
        until: timedelta = min(self.firsts) - self.moment
        return until.total_seconds()


class PostgresJobs:
    """A `worker.ports.JobStore` on a few connections, which are made anew after they were lost.

    Raises:
        ConfigurationError: The URL is none.
    """

    capabilities = Capabilities(backend="postgres", shared=True, transactions=True)
    warnings: tuple[str, ...] = ()

    def __init__(self, url: str) -> None:
        self._connections = Connections(server_of(url))
        self._news = News(self._connections)
        self._looks: defaultdict[str, Look] = defaultdict(Look)
        self._ends: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._connections.open()

    async def close(self) -> None:
        if self._ends is not None:
            self._ends.cancel()
            await asyncio.wait({self._ends})
        await self._news.close()
        await self._connections.close()

    async def publish(self, declarations: Sequence[Declaration]) -> None:
        rows = {
            one.task: {
                "name": one.task,
                "queue": one.queue,
                "version": one.version,
                "declaration": one.dump(),
            }
            for one in declarations
        }
        await self._connections.ask("publish_tasks", tasks=packed(list(rows.values())))

    async def declaration(self, task: str) -> Declaration | None:
        rows = await self._connections.ask("read_declaration", task=readable(task))
        text = rows[0]["declaration"] if rows else None
        return None if text is None else Declaration.read(text)

    async def apply_terms(self, lease: Lease, terms: Terms) -> JobId | None:
        seq, token = seq_and_token(lease)
        unique, key = terms.unique, terms.concurrency_key
        ttl = None if unique is None or unique.ttl is None else unique.ttl.total_seconds()
        ((told,),) = await self._connections.ask_rows(
            "apply_terms",
            seq=seq,
            token=token,
            priority=terms.priority,
            options=readable(terms.options),
            expires=None if terms.expires is None else terms.expires.total_seconds(),
            unique_key=None if unique is None else readable(unique.key),
            states=[] if unique is None else [*map(str, unique.states)],
            ttl=ttl,
            key=None if key is None else readable(key),
            limit=terms.concurrency_limit,
        )
        return lease.id if told is None else JobId(told) if told else None

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        if not jobs:
            return []
        rows, wishes = new_jobs(jobs)
        refused = await self._connections.ask_rows("enqueue", jobs=rows, wishes=wishes)
        if not self._news.hearing:
            self._news.ready({job.queue for job in jobs})
        return enqueued(jobs, refused)

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
        loop = asyncio.get_running_loop()
        until = loop.time() + wait.total_seconds()
        topic, look = self._news.of_queue(queue), self._looks[queue]
        asked: dict[str, object] = {
            "queue": queue,
            "limit": min(limit, self.capabilities.most_leased),
            "ttl": ttl,
        }
        asked |= {"worker": readable(worker), **deferral(deferred)}
        stumbles = tries = 0
        while True:
            seen, tries = topic.number, tries + 1
            if loop.time() - look.at > OLD_S:
                await self._look(queue, look, watching=False)
            leases = await self._lease(look, asked)
            if leases:
                return leases
            before = look.firsts
            await self._look(queue, look, watching=wait > timedelta(0))
            if look.ready and look.firsts != before and tries < TRIES:
                continue  # of a priority that was not known, or there is more behind what is parked
            left_s = until - loop.time()
            if left_s <= 0:
                return []
            stumbles, tries = stumbles + 1 if look.ready else 0, 0
            await topic.wait(seen, min(left_s, self._pause_s(look, stumbles)))

    async def _lease(self, look: Look, asked: Mapping[str, object]) -> list[Lease]:
        levels = sorted(look.floors, reverse=True)
        rows = await self._connections.ask_rows(
            "lease",
            **asked,
            token=randbits(62),
            levels=levels,
            floors=[look.floors[level] for level in levels],
        )
        return leases_of(rows)

    async def _look(self, queue: str, look: Look, *, watching: bool) -> None:
        if watching:
            self._news.listen()
        (row,) = await self._connections.ask_rows(
            "survey", queue=queue, watching=watching and self._news.hearing
        )
        look.take(row, asyncio.get_running_loop().time())

    def _pause_s(self, look: Look, stumbles: int) -> float:
        """How long to wait for a notification before the next look."""
        pause_s = POLL_S if self._news.hearing else DEAF_S
        if look.fresh:
            pause_s = FRESH_S
        if stumbles:  # others have what is ready: locked for a moment, or about to be parked
            return min(pause_s, STUMBLE_S * 2.0**stumbles)
        due_s = look.next_s()
        return pause_s if due_s is None else max(0.001, min(pause_s, due_s))

    async def begin(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        return await self._hold("begin_jobs", leases, ttl)

    async def extend(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        return await self._hold("extend", leases, ttl)

    async def _hold(self, query: str, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        held = [Held.LOST] * len(leases)
        if leases:
            for row in await self._connections.ask(query, leases=receipts(leases), ttl=ttl):
                held[row["place"]] = Held.CANCEL if row["cancel"] else Held.YES
        return held

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        if not settlements:
            return []
        ended, back, lost = outcomes(settlements)
        ((places,),) = await self._connections.ask_rows("settle", ended=ended, back=back)
        lost.update(places)
        if not self._news.hearing:
            self._news.ended(said.lease.id for said in settlements if said.state.final)
            if back is not None:
                self._news.ready({said.lease.queue for said in settlements})
        return [place not in lost for place in range(len(settlements))]

    async def take(self, key: str, rate: Rate, wanted: int) -> Grant:
        (row,) = await self._connections.ask(
            "take_rate",
            key=readable(key),
            wanted=wanted,
            burst=rate.burst,
            spacing=max(1, rate.spacing // MICROSECOND),
        )
        return Grant(row["granted"], row["wait"] * MICROSECOND)

    async def get(self, ids: Sequence[JobId]) -> list[Job | None]:
        if not ids:
            return []
        rows = await self._connections.ask("get_jobs", ids=[*map(readable, ids)])
        found = {job.id: job for job in jobs_of(rows)}
        return [found.get(job) for job in ids]

    async def wait(self, job: JobId, timeout: timedelta) -> Job | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout.total_seconds()
        with self._news.of_job(job) as topic:
            seen = topic.number
            (found,) = await self.get([job])
            while found is not None and not found.state.final:
                left_s = until - loop.time()
                if left_s <= 0:
                    break
                self._news.listen()
                if self._ends is None or self._ends.done():
                    self._ends = start_shared_task(self._look_for_ends(), name="postgres-ends")
                await topic.wait(seen, left_s)
                seen = topic.number
                try:
                    (found,) = await self.get([job])
                except StoreUnavailable:
                    if until - loop.time() <= AGAIN_S:
                        raise
                    await asyncio.sleep(AGAIN_S)  # the server is restarted, perhaps
                    seen = -1
        return found

    async def _look_for_ends(self) -> None:
        """Ask after all jobs that somebody waits for, as long as there are some."""
        while waited := self._news.jobs:
            pause_s = DEAF_END_S
            with suppress(StoreError):
                if self._news.hearing:
                    (row,) = await self._connections.ask_rows("watch", topic="*")
                    pause_s = FRESH_S if row[0] else POLL_S
                rows = await self._connections.ask("list_unfinished", ids=waited)
                unfinished = {row["id"] for row in rows}
                self._news.ended(job for job in waited if job not in unfinished)
            await asyncio.sleep(pause_s)

    async def find(self, query: JobQuery) -> list[Job]:
        states = query.states | STARTED if query.states & STARTED else query.states
        rows = await self._connections.ask(
            "find_jobs",
            task=query.task,
            queue=query.queue,
            states=sorted(states) or None,
            dead=query.dead,
            since=query.since,
            before=query.before,
            limit=query.limit,
        )
        return jobs_of(rows)

    async def counts(self) -> list[QueueCount]:
        return [
            QueueCount(**{**row, "state": State(row["state"])})
            for row in await self._connections.ask("count_jobs")
        ]

    async def ended(self, within: timedelta) -> dict[str, int]:
        rows = await self._connections.ask("count_ended", within=within)
        return {row["queue"]: row["jobs"] for row in rows}

    async def tell(self, lease: Lease, progress: str) -> None:
        seq, token = seq_and_token(lease)
        await self._connections.ask(
            "tell_progress", seq=seq, token=token, progress=readable(progress)
        )

    async def cancelled(self, ids: Sequence[JobId]) -> list[JobId]:
        rows = (
            await self._connections.ask("list_cancelled", ids=[*map(readable, ids)]) if ids else []
        )
        asked = {row["id"] for row in rows}
        return [job for job in ids if job in asked]

    async def cancel(self, ids: Sequence[JobId]) -> list[Requeued]:
        told = await self._told("cancel_jobs", ids, Requeued.NOT_NOW)
        if not self._news.hearing:
            self._news.ended(ids)
        return told

    async def retry(self, ids: Sequence[JobId]) -> list[Requeued]:
        return await self._told("retry_jobs", ids, Requeued.NOT_NOW)

    async def drop(self, ids: Sequence[JobId]) -> list[Requeued]:
        return await self._told("drop_jobs", ids, Requeued.UNKNOWN)

    async def _told(self, query: str, ids: Sequence[JobId], again: Requeued) -> list[Requeued]:
        """What became of each; of one that is named again what it is after the first time."""
        if not ids:
            return []
        rows = await self._connections.ask(query, ids=[*map(readable, ids)])
        told = {row["id"]: Requeued(row["told"]) for row in rows}
        answers = []
        for job in ids:
            answer = told.get(job, Requeued.UNKNOWN)
            answers.append(answer)
            if answer is Requeued.DONE:
                told[job] = again
        return answers

    async def prune(self, *, keep: timedelta, limit: int = 5000) -> int:
        (row,) = await self._connections.ask("prune_jobs", keep=keep, chunk=limit)
        gone: int = row["gone"]
        if gone < limit:
            await self._connections.ask("prune_rates")
        return gone

    async def claim(
        self,
        ids: Sequence[JobId],
        *,
        ttl: timedelta,
        worker: str,
        deferred: Deferred = NONE_DEFERRED,
    ) -> list[Lease | Job | None]:
        if not ids:
            return []
        rows = await self._connections.ask_rows(
            "claim_jobs",
            ids=[*map(readable, ids)],
            ttl=ttl,
            worker=readable(worker),
            token=randbits(62),
            **deferral(deferred),
        )
        leases = {lease.id: lease for lease in leases_of(rows)}
        others = [job for job in ids if job not in leases]
        found = dict(zip(others, await self.get(others), strict=True))
        return [leases[job] if job in leases else found[job] for job in ids]


def deferral(deferred: Deferred) -> dict[str, object]:
    """The parameters of a statement that leases jobs."""
    return {"deferred": list(deferred.tasks), "suspect": deferred.losses}
