"""What asks the worker of a test, and what its tasks ask the network with."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import httpx

from worker.client.client import WorkerClient
from worker.client.job_handle import JobHandle
from worker.client.sync_client import SyncWorkerClient
from worker.jobs.job import NOW
from worker.running.runner import Runner
from worker.tasks.base import TaskDefinition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
    from uuid import UUID

    from worker.client.asking import Askable
    from worker.client.enqueue_options import EnqueueOptions
    from worker.jobs.job import Enqueued, NewJob
    from worker.model import RunId
    from worker.running.runner import JobTerms
    from worker.testing.clock import FakeClock
    from worker.testing.jobs import WatchedJobs

__all__ = ["LoopClient", "WatchedClient", "WatchedRunner", "made_client"]

T = TypeVar("T")

BASE_URL = "http://data-api.test"


class WatchedClient(WorkerClient):
    """Asks for jobs in memory. ``connection=…`` is taken, and left alone.

    Args:
        learn: Told of each task that was asked for.
        at_once: Called with the ids of new jobs, if they are to be run in place.
    """

    def __init__(
        self,
        jobs: WatchedJobs,
        clock: FakeClock,
        *,
        learn: Callable[[TaskDefinition], None],
        at_once: Callable[[Sequence[str]], Awaitable[None]] | None,
        **rest: Any,
    ) -> None:
        super().__init__(jobs=jobs, **rest)
        self._clock = clock
        self._learn = learn
        self._at_once = at_once

    async def enqueue(
        self, task: Askable | str, params: object = None, **options: Unpack[EnqueueOptions]
    ) -> JobHandle:
        if not self.owner.is_here():
            return await self.owner.call(partial(self.enqueue, task, params, **options))
        job = await super().enqueue(task, params, **options)
        if self._at_once is not None and job.created:
            await self._at_once([job.id])
        return job

    async def enqueue_many(
        self,
        task: Askable | str,
        params: Iterable[object],
        *,
        ids: Iterable[str | UUID | None] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> list[JobHandle]:
        if not self.owner.is_here():
            return await self.owner.call(
                partial(self.enqueue_many, task, params, ids=ids, **options)
            )
        jobs = await super().enqueue_many(task, params, ids=ids, **options)
        if self._at_once is not None:
            await self._at_once([job.id for job in jobs if job.created])
        return jobs

    def request(
        self, task: Askable | str, params: object = None, **options: Unpack[EnqueueOptions]
    ) -> NewJob:
        definition = None if isinstance(task, str) else task.define()
        if isinstance(definition, TaskDefinition):
            self._learn(definition)
        at = options.get("at")
        if at is not None and at.tzinfo is not None and options.get("delay") is None:
            options["delay"] = max(NOW, at - self._clock.now())
            del options["at"]
        new = super().request(task, params, **options)
        return new if self._at_once is None else new._replace(delay=NOW)

    async def _enqueue_in(self, connection: Any, jobs: Sequence[NewJob]) -> list[Enqueued]:
        return await self.jobs.enqueue(jobs)


class LoopClient(SyncWorkerClient):
    """Asks from threads, while the test's own event loop goes on."""

    def __init__(self, client: WatchedClient) -> None:
        super().__init__("memory://")
        self._client = client

    def open(self) -> SyncWorkerClient:
        return self

    def close(self) -> None:
        pass

    def _do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is self._client.owner.loop:
                raise AssertionError(
                    "code that is not async would block the test's event loop here; have it run in "
                    "a thread: await asyncio.to_thread(…)"
                )
        return self._client.owner.call_blocking(work)


class WatchedRunner(Runner):
    """A runner that tells at once what jobs tell of their progress."""

    def __init__(self, *args: Any, on_progress: Callable[[str, str], None], **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._on_progress = on_progress

    def _watched(self, terms: JobTerms, run_id: str) -> JobTerms:
        def told(progress: str) -> None:
            self._on_progress(run_id, progress)
            if terms.on_progress is not None:
                terms.on_progress(progress)

        return terms._replace(on_progress=told)

    def begin(
        self,
        task: TaskDefinition,
        *,
        run_id: RunId,
        job: JobTerms | None = None,
        **rest: Any,
    ) -> None:
        watched = None if job is None else self._watched(job, run_id)
        super().begin(task, run_id=run_id, job=watched, **rest)


class Refusing(httpx.AsyncBaseTransport):
    """Lets nothing out."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise AssertionError(
            f"a task calls {request.method} {request.url}; give the test's worker an answer to "
            "it: InMemoryWorker(transport=httpx.MockTransport(…)), or http_client=…"
        )


def made_client(transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    """A client that reaches what ``transport`` reaches; without one, nothing."""
    return httpx.AsyncClient(transport=transport or Refusing(), base_url=BASE_URL)
