"""What other schedulers accept and this one does not, and what to write here instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.durations import parse_duration
from worker.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MACROS", "field_count_hint", "foreign_hint", "item_hint"]

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
INSTEAD = {
    "minutely": "write '* * * * *'",
    "every_minute": "write '* * * * *'",
    "every_second": "write interval='1s' instead of cron",
    "quarterly": "write '0 0 1 1,4,7,10 *'",
    "semiannually": "write '0 0 1 1,7 *'",
    "biannually": "write '0 0 1 1,7 *'",
    "weekdays": "write '0 0 * * MON-FRI'",
    "weekends": "write '0 0 * * SAT,SUN'",
    "reboot": "a start of the worker is not a moment of the calendar; run the task with "
    "`worker run` after the start, or give it an interval: its latest slot runs at the first start",
}
ZONE = re.compile(r"(?:CRON_)?TZ=(\S*)\s*(.*)", re.IGNORECASE | re.DOTALL)
EVERY = re.compile(r"@?every(?:\s+(.*))?", re.IGNORECASE | re.DOTALL)
CALL = re.compile(r"(rate|cron|at)\s*\((.*)\)?", re.IGNORECASE | re.DOTALL)
YEAR = re.compile(r"(?:19|20)\d\d(?:[-,/]\d+)*|\*/\d+")
NAME = "(?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC|SUN|MON|TUE|WED|THU|FRI|SAT)[A-Z]*"
CRON_LIKE = re.compile(rf"(?:{NAME}|[\d*?LW]+|[,/#-](?!\w{{2,}}/))+", re.IGNORECASE)
QUARTZ_DAYS = "in Quartz and AWS day 1 of the week is Sunday, here it is Monday: use names"
RANDOM = "to spread the load use interval=, whose phase follows from the task's name, or jitter="


def foreign_hint(text: str) -> str | None:
    """What to write instead of a whole text that is not five fields; ``None`` if it may be."""
    text = text.strip()
    if (zone := ZONE.match(text)) is not None:
        return (
            f"a zone is not part of the expression; write timezone={zone[1]!r} (`--tz {zone[1]}` "
            f"with --cron) beside cron={zone[2].strip()!r}"
        )
    if (call := CALL.match(text)) is not None:
        inner = call[2].rstrip(")").strip()
        match call[1].lower():
            case "rate":
                return f"{rate_hint(inner)} instead of cron"
            case "at":
                return f"write at={inner!r}, with its distance from UTC, instead of cron"
            case _:
                return f"write the fields without cron(…); {field_count_hint(inner.split())}"
    if (every := EVERY.fullmatch(text)) is not None:
        return f"{rate_hint(every[1] or '1h')} instead of cron"
    if text[:1] in ("'", '"', "`"):
        return "remove the quotes"
    if any(field.startswith("#") for field in text.split()):
        return "a comment is not part of the expression; remove what begins with '#'"
    strange = next((char for char in text if not char.isascii()), None)
    if strange is not None:
        return f"{strange!r} is not an ASCII character; write digits as 0-9 and a range with '-'"
    return word_hint(text)


def word_hint(text: str) -> str | None:
    """The same of a text that is one word, with or without an ``@``."""
    words = text.split()
    if not words or text.lower() in MACROS:
        return None
    first = words[0].lower()
    if first in MACROS and len(words) > 1:
        return f"{words[0]} stands alone; remove {' '.join(words[1:])!r}"
    name = first.removeprefix("@")
    if name in INSTEAD and len(words) == 1:
        return f"{INSTEAD[name]}"
    if first.startswith("@"):
        return f"there is no {words[0]!r}{nearest(first, MACROS)}"
    if len(words) == 1:
        if f"@{name}" in MACROS:
            return f"did you mean '@{name}'?"
        try:
            parse_duration(text)
        except ValueError:
            return None
        return f"write interval={text!r} instead of cron"
    return None


def rate_hint(text: str) -> str:
    """``5 minutes``, ``1h30m``: how an interval of that length is written."""
    number, _, unit = text.strip().partition(" ")
    short = f"{number}{unit.strip()[:1].lower()}" if number.isdecimal() and unit else text.strip()
    try:
        parse_duration(short)
    except ValueError:
        short = "5m"
    return f"write interval={short!r}"


def field_count_hint(fields: Sequence[str]) -> str:
    """What is wrong with a number of fields that is not five."""
    count = len(fields)
    if count < 5:
        return f"these are {count} fields" if count != 1 else "this is one field"
    extra = fields[5:]
    if any(not CRON_LIKE.fullmatch(field) for field in extra):
        return f"leave out what follows the fifth field: {' '.join(extra)!r}"
    if count == 5:
        return QUARTZ_DAYS
    no_year = "there is no year field; leave it out and give start_at= and end_at=, or at= for once"
    seconds = "the shortest step is a minute, leave the seconds out"
    if count == 7:
        return f"seven fields are Quartz's: {seconds}; {no_year}; {QUARTZ_DAYS}"
    if count > 7:
        return f"these are {count} fields; write one expression for each schedule"
    if YEAR.fullmatch(fields[5]):
        return no_year
    if "?" in (fields[2], fields[4]) and "?" not in (fields[3], fields[5]):
        return f"six fields with '?' there are AWS's: {no_year}; {QUARTZ_DAYS}"
    quartz = f"; {QUARTZ_DAYS}" if "?" in fields else ""
    return f"{seconds}{quartz}"


def item_hint(item: str, field: str) -> str:
    """What to write instead of an item of a field; empty if nothing is known of it."""
    upper = item.upper()
    if "~" in item or re.match(r"(?:H|R)(?:\W|$)", upper):
        return f"; a random or hashed value is not supported: {RANDOM}"
    if upper == "L" and field == "day-of-week":
        return "; write SAT for each Saturday, or SATL for the last Saturday of a month"
    if field == "day-of-month" and "L" in upper:
        return "; L, the last day, stands alone or in a list, without an offset, range or step"
    if field == "day-of-month" and "W" in upper:
        return "; of W only LW is supported, the last day of a month from Monday to Friday"
    if "#" in item:
        return "; '#' takes one day of the week, such as FRI#2, in the day-of-week field"
    if ":" in item:
        return "; write minute and hour as two fields, such as '30 2 * * *' for 02:30"
    if item.startswith("/"):
        return f"; write *{item}"
    if item.count("/") > 1:
        return "; one step for each item"
    if "*" in item and not item.startswith("*/"):
        return "; '*' stands alone, or with a step as in */5"
    return ""
