"""What is heard from PostgreSQL: jobs stand ready in a queue, jobs have ended. Hints, no more.

Whoever waits looks again by itself after a while, so a notification may be missed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg

from worker.errors import StoreError
from worker.queues.postgres_connections import run
from worker.shared_tasks import start_shared_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from worker.queues.postgres_connections import Connections, JobsConnection

__all__ = ["News", "Topic"]

READY = "worker_ready_"
PING_S = 30.0
"""After so long without a notification the connection is tried."""
AGAIN_S = 1.0
LONGEST_AGAIN_S = 15.0


class Topic:
    """Something of which there may be news.

    Attributes:
        number: It rises with everything that is heard.
        users: How many want to hear of it.
    """

    def __init__(self) -> None:
        self.number = 0
        self.users = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """There are news: wake all that wait."""
        self.number += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self, seen: int, limit_s: float) -> bool:
        """Return once there is more than ``number`` was when it was ``seen``, or after a while.

        Returns:
            Whether there is.
        """
        if self.number != seen:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(limit_s, set_done, future)
        self._waiting.add(future)
        try:
            await future
        finally:
            timer.cancel()
            self._waiting.discard(future)
        return self.number != seen


class News:
    """A connection that listens, from when somebody first waits until it is closed.

    Attributes:
        hearing: Notifications arrive at this moment.
    """

    def __init__(self, connections: Connections) -> None:
        self.hearing = False
        self._connections = connections
        self._queues: defaultdict[str, Topic] = defaultdict(Topic)
        self._jobs: dict[str, Topic] = {}
        self._listening: asyncio.Task[None] | None = None

    def of_queue(self, queue: str) -> Topic:
        return self._queues[queue]

    @contextmanager
    def of_job(self, job: str) -> Iterator[Topic]:
        topic = self._jobs.setdefault(job, Topic())
        topic.users += 1
        try:
            yield topic
        finally:
            topic.users -= 1
            if not topic.users:
                del self._jobs[job]

    @property
    def jobs(self) -> list[str]:
        """Those that somebody waits for."""
        return list(self._jobs)

    def listen(self) -> None:
        """Have it listen, if it does not yet."""
        if self._listening is None:
            self._listening = start_shared_task(self._listen(), name="postgres-listen")

    def ready(self, queues: Iterable[str]) -> None:
        for queue in queues:
            if queue in self._queues:
                self._queues[queue].tell()

    def ended(self, jobs: Iterable[str]) -> None:
        for job in jobs:
            if job in self._jobs:
                self._jobs[job].tell()

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})

    async def _listen(self) -> None:
        again_s = AGAIN_S
        while True:
            with suppress(psycopg.Error, StoreError, OSError, TimeoutError):
                connection = await self._connections.connect()
                try:
                    if connection.pooled:
                        return
                    await self._hear(connection)
                finally:
                    if self.hearing:
                        again_s = AGAIN_S
                    self.hearing = False
                    with suppress(psycopg.Error, OSError):
                        await connection.close()
            await asyncio.sleep(again_s)
            again_s = min(again_s * 2, LONGEST_AGAIN_S)

    async def _hear(self, connection: JobsConnection) -> None:
        await run(connection, "listen")
        self.hearing = True
        self._tell_all()
        while True:
            async for note in connection.notifies(timeout=PING_S):
                if not note.payload:
                    self._tell_all()
                elif note.channel.startswith(READY):
                    self.ready(note.payload.split(" "))
                else:
                    self.ended(note.payload.split(" "))
            await run(connection, "ping")

    def _tell_all(self) -> None:
        """Something may have been missed."""
        self.ready(list(self._queues))
        self.ended(list(self._jobs))


def set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
