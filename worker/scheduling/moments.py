"""How moments are told to people."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from worker.durations import format_duration

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["at"]


def at(moment: datetime, now: datetime) -> str:
    """A moment, and how far it is: ``2026-11-21 09:30:00Z (in 5m)``."""
    distance = timedelta(seconds=round(abs(moment - now).total_seconds()))
    if distance > timedelta(hours=1):
        distance = timedelta(minutes=round(distance / timedelta(minutes=1)))
    far = format_duration(distance) if distance else "0s"
    told = f"in {far}" if moment > now else f"{far} ago"
    return f"{moment:%Y-%m-%d %H:%M:%S}Z ({told})"
