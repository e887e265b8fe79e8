"""Keys of ``unique`` and ``concurrency``: equal values give equal keys, in every process.

A key is a hash of a canonical text of the *validated* values. The text depends on neither the hash
seed, nor the order of a mapping, nor any ``repr``. Two values have the same text if:

* both are numbers and equal: ``1``, ``1.0``, ``Decimal("1.00")``. A ``bool`` is no number here.
* both are the same moment, in whatever UTC offset. A moment without an offset is of its own kind.
* both are sets with equal elements, mappings with equal items, or sequences with equal elements in
  the same order; a model or a dataclass counts as the mapping of its fields.
* both are the same text, bytes, date, time, duration or UUID. An enum member counts as its value.

Every part of the text begins with its kind and says its length, so no two values share a text.
`worker_canonical` of the PostgreSQL migrations writes the same text for simple kinds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Set
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from hashlib import sha256
from pathlib import PurePath
from typing import TYPE_CHECKING
from uuid import UUID

from worker.errors import InvalidOptions

if TYPE_CHECKING:
    from worker.jobs.params import Params

__all__ = [
    "as_stored",
    "canonical",
    "canonical_json",
    "hashed",
    "key_of",
    "same_json",
    "values_of",
]

PLAIN_DIGITS = 400
"""Numbers whose plain form has more digits than that are written with an exponent."""
MICROSECOND = timedelta(microseconds=1)


def key_of(name: str, values: Mapping[str, object], by: tuple[str, ...]) -> str:
    """A short key for a name and the values that count.

    Args:
        by: The fields that count; empty for all of them.

    Raises:
        InvalidOptions: A value is of a type of which no key can be made.
    """
    chosen = [(field, values.get(field)) for field in by] if by else values.items()
    try:
        return hashed(name, of_mapping(chosen))
    except RecursionError as exc:
        raise InvalidOptions("no key can be made of a value that is nested too deeply") from exc


def hashed(name: str, text: str) -> str:
    return f"{name}:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def values_of(params: Params, text: str) -> Mapping[str, object]:
    """The validated values by their names as they travel.

    Args:
        text: The parameters as they travel.

    Raises:
        InvalidParams: They do not fit.
    """
    arguments, named = params.load(text)
    return fields_of(arguments[0], by_alias=True) if arguments else named


def fields_of(value: object, *, by_alias: bool = False) -> dict[str, object]:
    """The fields of a model, a dataclass or a mapping.

    Args:
        by_alias: With the names by which they travel.
    """
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        known = type(value).model_fields
        found = {
            (field.serialization_alias or field.alias or name) if by_alias else name: getattr(
                value, name
            )
            for name, field in known.items()
        }
        return {**found, **(value.__pydantic_extra__ or {})}
    if dataclasses.is_dataclass(value):
        counted = (one for one in dataclasses.fields(value) if one.init and one.compare)
        return {one.name: getattr(value, one.name) for one in counted}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"expected a model, a dataclass or a mapping, got a {type(value).__name__}")


def canonical(value: object) -> str:
    """The canonical text of a value; see this module.

    Raises:
        InvalidOptions: It is of a type that is not known, or contains itself.
    """
    try:
        return written(value)
    except RecursionError as exc:
        raise InvalidOptions("no key can be made of a value that is nested too deeply") from exc


def of_mapping(items: Iterable[tuple[object, object]]) -> str:
    texts = sorted([(written(key), written(item)) for key, item in items])
    return "".join([f"d{len(texts)}:", *(text for item in texts for text in item)])


def written(value: object) -> str:
    if type(value) is str:  # most are
        return f"s{len(value)}:{value}"
    if type(value) is int and -(10**18) < value < 10**18:
        return f"i{value};"
    if value is None:
        return "n"
    if isinstance(value, Enum):
        return written(value.value)
    if isinstance(value, bool):
        return "b1;" if value else "b0;"
    if isinstance(value, str):
        return tagged("s", value)
    if isinstance(value, int | float | Decimal | Fraction):
        return f"i{number(value)};"
    if isinstance(value, datetime | date | time | timedelta):
        return moment(value)
    if isinstance(value, UUID):
        return f"u{value.hex}"
    if isinstance(value, bytes | bytearray | memoryview):
        return tagged("y", bytes(value).hex())
    if isinstance(value, PurePath):
        return tagged("s", str(value))
    return collected(value)


def collected(value: object) -> str:
    from pydantic import BaseModel

    if isinstance(value, BaseModel) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    ):
        value = fields_of(value)
    if isinstance(value, Mapping):
        return of_mapping(value.items())
    if isinstance(value, Set):
        members = sorted({written(item) for item in value})
        return "".join([f"S{len(members)}:", *members])
    if isinstance(value, Iterable) and hasattr(value, "__len__"):
        elements = [written(item) for item in value]
        return "".join([f"l{len(elements)}:", *elements])
    return written(as_json_value(value))


def as_json_value(value: object) -> object:
    """What pydantic writes for a value of a type that is not known here, such as a URL."""
    from pydantic import TypeAdapter
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        return json.loads(json.dumps(to_jsonable_python(value)))
    except (PydanticSerializationError, ValueError, TypeError):
        pass
    try:
        return json.loads(TypeAdapter(type(value)).dump_json(value))
    except Exception as exc:  # of the type's own code
        raise InvalidOptions(
            f"no key can be made of a {type(value).__name__}; expected parameters that are text, "
            "numbers, moments, or collections, models and dataclasses of them"
        ) from exc


def tagged(kind: str, text: str) -> str:
    return f"{kind}{len(text)}:{text}"


def number(value: int | float | Decimal | Fraction) -> str:
    """A number without the form in which it was written: ``1`` for ``1.00``."""
    if isinstance(value, float):
        value = Decimal(repr(value))
    elif isinstance(value, Fraction):
        if value.denominator != 1:
            return f"{number(value.numerator)}/{number(value.denominator)}"
        value = value.numerator
    if isinstance(value, int):
        if -(10**18) < value < 10**18:
            return str(int(value))
        value = Decimal(value)  # str() of a huge one is refused
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        return str(value).lower()  # NaN and infinities
    text = "".join(map(str, digits)).lstrip("0")
    stripped = text.rstrip("0")
    exponent += len(text) - len(stripped)
    if not stripped:
        return "0"
    minus = "-" if sign else ""
    if max(len(stripped) + exponent, len(stripped), -exponent) > PLAIN_DIGITS:
        return f"{minus}{stripped}e{exponent}"
    if exponent >= 0:
        return minus + stripped + "0" * exponent
    whole = stripped[:exponent] or "0"
    return f"{minus}{whole}.{stripped[exponent:].rjust(-exponent, '0')}"


def moment(value: datetime | date | time | timedelta) -> str:
    if isinstance(value, timedelta):
        return f"p{value // MICROSECOND};"
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            return tagged("T", value.replace(tzinfo=None, fold=0).isoformat())
        return tagged("t", utc(value))
    if isinstance(value, time):
        offset = value.utcoffset()
        seconds = value.hour * 3600 + value.minute * 60 + value.second
        since = timedelta(seconds=seconds, microseconds=value.microsecond)
        if offset is None:
            return f"h{since // MICROSECOND};"
        return f"H{(since - offset) // MICROSECOND};"
    return tagged("D", value.isoformat())


def utc(value: datetime) -> str:
    try:
        return value.astimezone(UTC).replace(tzinfo=None).isoformat()
    except OverflowError:  # within a day of the first or the last moment there is
        return value.isoformat()


def same_json(one: str, other: str) -> bool:
    """Whether two texts are the same JSON value, however they are written, as engines store it."""
    if one == other:
        return True
    try:
        first, second = json.loads(one), json.loads(other)
        return as_stored(canonical(first)) == as_stored(canonical(second))
    except (ValueError, RecursionError, InvalidOptions):
        return False


def as_stored(text: str) -> str:
    """A text as engines store it: some know neither NUL nor half a pair of surrogates."""
    text = text.replace("\0", "\ufffd")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


DECIMAL_DIGITS = frozenset("0123456789.-")


def canonical_json(kind: object, value: object) -> str | None:
    """The canonical text of a JSON value of a known kind (see `worker.jobs.declaration`).

    ``None`` where only the task's own code can tell: it is then left to a worker.
    """
    if value is None:
        return "n" if isinstance(kind, dict) and "optional" in kind else None
    if isinstance(kind, dict):
        if "optional" in kind:
            return canonical_json(kind["optional"], value)
        for name, mark in (("list", "l"), ("set", "S")):
            if name in kind and isinstance(value, list):
                return canonical_elements(mark, kind[name], value)
        return None
    if isinstance(value, bool):
        return canonical(value) if kind == "bool" else None
    if isinstance(value, int | float):
        fits = kind in ("float", "decimal") or (kind == "int" and value == int(value))
        return canonical(value) if fits else None
    return canonical_text(kind, value) if isinstance(value, str) else None


def canonical_elements(mark: str, kind: object, values: list[object]) -> str | None:
    texts = [canonical_json(kind, value) for value in values]
    known = [text for text in texts if text is not None]
    if len(known) < len(texts):
        return None
    if mark == "S":
        known = sorted(set(known))
    return "".join([f"{mark}{len(known)}:", *known])


def canonical_text(kind: object, text: str) -> str | None:
    """As `canonical_json`, of a JSON string."""
    try:
        match kind:
            case "str":
                return canonical(text)
            case "uuid":
                return canonical(UUID(text)) if len(text) == 36 else None
            case "decimal" if text and set(text) <= DECIMAL_DIGITS:
                return canonical(Decimal(text))
            case "datetime" if len(text) > 19 and text[10] == "T":
                return canonical(datetime.fromisoformat(text))
            case "date" if len(text) == 10:
                return canonical(date.fromisoformat(text))
    except (ValueError, ArithmeticError):
        pass
    return None
