"""How a job is asked for."""

from __future__ import annotations

import asyncio
from functools import partial
from importlib import import_module
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack
from uuid import UUID

from worker.client.asking import new_job, raises_on_conflict, refuse_unsupported, with_own
from worker.client.declarations import Declarations
from worker.client.existing import differences, ended_without_run
from worker.client.job_handle import JobHandle
from worker.client.open_clients import chosen_in_block, note_closed, note_open
from worker.client.owning_loop import OwningLoop
from worker.client.sending import is_traced, send_traced
from worker.environment import PAYLOAD_LIMIT, queue_location
from worker.environment import payload_limit as configured_payload_limit
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
from worker.queues.opening import configured_jobs
from worker.redaction import quoted
from worker.urls import display_url

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from worker.client.asking import Askable, Definition
    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.sending import Send
    from worker.environment import QueueLocation
    from worker.jobs.declaration import Declaration
    from worker.jobs.job import Existing
    from worker.ports import JobStore

__all__ = ["WorkerClient"]

T = TypeVar("T")

MANY = 1000
"""How many jobs are enqueued in one round trip at most."""


class WorkerClient:
    """Enqueues jobs: ``async with WorkerClient(url) as client: await client.enqueue(Task, {…})``.

    While it is open it serves its whole event loop: ``Task.enqueue`` uses it, in every task of the
    loop. Its own methods, and those of its handles, can be called from other event loops and
    threads, too, as long as its own loop runs. It does not survive a fork.

    Args:
        url: As ``WORKER_QUEUE_URL``; without it, that of the environment or of ``.env``.
        jobs: An engine, which its maker closes, in the place of a URL.
        location: Where the jobs of that engine are.
        is_open: Whether that engine is open. If not, it is opened when it is first needed.
        payload_limit: How many bytes of parameters a job can have; without it, as
            ``WORKER_PAYLOAD_LIMIT`` says.
        tasks: Those that can be asked for by their names, with what is known of them.

    Attributes:
        place: Equal for two clients of the same URL.
        is_closed: It was closed, and cannot be used again.

    Raises:
        ConfigurationError: There is no such engine, or the environment is wrong about it.
        StoreUnavailable, StoreSchemaError: On entering: it cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        jobs: JobStore | None = None,
        location: QueueLocation | None = None,
        is_open: bool = True,
        payload_limit: int | None = None,
        tasks: Mapping[str, Definition] | None = None,
    ) -> None:
        self._owned = jobs is None
        if jobs is None:
            location = queue_location(url)
            jobs = configured_jobs(location)
            location.warn_if_default()
            payload_limit = configured_payload_limit() if payload_limit is None else payload_limit
        self.jobs = jobs
        self.place: object = (location and location.place) or jobs
        self.shown = display_url(location.url) if location else jobs.capabilities.backend
        self.owner = OwningLoop()
        self._payload_limit = PAYLOAD_LIMIT if payload_limit is None else payload_limit
        self._tasks = dict(tasks or {})
        self._enqueuing: Batcher[NewJob, Enqueued] = Batcher(
            self.jobs.enqueue, most=MANY, name="enqueue"
        )
        self._declarations = Declarations()
        self._is_open = is_open and not self._owned
        self.is_closed = False
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect, and serve the calls of this event loop that name no client, until `close`.

        Entering a client does so.
        """
        await self._in_owner(self._open)
        note_open(self)

    async def _open(self) -> None:
        if self.is_closed:
            raise StoreUnavailable(
                "this WorkerClient is closed; expected to be inside of its block"
            )
        async with self._opening:
            if not self._is_open:
                await self.jobs.open()
                self._is_open = True

    async def engine(self) -> JobStore:
        """The engine, open. Call it in the client's own event loop only; see `in_engine`."""
        if not self._is_open:
            await self._open()
        return self.jobs

    async def in_engine(self, work: Callable[[JobStore], Coroutine[Any, Any, T]]) -> T:
        """What ``work`` returns for the open engine, from any event loop.

        Raises:
            StoreUnavailable: The client is closed, its event loop has ended or does not answer, or
                the process was forked since.
        """

        async def in_owner() -> T:
            return await work(await self.engine())

        return await self._in_owner(in_owner)

    async def _in_owner(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await (work() if self.owner.is_here() else self.owner.call(work))

    async def close(self) -> None:
        """Close the connections. Leaving the client does so.

        After a fork, and after the end of its event loop, there is nothing that it may still close.
        """
        note_closed(self)
        if self.owner.loop is None or self.owner.can_be_called:
            await self._in_owner(self._close)
        elif self._owned:
            self._is_open, self.is_closed = False, True

    async def _close(self) -> None:
        await self._enqueuing.drained()
        if self._owned:
            self._is_open, self.is_closed = False, True
            await self.jobs.close()

    def as_current(self) -> AbstractContextManager[None]:
        """Make this the client that ``Task.enqueue`` uses inside of the block, for code that cannot
        be given a client while several are open."""
        return chosen_in_block(self)

    async def __aenter__(self) -> WorkerClient:
        if not self._owned:
            self.owner.is_here()
            note_open(self)
            return self
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        if connection is not None:
            (told,) = await self._sent_in(connection, [new])
        elif self.owner.is_here():
            told = await self._send_one(new)
        else:
            told = await self.owner.call(partial(self._send_one, new))
        return self._handle(task, new, told, options)

    async def _send_one(self, new: NewJob) -> Enqueued:
        if not self._is_open:
            await self._open()
        if is_traced():
            (told,) = await self._sent([new])
            return told
        return await self._enqueuing.ask(new)

    async def _learn_declaration(self, task: Askable | str) -> None:
        """Read what a task declares that is not known here, unless it was read a short time ago."""
        if isinstance(task, str) and task not in self._tasks and TASK.fullmatch(task):
            await self.in_engine(partial(self._declarations.learn, task))

    async def enqueue_many(
        self,
        task: Askable | str,
        params: Iterable[object],
        *,
        ids: Iterable[str | UUID | None] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> list[JobHandle]:
        """Ask for many jobs of one task, in one round trip a thousand: all of those or none.

        Args:
            ids: As many as there are ``params``; ``None`` for a job whose id does not matter.
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
            options.pop("id", None)
            if job is not None:
                options["id"] = job
            jobs.append(self.request(task, one, **options))
        send = self._send_many if connection is None else partial(self._sent_in, connection)
        told: list[Enqueued] = []
        for start in range(0, len(jobs), MANY):
            told += await send(jobs[start : start + MANY])
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

    def job(self, job_id: str | UUID) -> JobHandle:
        """A job by its id, whether there is one or not.

        Raises:
            InvalidOptions: It is neither a text nor a ``UUID``.
        """
        if not isinstance(job_id, str | UUID):
            raise InvalidOptions(f"job: expected the id of a job, got {quoted(job_id)}")
        return JobHandle(JobId(str(job_id)), self)

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

    def has_own_id(self, task: Askable | str, new: NewJob, options: EnqueueOptions) -> bool:
        """Whether the task itself says the id of this job (its ``enqueue_options``)."""
        definition = self._definition(task)
        if definition is None or definition.asking is None:
            return False
        return with_own(definition, new.params, options).get("id") is not None

    def _definition(self, task: Askable | str) -> Definition | None:
        """What is known of the task; ``None`` for a name that is not known here."""
        return self._tasks.get(task) if isinstance(task, str) else task.define()

    def _declared(self, task: Askable | str) -> Declaration | None:
        """What a worker has published of a task that is not known here."""
        if not isinstance(task, str) or task in self._tasks:
            return None
        return self._declarations.get(task)

    async def _send_many(self, jobs: Sequence[NewJob]) -> Sequence[Enqueued]:
        async def send() -> Sequence[Enqueued]:
            await self.engine()
            return await self._sent(jobs)

        return await self._in_owner(send)

    async def _sent(self, jobs: Sequence[NewJob]) -> Sequence[Enqueued]:
        """Have the engine take in ``jobs``, as part of the caller's trace, if there is one."""
        send: Send = self._enqueue_one if len(jobs) == 1 else self.jobs.enqueue
        return await (send_traced(jobs, send) if is_traced() else send(jobs))

    async def _sent_in(self, connection: Any, jobs: Sequence[NewJob]) -> Sequence[Enqueued]:
        """The same over the caller's own connection, so in the caller's event loop."""
        await self._in_owner(self.engine)
        send: Send = partial(self._enqueue_in, connection)
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
