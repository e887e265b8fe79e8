"""Empty ledgers in a PostgreSQL server: the one of the environment, or one that is started here."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest

from tests.support.servers import refused_port
from worker.backends.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "TEST_WORKER_POSTGRES_URL"
USUAL = "postgresql://root@127.0.0.1:5432/test"


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True, connect_timeout=3)


@cache
def server_url() -> str:
    """A database that may be used for tests; the test is skipped where there is none."""
    named = os.environ.get(VARIABLE)
    url = named or USUAL
    try:
        connect(url).close()
    except psycopg.OperationalError as exc:
        if named:
            raise AssertionError(f"{VARIABLE} names a server that does not answer") from exc
        url = started_server()
    return url


def started_server() -> str:
    """A server of our own, in a temporary folder, for as long as this process lives."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*map(str, places), os.environ.get("PATH", "")])
    initdb, postgres = shutil.which("initdb", path=path), shutil.which("postgres", path=path)
    if initdb is None or postgres is None:
        pytest.skip(
            f"PostgreSQL is missing: no server at {USUAL}, {VARIABLE} is not set, and neither "
            "PATH nor /usr/lib/postgresql has initdb and postgres"
        )
    as_user: list[str] = []
    folder = tempfile.mkdtemp(prefix="worker-postgres-")
    if os.geteuid() == 0:  # where PostgreSQL refuses to start
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("PostgreSQL does not start as root, and setpriv is missing")
        shutil.chown(folder, "nobody", "nogroup")
        as_user = [setpriv, "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    data, port = f"{folder}/data", refused_port()
    subprocess.run(
        [*as_user, initdb, "-D", data, "-A", "trust", "-U", "root", "-E", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    listen = ["-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
    start = [*as_user, postgres, "-D", data, "-F", *listen]
    with Path(folder, "log").open("wb") as log:
        server = subprocess.Popen(start, stderr=log, cwd="/")

    def stop() -> None:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    url = f"postgresql://root@127.0.0.1:{port}/postgres"
    while True:
        assert server.poll() is None, Path(folder, "log").read_text()
        try:
            connect(url).close()
        except psycopg.OperationalError:
            continue
        return url


def in_schema(url: str, schema: str) -> str:
    """The URL with a ``search_path`` of its own."""
    return f"{url}{'&' if '?' in url else '?'}options={quote(f'-csearch_path={schema}')}"


@contextmanager
def empty_schema() -> Iterator[str]:
    """The URL of a schema without any tables, which is dropped afterwards."""
    schema = f"worker_{uuid4().hex}"
    with connect(server_url()) as admin:
        admin.execute(f"CREATE SCHEMA {schema}")
        try:
            yield in_schema(server_url(), schema)
        finally:
            admin.execute(f"DROP SCHEMA {schema} CASCADE")


class Schemas:
    """Migrated schemas, emptied and used again: making one takes a hundred times as long."""

    def __init__(self) -> None:
        self.free: list[str] = []
        self.made: list[str] = []

    def take(self) -> str:
        if self.free:
            return self.free.pop()
        schema = f"worker_{uuid4().hex}"
        with connect(server_url()) as admin:
            if not self.made:  # after the server's own, and so called before it
                atexit.register(self.drop)
            admin.execute(f"CREATE SCHEMA {schema}")
            self.made.append(schema)
        migrate(in_schema(server_url(), schema))
        return schema

    def give_back(self, schema: str) -> None:
        with connect(in_schema(server_url(), schema)) as admin:
            admin.execute("SET synchronous_commit = off")
            admin.execute("SET lock_timeout = '10s'")
            tables = admin.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
                " AND tablename NOT LIKE '%version%'"
            ).fetchall()
            for (table,) in tables:
                admin.execute(f'DELETE FROM "{table}"')
        self.free.append(schema)

    def drop(self) -> None:
        with connect(server_url()) as admin:
            for schema in self.made:
                admin.execute(f"DROP SCHEMA {schema} CASCADE")


SCHEMAS = Schemas()


@contextmanager
def fresh_postgres_url() -> Iterator[str]:
    """The URL of an empty ledger."""
    schema = SCHEMAS.take()
    try:
        yield in_schema(server_url(), schema)
    finally:
        SCHEMAS.give_back(schema)
