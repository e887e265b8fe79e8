"""What happened: every effect the service had, and every request it received.

The two differ, and that is the point. A request whose answer was lost is in both lists; its
repetition with the same idempotency key is a second request and no second effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worker.demo.database import Database


class Effect(StrEnum):
    """What a call can do to the world."""

    ORDER_PROCESSED = "order_processed"
    INVOICE_SENT = "invoice_sent"
    REMINDER_SENT = "reminder_sent"
    SYNC = "sync"
    CLEANUP = "cleanup"


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived: its method, the template of its path, whom it is about."""

    method: str
    route: str
    subject: str | None
    key: str | None


_SCHEMA = """
    CREATE TABLE IF NOT EXISTS effects (
        seq INTEGER PRIMARY KEY,
        at TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT,
        key TEXT,
        count INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS requests (
        seq INTEGER PRIMARY KEY,
        at TEXT NOT NULL,
        method TEXT NOT NULL,
        route TEXT NOT NULL,
        subject TEXT,
        key TEXT,
        status INTEGER,
        fault TEXT,
        replayed INTEGER NOT NULL DEFAULT 0
    );
"""
_ADD_EFFECT = """
    INSERT INTO effects (at, kind, subject, key, count) VALUES (:at, :kind, :subject, :key, :count)
"""
_EFFECTS = "SELECT at, kind, subject, key, count FROM effects ORDER BY seq"
_COUNT_EFFECTS = "SELECT kind, count(*) AS count FROM effects GROUP BY kind"
# How many effects there are beyond the first one of the same thing.
_COUNT_REPEATED = """
    SELECT count(*) - count(DISTINCT kind || ' ' || subject) AS count
    FROM effects WHERE subject IS NOT NULL
"""
_RECEIVE = """
    INSERT INTO requests (at, method, route, subject, key)
    VALUES (:at, :method, :route, :subject, :key)
"""
_ANSWER = """
    UPDATE requests SET status = :status, fault = :fault, replayed = :replayed WHERE seq = :seq
"""
_REQUESTS = """
    SELECT at, method, route, subject, key, status, fault, replayed FROM requests ORDER BY seq
"""
_COUNT_REQUESTS = """
    SELECT coalesce(status, 'none') AS status, count(*) AS count FROM requests GROUP BY 1
"""
_CLEAR_EFFECTS = "DELETE FROM effects"
_CLEAR_REQUESTS = "DELETE FROM requests"


class Journal:
    """The tables of effects and of requests; both only grow."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(_SCHEMA)

    def effect(
        self, kind: Effect, *, subject: str | None = None, key: str | None = None, count: int = 1
    ) -> None:
        """Write down one effect. `count` is how many things it touched, which a cleanup tells."""
        row = {"kind": kind.value, "subject": subject, "key": key, "count": count}
        self._database.insert(_ADD_EFFECT, {"at": self._database.stamp(), **row})

    def received(self, request: Received) -> int:
        """Write down a request before anything is done about it; returns its number."""
        row = {
            "at": self._database.stamp(),
            "method": request.method,
            "route": request.route,
            "subject": request.subject,
            "key": request.key,
        }
        return self._database.insert(_RECEIVE, row)

    def answered(
        self, number: int, *, status: int | None, fault: str | None, replayed: bool
    ) -> None:
        """Complete a request's row. Status None: it never got to see one."""
        row = {"seq": number, "status": status, "fault": fault, "replayed": replayed}
        self._database.execute(_ANSWER, row)

    def effects(self) -> list[dict[str, object]]:
        """All effects, first one first; a subject is the id as text."""
        return [dict(row) for row in self._database.rows(_EFFECTS)]

    def requests(self) -> list[dict[str, object]]:
        """All requests, first one first."""
        rows = self._database.rows(_REQUESTS)
        return [{**dict(row), "replayed": bool(row["replayed"])} for row in rows]

    def count_effects(self) -> dict[Effect, int]:
        """How many effects of each kind there were, the kinds without any included."""
        found = {row["kind"]: int(row["count"]) for row in self._database.rows(_COUNT_EFFECTS)}
        return {kind: found.get(kind.value, 0) for kind in Effect}

    def count_repeated(self) -> int:
        """How many effects did again what another one had done. Zero is what a worker wants."""
        row = self._database.row(_COUNT_REPEATED)
        return 0 if row is None else int(row["count"])

    def count_requests(self) -> dict[str, int]:
        """How many requests got each status; "none" counts those that never saw one."""
        return {str(row["status"]): row["count"] for row in self._database.rows(_COUNT_REQUESTS)}

    def clear(self) -> None:
        """Forget everything."""
        self._database.execute(_CLEAR_EFFECTS)
        self._database.execute(_CLEAR_REQUESTS)
