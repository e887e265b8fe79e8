"""Brings the ledger's tables in PostgreSQL up to what this worker needs. `worker migrate` runs it.

Alembic and SQLAlchemy are needed here only; a running worker imports neither.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from psycopg import errors
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from worker.backends.postgres import SCHEMA, misfit
from worker.backends.postgres_server import server_of
from worker.errors import StoreSchemaError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from worker.backends.postgres_server import Server

__all__ = ["VERSION_TABLE", "migrate", "migration_config"]

VERSION_TABLE = "worker_alembic_version"
ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('sidecar-worker migrate'))"
LIMITS = "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0"
SHORT_LOCKS = "SET LOCAL lock_timeout = '1s'"
"""Whoever comes after a statement that waits for a table waits behind it: workers and producers."""
PAUSE_S = 2.0
PATIENCE_S = 60.0
IN_THE_WAY = """
SELECT a.pid, a.usename, a.application_name, now() - a.xact_start AS open, a.state
FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid() AND EXISTS (
    SELECT FROM pg_locks l
    JOIN pg_class c ON c.oid = l.relation
    WHERE l.pid = a.pid AND l.granted AND c.relname LIKE 'worker\\_%'
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
ORDER BY a.xact_start
LIMIT 1
"""


def migrate(
    url: str, *, on_wait: Callable[[str], None] = lambda told: None
) -> tuple[str | None, str]:
    """Make the tables, or bring them up to date, in one transaction: wholly or not at all.

    Several may do so at once; each waits for the one before it. While another transaction holds a
    lock on one of the tables, it tries for a second, lets everybody else go on for two, and so on.

    Args:
        on_wait: Called with what is in the way, each time that something is.

    Returns:
        The schema before, ``None`` if there was none, and after.

    Raises:
        ConfigurationError: The URL is none.
        StoreUnavailable: The server cannot be reached, or another held a lock for a minute.
        StoreSchemaError: The tables are newer than this worker, or the role may not change them.
    """
    server = server_of(url)
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return migrate_now(server)
        except LockHeld as exc:
            if time.monotonic() >= until:
                raise StoreUnavailable(str(exc)) from exc
            on_wait(f"{exc}; trying again in {PAUSE_S:g} s")
            time.sleep(PAUSE_S)


class LockHeld(Exception):
    """Another transaction is in the way."""


def migrate_now(server: Server) -> tuple[str | None, str]:
    """One try of `migrate`.

    Raises:
        LockHeld: Another transaction holds a lock on one of the tables.
    """
    with transaction(server) as connection:
        before = schema_of(connection)
        if before == SCHEMA:
            return before, before
        connection.exec_driver_sql(LIMITS)
        connection.exec_driver_sql(ONE_AT_A_TIME)
        connection.exec_driver_sql(SHORT_LOCKS)
        before = schema_of(connection)
        if before is not None and before > SCHEMA:
            raise StoreSchemaError(misfit(before, server.place))
        try:
            command.upgrade(migration_config(connection), "head")
        except CommandError as exc:
            raise StoreSchemaError(f"the tables of {server.place}: {exc}") from exc
        except (DBAPIError, psycopg.Error) as exc:
            if isinstance(getattr(exc, "orig", exc), errors.LockNotAvailable):
                raise LockHeld(in_the_way(server)) from exc
            raise
        return before, SCHEMA


def in_the_way(server: Server) -> str:
    """Which transaction a migration waits for, for people."""
    waits = f"{server.place}: another transaction holds a lock on one of the tables"
    try:
        with psycopg.connect(**server.parameters, prepare_threshold=None) as connection:
            found = connection.execute(IN_THE_WAY).fetchone()
    except psycopg.Error:
        return waits
    if found is None:
        return waits
    pid, user, application, age, state = found
    open_s = int(age.total_seconds()) if age is not None else 0
    named = f" of {application}" if application else ""
    return f"{waits}: process {pid}{named} ({user}, {state}), open for {open_s} s"


@contextmanager
def transaction(server: Server) -> Iterator[Connection]:
    """A transaction as SQLAlchemy has it, whose errors are ours."""
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(**server.parameters, prepare_threshold=None),
        poolclass=NullPool,
    )
    try:
        with engine.begin() as connection:
            yield connection
    except psycopg.Error as exc:
        raise server.problem(exc) from exc
    except DBAPIError as exc:
        if not isinstance(exc.orig, psycopg.Error):
            raise
        raise server.problem(exc.orig) from exc


def schema_of(connection: Connection) -> str | None:
    """The name of the migration that the tables are from."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def migration_config(connection: Connection | None = None) -> Config:
    """What Alembic would read from an ``alembic.ini``; ``migrations/env.py`` asks it in turn."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    return config
