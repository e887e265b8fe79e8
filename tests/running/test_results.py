"""A result is kept as JSON that means the same, or the job fails with the place that does not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from worker.errors import InvalidResult
from worker.running.outcome import encode_result

NAN, INFINITY = float("nan"), float("inf")


class Measured(BaseModel):
    value: float
    note: str | None = None


@dataclass
class Figures:
    value: float


def kept(result: object) -> Any:
    return json.loads(encode_result(result, 10_000_000))


@pytest.mark.parametrize(
    ("result", "place"),
    [
        (NAN, "expected a finite number"),
        ({"a": [1, INFINITY]}, "a.1: expected a finite number"),
        ((None, {"b": -INFINITY}), "1.b: expected a finite number"),
        ({"m": Measured(value=NAN)}, "m.value: expected a finite number"),
        ([Measured(value=1), Measured(value=INFINITY)], "1.value: expected a finite number"),
        (Figures(NAN), "value: expected a finite number"),
        ({"d": Decimal("NaN")}, "d: expected a finite number"),
        ({NAN: 1}, "a key: expected a finite number"),
        ({1: "a", "1": "b"}, "expected keys that differ as texts"),
        ({"deep": {True: 1, "True": 2}}, "deep: expected keys that differ as texts"),
        ({"n": 10**5000}, "n: expected an integer of up to 4,300 digits"),
    ],
)
def test_what_would_be_kept_altered_is_refused_with_its_place(result: object, place: str) -> None:
    with pytest.raises(InvalidResult, match="expected a result that can be written as JSON") as no:
        encode_result(result, 10_000_000)
    assert place in str(no.value)


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


def circular() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("result", [Hostile(), "\ud800", b"\xff", circular(), object()])
def test_what_cannot_be_written_is_refused(result: object) -> None:
    with pytest.raises(InvalidResult):
        encode_result(result, 10_000_000)


def test_what_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(InvalidResult):
        encode_result(deep(), 10_000_000)


def test_other_values_are_kept_as_the_json_that_stands_for_them() -> None:
    moment = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    assert kept(None) is None
    assert kept({"none": None, "text": "NaN, Infinity and null"}) == {
        "none": None,
        "text": "NaN, Infinity and null",
    }
    assert kept([(1, 2), {3}, {4: 5}, b"six", moment, UUID(int=7), Decimal("8.0")]) == [
        [1, 2],
        [3],
        {"4": 5},
        "six",
        "2026-11-21T09:30:00Z",
        "00000000-0000-0000-0000-000000000007",
        "8.0",
    ]
    assert kept([Measured(value=1)]) == [{"value": 1.0, "note": None}]
