"""The bookings: which ones start soon, and which of them had their reminder."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from worker.demo.database import Database, rfc3339


class NewBooking(BaseModel):
    """A booking to add; it starts `starts_in_s` seconds from now, which may be negative."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int | str
    starts_in_s: float = Field(1800.0, ge=-1e9, le=1e9)
    reminder_sent: bool = False


_SCHEMA = """
    CREATE TABLE IF NOT EXISTS bookings (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        numeric INTEGER NOT NULL,
        starts_at TEXT NOT NULL,
        reminder_sent INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS bookings_by_start ON bookings (starts_at, seq);
"""
_ADD = """
    INSERT INTO bookings (id, numeric, starts_at, reminder_sent)
    VALUES (:id, :numeric, :starts_at, :reminder_sent)
"""
_GET = "SELECT id, numeric FROM bookings WHERE id = :id"
_UPCOMING = """
    SELECT * FROM bookings
    WHERE starts_at >= :start AND starts_at < :end
    ORDER BY starts_at, seq
"""
_REMIND = "UPDATE bookings SET reminder_sent = 1 WHERE id = :id"
_COUNT = "SELECT count(*) AS count FROM bookings"
_LAST = "SELECT seq FROM sqlite_sequence WHERE name = 'bookings'"
_CLEAR = "DELETE FROM bookings"
_RESTART = "DELETE FROM sqlite_sequence WHERE name = 'bookings'"


class Bookings:
    """The table of bookings."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(_SCHEMA)

    def add(self, bookings: Iterable[NewBooking]) -> None:
        """Add the bookings. Raises sqlite3.IntegrityError on an id that is taken."""
        now = self._database.now()
        rows = [
            {
                "id": str(booking.id),
                "numeric": isinstance(booking.id, int),
                "starts_at": rfc3339(now + timedelta(seconds=booking.starts_in_s)),
                "reminder_sent": booking.reminder_sent,
            }
            for booking in bookings
        ]
        with self._database.transaction():
            self._database.insert_many(_ADD, rows)

    def upcoming(self, start: datetime, end: datetime) -> list[dict[str, object]]:
        """The bookings that start in [start, end), soonest first, reminded or not."""
        window = {"start": rfc3339(start), "end": rfc3339(end)}
        return [
            {
                "id": _id(row),
                "starts_at": row["starts_at"],
                "reminder_sent": bool(row["reminder_sent"]),
            }
            for row in self._database.rows(_UPCOMING, window)
        ]

    def remind(self, booking_id: str) -> int | str | None:
        """Mark the booking as reminded; returns its id as it is listed, or None without one."""
        row = self._database.row(_GET, {"id": booking_id})
        if row is None:
            return None
        self._database.execute(_REMIND, {"id": booking_id})
        return _id(row)

    def count(self) -> int:
        """How many bookings there are."""
        row = self._database.row(_COUNT)
        return 0 if row is None else int(row["count"])

    def last_number(self) -> int:
        """How many bookings there ever were; the deleted ones count, so that no id comes twice."""
        row = self._database.row(_LAST)
        return 0 if row is None else int(row["seq"])

    def clear(self) -> None:
        """Forget all bookings."""
        self._database.execute(_CLEAR)
        self._database.execute(_RESTART)


def _id(row: sqlite3.Row) -> int | str:
    return int(row["id"]) if row["numeric"] else str(row["id"])
