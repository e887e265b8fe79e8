"""What a cron expression's fields mean, and what is refused with a way out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.schedules.expression import parse_expression, rhythm_notes
from worker.schedules.schedule import Cron, slots_between

START = datetime(2026, 1, 1, tzinfo=UTC)
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
UNITS = ("m", "h", "d", "", "d")


def in_field(place: int, item: str) -> str:
    """An expression whose other fields are ``*``."""
    fields = ["*"] * 5
    fields[place] = item
    return " ".join(fields)


def first_slots(expression: str, count: int = 200) -> list[datetime]:
    slots = slots_between(Cron(expression), START, START + 3000 * timedelta(days=1))
    return list(islice(slots, count))


def said(expression: str) -> str:
    with pytest.raises(ValueError, match="expected a cron expression of five fields") as refused:
        Cron(expression)
    return str(refused.value).split("; got ", 1)[1]


# Steps


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("body", ["*", "?", "range", "first", "range of one", "in a list"])
@pytest.mark.parametrize("more", [0, 1, 30, 10**9])
def test_a_step_as_large_as_its_field_is_refused_with_what_to_write(
    place: int, body: str, more: int
) -> None:
    first, last = BOUNDS[place]
    step = last - first + 1 + more
    start = {
        "range": f"{first}-{last}",
        "first": str(first),
        "range of one": f"{first}-{first}",
        "in a list": f"{first},*",
    }.get(body, body)
    told = said(in_field(place, f"{start}/{step}"))
    assert f"/{step}' is as large as the field" in told
    assert f"one value such as {first}" in told
    assert (f"interval='{step}{UNITS[place]}'" in told) == (place != 3 and step < 10**6)


@pytest.mark.parametrize("place", range(5))
def test_the_largest_step_of_a_field_is_one_less_than_its_size(place: int) -> None:
    first, last = BOUNDS[place]
    largest = last - first
    expected = f"{first},{last}"
    if place != 4:
        assert first_slots(in_field(place, f"*/{largest}")) == first_slots(
            in_field(place, expected)
        )
    assert parse_expression(in_field(place, f"{first}-{last}/{largest}")) == parse_expression(
        in_field(place, expected)
    )


@pytest.mark.parametrize(
    "expression", ["*/90 * * * *", "0 */36 * * *", "1/120 * * * *", "0 0 */40 * *", "0 0 * * */9"]
)
def test_a_rhythm_that_cron_cannot_keep_is_refused(expression: str) -> None:
    assert "write interval='" in said(expression)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_range_of_one_with_a_step_is_that_one_value(place: int, step: int) -> None:
    for value in (BOUNDS[place][0], BOUNDS[place][0] + 5, BOUNDS[place][1]):
        with_step = in_field(place, f"{value}-{value}/{step}")
        assert parse_expression(with_step) == parse_expression(in_field(place, str(value)))


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("5-5/15 * * * *", "5 * * * *"),
        ("9-9/2 * * * *", "9 * * * *"),
        ("10-20/15 * * * *", "10 * * * *"),
        ("10-20/10 * * * *", "10,20 * * * *"),
        ("5/15 * * * *", "5,20,35,50 * * * *"),
        ("0-59/20,7 * * * *", "0,20,40,7 * * * *"),
        ("*/1 * * * *", "* * * * *"),
        ("05 003 * * *", "5 3 * * *"),
    ],
)
def test_a_step_counts_within_its_range(expression: str, same: str) -> None:
    assert first_slots(expression) == first_slots(same)


@pytest.mark.parametrize("item", ["*/0", "*/", "5/", "*/-5", "*/1.5", "*/x", "*/٣", "0-5/0"])
def test_a_step_is_a_number_from_one_on(item: str) -> None:
    said(in_field(0, item))
    said(in_field(2, item))


@pytest.mark.parametrize("item", ["50/15", "59/1"])
def test_a_step_from_a_value_that_is_never_taken_is_refused(item: str) -> None:
    assert "would never be taken" in said(in_field(0, item))


@pytest.mark.parametrize("item", ["1/2", "MON/2", "6/1", "7/7"])
def test_a_step_that_may_or_may_not_reach_sunday_as_7_is_refused(item: str) -> None:
    said(in_field(4, item))


def test_uneven_steps_are_noted() -> None:
    assert rhythm_notes("*/7 * * * *") == [
        "*/7 in the minute field begins again at 0 with each hour, so the last step is 4 instead "
        "of 7"
    ]
    assert len(rhythm_notes("*/45 */5 */2 */5 */2")) == 5
    assert rhythm_notes("*/5 1/8 * */3 1-5/2") == []
    assert rhythm_notes("@daily") == []


# Ranges


@pytest.mark.parametrize(
    ("wrapping", "listed"),
    [
        ("0 0 * * SAT-SUN", "0 0 * * 0,6"),
        ("0 0 * * FRI-MON", "0 0 * * 0,1,5,6"),
        ("0 0 * * 5-1", "0 0 * * 0,1,5,6"),
        ("0 0 * * FRI-MON/2", "0 0 * * 5,0"),
        ("0 22-2 * * *", "0 22,23,0,1,2 * * *"),
        ("0 22-2/2 * * *", "0 22,0,2 * * *"),
        ("50-10/10 * * * *", "50,0,10 * * * *"),
        ("0 0 30-2 * *", "0 0 30,31,1,2 * *"),
        ("0 0 1 NOV-FEB *", "0 0 1 11,12,1,2 *"),
        ("0 0 1 11-2 *", "0 0 1 11,12,1,2 *"),
    ],
)
def test_a_range_goes_on_past_the_end_of_its_field(wrapping: str, listed: str) -> None:
    assert first_slots(wrapping) == first_slots(listed)


@pytest.mark.parametrize(
    ("days", "listed"),
    [
        ("7", "0"),
        ("0-7", "0,1,2,3,4,5,6"),
        ("1-7", "0,1,2,3,4,5,6"),
        ("1-7/2", "1,3,5,0"),
        ("SUN-SAT", "0,1,2,3,4,5,6"),
        ("MON-SUN", "0,1,2,3,4,5,6"),
        ("5-7", "5,6,0"),
        ("FRI-7", "5,6,0"),
        ("7-2", "0,1,2"),
        ("7-7", "0"),
        ("SUN-SUN", "0"),
        ("0,7", "0"),
        ("7#1", "0#1"),
        ("7L", "0L"),
    ],
)
def test_7_is_sunday_as_0_is(days: str, listed: str) -> None:
    assert first_slots(f"0 0 * * {days}") == first_slots(f"0 0 * * {listed}")


@settings(deadline=None, max_examples=200)
@given(
    place=st.integers(0, 4),
    start=st.integers(0, 59),
    end=st.integers(0, 59),
    step=st.integers(1, 5),
)
def test_a_range_means_the_values_that_counting_finds(
    place: int, start: int, end: int, step: int
) -> None:
    first, last = BOUNDS[place]
    size = last - first + 1
    start, end = first + start % size, first + end % size
    counted = [start]
    while counted[-1] != end:
        counted.append(first + (counted[-1] + 1 - first) % size)
    item = f"{start}-{end}/{step}"
    listed = ",".join(map(str, counted[::step]))
    assert parse_expression(in_field(place, item)) == parse_expression(in_field(place, listed))


# Names and question marks


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("0 0 * August *", "0 0 * 8 *"),
        ("0 0 * AUGUST *", "0 0 * 8 *"),
        ("0 0 * jan-march *", "0 0 * 1-3 *"),
        ("0 0 * Sept *", "0 0 * 9 *"),
        ("0 0 * * Friday", "0 0 * * 5"),
        ("0 0 * * monday-Friday", "0 0 * * 1-5"),
        ("0 0 * * Tues,THURS", "0 0 * * 2,4"),
        ("0 0 * * friday#2", "0 0 * * 5#2"),
        ("0 0 * * FridayL", "0 0 * * 5L"),
        ("0 0 * * aprilfool", ""),
        ("0 5 ? * MON", "0 5 * * 1"),
        ("0 5 15 * ?", "0 5 15 * *"),
        ("? ? ? ? ?", "* * * * *"),
        ("?/20 ? * * *", "*/20 * * * *"),
        ("\t0 5\n* *  *\n", "0 5 * * *"),
    ],
)
def test_names_and_question_marks(expression: str, same: str) -> None:
    if same:
        assert first_slots(expression) == first_slots(same)
    else:
        said(expression)


def test_a_question_mark_follows_real_time_as_a_star_does() -> None:
    autumn = datetime(2026, 10, 24, 22, tzinfo=UTC)
    counts = {
        Cron(f"0 {hour} * * *", "Europe/Berlin").count(autumn, autumn + timedelta(hours=25))
        for hour in ("*", "?")
    }
    assert counts == {25}


# Days that do not exist


@pytest.mark.parametrize(
    "days", ["31 2 *", "30 2 *", "31 4,6,9,11 *", "30,31 FEB *", "31 2 */2", "31 2 ?", "30-31 2 *"]
)
def test_a_day_that_no_month_has_is_refused(days: str) -> None:
    told = said(f"0 0 {days}")
    assert "names no day that exists" in told
    assert "write L" in told


@pytest.mark.parametrize("days", ["31 2 MON", "30 2 1-5", "29 2 *", "31,L 2 *", "31 2,3 *"])
def test_a_day_that_some_month_has_or_a_day_of_the_week_beside_it_is_not(days: str) -> None:
    assert Cron(f"0 0 {days}").after(START) is not None


# What others accept


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("CRON_TZ=Europe/Berlin 0 5 * * *", "timezone='Europe/Berlin'"),
        ("TZ=Asia/Tokyo 0 5 * * *", "timezone='Asia/Tokyo'"),
        ("tz=UTC\t@daily", "timezone='UTC'"),
        ("0 0 1 1 * 2027", "there is no year field"),
        ("0 0 1 1 * 2027-2030", "there is no year field"),
        ("0 0 1 1 * 2027,2028", "there is no year field"),
        ("0 12 * * ? *", "there is no year field"),
        ("cron(0 12 * * ? *)", "there is no year field"),
        ("rate(5 minutes)", "interval='5m'"),
        ("rate(1 day)", "interval='1d'"),
        ("@every 5d", "interval='5d'"),
        ("@every 1h30m", "interval='1h30m'"),
        ("@EVERY 10s", "interval='10s'"),
        ("every 5 minutes", "interval='5m'"),
        ("5m", "interval='5m'"),
        ("0 * * * * *", "leave the seconds out"),
        ("0 0 12 * * ?", "leave the seconds out"),
        ("0 0 12 * * ? 2027", "there is no year field"),
        ("@reboot", "worker run"),
        ("@quarterly", "0 0 1 1,4,7,10 *"),
        ("@weekdays", "MON-FRI"),
        ("@dayly", "did you mean '@daily'"),
        ("daily", "did you mean '@daily'"),
        ("@daily Europe/Berlin", "@daily stands alone"),
        ("0 5 * * * # nightly", "comment"),
        ("0 5 * * * #nightly", "comment"),
        ("0 5 * * * /usr/bin/backup", "leave out"),
        ("0 5 * * * root /usr/bin/backup --all", "leave out"),
        ("0 5 * * *\n0 6 * * *", "10 fields"),
        ("'0 5 * * *'", "quotes"),
        ("٣ * * * *", "ASCII"),
        ("1\u20135 * * * *", "ASCII"),
        ("H * * * *", "jitter="),
        ("H/15 * * * *", "jitter="),
        ("0 H(0-7) * * *", "jitter="),
        ("0~30 * * * *", "jitter="),
        ("R * * * *", "jitter="),
        ("0 0 15W * *", "LW"),
        ("0 0 L-3 * *", "without an offset"),
        ("0 0 1-L * *", "without an offset"),
        ("0 0 L/2 * *", "without an offset"),
        ("0 0 * * L", "SATL"),
        ("0 0 * * FRI#6", "1 to 5"),
        ("0 0 * * FRI#-1", "FRIL"),
        ("0 0 * * MON-FRI#2", "one day of the week"),
        ("0 0 1#2 * *", "one day of the week"),
        ("02:30 * * * *", "30 2"),
        ("/5 * * * *", "write */5"),
        ("*/5/2 * * * *", "one step"),
        ("0 0 * MON *", "day-of-week field"),
        ("0 0 * * DEC", "month field"),
        ("1,,2 * * * *", "remove a comma"),
        ("60 * * * *", "0 to 59"),
        ("0 24 * * *", "0 to 23"),
        ("0 0 32 * *", "1 to 31"),
        ("0 0 * 13 *", "1 to 12"),
        ("0 0 * * 8", "0 to 7"),
        ("0 0 * *", "4 fields"),
    ],
)
def test_what_other_schedulers_accept_is_refused_with_what_to_write(
    expression: str, hint: str
) -> None:
    assert hint in said(expression)
