"""The arithmetic of slots, against plain counting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.schedule import Interval, first_slots

FIRST = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
intervals = st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(days=30))
offsets = st.timedeltas(min_value=timedelta(days=-3), max_value=timedelta(days=3))


@given(every=intervals, offset=offsets)
def test_the_next_slot_is_later_than_the_moment_and_at_most_one_interval_away(
    every: timedelta, offset: timedelta
) -> None:
    schedule, moment = Interval(every, FIRST), FIRST + offset
    following = schedule.after(moment)
    assert following > moment
    assert following == FIRST or following - moment <= every
    assert (following - FIRST) % every == timedelta(0)


@given(every=intervals, offset=offsets)
def test_the_latest_slot_is_the_one_before_the_next(every: timedelta, offset: timedelta) -> None:
    schedule, moment = Interval(every, FIRST), FIRST + offset
    latest = schedule.latest(moment)
    if latest is None:
        assert moment < FIRST
    else:
        assert latest <= moment
        assert schedule.after(latest) == schedule.after(moment) == latest + every


@given(every=intervals, slots=st.integers(0, 1000), more=st.integers(0, 1000))
def test_count_is_the_number_of_slots_in_between(every: timedelta, slots: int, more: int) -> None:
    schedule = Interval(every, FIRST)
    assert schedule.count(FIRST + slots * every, FIRST + (slots + more) * every) == more


@given(st.lists(intervals, min_size=1, max_size=20), intervals, intervals)
def test_first_slots_are_spread_and_none_is_put_off_by_a_whole_interval(
    every: list[timedelta], delay: timedelta, spread: timedelta
) -> None:
    slots = first_slots(FIRST, every, delay=delay, spread=spread)
    assert slots[0] == FIRST + delay
    for slot, interval in zip(slots, every, strict=True):
        assert FIRST + delay <= slot < FIRST + delay + min(interval, spread)


def test_four_tasks_do_not_fire_in_the_same_instant() -> None:
    hour = timedelta(hours=1)
    slots = first_slots(FIRST, [hour] * 4, delay=timedelta(0), spread=timedelta(seconds=4))
    assert [(slot - FIRST).total_seconds() for slot in slots] == [0, 1, 2, 3]


def test_an_interval_that_is_not_positive_and_a_naive_first_slot_are_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        Interval(timedelta(0), FIRST)
    with pytest.raises(ValueError, match="time zone"):
        Interval(timedelta(1), FIRST.replace(tzinfo=None))
