"""A redis-server of the test's own, that it can stop, kill and set up as it likes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.support.servers import refused_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BINARY = shutil.which("redis-server")
MISSING = "no redis-server is installed (Debian: apt-get install redis-server)"


@dataclass(eq=False)
class RedisServer:
    """``redis-server`` on a port of its own; what it keeps stays in ``folder``."""

    folder: Path
    options: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=refused_port)
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, ready: str = "Ready to accept connections", **options: str) -> None:
        """Start it, and return once it has logged ``ready``."""
        assert BINARY is not None
        given = {"save": "", "bind": "127.0.0.1", **self.options, **options}
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [BINARY, "--port", str(self.port), "--dir", str(self.folder), *words],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.wait_for(ready)

    def wait_for(self, *words: str) -> None:
        """Return once it has logged one of ``words``, after what was waited for before."""
        assert self.process is not None
        assert self.process.stdout is not None
        told = []
        for line in self.process.stdout:
            told.append(line)
            if any(word in line for word in words):
                return
        raise AssertionError(f"redis-server ended before {words}:\n{''.join(told)}")

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, or kill it; return once it has ended."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.communicate()
            self.process = None

    def ask(self, *words: str) -> Any:
        """What redis-cli would answer."""
        return self._ask(words, decode_responses=True)

    def ask_raw(self, *words: str) -> Any:
        """The same, but bytes as they are."""
        return self._ask(words, decode_responses=False)

    def _ask(self, words: tuple[str, ...], *, decode_responses: bool) -> Any:
        client = Redis(port=self.port, protocol=2, decode_responses=decode_responses)
        try:
            return cast("Any", client).execute_command(*words)
        finally:
            client.close()


@contextmanager
def redis_server(folder: Path, **options: str) -> Iterator[RedisServer]:
    """A server that runs until the block is left."""
    server = RedisServer(folder, options)
    try:
        server.start()
        yield server
    finally:
        server.end(signal.SIGKILL)


@contextmanager
def fresh_redis_url(folder: Path) -> Iterator[str]:
    """Keys of the test's own in the server of ``TEST_WORKER_REDIS_URL``, or in one started now."""
    named = os.environ.get("TEST_WORKER_REDIS_URL")
    url = named or "redis://127.0.0.1:6379/0"
    client = Redis.from_url(url, decode_responses=True, socket_timeout=5)
    try:
        client.ping()
    except RedisError as exc:
        client.close()
        if named:
            raise
        if BINARY is None:
            pytest.skip(f"no Redis answers at {url} ({exc}), and {MISSING}")
        with redis_server(folder) as server:
            yield server.url
        return
    prefix = f"test-{uuid4().hex}"
    try:
        yield f"{url}{'&' if '?' in url else '?'}prefix={prefix}"
    finally:
        for key in client.scan_iter(match=f"{prefix}:*", count=1000):
            client.delete(key)
        client.close()
