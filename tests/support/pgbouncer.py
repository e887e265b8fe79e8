"""A pgbouncer in transaction mode before the PostgreSQL server of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.support.servers import refused_port

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGURATION = """
[databases]
pooled = host={host} port={port} dbname={database} user={user}
    connect_query='SET search_path TO {schema}' pool_size=3
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
ignore_startup_parameters = options,extra_float_digits
"""


@contextmanager
def pooled_url(url: str, schema: str) -> Iterator[str]:
    """The URL of the same tables behind a pooler; the test is skipped where there is none.

    Each of its three sessions on the server has ``schema`` as its search path: the options of a
    client's connection are not handed on.
    """
    binary = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        pytest.skip("pgbouncer is missing: it is neither in PATH nor in /usr/sbin")
    place = urlsplit(url)
    folder = Path(mkdtemp(prefix="worker-pgbouncer-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # where pgbouncer refuses to start
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("pgbouncer does not start as root, and setpriv is missing")
        shutil.chown(folder, "nobody", "nogroup")
        as_user = [setpriv, "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    own_port = refused_port()
    text = CONFIGURATION.format(
        host=place.hostname,
        port=place.port or 5432,
        database=place.path.removeprefix("/"),
        user=place.username or "root",
        schema=schema,
        own_port=own_port,
    ).replace("\n    ", " ")
    (folder / "pgbouncer.ini").write_text(text)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*as_user, binary, str(folder / "pgbouncer.ini")], stdout=log, stderr=log, cwd="/"
        )
    pooled = f"postgresql://root@127.0.0.1:{own_port}/pooled"
    try:
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                psycopg.connect(pooled, connect_timeout=3).close()
            except psycopg.OperationalError:
                continue
            break
        yield pooled
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
