"""Makes the engine that a URL names. Its library is imported here, and not before."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from worker.backends.opening import sqlite_path
from worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.clock import Clock
    from worker.ports import JobStore

__all__ = ["kind_of_queue", "make_jobs"]

KINDS = {
    "memory": "memory",
    "sqlite": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "redis": "redis",
    "rediss": "redis",
    "sqs": "sqs",
}
EXPECTED = "expected memory://, sqlite:///path/to/file, postgresql://…, redis://… or sqs://…"


def kind_of_queue(url: str) -> str:
    """``memory``, ``sqlite``, ``postgres``, ``redis`` or ``sqs``.

    Raises:
        ConfigurationError: None of them.
    """
    scheme = url.partition("://")[0].partition("+")[0].lower() if "://" in url else ""
    if scheme not in KINDS:
        got = f"{scheme}://…" if scheme else "no scheme"
        raise ConfigurationError([f"WORKER_QUEUE_URL: {EXPECTED}, got {got}"])
    return KINDS[scheme]


def make_jobs(
    url: str,
    *,
    records_url: str | None = None,
    queues: Sequence[str] = (),
    clock: Clock | None = None,
) -> JobStore:
    """The engine, not opened yet.

    Args:
        records_url: Where an engine that keeps no records of its own has them kept.
        queues: Those that this process will use, for an engine that has to look whether they are
            there.
        clock: Of an engine in this process.

    Raises:
        ConfigurationError: The URL is none that is known, or its library is not installed.
    """
    kind = kind_of_queue(url)
    module = engine(kind)
    store: JobStore
    if kind == "memory":
        store = module.MemoryJobs(clock)
    elif kind == "sqlite":
        store = module.SqliteJobs(sqlite_path(url))
    elif kind == "postgres":
        store = module.PostgresJobs(url)
    elif kind == "redis":
        store = module.RedisJobs(url)
    else:
        records = make_jobs(records_url or "memory://")
        if not records.capabilities.claims:
            raise ConfigurationError(
                ["WORKER_STORE_URL: expected a store that can keep the records of SQS"]
            )
        store = module.SqsJobs(url, records, queues=queues)
    return store


def engine(kind: str) -> Any:
    """A module of this package, whose library an extra of the same name brings.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return import_module(f"worker.queues.{kind}")
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            [
                f"WORKER_QUEUE_URL names {kind}, but {exc.name} is not installed; "
                f"expected: pip install 'sidecar-worker[{kind}]'"
            ]
        ) from exc
