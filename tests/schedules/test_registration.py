"""What can be said of a task's schedule in code, and what is refused in plain words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from worker import Events, Runner, Scheduler, SystemClock
from worker.app import refuse_unused
from worker.errors import ConfigurationError, TaskDefinitionError
from worker.schedules.catch_up import CatchUp, CatchUpPolicy
from worker.schedules.policies import Overlap, Policies
from worker.schedules.registration import ScheduleOptions, task_schedule
from worker.schedules.schedule import Cron, Interval, Once, Schedule, Within, phase_of
from worker.scheduling.schedule_fields import describe_fields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
MOMENT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
OWN_PHASE = phase_of("sync", HOUR)


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        ({"interval": HOUR}, Interval(HOUR, OWN_PHASE)),
        ({"interval": "1h"}, Interval(HOUR, OWN_PHASE)),
        ({"interval": "PT1H"}, Interval(HOUR, OWN_PHASE)),
        ({"interval_seconds": 3600}, Interval(HOUR, OWN_PHASE)),
        ({"interval_seconds": HOUR}, Interval(HOUR, OWN_PHASE)),
        ({"interval_seconds": "1h"}, Interval(HOUR, OWN_PHASE)),
        ({"interval": 3600}, Interval(HOUR, OWN_PHASE)),
        ({"interval": 3600.0, "phase": 300}, Interval(HOUR, 5 * MINUTE)),
        ({"interval_seconds": 0.5}, Interval(HOUR / 7200, phase_of("sync", HOUR / 7200))),
        ({"interval": HOUR, "phase": "5m"}, Interval(HOUR, 5 * MINUTE)),
        ({"interval_seconds": 3600, "phase": 0 * HOUR}, Interval(HOUR)),
        ({"interval": HOUR, "phase": "off"}, Interval(HOUR)),
        ({"interval": timedelta(0)}, None),
        ({"interval": "0"}, None),
        ({"interval": " Off "}, None),
        ({"interval_seconds": 0}, None),
        ({"interval": "off", "start_at": MOMENT}, None),
        ({"cron": "0 3 * * *"}, Cron("0 3 * * *")),
        ({"cron": "@hourly", "timezone": "Europe/Berlin"}, Cron("@hourly", "Europe/Berlin")),
        ({"at": MOMENT}, Once(MOMENT)),
        ({"at": "2026-11-21T10:30:00+01:00"}, Once(MOMENT)),
        ({"at": MOMENT.astimezone(ZoneInfo("Asia/Tokyo"))}, Once(MOMENT)),
        (
            {"interval": HOUR, "start_at": "2026-11-21T09:30:00Z", "end_at": MOMENT + HOUR},
            Within(Interval(HOUR, 30 * MINUTE), MOMENT, MOMENT + HOUR),
        ),
        ({"cron": "@daily", "end_at": MOMENT}, Within(Cron("@daily"), None, MOMENT)),
        ({"interval": HOUR, "cron": None, "end_at": None}, Interval(HOUR, OWN_PHASE)),
    ],
)
def test_what_is_said_of_when_a_task_runs(
    options: dict[str, Any], schedule: Schedule | None
) -> None:
    assert task_schedule("sync", options).schedule == schedule


@pytest.mark.parametrize(
    ("options", "policies"),
    [
        ({}, Policies()),
        *[({"overlap": overlap.value}, Policies(overlap=overlap)) for overlap in Overlap],
        ({"overlap": Overlap.ALLOW_ALL}, Policies(overlap=Overlap.ALLOW_ALL)),
        ({"buffer_limit": 7}, Policies(buffer_limit=7)),
        *[
            ({"catchup": policy.value}, Policies(catch_up=CatchUp(policy=policy)))
            for policy in CatchUpPolicy
        ],
        ({"catchup_window": "3h"}, Policies(catch_up=CatchUp(window=3 * HOUR))),
        ({"catchup_limit": 3}, Policies(catch_up=CatchUp(limit=3))),
        ({"jitter": "90s"}, Policies(jitter=1.5 * MINUTE)),
        ({"jitter": "off"}, Policies()),
        ({"jitter": 90}, Policies(jitter=1.5 * MINUTE)),
        ({"catchup_window": 10800}, Policies(catch_up=CatchUp(window=3 * HOUR))),
        ({"max_runs": 3}, Policies(max_runs=3)),
        ({"pause_after_failures": 1}, Policies(pause_after_failures=1)),
        ({"retry_lost": 2}, Policies(retry_lost=2)),
        ({"retry_lost": 0}, Policies()),
        ({"needs_ledger": False}, Policies(needs_ledger=False)),
        ({"max_age": "26h"}, Policies(max_age=26 * HOUR)),
        ({"max_age": "off"}, Policies()),
        ({"enqueue": True, "params": {"order_id": 7}}, Policies()),
        ({"max_runs": None, "jitter": None, "needs_ledger": None}, Policies()),
    ],
)
def test_what_is_said_of_how_a_schedule_is_kept(
    options: dict[str, Any], policies: Policies
) -> None:
    assert task_schedule("sync", {"interval": HOUR, **options}).policies == policies


def test_every_option_is_covered_above() -> None:
    here = "".join(
        str(mark.args[1])
        for test in (
            test_what_is_said_of_when_a_task_runs,
            test_what_is_said_of_how_a_schedule_is_kept,
        )
        for mark in test.pytestmark
    )
    assert [name for name in ScheduleOptions.__annotations__ if f"'{name}'" not in here] == []


REFUSALS: list[tuple[dict[str, Any], str]] = [
    (
        {},
        "'sync' needs to know once when it runs: expected one of interval=…, interval_seconds=…, "
        "cron=…, at=…, got none",
    ),
    ({"interval": HOUR, "interval_seconds": 1}, "got interval and interval_seconds"),
    ({"interval": HOUR, "cron": "@daily", "at": MOMENT}, "got interval and cron and at"),
    (
        {"interval": HOUR, "colour": 1, "jiter": 2},
        "'sync': unknown option colour, jiter (did you mean 'jitter'?); known: at, ",
    ),
    ({"interval": -HOUR}, "an interval cannot be negative, got -1 day, 23:00:00"),
    ({"interval_seconds": -1}, "an interval cannot be negative"),
    ({"interval": timedelta.max}, "an interval can be up to 3650 days"),
    ({"interval": "3651d"}, "an interval can be up to 3650 days"),
    ({"interval": True}, "interval: expected a timedelta, a number of seconds, or a text"),
    ({"interval": 10**5000}, "interval: expected a number of seconds, got a int"),
    ({"interval": "often"}, "interval: expected a duration such as 90s"),
    ({"interval_seconds": "often"}, "interval_seconds: expected a duration"),
    ({"interval_seconds": float("nan")}, "expected a number of seconds, got nan"),
    ({"interval_seconds": float("inf")}, "expected a number of seconds, got inf"),
    ({"interval_seconds": True}, "interval_seconds: expected a timedelta, a number of seconds"),
    (
        {"interval": HOUR, "phase": [5]},
        "phase: expected a timedelta, a number of seconds, or a text",
    ),
    ({"cron": "@daily", "phase": "5m"}, "phase goes with interval, which is not given"),
    ({"interval": HOUR, "timezone": "UTC"}, "timezone goes with cron, which is not given"),
    ({"at": MOMENT, "timezone": "UTC"}, "timezone goes with cron, which is not given"),
    ({"cron": 5}, "cron: expected a text, got 5"),
    ({"cron": ""}, "'sync': "),
    ({"cron": "0 0 31 2 *"}, "'sync': "),
    ({"cron": "@daily", "timezone": "Mars/Olympus"}, "Mars/Olympus"),
    ({"cron": "@daily", "timezone": ""}, "expected a time zone's IANA name"),
    ({"at": "soon"}, "at: expected a moment such as 2026-11-21T09:30:00Z, got 'soon'"),
    ({"at": "2026-11-21T09:30:00"}, "at: expected a moment with its time zone"),
    ({"at": MOMENT.date()}, "at: expected a moment with its time zone"),
    ({"interval": HOUR, "start_at": 5}, "start_at: expected a moment with its time zone"),
    ({"interval": HOUR, "start_at": MOMENT, "end_at": MOMENT}, "must end after it starts"),
    (
        {"interval": HOUR, "overlap": "queue"},
        "overlap: expected one of skip, buffer_one, "
        "buffer_all, cancel_other, allow_all, got 'queue'",
    ),
    ({"interval": HOUR, "overlap": ["skip"]}, "overlap: expected one of"),
    ({"interval": HOUR, "catchup": "none"}, "catchup: expected one of latest, earliest, all"),
    ({"interval": HOUR, "catchup_window": "off"}, "a catch-up window must be positive"),
    ({"interval": HOUR, "catchup_limit": 0}, "catchup_limit: expected a whole number from 1 on"),
    ({"interval": HOUR, "buffer_limit": 0}, "buffer_limit: expected a whole number from 1 on"),
    ({"interval": HOUR, "max_runs": 0}, "max_runs: expected a whole number from 1 on, got 0"),
    ({"interval": HOUR, "max_runs": 1.5}, "max_runs: expected a whole number from 1 on, got 1.5"),
    ({"interval": HOUR, "max_runs": True}, "max_runs: expected a whole number from 1 on, got True"),
    ({"interval": HOUR, "pause_after_failures": 0}, "pause_after_failures: expected a whole"),
    ({"interval": HOUR, "retry_lost": -1}, "retry_lost: expected a whole number from 0 on, got -1"),
    ({"interval": HOUR, "needs_ledger": "no"}, "needs_ledger: expected true or false, got 'no'"),
    ({"interval": HOUR, "jitter": -MINUTE}, "a jitter puts runs off, it cannot be negative"),
    ({"interval": HOUR, "jitter": True}, "jitter: expected a timedelta, a number of seconds, or a"),
    ({"interval": HOUR, "max_age": -MINUTE}, "max_age must be longer than nothing"),
]


@pytest.mark.parametrize(("options", "complaint"), REFUSALS)
def test_what_makes_no_schedule_is_refused_in_plain_words(
    options: Mapping[str, Any], complaint: str
) -> None:
    with pytest.raises(TaskDefinitionError) as refused:
        task_schedule("sync", options)
    assert complaint in str(refused.value)
    assert str(refused.value).startswith("'sync'")


@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=ZoneInfo("America/New_York")),
        datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")),
    ],
)
def test_the_ends_of_the_calendar_are_moments_as_others(moment: datetime) -> None:
    schedule = task_schedule("sync", {"at": moment}).schedule
    assert isinstance(schedule, Once)


async def pings() -> None: ...


@pytest.fixture
async def scheduler_with() -> AsyncIterator[Callable[..., Scheduler]]:
    """Makes a scheduler whose options are overridden."""
    async with httpx.AsyncClient() as client:

        def make(**schedules: ScheduleOptions) -> Scheduler:
            events, clock = Events(), SystemClock()
            return Scheduler(
                Runner(client, clock=clock, events=events),
                clock=clock,
                events=events,
                schedules=schedules,
                schedules_said_by="plan.toml",
            )

        yield make


async def test_a_schedule_that_overrides_keeps_the_other_policies(
    scheduler_with: Callable[..., Scheduler],
) -> None:
    scheduler = scheduler_with(pings={"cron": "0 3 * * *", "timezone": "Europe/Berlin"})
    scheduler.register_task(
        pings, interval=HOUR, phase=MINUTE, overlap="buffer_one", max_age="26h", said_by="the code"
    )
    task = scheduler.tasks["pings"]
    assert task.terms.schedule == Cron("0 3 * * *", "Europe/Berlin")
    assert task.terms.policies == Policies(overlap=Overlap.BUFFER_ONE, max_age=26 * HOUR)
    assert (task.said_by, task.interval) == ("plan.toml", None)


async def test_policies_that_override_keep_the_schedule(
    scheduler_with: Callable[..., Scheduler],
) -> None:
    scheduler = scheduler_with(pings={"overlap": "allow_all", "phase": "2m"})
    scheduler.register_task(pings, interval=HOUR, max_runs=3, start_at=MOMENT, overlap="skip")
    task = scheduler.tasks["pings"]
    assert task.terms.schedule == Within(Interval(HOUR, 2 * MINUTE), MOMENT)
    assert task.terms.policies == Policies(overlap=Overlap.ALLOW_ALL, max_runs=3)
    assert task.interval == HOUR


@pytest.mark.parametrize(
    ("code", "override", "schedule"),
    [
        (
            {"cron": "0 2 * * *", "timezone": "Europe/Berlin"},
            {"cron": "0 3 * * *"},
            Cron("0 3 * * *", "Europe/Berlin"),
        ),
        (
            {"cron": "0 2 * * *", "timezone": "Europe/Berlin"},
            {"timezone": "Asia/Tokyo"},
            Cron("0 2 * * *", "Asia/Tokyo"),
        ),
        (
            {"cron": "0 2 * * *", "timezone": "Europe/Berlin"},
            {"cron": "0 3 * * *", "timezone": None},
            Cron("0 3 * * *", "Europe/Berlin"),
        ),
        (
            {"interval": HOUR, "phase": 5 * MINUTE},
            {"interval": "2h"},
            Interval(2 * HOUR, 5 * MINUTE),
        ),
        (
            {"interval": HOUR, "phase": 5 * MINUTE},
            {"interval_seconds": 7200},
            Interval(2 * HOUR, 5 * MINUTE),
        ),
        ({"interval": HOUR, "phase": 5 * MINUTE}, {"phase": "6m"}, Interval(HOUR, 6 * MINUTE)),
        ({"interval": HOUR, "phase": 5 * MINUTE}, {"cron": "@daily"}, Cron("@daily")),
        ({"cron": "@daily", "timezone": "Asia/Tokyo"}, {"at": MOMENT}, Once(MOMENT)),
        (
            {"interval": HOUR, "start_at": MOMENT},
            {"start_at": MOMENT + 7 * MINUTE},
            Within(Interval(HOUR, 37 * MINUTE), MOMENT + 7 * MINUTE),
        ),
        (
            {"interval": HOUR, "end_at": MOMENT},
            {"cron": "@daily"},
            Within(Cron("@daily"), None, MOMENT),
        ),
    ],
)
async def test_options_override_one_by_one(
    scheduler_with: Callable[..., Scheduler],
    code: Any,
    override: Any,
    schedule: Schedule,
) -> None:
    scheduler = scheduler_with(pings=override)
    scheduler.register_task(pings, **code)
    assert scheduler.tasks["pings"].terms.schedule == schedule


async def test_each_field_has_its_origin(scheduler_with: Callable[..., Scheduler]) -> None:
    scheduler = scheduler_with(pings={"cron": "0 3 * * *", "max_age": "26h"})
    scheduler.register_task(
        pings, cron="0 2 * * *", timezone="Europe/Berlin", jitter=5 * MINUTE, said_by="A_SETTING"
    )
    task = scheduler.tasks["pings"]
    code = task.definition.defined_in
    assert {field.name: (field.value, field.origin) for field in task.fields} == {
        "cron": ("'0 3 * * *'", "plan.toml"),
        "max_age": ("26h", "plan.toml"),
        "timezone": ("Europe/Berlin", code),
        "jitter": ("5m", code),
    }
    assert describe_fields(task.terms, task.fields) == (
        "pings: 0 3 * * * Europe/Berlin; cron='0 3 * * *' (plan.toml), max_age=26h (plan.toml), "
        f"timezone=Europe/Berlin ({code}), jitter=5m ({code})"
    )


@pytest.mark.parametrize(
    ("code", "override", "told"),
    [
        ({"cron": "@daily"}, {}, "pings: @daily UTC; cron=@daily (CODE), timezone=UTC (default)"),
        (
            {"interval": HOUR},
            {"interval_seconds": 60},
            "pings: every 1m; interval_seconds=60 (plan.toml), phase=from the task's name "
            "(default)",
        ),
        (
            {"interval": HOUR, "start_at": MOMENT},
            {},
            "pings: every 1h from 2026-11-21T09:30:00Z; interval=1h (CODE), "
            "start_at=2026-11-21T09:30:00+00:00 (CODE), phase=from start_at (default)",
        ),
        (
            {"cron": "@daily", "timezone": "Asia/Tokyo"},
            {"interval": "off"},
            "pings: off; interval=off (plan.toml); not used: timezone=Asia/Tokyo (CODE), which "
            "goes with cron",
        ),
    ],
)
async def test_the_resulting_schedule_is_described_with_what_is_not_used(
    scheduler_with: Callable[..., Scheduler], code: Any, override: Any, told: str
) -> None:
    scheduler = scheduler_with(pings=override) if override else scheduler_with()
    scheduler.register_task(pings, **code)
    task = scheduler.tasks["pings"]
    shown = describe_fields(task.terms, task.fields)
    assert shown.replace(task.definition.defined_in, "CODE") == told


@pytest.mark.parametrize("every", [timedelta(days=14), 7 * HOUR, timedelta(seconds=90)])
def test_an_interval_begins_at_its_start(every: timedelta) -> None:
    for start in (MOMENT, MOMENT - timedelta(days=1000, microseconds=1), MOMENT + HOUR / 7):
        schedule = task_schedule("sync", {"interval": every, "start_at": start}).schedule
        assert schedule is not None
        assert schedule.after(start - timedelta(days=20)) == start
        assert schedule.after(start) == start + every
        chosen = task_schedule("sync", {"interval": every, "start_at": start, "phase": "1s"})
        assert chosen.schedule == Within(Interval(every, timedelta(seconds=1)), start)


async def test_an_interval_that_overrides_a_cron_has_no_time_zone_left(
    scheduler_with: Callable[..., Scheduler],
) -> None:
    scheduler = scheduler_with(pings={"interval_seconds": 3600})
    scheduler.register_task(pings, cron="@daily", timezone="Europe/Berlin")
    assert scheduler.tasks["pings"].terms.schedule == Interval(HOUR, phase_of("pings", HOUR))


async def test_a_task_that_is_switched_off_can_still_be_run_by_hand(
    scheduler_with: Callable[..., Scheduler],
) -> None:
    scheduler = scheduler_with(pings={"interval": "off"})
    scheduler.register_task(pings, cron="@daily", timezone="Europe/Berlin", start_at=MOMENT)
    assert scheduler.tasks["pings"].terms.schedule is None


async def test_what_overrides_and_does_not_fit_is_refused_saying_where_it_stands(
    scheduler_with: Callable[..., Scheduler],
) -> None:
    scheduler = scheduler_with(pings={"timezone": "Europe/Berlin"})
    with pytest.raises(TaskDefinitionError, match=r"plan\.toml: 'pings': timezone goes with cron"):
        scheduler.register_task(pings, interval=HOUR)


async def test_a_schedule_for_a_task_that_does_not_exist_is_refused_with_the_nearest_name(
    scheduler_with: Callable[..., Scheduler],
) -> None:
    scheduler = scheduler_with(pnigs={"interval": "1h"}, pings={}, other_thing={"max_runs": 1})
    scheduler.register_task(pings, interval=HOUR)
    with pytest.raises(ConfigurationError) as refused:
        refuse_unused(scheduler)
    assert refused.value.problems == (
        "plan.toml: no task is named 'other_thing'",
        "plan.toml: no task is named 'pnigs' (did you mean 'pings'?)",
    )


async def test_schedules_for_tasks_that_exist_are_not_refused(
    scheduler_with: Callable[..., Scheduler],
) -> None:
    scheduler = scheduler_with(pings={"interval": "1h"})
    scheduler.register_task(pings, interval=HOUR)
    refuse_unused(scheduler)
    assert scheduler.unused_schedules == []
