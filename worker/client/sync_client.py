"""The client for programs that are not async: the same one, in an event loop of its own thread."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from worker.client.client import WorkerClient
from worker.errors import JobConflict, JobExists, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator
    from datetime import timedelta
    from types import TracebackType

    from worker.client.asking import Askable
    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.job_handle import JobHandle
    from worker.jobs.job import Job
    from worker.model import State

__all__ = ["SyncJobHandle", "SyncWorkerClient"]

T = TypeVar("T")


class SyncWorkerClient:
    """Asks for jobs: ``with SyncWorkerClient(url) as client: client.enqueue(Task, {…})``.

    It may be used by several threads. For ``connection=…`` take a connection that is not async.
    A server that asks in every request opens it once a process, after the fork: `open`, `close`.

    Args:
        url: As ``WORKER_QUEUE_URL``; without it, the environment's.

    Raises:
        As `WorkerClient`.
    """

    def __init__(self, url: str | None = None) -> None:
        self._client = WorkerClient(url)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None

    def __enter__(self) -> SyncWorkerClient:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> SyncWorkerClient:
        """Connect, and return the client. Entering it does so."""
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="worker-client", daemon=True)
        self._thread.start()
        try:
            self._do(self._client.open())
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Let go of connections. Leaving the client does so."""
        if self._thread is not None and not self._thread.is_alive():
            self._loop = None  # the process was forked: what is open is the other one's
            return
        try:
            self._do(self._client.close())
        finally:
            self._end()

    def enqueue(
        self, task: Askable | str, params: object = None, **options: Unpack[EnqueueOptions]
    ) -> SyncJobHandle:
        """Ask for one job; see `WorkerClient.enqueue`."""
        with self._own_handles():
            return self._handle(self._do(self._client.enqueue(task, params, **options)))

    def enqueue_many(
        self,
        task: Askable | str,
        params: Iterable[object],
        *,
        ids: Iterable[str] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> list[SyncJobHandle]:
        """Ask for many jobs of one task; see `WorkerClient.enqueue_many`."""
        with self._own_handles():
            jobs = self._do(self._client.enqueue_many(task, params, ids=ids, **options))
        return [self._handle(job) for job in jobs]

    @contextmanager
    def _own_handles(self) -> Iterator[None]:
        """Errors have handles of this client."""
        try:
            yield
        except JobConflict as exc:
            exc.enqueued = tuple(self._handle(job) for job in exc.enqueued)
            if isinstance(exc, JobExists):
                exc.job = self._handle(exc.job)
            raise

    def job(self, job_id: str) -> SyncJobHandle:
        """A job by its id, whether there is one or not."""
        return self._handle(self._client.job(job_id))

    def _handle(self, job: JobHandle) -> SyncJobHandle:
        return SyncJobHandle(job, self)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise StoreUnavailable("this SyncWorkerClient is not open; use it inside of its block")
        if self._thread is not None and not self._thread.is_alive():  # a fork ends all but one
            work.close()
            raise StoreUnavailable(
                "this SyncWorkerClient was opened before the process was forked; open one in each "
                "process"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _end(self) -> None:
        loop, thread = self._loop, self._thread
        assert loop is not None
        assert thread is not None
        self._loop = None
        asyncio.run_coroutine_threadsafe(cancel_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def cancel_others() -> None:
    """End what somebody has left in the loop who did not wait for it."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)


class SyncJobHandle:
    """A job; see `JobHandle`."""

    def __init__(self, job: JobHandle, client: SyncWorkerClient) -> None:
        self.id = job.id
        self.created = job.created
        self.published = job.published
        self.state = job.state
        self._job = job
        self._client = client

    def info(self) -> Job:
        """All that is recorded of it."""
        return self._client._do(self._job.info())

    def status(self) -> State:
        """Where it stands."""
        return self._client._do(self._job.status())

    def progress(self) -> dict[str, Any] | None:
        """What it last told."""
        return self._client._do(self._job.progress())

    def cancel(self) -> bool:
        """Revoke it, or ask it to end."""
        return self._client._do(self._job.cancel())

    def result(self, timeout: timedelta | str | None = None) -> Any:
        """What came of it, waiting for its end."""
        return self._client._do(self._job.result(timeout))
