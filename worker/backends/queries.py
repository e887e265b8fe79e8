"""Reads a backend's statements from the .sql file beside it. They are never assembled from text."""

from __future__ import annotations

from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["load_queries", "parse_queries"]

MARK = "-- name: "


def load_queries(file: str, package: str = "worker.backends") -> Mapping[str, str]:
    """The statements of ``file``, which lies in ``package``, by their names."""
    return parse_queries(files(package).joinpath(file).read_text(encoding="utf-8"))


def parse_queries(text: str) -> Mapping[str, str]:
    """Each statement stands under a line ``-- name: its_name`` and comments that say what it does.

    What stands before the first name is for readers alone, and so are the comments.

    Raises:
        ValueError: A name stands twice, or has no description or no statement.
    """
    queries: dict[str, str] = {}
    for block in ("\n" + text).split("\n" + MARK)[1:]:
        name, *lines = block.splitlines()
        name = name.strip()
        statement = "\n".join(line for line in lines if not line.startswith("--")).strip()
        if name in queries:
            raise ValueError(f"there are two queries named {name!r}")
        if not statement:
            raise ValueError(f"the query {name!r} has no statement")
        if not lines[0].startswith("--"):
            raise ValueError(f"the query {name!r} has no description: expected a comment below it")
        queries[name] = statement.removesuffix(";")
    return MappingProxyType(queries)
