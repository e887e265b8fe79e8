"""Books and entries as plain JSON values, for the backends that store text."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from worker.ledger.book import Book, Entry, Outcome, Pause, ScheduleVersion, SessionId
from worker.ledger.presence import Presence
from worker.model import Trigger

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "book_from",
    "book_to",
    "entry_from",
    "entry_to",
    "from_micros",
    "presence_from",
    "presence_to",
    "to_micros",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 in UTC: exact, and in order when compared."""
    return (moment - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def optional_micros(moment: datetime | None) -> int | None:
    return None if moment is None else to_micros(moment)


def optional_moment(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def book_to(book: Book) -> dict[str, Any]:
    """What of a book is kept, its version and its entries aside."""
    pause = book.pause
    return {
        "versions": [version_to(version) for version in book.versions],
        "settled": optional_micros(book.settled),
        # For workers from before there were versions, which go on from there.
        "cursor": optional_micros(book.cursor),
        "schedule": book.schedule,
        "known_since": optional_micros(book.known_since),
        "pause": None if pause is None else [to_micros(pause.at), pause.by, pause.note],
        "runs": book.runs,
        "runs_of": dict(book.runs_of),
        "failures": book.failures,
        "last_success": optional_micros(book.last_success),
        "last_outcome": book.last_outcome,
        "last_error": book.last_error,
        "last_ended": optional_micros(book.last_ended),
        "counts": dict(book.counts),
    }


def book_from(
    task: str, version: int, kept: Mapping[str, Any], active: tuple[Entry, ...] = ()
) -> Book:
    """The book that `book_to` took apart. What a newer worker added is passed over.

    A book that was written before there were versions has one cursor: its task goes on from there.
    """
    pause = kept.get("pause")
    outcome = kept.get("last_outcome")
    return Book(
        task=task,
        version=version,
        versions=versions_from(kept),
        settled=optional_moment(kept.get("settled")),
        known_since=optional_moment(kept.get("known_since")),
        pause=None if pause is None else Pause(from_micros(pause[0]), pause[1], pause[2]),
        runs=kept.get("runs", 0),
        runs_of=kept.get("runs_of", {}),
        failures=kept.get("failures", 0),
        last_success=optional_moment(kept.get("last_success")),
        last_outcome=None if outcome is None else Outcome(outcome),
        last_error=kept.get("last_error"),
        last_ended=optional_moment(kept.get("last_ended")),
        counts=kept.get("counts", {}),
        active=active,
    )


def version_to(version: ScheduleVersion) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "spec": version.spec,
        "text": version.text,
        "since": to_micros(version.since),
        "cursor": to_micros(version.cursor),
        "sessions": list(version.sessions),
    }
    if version.until is not None:
        kept["until"] = to_micros(version.until)
    if version.served is not None:
        kept["served"] = to_micros(version.served)
    if version.jitter:
        kept["jitter"] = version.jitter // MICROSECOND
    if version.max_runs is not None:
        kept["max_runs"] = version.max_runs
    return kept


def version_from(kept: Mapping[str, Any]) -> ScheduleVersion:
    return ScheduleVersion(
        spec=kept["spec"],
        text=kept["text"],
        since=from_micros(kept["since"]),
        cursor=from_micros(kept["cursor"]),
        until=optional_moment(kept.get("until")),
        sessions=tuple(map(SessionId, kept["sessions"])),
        served=optional_moment(kept.get("served")),
        jitter=timedelta(microseconds=kept.get("jitter", 0)),
        max_runs=kept.get("max_runs"),
    )


def versions_from(kept: Mapping[str, Any]) -> tuple[ScheduleVersion, ...]:
    if "versions" in kept:
        return tuple(map(version_from, kept["versions"]))
    text, cursor = kept.get("schedule"), optional_moment(kept.get("cursor"))
    if not text or cursor is None:
        return ()
    # Its text does not say enough to make the schedule from it, so it owes nothing.
    return (ScheduleVersion(spec="", text=text, since=cursor, cursor=cursor),)


def entry_to(entry: Entry) -> dict[str, Any]:
    """An entry; moments as microseconds."""
    return {
        "task": entry.task,
        "slot": to_micros(entry.slot),
        "trigger": entry.trigger.value,
        "outcome": entry.outcome.value,
        "recorded_at": to_micros(entry.recorded_at),
        "last": optional_micros(entry.last),
        "count": entry.count,
        "run_id": entry.run_id,
        "session": entry.session,
        "replica": entry.replica,
        "late_ms": entry.late_ms,
        "duration_ms": entry.duration_ms,
        "error": entry.error,
        "cancel": entry.cancel,
        "overlap": entry.overlap,
        "losses": entry.losses,
    }


def entry_from(kept: Mapping[str, Any], *, alive: bool = True) -> Entry:
    """The entry that `entry_to` took apart."""
    session = kept["session"]
    return Entry(
        task=kept["task"],
        slot=from_micros(kept["slot"]),
        trigger=Trigger(kept["trigger"]),
        outcome=Outcome(kept["outcome"]),
        recorded_at=from_micros(kept["recorded_at"]),
        last=optional_moment(kept["last"]),
        count=kept["count"],
        run_id=kept["run_id"],
        session=None if session is None else SessionId(session),
        replica=kept["replica"],
        alive=alive,
        late_ms=kept["late_ms"],
        duration_ms=kept["duration_ms"],
        error=kept["error"],
        cancel=bool(kept["cancel"]),
        overlap=kept["overlap"],
        losses=kept["losses"],
    )


def presence_to(presence: Presence | None) -> str | None:
    """What a session is for, as a text in ASCII."""
    if presence is None:
        return None
    return json.dumps(
        {
            "hand": presence.hand,
            "slots": presence.slots,
            "queues": presence.queues,
            "only": presence.only,
        }
    )


def presence_from(text: str | None) -> Presence | None:
    """What `presence_to` made; what a newer version says besides is passed over."""
    if text is None:
        return None
    kept = json.loads(text)
    return Presence(
        hand=kept["hand"],
        slots=kept["slots"],
        queues=tuple(kept["queues"]),
        only=tuple(kept["only"]),
    )
