"""What each engine can do at best: jobs written by hand, in batches, with their results stored.

No validation, no retries, no priorities, no delays; a lease has an end, and nobody looks at it.
This is the limit that the worker is measured against, in the same run on the same machine.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RawQueue", "make_raw"]

WAIT_S = 1.0
LOOK_S = 0.001
"""How often SQLite is looked at: it tells nobody of a change."""


class RawQueue(Protocol):
    """An engine without a worker around it."""

    async def open(self) -> None: ...

    async def enqueue(self, params: Sequence[str]) -> None:
        """Take in a job for each, durable when it returns, in one round trip."""
        ...

    async def take(self, limit: int) -> list[tuple[Any, str]]:
        """Up to ``limit`` jobs, each a key and its parameters. If there are none, wait a second."""
        ...

    async def settle(self, results: Sequence[tuple[Any, str]]) -> None:
        """Store the results, durable when it returns, in one round trip."""
        ...

    async def close(self) -> None: ...


class RawMemory:
    def __init__(self) -> None:
        self._ready: deque[tuple[int, str]] = deque()
        self._leased: dict[int, str] = {}
        self._results: dict[int, str] = {}
        self._numbers = count()
        self._changed = asyncio.Event()

    async def open(self) -> None: ...

    async def enqueue(self, params: Sequence[str]) -> None:
        self._ready.extend((next(self._numbers), text) for text in params)
        self._changed.set()

    async def take(self, limit: int) -> list[tuple[Any, str]]:
        if not self._ready:
            self._changed.clear()
            await self._changed.wait()
        taken = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        self._leased.update(taken)
        return taken

    async def settle(self, results: Sequence[tuple[Any, str]]) -> None:
        for key, result in results:
            if self._leased.pop(key, None) is not None:
                self._results[key] = result

    async def close(self) -> None: ...


class RawSqlite:
    """In the loop's own thread, as durable as the worker's file: WAL, ``synchronous=NORMAL``."""

    def __init__(self, url: str) -> None:
        self._path = f"{urlsplit(url).path}.raw"

    async def open(self) -> None:
        self._file = sqlite3.connect(self._path, isolation_level=None, timeout=10)
        self._file.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, state INTEGER DEFAULT 0,"
            " until REAL, params TEXT, result TEXT);"
            "CREATE INDEX IF NOT EXISTS ready ON jobs (id) WHERE state = 0;"
        )

    async def enqueue(self, params: Sequence[str]) -> None:
        with Writing(self._file):
            self._file.executemany(
                "INSERT INTO jobs (params) VALUES (?)", [(text,) for text in params]
            )

    async def take(self, limit: int) -> list[tuple[Any, str]]:
        loop = asyncio.get_running_loop()
        until, version = loop.time() + WAIT_S, None
        while loop.time() < until:
            (now,) = self._file.execute("PRAGMA data_version").fetchone()
            if now != version:
                version = now
                with Writing(self._file):
                    taken = self._file.execute(
                        "UPDATE jobs SET state = 1, until = unixepoch() + 60 WHERE id IN"
                        " (SELECT id FROM jobs WHERE state = 0 ORDER BY id LIMIT ?)"
                        " RETURNING id, params",
                        (limit,),
                    ).fetchall()
                if taken:
                    return taken
            await asyncio.sleep(LOOK_S)
        return []

    async def settle(self, results: Sequence[tuple[Any, str]]) -> None:
        with Writing(self._file):
            self._file.executemany(
                "UPDATE jobs SET state = 2, result = ? WHERE id = ? AND state = 1",
                [(result, key) for key, result in results],
            )

    async def close(self) -> None:
        self._file.close()


class Writing:
    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    def __enter__(self) -> None:
        self._file.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._file.execute("COMMIT")


class RawPostgres:
    """By the worker's own driver. Leases are not waited for on the disk, results are."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        import psycopg

        async def connected() -> psycopg.AsyncConnection[Any]:
            return await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, prepare_threshold=0
            )

        self._writing, self._leasing, self._listening = [await connected() for _ in range(3)]
        await self._leasing.execute("SET synchronous_commit = off")
        await self._listening.execute("LISTEN raw_jobs")
        await self._writing.execute(
            "CREATE TABLE IF NOT EXISTS raw_jobs (id bigserial PRIMARY KEY,"
            " state smallint NOT NULL DEFAULT 0, until timestamptz, params text, result text)"
            " WITH (fillfactor = 50)"
        )
        await self._writing.execute(
            "CREATE INDEX IF NOT EXISTS raw_ready ON raw_jobs (id) WHERE state = 0"
        )

    async def enqueue(self, params: Sequence[str]) -> None:
        await self._writing.execute(
            "WITH new AS (INSERT INTO raw_jobs (params) SELECT unnest(%s::text[]) RETURNING 1)"
            " SELECT pg_notify('raw_jobs', '') FROM (SELECT count(*) FROM new) AS all_of_them",
            (list(params),),
        )

    async def take(self, limit: int) -> list[tuple[Any, str]]:
        while True:
            cursor = await self._leasing.execute(
                "UPDATE raw_jobs SET state = 1, until = now() + interval '1 min' WHERE id = ANY"
                " (ARRAY(SELECT id FROM raw_jobs WHERE state = 0 ORDER BY id LIMIT %s"
                " FOR UPDATE SKIP LOCKED)) RETURNING id, params",
                (limit,),
            )
            taken = await cursor.fetchall()
            if taken:
                return taken
            async for _ in self._listening.notifies(timeout=WAIT_S, stop_after=1):
                pass

    async def settle(self, results: Sequence[tuple[Any, str]]) -> None:
        await self._writing.execute(
            "UPDATE raw_jobs SET state = 2, result = said.result"
            " FROM unnest(%s::bigint[], %s::text[]) AS said (id, result)"
            " WHERE raw_jobs.id = said.id AND state = 1",
            ([key for key, _ in results], [result for _, result in results]),
        )

    async def close(self) -> None:
        for connection in (self._writing, self._leasing, self._listening):
            await connection.close()


ENQUEUE = """
local last = redis.call('INCRBY', KEYS[1] .. ':last', #ARGV)
for place, params in ipairs(ARGV) do
  local id = last - #ARGV + place
  redis.call('HSET', KEYS[1] .. ':jobs', id, params)
  redis.call('RPUSH', KEYS[1] .. ':ready', id)
end
"""
TAKE = """
local ids = redis.call('LPOP', KEYS[1] .. ':ready', ARGV[1])
if not ids then return {} end
local till = redis.call('TIME')[1] + 60
local taken = {}
for _, id in ipairs(ids) do
  redis.call('ZADD', KEYS[1] .. ':leased', till, id)
  taken[#taken + 1] = id
  taken[#taken + 1] = redis.call('HGET', KEYS[1] .. ':jobs', id)
end
return taken
"""
SETTLE = """
for place = 1, #ARGV, 2 do
  if redis.call('ZREM', KEYS[1] .. ':leased', ARGV[place]) == 1 then
    redis.call('SET', KEYS[1] .. ':result:' .. ARGV[place], ARGV[place + 1], 'EX', 86400)
    redis.call('HDEL', KEYS[1] .. ':jobs', ARGV[place])
  end
end
"""


class RawRedis:
    """One script call a batch."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = parts._replace(query="").geturl()
        self._key = parse_qs(parts.query).get("prefix", ["bench"])[0] + ":raw"

    async def open(self) -> None:
        from redis.asyncio import Redis

        self._redis: Any = Redis.from_url(self._url, decode_responses=True)
        self._enqueue, self._take, self._settle = map(
            self._redis.register_script, (ENQUEUE, TAKE, SETTLE)
        )

    async def enqueue(self, params: Sequence[str]) -> None:
        await self._enqueue(keys=[self._key], args=params)

    async def take(self, limit: int) -> list[tuple[Any, str]]:
        ready = f"{self._key}:ready"
        while True:
            told = await self._take(keys=[self._key], args=[limit])
            if told:
                return list(zip(told[::2], told[1::2], strict=True))
            await self._redis.blmove(ready, ready, WAIT_S, "LEFT", "LEFT")  # a look that waits

    async def settle(self, results: Sequence[tuple[Any, str]]) -> None:
        await self._settle(keys=[self._key], args=[text for pair in results for text in pair])

    async def close(self) -> None:
        await self._redis.aclose()


class RawSqs:
    """Ten messages a request, which is all that SQS takes; results in a dictionary."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        asked = parse_qs(parts.query)
        self._endpoint = f"http://{parts.netloc}"
        self._region = asked["region"][0]
        self._queue = f"{self._endpoint}{parts.path}/{asked.get('prefix', [''])[0]}raw"
        self._results: dict[str, str] = {}

    async def open(self) -> None:
        from aiobotocore.session import get_session

        self._entered = get_session().create_client(
            "sqs", endpoint_url=self._endpoint, region_name=self._region
        )
        self._client: Any = await self._entered.__aenter__()
        await self._client.create_queue(QueueName=self._queue.rpartition("/")[2])

    async def enqueue(self, params: Sequence[str]) -> None:
        await asyncio.gather(
            *(
                self._client.send_message_batch(
                    QueueUrl=self._queue,
                    Entries=[
                        {"Id": str(place), "MessageBody": text}
                        for place, text in enumerate(params[start : start + 10])
                    ],
                )
                for start in range(0, len(params), 10)
            )
        )

    async def take(self, limit: int) -> list[tuple[Any, str]]:
        told = await self._client.receive_message(
            QueueUrl=self._queue, MaxNumberOfMessages=min(10, limit), WaitTimeSeconds=1
        )
        return [(each["ReceiptHandle"], each["Body"]) for each in told.get("Messages", ())]

    async def settle(self, results: Sequence[tuple[Any, str]]) -> None:
        self._results.update(results)
        await self._client.delete_message_batch(
            QueueUrl=self._queue,
            Entries=[
                {"Id": str(place), "ReceiptHandle": key} for place, (key, _) in enumerate(results)
            ],
        )

    async def close(self) -> None:
        await self._entered.__aexit__(None, None, None)


def make_raw(kind: str, url: str) -> RawQueue:
    """The engine of that kind, not opened yet."""
    match kind:
        case "memory":
            return RawMemory()
        case "sqlite":
            return RawSqlite(url)
        case "postgres":
            return RawPostgres(url)
        case "redis":
            return RawRedis(url)
        case "sqs":
            return RawSqs(url)
    raise ValueError(kind)


async def echo(n: int) -> int:
    return n


async def work_raw(raw: RawQueue, jobs: int) -> None:
    """Run so many jobs, in batches of 100, as plainly as can be."""
    while jobs:
        taken = await raw.take(min(100, jobs))
        if not taken:
            continue
        await raw.settle(
            [(key, json.dumps(await echo(**json.loads(params)))) for key, params in taken]
        )
        jobs -= len(taken)
