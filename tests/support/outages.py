"""Stores whose server a test may kill and start again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.support.redis_server import BINARY, MISSING, RedisServer
from tests.support.servers import refused_port

if TYPE_CHECKING:
    from collections.abc import Iterator


class StoreServer(Protocol):
    """A server with an empty ledger."""

    @property
    def url(self) -> str: ...

    def start(self) -> None:
        """Return once it answers."""
        ...

    def kill(self) -> None:
        """Have it end without any farewell; return once it has."""
        ...


@dataclass(eq=False)
class KillableRedis:
    server: RedisServer

    @property
    def url(self) -> str:
        return self.server.url

    def start(self) -> None:
        self.server.start()

    def kill(self) -> None:
        self.server.end(signal.SIGKILL)


@dataclass(eq=False)
class KillablePostgres:
    """``postgres`` on a port of its own. Its data are in ``folder``, which root cannot own."""

    folder: Path
    binaries: Path
    as_user: list[str]
    port: int = field(default_factory=refused_port)
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://root@127.0.0.1:{self.port}/postgres"

    def initialise(self) -> None:
        options = ["-A", "trust", "-U", "root", "-E", "UTF8", "--no-sync"]
        initdb = [str(self.binaries / "initdb"), "-D", str(self.folder / "data"), *options]
        subprocess.run([*self.as_user, *initdb], check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        options = ["-p", str(self.port), "-k", str(self.folder), "-c", "listen_addresses=127.0.0.1"]
        postgres = [str(self.binaries / "postgres"), "-D", str(self.folder / "data"), *options]
        self.process = subprocess.Popen(
            [*self.as_user, *postgres], stderr=subprocess.PIPE, text=True, cwd="/"
        )
        assert self.process.stderr is not None
        told = []
        for line in self.process.stderr:
            told.append(line)
            if "ready to accept connections" in line:
                return
        raise AssertionError(f"postgres did not start:\n{''.join(told)}")

    def kill(self) -> None:
        if self.process is not None:
            # As a crash, but for its children, of which SIGKILL would leave some alive.
            self.process.send_signal(signal.SIGQUIT)
            self.process.communicate()
            self.process = None


@contextmanager
def redis_of_its_own(folder: Path) -> Iterator[StoreServer]:
    if BINARY is None:
        pytest.skip(MISSING)
    server = RedisServer(folder, {"appendonly": "yes", "appendfsync": "always"})
    killable = KillableRedis(server)
    try:
        killable.start()
        yield killable
    finally:
        killable.kill()


@contextmanager
def postgres_of_its_own() -> Iterator[StoreServer]:
    from tempfile import mkdtemp

    from worker.backends.migrate import migrate

    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*map(str, places), os.environ.get("PATH", "")])
    initdb = shutil.which("initdb", path=path)
    if initdb is None:
        pytest.skip("PostgreSQL is missing: neither PATH nor /usr/lib/postgresql has initdb")
    folder = Path(mkdtemp(prefix="worker-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # where PostgreSQL refuses to start
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not start as root, and setpriv is missing")
        shutil.chown(folder, "nobody", "nogroup")
        as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    server = KillablePostgres(folder, Path(initdb).resolve().parent, as_user)
    try:
        server.initialise()
        server.start()
        migrate(server.url)
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server_of_its_own(kind: str, folder: Path) -> Iterator[StoreServer]:
    """A server for one test alone, with an empty ledger."""
    with redis_of_its_own(folder) if kind == "redis" else postgres_of_its_own() as server:
        yield server
