"""Whether a value that travels as JSON arrives as it was sent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

__all__ = ["changed_on_the_way", "fields_of"]

SCALARS = frozenset({str, int, float, bool, type(None)})


def changed_on_the_way(sent: object, received: object, *, private: bool = True) -> str | None:
    """Where ``received`` differs from ``sent``, and how; ``None`` if they are equal.

    Models and dataclasses are compared field by field, whatever their own ``==`` says. A field
    that a subclass adds is missing in what is received.

    Args:
        private: Whether private attributes count. Those of a model that was just made from a
            mapping do not: each instance may compute its own.
    """
    if are_alike(sent, received):
        return None
    found = difference(sent, received, private)
    if found is None:
        return None
    problem, *keys = found
    where = ".".join(reversed(keys)) or "parameters"
    return f"{where}: {problem}"


def are_alike(sent: object, received: object) -> bool:
    """Whether both have the same scalars as fields: most parameters do, and this is fast."""
    if type(sent) is not type(received):
        return False
    if getattr(sent, "__pydantic_extra__", None) or getattr(sent, "__pydantic_private__", None):
        return False
    stored = getattr(sent, "__dict__", None)
    if stored is None or not SCALARS.issuperset(map(type, stored.values())):
        return False
    return bool(stored == received.__dict__)


def difference(sent: object, received: object, private: bool) -> list[str] | None:
    """What differs, then the keys that lead there, the innermost first."""
    if sent is received:
        return None
    kind = type(sent)
    if kind is type(received) and kind in SCALARS:
        return None if equal(sent, received) else scalar_difference(sent)
    if isinstance(sent, list | tuple):
        if not isinstance(received, list if isinstance(sent, list) else tuple):
            return altered(sent, received)
        if len(sent) != len(received):
            return altered(sent, received)
        if sent == received and SCALARS.issuperset(map(type, sent)):
            return None
        return among(zip(map(str, range(len(sent))), sent, received, strict=True), private)
    if isinstance(sent, dict):
        return mapping_difference(sent, received, private)
    fields = fields_of(sent, private)
    if fields is None:
        return None if equal(sent, received) else altered(sent, received)
    if not isinstance(sent, type(received)) or type(received) is object:
        return altered(sent, received)
    for name, value in fields.items():
        there = getattr(received, name, MISSING)
        if there is MISSING:
            return [f"{type(received).__name__} has no such field, so it would be lost", name]
        if found := difference(value, there, private):
            return [*found, name]
    return None


def mapping_difference(
    sent: Mapping[Any, Any], received: object, private: bool
) -> list[str] | None:
    if not isinstance(received, dict):
        return altered(sent, received)
    for key, value in sent.items():
        if key not in received:
            if isinstance(key, float) and not math.isfinite(key):
                return scalar_difference(key)
            return [f"the key, a {type(key).__name__}, would change on the way", str(key)[:200]]
        if found := difference(value, received[key], private):
            return [*found, str(key)[:200]]
    return None if len(sent) == len(received) else altered(sent, received)


def among(items: Iterable[tuple[str, object, object]], private: bool) -> list[str] | None:
    for key, sent, received in items:
        if found := difference(sent, received, private):
            return [*found, key]
    return None


def fields_of(value: object, private: bool = False) -> dict[str, Any] | None:
    """The fields of a model or a dataclass by name; ``None`` for any other value."""
    kind: Any = type(value)
    if hasattr(kind, "__pydantic_extra__"):  # a model
        stored = vars(value)
        fields = {name: stored[name] for name in kind.model_fields if name in stored}
        extra = getattr(value, "__pydantic_extra__", None) or {}
        return {**fields, **extra, **(private_of(value) if private else {})}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    if type(value).__eq__ is object.__eq__ and hasattr(value, "__dict__"):
        return dict(vars(value))
    return None


def private_of(model: Any) -> dict[str, Any]:
    """The private attributes of a model, but those that each instance makes for itself."""
    stored = model.__pydantic_private__ or {}
    declared = type(model).__private_attributes__
    return {
        name: value
        for name, value in stored.items()
        if name not in declared or declared[name].default_factory is None
    }


def equal(sent: Any, received: Any) -> bool:
    if isinstance(sent, datetime) and isinstance(received, datetime):
        aware = sent.tzinfo is not None
        if aware and received.tzinfo is not None:  # an hour that comes twice is equal to nothing
            return sent.timestamp() == received.timestamp()
    try:
        same = bool(sent == received)
        return same or bool(sent != sent and received != received)  # both NaN
    except Exception:  # a value may have code of its own for this
        return False


def scalar_difference(sent: object) -> list[str] | None:
    if isinstance(sent, float) and not math.isfinite(sent):
        return [f"expected a finite number, got {sent}"]
    return ["it would change on the way: its validator or serializer alters it"]


def altered(sent: object, received: object) -> list[str]:
    one, other = type(sent).__name__, type(received).__name__
    if one != other:
        return [f"a {one} would arrive as a {other}"]
    return [f"this {one} would change on the way: its validator or serializer alters it"]


MISSING = object()
