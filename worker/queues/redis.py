"""Jobs in Redis: the scripts beside this file do the work, each in one round trip.

**One Redis, or a primary with replicas** (Redis 7 or newer): the keys have no hash tag, and a Redis
Cluster is refused. Every call goes to the server that the URL names; it must be the primary.

Keys, each with the prefix and ``:jobs:`` before it:

========================= ====== ===================================================================
``schema``                string The version of this layout.
``order``                 string How many jobs have come: the order of arrival.
``job:ID``                hash   The job; ``data`` is what of it never changes.
``result:ID``             string Its result; expires.
``created``               zset   Every job, by minus the moment of its creation.
``finished``, ``dead``    zset   Jobs that ended, by when; dead letters, as in ``created``.
``counts``                hash   "STATE QUEUE TASK" → how many; ``dead_counts`` of dead letters.
``waiting:…``             zset   Of each such group, the jobs that can be leased, or could not yet,
                                 by since when.
``ready:QUEUE``           zset   By minus the priority, then since when, then order of arrival.
``later:QUEUE``           zset   Delayed jobs, by when they are ready.
``leased``                zset   Of all queues, by the end of the lease.
``holders:KEY``           set    The jobs that are leased under a concurrency key.
``lots:KEY``              set    The lots of a concurrency key: "LIMIT QUEUE KEY".
``parked:LOT``            zset   Jobs that wait for their key, ordered as in ``ready``.
``unique:KEY``            string The states in which it is held, and by which job; may expire.
``tasks``                 hash   TASK → "VERSION DECLARATION": what tasks declare, as JSON.
``rate:KEY``              string The theoretical arrival time; expires.
``waiters:QUEUE``         zset   Workers that wait for a job, by when they last looked.
``alarms``                hash   QUEUE → which of them looks again, and when.
``watched``               hash   ID → the channels on which its end is told.
``wake:CHANNEL``                 A channel of each worker and client.
========================= ====== ===================================================================

What a call costs Redis grows with the jobs it is asked for, not with those there are, but for
three: `RedisJobs.find` reads, in portions, all that were created after the last one it finds,
`RedisJobs.counts` is linear in the number of queues, tasks and states, and `RedisJobs.ended` in
the jobs that it counts.

What this engine promises, Redis must keep:

* With ``appendonly no``, a restart takes the jobs back to the last snapshot, or to nothing. With
  ``appendonly yes`` and the usual ``appendfsync everysec``, a crash of the machine costs a second.
* Replication is asynchronous: a failover forgets what the old primary had not passed on yet. A job
  may be lost with it, or run once more.
* A ``maxmemory-policy`` other than ``noeviction`` evicts jobs, or results before their time. With
  it, a full memory refuses new jobs, while those that are there are still leased and settled.

`RedisJobs.warnings` says at opening which of these Redis is set up to do.

A user of Redis needs ``~PREFIX:jobs:* &PREFIX:jobs:* +@read +@write +@scripting +@pubsub
+@connection +time``, and ``+info`` for the warnings. What is missing is named at opening. Without
the channels (``&``), which new users of Redis do not have, no worker and no client is woken: each
looks once a second.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.backends.redis_server import ANSWER_TIMEOUT_S, dangers
from worker.backends.redis_survey import Needs, Survey
from worker.errors import StoreUnavailable
from worker.jobs.declaration import Declaration
from worker.jobs.job import (
    NONE_DEFERRED,
    NOW,
    Capabilities,
    Enqueued,
    Existing,
    Grant,
    Held,
    JobId,
)
from worker.jobs.verdict import unspent
from worker.queues.bell import heard
from worker.queues.redis_channel import RedisChannel
from worker.queues.redis_link import RedisLink
from worker.queues.redis_records import POLL_S, PORTION, RedisRecords, portions
from worker.queues.redis_rows import (
    applied,
    deferral,
    enqueued,
    job_from,
    jobs_from,
    leases_from,
    micros,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from worker.backends.redis_server import Command
    from worker.jobs.declaration import Terms
    from worker.jobs.job import Deferred, Job, Lease, NewJob, Rate, Settlement

__all__ = ["RedisJobs"]

SCHEMA = 1
OLDEST = 7
COMMANDS = frozenset({"GET", "SET", "TYPE"})
"""What is called beside the scripts."""
KEYS = {
    **dict.fromkeys(("schema", "order"), "string"),
    **dict.fromkeys(("counts", "dead_counts", "alarms", "watched", "tasks"), "hash"),
    **dict.fromkeys(("created", "finished", "dead", "leased"), "zset"),
    **dict.fromkeys(("job:ID", "result:ID", "waiting:GROUP", "ready:QUEUE", "later:QUEUE")),
    **dict.fromkeys(("holders:KEY", "lots:KEY", "parked:LOT", "unique:KEY", "rate:KEY")),
    "waiters:QUEUE": None,
}
"""The keys after the prefix; the types of those that have one name only."""
HELD = {"0": Held.LOST, "1": Held.YES, "2": Held.CANCEL}


class RedisJobs(RedisRecords):
    """A `worker.ports.JobStore` in Redis.

    Args:
        url: As `worker.backends.redis.RedisStore` takes it. The same one serves both: their keys
            do not meet.

    Attributes:
        warnings: What about this Redis endangers the jobs, a sentence each.

    Raises:
        ConfigurationError: The URL is none of these.
    """

    capabilities = Capabilities(backend="redis", shared=True)

    def __init__(self, url: str) -> None:
        link = RedisLink(url)
        super().__init__(link, RedisChannel(link.address))
        self.warnings: tuple[str, ...] = ()
        self._background: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """
        Raises:
            ConfigurationError: It is a Redis Cluster or a Sentinel, or older than Redis 7.
            StoreUnavailable: It cannot be reached, or not be used.
            StoreSchemaError: The keys were written by a newer worker, or are another program's, or
                the user lacks rights.
        """
        address = self._link.address
        root = f"{address.prefix}:jobs:"
        survey = Survey(
            address,
            Needs(
                root=root,
                commands=self._link.commands | COMMANDS,
                keys=KEYS,
                oldest=OLDEST,
                channel=self._channel.address,
                grants=f"~{root}* &{root}* +@read +@write +@scripting +@pubsub +@connection +time",
            ),
        )
        survey.judge(await self._link.try_all(survey.questions()))
        schema = survey.judge_keys(await self._link.try_all(survey.key_questions()))
        name = f"{root}schema"
        if schema is None:
            await self._link.ask(("SET", name, SCHEMA, "NX"))
            schema = await self._link.ask(("GET", name))
        address.check_schema(name, schema, SCHEMA, "the jobs have")
        found = dangers(
            survey.info,
            evicted="an evicted job is lost",
            expiring="a result may be evicted before its time",
            forgotten="jobs may be lost, or run twice",
        )
        self.warnings = (*survey.warnings, *(f"{address.shown}: {danger}" for danger in found))

    async def close(self) -> None:
        if self._background:
            await asyncio.wait(self._background, timeout=ANSWER_TIMEOUT_S)
        await self._stop_waiting()
        await self._link.close()

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        if not jobs:
            return []
        told = await self._link.run("enqueue", *enqueued(jobs))
        answers = [Enqueued(job.id, True) for job in jobs]
        for number, there, row in json.loads(told):
            if number < 0:
                self._channel.report(there)
                continue
            existing = None if row is None else Existing.of(job_from(row))
            answers[number] = Enqueued(JobId(there), False, existing)
        return answers

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
        limit = min(limit, self.capabilities.most_leased)
        if limit < 1:
            return []
        asked = (queue, micros(ttl), worker, deferral(deferred))
        if wait <= NOW:
            while True:
                leases, again_s = await self._lease(asked, limit)
                if leases or again_s is None:
                    return leases
        return await self._lease_or_wait(asked, limit, wait)

    async def _lease_or_wait(
        self, asked: tuple[str, int, str, str], limit: int, wait: timedelta
    ) -> list[Lease]:
        """Look once, then whenever the bell rings, a job is due, or a second has passed."""
        clock = asyncio.get_running_loop().time
        until = clock() + wait.total_seconds()
        await self._channel.listen()
        number = self._channel.number()
        waiter = f"{self._channel.name} {limit} {number}"
        with self._channel.bell.listening(f"lease {number}") as rung:
            while True:
                rung.clear()
                stays = clock() < until
                leases, again_s = await self._lease(asked, limit, waiter, stays=stays)
                if leases or not (stays or again_s == 0):
                    return leases
                left_s = min(until - clock(), POLL_S if again_s is None else again_s)
                try:
                    await heard(rung, max(0.0, left_s))
                except asyncio.CancelledError:
                    self._afterwards(self._leave(asked[0], waiter))
                    raise

    async def _lease(
        self,
        asked: tuple[str, int, str, str],
        limit: int,
        waiter: str = "",
        *,
        stays: bool = False,
    ) -> tuple[list[Lease], float | None]:
        """What can be leased now, and in how many seconds to look again, if that is soon."""
        queue, ttl, worker, later = asked
        full = (limit - 1) // PORTION
        commands = [self._link.script("lease", queue, PORTION, ttl, worker, "", 0, later)] * full
        last = limit - PORTION * full
        commands.append(
            self._link.script("lease", queue, last, ttl, worker, waiter, int(stays), later)
        )
        call = asyncio.create_task(self._ask_for_leases(commands), name=f"lease:{queue}")
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._afterwards(self._give_back(call, queue, waiter))
            raise

    async def _ask_for_leases(self, commands: list[Command]) -> tuple[list[Lease], float | None]:
        leases: list[Lease] = []
        again_s = None
        for answer in await self._link.ask_all(commands):
            more, due, moment, *rows = json.loads(answer)
            leases += leases_from(moment, rows)
            again_s = 0.0 if more else due / 1e6 if due >= 0 else None
        return leases, again_s

    async def _give_back(
        self, call: asyncio.Task[tuple[list[Lease], float | None]], queue: str, waiter: str
    ) -> None:
        """Have those leased again that came when nobody waited for them any more."""
        with suppress(StoreUnavailable):
            leases, _ = await call
            await self.settle([unspent(lease) for lease in leases])
        if waiter:
            await self._leave(queue, waiter)

    async def _leave(self, queue: str, waiter: str) -> None:
        """Wait for jobs no longer, and have somebody else woken if it was woken in vain."""
        with suppress(StoreUnavailable):
            await self._link.run("leave", queue, waiter)

    def _afterwards(self, work: Coroutine[None, None, None]) -> None:
        """Do what whoever was cancelled does not wait for. `close` does."""
        task = asyncio.create_task(work, name="after a cancelled lease")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def claim(
        self,
        ids: Sequence[JobId],
        *,
        ttl: timedelta,
        worker: str,
        deferred: Deferred = NONE_DEFERRED,
    ) -> list[Lease | Job | None]:
        later = deferral(deferred)
        commands = [
            self._link.script("claim", micros(ttl), worker, later, *p) for p in portions(ids)
        ]
        told: list[Lease | Job | None] = []
        for answer in await self._link.ask_all(commands):
            moment, *rows = json.loads(answer)
            for row in rows:
                if row is None or not row[0]:
                    told += jobs_from([row and row[1]])
                else:
                    told += leases_from(moment, row)
        return told

    async def begin(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        return await self._hold(leases, ttl, begins=True)

    async def extend(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        return await self._hold(leases, ttl, begins=False)

    async def _hold(self, leases: Sequence[Lease], ttl: timedelta, *, begins: bool) -> list[Held]:
        commands = [
            self._link.script(
                "extend",
                micros(ttl),
                int(begins),
                *(word for lease in part for word in (lease.id, lease.receipt)),
            )
            for part in portions(leases)
        ]
        return [HELD[digit] for answer in await self._link.ask_all(commands) for digit in answer]

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        commands = [self._link.script("settle", settled(part)) for part in portions(settlements)]
        return [digit == "1" for answer in await self._link.ask_all(commands) for digit in answer]

    async def publish(self, declarations: Sequence[Declaration]) -> None:
        words = [word for one in declarations for word in (one.task, one.version, one.dump())]
        if words:
            await self._link.run("publish", *words)

    async def declaration(self, task: str) -> Declaration | None:
        text = await self._link.ask(("HGET", f"{self._link.address.prefix}:jobs:tasks", task))
        return None if text is None else Declaration.read(text.partition(" ")[2])

    async def apply_terms(self, lease: Lease, terms: Terms) -> JobId | None:
        told = await self._link.run("terms", *applied(lease, terms))
        return JobId(told) if told else None

    async def take(self, key: str, rate: Rate, wanted: int) -> Grant:
        granted, wait = await self._link.run("take", key, micros(rate.spacing), rate.burst, wanted)
        return Grant(granted, timedelta(microseconds=wait))
