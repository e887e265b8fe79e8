"""What is known of jobs in Redis: the half of `worker.queues.redis.RedisJobs` that looks up."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from worker.backends.codec import from_micros, to_micros
from worker.errors import StoreUnavailable
from worker.jobs.job import JobId, QueueCount, Requeued
from worker.model import State
from worker.queues.bell import heard
from worker.queues.redis_rows import jobs_from, micros
from worker.shared_tasks import start_shared_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta

    from worker.jobs.job import Job, JobQuery, Lease
    from worker.queues.redis_channel import RedisChannel
    from worker.queues.redis_link import RedisLink

__all__ = ["RedisRecords", "portions"]

PORTION = 250
"""How many jobs one call of a script is about, so that Redis serves others in between; all go in
one round trip all the same. Only what is enqueued goes in one call, since it is all or none."""
POLL_S = 1.0
"""How often is looked for what should have been told."""
RUNNING = frozenset({State.STARTED, State.PROGRESS})
ENDED = "ended "

Item = TypeVar("Item")


class RedisRecords:
    """A `worker.ports.JobRecords` in Redis."""

    def __init__(self, link: RedisLink, channel: RedisChannel) -> None:
        self._link = link
        self._channel = channel
        self._looking: asyncio.Task[None] | None = None

    async def get(self, ids: Sequence[JobId]) -> list[Job | None]:
        commands = [self._link.script("get", *part) for part in portions(ids)]
        answers = await self._link.ask_all(commands)
        return [job for answer in answers for job in jobs_from(json.loads(answer))]

    async def wait(self, job: JobId, timeout: timedelta) -> Job | None:
        clock = asyncio.get_running_loop().time
        until = clock() + timeout.total_seconds()
        await self._channel.listen()
        watch = self._link.script("watch", self._channel.name, job)
        get = self._link.script("get", job)
        with self._channel.bell.listening(ENDED + job) as rung:
            while True:
                rung.clear()
                _, answer = await self._link.ask_all([watch, get])
                (found,) = jobs_from(json.loads(answer))
                left_s = until - clock()
                if found is None or found.state.final or left_s <= 0:
                    return found
                self._look_now_and_then()
                await heard(rung, left_s)

    def _look_now_and_then(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = start_shared_task(self._look(), name="waits for jobs to end")

    async def _look(self) -> None:
        """Look for ends that were not told, for all that wait here, while somebody does."""
        while ids := [
            name.removeprefix(ENDED) for name in self._channel.bell.names if name.startswith(ENDED)
        ]:
            await asyncio.sleep(POLL_S)
            watch = [self._link.script("watch", self._channel.name, *p) for p in portions(ids)]
            with suppress(StoreUnavailable):
                for answer in await self._link.ask_all(watch):
                    self._channel.bell.ring([ENDED + job for job in json.loads(answer)])

    async def _stop_waiting(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        await self._channel.close()

    async def find(self, query: JobQuery) -> list[Job]:
        """O(n) in the jobs created since the last one it finds; in portions, one round trip each.

        It ends as soon as it has found as many as are counted in such queues, tasks and states.
        """
        states = query.states | RUNNING if query.states & RUNNING else query.states
        dead = "" if query.dead is None else f"{query.dead:d}"
        fits = (query.queue or "", query.task or "", dead, *sorted(states))
        lowest = "-inf" if query.before is None else f"({-to_micros(query.before)}"
        highest = "+inf" if query.since is None else str(-to_micros(query.since))
        passed = 0
        found: list[Job] = []
        while len(found) < query.limit:
            most = min(PORTION, query.limit - len(found))
            answer = await self._link.run("find", most, lowest, highest, passed, *fits)
            over, lowest, passed, expected, rows = json.loads(answer)
            found += [job for job in jobs_from(rows) if job is not None]
            if over or len(found) >= expected:
                break
        return found

    async def counts(self) -> list[QueueCount]:
        counts = []
        for field, jobs, dead, oldest in json.loads(await self._link.run("counts")):
            state, queue, task = field.split(" ", 2)
            since = None if oldest is None else from_micros(oldest)
            counts.append(QueueCount(queue, task, State(state), jobs, dead, since))
        return sorted(counts, key=lambda count: count[:3])

    async def ended(self, within: timedelta) -> dict[str, int]:
        ended: dict[str, int] = json.loads(await self._link.run("ended", micros(within)))
        return ended

    async def tell(self, lease: Lease, progress: str) -> None:
        await self._link.run("tell", lease.id, lease.receipt, progress)

    async def cancelled(self, ids: Sequence[JobId]) -> list[JobId]:
        commands = [self._link.script("cancelled", *part) for part in portions(ids)]
        digits = "".join(await self._link.ask_all(commands))
        return [job for job, digit in zip(ids, digits, strict=True) if digit == "1"]

    async def cancel(self, ids: Sequence[JobId]) -> list[Requeued]:
        return await self._by_hand("cancel", ids)

    async def retry(self, ids: Sequence[JobId]) -> list[Requeued]:
        return await self._by_hand("retry", ids)

    async def drop(self, ids: Sequence[JobId]) -> list[Requeued]:
        return await self._by_hand("drop", ids)

    async def _by_hand(self, script: str, ids: Sequence[JobId]) -> list[Requeued]:
        commands = [self._link.script(script, *part) for part in portions(ids)]
        answers = await self._link.ask_all(commands)
        return [Requeued(word) for answer in answers for word in answer.split()]

    async def prune(self, *, keep: timedelta, limit: int = 5000) -> int:
        forgotten = 0
        while forgotten < limit:
            most = min(PORTION, limit - forgotten)
            count = await self._link.run("prune", micros(keep), most)
            forgotten += count
            if count < most:
                break
        return forgotten


def portions(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for first in range(0, len(items), PORTION):
        yield items[first : first + PORTION]
