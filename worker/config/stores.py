"""Where the ledger and the jobs are kept: the settings' URLs, the engine, the tables."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.backends.opening import STORES, open_store
from worker.environment import QueueLocation
from worker.errors import ConfigurationError, StoreError
from worker.queues.opening import QUEUES, configured_jobs
from worker.settings import variable
from worker.urls import display_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from worker.clock import Clock
    from worker.ports import JobStore
    from worker.settings import Settings

__all__ = [
    "engine_of",
    "is_private",
    "location",
    "migrate_store",
    "named_as_given",
    "queue_url",
    "shares_store",
    "store_url",
]


def store_url(settings: Settings) -> str:
    """Where the ledger is kept."""
    if settings.store_url is not None:
        return settings.store_url.get_secret_value()
    return f"sqlite:///{default_store(settings)}"


def queue_url(settings: Settings) -> str:
    """Where jobs wait."""
    if settings.queue_url is not None:
        return settings.queue_url.get_secret_value()
    return store_url(settings)


def engine_of(
    settings: Settings, *, queues: Sequence[str] = (), clock: Clock | None = None
) -> JobStore:
    """The engine of the queues, not opened yet.

    Raises:
        ConfigurationError: Its URL is wrong, or its library is not installed. The message names
            the setting that says so.
    """
    return configured_jobs(location(settings), queues=queues, clock=clock)


def location(settings: Settings) -> QueueLocation:
    """Where jobs wait and are recorded."""
    return QueueLocation(
        queue_url=None if settings.queue_url is None else queue_url(settings),
        store_url=store_url(settings),
        default_store=default_store(settings) if settings.store_url is None else None,
    )


def default_store(settings: Settings) -> Path:
    """The file of the ledger and of the jobs, where no URL is configured."""
    return settings.state_dir / "worker.db"


def shares_store(settings: Settings) -> bool:
    """Whether jobs wait where the ledger is kept."""
    return queue_url(settings) == store_url(settings)


def is_private(settings: Settings) -> bool:
    """Whether nobody but the engine that a worker has opened itself can see its jobs."""
    kind = QUEUES.of(queue_url(settings))
    return kind == "memory" or (kind == "sqs" and STORES.of(store_url(settings)) == "memory")


@contextmanager
def named_as_given(settings: Settings) -> Iterator[None]:
    """What goes wrong with the queue is said of the setting that names it.

    That is the store's, where only that one is given.
    """
    try:
        yield
    except StoreError as exc:
        if settings.queue_url is not None:
            exc.part = "queue's engine"
        raise
    except ConfigurationError as exc:
        if settings.queue_url is not None:
            raise
        queue, store = variable("queue_url"), variable("store_url")
        raise ConfigurationError(p.replace(queue, store) for p in exc.problems) from exc


def migrate_store(settings: Settings, *, on_wait: Callable[[str], None]) -> str:
    """Create or update the tables of the store and of the queue; what was done, in words.

    Args:
        on_wait: Called with what is in the way, while something is.

    Raises:
        ConfigurationError: A URL, a folder or a library is wrong.
        StoreError: One of them cannot be reached, or refuses.
    """
    urls = [store_url(settings)]
    if queue_url(settings) != urls[0] and QUEUES.of(queue_url(settings)) == "postgres":
        urls.append(queue_url(settings))
    return "\n".join(migrated(url, on_wait) for url in urls)


def migrated(url: str, on_wait: Callable[[str], None]) -> str:
    where = display_url(url)
    if STORES.of(url) == "postgres":
        before, after = STORES.module("postgres", "migrate").migrate(url, on_wait=on_wait)
        if before == after:
            return f"{where} is up to date, at {after}"
        return f"{where} was migrated from {before or 'nothing'} to {after}"
    open_store(url).close()
    return f"{where} is up to date: this kind of store needs no migration by hand"
