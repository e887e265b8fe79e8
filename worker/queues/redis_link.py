"""The queue's connections to Redis: one for each call at a time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.backends.redis_server import ANSWER_TIMEOUT_S, RedisAddress, Scripts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.backends.redis_server import Argument, Command

__all__ = ["Client", "PubSub", "RedisLink", "client_for"]

CONNECTIONS = 10
"""How many calls are on their way at a time; the others wait."""
HEALTH_CHECK_S = 30


class Pipeline(Protocol):
    """What is used of `redis.asyncio.client.Pipeline`, whose own types are too loose."""

    def execute_command(self, *args: Argument) -> object: ...

    async def execute(self, raise_on_error: bool = True) -> list[Any]: ...


class PubSub(Protocol):
    """What is used of `redis.asyncio.client.PubSub`."""

    async def subscribe(self, *channels: str) -> None: ...

    async def ping(self) -> None: ...

    async def get_message(self, *, timeout: float) -> dict[str, Any] | None: ...

    async def aclose(self) -> None: ...


class Client(Protocol):
    """What is used of `redis.asyncio.Redis`."""

    async def execute_command(self, *args: Argument) -> Any: ...

    def pipeline(self, transaction: bool = True) -> Pipeline: ...

    def pubsub(self) -> PubSub: ...

    async def aclose(self) -> None: ...


class RedisLink:
    """Connects when it is first asked, and again whenever connections were lost.

    Nothing is ever sent twice: after a lost connection nobody knows whether a write was made.

    Args:
        url: As `worker.queues.redis.RedisJobs` takes it.

    Raises:
        ConfigurationError: No such URL. The message does not repeat it.
    """

    def __init__(self, url: str) -> None:
        self.address = RedisAddress(url, "WORKER_QUEUE_URL")
        self._scripts = Scripts(files("worker") / "queues" / "redis_scripts")
        self._client = client_for(self.address)
        self._turns = asyncio.Semaphore(CONNECTIONS)

    @property
    def commands(self) -> frozenset[str]:
        """The commands that the scripts call with a key."""
        return self._scripts.commands

    def script(self, name: str, *arguments: Argument) -> Command:
        """The command that runs ``redis_scripts/NAME.lua``."""
        return self._scripts.command(name, self.address.prefix, *arguments)

    async def run(self, name: str, *arguments: Argument) -> Any:
        """What a script answers.

        Raises:
            StoreUnavailable: Whatever went wrong.
        """
        return await self.ask(self.script(name, *arguments))

    async def ask(self, command: Command) -> Any:
        """What Redis answers to one command.

        Raises:
            StoreUnavailable: Whatever went wrong.
        """
        async with self._turn():
            try:
                return await self._client.execute_command(*command)
            except NoScriptError:
                return await self._client.execute_command(*self._scripts.spelled_out(command))

    async def try_all(self, commands: list[Command]) -> list[Any]:
        """The answers to several commands, sent in one round trip. What Redis refused is among
        them, as a `redis.exceptions.RedisError`.

        Raises:
            StoreUnavailable: The connection failed.
        """
        async with self._turn():
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)

    async def ask_all(self, commands: list[Command]) -> list[Any]:
        """The answers to several commands, sent in one round trip.

        Raises:
            StoreUnavailable: Whatever went wrong. Some may have been done.
        """
        if not commands:
            return []
        if len(commands) == 1:
            return [await self.ask(commands[0])]
        answers = await self.try_all(commands)
        for number, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):
                answers[number] = await self.ask(commands[number])
            elif isinstance(answer, RedisError):
                raise self.address.unavailable(answer)
        return answers

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A connection is free meanwhile, and what goes wrong is said in our words."""
        try:
            await self._take_turn()
            try:
                yield
            finally:
                self._turns.release()
        except (RedisError, OSError, UnicodeError) as exc:
            error = self.address.unavailable(exc)
            raise error from error.__cause__

    async def _take_turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._turns.acquire()
        except TimeoutError as exc:
            raise RedisTimeoutError(f"none of {CONNECTIONS} connections became free") from exc

    async def close(self) -> None:
        """Let go of the connections. Never raises."""
        with suppress(RedisError, OSError):
            await self._client.aclose()


def client_for(address: RedisAddress) -> Client:
    client = Redis.from_url(
        address.url,
        # A task's error may be any text.
        encoding_errors="surrogatepass",
        health_check_interval=HEALTH_CHECK_S,
        retry=Retry(NoBackoff(), 0),
        **address.options(),
    )
    return cast("Client", client)
