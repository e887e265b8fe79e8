"""What a person does to jobs from outside of a running worker: look, cancel, retry, drop."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from worker.admin.queues import RUNNING, queue_facts
from worker.admin.waiting import job_waits
from worker.backends.opening import STORES
from worker.config.stores import engine_of, named_as_given, queue_url, store_url
from worker.errors import ConfigurationError, NotSupported, UnknownJob
from worker.jobs.job import JobId, JobQuery, Requeued
from worker.queues.opening import QUEUES
from worker.redaction import cut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from worker.admin.queues import QueueFacts
    from worker.admin.waiting import Crew
    from worker.jobs.job import Job, QueueCount
    from worker.ledger.attendance import Pollers
    from worker.ports import JobRecords
    from worker.settings import Settings

__all__ = ["Act", "JobAdmin", "Toll", "open_jobs", "refuse_memory"]

BATCH = 500
LOOKED_AT = 100
INSTANT = timedelta(milliseconds=1)
"""What an engine may have rounded a moment by."""


class Act(StrEnum):
    """What can be done to a job by hand."""

    CANCEL = "cancel"
    RETRY = "retry"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Toll:
    """What became of many jobs.

    Attributes:
        done: To how many it was done.
        left: How many were in another state meanwhile, or gone.
    """

    done: int = 0
    left: int = 0

    def __add__(self, other: Toll) -> Toll:
        return Toll(self.done + other.done, self.left + other.left)


class JobAdmin:
    """The jobs of an application, in the hands of a person.

    Args:
        records: An engine that is open.
        batch: How many jobs are looked at, or changed, in one round trip.
    """

    def __init__(self, records: JobRecords, *, batch: int = BATCH) -> None:
        self._records = records
        self._batch = batch

    async def find(self, query: JobQuery) -> list[Job]:
        """The jobs that ``query`` asks for, those created last first."""
        return await self._records.find(query)

    async def counts(self) -> list[QueueCount]:
        """How many jobs there are, by queue, task and state."""
        return await self._records.counts()

    async def queues(self, pollers: Pollers | None) -> list[QueueFacts]:
        """How each queue stands that has jobs.

        Args:
            pollers: Who polls, as the ledger has it.
        """
        now, running = datetime.now(UTC), JobQuery(states=RUNNING, limit=LOOKED_AT)
        counts, seen = await self.counts(), await self.find(running)
        return queue_facts(counts, now=now, known={}, seen=seen, pollers=pollers)

    async def why_waits(self, job: Job, crew: Crew) -> str | None:
        """Why a job is not begun that waits; ``None`` if it is not known."""
        queues = await self.queues(crew.pollers)
        return await job_waits(job, queues, crew, self._records, datetime.now(UTC))

    async def jobs(self, ids: Sequence[str]) -> list[Job]:
        """The jobs with these ids.

        Raises:
            UnknownJob: One of them is not recorded; it names all of those.
        """
        wanted = [JobId(one) for one in dict.fromkeys(ids)]
        found = await self._records.get(wanted)
        missing = [one for one, job in zip(wanted, found, strict=True) if job is None]
        if missing:
            raise UnknownJob(unknown(missing))
        return [job for job in found if job is not None]

    async def change(self, act: Act, ids: Sequence[JobId]) -> dict[JobId, Requeued]:
        """Do something to each of these jobs; what became of each.

        Raises:
            NotSupported: Another engine carries one of them, and here is only its record.
        """
        found = await self._records.get(ids)
        carried = [job for job in found if job is not None and "/" in job.queue]
        if carried:
            engine, _, queue = carried[0].queue.partition("/")
            raise NotSupported(
                f"job {carried[0].id} is carried by {engine}, in the queue {queue}, and only its "
                f"record is here; expected WORKER_QUEUE_URL={engine}://…, as its workers have it"
            )
        match act:
            case Act.CANCEL:
                told = await self._records.cancel(ids)
            case Act.RETRY:
                told = await self._records.retry(ids)
            case Act.DROP:
                told = await self._records.drop(ids)
        return dict(zip(ids, told, strict=True))

    async def count(self, query: JobQuery) -> int:
        """How many jobs ``query`` asks for, whatever its limit."""
        return sum([len(batch) async for batch in self.batches(query)])

    async def change_all(self, act: Act, query: JobQuery) -> AsyncIterator[Toll]:
        """Do something to every job that ``query`` asks for, whatever its limit, batch by batch.

        Those that come meanwhile, or again, are left alone.
        """
        async for batch in self.batches(query):
            told = await self.change(act, [job.id for job in batch])
            done = sum(
                word is not Requeued.NOT_NOW and word is not Requeued.UNKNOWN
                for word in told.values()
            )
            yield Toll(done, len(told) - done)

    async def batches(self, query: JobQuery) -> AsyncIterator[list[Job]]:
        """Every job that ``query`` asks for, each once, though they change meanwhile.

        It goes back in time, from one moment of creation to the one before. Of jobs that were
        created at the same moment, as those of one call are, it asks for more and more, until it
        has seen them all.
        """
        seen: set[JobId] = set()
        limit, before = self._batch, query.before
        while True:
            found = await self._records.find(replace(query, before=before, limit=limit))
            new = [job for job in found if job.id not in seen]
            if new:
                seen.update(job.id for job in new)
                yield new
            if len(found) < limit:
                return
            if new:
                limit, before = self._batch, found[-1].created_at + INSTANT
            else:
                limit *= 2


def unknown(ids: Sequence[str]) -> str:
    """That nobody knows these jobs."""
    one = len(ids) == 1
    shown = ", ".join(cut(one) for one in ids[:10]) + (
        f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    )
    return f"no job{'' if one else 's'} {shown} {'is' if one else 'are'} recorded, or no longer"


def refuse_memory(settings: Settings, *, records: bool = True) -> None:
    """Refuse an engine that nobody but the worker itself can look into.

    Args:
        records: What is recorded of jobs matters, too.

    Raises:
        ConfigurationError: It is in memory, or no engine at all.
    """
    if settings.queue_url is None:
        STORES.of(store_url(settings))
    kind = QUEUES.of(queue_url(settings))
    if kind == "memory":
        setting = "WORKER_STORE_URL" if settings.queue_url is None else "WORKER_QUEUE_URL"
        raise ConfigurationError(
            [
                f"{setting} is memory://, which each process has for itself: a job asked for from "
                "here would never be run, and a worker's jobs cannot be seen; expected "
                "sqlite:///…, postgresql://…, redis://… or sqs://…"
            ]
        )
    if records and kind == "sqs" and STORES.of(store_url(settings)) == "memory":
        raise ConfigurationError(
            [
                "WORKER_STORE_URL is memory://, and with SQS the store records what became of "
                "jobs; expected sqlite:///…, postgresql://… or redis://…"
            ]
        )


@asynccontextmanager
async def open_jobs(settings: Settings) -> AsyncIterator[JobAdmin]:
    """Open the queues' engine for a person's use. No task is looked at.

    Raises:
        ConfigurationError: Its URL, folder or library is wrong, or nobody else can look into it.
        StoreError: It cannot be reached, or its schema does not fit.
    """
    refuse_memory(settings)
    engine = engine_of(settings)
    try:
        with named_as_given(settings):
            await engine.open()
            yield JobAdmin(engine)
    finally:
        await engine.close()
