"""``enqueue`` without a client: in an event loop, in a run, and in a thread without a loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from worker.client.client import WorkerClient
from worker.client.open_clients import (
    Chosen,
    chosen,
    refuse_unusable,
    serving_client,
    unusable_client,
)
from worker.client.owning_loop import running_loop
from worker.client.sync_client import SyncJobHandle
from worker.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from types import TracebackType
    from uuid import UUID

    from worker.client.asking import Askable
    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.job_handle import JobHandle

__all__ = [
    "awaited_by_frameworks",
    "current_client",
    "enqueue",
    "enqueue_by",
    "enqueue_in_thread",
    "enqueue_many",
    "enqueue_many_by",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Work = Callable[[WorkerClient], Coroutine[Any, Any, T]]

_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, WorkerClient] = WeakKeyDictionary()
"""A client of the environment's queue for each event loop that enqueued without one of its own."""
_keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()


async def current_client() -> WorkerClient:
    """The client that a call uses which names none.

    In a run it is the worker's own. Elsewhere it is the client that is open in this event loop, or
    in another one of this process. Where none is open it is one of the environment's queue, which
    is closed when the event loop ends.

    Raises:
        AmbiguousClient: Several clients are open.
        StoreUnavailable: The client is closed, and the environment names another queue.
        ConfigurationError: The environment names no queue that is known.
    """
    client = serving_client()
    if client is not None:
        return cast("WorkerClient", client)
    loop = running_loop()
    client = _of_loop.get(loop)
    made = WorkerClient() if client is None else client
    before = unusable_client()
    if before is not None:
        refuse_unusable(before, made)
    if client is None:
        _of_loop[loop] = made
        _keepers[loop] = loop.create_task(close_with(loop, made), name="worker-client")
    return made


async def close_with(loop: asyncio.AbstractEventLoop, client: WorkerClient) -> None:
    """Close the client when the loop ends: what goes on in a loop is cancelled then."""
    try:
        await loop.create_future()
    finally:
        _of_loop.pop(loop, None)
        await client.close()


def enqueue(
    task: Askable | str, params: object, options: EnqueueOptions, *, name: str
) -> Coroutine[Any, Any, JobHandle]:
    """Enqueue one job with the current client; see `enqueue_by`."""

    async def work(client: WorkerClient) -> JobHandle:
        return await client.enqueue(task, params, **options)

    return enqueue_by(work, name=name)


def enqueue_many(
    task: Askable | str,
    params: Iterable[object],
    ids: Iterable[str | UUID | None] | None,
    options: EnqueueOptions,
    *,
    name: str,
) -> Coroutine[Any, Any, list[JobHandle]]:
    """The same for many jobs of one task."""

    async def work(client: WorkerClient) -> list[JobHandle]:
        return await client.enqueue_many(task, params, ids=ids, **options)

    return enqueue_many_by(work, name=name)


def enqueue_by(work: Work[JobHandle], *, name: str) -> Coroutine[Any, Any, JobHandle]:
    """Have ``work`` enqueue one job with the current client.

    In a thread without an event loop, such as that of a task that is not async, the job is enqueued
    before this returns. The coroutine then is a `SyncJobHandle`, too.

    Args:
        name: What the caller called, for a message.
    """
    client = client_for_thread()
    if client is None:
        return later(work, name)
    return EnqueuedJob(in_this_thread(work(client)), client)


def enqueue_many_by(
    work: Work[list[JobHandle]], *, name: str
) -> Coroutine[Any, Any, list[JobHandle]]:
    """The same for many jobs."""
    client = client_for_thread()
    if client is None:
        return later(work, name)
    return EnqueuedJobs(in_this_thread(work(client)), client)


def enqueue_in_thread(work: Work[JobHandle]) -> SyncJobHandle:
    """Have ``work`` enqueue one job from a thread that runs no event loop.

    Raises:
        StoreUnavailable: This thread runs one, or no client is open.
    """
    client = client_for_thread()
    if client is None:
        raise StoreUnavailable(
            "expected the thread of a task that is not async; await enqueue(…) in async code, and "
            "open a SyncWorkerClient in other programs"
        )
    return SyncJobHandle(in_this_thread(work(client)), client.owner.call_blocking)


def client_for_thread() -> WorkerClient | None:
    """The client with which a thread that runs no event loop enqueues at once.

    ``None`` in an event loop, and where no client is open.

    Raises:
        AmbiguousClient, StoreUnavailable: As `current_client`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        client = serving_client()
        if client is not None and client.owner.can_be_called:
            return cast("WorkerClient", client)
        given = chosen()
        if given is not None and given.client is not None:
            refuse_unusable(given.client)
    return None


def in_this_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in an event loop of its own; the thread's own loop, if it has set one, stays."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def later(work: Work[T], name: str) -> Coroutine[Any, Any, T]:
    coroutine = with_current_client(work)
    cast("Any", coroutine).__qualname__ = name  # Python names it if it is never awaited
    given = chosen()
    return coroutine if given is None or not given.in_run else CallInRun(coroutine, given, name)


async def with_current_client(work: Work[T]) -> T:
    return await work(await current_client())


class CallInRun(Coroutine[Any, Any, T]):
    """A call of ``enqueue`` in a run, which notices that it is never awaited."""

    def __init__(self, work: Coroutine[Any, Any, T], run: Chosen, name: str) -> None:
        self._work = work
        self._run = run
        self._name = name
        self._begun = False

    def __await__(self) -> Generator[Any, Any, T]:
        self._begun = True
        return self._work.__await__()

    def send(self, value: Any) -> Any:
        self._begun = True
        return self._work.send(value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        self._begun = True
        return self._work.throw(typ if val is None else cast("BaseException", val))

    def close(self) -> None:
        self._begun = True
        self._work.close()

    def __del__(self) -> None:
        if not self._begun:
            self._run.unawaited = [*(self._run.unawaited or ()), self._name]


class Performed(Coroutine[Any, Any, T]):
    """A coroutine that has its result already, for code that awaits it all the same."""

    _result: T

    def __await__(self) -> Generator[Any, Any, T]:
        yield from ()
        return self._result

    def send(self, value: Any) -> Any:
        raise StopIteration(self._result)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        raise typ if val is None else cast("BaseException", val)

    def close(self) -> None:
        pass


class EnqueuedJob(SyncJobHandle, Performed["JobHandle"]):
    """A job that was enqueued from a thread: its handle there, and for ``await`` a `JobHandle`."""

    def __init__(self, job: JobHandle, client: WorkerClient) -> None:
        super().__init__(job, client.owner.call_blocking)
        self._result = job


class EnqueuedJobs(list[SyncJobHandle], Performed["list[JobHandle]"]):
    """The same for many."""

    def __init__(self, jobs: list[JobHandle], client: WorkerClient) -> None:
        super().__init__(SyncJobHandle(job, client.owner.call_blocking) for job in jobs)
        self._result = jobs


def awaited_by_frameworks(function: F) -> F:
    """Mark a function that returns a coroutine as frameworks look for it: they await the result
    then, rather than call the function in a thread."""
    if sys.version_info >= (3, 12):
        import inspect

        function = inspect.markcoroutinefunction(function)
    else:
        marker = getattr(asyncio.coroutines, "_is_coroutine", True)
        cast("Any", function)._is_coroutine = marker
    return function
