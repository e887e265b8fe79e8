"""Brings the ledger's tables in PostgreSQL up to what this worker needs. `worker migrate` runs it.

Alembic and SQLAlchemy are needed here only; a running worker imports neither.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from worker.backends.postgres import SCHEMA, misfit
from worker.backends.postgres_server import server_of
from worker.errors import StoreSchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from worker.backends.postgres_server import Server

__all__ = ["VERSION_TABLE", "migrate", "migration_config"]

VERSION_TABLE = "worker_alembic_version"
ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('sidecar-worker migrate'))"
LIMITS = "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0"


def migrate(url: str) -> tuple[str | None, str]:
    """Make the tables, or bring them up to date, in one transaction: wholly or not at all.

    Several may do so at once; each waits for the one before it.

    Returns:
        The schema before, ``None`` if there was none, and after.

    Raises:
        ConfigurationError: The URL is none.
        StoreUnavailable: The server cannot be reached, or another held a lock for a minute.
        StoreSchemaError: The tables are newer than this worker, or the role may not change them.
    """
    with transaction(server := server_of(url)) as connection:
        before = schema_of(connection)
        if before == SCHEMA:
            return before, before
        connection.exec_driver_sql(LIMITS)
        connection.exec_driver_sql(ONE_AT_A_TIME)
        before = schema_of(connection)
        if before is not None and before > SCHEMA:
            raise StoreSchemaError(misfit(before, server.place))
        try:
            command.upgrade(migration_config(connection), "head")
        except CommandError as exc:
            raise StoreSchemaError(f"the tables of {server.place}: {exc}") from exc
        return before, SCHEMA


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
