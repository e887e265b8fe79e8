"""Durations as people write them: ``90``, ``90s``, ``5m``, ``1h30m``, ``2d``, ISO 8601.

In code a duration is a ``timedelta``, a number of seconds, or such a text.
"""

from __future__ import annotations

import re
from datetime import timedelta

from worker.redaction import quoted

__all__ = ["as_duration", "format_duration", "parse_duration"]

UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
NUMBER = r"[0-9]+(?:\.[0-9]+)?"
SECONDS = re.compile(NUMBER)
PART = re.compile(rf"({NUMBER})(ms|[dhms])")
WHOLE = re.compile("".join(rf"(?:{NUMBER}{unit})?" for unit in UNITS))
EXPECTED = "expected a duration such as 90s, 5m, 1h30m, 2d, a number of seconds, or ISO 8601"


def as_duration(value: object) -> timedelta:
    """The duration that a ``timedelta``, a number of seconds or a text stands for.

    Raises:
        ValueError: It stands for none, or is not finite. A ``timedelta`` or a number may be
            negative.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except (OverflowError, ValueError) as exc:
            raise ValueError(f"expected a number of seconds, got {quoted(value)}") from exc
    raise ValueError(
        f'expected a timedelta, a number of seconds, or a text such as "5m", got {quoted(value)}'
    )


def parse_duration(text: str) -> timedelta:
    """The duration that ``text`` names.

    Raises:
        ValueError: It names none, or a negative one.
    """
    compact = text.strip()
    try:
        if SECONDS.fullmatch(compact):
            return timedelta(seconds=float(compact))
        if compact[:1] in ("P", "p"):
            parsed = parse_iso(compact.upper())
            if parsed >= timedelta(0):
                return parsed
        elif compact and WHOLE.fullmatch(compact.lower()):
            parts = PART.findall(compact.lower())
            return sum((float(number) * UNITS[unit] for number, unit in parts), timedelta(0))
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{EXPECTED}, got {text!r}")


def parse_iso(text: str) -> timedelta:
    from pydantic import TypeAdapter  # only here, for it takes longer to load than all the rest

    return TypeAdapter(timedelta).validate_python(text)


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads as ``duration``: ``1h30m``, ``250ms``."""
    *whole_units, (last_unit, shortest) = UNITS.items()
    rest = duration
    parts = []
    for unit, length in whole_units:
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    if rest:
        parts.append(f"{rest / shortest:g}{last_unit}")
    return "".join(parts) or "0s"
