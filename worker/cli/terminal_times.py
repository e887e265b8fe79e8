"""How the commands take moments, and show them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.durations import parse_duration
from worker.schedules.schedule import as_utc
from worker.schedules.zones import zone_of

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

__all__ = ["Zone", "full", "in_zone", "iso", "moment_parameter", "short"]


def moment_option(text: str) -> datetime:
    """A moment: ISO 8601, a date (its midnight), or so long ago (``-3h``).

    Without a distance from UTC it has no zone yet: that of ``--tz`` is meant.
    """
    text = text.strip()
    try:
        if text.startswith(("-", "+")):
            distance = parse_duration(text[1:])
            return datetime.now(UTC) + (distance if text[0] == "+" else -distance)
        if text.lower() == "now":
            return datetime.now(UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as exc:
        raise typer.BadParameter(
            f"expected a moment such as 2026-11-21T09:30:00Z, a date, or -3h, got {text!r}"
        ) from exc
    return moment


def in_zone(moment: datetime | None, zone: ZoneInfo) -> datetime | None:
    if moment is None:
        return None
    return as_utc(moment if moment.tzinfo is not None else moment.replace(tzinfo=zone))


def zone_option(text: str) -> ZoneInfo:
    try:
        return zone_of(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def moment_parameter(name: str, text: str) -> Any:
    return typer.Option(name, parser=moment_option, metavar="MOMENT", help=text)


Zone = Annotated[
    Any, typer.Option("--tz", parser=zone_option, metavar="ZONE", help="Show times in this zone.")
]


def short(moment: datetime, zone: Any, now: datetime) -> str:
    """The time; with its date, if that is not today's."""
    local, today = moment.astimezone(zone), now.astimezone(zone)
    return f"{local:%H:%M:%S}" if local.date() == today.date() else f"{local:%Y-%m-%dT%H:%M:%S}"


def full(moment: datetime, zone: Any) -> str:
    return moment.astimezone(zone).isoformat(sep=" ", timespec="milliseconds")


def iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
