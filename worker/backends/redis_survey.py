"""Looks at a Redis before it is used: what kind of server it is, what the user may do there, and
whether the keys are ours. No key is touched before it is known to be one Redis, or a primary."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from redis.exceptions import NoPermissionError, RedisError

from worker.backends.redis_server import is_cluster_error, is_temporary
from worker.errors import ConfigurationError, StoreSchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.backends.redis_server import Command, RedisAddress

__all__ = ["Needs", "Survey"]

RIGHTS = (files("worker") / "backends" / "redis_rights.lua").read_text("utf-8")
ANYWHERE = ("EVAL", "rights", "0"), ("EVALSHA", "rights", "0"), ("PING",), ("TIME",)
"""What is called without a key. Complete, as redis_rights.lua wants it."""
FEW = 3
"""So many keys are named one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What is needed of a Redis.

    Attributes:
        root: What all keys begin with.
        commands: Those that are called with a key.
        keys: The keys' names after the root, with the type of each that has one name only.
        oldest: The oldest version of Redis that will do.
        channel: On which workers are woken, if they are.
        grants: What an ACL has to say, for people.
    """

    root: str
    commands: frozenset[str]
    keys: Mapping[str, str | None]
    oldest: int
    channel: str | None = None
    grants: str


class Survey:
    """Asks a server about itself in two round trips: first `questions`, then `look_at_keys`.

    Attributes:
        info: What INFO says; empty where an ACL forbids it, as nothing else depends on it.
        warnings: What the worker can do without, and how it then does.
    """

    def __init__(self, address: RedisAddress, needs: Needs) -> None:
        self._address = address
        self._needs = needs
        self.info: Mapping[str, Any] = {}
        self.warnings: tuple[str, ...] = ()

    def questions(self) -> list[Command]:
        """Commands without keys, which every kind of server answers."""
        needs = self._needs
        others = [*ANYWHERE]
        if needs.channel:
            others += [("PUBLISH", needs.channel, "hello"), ("SUBSCRIBE", needs.channel)]
        asked = {
            "keyed": sorted(needs.commands),
            "keys": [needs.root + key for key in needs.keys],
            "others": others,
        }
        rights: Command = ("EVAL", RIGHTS, 0, json.dumps(asked))
        return [("HELLO",), ("INFO",), ("CLUSTER", "INFO"), rights]

    def judge(self, answers: Sequence[Any]) -> None:
        """Look at the answers to `questions`; errors are among them.

        Raises:
            ConfigurationError: It is no Redis that the worker can use.
            StoreSchemaError: The user lacks rights that the worker needs.
            StoreUnavailable: It cannot say now.
        """
        hello, info, cluster, rights = answers
        said = {} if isinstance(hello, RedisError) else as_dict(hello)
        self.info = {} if isinstance(info, RedisError) else info
        mode = str(said.get("mode") or self.info.get("redis_mode") or "")
        if mode == "cluster" or isinstance(cluster, str):
            raise self._address.is_cluster()
        if mode == "sentinel":
            raise self._refused(
                "is a Redis Sentinel, which keeps no data; expected the primary that it watches "
                "(SENTINEL GET-MASTER-ADDR-BY-NAME tells its address)"
            )
        version = str(said.get("version") or self.info.get("redis_version") or self._needs.oldest)
        if int(version.partition(".")[0]) < self._needs.oldest:
            raise self._refused(f"is Redis {version}; expected {self._needs.oldest} or newer")
        self._judge_rights(rights)

    def _refused(self, why: str) -> ConfigurationError:
        return ConfigurationError([f"{self._address.setting}: {self._address.shown} {why}"])

    def _judge_rights(self, answer: object) -> None:
        if isinstance(answer, NoPermissionError):
            raise self._lacks([f"EVAL ({answer})"])
        if isinstance(answer, RedisError):
            if is_temporary(answer):
                raise self._address.unavailable(answer)
            return  # too old to run it, and so to look rights up
        denied = [(command, word) for command, word in json.loads(str(answer)) or ()]
        channel = self._needs.channel
        if needed := [pair for pair in denied if pair[1] != channel]:
            raise self._lacks(list(self._named(needed)))
        if lacking := [command for command, _ in denied]:
            self.warnings = (
                f"{self._address.shown}: the user {self._user} may not {' and '.join(lacking)} on "
                f"the channels {self._needs.root}wake:*: those that wait for jobs or results are "
                f"not woken, and look once a second; expected &{self._needs.root}*",
            )

    def _named(self, denied: Sequence[tuple[str, str]]) -> Iterator[str]:
        """The rights that are missing, each command once where it is missing for all keys."""
        keys = [self._needs.root + key for key in self._needs.keys]
        everywhere: list[str] = []
        some: dict[str, list[str]] = {}
        for command in dict.fromkeys(command for command, _ in denied):
            refused = [word for name, word in denied if name == command]
            if len(refused) == len(keys):
                everywhere.append(command)
                continue
            if command not in self._needs.commands:
                yield command
                continue
            for key in refused:
                some.setdefault(key, []).append(command)
        if everywhere:
            yield f"{', '.join(everywhere)} on {self._needs.root}*"
        for key, commands in some.items():
            shown = ", ".join(commands[:FEW]) + (", …" if len(commands) > FEW else "")
            yield f"{shown} on {key}"

    def _lacks(self, rights: Sequence[str]) -> StoreSchemaError:
        return StoreSchemaError(
            f"the user {self._user} lacks rights in {self._address.shown}: {'; '.join(rights)}; "
            f"expected ACL SETUSER {self._user} {self._needs.grants}"
        )

    @property
    def _user(self) -> str:
        return unquote(urlsplit(self._address.url).username or "") or "default"

    def key_questions(self) -> list[Command]:
        """What is asked of the keys: the schema, then the types of those with fixed names."""
        root = self._needs.root
        return [("GET", f"{root}schema"), *(("TYPE", f"{root}{key}") for key in self._fixed)]

    @property
    def _fixed(self) -> list[str]:
        return [key for key, kind in self._needs.keys.items() if kind is not None]

    def judge_keys(self, answers: Sequence[Any]) -> Any:
        """The schema that is recorded.

        Raises:
            ConfigurationError: It is a Redis Cluster that said nothing of it before.
            StoreSchemaError: A key is of another type, so it is another program's.
            StoreUnavailable: It cannot say now.
        """
        for answer in answers:
            if is_cluster_error(answer):
                raise self._address.is_cluster()
            if isinstance(answer, RedisError):
                raise self._address.unavailable(answer)
        schema, *types = answers
        for key, found in zip(self._fixed, types, strict=True):
            expected = self._needs.keys[key]
            if found not in ("none", expected):
                raise StoreSchemaError(
                    f"{self._address.shown}: the key {self._needs.root}{key} is a {found}, "
                    f"expected a {expected}: another program uses these keys; give this worker "
                    f"keys of its own (?prefix=… in {self._address.setting})"
                )
        return schema


def as_dict(answer: Any) -> Mapping[str, Any]:
    """What HELLO answers: a map, or in RESP2 its names and values in turn."""
    if isinstance(answer, list | tuple):
        return dict(zip(answer[::2], answer[1::2], strict=False))
    return answer if isinstance(answer, dict) else {}
