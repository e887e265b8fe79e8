"""Opens the store that a URL names. A backend's library is imported here, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.urls import SCHEMES, UrlKinds

if TYPE_CHECKING:
    from worker.ports import LedgerStore

__all__ = ["STORES", "open_store"]

STORES = UrlKinds(
    setting="WORKER_STORE_URL",
    package="worker.backends",
    schemes=SCHEMES,
    expected="memory://, sqlite:///path/to/file, postgresql://… or redis://…",
)


def open_store(url: str) -> LedgerStore:
    """Connect to the store, and see that its schema fits.

    Raises:
        ConfigurationError: The URL is none that is known, its library is not installed, or a
            folder cannot be written.
        StoreUnavailable: It cannot be reached.
        StoreSchemaError: Its tables are missing, older or newer than this worker.
    """
    kind = STORES.of(url)
    module = STORES.module(kind)
    if kind == "memory":
        store: LedgerStore = module.MemoryStore()
    elif kind == "sqlite":
        store = module.SqliteStore(STORES.sqlite_path(url))
    elif kind == "postgres":
        store = module.PostgresStore(url)
    else:
        store = module.RedisStore(url)
    return store
