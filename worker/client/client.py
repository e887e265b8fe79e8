"""How a job is asked for."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Unpack
from weakref import WeakKeyDictionary

from worker.client.asking import new_job, raises_on_conflict, refuse_unsupported
from worker.client.declarations import Declarations
from worker.client.existing import differences, ended_without_run
from worker.client.job_handle import JobHandle
from worker.client.queue_urls import queue_url_of, records_url_of
from worker.client.sending import is_traced, send_traced
from worker.errors import (
    DuplicateJob,
    InvalidOptions,
    JobConflict,
    JobExists,
    NotSupported,
    StoreUnavailable,
)
from worker.jobs.batching import Batcher
from worker.jobs.job import TASK, Enqueued, JobId, NewJob
from worker.queues.opening import make_jobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextvars import Token
    from types import TracebackType

    from worker.client.asking import Askable, Definition
    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.sending import Send
    from worker.jobs.declaration import Declaration
    from worker.jobs.job import Existing
    from worker.ports import JobStore

__all__ = ["WorkerClient", "client_in_reach"]

PAYLOAD_LIMIT = 256 * 1024
"""How many bytes of parameters, or of a result, a job can have, unless a setting says so."""
MANY = 1000
"""How many jobs are enqueued in one round trip at most."""


class WorkerClient:
    """Asks for jobs. ``async with WorkerClient(url) as client: await client.enqueue(Task, {…})``.

    Inside of the block it is the client that ``Task.enqueue`` uses.

    Args:
        url: As ``WORKER_QUEUE_URL``; without it, the environment's.
        jobs: An engine in the place of a URL; whoever made it closes it.
        is_open: Whether that engine is open. If not, it is opened when it is first needed.
        payload_limit: How many bytes of parameters a job can have.
        tasks: Those that can be asked for by their names, with what is known of them.

    Raises:
        ConfigurationError: There is no such engine.
        StoreUnavailable, StoreSchemaError: On entering: it cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        jobs: JobStore | None = None,
        is_open: bool = True,
        payload_limit: int = PAYLOAD_LIMIT,
        tasks: Mapping[str, Definition] | None = None,
    ) -> None:
        self._owned = jobs is None
        self.jobs = jobs or make_jobs(
            url or queue_url_of(os.environ), records_url=records_url_of(os.environ)
        )
        self._payload_limit = payload_limit
        self._tasks = dict(tasks or {})
        self._enqueuing: Batcher[NewJob, Enqueued] = Batcher(
            self.jobs.enqueue, most=MANY, name="enqueue"
        )
        self._declarations = Declarations()
        self._token: Token[WorkerClient | None] | None = None
        self._is_open = is_open and jobs is not None
        self._is_closed = False
        self._keeper: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect, if that is still to be done. Entering a client with a URL does so."""
        if self._is_closed:
            raise StoreUnavailable(
                "this WorkerClient is closed; expected to be inside of its block"
            )
        async with self._opening:
            if not self._is_open:
                await self.jobs.open()
                self._is_open = True

    async def engine(self) -> JobStore:
        """The engine, open."""
        if not self._is_open:
            await self.open()
        return self.jobs

    async def close(self) -> None:
        """Let go of connections. Leaving the client does so."""
        await self._enqueuing.drained()
        if self._owned:
            self._is_open, self._is_closed = False, True
            await self.jobs.close()

    def be_in_reach(self) -> None:
        """Be the client of the code that calls, and of what it begins."""
        _current.set(self)

    def keep_for(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have it closed when the loop ends: what goes on in a loop is cancelled then."""
        self._keeper = loop.create_task(self._kept_for(loop), name="worker-client")

    async def _kept_for(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await loop.create_future()
        finally:
            _of_loop.pop(loop, None)
            await self.close()

    @contextmanager
    def in_reach(self) -> Iterator[None]:
        """Make this the client that ``Task.enqueue`` uses inside of the block."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    async def __aenter__(self) -> WorkerClient:
        if self._owned:
            try:
                await self.open()
            except BaseException:
                await self.close()
                raise
        self._token = _current.set(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
        await self.close()

    async def enqueue(
        self, task: Askable | str, params: object = None, **options: Unpack[EnqueueOptions]
    ) -> JobHandle:
        """Ask for one job. Concurrent calls share their round trips.

        Args:
            task: A task, or the name of one. Of a name that is not known here the worker judges
                the parameters. What such a task declares (its queue, priority, expiry, keys) is
                read from what workers have published. If none has, a warning is logged, the
                handle's ``published`` is false, the queue is ``default`` unless ``queue`` says
                otherwise, and the worker that leases the job applies what the task declares.
            params: A mapping, or an instance of the task's own type.

        Raises:
            InvalidParams: The parameters do not fit the task, or are too large.
            InvalidOptions: An option does not.
            NotSupported: The engine cannot do what an option asks for.
            DuplicateJob: Another job holds the unique key, and the task wants to know.
            JobExists: The id is that of a job of another task, with other parameters or options, or
                of one that was cancelled or has expired. The error has its handle.
            StoreUnavailable: The engine cannot be reached; whether the job was taken in is not
                known. With an ``id`` of one's own it can be asked for again.
        """
        connection = options.pop("connection", None)
        await self._learn_declaration(task)
        new = self.request(task, params, **options)
        await self.engine()
        if connection is not None or is_traced():
            (told,) = await self._sent([new], connection)
        else:
            told = await self._enqueuing.ask(new)
        return self._handle(task, new, told, options)

    async def _learn_declaration(self, task: Askable | str) -> None:
        """Read what a task declares that is not known here, unless it was read a short time ago."""
        if isinstance(task, str) and task not in self._tasks and TASK.fullmatch(task):
            await self._declarations.learn(task, await self.engine())

    async def enqueue_many(
        self,
        task: Askable | str,
        params: Iterable[object],
        *,
        ids: Iterable[str] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> list[JobHandle]:
        """Ask for many jobs of one task, in one round trip a thousand: all of those or none.

        Args:
            ids: As many as there are ``params``.
            options: For all of them.

        Raises:
            InvalidParams, InvalidOptions, NotSupported, StoreUnavailable: As `enqueue`.
            JobExists, DuplicateJob: As `enqueue`, for the first such job. The other jobs are
                enqueued; ``enqueued`` has their handles.
        """
        connection = options.pop("connection", None)
        if "id" in options:
            raise InvalidOptions("id: expected ids=[…] for many jobs")
        said = list(params)
        chosen = [None for _ in said] if ids is None else list(ids)
        if len(chosen) != len(said):
            raise InvalidOptions(f"ids: expected {len(said)}, got {len(chosen)}")
        await self._learn_declaration(task)
        jobs = []
        for one, job in zip(said, chosen, strict=True):
            if job is not None:
                options["id"] = job
            jobs.append(self.request(task, one, **options))
        await self.engine()
        told: list[Enqueued] = []
        for start in range(0, len(jobs), MANY):
            told += await self._sent(jobs[start : start + MANY], connection)
        return self._handles(task, jobs, told, options)

    def _handles(
        self,
        task: Askable | str,
        jobs: Sequence[NewJob],
        told: Sequence[Enqueued],
        options: EnqueueOptions,
    ) -> list[JobHandle]:
        """The handles of many jobs.

        Raises:
            JobExists, DuplicateJob: Some were refused; the error has the handles of the others.
        """
        handles: list[JobHandle] = []
        refused: JobConflict | None = None
        for new, one in zip(jobs, told, strict=True):
            try:
                handles.append(self._handle(task, new, one, options))
            except JobConflict as exc:
                refused = refused or exc
        if refused is not None:
            refused.enqueued = tuple(handle for handle in handles if handle.created)
            if refused.enqueued:
                refused.add_to_message(f"{len(refused.enqueued)} of the other jobs were enqueued")
            raise refused
        return handles

    def job(self, job_id: str) -> JobHandle:
        """A job by its id, whether there is one or not."""
        return JobHandle(JobId(job_id), self)

    def request(
        self, task: Askable | str, params: object = None, **options: Unpack[EnqueueOptions]
    ) -> NewJob:
        """What `enqueue` would send.

        Raises:
            InvalidParams, InvalidOptions, NotSupported: As `enqueue`.
        """
        definition, able = self._definition(task), self.jobs.capabilities
        new = new_job(
            str(task) if definition is None else definition.name,
            definition,
            params,
            options,
            payload_limit=min(self._payload_limit, able.most_payload or self._payload_limit),
            declared=self._declared(task),
        )
        refuse_unsupported(new, able)
        return new

    def _definition(self, task: Askable | str) -> Definition | None:
        """What is known of the task; ``None`` for a name that is not known here."""
        return self._tasks.get(task) if isinstance(task, str) else task.define()

    def _declared(self, task: Askable | str) -> Declaration | None:
        """What a worker has published of a task that is not known here."""
        if not isinstance(task, str) or task in self._tasks:
            return None
        return self._declarations.get(task)

    async def _sent(self, jobs: Sequence[NewJob], connection: Any) -> Sequence[Enqueued]:
        """Have the engine take in ``jobs``, as part of the caller's trace, if there is one."""
        if connection is not None:
            send: Send = partial(self._enqueue_in, connection)
        elif len(jobs) == 1:
            send = self._enqueue_one
        else:
            send = self.jobs.enqueue
        return await (send_traced(jobs, send) if is_traced() else send(jobs))

    async def _enqueue_one(self, jobs: Sequence[NewJob]) -> Sequence[Enqueued]:
        return [await self._enqueuing.ask(job) for job in jobs]

    async def _enqueue_in(self, connection: Any, jobs: Sequence[NewJob]) -> list[Enqueued]:
        if not self.jobs.capabilities.transactions:
            raise NotSupported(
                f"connection=…: {self.jobs.capabilities.backend} cannot enqueue in the caller's "
                "transaction; expected a queue in PostgreSQL"
            )
        enqueue_in = import_module("worker.queues.postgres_transaction").enqueue_in
        answer = enqueue_in(connection, jobs)  # of a synchronous connection it is there already
        told: list[Enqueued] = await answer if isawaitable(answer) else answer
        return told

    def _handle(
        self, task: Askable | str, new: NewJob, told: Enqueued, options: EnqueueOptions
    ) -> JobHandle:
        by_name = isinstance(task, str) and task not in self._tasks
        published = not by_name or self._declarations.is_published(new.task)
        if told.created:
            return JobHandle(told.id, self, published=published)
        state = None if told.existing is None else told.existing.state
        handle = JobHandle(told.id, self, created=False, published=published, state=state)
        definition, declared = self._definition(task), self._declared(task)
        if told.existing is not None:
            refuse_another(handle, told.existing, new, options, definition, declared)
        elif told.id != new.id and raises_on_conflict(definition, declared, new.params, options):
            raise DuplicateJob(f"{new.task}: job {told.id} has the same parameters", told.id)
        return handle


def refuse_another(
    handle: JobHandle,
    existing: Existing,
    new: NewJob,
    options: EnqueueOptions,
    definition: Definition | None,
    declared: Declaration | None,
) -> None:
    """See that the job which has the id is the one that was requested, and that it can run.

    Raises:
        JobExists: It is another one, or it was cancelled, or it has expired.
    """
    what = differences(existing, new, options, definition, declared)
    if what:
        raise JobExists(
            f"{new.task}: job {new.id} exists already: {'; '.join(what)}. Nothing was enqueued; "
            "expected another id, or the same request",
            handle,
            what,
        )
    why = ended_without_run(existing)
    if why is not None:
        raise JobExists(
            f"{new.task}: job {new.id} exists already: {why}. Nothing was enqueued; retry that "
            f"job (worker jobs retry {new.id}), or use another id",
            handle,
            [why],
        )


_current: ContextVar[WorkerClient | None] = ContextVar("worker_client", default=None)
_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, WorkerClient] = WeakKeyDictionary()
"""A client of the environment's queue for each event loop that enqueued without one of its own."""


async def client_in_reach() -> WorkerClient:
    """The client of the code that calls: that of the worker or the ``async with`` block it runs
    in, or else one of the environment's queue, which is closed when the event loop ends.

    Raises:
        ConfigurationError: The environment names no queue that is known.
    """
    client = _current.get()
    if client is not None:
        return client
    loop = asyncio.get_running_loop()
    client = _of_loop.get(loop)
    if client is None:
        client = _of_loop[loop] = WorkerClient()
        client.keep_for(loop)
    return client
