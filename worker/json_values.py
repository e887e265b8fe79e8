"""JSON that means exactly what the value means: everything else is refused, with its place.

Python's and pydantic's writers turn some values into others silently: NaN becomes ``null``, two
keys become one. Their readers accept what JSON does not have. This module finds such values.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import count
from typing import Any

from worker.redaction import cut

__all__ = ["NotJson", "check_json", "check_keys", "check_written", "is_suspicious", "read_json"]

MOST_NESTED = 200
"""How deeply pydantic reads JSON."""
MOST_BITS = 14_000
"""Shorter integers have fewer than the 4,300 digits that Python reads and writes."""
INTEGER_LIMIT = "expected an integer of up to 4,300 digits, got a longer one"
TOO_DEEP = f"expected up to {MOST_NESTED} levels, got more"

FORM = bytes.maketrans(
    bytes(range(256)),
    bytes(48 if chr(c).isdigit() and c < 128 else 101 if c in b"eE" else 32 for c in range(256)),
)
"""What is left of a text to find large numbers in it: ``0`` for each digit, ``e`` and spaces."""
LARGE_EXPONENT, MANY_DIGITS = b"0e000", b"0" * 309
"""``1e999`` is read as infinity, and so are 309 digits where a float is expected."""

EXPONENT = re.compile(r"[0-9][eE]\+?[0-9]{3}")
LONGEST_SEARCHED = 309
"""In characters: no shorter text has 309 digits."""

TEXT = frozenset({str})
SCALARS = frozenset({str, int, float, bool, type(None)})

Fault = list[str]
"""What is wrong, then the keys that lead to it, the innermost first."""


class NotJson(ValueError):
    """A value that JSON cannot hold, or a text that is not JSON. The message repeats no value."""


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        NotJson: It is not JSON, holds NaN or a number that is too large, names a key twice, is
            nested too deeply, or holds half a surrogate pair.
    """
    try:
        value = json.loads(text, object_pairs_hook=without_repetition)
    except NotJson:
        raise
    except RecursionError as exc:
        raise NotJson(TOO_DEEP) from exc
    except json.JSONDecodeError as exc:
        raise NotJson(f"expected JSON: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise NotJson("expected UTF-8 text") from exc
    except ValueError as exc:
        raise NotJson(INTEGER_LIMIT) from exc
    check_json(value)
    return value


def check_json(value: object) -> None:
    """See that JSON can hold the value exactly.

    Raises:
        NotJson: It cannot; the message says where.
    """
    report(exact_fault(value, 0))


def check_written(value: object) -> None:
    """See that nothing is lost when pydantic writes the value as JSON, which knows more types.

    Raises:
        NotJson: Something is; the message says where.
    """
    report(lost_in_writing(value, 0))


def is_suspicious(text: str) -> bool:
    """Whether a JSON text may hold a number that is not finite. False is certain, True is not."""
    if "NaN" in text or "Infinity" in text:
        return True
    if len(text) < LONGEST_SEARCHED:  # a translation costs short texts more than a search
        return EXPONENT.search(text) is not None
    form = text.encode("utf-8", "surrogatepass").translate(FORM, delete=b"+")
    return LARGE_EXPONENT in form or MANY_DIGITS in form


def check_keys(value: object) -> None:
    """See that no two keys of a value become one when it is written as JSON.

    Raises:
        NotJson: Two do; the message says where.
    """
    report(equal_keys(value, 0))


def equal_keys(value: object, depth: int) -> Fault | None:
    if depth >= MOST_NESTED:
        return [TOO_DEEP]
    if isinstance(value, dict):
        if not TEXT.issuperset(map(type, value)):
            for key in value:
                if isinstance(key, float | Decimal) and (fault := scalar_fault(key)):
                    return [*fault, "a key"]
            names = {str(key) for key in value}
            if len(names) < len(value):
                return ["expected keys that differ as texts, got two that are the same"]
        inside: Iterable[object] = value.values()
        items: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, list | tuple):
        inside, items = value, zip(count(), value)
    else:
        return None
    if SCALARS.issuperset(map(type, inside)):
        return None
    return among(equal_keys, items, depth + 1)


def report(fault: Fault | None) -> None:
    if fault is not None:
        problem, *keys = fault
        where = ".".join(cut(key) for key in reversed(keys[-20:]))
        raise NotJson(f"{where}: {problem}" if where else problem)


def exact_fault(value: object, depth: int) -> Fault | None:
    """The first part that JSON does not have. Lists and tuples are both arrays."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str | int | float):
        return scalar_fault(value)
    if depth >= MOST_NESTED:
        return [TOO_DEEP]
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                return [f"expected texts as keys, got a {type(key).__name__}"]
            if fault := scalar_fault(key) or exact_fault(item, depth + 1):
                return [*fault, key if key.isprintable() else repr(key)]
        return None
    if isinstance(value, list | tuple):
        return among(exact_fault, zip(count(), value), depth + 1)
    return [f"expected a JSON value, got a {type(value).__name__}"]


def lost_in_writing(value: object, depth: int) -> Fault | None:
    """The first part that pydantic would write as something else than its JSON equivalent."""
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, int | float | Decimal):
        return scalar_fault(value)
    if depth >= MOST_NESTED:
        return [TOO_DEEP]
    if isinstance(value, dict):
        return among(lost_in_writing, value.items(), depth + 1)
    if isinstance(value, list | tuple | set | frozenset):
        return among(lost_in_writing, zip(count(), value), depth + 1)
    return None


def among(find: Any, items: Iterable[tuple[object, object]], depth: int) -> Fault | None:
    for key, item in items:
        fault: Fault | None = find(item, depth)
        if fault is not None:
            return [*fault, str(key)]
    return None


def scalar_fault(value: str | int | float | Decimal) -> Fault | None:
    if isinstance(value, str):
        if not value.isascii() and not is_unicode(value):
            return ["expected Unicode text, got half a surrogate pair"]
    elif isinstance(value, float):
        if not math.isfinite(value):
            return [f"expected a finite number, got {value}"]
    elif isinstance(value, Decimal):
        if not value.is_finite():
            return [f"expected a finite number, got {value}"]
    elif value.bit_length() > MOST_BITS and is_too_long(value):
        return [INTEGER_LIMIT]
    return None


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_too_long(number: int) -> bool:
    try:
        int.__repr__(number)
    except ValueError:
        return True
    return False


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotJson(f"expected each key once, got {cut(twice)!r} twice")
    return found
