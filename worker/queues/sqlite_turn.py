"""One transaction on the jobs in a SQLite file, and who is to hear of it when it is committed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.backends.queries import load_queries
from worker.backends.sqlite_file import storable

if TYPE_CHECKING:
    import sqlite3

    from worker.jobs.job import JobId

__all__ = ["News", "Turn", "encode", "key_text"]

QUERIES = load_queries("sqlite.sql", "worker.queues")

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(slots=True)
class News:
    """What waiters may want to know.

    Attributes:
        queues: Those in which there is something to look at.
        ended: Jobs that have their final state now.
        due: The next moment, in microseconds, at which something comes by itself.
        elsewhere: Another process, or another connection, has changed something.
    """

    queues: set[str] = field(default_factory=set)
    ended: list[JobId] = field(default_factory=list)
    due: int | None = None
    elsewhere: bool = False

    def comes(self, moment: int | None) -> None:
        """Something comes by itself at a moment."""
        if moment is not None and (self.due is None or moment < self.due):
            self.due = moment

    def add(self, more: News) -> None:
        self.queues |= more.queues
        self.ended += more.ended
        self.comes(more.due)
        self.elsewhere |= more.elsewhere


@dataclass(slots=True)
class Turn:
    """What is done at one moment, by one connection.

    Attributes:
        now: This machine's wall clock, in microseconds.
    """

    connection: sqlite3.Connection
    now: int
    news: News = field(default_factory=News)

    def run(self, query: str, **values: Any) -> int:
        """Run a statement; how many rows it changed."""
        return self.connection.execute(QUERIES[query], values).rowcount

    def row(self, query: str, **values: Any) -> Any:
        """The only row of a query, or ``None``."""
        return self.connection.execute(QUERIES[query], values).fetchone()

    def listed(self, query: str, **values: Any) -> list[Any]:
        """What a query gives as one JSON list."""
        found: list[Any] = json.loads(self.row(query, **values)[0])
        return found

    def rows(self, query: str, **values: Any) -> list[Any]:
        return self.connection.execute(QUERIES[query], values).fetchall()


def key_text(text: str) -> str:
    """A text of somebody's own making. SQLite would cut it off at a null sign."""
    return storable(text.replace("\0", "\\0"))
