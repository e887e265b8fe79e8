"""The URLs of stores and queues: which kind each names, and how it is shown to people."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.errors import ConfigurationError, installing

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SCHEMES", "UrlKinds", "display_url"]

SCHEMES = {
    "memory": "memory",
    "sqlite": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "redis": "redis",
    "rediss": "redis",
}
"""The kind that each scheme names, of those that can be a store and a queue."""


@dataclass(frozen=True, slots=True)
class UrlKinds:
    """What a setting's URL may name.

    Attributes:
        setting: The variable, for errors.
        package: Where the modules of the kinds are.
        schemes: The kind of each scheme. An extra of the kind's name brings its library.
        expected: The URLs, in words.
    """

    setting: str
    package: str
    schemes: Mapping[str, str]
    expected: str

    def of(self, url: str) -> str:
        """The kind that a URL names.

        Raises:
            ConfigurationError: None of them.
        """
        scheme = url.partition("://")[0].partition("+")[0].lower() if "://" in url else ""
        if scheme not in self.schemes:
            got = f"{scheme}://…" if scheme else "no scheme"
            raise ConfigurationError([f"{self.setting}: expected {self.expected}, got {got}"])
        return self.schemes[scheme]

    def module(self, kind: str, name: str | None = None) -> Any:
        """Import a kind's module, or another of the package that needs the kind's library.

        Raises:
            ConfigurationError: The library is not installed.
        """
        try:
            return import_module(f"{self.package}.{name or kind}")
        except ModuleNotFoundError as exc:
            raise ConfigurationError(
                [
                    f"{self.setting} names {kind}, but {exc.name} is not installed; "
                    f"expected: {installing(kind)}"
                ]
            ) from exc

    def sqlite_path(self, url: str) -> Path:
        """``sqlite:///relative.db`` or ``sqlite:////absolute.db``, as SQLAlchemy has it.

        Raises:
            ConfigurationError: Neither.
        """
        path = url.partition("://")[2]
        if not path.startswith("/") or len(path) < 2:
            raise ConfigurationError(
                [f"{self.setting}: expected sqlite:///relative.db or sqlite:////absolute.db"]
            )
        return Path(path[1:])


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
