"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
        ("90", timedelta(seconds=90)),
        ("1.5", timedelta(seconds=1.5)),
        (" 90s ", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(minutes=90)),
        ("1H30M", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("1d1h1m1s1ms", timedelta(days=1, hours=1, minutes=1, seconds=1, milliseconds=1)),
        ("250ms", timedelta(milliseconds=250)),
        ("0.001ms", timedelta(microseconds=1)),
        ("90m", timedelta(minutes=90)),
        ("PT1H30M", timedelta(minutes=90)),
        ("P2D", timedelta(days=2)),
        ("p2dt1s", timedelta(days=2, seconds=1)),
    ],
)
def test_duration_is_read(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "-5m",
        "+5m",
        "5 m",
        "5x",
        "m",
        "s5",
        "1m1h",
        "1s1s",
        "1e5",
        "1e5s",
        ".5s",
        "5.",
        "1,5s",
        "nan",
        "inf",
        "P",
        "PT",
        "-P1D",
        "P-1D",
        "P99999999999999999999D",
        "9" * 400,
        "9" * 400 + "d",
        "999999999999d",
        "999999999d24h",
        "10:30",
        "five minutes",
        "5m\n5m",
        "\x00",
    ],
)
def test_what_is_no_duration_is_refused_by_a_message_that_says_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 90s, 5m, 1h30m"):
        parse_duration(text)


@given(st.text())
@example("P" + "9" * 5000 + "D")
@example("9" * 5000)
@example("p1")
def test_text_is_a_duration_or_a_value_error_and_nothing_else(text: str) -> None:
    try:
        assert parse_duration(text) >= timedelta(0)
    except ValueError as exc:
        assert "expected a duration" in str(exc)  # noqa: PT017 - most texts are none


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(minutes=90), "1h30m"),
        (timedelta(milliseconds=250), "250ms"),
        (timedelta(seconds=1, microseconds=500), "1s0.5ms"),
        (timedelta(microseconds=1), "0.001ms"),
        (timedelta(days=400, seconds=1), "400d1s"),
    ],
)
def test_duration_is_written_shortly(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@given(st.timedeltas(min_value=timedelta(0)))
@example(timedelta.max)
@example(timedelta(microseconds=1))
@example(timedelta(seconds=1, microseconds=1))
def test_duration_that_was_written_is_read_as_the_same(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration
