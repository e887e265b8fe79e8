"""Makes the engine that a URL names. Its library is imported here, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.backends.opening import STORES
from worker.errors import ConfigurationError
from worker.urls import SCHEMES, UrlKinds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.clock import Clock
    from worker.environment import QueueLocation
    from worker.ports import JobStore

__all__ = ["QUEUES", "configured_jobs", "make_jobs"]

QUEUES = UrlKinds(
    setting="WORKER_QUEUE_URL",
    package="worker.queues",
    schemes={**SCHEMES, "sqs": "sqs"},
    expected="memory://, sqlite:///path/to/file, postgresql://…, redis://… or sqs://…",
)


def configured_jobs(
    location: QueueLocation, *, queues: Sequence[str] = (), clock: Clock | None = None
) -> JobStore:
    """The engine that the settings name, not opened yet. The arguments are those of `make_jobs`.

    Raises:
        ConfigurationError: As `make_jobs`. The message names the setting that has the URL.
    """
    if location.queue_url is not None:
        return make_jobs(
            location.queue_url, records_url=location.store_url, queues=queues, clock=clock
        )
    STORES.of(location.store_url)  # which knows fewer kinds
    try:
        return make_jobs(location.store_url, queues=queues, clock=clock)
    except ConfigurationError as exc:
        named = (problem.replace(QUEUES.setting, STORES.setting) for problem in exc.problems)
        raise ConfigurationError(named) from exc


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
    kind = QUEUES.of(url)
    module = QUEUES.module(kind)
    store: JobStore
    if kind == "memory":
        store = module.MemoryJobs(clock)
    elif kind == "sqlite":
        store = module.SqliteJobs(QUEUES.sqlite_path(url))
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
