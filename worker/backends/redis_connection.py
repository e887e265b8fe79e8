"""The connection to Redis: sends commands and scripts, and says in our words what went wrong."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from worker.backends.opening import display_url
from worker.errors import ConfigurationError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Argument", "Command", "RedisConnection"]

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 5.0
HEALTH_CHECK_S = 30
PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,100}")
TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}
)

Argument = str | int
Command = tuple[Argument, ...]

WORDS = {
    "NOAUTH": "refused the credentials",
    "NOPERM": "does not permit this user what the worker needs",
    "LOADING": "is loading its data after a start",
    "READONLY": "is a replica and takes no writes; expected the primary",
    "OOM": "has reached its maxmemory and takes no writes",
    "MISCONF": "takes no writes, because it cannot save to its disk",
    "CLUSTERDOWN": "is a Redis Cluster; expected one Redis, or a primary with replicas",
}
CODES = {
    AuthenticationError: "NOAUTH",
    NoPermissionError: "NOPERM",
    BusyLoadingError: "LOADING",
    ReadOnlyError: "READONLY",
    OutOfMemoryError: "OOM",
    MovedError: "CLUSTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
}
CODE = re.compile(rf"\b({'|'.join(WORDS)})\b")
"""For errors that have no class: MISCONF, and before Redis 7 what went wrong inside a script."""
NOT_PERMITTED = "user executing the script"
"""How Redis 7 says NOPERM of what a script does."""


class Pipeline(Protocol):
    """What is used of `redis.client.Pipeline`, whose own types are too loose to be checked."""

    def execute_command(self, *args: Argument) -> object: ...

    def execute(self, raise_on_error: bool = True) -> list[Any]: ...


class Client(Protocol):
    """What is used of `redis.Redis`."""

    def pipeline(self, transaction: bool = True) -> Pipeline: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the digest by which Redis knows it once it has seen it."""

    source: str
    digest: str


class RedisConnection:
    """Connects when it is first asked, and again whenever the connection was lost.

    Args:
        url: As `worker.backends.redis.RedisStore` takes it.

    Attributes:
        shown: The URL, fit to be seen.
        prefix: Of all keys.

    Raises:
        ConfigurationError: No such URL. The message does not repeat it.
    """

    def __init__(self, url: str) -> None:
        plain, self.prefix, self._secret = taken_apart(url)
        self.shown = display_url(plain)
        self._scripts = load_scripts()
        self._sources = {script.digest: script.source for script in self._scripts.values()}
        self._client = client_for(plain)

    def key(self, *parts: str) -> str:
        return ":".join((self.prefix, *parts))

    def script(self, name: str, *arguments: Argument) -> Command:
        """The command that runs ``redis_scripts/NAME.lua``."""
        return ("EVALSHA", self._scripts[name].digest, 0, self.prefix, *arguments)

    def ask(self, *commands: Command) -> list[Any]:
        """The answers to ``commands``, all sent in one round trip.

        It is never repeated after a lost connection, since then nobody knows whether a write was
        made: its second try would say ``outdated``.

        Raises:
            StoreUnavailable: Whatever went wrong.
        """
        try:
            answers = self._send(commands)
            # Redis forgets its scripts at a restart and at SCRIPT FLUSH. What it did not know, it
            # has not run.
            unknown = [n for n, told in enumerate(answers) if isinstance(told, NoScriptError)]
            if unknown:
                told = self._send([self._spelled_out(commands[n]) for n in unknown])
                for n, answer in zip(unknown, told, strict=True):
                    answers[n] = answer
            for answer in answers:
                if isinstance(answer, RedisError):
                    raise answer
        except (RedisError, OSError, UnicodeError) as exc:
            raise self._unavailable(exc) from (None if self._tells_secret(exc) else exc)
        return answers

    def _send(self, commands: Iterable[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute(raise_on_error=False)

    def _spelled_out(self, command: Command) -> Command:
        _, digest, *arguments = command
        return ("EVAL", self._sources[str(digest)], *arguments)

    def _tells_secret(self, exc: BaseException) -> bool:
        return bool(self._secret) and self._secret in str(exc)

    def _unavailable(self, exc: Exception) -> StoreUnavailable:
        told = "(its answer is withheld, as it holds the password)"
        if not self._tells_secret(exc):
            told = str(exc)
        return StoreUnavailable(f"{self.shown} {words_for(exc)}: {told}")

    def close(self) -> None:
        """Let go of the connection. Never raises."""
        with suppress(RedisError, OSError):
            self._client.close()


def words_for(exc: Exception) -> str:
    """What an error means for the worker."""
    for kind, code in CODES.items():
        if isinstance(exc, kind):
            return WORDS[code]
    if isinstance(exc, TimeoutError):
        return f"did not answer within {ANSWER_TIMEOUT_S:g} s"
    if isinstance(exc, ConnectionError | OSError | UnicodeError):
        return "cannot be reached"
    if NOT_PERMITTED in str(exc):
        return WORDS["NOPERM"]
    found = CODE.search(str(exc)) if isinstance(exc, ResponseError) else None
    return WORDS[found[1]] if found else "cannot do what it was asked"


def taken_apart(url: str) -> tuple[str, str, str]:
    """The URL without what only this module knows, the prefix, and the password.

    Raises:
        ConfigurationError: No such URL. The message does not repeat it.
    """
    try:
        parts = urlsplit(url)
        host, _, secret = parts.hostname, parts.port, unquote(parts.password or "")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        fits = bool(host) and re.fullmatch(r"/?\d*", parts.path) and not parts.fragment
    except ValueError:
        fits = False
    if not fits:
        raise ConfigurationError(
            [
                "WORKER_STORE_URL: expected redis://[user:password@]host[:port][/number], "
                "with special characters of the password percent-encoded"
            ]
        )
    prefix = options.pop("prefix", "worker")
    if not PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            ["WORKER_STORE_URL: expected a prefix of letters, digits, '_', '.' and '-'"]
        )
    known = TLS_OPTIONS if parts.scheme == "rediss" else frozenset[str]()
    if unknown := sorted(options.keys() - known):
        raise ConfigurationError(
            [
                f"WORKER_STORE_URL: expected in its query only "
                f"{', '.join(sorted({'prefix', *known}))}, got {', '.join(unknown)}"
            ]
        )
    return urlunsplit(parts._replace(query=urlencode(options))), prefix, secret


def client_for(url: str) -> Client:
    """A client that gives up in time, and leaves it to its caller to try again."""
    # redis-py 5 does not look at the certificate's name unless it is told to.
    unchecked = "ssl_cert_reqs=none" in url
    tls = {"ssl_check_hostname": not unchecked} if url.startswith("rediss:") else {}
    return cast(
        "Client",
        Redis.from_url(
            url,
            # RESP2, which every version of redis-py and Redis speaks alike.
            protocol=2,
            decode_responses=True,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_keepalive=True,
            health_check_interval=HEALTH_CHECK_S,
            retry=Retry(NoBackoff(), 0),
            **tls,
        ),
    )


def load_scripts() -> dict[str, Script]:
    folder = files("worker") / "backends" / "redis_scripts"
    texts = {
        file.name.removesuffix(".lua"): file.read_text("utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".lua")
    }
    common = texts.pop("common")
    sources = {name: f"{common}\n{text}" for name, text in texts.items()}
    return {
        name: Script(source, sha1(source.encode(), usedforsecurity=False).hexdigest())
        for name, source in sources.items()
    }
