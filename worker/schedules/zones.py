"""The time zones that a schedule, a setting or a command may name."""

from __future__ import annotations

import re
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

__all__ = ["zone_of"]

EXPECTED = "expected a time zone's IANA name, such as Europe/Berlin or UTC"
PLACEHOLDERS = frozenset({"localtime", "factory", "posixrules"})
"""Names whose meaning is a matter of the machine. In lower case."""
FOLDERS = {
    "right": "right/ counts leap seconds, so its clocks are off by 27 s",
    "posix": "posix/ exists on some machines only",
    "systemv": "SystemV/ exists on some machines only",
}
OFFSET = re.compile(r"(?:UTC|GMT)?([+-])0?(\d{1,2})(?::?00)?", re.IGNORECASE)
ALIKE, SHORTEST_ALIKE, LONGEST = 0.8, 6, 60
FURTHEST_EAST, FURTHEST_WEST = 14, 12  # whole hours for which IANA has an Etc/GMT name


def zone_of(name: str) -> ZoneInfo:
    """The time zone with the IANA name ``name``; the same on every machine that has it.

    Raises:
        ValueError: There is none, this machine does not know it, or it differs by machine.
    """
    reason = why_refused(name)
    if reason is None:
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            reason = ""
    raise ValueError(f"{EXPECTED}, got {name!r}{reason}{suggestion(name)}")


def why_refused(name: str) -> str | None:
    """Why a name is refused although the machine may have a zone of that name."""
    folder, slash, _ = name.strip().lower().partition("/")
    if slash and folder in FOLDERS:
        return f": {FOLDERS[folder]}"
    if name.strip().lower() in PLACEHOLDERS:
        return ": it is a different zone on each machine"
    return None


def suggestion(name: str) -> str:
    """What was probably meant, as the end of an error message."""
    wanted = name.strip().lower().replace(" ", "_")
    wanted = wanted.rpartition("zoneinfo/")[2]
    folder, _, rest = wanted.partition("/")
    if folder in FOLDERS:
        wanted = rest
    offset = OFFSET.fullmatch(wanted)
    if offset is not None:
        return fixed_offset(offset[1], int(offset[2]))
    if wanted == "z":
        return " (did you mean 'UTC'?)"
    known = sorted(zone for zone in available_timezones() if why_refused(zone) is None)
    by_text = {city_of(zone): zone for zone in reversed(known)}
    by_text |= {zone.lower(): zone for zone in known}
    # Of a short name, such as CEST, one letter less can be a zone on another continent.
    likeness = ALIKE if len(wanted) >= SHORTEST_ALIKE else 1.0
    close = get_close_matches(wanted[:LONGEST], by_text, n=1, cutoff=likeness)
    return f" (did you mean {by_text[close[0]]!r}?)" if close else ""


def fixed_offset(sign: str, hours: int) -> str:
    """How a fixed distance from UTC is written. The sign of the IANA names is the other one."""
    furthest = FURTHEST_EAST if sign == "+" else FURTHEST_WEST
    if hours > furthest:
        return ""
    meant = f"Etc/GMT{'-' if sign == '+' else '+'}{hours}" if hours else "UTC"
    return f": a distance from UTC is written as {meant!r}, and its clocks never change"


def city_of(zone: str) -> str:
    return zone.rpartition("/")[2].lower()
