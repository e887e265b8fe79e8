"""Results and failures, however hostile, become what a log line can hold."""

from __future__ import annotations

import json
from collections import Counter, UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.summary import describe, format_traceback, summarize


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__

    def __hash__(self) -> int:
        return 1


class HostileDict(dict[str, int]):
    def __len__(self) -> int:
        raise RuntimeError("no length")

    def items(self) -> Any:
        raise RuntimeError("no items")


class HostileList(list[int]):
    def __len__(self) -> int:
        raise RuntimeError("no length")


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


class EndlessRepr:
    def __repr__(self) -> str:
        return repr(self)


@dataclass
class Stats:
    done: int


@pytest.mark.parametrize(
    ("result", "gist"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (1.5, 1.5),
        ("ann@example.com", "15 characters"),
        ([1, 2, 3], "3 items"),
        ((), "0 items"),
        ({1, 2}, "2 items"),
        (Stats(3), "<Stats>"),
        (
            {"processed": 990, "failed_ids": list(range(10))},
            {"processed": 990, "failed_ids": "10 items"},
        ),
        ({"nested": {"a": {"b": 1}}}, {"nested": "1 items"}),
        ({1: "one", None: 2}, {"…": "2 more"}),
        ({"ann@example.com": 1, "sent": 7}, {"sent": 7, "…": "1 more"}),
        ({"name": "Ann", "paid": True}, {"name": "3 characters", "paid": True}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (b"bytes", "5 bytes"),
        (object, "<type>"),
    ],
    ids=repr,
)
def test_result_is_cut_down_to_its_gist(result: object, gist: object) -> None:
    assert summarize(result) == gist


def test_mapping_with_many_entries_keeps_the_first() -> None:
    shown = summarize({f"key{number}": number for number in range(100)})
    assert isinstance(shown, dict)
    assert list(shown) == [*(f"key{number}" for number in range(12)), "…"]
    assert shown["…"] == "88 more"


@pytest.mark.parametrize(
    "result",
    [
        Hostile(),
        {"a": Hostile()},
        {Hostile(): 1},
        HostileDict(a=1),
        {"a": HostileDict(a=1)},
        HostileList([1]),
        {"a": HostileList([1])},
        EndlessRepr(),
        10**5000,
        {"a": -(10**5000)},
        {10**5000: 1},
        "\ud800" * 500,
        UserDict(a=1),
        float("nan"),
    ],
    ids=lambda result: type(result).__name__,
)
def test_hostile_result_is_summarized_all_the_same(result: object) -> None:
    assert len(json.dumps(summarize(result))) < 5000


def test_deeply_nested_result_is_summarized() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert summarize({"nested": nested}) == {"nested": "1 items"}
    while nested:  # unwound by hand, for the interpreter would do it recursively
        nested = nested.pop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_any_result_fits_a_log_line(result: object) -> None:
    assert len(json.dumps(summarize(result))) < 40_000


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (ValueError("a message"), "a message"),
        (ValueError("two\n  lines"), "two lines"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (KeyError("key"), "'key'"),
        (HostileError(), "(its message could not be made)"),
        (ValueError("x" * 1000), "x" * 499 + "…"),
        (ValueError(Hostile()), "(its message could not be made)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failure_is_described_on_one_line(failure: Exception, text: str) -> None:
    assert describe(failure, str) == text


def raised(failure: Exception) -> Exception:
    try:
        raise failure
    except Exception as exc:
        return exc


def test_traceback_ends_with_the_failure() -> None:
    text = format_traceback(raised(ValueError("a message")), str)
    assert text.startswith("Traceback (most recent call last)")
    assert text.endswith("ValueError: a message")


def recurse() -> Iterator[None]:
    yield from recurse()


def test_long_traceback_keeps_both_ends() -> None:
    cause = raised(ValueError("x" * 100_000))
    text = format_traceback(cause, str)
    assert len(text) < 8_200
    assert text.startswith("Traceback")
    assert "characters left out" in text
    with pytest.raises(RecursionError) as caught:
        list(recurse())
    assert len(format_traceback(caught.value, str)) < 8_200


def test_traceback_of_a_hostile_failure_is_told_as_far_as_it_goes() -> None:
    assert "HostileError" in format_traceback(raised(HostileError()), str)


def test_ring_of_causes_has_a_traceback() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert "ValueError: one" in format_traceback(one, str)


def test_a_status_is_told_without_a_link_to_what_it_means() -> None:
    answer = httpx.Response(401, request=httpx.Request("GET", "http://api/pull"))
    with pytest.raises(httpx.HTTPStatusError) as caught:
        answer.raise_for_status()
    assert (
        describe(caught.value, str) == "Client error '401 Unauthorized' for url 'http://api/pull'"
    )
