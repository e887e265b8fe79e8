"""What every connection to Redis has in common: the URL, the scripts, and our words for errors."""

from __future__ import annotations

import re
from hashlib import sha1
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

from worker.errors import ConfigurationError, StoreSchemaError, StoreUnavailable
from worker.urls import display_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

__all__ = [
    "Argument",
    "Command",
    "RedisAddress",
    "Scripts",
    "dangers",
    "is_cluster_error",
    "is_temporary",
]

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 5.0
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
    "MASTERDOWN": "is a replica that has lost its primary; expected the primary",
}
CODES = {
    AuthenticationError: "NOAUTH",
    NoPermissionError: "NOPERM",
    BusyLoadingError: "LOADING",
    ReadOnlyError: "READONLY",
    OutOfMemoryError: "OOM",
    AskError: "CLUSTERDOWN",
    MovedError: "CLUSTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
}
BUSY = (BusyLoadingError, OutOfMemoryError, ReadOnlyError)
CODE = re.compile(rf"\b({'|'.join(WORDS)})\b")
"""For errors that have no class: MISCONF, and before Redis 7 what went wrong inside a script."""
NOT_PERMITTED = "user executing the script"
"""How Redis 7 says NOPERM of what a script does."""

CALLED = re.compile(r"""\b(?:p?call|try|send)\(\s*'([A-Z]+)'""")
"""A command of Redis in a script; each takes one key."""
WITH = re.compile(r"^-- With: (.+)\.$", re.MULTILINE)


class RedisAddress:
    """Where Redis is, whose the keys are, and how to speak of it without its password.

    Args:
        url: As `worker.backends.redis.RedisStore` takes it.
        setting: Which one named it, for messages.

    Attributes:
        url: For redis-py, without what only this module knows.
        shown: The URL, fit to be seen.
        prefix: Of all keys.

    Raises:
        ConfigurationError: No such URL. The message does not repeat it.
    """

    def __init__(self, url: str, setting: str = "WORKER_STORE_URL") -> None:
        self.setting = setting
        self.url, self.prefix, self._secret = taken_apart(url, setting)
        self.shown = display_url(self.url)

    def options(self) -> dict[str, Any]:
        """For ``from_url``: give up in time, and leave it to the caller to try again."""
        # redis-py 5 does not look at the certificate's name unless it is told to.
        unchecked = "ssl_cert_reqs=none" in self.url
        tls = {"ssl_check_hostname": not unchecked} if self.url.startswith("rediss:") else {}
        return {
            # RESP2, which every version of redis-py and Redis speaks alike.
            "protocol": 2,
            "decode_responses": True,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": ANSWER_TIMEOUT_S,
            "socket_keepalive": True,
            **tls,
        }

    def unavailable(self, exc: Exception) -> StoreUnavailable:
        """What went wrong, in our words; its cause is set, if that does not hold the password."""
        secret = bool(self._secret) and self._secret in str(exc)
        told = "(its answer is withheld, as it holds the password)" if secret else str(exc)
        error = StoreUnavailable(f"{self.shown} {words_for(exc)}: {told}")
        error.__cause__ = None if secret else exc
        return error

    def is_cluster(self) -> ConfigurationError:
        """The error for a server that turned out to be a Redis Cluster."""
        return ConfigurationError([f"{self.setting}: {self.shown} {WORDS['CLUSTERDOWN']}"])

    def check_schema(self, name: str, found: object, expected: int, what: str) -> None:
        """
        Raises:
            StoreSchemaError: The key ``name`` says another layout than this worker's.
        """
        if found != str(expected):
            raise StoreSchemaError(
                f"{self.shown}: the key {name} says that {what} layout {found!r}, "
                f"expected {expected}: run the version of the worker that wrote it or a newer one, "
                f"or give this one keys of its own (?prefix=… in {self.setting})"
            )


class Scripts:
    """The Lua scripts of a folder, each with ``common.lua`` and the parts that it names before it.

    Redis keeps them by their digests, and forgets them at a restart and at ``SCRIPT FLUSH``.
    """

    def __init__(self, folder: Traversable) -> None:
        texts = lua_of(folder)
        common = texts.pop("common")
        parts = lua_of(folder / "parts") if (folder / "parts").is_dir() else {}
        self._digests: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        for name, text in texts.items():
            named = WITH.search(text)
            needed = [parts[part] for part in named[1].split(", ")] if named else []
            source = joined([common, *needed], text)
            digest = sha1(source.encode(), usedforsecurity=False).hexdigest()
            self._digests[name] = digest
            self._sources[digest] = source

    @property
    def commands(self) -> frozenset[str]:
        """The commands of Redis that the scripts call, but for those without a key."""
        found = {word for source in self._sources.values() for word in CALLED.findall(source)}
        return frozenset(found - {"PUBLISH", "TIME"})

    def command(self, name: str, *arguments: Argument) -> Command:
        """The command that runs ``NAME.lua``."""
        return ("EVALSHA", self._digests[name], 0, *arguments)

    def spelled_out(self, command: Command) -> Command:
        """The same for a Redis that does not know the script. What it did not know, it has not
        run."""
        _, digest, *arguments = command
        return ("EVAL", self._sources[str(digest)], *arguments)


def lua_of(folder: Traversable) -> dict[str, str]:
    return {
        file.name.removesuffix(".lua"): file.read_text("utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".lua")
    }


def joined(before: list[str], text: str) -> str:
    """A script's own first line stays the first, if it says how Redis is to run it (``#!lua``)."""
    first, _, rest = text.partition("\n")
    said = first.startswith("#!")
    return "\n".join([first, *before, rest] if said else [*before, text])


def is_cluster_error(answer: object) -> bool:
    """Whether Redis answered as only a node of a Redis Cluster does."""
    return isinstance(answer, AskError | ClusterDownError | MovedError)


def is_temporary(exc: Exception) -> bool:
    """Whether Redis refused what it may do later: it loads its data, is full, or is a replica."""
    return isinstance(exc, BUSY) or CODE.search(str(exc)) is not None


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


def taken_apart(url: str, setting: str) -> tuple[str, str, str]:
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
                f"{setting}: expected redis://[user:password@]host[:port][/number], "
                "with special characters of the password percent-encoded"
            ]
        )
    prefix = options.pop("prefix", "worker")
    if not PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            [f"{setting}: expected a prefix of letters, digits, '_', '.' and '-'"]
        )
    known = TLS_OPTIONS if parts.scheme == "rediss" else frozenset[str]()
    if unknown := sorted(options.keys() - known):
        raise ConfigurationError(
            [
                f"{setting}: expected in its query only "
                f"{', '.join(sorted({'prefix', *known}))}, got {', '.join(unknown)}"
            ]
        )
    return urlunsplit(parts._replace(query=urlencode(options))), prefix, secret


def dangers(
    info: Mapping[str, Any], *, evicted: str, forgotten: str, expiring: str = ""
) -> Iterator[str]:
    """What Redis says of itself that endangers what is kept there.

    Args:
        evicted: What happens if keys are evicted.
        forgotten: What a restart that forgets the last writes does.
        expiring: What happens if keys that expire are evicted; by default there are none.
    """
    policy = str(info.get("maxmemory_policy", ""))
    evil = evicted if policy.startswith("allkeys") else ""
    if evil or (expiring and policy.startswith("volatile")):
        yield f"its maxmemory-policy is {policy}: {evil or expiring}; expected noeviction"
    if str(info.get("aof_enabled", "1")) == "0":
        yield (
            "appendonly is off: a restart of Redis forgets what is newer than its last snapshot, "
            f"and {forgotten}; expected appendonly yes"
        )
    if info.get("role") == "slave":
        yield "it is a replica and takes no writes; expected the primary"
