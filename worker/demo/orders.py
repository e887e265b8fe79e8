"""The orders: what is listed, what happens to one that is processed, what a cleanup takes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from worker.demo.database import Database, rfc3339

Seconds = Annotated[float, Field(ge=0, le=1e9)]
Refusal = Annotated[int, Field(ge=400, le=599)]


class Status(StrEnum):
    """Where an order stands. Only a pending one can be processed."""

    PENDING = "pending"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"


class Kind(StrEnum):
    """How an order behaves when it is processed; the listing does not tell."""

    NORMAL = "normal"
    """Leaves the pending list at once."""
    LINGERING = "lingering"
    """Is accepted, and leaves the pending list later, or never."""
    POISON = "poison"
    """Is refused each time, and stays pending for ever."""


class NewOrder(BaseModel):
    """An order to add. `linger_s` None means for ever; `refusal` is the status a poison answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int | str
    kind: Kind = Kind.NORMAL
    status: Status = Status.PENDING
    linger_s: Seconds | None = None
    refusal: Refusal = 422
    created_at: AwareDatetime | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """One order as the service holds it."""

    id: int | str
    kind: Kind
    status: Status
    linger_s: float | None
    refusal: int
    created_at: str

    def listed(self) -> dict[str, object]:
        """What the listing shows of it."""
        return {"id": self.id, "status": self.status, "created_at": self.created_at}


# `seq` is the stable order of the listing. The id is stored as text, for that is what a URL can
# carry; `numeric` remembers that it is shown as a JSON number.
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        numeric INTEGER NOT NULL,
        kind TEXT NOT NULL,
        status TEXT NOT NULL,
        linger_s REAL,
        refusal INTEGER NOT NULL,
        created_at TEXT NOT NULL,
        leaves_at TEXT
    );
    CREATE INDEX IF NOT EXISTS orders_by_status ON orders (status, seq);
    CREATE INDEX IF NOT EXISTS orders_leaving ON orders (leaves_at) WHERE leaves_at IS NOT NULL;
"""
_ADD = """
    INSERT INTO orders (id, numeric, kind, status, linger_s, refusal, created_at)
    VALUES (:id, :numeric, :kind, :status, :linger_s, :refusal, :created_at)
"""
_GET = "SELECT * FROM orders WHERE id = :id"
_LIST = """
    SELECT * FROM orders WHERE status = :status ORDER BY seq LIMIT :limit OFFSET :offset
"""
_FINISH = "UPDATE orders SET status = 'done', leaves_at = NULL WHERE id = :id"
_LEAVE_LATER = "UPDATE orders SET leaves_at = :leaves_at WHERE id = :id"
_LEAVE = "UPDATE orders SET status = 'done', leaves_at = NULL WHERE leaves_at <= :now"
_CLEANUP = "DELETE FROM orders WHERE status IN ('done', 'failed') AND created_at < :before"
_COUNT = "SELECT status, count(*) AS count FROM orders GROUP BY status"
_LAST = "SELECT seq FROM sqlite_sequence WHERE name = 'orders'"
_CLEAR = "DELETE FROM orders"
_RESTART = "DELETE FROM sqlite_sequence WHERE name = 'orders'"


class Orders:
    """The table of orders."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(_SCHEMA)

    def add(self, orders: Iterable[NewOrder]) -> None:
        """Append the orders. Raises sqlite3.IntegrityError on an id that is taken."""
        now = self._database.stamp()
        rows = [
            {
                "id": str(order.id),
                "numeric": isinstance(order.id, int),
                "kind": order.kind.value,
                "status": order.status.value,
                "linger_s": order.linger_s,
                "refusal": order.refusal,
                "created_at": rfc3339(order.created_at) if order.created_at else now,
            }
            for order in orders
        ]
        with self._database.transaction():
            self._database.insert_many(_ADD, rows)

    def get(self, order_id: str) -> Order | None:
        """The order whose id reads like this in a URL."""
        self._let_leave()
        row = self._database.row(_GET, {"id": order_id})
        return None if row is None else _order(row)

    def listing(self, status: Status, *, offset: int, limit: int) -> list[Order]:
        """One page of the orders that have this status now, oldest first."""
        self._let_leave()
        page = {"status": status.value, "offset": offset, "limit": limit}
        return [_order(row) for row in self._database.rows(_LIST, page)]

    def finish(self, order_id: str) -> None:
        """The order is done and leaves the pending list."""
        self._database.execute(_FINISH, {"id": order_id})

    def finish_later(self, order_id: str, linger_s: float | None) -> None:
        """The order will be done in `linger_s` seconds; None means never."""
        if linger_s is not None:
            leaves_at = rfc3339(self._database.now() + timedelta(seconds=linger_s))
            self._database.execute(_LEAVE_LATER, {"id": order_id, "leaves_at": leaves_at})

    def cleanup(self, before: datetime) -> int:
        """Delete what is done or failed and was created before this moment; returns how many."""
        return self._database.execute(_CLEANUP, {"before": rfc3339(before)})

    def count(self) -> dict[str, int]:
        """How many orders have each status, those without any included."""
        self._let_leave()
        found = {row["status"]: row["count"] for row in self._database.rows(_COUNT)}
        return {status.value: found.get(status, 0) for status in Status}

    def last_number(self) -> int:
        """How many orders there ever were; the deleted ones count, so that no id comes twice."""
        row = self._database.row(_LAST)
        return 0 if row is None else int(row["seq"])

    def clear(self) -> None:
        """Forget all orders."""
        self._database.execute(_CLEAR)
        self._database.execute(_RESTART)

    def _let_leave(self) -> None:
        self._database.execute(_LEAVE, {"now": self._database.stamp()})


def _order(row: sqlite3.Row) -> Order:
    return Order(
        id=int(row["id"]) if row["numeric"] else row["id"],
        kind=Kind(row["kind"]),
        status=Status(row["status"]),
        linger_s=row["linger_s"],
        refusal=row["refusal"],
        created_at=row["created_at"],
    )
