"""Keys of equal values are equal, in every process; those of different values differ."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AfterValidator, AnyUrl, BaseModel, ConfigDict, Field, model_validator

from worker.errors import InvalidOptions
from worker.jobs.declaration import Declaration
from worker.jobs.job import Unique
from worker.jobs.keys import canonical, key_of, values_of
from worker.jobs.options import ConcurrencyPer, JobOptions, UniquePer
from worker.jobs.params import params_of_function, params_of_type
from worker.model import State

CET = timezone(timedelta(hours=1))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


@dataclass
class Point:
    x: int
    seen: list[int] = field(default_factory=list, compare=False)


class Order(BaseModel):
    total: Decimal
    tags: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, Decimal("1.00")),
        (Decimal("1E+3"), 1000),
        (Decimal("100"), Decimal("1.00E2")),
        (0.1, Decimal("0.1")),
        (0.0, -0.0),
        (Fraction(2, 1), 2),
        (NOON, NOON.astimezone(CET)),
        (time(12, tzinfo=UTC), time(13, tzinfo=CET)),
        ({"a": 1, "b": 2}, OrderedDict(b=2, a=1)),
        ({"a", "b", "c"}, frozenset("cba")),
        ({1: "a"}, {1.0: "a"}),
        ([1, 2], (1, 2)),
        (Colour.RED, "red"),
        (Size.BIG, 3),
        (UUID(int=7), UUID("00000000-0000-0000-0000-000000000007")),
        (b"ab", bytearray(b"ab")),
        (timedelta(hours=1), timedelta(minutes=60)),
        (Path("/a/b"), Path("/a//b")),
        (Point(1, [1]), Point(1, [2])),
        (
            Order(total=Decimal("1.0"), tags=frozenset("xyz")),
            Order(total=Decimal(1), tags=frozenset("zyx")),
        ),
        ([{"a": {Decimal("1.0"), NOON}}], [{"a": {NOON.astimezone(CET), 1}}]),
        (AnyUrl("http://a.test"), AnyUrl("http://a.test/")),
    ],
)
def test_equal_values_have_equal_texts(one: object, other: object) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, 1),
        (False, 0),
        (1, "1"),
        (None, "null"),
        (None, False),
        ("", None),
        (["a", "b"], ["b", "a"]),
        (["ab"], ["a", "b"]),
        ([["a"], "b"], [["a", "b"]]),
        ({"a": 1}, [["a", 1]]),
        ({"a"}, ["a"]),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}", "e\N{COMBINING ACUTE ACCENT}"),
        (NOON, NOON.replace(tzinfo=None)),
        (NOON, NOON + timedelta(microseconds=1)),
        (date(2026, 1, 1), "2026-01-01"),
        (b"a", "a"),
        (0.1, 0.1 + 1e-17 + 1e-16),
        (Decimal("1E+999999"), Decimal("1E+999998")),
        ("a\0", "a"),
        ("\ud83d", "\ufffd"),
    ],
)
def test_different_values_have_different_texts(one: object, other: object) -> None:
    assert canonical(one) != canonical(other)


def test_a_number_may_have_any_number_of_digits() -> None:
    assert canonical(10**5000) == canonical(Decimal("1E+5000"))
    assert canonical(10**5000) != canonical(10**5000 + 1)


def test_a_value_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="no key can be made of a object"):
        canonical(object())


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidOptions, match="nested too deeply"):
        canonical(endless)


SCRIPT = """
from decimal import Decimal
from worker.jobs.keys import key_of
tags = {f"tag {n}" for n in range(50)}
print(key_of("t", {"a": tags, "b": [frozenset(tags), {Decimal("1.0"): {"x", "y", None}}]}, ()))
"""


def test_every_process_makes_the_same_key() -> None:
    keys = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(keys) == 1


class Nested(BaseModel):
    at: datetime


class Wide(BaseModel):
    order: int
    note: str = "none"
    price: Decimal = Decimal("1.0")
    at: datetime | None = None
    colour: Colour = Colour.RED
    tags: set[str] = Field(default_factory=set)
    kind: Literal["a", "b"] = "a"
    ref: UUID | None = None
    ratio: float = 0.5
    is_new: bool = False
    on: date = date(2026, 1, 1)
    numbers: list[int] = []
    named: int = Field(3, alias="other-name")


WIDE = params_of_type(Wide, "wide")
EVERY = JobOptions(unique=UniquePer(), concurrency=ConcurrencyPer("order", "price", limit=2))


@pytest.mark.parametrize(
    "said",
    [
        {"order": 7},
        {"order": 7.0, "price": 1, "note": "none", "colour": "red"},
        {"order": 7, "price": "0001.50", "tags": ["b", "a", "b"]},
        {
            "order": 7,
            "at": "2026-01-01T13:00:00+01:00",
            "ref": "6B" * 4 + "-" + "-".join(["aaaa"] * 3) + "-" + "0" * 12,
        },
        {"order": 7, "ratio": 1, "is_new": True, "on": "2026-02-03", "numbers": [1, 2.0]},
        {"order": 7, "other-name": 4, "kind": "b", "note": '\N{SNOWMAN} \\ " \n'},
        {"order": -(10**30), "price": "-0.10", "ratio": 1e-9},
    ],
)
def test_a_key_by_name_is_that_of_the_tasks_own_code(said: dict[str, Any]) -> None:
    declared = Declaration.load(Declaration.of("wide", WIDE, EVERY).dump())
    values = values_of(WIDE, WIDE.dump(said))
    for by in ((), ("order",), ("note", "at", "price", "other-name")):
        assert declared.key("wide", by, said) == key_of("wide", values, by)


def test_a_published_declaration_says_what_was_declared() -> None:
    options = JobOptions(
        queue="q",
        version=3,
        priority=5,
        expires=timedelta(minutes=5),
        unique=UniquePer("order", ttl="1h", states=(State.PENDING,), on_conflict="raise"),
        concurrency=ConcurrencyPer("order", limit=4, name="shared"),
    )
    assert Declaration.load(Declaration.of("wide", WIDE, options).dump()).options == options


class Opaque(BaseModel):
    lower: Annotated[str, AfterValidator(str.lower)]
    inner: Nested | None = None


class Stripped(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    name: str


class Checked(BaseModel):
    name: str

    @model_validator(mode="before")
    @classmethod
    def upper(cls, said: Any) -> Any:
        return {"name": said["name"].upper()}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Opaque, {"lower": "A"}),
        (Stripped, {"name": " a "}),
        (Checked, {"name": "a"}),
        (Wide, {"order": "7"}),
        (Wide, {"order": True}),
        (Wide, {"order": 7, "unknown": 1}),
        (Wide, {}),
        (Wide, {"order": 7, "at": 1735732800}),
    ],
)
def test_what_only_the_tasks_code_can_tell_is_left_to_it(
    kind: type[BaseModel], said: dict[str, Any]
) -> None:
    declared = Declaration.of("t", params_of_type(kind, "t"), EVERY)
    assert declared.key("t", (), said) is None


def test_a_field_that_the_code_changes_does_not_matter_to_a_key_without_it() -> None:
    def mixed(
        a: int, b: Annotated[str, AfterValidator(str.lower)], c: tuple[str, ...] = ("x",)
    ) -> None: ...

    params = params_of_function(mixed, "mixed")
    declared = Declaration.of("mixed", params, JobOptions())
    said = {"a": 1, "b": "B"}
    values = values_of(params, params.dump(said))
    assert declared.key("mixed", ("a", "c"), said) == key_of("mixed", values, ("a", "c"))
    assert declared.key("mixed", ("b",), said) is None


def test_a_key_may_be_made_of_json_without_types() -> None:
    assert UniquePer().of("t", '{"a": 1, "b": [2]}') == UniquePer().of("t", {"b": [2], "a": 1.0})
    assert isinstance(UniquePer().of("t", "{}"), Unique)
