"""What a task reports of its progress, as a short JSON object. Whatever it reports, it is made to
fit: an observation never fails the work."""

from __future__ import annotations

import json
import math
from datetime import date, time
from typing import Any, NamedTuple

from worker.redaction import cut, quoted, writable

__all__ = ["LONGEST_PROGRESS", "Progress", "progress_of"]

LONGEST_PROGRESS = 1000
"""Characters of JSON: it is stored again and again, and sent to all who watch."""
LONGEST_TEXT = 200
DEEPEST = 6
MOST_ITEMS = 100
MOST_BITS = 128


class Progress(NamedTuple):
    """A report as it is recorded.

    Attributes:
        percent: From 0 to 100.
        text: All of it, as a JSON object.
        problems: What had to be changed.
    """

    percent: float
    text: str
    problems: list[str]


def progress_of(percent: object, meta: dict[str, Any], last: float) -> Progress:
    """The report, made to fit.

    Args:
        last: The percentage that is recorded in the place of one that is not a number.
    """
    problems: list[str] = []
    number = percentage(percent, last, problems)
    told: dict[str, Any] = {"percent": number}
    told.update((name, plain(value, name, problems, DEEPEST)) for name, value in meta.items())
    text = json.dumps(told)
    if len(text) > LONGEST_PROGRESS:
        problems.append(f"expected up to {LONGEST_PROGRESS} characters as JSON, got {len(text)}")
        text = shortened(told)
    return Progress(number, text, problems)


def as_float(value: Any) -> float:
    return float(value)


def percentage(value: object, last: float, problems: list[str]) -> float:
    try:
        number = value if type(value) is int else as_float(value)
        fits = not isinstance(value, str | bytes | bool) and number == number  # NaN is not
    except Exception:  # a value may have code of its own for this
        fits = False
    if not fits:
        problems.append(f"expected 0 to 100 percent, got {quoted(value)}")
        return last
    if not 0 <= number <= 100:
        problems.append(f"expected 0 to 100 percent, got {quoted(value)}")
        return max(0, min(100, number))
    return number


def plain(value: object, where: str, problems: list[str], levels: int) -> Any:
    """What JSON can hold of a value."""
    if value is None or isinstance(value, bool):
        return value
    try:
        if isinstance(value, str):
            return writable(str(value))
        if isinstance(value, int) and value.bit_length() <= MOST_BITS:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if levels and isinstance(value, dict) and len(value) <= MOST_ITEMS:
            return {
                cut(writable(str(key))): plain(item, where, problems, levels - 1)
                for key, item in value.items()
            }
        if levels and isinstance(value, list | tuple) and len(value) <= MOST_ITEMS:
            return [plain(item, where, problems, levels - 1) for item in value]
    except Exception:  # as above
        pass
    problems.append(f"{where}: expected a JSON value, got a {type(value).__name__}")
    return text_of(value)


def text_of(value: object) -> str:
    try:
        if isinstance(value, date | time):
            return value.isoformat()
        return cut(writable(str(value)), LONGEST_TEXT)
    except Exception:  # as above
        return f"a {type(value).__name__}"


def shortened(told: dict[str, Any]) -> str:
    """The first entries that fit, their texts cut."""
    kept: dict[str, Any] = {}
    left_out = 0
    for name, value in told.items():
        short = cut(value, LONGEST_TEXT) if isinstance(value, str) else value
        more = {**kept, cut(name, LONGEST_TEXT): short}
        if len(json.dumps({**more, "…": "999999 more"})) <= LONGEST_PROGRESS:
            kept = more
        else:
            left_out += 1
    if left_out:
        kept["…"] = f"{left_out} more"
    return json.dumps(kept)
