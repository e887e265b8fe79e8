"""Opens the store that a URL names. A backend's library is imported here, and not before."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.errors import ConfigurationError

if TYPE_CHECKING:
    from worker.ports import LedgerStore

__all__ = ["backend", "display_url", "kind_of", "open_store"]

KINDS = {
    "memory": "memory",
    "sqlite": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "redis": "redis",
    "rediss": "redis",
}
EXPECTED = "expected memory://, sqlite:///path/to/file, postgresql://… or redis://…"


def kind_of(url: str) -> str:
    """``memory``, ``sqlite``, ``postgres`` or ``redis``.

    Raises:
        ConfigurationError: None of them.
    """
    scheme = url.partition("://")[0].partition("+")[0].lower() if "://" in url else ""
    if scheme not in KINDS:
        got = f"{scheme}://…" if scheme else "no scheme"
        raise ConfigurationError([f"WORKER_STORE_URL: {EXPECTED}, got {got}"])
    return KINDS[scheme]


def display_url(url: str) -> str:
    """The URL without its credentials and its query, for people to see."""
    scheme, mark, rest = url.partition("://")
    if scheme.lower() == "sqlite":  # a path, which may hold anything, and nothing else
        return url
    before, _, shown = rest.rpartition("@")
    if set(before) & set("?#"):  # a password with such a sign, or a query that holds an @
        return f"{scheme}{mark}…"
    for sign in "?#":
        shown = shown.partition(sign)[0]
    return f"{scheme}{mark}{shown}"


def open_store(url: str) -> LedgerStore:
    """Connect to the store, and see that its schema fits.

    Raises:
        ConfigurationError: The URL is none that is known, its library is not installed, or a
            folder cannot be written.
        StoreUnavailable: It cannot be reached.
        StoreSchemaError: Its tables are missing, older or newer than this worker.
    """
    kind = kind_of(url)
    module = backend(kind, kind)
    if kind == "memory":
        store: LedgerStore = module.MemoryStore()
    elif kind == "sqlite":
        store = module.SqliteStore(sqlite_path(url))
    elif kind == "postgres":
        store = module.PostgresStore(url)
    else:
        store = module.RedisStore(url)
    return store


def backend(name: str, kind: str) -> Any:
    """A module of this package, whose library an extra of the name ``kind`` brings.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return import_module(f"worker.backends.{name}")
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            [
                f"WORKER_STORE_URL names {kind}, but {exc.name} is not installed; "
                f"expected: pip install 'sidecar-worker[{kind}]'"
            ]
        ) from exc


def sqlite_path(url: str) -> Path:
    """``sqlite:///relative.db`` or ``sqlite:////absolute.db``, as SQLAlchemy has it."""
    path = url.partition("://")[2]
    if not path.startswith("/") or len(path) < 2:
        raise ConfigurationError(
            ["WORKER_STORE_URL: expected sqlite:///relative.db or sqlite:////absolute.db"]
        )
    return Path(path[1:])
