"""Cron expressions: on ordinary days, on days when clocks change, and refused."""

from __future__ import annotations

import copy
import pickle
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.schedules import (
    CHANGES,
    DAY,
    HOUR,
    around,
    expressions,
    near_the_change,
    offsets,
    slots_by_counting,
)
from worker.schedules.schedule import Cron, slots_between

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)


@settings(deadline=None)
@given(
    expression=expressions,
    change=st.sampled_from(CHANGES),
    offset=near_the_change,
    probes=st.lists(near_the_change, min_size=1, max_size=8),
)
@example("0 12 30 12 *", ("Pacific/Apia", CHANGES[12][1]), timedelta(0), [timedelta(0)])
@example("0 0,12 * * *", ("Pacific/Apia", CHANGES[12][1]), timedelta(0), [timedelta(0)])
@example("45 23 31 12 *", CHANGES[13], timedelta(0), [timedelta(0)])
@example("*/10 3 * * *", CHANGES[5], timedelta(0), [timedelta(0)])
def test_slots_are_those_that_plain_counting_finds(
    expression: str, change: tuple[str, datetime], offset: timedelta, probes: list[timedelta]
) -> None:
    zone, moment = change
    start, end = moment - 2 * DAY, moment + 2 * DAY
    schedule = Cron(expression, zone)
    expected = slots_by_counting(expression, zone, start, end)
    assert list(slots_between(schedule, start, end)) == expected
    assert schedule.count(start, end) == len(expected)
    for probe in probes:
        at = min(max(moment + probe, start), end)
        before, following = around(expected, at)
        if before is not None:
            assert schedule.until(at) == before
        if following is not None:
            assert schedule.after(at) == following
        middle = min(max(moment + offset, start), end)
        one, other = sorted([at, middle])
        assert schedule.count(one, other) == len([s for s in expected if one < s <= other])


@settings(deadline=None)
@given(expression=expressions, years=st.integers(0, 40), offset=offsets)
def test_in_utc_slots_are_those_that_the_library_names(
    expression: str, years: int, offset: timedelta
) -> None:
    moment = datetime(2000 + years, 1, 1, tzinfo=UTC) + offset
    schedule = Cron(expression)
    forwards = list(islice(CronSim(expression, moment), 10))
    assert list(islice(slots_between(schedule, moment, forwards[-1]), 20)) == forwards
    assert schedule.count(moment, forwards[-1]) == 10
    assert schedule.until(moment) == next(
        CronSim(expression, moment.replace(second=0, microsecond=0) + timedelta(minutes=1), True)
    )


@settings(deadline=None, max_examples=20)
@given(
    expression=expressions,
    change=st.sampled_from(CHANGES),
    start=offsets,
    length=st.timedeltas(min_value=timedelta(0), max_value=500 * DAY),
)
def test_counting_over_a_year_is_as_counting_one_by_one(
    expression: str, change: tuple[str, datetime], start: timedelta, length: timedelta
) -> None:
    zone, moment = change
    schedule = Cron(expression, zone)
    begin, end = moment + start, moment + start + length
    slots = islice(slots_between(schedule, begin, end), 5_000)
    counted = list(slots)
    if len(counted) == 5_000:
        end = counted[-1]
    assert schedule.count(begin, end) == len(counted)


def local_times(expression: str, day: date) -> list[str]:
    """When an expression is due on a day in Berlin, by the clocks there."""
    midnight = datetime.combine(day, time(), BERLIN).astimezone(UTC)
    end = datetime.combine(day + DAY, time(), BERLIN).astimezone(UTC)
    tick = datetime.resolution
    slots = slots_between(Cron(expression, "Europe/Berlin"), midnight - tick, end - tick)
    return [f"{slot.astimezone(BERLIN):%H:%M%z}"[:8] for slot in slots]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 2 * * *", ["03:00+02"]),
        ("0,30 2 * * *", ["03:00+02"]),
        ("30 2,3 * * *", ["03:00+02", "03:30+02"]),
        ("30 1 * * *", ["01:30+01"]),
        ("0 3 * * *", ["03:00+02"]),
        ("*/30 2 * * *", []),
        ("*/30 1-3 * * *", ["01:00+01", "01:30+01", "03:00+02", "03:30+02"]),
        (
            "30 */2 28-29 3 *",
            [f"{h:02}:30+{'01' if h < 2 else '02'}" for h in range(0, 24, 2) if h != 2],
        ),
    ],
)
def test_in_spring_a_fixed_time_that_does_not_exist_is_due_when_the_clocks_jump(
    expression: str, expected: list[str]
) -> None:
    assert local_times(expression, SPRING) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 2 * * *", ["02:30+02"]),
        ("0,30 2 * * *", ["02:00+02", "02:30+02"]),
        ("30 2,3 * * *", ["02:30+02", "03:30+01"]),
        ("0 3 * * *", ["03:00+01"]),
        ("*/30 2 * * *", ["02:00+02", "02:30+02", "02:00+01", "02:30+01"]),
        ("30 */2 24-25 10 0", ["02:30+02", "02:30+01"]),
    ],
)
def test_in_autumn_a_fixed_time_that_comes_twice_is_due_the_first_time(
    expression: str, expected: list[str]
) -> None:
    assert [told for told in local_times(expression, AUTUMN) if "02" <= told < "04"] == expected


@pytest.mark.parametrize(
    ("expression", "spring", "autumn"),
    [("*/30 * * * *", 46, 50), ("0 * * * *", 23, 25), ("@hourly", 23, 25), ("@daily", 1, 1)],
)
def test_expressions_that_begin_with_a_star_follow_real_time(
    expression: str, spring: int, autumn: int
) -> None:
    assert len(local_times(expression, SPRING)) == spring
    assert len(local_times(expression, AUTUMN)) == autumn


def test_a_day_that_a_zone_skipped_has_its_fixed_slots_at_the_jump() -> None:
    jump = datetime(2011, 12, 30, 10, tzinfo=UTC)  # Samoa went from the 29th to the 31st
    noon = Cron("0 12 * * *", "Pacific/Apia")
    assert list(slots_between(noon, jump - DAY, jump + DAY)) == [
        jump - 12 * HOUR,
        jump,
        jump + 12 * HOUR,
    ]
    only_then = Cron("0 12 30 12 *", "Pacific/Apia")
    assert only_then.after(jump - DAY) == jump == only_then.until(jump + DAY)
    assert only_then.count(jump - DAY, jump + DAY) == 1


def test_when_clocks_go_back_over_midnight_the_new_day_has_begun_already() -> None:
    midnight = datetime(2010, 11, 7, 2, 30, tzinfo=UTC)  # a minute later it was 23:01 once more
    again = midnight + 30 * timedelta(minutes=1)
    assert again.astimezone(ZoneInfo("America/St_Johns")).isoformat()[:16] == "2010-11-06T23:30"
    fixed = Cron("0 0 * * *", "America/St_Johns")
    assert fixed.until(again) == midnight
    assert fixed.after(again) == midnight + DAY + HOUR
    assert fixed.count(midnight - HOUR, again) == 1
    assert fixed.count(again, midnight + DAY) == 0
    # The 7th lies between the dates of these two moments, and yet its slot is before both.
    assert fixed.count(again, midnight + 3 * DAY) == 2
    steady = Cron("*/30 * * * *", "America/St_Johns")
    assert steady.until(again) == again
    assert steady.count(midnight - HOUR, again) == 3


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@DAILY", "0 0 * * *"),
    ],
)
def test_a_named_schedule_is_its_expression(name: str, expression: str) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    slots, expected = (
        list(islice(slots_between(Cron(text), start, start + 1000 * DAY), 5))
        for text in (name, expression)
    )
    assert slots == expected


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 0 L * *", ["2026-01-31", "2026-02-28"]),
        ("0 0 LW * *", ["2026-01-30", "2026-02-27"]),
        ("0 0 * * FRI#2", ["2026-01-09", "2026-02-13"]),
        ("0 0 * * 5L", ["2026-01-30", "2026-02-27"]),
        ("0 0 13 * FRI", ["2026-01-02", "2026-01-09"]),  # either
        ("0 0 */12 * FRI", ["2026-02-13", "2026-03-13"]),  # both
        ("0 0 29 2 *", ["2028-02-29", "2032-02-29"]),
        ("0 0 * 2 MON#5", ["2044-02-29", "2072-02-29"]),
    ],
)
def test_days_are_matched_as_debian_cron_does(expression: str, days: list[str]) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    slots = islice(slots_between(Cron(expression), start, start + 50 * 366 * DAY), 2)
    assert [f"{slot:%Y-%m-%d}" for slot in slots] == days


def test_slots_end_where_dates_would_overflow() -> None:
    schedule = Cron("@yearly", "Pacific/Apia")
    last = schedule.until(datetime.max.replace(tzinfo=UTC))
    first = schedule.after(datetime.min.replace(tzinfo=UTC))
    assert last is not None
    assert first is not None
    assert (first.year, last.year) == (1, 9899)  # midnight there, still the year before in UTC
    assert schedule.after(last) is None
    assert schedule.until(first - datetime.resolution) is None


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "   ",
        "@reboot",
        "@every 5m",
        "* * * *",
        "0 0 31 2 *",
        "0 0 30 2 *",
        "0 0 31 4,6 *",
        "0 0 */31 2 MON#5",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "1,,2 * * * *",
        "-1 * * * *",
        "* * * * MO",
        "* * * * L",
        "a b c d e",
        "٣ * * * *",
        f"{'9' * 5000} * * * *",
    ],
)
def test_a_bad_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"five fields.*@hourly.*; got '"):
        Cron(expression)


def test_a_field_for_seconds_is_refused_and_said_to_be_one_too_many() -> None:
    with pytest.raises(ValueError, match=r"got '0 \* \* \* \* \*'; .* leave the seconds out"):
        Cron("0 * * * * *")


def test_an_expression_that_names_no_day_is_told_so() -> None:
    with pytest.raises(ValueError, match="which names no day that exists"):
        Cron("0 0 31 2 */2")


@settings(deadline=None)
@given(st.text("0123456789*/,-#LWSUNMO @", max_size=30))
def test_no_text_makes_more_trouble_than_a_refusal(expression: str) -> None:
    with suppress(ValueError):
        schedule = Cron(expression)
        assert schedule.after(datetime(2026, 1, 1, tzinfo=UTC)) is not None


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("Berlin", r" \(did you mean 'Europe/Berlin'\?\)"),
        ("europe/berlin", r" \(did you mean 'Europe/Berlin'\?\)"),
        ("new york", r" \(did you mean 'America/New_York'\?\)"),
        ("", "$"),
        ("../etc/passwd", "$"),
        ("/etc/passwd", "$"),
        ("CET+5", "$"),
        ("Europe", "$"),
        ("a\0b", "$"),
        ("\ud800", "$"),
        ("x" * 5000, "$"),
    ],
)
def test_an_unknown_time_zone_is_refused(zone: str, hint: str) -> None:
    with pytest.raises(
        ValueError, match=rf"IANA name, such as Europe/Berlin or UTC, got '.*{hint}"
    ):
        Cron("@daily", zone)


def test_a_cron_schedule_is_a_value() -> None:
    schedule = Cron("0  3 * * *", "Europe/Berlin")
    assert schedule == Cron("0 3 * * *", "Europe/Berlin") != Cron("0 3 * * *")
    assert len({schedule, Cron("0 3 * * *", "Europe/Berlin")}) == 1
    assert repr(schedule) == "Cron(expression='0 3 * * *', timezone='Europe/Berlin')"
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert twin == schedule
        assert twin.after(moment) == schedule.after(moment)
