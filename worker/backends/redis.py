"""The ledger in Redis: the scripts beside this file do the work, each in one round trip.

**One Redis, or a primary with replicas** (Redis 6 or newer): the keys have no hash tag, and a Redis
Cluster is refused. Every call goes to the server that the URL names; it must be the primary.

Keys, each with the prefix and a colon before it:

==================== ====== =======================================================================
``schema``           string The version of this layout.
``last_session``     string The last session's id.
``sessions``         hash   id → since when, and the replica's name.
``presence``         hash   id → what it is for, if it said so.
``closed``           set    The ids of those that said that they end.
``seen``, ``leases`` zset   id → last renewal; id → until when its lease holds.
``tasks``            set    The tasks that have a book.
``book:TASK``        hash   ``version``, ``state``, and the active entries: all that `read` needs.
``active``           hash   Every active entry of all tasks, in a word: all that `renew` needs.
``entries:TASK``     hash   The last words.
``slots:OUTCOME``    zset   Entries by slot, over all tasks, and for each task as
                            ``slots:OUTCOME:TASK``.
``recorded``         zset   Last words by the moment they were recorded, for `prune`.
==================== ====== =======================================================================

None of them expires. What this store promises, Redis must keep:

* With ``appendonly no``, a restart takes the ledger back to the last snapshot, or to nothing. With
  ``appendonly yes`` and the usual ``appendfsync everysec``, a crash of the machine costs a second.
* Replication is asynchronous: a failover forgets what the old primary had not passed on yet. A
  claim that was forgotten can be made once more, so a slot may run twice; an outcome that was
  forgotten becomes ``lost``. Session ids rise even then: they are never less than the seconds
  since 1970, so one is given twice only if sessions were opened faster than one a second.
* A ``maxmemory-policy`` of ``allkeys-…`` evicts books, which does the same without a failover.

`RedisStore.warnings` says at opening which of these Redis is set up to do.

A user of Redis needs ``~PREFIX:* +@read +@write +@scripting +@connection +time``, and ``+info`` for
the warnings. What is missing is named at opening.
"""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

from worker.backends.codec import (
    book_from,
    book_to,
    entry_from,
    entry_to,
    from_micros,
    presence_from,
    presence_to,
    to_micros,
)
from worker.backends.redis_connection import RedisConnection
from worker.backends.redis_server import dangers
from worker.backends.redis_survey import Needs, Survey
from worker.errors import LeaseLost
from worker.ledger.book import (
    Book,
    Entry,
    HistoryQuery,
    Outcome,
    Pulse,
    Replica,
    SessionId,
    Written,
)
from worker.model import Trigger

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from worker.ledger.book import Change, EntryKey
    from worker.ledger.presence import Presence

__all__ = ["RedisStore"]

SCHEMA = 1
OLDEST = 6
COMMANDS = frozenset({"GET", "HMGET", "SET", "SMEMBERS", "TYPE"})
"""What is called beside the scripts."""
KEYS = {
    **dict.fromkeys(("schema", "last_session"), "string"),
    **dict.fromkeys(("sessions", "presence", "active"), "hash"),
    **dict.fromkeys(("closed", "tasks"), "set"),
    **dict.fromkeys(("seen", "leases", "recorded"), "zset"),
    **{f"slots:{outcome}": "zset" for outcome in Outcome},
    **dict.fromkeys(("book:TASK", "entries:TASK", f"slots:{Outcome.RAN}:TASK")),
}
"""The keys after the prefix; the types of those that have one name only."""
CHANGES_PER_SCRIPT = 100
"""So that Redis serves others in between; all go in one round trip all the same."""
PRUNED_PER_SCRIPT = 500
MICROSECOND = timedelta(microseconds=1)
compact = json.JSONEncoder(separators=(",", ":")).encode
"""ASCII, so that any text can be sent."""


class RedisStore:
    """A `worker.ports.LedgerStore` in Redis.

    Args:
        url: ``redis://[user:password@]host[:port][/db]``, or ``rediss://`` for TLS. In its query:
            ``prefix`` of the keys (by default ``worker``), and for TLS redis-py's ``ssl_ca_certs``,
            ``ssl_certfile``, ``ssl_keyfile``, ``ssl_cert_reqs`` and ``ssl_check_hostname``.

    Attributes:
        warnings: What about this Redis endangers the ledger, a sentence each.

    Raises:
        ConfigurationError: The URL is none of these, or names a Redis Cluster.
        StoreUnavailable: Redis cannot be reached, or not be used.
        StoreSchemaError: The keys were written by a newer worker, or are another program's, or the
            user lacks rights.
    """

    warnings: tuple[str, ...] = ()

    def __init__(self, url: str) -> None:
        self._redis = RedisConnection(url)
        try:
            self.warnings = self._examine()
        except BaseException:
            self.close()
            raise

    def open_session(
        self, replica: str, ttl: timedelta, presence: Presence | None = None
    ) -> SessionId:
        (session,) = self._redis.ask(
            self._redis.script(
                *("open_session", SCHEMA, json.dumps(replica), ttl // MICROSECOND),
                presence_to(presence) or "",
            )
        )
        return SessionId(int(session))

    def renew(self, session: SessionId, ttl: timedelta) -> Pulse:
        (answer,) = self._redis.ask(self._redis.script("renew", session, ttl // MICROSECOND))
        if answer is None:
            raise LeaseLost(f"the lease of session {session} has run out")
        orphaned, waiting, cancelled = answer
        return Pulse(
            orphaned=frozenset(orphaned),
            waiting=frozenset(waiting),
            cancelled=frozenset(map(key_of, cancelled)),
        )

    def close_session(self, session: SessionId) -> None:
        self._redis.ask(self._redis.script("close_session", session))

    def read(self, tasks: Sequence[str]) -> Mapping[str, Book]:
        names = list(dict.fromkeys(tasks))
        (answer,) = self._redis.ask(self._redis.script("read", *names))
        return books_from(names, answer)

    def write(self, changes: Sequence[Change]) -> list[Written]:
        answers = self._redis.ask(
            *(
                self._redis.script("write", *map(packed, chunk))
                for chunk in chunks(changes, CHANGES_PER_SCRIPT)
            )
        )
        return [Written(word) for answer in answers for word in answer]

    def tasks(self) -> list[str]:
        (names,) = self._redis.ask(("SMEMBERS", self._redis.key("tasks")))
        return sorted(names)

    def history(self, query: HistoryQuery) -> list[Entry]:
        task, outcomes = query.task or "", query.outcomes or frozenset(Outcome)
        lowest = "-inf" if query.since is None else to_micros(query.since)
        highest = "+inf" if query.until is None else f"({to_micros(query.until)}"
        limit = max(0, min(query.limit, 2**31))
        (answer,) = self._redis.ask(
            self._redis.script("history", task, lowest, highest, limit, *sorted(outcomes))
        )
        keys = {key_of(member) for members in answer for member in members}
        newest = sorted(keys, key=lambda key: (key[1], key[0], key[2]), reverse=True)[:limit]
        return [entry for entry in self._entries(newest) if entry.outcome in outcomes]

    def replicas(self, sessions: Collection[SessionId] | None = None) -> list[Replica]:
        if sessions is not None and not sessions:
            return []
        (answer,) = self._redis.ask(self._redis.script("replicas", *(sessions or ())))
        found = []
        for session, value, seen, until, alive, presence, closed in answer:
            since, _, name = value.partition(" ")
            found.append(
                Replica(
                    session=SessionId(int(session)),
                    name=json.loads(name),
                    since=from_micros(int(since)),
                    seen=from_micros(int(seen)),
                    alive=bool(alive),
                    until=from_micros(int(until)),
                    presence=presence_from(presence or None),
                    closed=bool(closed),
                )
            )
        return sorted(found, key=lambda replica: replica.session, reverse=True)

    def prune(self, *, age: timedelta, limit: int = 5000) -> int:
        micros = age // MICROSECOND
        forgotten: int = 0
        while forgotten < limit:
            (count,) = self._redis.ask(self._redis.script("prune", micros, PRUNED_PER_SCRIPT))
            forgotten += count
            if count < PRUNED_PER_SCRIPT:
                self._prune_sessions(micros)
                break
        return forgotten

    def _prune_sessions(self, micros: int) -> None:
        passed_over = 0
        while True:
            command = self._redis.script("prune_sessions", micros, passed_over, PRUNED_PER_SCRIPT)
            ((seen, stay),) = self._redis.ask(command)
            passed_over += stay
            if seen < PRUNED_PER_SCRIPT:
                return

    def close(self) -> None:
        self._redis.close()

    def _entries(self, keys: Sequence[EntryKey]) -> list[Entry]:
        """The entries with these keys, in their order, but for those that were pruned meanwhile.

        The books are read before the last words: an entry that ends in between is found there.
        """
        by_task: dict[str, list[EntryKey]] = {}
        for key in keys:
            by_task.setdefault(key[0], []).append(key)
        names = list(by_task)
        books, *lasts = self._redis.ask(
            self._redis.script("read", *names),
            *(
                ("HMGET", self._redis.key("entries", task), *map(field_of, by_task[task]))
                for task in names
            ),
        )
        found = {
            entry.key: entry for book in books_from(names, books).values() for entry in book.active
        }
        for task, values in zip(names, lasts, strict=True):
            for key, value in zip(by_task[task], values, strict=True):
                if value is not None:
                    found[key] = entry_from(json.loads(value))
        return [found[key] for key in keys if key in found]

    def _examine(self) -> tuple[str, ...]:
        """What is to be known of this Redis, once it is seen to be one that can be used."""
        address = self._redis.address
        root = f"{address.prefix}:"
        survey = Survey(
            address,
            Needs(
                root=root,
                commands=self._redis.commands | COMMANDS,
                keys=KEYS,
                oldest=OLDEST,
                grants=f"~{root}* +@read +@write +@scripting +@connection +time",
            ),
        )
        survey.judge(self._redis.try_all(*survey.questions()))
        schema = survey.judge_keys(self._redis.try_all(*survey.key_questions()))
        name = self._redis.key("schema")
        if schema is None:
            self._redis.ask(("SET", name, SCHEMA, "NX"))
            (schema,) = self._redis.ask(("GET", name))
        address.check_schema(name, schema, SCHEMA, "the ledger has")
        found = dangers(
            survey.info,
            evicted="an evicted book makes slots run twice",
            forgotten="slots may run twice",
        )
        return (*survey.warnings, *(f"{address.shown}: {danger}" for danger in found))


def packed(change: Change) -> str:
    """A change as ``write.lua`` takes it."""
    entries = {entry.key: entry for entry in change.entries}.values()
    return compact(
        [
            change.book.task,
            str(change.book.version),
            word_of(change.session),
            compact(book_to(change.book)),
            [
                [
                    str(to_micros(entry.slot)),
                    entry.trigger.value,
                    entry.outcome.value,
                    str(to_micros(entry.recorded_at)),
                    word_of(entry.session),
                    str(int(entry.cancel)),
                    compact(entry_to(entry)),
                ]
                for entry in entries
            ],
        ]
    )


def word_of(session: SessionId | None) -> str:
    return "" if session is None else str(session)


def field_of(key: EntryKey) -> str:
    """An entry's name within its task."""
    _, slot, trigger = key
    return f"{to_micros(slot)} {trigger}"


def key_of(member: str) -> EntryKey:
    """The entry that the scripts call ``slot task trigger``."""
    slot, _, rest = member.partition(" ")
    task, _, trigger = rest.rpartition(" ")
    return (task, from_micros(int(slot)), Trigger(trigger))


def books_from(tasks: Sequence[str], answer: str) -> dict[str, Book]:
    """What ``read.lua`` answered."""
    living, *books = json.loads(answer)
    alive = {int(session) for session in living}
    return {task: read_book(task, alive, fields) for task, fields in zip(tasks, books, strict=True)}


def read_book(task: str, alive: set[int], answer: Sequence[str]) -> Book:
    if not answer:
        return Book(task=task)
    fields = dict(zip(answer[::2], answer[1::2], strict=True))
    version, state = int(fields.pop("version")), json.loads(fields.pop("state"))
    active = []
    for text in fields.values():
        kept = json.loads(text)
        active.append(entry_from(kept, alive=kept["session"] in alive))
    active.sort(key=lambda entry: (entry.slot, entry.trigger))
    return book_from(task, version, state, tuple(active))


def chunks(changes: Iterable[Change], size: int) -> Iterator[list[Change]]:
    left = iter(changes)
    while chunk := list(islice(left, size)):
        yield chunk
