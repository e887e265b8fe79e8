"""What is known of jobs, and what is done to them by hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from worker.admin.jobs import BATCH, JobAdmin
from worker.errors import UnknownJob
from worker.jobs.history import attempts_of
from worker.jobs.job import JobId, JobQuery, Requeued
from worker.model import State
from worker.ops.models import (
    AttemptFacts,
    BulkAnswer,
    Done,
    JobDetail,
    JobError,
    JobFacts,
    Jobs,
    Payload,
    RunningRun,
)
from worker.ops.said import in_utc
from worker.ops.timeline import timeline
from worker.redaction import cut, told_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from worker.admin.jobs import Act
    from worker.jobs.job import Job
    from worker.ops.said import Bulk, JobFilter
    from worker.ops.sources import Sources
    from worker.ports import JobStore

__all__ = ["JobBook"]

MOST_RUNNING = 100
MOST_DEAD = 100
MOST_SAME = 1000
"""How many jobs that were created at the same moment are paged through."""
MOST_AT_ONCE = 5000
"""How many dead letters one request goes through."""
LONGEST_S = 20.0
"""How long one request goes on with that: SQS has to look for each letter."""
LONGEST_KIND = 200
LONGEST_TEXT = 10_000
"""Of an error, which a program that works by SQL may have written."""
TICK = timedelta(microseconds=1)


class JobBook:
    """Reads jobs for the ops part, and acts on them.

    Args:
        hide: Takes values out of parameters, options, progress and results by their names.
    """

    def __init__(self, sources: Sources, hide: Callable[[Any], Any]) -> None:
        self._sources = sources
        self._redact = sources.redact
        self._hide = hide

    async def page(self, said: JobFilter) -> Jobs:
        """A page of jobs.

        Raises:
            HTTPException: ``before`` is neither a moment nor what a page ended with.
            StoreError: The engine cannot be asked.
        """
        before, after = read_cursor(said.before)
        query = JobQuery(
            task=said.task,
            queue=said.queue,
            states=frozenset(said.state),
            dead=said.dead,
            since=said.since,
            before=before,
            limit=said.limit + 1,
        )
        found = await self._sources.engine(lambda jobs: read_page(jobs, query, after))
        shown = found[: said.limit]
        following = cursor(shown) if len(found) > said.limit else None
        return Jobs(jobs=[JobFacts(**self._facts(job)) for job in shown], next=following)

    async def detail(self, job_id: str) -> JobDetail:
        """All that is known of a job, but its parameters and its result.

        Raises:
            UnknownJob: Nobody has recorded it.
            StoreError: The engine cannot be asked.
        """
        job = await self._job(job_id)
        history = self._history(job)
        return JobDetail(
            **self._facts(job),
            deliveries=job.deliveries,
            timeline=timeline(job, self._error(job), history),
            history=history,
            options=as_object(self._hide(self._told(job.options))),
            headers=sorted(as_object(self._told(job.headers))),
            unique_key=job.unique_key,
            concurrency_key=job.concurrency_key,
            result_until=job.result_until,
        )

    async def payload(self, job_id: str) -> Payload:
        """What a job was asked with, and what came of it.

        Raises:
            UnknownJob: Nobody has recorded it.
            StoreError: The engine cannot be asked.
        """
        job = await self._job(job_id)
        return Payload(
            params=self._hide(self._told(job.params)),
            params_bytes=len(job.params.encode("utf-8", "surrogatepass")),
            version=job.version,
            result=None if job.result is None else self._hide(self._told(job.result)),
            result_bytes=len((job.result or "").encode("utf-8", "surrogatepass")),
            headers=as_object(self._hide(self._told(job.headers))),
        )

    async def running(self) -> tuple[list[Job], bool]:
        """The jobs that run, those created last first, without their parameters; and whether there
        are more.

        Raises:
            StoreError: The engine cannot be asked.
        """
        query = JobQuery(states=frozenset({State.STARTED}), limit=MOST_RUNNING + 1)
        found = await self._sources.engine(lambda jobs: jobs.find(query))
        # They are kept for a while, and what they were asked with may be large.
        slim = [replace(job, params="{}", result=None) for job in found[:MOST_RUNNING]]
        return slim, len(found) > MOST_RUNNING

    async def dead(self) -> dict[tuple[str, str], str]:
        """What the latest dead letters failed with, in one line, by queue and task.

        Raises:
            StoreError: The engine cannot be asked.
        """
        query, told = JobQuery(dead=True, limit=MOST_DEAD), {}
        for job in await self._sources.engine(lambda jobs: jobs.find(query)):
            error = self._error(job)
            if error is not None and (job.queue, job.task) not in told:
                told[job.queue, job.task] = " ".join(f"{error.type}: {error.message}".split())
        return told

    async def act(self, act: Act, job_id: str) -> Done:
        """Cancel, retry or drop a job.

        Raises:
            UnknownJob: Nobody has recorded it.
            StoreError: The engine cannot be asked.
        """
        job = JobId((await self._job(job_id)).id)
        told = await self._change(act, [job])
        return Done(id=job, what=told[job])

    async def bulk(self, act: Act, said: Bulk) -> BulkAnswer:
        """Count dead letters, or do something to those that were counted.

        Raises:
            StoreError: The engine cannot be asked; some may be done.
        """
        if said.ids is not None:
            return await self._some(act, said, [JobId(one) for one in dict.fromkeys(said.ids)])
        return await (self._count(said) if said.dry_run else self._sweep(act, said))

    async def _some(self, act: Act, said: Bulk, ids: Sequence[JobId]) -> BulkAnswer:
        found = await self._sources.engine(lambda jobs: jobs.get(ids))
        able = [job.id for job in found if job is not None and fits(job, said)]
        if said.dry_run:
            return BulkAnswer(count=len(able))
        told = await self._change(act, able)
        done = tally(told.values())
        return BulkAnswer(done=done, left=len(ids) - done)

    async def _count(self, said: Bulk) -> BulkAnswer:
        count, latest, more = 0, None, False
        async for batch in self._dead(said):
            if count + len(batch) > MOST_AT_ONCE:
                batch, more = batch[: MOST_AT_ONCE - count], True
            count += len(batch)
            died = [job.finished_at for job in batch if job.finished_at is not None]
            latest = max([*died, *([latest] if latest else [])], default=None)
            if more:
                break
        return BulkAnswer(count=count, before=latest and latest + TICK, more=more)

    async def _sweep(self, act: Act, said: Bulk) -> BulkAnswer:
        clock = asyncio.get_running_loop().time
        until, done, seen = clock() + LONGEST_S, 0, 0
        async for batch in self._dead(said):
            some = [job.id for job in batch[: MOST_AT_ONCE - seen]]
            told = await self._change(act, some)
            done, seen = done + tally(told.values()), seen + len(some)
            if seen >= MOST_AT_ONCE or clock() >= until:
                return BulkAnswer(done=done, left=seen - done, more=True)
        return BulkAnswer(done=done, left=seen - done)

    async def _dead(self, said: Bulk) -> AsyncIterator[list[Job]]:
        """The dead letters that are meant, batch by batch."""
        query = JobQuery(task=said.task, queue=said.queue, dead=True, before=said.before)
        engine = await self._sources.engine(opened)
        async for batch in JobAdmin(engine, batch=BATCH).batches(query):
            meant = [job for job in batch if fits(job, said)]
            if meant:
                yield meant

    async def _change(self, act: Act, ids: Sequence[JobId]) -> dict[JobId, Requeued]:
        return await self._sources.engine(lambda jobs: JobAdmin(jobs).change(act, ids))

    async def _job(self, job_id: str) -> Job:
        if "\0" in job_id:  # which no engine stores
            raise UnknownJob("no job with such an id is recorded: it holds a NUL")
        (job,) = await self._sources.engine(lambda jobs: JobAdmin(jobs).jobs([job_id]))
        return job

    def _facts(self, job: Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "task": job.task,
            "queue": job.queue,
            "state": job.state,
            "dead": job.dead,
            "attempts": job.attempts,
            "losses": job.losses,
            "refusals": job.refusals,
            "priority": job.priority,
            "created_at": job.created_at,
            "ready_at": job.ready_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "expires_at": job.expires_at,
            "worker": job.worker,
            "progress": self._progress(job),
            "error": self._error(job),
            "cancel": job.cancel,
        }

    def run(self, job: Job) -> RunningRun:
        """A job that runs."""
        return RunningRun(
            kind="job",
            task=job.task,
            id=job.id,
            since=job.started_at or job.created_at,
            replica=job.worker,
            attempt=job.attempts + 1,
            progress=self._progress(job),
            cancel=job.cancel,
        )

    def _progress(self, job: Job) -> dict[str, Any] | None:
        told = None if job.progress is None else self._hide(self._told(job.progress))
        return told if isinstance(told, dict) else None

    def _error(self, job: Job) -> JobError | None:
        if job.error is None:
            return None
        said = as_object(self._told(job.error))
        kind, message = (str(said.get(name, "?")) for name in ("type", "message"))
        return JobError(type=cut(kind, LONGEST_KIND), message=cut(message, LONGEST_TEXT))

    def _history(self, job: Job) -> list[AttemptFacts]:
        return [
            AttemptFacts(
                attempt=one.attempt,
                outcome=one.outcome,
                started_at=one.started_at,
                finished_at=one.finished_at,
                worker=self._text(one.worker),
                overtime_ms=one.overtime_ms,
                error=None
                if one.type is None
                else JobError(type=self._text(one.type), message=self._text(one.message or "")),
            )
            for one in attempts_of(job)
        ]

    def _text(self, text: str) -> str:
        return cut(self._redact(text), LONGEST_TEXT)

    def _told(self, text: str) -> Any:
        return told_json(text, self._redact)


async def opened(jobs: JobStore) -> JobStore:
    return jobs


async def read_page(jobs: JobStore, query: JobQuery, after: str | None) -> list[Job]:
    """The jobs from ``query.before`` on; of those of its own moment, the ones after an id."""
    if after is None or query.before is None:
        return await jobs.find(query)
    moment, wanted, limit = query.before, query.limit, query.limit
    while True:
        found = await jobs.find(replace(query, before=moment + TICK, limit=limit))
        new = following(found, moment, after)
        if len(new) >= wanted or len(found) < limit or limit > wanted + MOST_SAME:
            return new[:wanted]
        limit *= 2


def following(found: Sequence[Job], moment: datetime, after: str) -> list[Job]:
    """Those after the job with which a page ended; it may be gone meanwhile."""
    for place, job in enumerate(found):
        if job.id == after:
            return list(found[place + 1 :])
    return [job for job in found if job.created_at < moment or job.id > after]


def cursor(shown: Sequence[Job]) -> str:
    return f"{shown[-1].created_at.isoformat()}~{shown[-1].id}"


def read_cursor(said: str | None) -> tuple[datetime | None, str | None]:
    """A moment, and the id of the job of that moment with which the page before ended."""
    if said is None:
        return None, None
    moment, mark, after = said.partition("~")
    try:
        found = in_utc(datetime.fromisoformat(moment))
        if not mark:
            return found, None
        found + TICK  # before which those of that very moment are looked for: it has to exist
        return found, after
    except (ValueError, OverflowError) as exc:
        raise HTTPException(
            422, f"before: expected a moment such as 2026-11-21T09:30:00Z, got {moment[:100]!r}"
        ) from exc


def fits(job: Job, said: Bulk) -> bool:
    """Whether it is a dead letter that is meant."""
    return (
        job.dead
        and said.task in (None, job.task)
        and said.queue in (None, job.queue)
        and (said.before is None or (job.finished_at is not None and job.finished_at < said.before))
    )


def tally(told: Iterable[Requeued]) -> int:
    return sum(word in (Requeued.DONE, Requeued.ASKED) for word in told)


def as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
