"""Jobs in the caller's own transaction on PostgreSQL: committed with its data, or not at all.

The caller's library is in use already, so none is imported here. Nothing is begun, committed or
rolled back: an ``enqueue_in`` is a statement among the caller's own.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from worker.backends.queries import load_queries
from worker.errors import InvalidOptions, StoreSchemaError, TransactionDeadlock
from worker.queues.postgres_rows import enqueued, new_jobs

if TYPE_CHECKING:
    from types import ModuleType

    from worker.jobs.job import Enqueued, NewJob

__all__ = ["enqueue_in"]

QUERIES = load_queries("postgres.sql", "worker.queues")
EXPECTED = (
    "a Connection, Session, AsyncConnection or AsyncSession of SQLAlchemy, a Connection or "
    "AsyncConnection of psycopg 3, or a Connection of asyncpg"
)
NOT_MIGRATED = frozenset({"42883", "42P01", "3F000", "42501"})
"""What PostgreSQL says of a function or table that is not there, or that a role may not use."""
DEADLOCK = "40P01"

Rows = Iterable[tuple[Any, ...]]
Ask = Callable[[Any, str, str | None], Any]
"""Takes a connection, jobs and their unique keys; the rows, or what they are to be awaited of."""


def enqueue_in(
    connection: Any, jobs: Sequence[NewJob]
) -> list[Enqueued] | Awaitable[list[Enqueued]]:
    """Enqueue ``jobs`` over the caller's connection, as `JobQueue.enqueue` does.

    Whoever enqueues another job with the same id or the same unique key waits for the end of the
    caller's transaction.

    Returns:
        What became of each; to be awaited if the connection is asynchronous.

    Raises:
        InvalidOptions: The connection is of another kind.
        StoreSchemaError: The worker's functions are not to be found over this connection, or its
            role may not use them.
        TransactionDeadlock: Another transaction enqueues jobs with the same ids or unique keys, in
            another order. One call takes its locks in one order, so this needs several calls in
            each transaction. Other errors are those of the caller's library, since it is the
            caller's transaction that has failed.
    """
    ask, waits = way_over(connection)
    if waits:
        return enqueue_soon(ask, connection, jobs)
    if not jobs:
        return []
    try:
        rows = ask(connection, *new_jobs(jobs))
    except Exception as exc:
        map_error(exc)
        raise
    return enqueued(jobs, rows)


async def enqueue_soon(ask: Ask, connection: Any, jobs: Sequence[NewJob]) -> list[Enqueued]:
    if not jobs:
        return []
    try:
        rows = await ask(connection, *new_jobs(jobs))
    except Exception as exc:
        map_error(exc)
        raise
    return enqueued(jobs, rows)


def way_over(connection: Any) -> tuple[Ask, bool]:
    """How to ask over this connection, and whether the answer is to be awaited.

    Raises:
        InvalidOptions: It is of no kind that is known.
    """
    for module, names, ask, waits in WAYS:
        library = sys.modules.get(module)
        if library is not None and isinstance(connection, kinds(library, names)):
            return ask, waits
    kind = type(connection)
    raise InvalidOptions(
        f"connection: expected {EXPECTED}; got {kind.__module__}.{kind.__qualname__}"
    )


def kinds(library: ModuleType, names: Sequence[str]) -> tuple[type, ...]:
    found = (getattr(library, name, None) for name in names)
    return tuple(kind for kind in found if isinstance(kind, type))


def over_psycopg(connection: Any, jobs: str, wishes: str | None) -> Rows:
    # Not the connection's own kind of cursor: that may have other parameters and other rows.
    cursor = sys.modules["psycopg"].Cursor(connection, row_factory=tuple_row())
    with cursor:
        cursor.execute(QUERIES["enqueue"], {"jobs": jobs, "wishes": wishes})
        rows: Rows = cursor.fetchall()
        return rows


async def over_async_psycopg(connection: Any, jobs: str, wishes: str | None) -> Rows:
    cursor = sys.modules["psycopg"].AsyncCursor(connection, row_factory=tuple_row())
    async with cursor:
        await cursor.execute(QUERIES["enqueue"], {"jobs": jobs, "wishes": wishes})
        rows: Rows = await cursor.fetchall()
        return rows


def tuple_row() -> Any:
    return sys.modules["psycopg"].rows.tuple_row


def over_sqlalchemy(connection: Any, jobs: str, wishes: str | None) -> Rows:
    statement = sys.modules["sqlalchemy"].text(QUERIES["enqueue_by_sqlalchemy"])
    return [tuple(row) for row in connection.execute(statement, {"jobs": jobs, "wishes": wishes})]


async def over_async_sqlalchemy(connection: Any, jobs: str, wishes: str | None) -> Rows:
    statement = sys.modules["sqlalchemy"].text(QUERIES["enqueue_by_sqlalchemy"])
    result = await connection.execute(statement, {"jobs": jobs, "wishes": wishes})
    return [tuple(row) for row in result]


async def over_asyncpg(connection: Any, jobs: str, wishes: str | None) -> Rows:
    return [
        tuple(row) for row in await connection.fetch(QUERIES["enqueue_by_asyncpg"], jobs, wishes)
    ]


WAYS: Sequence[tuple[str, Sequence[str], Ask, bool]] = (
    ("psycopg", ("Connection",), over_psycopg, False),
    ("psycopg", ("AsyncConnection",), over_async_psycopg, True),
    ("sqlalchemy", ("Connection",), over_sqlalchemy, False),
    ("sqlalchemy.orm", ("Session", "scoped_session"), over_sqlalchemy, False),
    (
        "sqlalchemy.ext.asyncio",
        ("AsyncConnection", "AsyncSession", "async_scoped_session"),
        over_async_sqlalchemy,
        True,
    ),
    ("asyncpg", ("Connection",), over_asyncpg, True),
    ("asyncpg.pool", ("PoolConnectionProxy",), over_asyncpg, True),
)


def map_error(exc: Exception) -> None:
    """Say in our own words what the caller can do about an error, which may be of any library.

    Raises:
        StoreSchemaError: The worker's functions are not there.
        TransactionDeadlock: The transaction was the victim of a deadlock.
    """
    said = getattr(exc, "orig", None) or exc  # SQLAlchemy's errors hold the driver's
    state = getattr(said, "sqlstate", None) or getattr(said, "pgcode", None)
    if state in NOT_MIGRATED:
        raise StoreSchemaError(
            f"connection: PostgreSQL says {str(said).splitlines()[0]!r}; expected a role that may "
            "use the tables that `worker migrate` made, and a search_path with their schema"
        ) from exc
    if state == DEADLOCK:
        raise TransactionDeadlock(
            "connection: PostgreSQL has ended this transaction, since another one waited for it "
            "and it for the other (deadlock); roll it back and repeat it from its beginning. To "
            "avoid it, enqueue jobs with the same ids or unique keys in the same order in each "
            "transaction, or by one enqueue_many"
        ) from exc
