"""What becomes of slots that nobody looked after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import START
from tests.support.schedules import DAY, HOUR, MINUTE, moments, schedules
from worker.schedules.catch_up import CatchUp, CatchUpPolicy, Plan, Span
from worker.schedules.schedule import Cron, Interval, Once, Schedule, Within, slots_between

HOURLY = Interval(HOUR, 30 * MINUTE)  # START is one of its slots
windows = st.one_of(
    st.none(), st.timedeltas(min_value=timedelta(microseconds=1), max_value=12 * HOUR)
)
catch_ups = st.builds(
    CatchUp, policy=st.sampled_from(CatchUpPolicy), window=windows, limit=st.integers(1, 5)
)


def accounted(schedule: Schedule, plan: Plan) -> list[datetime]:
    """Every slot that a plan names, as often as it does."""
    missed = [
        slot
        for span in plan.missed
        for slot in [span.first, *slots_between(schedule, span.first, span.last)]
    ]
    assert len(missed) == sum(span.count for span in plan.missed)
    return sorted([*plan.run, *missed])


def by_the_book(
    schedule: Schedule, catch_up: CatchUp, slots: list[datetime], now: datetime
) -> set[datetime]:
    """Which of ``slots`` run, each judged on its own."""
    inside = []
    for slot in slots:
        following = schedule.after(slot)
        gap = HOUR if following is None else min(HOUR, following - slot)
        if now - slot <= (gap if catch_up.window is None else catch_up.window):
            inside.append(slot)
    if catch_up.policy is CatchUpPolicy.ALL:
        return set(inside[-catch_up.limit :])
    return set(inside[-1:] if catch_up.policy is CatchUpPolicy.LATEST else inside[:1])


@settings(deadline=None)
@given(
    schedule=schedules,
    catch_up=catch_ups,
    now=moments,
    outage=st.timedeltas(min_value=-HOUR, max_value=DAY),
    on_a_slot=st.booleans(),
)
def test_every_slot_either_runs_or_is_missed_and_those_run_that_are_inside_of_the_window(
    schedule: Schedule, catch_up: CatchUp, now: datetime, outage: timedelta, on_a_slot: bool
) -> None:
    now = schedule.until(now) or now if on_a_slot else now
    since = now - outage
    plan = catch_up.plan(schedule, since=since, now=now)
    slots = list(slots_between(schedule, since, now))
    assert accounted(schedule, plan) == slots
    assert set(plan.run) == by_the_book(schedule, catch_up, slots, now)
    assert list(plan.run) == sorted(plan.run)
    for span, following in pairwise(plan.missed):
        assert schedule.after(span.last) != following.first


steps = st.lists(
    st.timedeltas(min_value=-HOUR, max_value=3 * HOUR) | st.sampled_from([HOUR, -HOUR]), max_size=12
)


@settings(deadline=None)
@given(schedule=schedules, catch_up=catch_ups, start=moments, moves=steps)
def test_no_slot_is_lost_or_named_twice_while_the_clock_jumps_about(
    schedule: Schedule, catch_up: CatchUp, start: datetime, moves: list[timedelta]
) -> None:
    now = furthest = start
    named: list[datetime] = []
    for move in moves:
        now += move
        named += accounted(schedule, catch_up.plan(schedule, since=furthest, now=now))
        furthest = max(furthest, now)
    assert named == list(slots_between(schedule, start, furthest))


@pytest.mark.parametrize(
    ("late", "runs"), [(timedelta(0), 1), (59 * MINUTE, 1), (HOUR, 1), (HOUR + MINUTE, 0)]
)
def test_a_rare_slot_may_be_an_hour_late(late: timedelta, runs: int) -> None:
    daily = Cron("30 9 * * *")
    plan = CatchUp().plan(daily, since=START - DAY, now=START + late)
    assert plan.run == (START,) * runs
    assert plan.missed == (() if runs else (Span(START, START, 1),))


def test_the_newest_slot_of_a_short_interval_is_never_too_late() -> None:
    now = START + timedelta(minutes=59, seconds=59)
    plan = CatchUp().plan(HOURLY, since=START - 3 * HOUR, now=now)
    assert plan == Plan((START,), (Span(START - 2 * HOUR, START - HOUR, 2),))


def test_the_oldest_slot_inside_of_the_window_runs_and_both_sides_of_it_are_missed() -> None:
    catch_up = CatchUp(policy=CatchUpPolicy.EARLIEST, window=2 * HOUR)
    plan = catch_up.plan(HOURLY, since=START - 10 * HOUR, now=START)
    assert plan == Plan(
        (START - 2 * HOUR,),
        (Span(START - 9 * HOUR, START - 3 * HOUR, 7), Span(START - HOUR, START, 2)),
    )


def test_all_slots_run_but_no_more_than_the_limit_and_the_newest_first_of_all() -> None:
    catch_up = CatchUp(policy=CatchUpPolicy.ALL, window=DAY, limit=3)
    plan = catch_up.plan(HOURLY, since=START - 10 * HOUR, now=START)
    assert plan == Plan(
        (START - 2 * HOUR, START - HOUR, START), (Span(START - 9 * HOUR, START - 3 * HOUR, 7),)
    )


def test_nothing_is_due_when_the_clock_was_set_back() -> None:
    assert CatchUp().plan(HOURLY, since=START, now=START) == Plan()
    assert CatchUp().plan(HOURLY, since=START, now=START - 5 * HOUR) == Plan()


def test_what_a_schedule_that_ended_left_over_can_still_run_for_an_hour() -> None:
    for schedule in (Once(START), Within(HOURLY, START, START + MINUTE)):
        assert CatchUp().plan(schedule, since=START - DAY, now=START + HOUR).run == (START,)
        late = CatchUp().plan(schedule, since=START - DAY, now=START + 61 * MINUTE)
        assert late == Plan((), (Span(START, START, 1),))


def test_an_outage_since_the_beginning_of_time_is_planned_without_walking_through_it() -> None:
    second = timedelta(seconds=1)
    first = datetime.min.replace(tzinfo=UTC)
    plan = CatchUp().plan(Interval(second), since=first, now=START)
    assert plan == Plan(
        (START,), (Span(first + second, START - second, (START - first) // second - 1),)
    )
    everything = CatchUp(window=timedelta.max).plan(HOURLY, since=first, now=START)
    assert everything.run == (START,)
    ten_years = CatchUp().plan(
        Cron("* * * * *", "Europe/Berlin"), since=START - 3650 * DAY, now=START
    )
    assert sum(span.count for span in ten_years.missed) == 3650 * 24 * 60 - 1


def test_what_makes_no_catch_up_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window must be positive, got 0:00:00"):
        CatchUp(window=timedelta(0))
    with pytest.raises(ValueError, match=r"limit .* must be 1 or more, got 0"):
        CatchUp(limit=0)
    naive = START.replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        CatchUp().plan(HOURLY, since=naive, now=START)
    with pytest.raises(ValueError, match="time zone"):
        CatchUp().plan(HOURLY, since=START, now=naive)
