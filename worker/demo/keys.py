"""Idempotency keys: the same request twice has its effect once.

Follows the IETF draft "The Idempotency-Key HTTP Header Field" (httpapi working group): no key is
400, a key that came with another request is 422, a key whose first request is still being worked
on is 409, and anything else with a known key gets the first answer again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from worker.demo.answer import Answer, Refused
from worker.demo.database import Database

REPLAYED = ("idempotency-replayed", "true")

# What says "not now" rather than "no": the same request may fare better later, so that keeping
# such an answer would make a passing trouble last for ever.
_LATER = frozenset({408, 409, 425, 429})

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS keys (
        key TEXT PRIMARY KEY,
        fingerprint TEXT NOT NULL,
        status INTEGER NOT NULL,
        content BLOB NOT NULL,
        at TEXT NOT NULL
    ) WITHOUT ROWID;
"""
_GET = "SELECT fingerprint, status, content FROM keys WHERE key = :key"
_KEEP = """
    INSERT INTO keys (key, fingerprint, status, content, at)
    VALUES (:key, :fingerprint, :status, :content, :at)
"""
_CLEAR = "DELETE FROM keys"


def fingerprint(method: str, target: str, body: bytes) -> str:
    """What makes two requests the same one: method, path with query, body."""
    digest = hashlib.sha256(f"{method} {target}\n".encode())
    digest.update(body)
    return digest.hexdigest()


def is_definite(status: int) -> bool:
    """Whether repeating the request could not change this outcome."""
    return status < 500 and status not in _LATER


class Keys:
    """The answers that were given, by key, and the keys that are being worked on.

    The answers are in the database, so that they outlive a crash; what is being worked on is in
    memory, so that it does not.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._in_flight: dict[str, str] = {}
        database.create(_SCHEMA)

    @contextmanager
    def claim(self, key: str, digest: str) -> Iterator[None]:
        """Work on the key, alone. `digest` is the request's fingerprint.

        Raises `Refused` with 409 if the key is being worked on, or 422 if by another request.
        """
        other = self._in_flight.get(key)
        if other is not None and other != digest:
            raise Refused(422, "this Idempotency-Key came with another request")
        if other is not None:
            raise Refused(409, "a request with this Idempotency-Key is in flight")
        self._in_flight[key] = digest
        try:
            yield
        finally:
            del self._in_flight[key]

    def replay(self, key: str, digest: str) -> Answer | None:
        """The answer that the key got before, or None.

        Raises `Refused` with 422 if the key came with another request.
        """
        row = self._database.row(_GET, {"key": key})
        if row is None:
            return None
        if row["fingerprint"] != digest:
            raise Refused(422, "this Idempotency-Key came with another request")
        return Answer(row["status"], row["content"], (REPLAYED,), replayed=True)

    def keep(self, key: str, digest: str, answer: Answer) -> None:
        """Remember a definite answer. Call it in the transaction that has the effect.

        Kept apart from the effect, a crash between the two would let the effect happen again.
        """
        if not is_definite(answer.status):
            return
        row = {
            "key": key,
            "fingerprint": digest,
            "status": answer.status,
            "content": answer.content,
            "at": self._database.stamp(),
        }
        self._database.insert(_KEEP, row)

    def clear(self) -> None:
        """Forget all answers."""
        self._database.execute(_CLEAR)
