"""A few connections to PostgreSQL for one event loop, made when they are needed."""

from __future__ import annotations

import asyncio
import os
import select
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncCursor, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, tuple_row

from worker.backends.postgres import SCHEMA, TRIES, misfit
from worker.backends.postgres_server import ANSWER_S, answered
from worker.backends.queries import load_queries
from worker.errors import StoreSchemaError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from psycopg.abc import RV, PQGen

    from worker.backends.postgres_server import Server

__all__ = ["Connections", "JobsConnection", "run"]

QUERIES = load_queries("postgres.sql", "worker.queues")
MOST = 4
"""How many connections there are at most, the listening one not counted."""


class JobsConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that does not wait for an answer for ever.

    Attributes:
        pooled: A pooler is in between. Statements cannot be prepared, and nothing is heard of
            notifications: the next transaction may have another session.
    """

    pooled = False

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._process = os.getpid()

    async def close(self) -> None:
        """Close it, but not in a forked child, where that would end the parent's session."""
        if self._process == os.getpid():
            await super().close()

    async def wait(
        self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None
    ) -> RV:  # psycopg 3.3.0 knows no timeout
        if timeout is not None:  # for notifications, which are no answers
            return await super().wait(gen, interval, timeout)
        return await super().wait(answered(gen, ANSWER_S), interval)


@dataclass(eq=False)
class Connections:
    """Connections in autocommit: each statement is a transaction, and holds no lock after it."""

    server: Server
    _idle: list[JobsConnection] = field(default_factory=list)
    _room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST))
    _closed: bool = False

    async def connect(self) -> JobsConnection:
        """A new connection, whose tables are those this worker knows.

        Raises:
            psycopg.Error: It did not work.
            StoreSchemaError: The tables are others, or this role may not use them.
        """
        connection = await JobsConnection.connect(
            **self.server.parameters, autocommit=True, prepare_threshold=None
        )
        try:
            await self._look_at(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _look_at(self, connection: JobsConnection) -> None:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise StoreSchemaError(
                f"the database {self.server.place} is encoded in {encoding}; expected one in UTF8 "
                "(CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
            )
        try:
            rows = await run(connection, "schema")
        except errors.UndefinedTable:
            rows = []
        found = rows[0]["version"] if rows else None
        if found != SCHEMA:
            raise StoreSchemaError(misfit(found, self.server.place))
        missing = await run(connection, "missing_rights")
        if missing:
            rights = ", ".join(f"{row['right']} on {row['table']}" for row in missing)
            raise StoreSchemaError(
                f"the role {connection.info.user} lacks rights in {self.server.place}: {rights}; "
                "GRANT them, or connect as the role that ran `worker migrate`"
            )
        connection.pooled = rows[0]["process"] != connection.info.backend_pid
        if connection.pooled:
            await run(connection, "set_utc")
        else:
            connection.prepare_threshold = 0

    async def open(self) -> None:
        """Make a first connection.

        Raises:
            StoreUnavailable: It did not work.
            StoreSchemaError: The tables are none of this worker's, or this role may not use them.
        """
        try:
            self._idle.append(await self.connect())
        except psycopg.Error as exc:
            raise self.server.problem(exc) from exc

    async def ask(self, query: str, **parameters: object) -> list[dict[str, Any]]:
        """What the server answers to a query of ``postgres.sql``, as mappings.

        It is planned anew each time, since tables grow.

        Raises:
            StoreUnavailable: Whatever went wrong. What comes next connects anew.
        """
        async with self._asking():
            return await self._tried(query, parameters, dict_row)

    async def ask_rows(self, query: str, **parameters: object) -> list[tuple[Any, ...]]:
        """The same as tuples, which cost less, of a query that calls a function all day."""
        async with self._asking():
            return await self._tried(query, parameters, tuple_row)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Room for one more question; what goes wrong is told in our words."""
        try:
            if self._room.locked():
                async with asyncio.timeout(ANSWER_S):
                    await self._room.acquire()
            else:
                await self._room.acquire()
        except TimeoutError as exc:
            raise StoreUnavailable(
                f"PostgreSQL at {self.server.place}: no connection was free for {ANSWER_S:g} s"
            ) from exc
        try:
            yield
        except psycopg.Error as exc:
            raise StoreUnavailable(str(self.server.problem(exc))) from exc
        except StoreSchemaError as exc:  # found when it connected anew
            raise StoreUnavailable(str(exc)) from exc
        finally:
            self._room.release()

    async def _tried(self, query: str, parameters: Mapping[str, object], factory: Any) -> list[Any]:
        failed = 0
        while True:
            connection = await self._free()
            try:
                rows = await run(connection, query, parameters, factory)
            except (errors.DeadlockDetected, errors.SerializationFailure):
                await self._give_back(connection)
                failed += 1
                if failed == TRIES:
                    raise
            except psycopg.OperationalError:
                # The server is gone or frozen, and so are the others, most likely.
                await self._discard(connection, *self._idle)
                raise
            except BaseException:
                await self._give_back(connection)
                raise
            else:
                await self._give_back(connection)
                return rows

    async def _free(self) -> JobsConnection:
        """A connection that nobody uses, and that the server has not ended meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if not ended(connection):
                return connection
            await self._discard(connection)
        return await self.connect()

    async def _give_back(self, connection: JobsConnection) -> None:
        """Keep a connection that waits for the next question, and no other."""
        fit = connection.pgconn.transaction_status == TransactionStatus.IDLE
        if fit and not self._closed:
            self._idle.append(connection)
        else:
            await self._discard(connection)

    async def _discard(self, *connections: JobsConnection) -> None:
        for connection in connections:
            if connection in self._idle:
                self._idle.remove(connection)
            with suppress(psycopg.Error, OSError):
                await connection.close()

    async def close(self) -> None:
        self._closed = True
        await self._discard(*self._idle)


def ended(connection: JobsConnection) -> bool:
    """Whether something has come over a connection that was not asked: its end, most likely."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def run(
    connection: JobsConnection,
    query: str,
    parameters: Mapping[str, object] = MappingProxyType({}),
    factory: Any = dict_row,
) -> list[Any]:
    """What the server answers to a query of ``postgres.sql`` over this connection."""
    cursor: AsyncCursor[Any] = AsyncCursor(connection, row_factory=factory)
    prepare = None if factory is tuple_row else False
    await cursor.execute(QUERIES[query], parameters, prepare=prepare, binary=True)
    return await cursor.fetchall() if cursor.description else []
