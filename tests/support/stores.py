"""Empty stores of each kind for a test, on the machine's own servers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.postgres import fresh_postgres_url
from tests.support.redis_server import fresh_redis_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS: tuple[str, ...] = ("memory", "sqlite", "postgres", "redis")
SHARED_KINDS: tuple[str, ...] = ("postgres", "redis")
"""Those that several machines can share."""


@contextmanager
def fresh_url(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty store, which is removed afterwards."""
    if kind == "memory":
        yield "memory://"
    elif kind == "sqlite":
        yield f"sqlite:///{folder / 'worker.db'}"
    elif kind == "redis":
        with fresh_redis_url(folder) as url:
            yield url
    elif kind == "postgres":
        with fresh_postgres_url() as url:
            yield url
    else:
        raise AssertionError(kind)
