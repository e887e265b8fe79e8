"""The client for programs that are not async: the same one, in an event loop of its own thread."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from selectors import DefaultSelector
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack

from worker.client.client import WorkerClient
from worker.errors import JobConflict, JobExists, StoreUnavailable
from worker.forking import isolate_in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from datetime import timedelta
    from types import TracebackType
    from uuid import UUID

    from worker.client.asking import Askable
    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.job_handle import JobHandle
    from worker.jobs.job import CancelOutcome, Job
    from worker.model import State

__all__ = ["SyncJobHandle", "SyncWorkerClient"]

T = TypeVar("T")


class Run(Protocol):
    """Runs a coroutine, and waits for its result."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T: ...


class SyncWorkerClient:
    """Enqueues jobs: ``with SyncWorkerClient(url) as client: client.enqueue(Task, {…})``.

    It may be used by several threads, but not after a fork: a server that enqueues in every request
    opens one in each process (`open`, `close`). For ``connection=…`` take a connection that is not
    async.

    Args:
        url: As ``WORKER_QUEUE_URL``; without it, that of the environment or of ``.env``.

    Raises:
        As `WorkerClient`.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._client = WorkerClient(url)
        self._thread: LoopThread | None = None

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
        """Connect, and return the client. Entering it does so.

        In a forked child it connects anew.
        """
        if self._thread is not None and not self._client.owner.is_of_parent:
            return self
        if self._client.is_closed or self._client.owner.is_of_parent:
            self._client = WorkerClient(self._url)
        self._thread = LoopThread()
        self._client.owner.own(self._thread.loop)
        try:
            self._do(self._client.open)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close the connections. Leaving the client does so. In a forked child, the parent's stay.

        Calls of other threads that go on raise `StoreUnavailable`.
        """
        thread, self._thread = self._thread, None
        if thread is None or self._client.owner.is_of_parent:
            return
        try:
            self._client.owner.call_blocking(self._client.close)
        finally:
            thread.end()

    def enqueue(
        self, task: Askable | str, params: object = None, **options: Unpack[EnqueueOptions]
    ) -> SyncJobHandle:
        """Ask for one job; see `WorkerClient.enqueue`."""
        with self._own_handles():
            return self._handle(self._do(partial(self._client.enqueue, task, params, **options)))

    def enqueue_many(
        self,
        task: Askable | str,
        params: Iterable[object],
        *,
        ids: Iterable[str | UUID] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> list[SyncJobHandle]:
        """Ask for many jobs of one task; see `WorkerClient.enqueue_many`."""
        with self._own_handles():
            jobs = self._do(partial(self._client.enqueue_many, task, params, ids=ids, **options))
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

    def job(self, job_id: str | UUID) -> SyncJobHandle:
        """A job by its id, whether there is one or not."""
        return self._handle(self._client.job(job_id))

    def _handle(self, job: JobHandle) -> SyncJobHandle:
        return SyncJobHandle(job, self._do)

    def _do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._thread is None:
            raise StoreUnavailable("this SyncWorkerClient is not open; use it inside of its block")
        return self._client.owner.call_blocking(work)


class LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        selector = DefaultSelector()
        self.loop = asyncio.SelectorEventLoop(selector)
        isolate_in_child(selector)
        begun = Event()
        self.loop.call_soon(begun.set)
        self._thread = Thread(target=self.loop.run_forever, name="worker-client", daemon=True)
        self._thread.start()
        begun.wait()

    def end(self) -> None:
        asyncio.run_coroutine_threadsafe(cancel_others(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def cancel_others() -> None:
    """End the calls in the loop that go on."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)


class SyncJobHandle:
    """A job; see `JobHandle`. Its methods wait, and can be called from any thread.

    Args:
        run: Runs a coroutine in the event loop of the client, and waits for it.
    """

    def __init__(self, job: JobHandle, run: Run) -> None:
        self.id = job.id
        self.created = job.created
        self.published = job.published
        self.state = job.state
        self._job = job
        self._run = run

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def info(self) -> Job:
        """All that is recorded of it."""
        return self._run(self._job.info)

    def status(self) -> State:
        """Where it stands."""
        return self._run(self._job.status)

    def progress(self) -> dict[str, Any] | None:
        """The progress that it reported last."""
        return self._run(self._job.progress)

    def cancel(self) -> CancelOutcome:
        """Revoke it, or request its end; see `JobHandle.cancel`."""
        return self._run(self._job.cancel)

    def result(self, timeout: timedelta | str | float | None = None) -> Any:
        """Its result, waiting for its end."""
        return self._run(partial(self._job.result, timeout))
