"""Jobs in a SQLite file: the embedded default, for several processes on one machine."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from worker.backends.sqlite_file import PATIENCE, now_micros
from worker.errors import StoreUnavailable
from worker.jobs.job import NONE_DEFERRED, Capabilities
from worker.queues import sqlite_declarations as declarations
from worker.queues import sqlite_records as records
from worker.queues import sqlite_work as work
from worker.queues.bell import Bell, heard
from worker.queues.sqlite_thread import Call, Order, SqliteThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta
    from pathlib import Path

    from worker.jobs.declaration import Declaration, Terms
    from worker.jobs.job import (
        Deferred,
        Enqueued,
        Grant,
        Held,
        Job,
        JobId,
        JobQuery,
        Lease,
        NewJob,
        QueueCount,
        Rate,
        Requeued,
        Settlement,
    )
    from worker.queues.sqlite_turn import News, Turn

__all__ = ["SqliteJobs"]

Item = TypeVar("Item")
P = ParamSpec("P")
R = TypeVar("R")
SOON_S, LONGEST_S = 0.001, 30.0
"""Between a look for what comes by itself and the next: against a clock that is set, at most."""


class SqliteJobs:
    """A `worker.ports.JobStore` in a file, usually the ledger's own.

    What survives what is said of `worker.backends.sqlite_file.SqliteFile`. Moments are those of
    this machine's wall clock.

    One thread works on the file. Whoever waits is woken at once by what happens in this process,
    and within 5 to 50 milliseconds by what happens in another: SQLite tells nobody of a change,
    but a look whether there was one costs microseconds.

    Args:
        path: The file. It and its folder are made if they are missing, for this user alone.
        patience: How long to wait for another process that writes.
    """

    capabilities = Capabilities(backend="sqlite")
    warnings: tuple[str, ...] = ()

    def __init__(self, path: Path, *, patience: timedelta = PATIENCE) -> None:
        self._path = path
        self._patience = patience
        self._thread: SqliteThread | None = None
        self._queues = Bell()
        self._jobs = Bell()
        self._timer: asyncio.TimerHandle | None = None
        self._busy: set[str] = set()

    async def open(self) -> None:
        """Open the file.

        Raises:
            ConfigurationError: The file cannot be made, read or written, or is not ours.
            StoreUnavailable: The disk is full, or another process keeps the file locked.
            StoreSchemaError: A newer worker has written it.
        """
        loop = asyncio.get_running_loop()
        thread = SqliteThread(self._path, self._patience, loop, self._hear)
        await thread.start()
        self._thread = thread

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if self._timer is not None:
            self._timer.cancel()
        if thread is not None:
            self._queues.ring_all()
            self._jobs.ring_all()
            await thread.stop()

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        return await self._each(Order.ENQUEUE, work.enqueue, jobs)

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
        loop = asyncio.get_running_loop()
        until = loop.time() + wait.total_seconds()
        limit = min(limit, self.capabilities.most_leased)
        lease = partial(
            work.lease, queue=queue, limit=limit, ttl=ttl, worker=worker, deferred=deferred
        )
        with self._listening(self._queues, queue) as rung:
            while True:
                rung.clear()
                leases = await self._lease(lease, queue)
                left_s = until - loop.time()
                if leases or left_s <= 0:
                    return leases
                await heard(rung, left_s)

    async def _lease(self, lease: Callable[..., list[Lease]], queue: str) -> list[Lease]:
        # Where there was something the last time, there is something: that saves a look.
        look = None if queue in self._busy else partial(work.look, queue=queue)
        call = self._call(Order.LEASE, lease, look=look, undo=self._give_back)
        try:
            leases: list[Lease] = await call.future
        except asyncio.CancelledError:
            if not call.future.cancelled() and call.future.exception() is None:
                self._give_back(call.future.result())
            raise
        (self._busy.add if leases else self._busy.discard)(queue)
        return leases

    def _give_back(self, leases: list[Lease]) -> None:
        if leases and self._thread is not None:
            self._call(Order.SETTLE, partial(work.give_back, leases=leases))

    async def begin(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        return await self._each(Order.EXTEND, work.begin, [(lease, ttl) for lease in leases])

    async def extend(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        return await self._each(Order.EXTEND, work.extend, [(lease, ttl) for lease in leases])

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return await self._each(Order.SETTLE, work.settle, settlements)

    async def take(self, key: str, rate: Rate, wanted: int) -> Grant:
        return await self._ask(work.take, key, rate, wanted)

    async def publish(self, tasks: Sequence[Declaration]) -> None:
        await self._ask(declarations.publish, tasks)

    async def declaration(self, task: str) -> Declaration | None:
        return await self._read(declarations.declaration, task)

    async def apply_terms(self, lease: Lease, terms: Terms) -> JobId | None:
        return await self._ask(declarations.apply_terms, lease, terms)

    async def get(self, ids: Sequence[JobId]) -> list[Job | None]:
        return await self._each(Order.READ, records.get, ids)

    async def wait(self, job: JobId, timeout: timedelta) -> Job | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout.total_seconds()
        with self._listening(self._jobs, job) as rung:
            while True:
                rung.clear()
                (found,) = await self.get([job])
                left_s = until - loop.time()
                if found is None or found.state.final or left_s <= 0:
                    return found
                await heard(rung, left_s)

    async def find(self, query: JobQuery) -> list[Job]:
        return await self._read(records.find, query)

    async def counts(self) -> list[QueueCount]:
        return await self._read(records.counts)

    async def ended(self, within: timedelta) -> dict[str, int]:
        return await self._read(records.ended_within, within)

    async def tell(self, lease: Lease, progress: str) -> None:
        await self._ask(records.tell, lease, progress)

    async def cancelled(self, ids: Sequence[JobId]) -> list[JobId]:
        return await self._read(records.cancelled, ids)

    async def cancel(self, ids: Sequence[JobId]) -> list[Requeued]:
        return await self._ask(records.cancel, ids)

    async def retry(self, ids: Sequence[JobId]) -> list[Requeued]:
        return await self._ask(records.retry, ids)

    async def drop(self, ids: Sequence[JobId]) -> list[Requeued]:
        return await self._ask(records.drop, ids)

    async def prune(self, *, keep: timedelta, limit: int = 5000) -> int:
        return await self._ask(records.prune, keep, limit)

    async def claim(
        self,
        ids: Sequence[JobId],
        *,
        ttl: timedelta,
        worker: str,
        deferred: Deferred = NONE_DEFERRED,
    ) -> list[Lease | Job | None]:
        claimed = await self._ask(work.claim, ids, ttl, worker, deferred)
        leases = {lease.id: lease for lease in claimed}
        return [leases.get(job, told) for job, told in zip(ids, await self.get(ids), strict=True)]

    async def _each(
        self,
        order: Order,
        function: Callable[[Turn, Sequence[Item]], list[R]],
        items: Sequence[Item],
    ) -> list[R]:
        """Have the thread do something to each of some items, together with others' items."""
        if not items:
            return []
        answers: list[R] = await self._call(order, function, items=items).future
        return answers

    async def _ask(
        self, function: Callable[Concatenate[Turn, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        answer: R = await self._call(Order.CHANGE, placed(function, *args, **kwargs)).future
        return answer

    async def _read(
        self, function: Callable[Concatenate[Turn, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        answer: R = await self._call(Order.READ, placed(function, *args, **kwargs)).future
        return answer

    def _call(self, order: Order, function: Callable[..., Any], **rest: Any) -> Call:
        if self._thread is None:
            raise StoreUnavailable(f"{self._path} is not open")
        call = Call(order, function, asyncio.get_running_loop().create_future(), **rest)
        self._thread.submit(call)
        return call

    @contextmanager
    def _listening(self, bell: Bell, name: str) -> Iterator[asyncio.Event]:
        """An event that is set at each ring for ``name``, also by other processes."""
        try:
            with bell.listening(name) as rung:
                self._count_listeners()
                yield rung
        finally:
            self._count_listeners()

    def _count_listeners(self) -> None:
        if self._thread is not None:
            self._thread.listeners = len(self._queues) + len(self._jobs)

    def _hear(self, news: News) -> None:
        """Wake whoever waits for what the thread has done, or noticed."""
        if news.elsewhere:
            self._queues.ring_all()
            self._ask_who_ended()
        self._queues.ring(news.queues)
        self._jobs.ring(news.ended)
        if news.due is not None and len(self._queues):
            self._wake_at(news.due)

    def _wake_at(self, due: int) -> None:
        """Have those that wait look again at a moment, unless they look before."""
        loop = asyncio.get_running_loop()
        at = loop.time() + min(max((due - now_micros()) / 1e6, SOON_S), LONGEST_S)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._come_due)

    def _come_due(self) -> None:
        self._timer = None
        self._queues.ring_all()

    def _ask_who_ended(self) -> None:
        """Wake those whose jobs have ended in another process."""
        if not len(self._jobs) or self._thread is None:
            return
        call = self._call(Order.READ, partial(records.ended, ids=self._jobs.names))
        call.future.add_done_callback(self._hear_who_ended)

    def _hear_who_ended(self, asked: asyncio.Future[list[str]]) -> None:
        if asked.cancelled() or asked.exception() is not None:
            self._jobs.ring_all()  # whoever asks now hears why
        else:
            self._jobs.ring(asked.result())


def placed(
    function: Callable[Concatenate[Turn, P], R], *args: P.args, **kwargs: P.kwargs
) -> Callable[[Turn], R]:
    """The function with all but the turn given."""
    return lambda turn: function(turn, *args, **kwargs)
