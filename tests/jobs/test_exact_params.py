"""What a task receives equals what its caller gave, or the caller gets an error with the field."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PrivateAttr,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from worker.errors import InvalidParams
from worker.jobs.params import params_of_function, params_of_type

NAN, INFINITY = float("nan"), float("inf")


def received(kind: type[Any], given: object) -> Any:
    """What the task gets of what the caller gave."""
    params = params_of_type(kind, "t")
    (value,), _ = params.load(params.dump(given))
    return value


def refused(kind: type[Any], given: object) -> str:
    with pytest.raises(InvalidParams) as failure:
        params_of_type(kind, "t").dump(given)
    return str(failure.value)


class Numbers(BaseModel):
    x: float = 0
    maybe: float | None = None
    many: list[float] = []
    by_name: dict[str, float] = {}
    keys: dict[float, int] = {}
    anything: Any = None


class Constants(Numbers):
    model_config = ConfigDict(ser_json_inf_nan="constants")


class Strings(Numbers):
    model_config = ConfigDict(ser_json_inf_nan="strings")


@dataclass
class Figures:
    x: float = 0
    maybe: float | None = None
    many: list[float] = field(default_factory=list)
    by_name: dict[str, float] = field(default_factory=dict)
    keys: dict[float, int] = field(default_factory=dict)
    anything: Any = None


PLACES: dict[str, Callable[[float], dict[str, Any]]] = {
    "x": lambda number: {"x": number},
    "maybe": lambda number: {"maybe": number},
    "many.1": lambda number: {"many": [1, number]},
    "by_name.a": lambda number: {"by_name": {"a": number}},
    "anything.0.deep": lambda number: {"anything": [{"deep": number}]},
}


@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [Numbers, Constants, Figures])
def test_a_number_that_is_not_finite_is_refused_with_its_place(
    kind: type[Any], place: str, number: float
) -> None:
    said = PLACES[place](number)
    for given in (said, kind(**said)):
        assert f"{place}: " in refused(kind, given)


def test_a_model_that_writes_them_as_texts_keeps_them() -> None:
    assert received(Strings, {"x": INFINITY}).x == INFINITY
    assert math.isnan(received(Strings, Strings(x=NAN)).x)


def test_a_key_that_is_not_finite_is_refused() -> None:
    assert "keys" in refused(Numbers, {"keys": {NAN: 1}})


@pytest.mark.parametrize(
    "text", ['{"x": NaN}', '{"x": -Infinity}', '{"x": 1e999}', '{"x": 2E+400}']
)
def test_a_worker_refuses_them_in_what_another_program_wrote(text: str) -> None:
    with pytest.raises(InvalidParams, match="x: expected a finite number"):
        params_of_type(Numbers, "t").load(text)


def test_a_text_that_names_them_is_none_of_them() -> None:
    assert received(Numbers, {"anything": "NaN 1e999"}).anything == "NaN 1e999"


class Computed(BaseModel):
    low: int
    high: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def span(self) -> int:
        return self.high - self.low


class Holder(BaseModel):
    inner: Computed


def test_what_is_computed_from_other_fields_does_not_travel() -> None:
    assert received(Computed, Computed(low=1, high=3)) == Computed(low=1, high=3)
    assert received(Computed, {"low": 1, "high": 3}).span == 2
    assert received(Holder, Holder(inner=Computed(low=1, high=3))).inner.span == 2


class JsonText(BaseModel):
    value: Json[list[int]]


def test_a_field_of_json_text_arrives() -> None:
    given = JsonText(value="[1, 2]")
    assert received(JsonText, given) == given


class Aliased(BaseModel):
    number: int = Field(validation_alias="read", serialization_alias="written")


class Choices(BaseModel):
    number: int = Field(default=1, validation_alias=AliasChoices("a", "b"))


class Excluded(BaseModel):
    number: int = Field(default=5, exclude=True)


class HolderOfExcluded(BaseModel):
    inner: list[Excluded]


class More(Computed):
    unit: str = "m"


class Doubling(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def twice(cls, number: int) -> int:
        return number * 2


class DoublingItems(BaseModel):
    many: list[Annotated[int, AfterValidator(lambda number: number + 1)]]


class Growing(BaseModel):
    log: list[str] = []

    @model_validator(mode="after")
    def seen(self) -> Growing:
        self.log.append("validated")
        return self


class Rounding(BaseModel):
    price: float

    @field_serializer("price")
    def rounded(self, price: float) -> float:
        return round(price, 1)


class Reshaped(BaseModel):
    price: float = 0

    @model_serializer
    def other(self) -> dict[str, float]:
        return {}


class Login(BaseModel):
    password: SecretStr


class HolderOfLogin(BaseModel):
    login: Login


class Private(BaseModel):
    number: int
    _note: str = PrivateAttr("nothing")


def with_private() -> Private:
    given = Private(number=1)
    given._note = "something"
    return given


@dataclass
class Initialised:
    number: int
    factor: InitVar[int] = 1

    def __post_init__(self, factor: int) -> None:
        self.number *= factor


@dataclass
class HiddenByEqual:
    number: int = field(metadata={})

    def __eq__(self, other: object) -> bool:
        return True


class AnyValue(BaseModel):
    value: Any


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


UNCHECKED = Computed.model_construct(low="a", high=1)  # type: ignore[arg-type]
ALTERED: dict[str, tuple[type[Any], object, str]] = {
    "aliases": (Aliased, {"read": 7}, "read"),
    "aliases of an instance": (Aliased, Aliased(read=7), "read"),
    "alias choices": (Choices, Choices(a=7), "number"),
    "excluded": (Excluded, {"number": 7}, "number"),
    "excluded in an instance": (Excluded, Excluded(number=7), "number"),
    "excluded below": (HolderOfExcluded, {"inner": [Excluded(number=7)]}, "inner.0.number"),
    "a field of a subclass": (Computed, More(low=1, high=2), "unit"),
    "a subclass below": (Holder, {"inner": More(low=1, high=2)}, "inner.unit"),
    "a validator that is not idempotent": (Doubling, {"number": 7}, "number"),
    "the same of an instance": (Doubling, Doubling(number=7), "number"),
    "the same of an item": (DoublingItems, {"many": [1]}, "many.0"),
    "the same of a model": (Growing, {}, "log"),
    "a serializer that rounds": (Rounding, {"price": 1.25}, "price"),
    "a serializer that leaves out": (Reshaped, {"price": 1.25}, "price"),
    "a secret below": (HolderOfLogin, {"login": {"password": "x"}}, "login.password"),
    "a private attribute": (Private, with_private(), "_note"),
    "a tuple": (AnyValue, {"value": {"a": (1, 2)}}, "value.a"),
    "bytes": (AnyValue, {"value": b"x"}, "value"),
    "a moment": (AnyValue, {"value": datetime.now(UTC)}, "value"),
    "keys": (AnyValue, {"value": {1: "a"}}, "value.1"),
    "a decimal number": (AnyValue, {"value": Decimal("1.0")}, "value"),
    "a set": (AnyValue, AnyValue(value={1}), "value"),
    "a model as anything": (AnyValue, {"value": Computed(low=1, high=2)}, "value"),
    "made without validation": (
        Computed,
        UNCHECKED,
        "low",
    ),
    "half a surrogate pair": (AnyValue, {"value": ["\ud800"]}, "value"),
    "a long integer": (AnyValue, {"value": 10**5000}, "value"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_what_would_arrive_altered_is_refused_with_the_field(case: str) -> None:
    kind, given, place = ALTERED[case]
    assert re.search(rf"(^|; |: ){re.escape(place)}: ", refused(kind, given)), refused(kind, given)


def test_no_message_repeats_a_value() -> None:
    assert "hunter2" not in refused(HolderOfLogin, {"login": {"password": "hunter2"}})
    assert "hunter2" not in refused(AnyValue, {"value": (b"hunter2",)})


def test_an_excluded_field_with_its_default_arrives() -> None:
    assert received(Excluded, Excluded(number=5)) == Excluded()


def test_an_equality_of_its_own_hides_nothing() -> None:
    class Careless(BaseModel):
        number: int = Field(default=5, exclude=True)

        def __eq__(self, other: object) -> bool:
            return True

    assert "number: " in refused(Careless, {"number": 7})


def test_what_a_dataclass_computes_when_it_is_made_arrives() -> None:
    assert received(Initialised, {"number": 3, "factor": 2}) == Initialised(6)
    assert received(Initialised, {"number": 3}) == Initialised(3)


@dataclass
class Area:
    width: int
    height: int
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.width * self.height


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 0


@pydantic_dataclass
class Checked:
    number: int
    point: Point = Point(0)


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


class Pair(NamedTuple):
    a: int
    b: str


class Options(TypedDict, total=False):
    a: int
    b: str


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    lives: int = 1


class Opaque:
    """Has no equality of its own."""

    def __init__(self, text: str) -> None:
        self.text = text


class Fresh(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    _token: str = PrivateAttr(default_factory=lambda: str(uuid4()))
    _made: float = PrivateAttr(0.0)

    def model_post_init(self, context: Any) -> None:
        self._made = datetime.now(UTC).timestamp()


class Rich(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    colour: Colour = Colour.RED
    level: Level = Level.HIGH
    word: Word = Word.YES
    pair: Pair = Pair(1, "b")
    options: Options = {"a": 1}
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Dog(lives=2)
    either: int | str | bool | None = "1"
    number: Decimal = Decimal("1.10")
    negative_zero: float = -0.0
    day: date | datetime = date(2026, 1, 1)
    tags: set[str] = {"a", "b"}
    frozen: frozenset[int] = frozenset({1})
    queue: deque[int] = deque([1])
    counts: dict[int, str] = {1: "a"}
    path: Path = Path("a/b")
    wait: timedelta = timedelta(microseconds=1)
    naive: datetime = datetime(2026, 1, 1)  # noqa: DTZ001 - a naive one
    twice: datetime = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    data: bytes = b"abc"
    big: int = 10**400
    anything: Any = None
    exact: Any = 1.0


def test_rich_values_arrive() -> None:
    given = Rich(anything={"a": [1, 1.5, True, None, "é"]})
    there = received(Rich, given)
    for name in Rich.model_fields:
        if name != "twice":  # of another zone, at an hour that comes twice, == is never true
            assert getattr(there, name) == getattr(given, name), name
    assert there.twice.timestamp() == given.twice.timestamp()
    assert math.copysign(1, there.negative_zero) == -1


@pytest.mark.parametrize(
    "given",
    [Area(2, 3), Point(1), Checked(1, Point(2)), Tree(name="a", children=[Tree(name="b")])],
    ids=lambda given: type(given).__name__,
)
def test_a_task_receives_an_equal_instance_of_its_own_class(given: Any) -> None:
    there = received(type(given), given)
    assert there == given
    assert type(there) is type(given)
    assert pickle.loads(pickle.dumps(there)) == given


def test_a_model_arrives_as_an_instance_of_the_tasks_own_class() -> None:
    there = received(Private, {"number": 1})
    assert type(there) is Private
    assert there == Private(number=1)
    assert pickle.loads(pickle.dumps(there)) == there
    assert received(FrozenModel, {"n": 1}) in {FrozenModel(n=1)}


class FrozenModel(BaseModel, frozen=True):
    n: int


def test_what_each_instance_makes_for_itself_is_no_difference() -> None:
    there = received(Fresh, {})
    assert there.at.tzinfo is not None


def test_an_instance_of_a_subclass_without_more_fields_arrives_as_the_tasks_class() -> None:
    class Same(Tree):
        pass

    assert received(Tree, Same(name="a")) == Tree(name="a")


class Inner(BaseModel):
    n: int = 0


class Tolerant(BaseModel):
    model_config = ConfigDict(extra="ignore")
    n: int = 0


class Outer(BaseModel):
    inner: Inner = Inner()
    many: list[Inner] = []
    point: Point = Point(0)
    options: Options = {}
    tolerant: Tolerant = Tolerant()
    by_name: dict[str, Inner] = {}
    recursive: Tree | None = None


@pytest.mark.parametrize(
    "said",
    [
        {"innner": {}},
        {"inner": {"m": 1}},
        {"many": [{}, {"m": 1}]},
        {"point": {"x": 1, "z": 1}},
        {"options": {"c": 1}},
        {"by_name": {"a": {"m": 1}}},
        {"recursive": {"name": "a", "children": [{"name": "b", "more": 1}]}},
    ],
)
def test_unknown_fields_are_refused_at_every_depth(said: Mapping[str, Any]) -> None:
    params = params_of_type(Outer, "t")
    with pytest.raises(InvalidParams):
        params.dump(said)
    with pytest.raises(InvalidParams):
        params.load(json.dumps(said))


def test_a_model_that_ignores_unknown_fields_on_purpose_does_so() -> None:
    assert received(Outer, {"tolerant": {"n": 1, "m": 2}}).tolerant == Tolerant(n=1)


def test_a_model_that_was_made_a_parameter_still_ignores_unknown_fields_elsewhere() -> None:
    params_of_type(Outer, "t")
    assert Inner.model_validate({"n": 1, "m": 2}) == Inner(n=1)


def test_the_schema_of_a_model_that_holds_itself_names_its_fields() -> None:
    schema = params_of_type(Tree, "t").schema()
    assert schema is not None
    assert set(schema["properties"]) == {"name", "children"}
    assert schema["additionalProperties"] is False


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize("levels", [300, 100_000])
def test_what_is_nested_too_deeply_is_refused(levels: int) -> None:
    assert refused(AnyValue, {"value": deep(levels)})
    with pytest.raises(InvalidParams):
        params_of_type(AnyValue, "t").load('{"value":' + "[" * levels + "]" * levels + "}")


@pytest.mark.parametrize(
    "text", ['{"value": "\\ud800"}', '{"value": "\ud800"}', f'{{"value": {"9" * 5000}}}']
)
def test_a_worker_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(InvalidParams):
        params_of_type(AnyValue, "t").load(text)


async def signature(x: float = 0, value: Any = None, many: list[float] = []) -> None: ...  # noqa: B006


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ({"x": NAN}, "x"),
        ({"many": [INFINITY]}, "many.0"),
        ({"value": {"a": (1,)}}, "value.a"),
        ({"value": 10**5000}, "value"),
    ],
)
def test_the_same_holds_for_a_function(said: Mapping[str, Any], place: str) -> None:
    with pytest.raises(InvalidParams, match=rf"(^|: ){re.escape(place)}: "):
        params_of_function(signature, "t").dump(said)
