"""The arithmetic of slots, against plain counting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import START
from tests.support.schedules import (
    DAY,
    HOUR,
    MINUTE,
    moments,
    near_the_change,
    schedules,
    strictly_ascending,
    unbounded,
)
from worker.schedules.schedule import (
    EPOCH,
    LONGEST,
    OFF,
    Cron,
    Interval,
    Once,
    Schedule,
    Within,
    due_until,
    jitter_of,
    next_due,
    phase_of,
    slots_between,
)

EARLIEST, LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
lengths = st.timedeltas(min_value=timedelta(microseconds=1), max_value=LONGEST)
any_moment = st.datetimes(timezones=st.just(UTC))


@given(every=lengths, phase=lengths, moment=any_moment)
def test_slots_of_an_interval_are_anchored_to_the_epoch(
    every: timedelta, phase: timedelta, moment: datetime
) -> None:
    schedule = Interval(every, phase)
    before, following = schedule.until(moment), schedule.after(moment)
    assert schedule.phase == phase % every
    if before is None or following is None:
        assert moment - EARLIEST < every or LATEST - moment < every
        return
    assert before <= moment < following == before + every
    assert (before - EPOCH - phase) % every == OFF


@given(
    every=lengths,
    phase=lengths,
    first=st.integers(-1000, 1000),
    more=st.integers(0, 1000),
    more_time=st.timedeltas(min_value=OFF, max_value=MINUTE),
)
def test_count_of_an_interval_is_the_number_of_slots_in_between(
    every: timedelta, phase: timedelta, first: int, more: int, more_time: timedelta
) -> None:
    every = min(every, timedelta(days=300))
    start = EPOCH + phase % every + first * every
    end = start + more * every
    schedule = Interval(every, phase)
    assert schedule.count(start, end + more_time % every) == more
    assert schedule.count(end, start) == 0


@settings(deadline=None)
@given(schedule=schedules, moment=moments, offset=near_the_change)
def test_looking_forwards_looking_backwards_and_counting_agree(
    schedule: Schedule, moment: datetime, offset: timedelta
) -> None:
    start, end = sorted([moment, moment + offset])
    slots = list(slots_between(schedule, start, end))
    assert strictly_ascending([start, *slots])
    assert all(slot.tzinfo is UTC for slot in slots)
    assert schedule.count(start, end) == len(slots)
    assert schedule.count(end, start) == 0 or start == end
    backwards = []
    slot = schedule.until(end)
    while slot is not None and slot > start:
        backwards.append(slot)
        assert schedule.until(slot) == slot
        slot = schedule.until(slot - datetime.resolution)
    assert backwards[::-1] == slots
    following = schedule.after(end)
    last = schedule.until(end)
    if last is not None:
        assert schedule.after(last) == following
    if following is not None:
        assert schedule.until(following - datetime.resolution) == last


@settings(deadline=None)
@given(schedule=unbounded, bounds=st.lists(moments, min_size=2, max_size=2, unique=True))
def test_a_period_keeps_the_slots_from_its_start_until_before_its_end(
    schedule: Schedule, bounds: list[datetime]
) -> None:
    start, end = sorted(bounds)
    end = min(end, start + DAY)
    period = Within(schedule, start, end)
    kept = [s for s in slots_between(schedule, start - HOUR, end + HOUR) if start <= s < end]
    assert list(slots_between(period, start - HOUR, end + HOUR)) == kept
    assert period.count(start - HOUR, end + HOUR) == len(kept)
    assert period.until(start - datetime.resolution) is None
    assert period.after(end) is None
    assert period.count(start - HOUR, end) == len(kept)
    assert period.until(end) == (kept[-1] if kept else None)
    assert period.until(LATEST) == (kept[-1] if kept else None)
    assert period.after(EARLIEST) == (kept[0] if kept else None)


def test_a_slot_at_the_start_of_a_period_is_part_of_it_and_one_at_its_end_is_not() -> None:
    period = Within(Interval(HOUR), EPOCH, EPOCH + 2 * HOUR)
    assert list(slots_between(period, EARLIEST, LATEST)) == [EPOCH, EPOCH + HOUR]
    assert period.until(EPOCH + 2 * HOUR) == EPOCH + HOUR
    assert period.count(EARLIEST, EPOCH + 2 * HOUR) == 2


def test_once_is_one_slot() -> None:
    schedule = Once(START)
    assert schedule.until(START - datetime.resolution) is None
    assert schedule.after(START - datetime.resolution) == START == schedule.until(START)
    assert schedule.after(START) is None
    assert schedule.count(START - HOUR, START) == 1
    assert schedule.count(START, START + HOUR) == 0


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (Interval(HOUR), "every 1h"),
        (Interval(90 * MINUTE, MINUTE), "every 1h30m"),
        (Cron(" 0  3 * * * ", "Europe/Berlin"), "0 3 * * * Europe/Berlin"),
        (Cron("@daily"), "@daily UTC"),
        (Once(START), "once at 2026-11-21T09:30:00Z"),
        (Once(START.astimezone(ZoneInfo("Europe/Berlin"))), "once at 2026-11-21T09:30:00Z"),
        (Within(Interval(HOUR)), "every 1h"),
        (Within(Interval(HOUR), START), "every 1h from 2026-11-21T09:30:00Z"),
        (
            Within(Cron("@hourly"), START, START + DAY),
            "@hourly UTC from 2026-11-21T09:30:00Z until 2026-11-22T09:30:00Z",
        ),
    ],
)
def test_a_schedule_tells_humans_what_it_is(schedule: Schedule, told: str) -> None:
    assert str(schedule) == told
    assert isinstance(schedule, Schedule)


@pytest.mark.parametrize("zone", [UTC, timezone(14 * HOUR), timezone(-12 * HOUR)])
@pytest.mark.parametrize(
    "schedule",
    [
        Interval(LONGEST, HOUR),
        Interval(timedelta(microseconds=1)),
        Cron("* * * * *"),
        Cron("0 0 29 2 *", "Pacific/Apia"),
        Cron("0 0 31 12 *", "America/New_York"),
        Once(EARLIEST),
        Once(LATEST),
        Within(Interval(HOUR), EARLIEST, LATEST),
        Within(Cron("@hourly", "Asia/Kolkata"), EARLIEST + HOUR, EARLIEST + 2 * HOUR),
    ],
    ids=str,
)
def test_the_first_and_the_last_moment_of_the_calendar_do_not_raise(
    schedule: Schedule, zone: timezone
) -> None:
    first, last = EARLIEST.replace(tzinfo=zone), LATEST.replace(tzinfo=zone)
    for moment in (first, last):
        # What UTC has no date for counts as the first or the last moment that it has.
        nearest = min(max(moment, EARLIEST), LATEST)
        before, following = schedule.until(moment), schedule.after(moment)
        assert before is None or before <= nearest
        assert following is None or following > nearest
        for jitter in (OFF, DAY):
            due = due_until(schedule, "task", jitter, moment)
            assert due is None or due <= nearest
            coming = next_due(schedule, "task", jitter, moment)
            assert coming is None or coming[0] <= coming[1]
    assert schedule.count(last, first) == 0
    if not isinstance(schedule, Cron):  # it would count all days of 9,900 years
        assert schedule.count(first, last) >= 0


@given(
    schedule=unbounded,
    moment=moments,
    most=st.timedeltas(min_value=OFF, max_value=2 * DAY),
    name=st.text(st.characters(codec="utf-8"), max_size=20),
)
@settings(deadline=None)
def test_jitter_keeps_the_order_of_slots(
    schedule: Schedule, moment: datetime, most: timedelta, name: str
) -> None:
    slots = list(slots_between(schedule, moment - 4 * HOUR, moment + 4 * HOUR))
    dues = []
    for slot, following in pairwise(slots):
        jitter = jitter_of(name, slot, most, following - slot)
        assert OFF <= jitter <= most
        assert jitter < following - slot
        assert jitter == jitter_of(name, slot, most, following - slot)
        dues.append(slot + jitter)
    assert strictly_ascending(dues)
    for slot, due in zip(slots, dues, strict=False):
        just_before = due - datetime.resolution
        assert due_until(schedule, name, most, due) == slot
        assert due_until(schedule, name, most, just_before) != slot
        assert next_due(schedule, name, most, just_before) == (slot, due)
        after_it = next_due(schedule, name, most, due)
        assert after_it is not None
        assert after_it[0] == schedule.after(slot)


def test_without_jitter_a_slot_is_due_at_once() -> None:
    schedule = Interval(HOUR)
    slot = EPOCH + HOUR
    assert due_until(schedule, "task", OFF, slot) == slot
    assert next_due(schedule, "task", OFF, slot) == (slot + HOUR, slot + HOUR)
    assert next_due(Once(slot), "task", OFF, slot) is None
    assert due_until(Once(slot), "task", OFF, EPOCH) is None


def test_jitter_of_the_last_slot_is_not_cut_short() -> None:
    coming = next_due(Once(START), "task", HOUR, EPOCH)
    assert coming == (START, START + jitter_of("task", START, HOUR, LONGEST))
    assert coming[1] > START
    assert due_until(Once(START), "task", HOUR, START) is None
    assert due_until(Once(START), "task", HOUR, coming[1]) == START


def test_jitter_that_may_be_longer_than_the_gap_is_shorter_all_the_same() -> None:
    tick = datetime.resolution
    jitters = {jitter_of(f"task_{number}", START, HOUR, 3 * tick) for number in range(100)}
    assert jitters == {OFF, tick, 2 * tick}


def test_jitter_spreads_over_what_is_allowed() -> None:
    jitters = [
        jitter_of("task", slot, 10 * MINUTE, HOUR)
        for slot in slots_between(Interval(HOUR), START, START + 20 * DAY)
    ]
    assert len(set(jitters)) == len(jitters)
    assert min(jitters) < MINUTE
    assert max(jitters) > 9 * MINUTE


@given(name=st.text(st.characters(codec="utf-8")), every=lengths)
def test_a_phase_lies_in_its_interval_and_is_a_whole_number_of_units(
    name: str, every: timedelta
) -> None:
    phase = phase_of(name, every)
    unit = timedelta(seconds=1) if every >= MINUTE else timedelta(milliseconds=1)
    assert OFF <= phase < every
    assert phase % unit == OFF
    assert phase == phase_of(name, every)


def test_phases_differ_between_names_and_never_change() -> None:
    phases = {phase_of(f"task_{number}", HOUR) for number in range(20)}
    assert len(phases) == 20
    assert phase_of("process_pending_orders", HOUR) == timedelta(seconds=311)
    assert phase_of("process_pending_orders", timedelta(seconds=1)) == timedelta(milliseconds=711)
    assert jitter_of("process_pending_orders", START, MINUTE, HOUR) == timedelta(
        seconds=4, microseconds=117990
    )


NAIVE = START.replace(tzinfo=None)


@pytest.mark.parametrize("schedule", [Interval(HOUR), Cron("@daily"), Once(START)], ids=str)
def test_a_moment_without_a_time_zone_is_refused(schedule: Schedule) -> None:
    for bounded in (schedule, Within(schedule, START)):
        with pytest.raises(ValueError, match=r"time zone, got 2026-11-21T09:30:00; say which"):
            bounded.after(NAIVE)
        with pytest.raises(ValueError, match="time zone"):
            bounded.until(NAIVE)
        with pytest.raises(ValueError, match="time zone"):
            bounded.count(NAIVE, START)
        with pytest.raises(ValueError, match="time zone"):
            bounded.count(START, NAIVE)


def test_what_makes_no_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be positive.*got 0:00:00"):
        Interval(OFF)
    with pytest.raises(ValueError, match=r"must be positive.*got -1 day"):
        Interval(-DAY)
    with pytest.raises(ValueError, match=r"up to 3650 days, got 3650 days, 0:00:00.000001; use a"):
        Interval(LONGEST + datetime.resolution)
    with pytest.raises(ValueError, match="time zone"):
        Once(NAIVE)
    with pytest.raises(ValueError, match="time zone"):
        Within(Interval(HOUR), start_at=NAIVE)
    with pytest.raises(ValueError, match="time zone"):
        Within(Interval(HOUR), end_at=NAIVE)
    with pytest.raises(ValueError, match=r"must end after it starts.*2026-11-21T09:30:00Z"):
        Within(Interval(HOUR), START, START)
    with pytest.raises(ValueError, match="must end after it starts"):
        Within(Interval(HOUR), START, START - HOUR)


def test_a_phase_and_a_jitter_of_nonsense_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        phase_of("task", OFF)
    with pytest.raises(ValueError, match="must not be negative"):
        jitter_of("task", START, -MINUTE, HOUR)
    with pytest.raises(ValueError, match="must be later"):
        jitter_of("task", START, MINUTE, OFF)
    with pytest.raises(ValueError, match="time zone"):
        jitter_of("task", NAIVE, MINUTE, HOUR)
