"""Where Redis wakes those that wait: for a job to lease, or for a job's end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING
from uuid import uuid4

from redis.exceptions import ConnectionError, NoPermissionError, RedisError

from worker.backends.redis_server import ANSWER_TIMEOUT_S
from worker.cancelling import end_task
from worker.library_log import library_log
from worker.queues.bell import Bell
from worker.queues.redis_link import client_for
from worker.shared_tasks import start_shared_task

if TYPE_CHECKING:
    from worker.backends.redis_server import RedisAddress

__all__ = ["RedisChannel"]

QUIET_S = 4.0
"""After so long without a message the connection is tried. Less than redis-py's ``socket_timeout``:
version 8 raises when a longer read blocks."""
AGAIN_S = 0.2
LONGEST_AGAIN_S = 2.0
FORBIDDEN_AGAIN_S = 30.0
LISTENING_S = 1.0


class RedisChannel:
    """A channel of this process, and a connection of its own that hears what is published there.

    Nobody can rely on it: while the connection is away, messages are lost. When it is back, all
    that wait are woken.

    Attributes:
        name: No other process has it; the scripts take it.
        address: What Redis calls it.
        bell: Rung for what is heard, texts such as ``ended ID``.
    """

    def __init__(self, address: RedisAddress) -> None:
        self.name = uuid4().hex
        self.bell = Bell()
        self.address = f"{address.prefix}:jobs:wake:{self.name}"
        self._client = client_for(address)
        self._numbers = count(1)
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._has_answer = asyncio.Event()
        self._is_reported = False

    async def listen(self) -> None:
        """Begin to listen. The first call returns once it does, or may not, or after a second."""
        if self._task is None:
            self._task = start_shared_task(self._listen(), name=f"channel:{self.name}")
            with suppress(TimeoutError):
                async with asyncio.timeout(LISTENING_S):
                    await self._has_answer.wait()

    def number(self) -> int:
        """One that no other wait of this process has."""
        return next(self._numbers)

    async def _listen(self) -> None:
        again_s = AGAIN_S
        while True:
            try:
                await self._hear()
            except NoPermissionError as exc:
                self.report(str(exc))
                self._has_answer.set()
                self._listening.clear()
                again_s = FORBIDDEN_AGAIN_S
            except (RedisError, OSError):
                if self._listening.is_set():
                    again_s = AGAIN_S
                self._listening.clear()
            await asyncio.sleep(again_s)
            again_s = min(2 * again_s, LONGEST_AGAIN_S)

    def report(self, reason: str) -> None:
        """Log, once, that Redis wakes no one: waiting workers and clients look once a second."""
        if self._is_reported:
            return
        self._is_reported = True
        library_log().warning(
            "queue.not_woken",
            reason=reason,
            hint="workers and clients that wait look once a second; allow this user of Redis "
            f"the channels &{self.address.removesuffix(self.name)}*",
        )

    async def _hear(self) -> None:
        """Listen until the connection is lost.

        Raises:
            RedisError, OSError: It is.
        """
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(self.address)
            while True:
                message = await pubsub.get_message(timeout=QUIET_S)
                if message is None:
                    await pubsub.ping()
                    message = await pubsub.get_message(timeout=ANSWER_TIMEOUT_S)
                    if message is None:
                        raise ConnectionError("the channel is silent")
                if message["type"] == "message":
                    self.bell.ring([message["data"]])
                elif message["type"] == "subscribe":
                    self._listening.set()
                    self._has_answer.set()
                    self.bell.ring_all()
        finally:
            with suppress(RedisError, OSError):
                await pubsub.aclose()

    async def close(self) -> None:
        """Hear no more. Never raises."""
        task, self._task = self._task, None
        if task is not None:
            await end_task(task)
        with suppress(RedisError, OSError):
            await self._client.aclose()
