"""A preview's lines as people and programs read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from worker.ledger.book import Outcome
    from worker.scheduling.preview_model import Line

__all__ = ["HEAD", "add_totals", "as_json", "rows", "totals"]

HEAD = ("task", "slot", "outcome", "started", "replica", "note")
"""The names of the columns of `rows`."""
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def rows(lines: Iterable[Line], zone: ZoneInfo) -> list[tuple[str, ...]]:
    """The cells of a table: times on the clocks of ``zone``, each with its distance from UTC.

    A row of slots is shown by its first and its last, and how many they are.
    """
    return [
        (
            line.task,
            slot_cell(line, zone),
            line.outcome.value,
            told(line.started_at, zone, line.slot) if line.started_at else "",
            line.replica or "",
            line.note,
        )
        for line in lines
    ]


def as_json(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """What `json.dumps` takes: moments in UTC as ISO 8601 has them."""
    return [
        {
            "task": line.task,
            "slot": line.slot.isoformat(),
            "last": line.last.isoformat() if line.last else None,
            "count": line.count,
            "outcome": line.outcome.value,
            "started_at": line.started_at.isoformat() if line.started_at else None,
            "replica": line.replica,
            "note": line.note,
        }
        for line in lines
    ]


def totals(lines: Iterable[Line]) -> dict[str, dict[Outcome, int]]:
    """How many slots of each task have which outcome."""
    found: dict[str, dict[Outcome, int]] = {}
    add_totals(found, lines)
    return found


def add_totals(found: dict[str, dict[Outcome, int]], lines: Iterable[Line]) -> None:
    """Count further lines."""
    for line in lines:
        counts = found.setdefault(line.task, {})
        counts[line.outcome] = counts.get(line.outcome, 0) + line.count


def slot_cell(line: Line, zone: ZoneInfo) -> str:
    first = told(line.slot, zone)
    if line.last is None:
        return first
    return f"{first} … {told(line.last, zone, line.slot)} ({line.count})"


def told(moment: datetime, zone: ZoneInfo, beside: datetime | None = None) -> str:
    """``Sun 2026-10-25 02:30:00 +02:00``, without the day if it is that of what stands beside."""
    local = moment.astimezone(zone)
    text = local.isoformat(" ", "milliseconds" if local.microsecond else "seconds")
    clock, distance = text[11:-6], text[-6:]
    if beside is not None and local.date() == beside.astimezone(zone).date():
        return f"{clock} {distance}"
    return f"{DAYS[local.weekday()]} {local.date()} {clock} {distance}"
