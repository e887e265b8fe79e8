"""How the parameters of tasks are described, validated, written down and read again."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from types import ModuleType
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from worker.errors import InvalidParams, TaskDefinitionError
from worker.jobs.params import NO_PARAMS, Params, params_of_function, params_of_type


class Order(BaseModel):
    order_id: int
    note: str = ""


@dataclass
class Parcel:
    parcel: int
    tags: list[str] = field(default_factory=list)


def of_signature(order_id: int, note: str = "") -> None: ...


KINDS: dict[str, Callable[[], Params]] = {
    "model": lambda: params_of_type(Order, "t"),
    "signature": lambda: params_of_function(of_signature, "t"),
}


@pytest.fixture(params=KINDS)
def params(request: pytest.FixtureRequest) -> Params:
    return KINDS[request.param]()


def loaded(params: Params, text: str) -> dict[str, Any]:
    """The fields, however the task gets them."""
    (value, *_), named = (*params.load(text)[0], None), params.load(text)[1]
    return dict(named or vars(value))


def test_they_travel_as_a_json_object_with_their_defaults(params: Params) -> None:
    text = params.dump({"order_id": "7"})
    assert json.loads(text) == {"order_id": 7, "note": ""}
    assert loaded(params, text) == {"order_id": 7, "note": ""}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "order_id: Field required"),
        (None, "order_id: Field required"),
        ({"order_id": "seven"}, "order_id: Input should be a valid integer"),
        ({"order_id": 7, "nite": "x"}, "nite: "),
        ([7], "parameters: "),
        (7, "parameters: "),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_said(
    params: Params, said: object, words: str
) -> None:
    with pytest.raises(InvalidParams, match=re.escape(words)):
        params.dump(said)


@pytest.mark.parametrize(
    "text", ["{}", '{"order_id": "x"}', '{"order_id": 7, "more": 1}', "no json", "[]", "null", ""]
)
def test_what_does_not_fit_is_refused_when_it_is_run(params: Params, text: str) -> None:
    with pytest.raises(InvalidParams):
        params.load(text)


def test_no_message_repeats_a_value(params: Params) -> None:
    for said in ({"order_id": "my password"}, {"order_id": 1, "note": {"card": "my password"}}):
        with pytest.raises(InvalidParams) as failure:
            params.dump(said)
        assert "my password" not in str(failure.value)


def test_many_problems_are_told_in_a_message_of_bounded_length() -> None:
    with pytest.raises(InvalidParams, match="and 90 more"):
        params_of_type(Order, "t").dump({"order_id": 1} | {f"x{n}": 1 for n in range(100)})


def test_an_instance_of_the_tasks_own_type_can_be_handed_in() -> None:
    assert params_of_type(Order, "t").dump(Order(order_id=7)) == '{"order_id":7,"note":""}'
    parcels = params_of_type(Parcel, "t")
    assert parcels.dump(Parcel(7, ["a"])) == '{"parcel":7,"tags":["a"]}'
    assert parcels.load('{"parcel":7}') == ((Parcel(7),), {})


def test_an_instance_that_was_made_without_validation_is_validated() -> None:
    with pytest.raises(InvalidParams, match="order_id"):
        params_of_type(Order, "t").dump(Order.model_construct(order_id="seven"))  # type: ignore[arg-type]
    with pytest.raises(InvalidParams, match="parcel"):
        params_of_type(Parcel, "t").dump(Parcel("seven"))  # type: ignore[arg-type]


def test_a_task_gets_an_instance_of_its_own_type() -> None:
    (order,), _ = params_of_type(Order, "t").load('{"order_id": 7}')
    assert isinstance(order, Order)
    assert type(order).__name__ == "Order"


def test_a_model_that_says_so_takes_unknown_fields() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    (value,), _ = params_of_type(Open, "t").load('{"anything": 1}')
    assert value.anything == 1


def test_a_model_that_refuses_unknown_fields_itself_is_left_as_it_is() -> None:
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        n: int

    params = params_of_type(Closed, "t")
    assert params.dump(Closed(n=1)) == '{"n":1}'
    assert type(params.load('{"n":1}')[0][0]) is Closed


class Colour(Enum):
    RED = "red"


async def rich(
    at: datetime,
    day: date,
    wait: timedelta,
    price: Decimal,
    id: UUID,
    colour: Colour,
    which: Literal["a", "b"],
    order: Order,
    pairs: list[tuple[int, str]],
    counts: Annotated[dict[str, int], Field(max_length=3)],
    maybe: int | None = None,
    tags: set[str] = {"x"},  # noqa: B006 - each job gets its own
) -> None: ...


def test_rich_types_survive_their_way() -> None:
    params = params_of_function(rich, "t")
    said = {
        "at": datetime.fromisoformat("2026-11-21T09:30:00+01:00"),
        "day": date(2026, 11, 21),
        "wait": timedelta(seconds=90),
        "price": Decimal("9.90"),
        "id": UUID(int=7),
        "colour": Colour.RED,
        "which": "b",
        "order": Order(order_id=3),
        "pairs": [(1, "a")],
        "counts": {"a": 1},
    }
    _, named = params.load(params.dump(said))
    assert named == {**said, "maybe": None, "tags": {"x"}}


def test_a_mutable_default_is_not_shared_between_jobs() -> None:
    params = params_of_function(rich_default, "t")
    params.load("{}")[1]["tags"].append("mine")
    assert params.load("{}")[1]["tags"] == []


def rich_default(tags: list[str] = []) -> None: ...  # noqa: B006 - as above


def odd_names(
    json: str, copy: bool, schema: int, model_config: str, model_x: int, self_: int, _x: int = 1
) -> None: ...


def test_a_parameter_can_have_any_name() -> None:
    params = params_of_function(odd_names, "t")
    said = {"json": "{", "copy": True, "schema": 1, "model_config": "m", "model_x": 2, "self_": 3}
    assert params.load(params.dump(said))[1] == {**said, "_x": 1}


def test_an_alias_is_the_name_that_travels() -> None:
    class Camel(BaseModel):
        order_id: int = Field(alias="orderId")

    params = params_of_type(Camel, "t")
    assert params.dump({"orderId": 7}) == '{"orderId":7}'
    assert params.dump(Camel(orderId=7)) == '{"orderId":7}'
    assert params.load('{"orderId":7}')[0][0].order_id == 7
    assert params.fields == {"orderId"}


def test_what_is_written_otherwise_than_it_is_read_is_refused_before_it_travels() -> None:
    class Both(BaseModel):
        n: int = Field(validation_alias="read", serialization_alias="written")

    with pytest.raises(InvalidParams, match="read"):
        params_of_type(Both, "t").dump({"read": 1})


def test_a_secret_is_no_parameter() -> None:
    class Login(BaseModel):
        password: SecretStr | None

    with pytest.raises(TaskDefinitionError, match="password is a secret"):
        params_of_type(Login, "t")


def test_what_cannot_be_written_as_json_is_refused() -> None:
    class Anything(BaseModel):
        value: Any

    with pytest.raises(InvalidParams, match="JSON"):
        params_of_type(Anything, "t").dump({"value": object()})


def test_a_validator_of_the_users_own_is_heard() -> None:
    class Range(BaseModel):
        low: int
        high: int

        @model_validator(mode="after")
        def in_order(self) -> Range:
            if self.low > self.high:
                raise ValueError("low is above high")
            return self

    with pytest.raises(InvalidParams, match="low is above high"):
        params_of_type(Range, "t").dump({"low": 2, "high": 1})


def test_a_task_without_parameters_takes_none() -> None:
    assert NO_PARAMS.dump(None) == NO_PARAMS.dump({}) == "{}"
    assert NO_PARAMS.load("{}") == NO_PARAMS.load(" { }\n") == ((), {})
    with pytest.raises(InvalidParams, match="expected no parameters, got an object with n"):
        NO_PARAMS.dump({"n": 1})
    with pytest.raises(InvalidParams, match="expected no parameters"):
        NO_PARAMS.load('{"n": 1}')


def test_whether_there_is_a_field_without_a_default_is_known() -> None:
    assert params_of_type(Order, "t").required
    assert params_of_type(Parcel, "t").required
    assert params_of_function(of_signature, "t").required
    assert not params_of_function(rich_default, "t").required


def untyped(n) -> None: ...  # type: ignore[no-untyped-def]


def starred(*n: int) -> None: ...


def double_starred(**n: int) -> None: ...


def by_place(n: int, /) -> None: ...


class Opaque:
    pass


def opaque(n: Opaque) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (untyped, "n has no type"),
        (starred, "expected named parameters"),
        (double_starred, "expected named parameters"),
        (by_place, "remove the /"),
        (opaque, "cannot be described"),
    ],
)
def test_a_signature_that_describes_no_parameters_is_refused(
    function: Callable[..., None], words: str
) -> None:
    with pytest.raises(TaskDefinitionError, match=words):
        params_of_function(function, "my_module:function")


def test_a_type_that_describes_no_parameters_is_refused() -> None:
    for kind in (int, Opaque, dict[str, int]):
        with pytest.raises(TaskDefinitionError, match="expected a pydantic model or a dataclass"):
            params_of_type(kind, "t")


def test_a_type_that_is_unknown_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("nowhere")
    monkeypatch.setitem(sys.modules, "nowhere", module)
    namespace = vars(module)
    namespace["dataclass"] = dataclass
    code = "def f(n: 'Nowhere') -> None: ...\n@dataclass\nclass Params:\n    n: 'Nowhere'\n"
    exec(compile(code, "nowhere", "exec", dont_inherit=True), namespace)
    with pytest.raises(TaskDefinitionError, match="Nowhere"):
        params_of_function(namespace["f"], "t")
    with pytest.raises(TaskDefinitionError, match="Nowhere"):
        params_of_type(namespace["Params"], "t")
