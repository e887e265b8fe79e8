"""The ledger's connection to Redis: sends commands and scripts, each batch in one round trip."""

from __future__ import annotations

from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from worker.backends.redis_server import RedisAddress, Scripts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.backends.redis_server import Argument, Command

__all__ = ["RedisConnection"]

HEALTH_CHECK_S = 30


class Pipeline(Protocol):
    """What is used of `redis.client.Pipeline`, whose own types are too loose to be checked."""

    def execute_command(self, *args: Argument) -> object: ...

    def execute(self, raise_on_error: bool = True) -> list[Any]: ...


class Client(Protocol):
    """What is used of `redis.Redis`."""

    def pipeline(self, transaction: bool = True) -> Pipeline: ...

    def close(self) -> None: ...


class RedisConnection:
    """Connects when it is first asked, and again whenever the connection was lost.

    Args:
        url: As `worker.backends.redis.RedisStore` takes it.

    Raises:
        ConfigurationError: No such URL. The message does not repeat it.
    """

    def __init__(self, url: str) -> None:
        self.address = RedisAddress(url)
        self._scripts = Scripts(files("worker") / "backends" / "redis_scripts")
        self._client = client_for(self.address)

    def key(self, *parts: str) -> str:
        return ":".join((self.address.prefix, *parts))

    @property
    def commands(self) -> frozenset[str]:
        """The commands that the scripts call with a key."""
        return self._scripts.commands

    def script(self, name: str, *arguments: Argument) -> Command:
        """The command that runs ``redis_scripts/NAME.lua``."""
        return self._scripts.command(name, self.address.prefix, *arguments)

    def ask(self, *commands: Command) -> list[Any]:
        """The answers to ``commands``, all sent in one round trip.

        It is never repeated after a lost connection, since then nobody knows whether a write was
        made: its second try would say ``outdated``.

        Raises:
            StoreUnavailable: Whatever went wrong.
        """
        try:
            answers = self._send(commands)
            unknown = [n for n, told in enumerate(answers) if isinstance(told, NoScriptError)]
            if unknown:
                told = self._send([self._scripts.spelled_out(commands[n]) for n in unknown])
                for n, answer in zip(unknown, told, strict=True):
                    answers[n] = answer
            for answer in answers:
                if isinstance(answer, RedisError):
                    raise answer
        except (RedisError, OSError, UnicodeError) as exc:
            error = self.address.unavailable(exc)
            raise error from error.__cause__
        return answers

    def try_all(self, *commands: Command) -> list[Any]:
        """The answers to ``commands``, all sent in one round trip. What Redis refused is among
        them, as a `redis.exceptions.RedisError`.

        Raises:
            StoreUnavailable: The connection failed.
        """
        try:
            return self._send(commands)
        except (RedisError, OSError, UnicodeError) as exc:
            error = self.address.unavailable(exc)
            raise error from error.__cause__

    def _send(self, commands: Iterable[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute(raise_on_error=False)

    def close(self) -> None:
        """Let go of the connection. Never raises."""
        with suppress(RedisError, OSError):
            self._client.close()


def client_for(address: RedisAddress) -> Client:
    return cast(
        "Client",
        Redis.from_url(
            address.url,
            health_check_interval=HEALTH_CHECK_S,
            retry=Retry(NoBackoff(), 0),
            **address.options(),
        ),
    )
