"""The simulated schedules: what a preview shows is what the rules say."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.schedules import DAY, HOUR, MINUTE, crons, moments, schedules
from worker.ledger.book import HistoryQuery, Outcome
from worker.schedules.catch_up import CatchUp, CatchUpPolicy
from worker.schedules.outage import Outage, merged, parse_outage
from worker.schedules.policies import Overlap, Policies, TaskSchedule
from worker.schedules.registration import task_schedule
from worker.schedules.schedule import OFF, Interval, jitter_of, just_before, slots_between
from worker.scheduling.preview import Simulation, simulate, stream
from worker.scheduling.preview_model import Line, Preview
from worker.scheduling.preview_table import HEAD, as_json, rows, totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.schedules.schedule import Schedule

BERLIN = ZoneInfo("Europe/Berlin")
SECOND = timedelta(seconds=1)
SPRING, AUTUMN = "2026-03-29", "2026-10-25"
"""The days on which Berlin's clocks change."""
PLAIN = "2026-06-01"


def local(day: str, clock: str = "00:00") -> datetime:
    return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=BERLIN)


def preview_of(day: str, start: str, end: str, **options: Any) -> Preview:
    return Preview(start=local(day, start), end=local(day, end), **options)


def cron(expression: str, **options: Any) -> TaskSchedule:
    return task_schedule("report", {"cron": expression, "timezone": "Europe/Berlin", **options})


def every(interval: str, **options: Any) -> TaskSchedule:
    return task_schedule("report", {"interval": interval, "phase": "0s", **options})


def outage(day: str, start: str, end: str) -> tuple[Outage, ...]:
    return (Outage(local(day, start), local(day, end)),)


def told(lines: Sequence[Line]) -> list[tuple[str, str, str]]:
    """Of each line: slot and start on Berlin's clocks, without seconds, and the outcome."""
    return [
        (clock(line.slot), line.outcome.value, clock(line.started_at) if line.started_at else "")
        for line in lines
    ]


def clock(moment: datetime) -> str:
    return f"{moment.astimezone(BERLIN):%H:%M%z}"


def slots_of(terms: TaskSchedule, day: str, start: str = "00:00", end: str = "05:00") -> list[str]:
    """The slots that run between two times of a day, on Berlin's clocks."""
    lines = simulate([terms], preview_of(day, start, end))
    assert {line.outcome for line in lines} == {Outcome.RAN}
    assert all(line.started_at == line.slot for line in lines)
    return [clock(line.slot) for line in lines]


# When the clocks change


def test_in_spring_a_fixed_time_that_does_not_exist_runs_when_the_clocks_jump() -> None:
    (line,) = simulate([cron("30 2 * * *")], preview_of(SPRING, "00:00", "23:59"))
    assert (clock(line.slot), line.outcome) == ("03:00+0200", Outcome.RAN)
    assert line.note == "clocks jumped: 02:30 does not exist in Europe/Berlin"


def test_in_autumn_a_fixed_time_that_comes_twice_runs_the_first_time() -> None:
    (line,) = simulate([cron("30 2 * * *")], preview_of(AUTUMN, "00:00", "23:59"))
    assert (clock(line.slot), line.outcome) == ("02:30+0200", Outcome.RAN)
    assert line.note == "02:30 comes twice in Europe/Berlin, runs the first time"


def test_on_each_day_around_a_change_a_fixed_time_runs_once() -> None:
    for day in (SPRING, AUTUMN):
        noon = local(day, "12:00")
        lines = simulate([cron("30 2 * * *")], Preview(start=noon - 3 * DAY, end=noon + 3 * DAY))
        assert len({line.slot.astimezone(BERLIN).date() for line in lines}) == len(lines) == 6


def test_hourly_and_half_hourly_crons_and_intervals_follow_real_time() -> None:
    hourly_in_spring = ["00:00+0100", "01:00+0100", "03:00+0200", "04:00+0200"]
    hourly_in_autumn = [
        *("00:00+0200", "01:00+0200", "02:00+0200", "02:00+0100", "03:00+0100", "04:00+0100"),
    ]
    for terms in (cron("0 * * * *"), every("1h")):
        assert slots_of(terms, SPRING) == hourly_in_spring
        assert slots_of(terms, AUTUMN) == hourly_in_autumn
    half_hourly = cron("*/30 * * * *")
    assert slots_of(half_hourly, SPRING, "01:00", "04:00") == [
        *("01:00+0100", "01:30+0100", "03:00+0200", "03:30+0200"),
    ]
    assert slots_of(half_hourly, AUTUMN, "01:30", "03:30") == [
        *("01:30+0200", "02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100", "03:00+0100"),
    ]
    a_day = [len(slots_of(half_hourly, day, "00:00", "23:59")) for day in (SPRING, AUTUMN)]
    assert a_day == [46, 50]


def test_notes_say_which_of_two_equal_times_it_is() -> None:
    lines = simulate([cron("*/30 * * * *")], preview_of(AUTUMN, "01:30", "03:30"))
    assert [line.note.partition(", ")[2] for line in lines] == [
        *("", "this is the first time", "this is the first time"),
        *("this is the second time", "this is the second time", ""),
    ]
    jumped = simulate([cron("0,30 1-3 * * *")], preview_of(SPRING, "03:00", "03:01"))
    assert [line.note for line in jumped] == [
        "clocks jumped: 02:00 … 02:30 do not exist in Europe/Berlin"
    ]


# Outages


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            CatchUpPolicy.LATEST,
            [("02:30+0200", "missed", ""), ("04:30+0200", "ran", "05:00+0200")],
        ),
        (
            CatchUpPolicy.EARLIEST,
            [("02:30+0200", "ran", "05:00+0200"), ("03:30+0200", "missed", "")],
        ),
        (
            CatchUpPolicy.ALL,
            [
                ("02:30+0200", "ran", "05:00+0200"),
                ("03:30+0200", "ran", "05:00+0200"),
                ("04:30+0200", "ran", "05:00+0200"),
            ],
        ),
    ],
)
def test_after_an_outage_the_catch_up_policy_decides(
    policy: CatchUpPolicy, expected: list[tuple[str, str, str]]
) -> None:
    terms = cron("30 * * * *", catchup=policy, catchup_window="3h")
    lines = simulate(
        [terms], preview_of(PLAIN, "01:00", "06:00", outages=outage(PLAIN, "02:00", "05:00"))
    )
    on_time = [("01:30+0200", "ran", "01:30+0200"), ("05:30+0200", "ran", "05:30+0200")]
    assert told(lines) == [on_time[0], *expected, on_time[1]]
    notes = {line.note for line in lines[1:-1]}
    if policy is CatchUpPolicy.LATEST:
        assert notes == {"worker down; a later slot ran instead", "caught up 30m1s late"}
        assert (lines[1].last, lines[1].count) == (local(PLAIN, "03:30"), 2)
    elif policy is CatchUpPolicy.EARLIEST:
        assert notes == {"worker down; an earlier slot ran instead", "caught up 2h30m late"}
    else:
        assert lines[1].note == "caught up 2h30m late"
        assert [line.started_at for line in lines[1:-1]] == [local(PLAIN, "05:00") + SECOND] * 3


def test_a_slot_beyond_the_catch_up_window_is_missed_and_the_note_says_so() -> None:
    lines = simulate(
        [cron("30 2 * * *")],
        preview_of(PLAIN, "00:00", "06:00", outages=outage(PLAIN, "02:00", "05:00")),
    )
    assert told(lines) == [("02:30+0200", "missed", "")]
    assert lines[0].note == "worker down; 2h30m late, beyond the catch-up window of 1h"


def test_an_outage_that_ends_after_the_preview_is_followed_to_its_end() -> None:
    lines = simulate(
        [every("1h", catchup="earliest", catchup_window="6h")],
        preview_of(PLAIN, "01:00", "04:00", outages=outage(PLAIN, "02:00", "05:00")),
    )
    assert told(lines) == [
        ("01:00+0200", "ran", "01:00+0200"),
        ("02:00+0200", "ran", "05:00+0200"),
        ("03:00+0200", "missed", ""),  # with 04:00 and 05:00, which are not shown
    ]
    assert (lines[-1].last, lines[-1].count) == (None, 1)


def test_a_run_whose_worker_dies_is_lost_or_run_again() -> None:
    # Slots at 01:00, 01:10, …; the worker dies at 01:22.
    tasks = [cron("*/10 * * * *"), cron("*/10 * * * *", retry_lost=1)]
    lost, again = (
        simulate(
            [terms],
            preview_of(
                PLAIN,
                *("01:20", "01:30"),
                takes=5 * MINUTE,
                outages=outage(PLAIN, "01:22", "01:28"),
            ),
        )
        for terms in tasks
    )
    assert told(lost) == [("01:20+0200", "lost", "01:20+0200")]
    assert lost[0].note == "its worker died while it ran"
    assert again[0].started_at == local(PLAIN, "01:28")  # before its lease would be over: 01:22:30
    assert again[0].note.startswith("run again after its worker died")


def test_while_a_dead_workers_lease_holds_its_run_is_in_the_way() -> None:
    down = Outage(local(PLAIN, "01:00") + 6 * SECOND, local(PLAIN, "01:00") + 11 * SECOND)
    lines = simulate(
        [every("5s")],
        Preview(
            start=local(PLAIN, "01:00"),
            end=local(PLAIN, "01:01"),
            takes=4 * SECOND,
            outages=(down,),
        ),
    )
    assert [line.outcome.value for line in lines] == [
        *("ran", "lost", *["skipped_overlap"] * 6, *["ran"] * 4),
    ]
    assert lines[2].note == (
        "the previous run died with its worker, whose lease holds for another 24s"
    )
    # 01:00:36 the lease runs out, and the next pulse finds it out: the slot at :40 is free.
    assert lines[8].slot == local(PLAIN, "01:00") + 40 * SECOND


def test_a_daily_outage_is_read_on_the_clocks_of_the_zone() -> None:
    start, end = local(AUTUMN) - DAY, local(AUTUMN) + 2 * DAY
    found = parse_outage("02:00-05:00", BERLIN, start=start, end=end)
    assert [outage.end - outage.start for outage in found] == [3 * HOUR, 4 * HOUR, 3 * HOUR]
    assert found[1].start == datetime(2026, 10, 25, 0, tzinfo=UTC)
    over_midnight = parse_outage("22:00-04:00", BERLIN, start=local(PLAIN), end=local(PLAIN) + DAY)
    assert [(clock(o.start), clock(o.end)) for o in over_midnight] == [
        ("22:00+0200", "04:00+0200"),
        ("22:00+0200", "04:00+0200"),
    ]
    jumped_over = parse_outage("02:10-02:50", BERLIN, start=local(SPRING), end=local(SPRING) + DAY)
    assert jumped_over == ()


def test_a_single_outage_is_read_on_the_same_clocks_unless_it_says_otherwise() -> None:
    start, end = local(AUTUMN) - DAY, local(AUTUMN) + DAY
    for text, length in [
        ("2026-10-25T02:00/2026-10-25T05:00", 4 * HOUR),
        ("2026-10-25T02:00+01:00/2026-10-25T04:00Z", 3 * HOUR),
    ]:
        (found,) = parse_outage(text, BERLIN, start=start, end=end)
        assert found.end - found.start == length
    assert parse_outage("2026-11-25/2026-11-26", BERLIN, start=start, end=end) == ()


@pytest.mark.parametrize(
    "text", ["", "2-5", "02:00", "02:00-02:00", "25:00-26:00", "22:00-24:30", "2026-10-25/x", "b/a"]
)
def test_what_is_no_outage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected an outage such as 02:00-05:00"):
        parse_outage(text, BERLIN, start=local(PLAIN), end=local(PLAIN) + DAY)


def test_outages_that_touch_are_one() -> None:
    one, two, three = (
        *outage(PLAIN, "01:00", "02:00"),
        *outage(PLAIN, "02:00", "03:00"),
        *outage(PLAIN, "01:30", "01:40"),
    )
    assert merged([two, three, one]) == [Outage(one.start, two.end)]


# Overlap


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        (
            Overlap.SKIP,
            [
                ("01:00", "ran", "01:00"),
                ("01:10", "skipped_overlap", ""),
                ("01:20", "skipped_overlap", ""),
                ("01:30", "running", "01:30"),
                ("01:40", "skipped_overlap", ""),
            ],
        ),
        (
            Overlap.BUFFER_ONE,
            [
                ("01:00", "ran", "01:00"),
                ("01:10", "running", "01:25"),
                ("01:20", "skipped_overlap", ""),
                ("01:30", "waiting", ""),
                ("01:40", "skipped_overlap", ""),
            ],
        ),
        (
            Overlap.BUFFER_ALL,
            [
                ("01:00", "ran", "01:00"),
                ("01:10", "running", "01:25"),
                ("01:20", "waiting", ""),
                ("01:30", "waiting", ""),
                ("01:40", "skipped_overlap", ""),
            ],
        ),
        (
            Overlap.CANCEL_OTHER,
            [
                ("01:00", "failed", "01:00"),
                ("01:10", "failed", "01:10"),
                ("01:20", "failed", "01:20"),
                ("01:30", "failed", "01:30"),
                ("01:40", "running", "01:40"),
            ],
        ),
        (
            Overlap.ALLOW_ALL,
            [
                ("01:00", "ran", "01:00"),
                ("01:10", "ran", "01:10"),
                ("01:20", "ran", "01:20"),
                ("01:30", "running", "01:30"),
                ("01:40", "running", "01:40"),
            ],
        ),
    ],
)
def test_a_run_that_takes_longer_than_the_interval_meets_the_overlap_policy(
    overlap: Overlap, expected: list[tuple[str, str, str]]
) -> None:
    lines = simulate(
        [cron("*/10 * * * *", overlap=overlap, buffer_limit=2)],
        preview_of(PLAIN, "01:00", "01:50", takes={"report": 25 * MINUTE}),
    )
    shown = [tuple(cell.removesuffix("+0200") for cell in cells) for cells in told(lines)]
    assert shown == expected


def test_notes_say_what_was_in_the_way() -> None:
    skipped = simulate(
        [cron("*/10 * * * *")], preview_of(PLAIN, "01:00", "01:30", takes=25 * MINUTE)
    )
    assert [line.note for line in skipped] == [
        "",
        "the previous run goes on for another 15m",
        "the previous run goes on for another 5m",
    ]
    waited = simulate(
        [cron("*/10 * * * *", overlap="buffer_one")],
        preview_of(PLAIN, "01:00", "01:40", takes=25 * MINUTE),
    )
    assert [line.note for line in waited] == [
        "",
        "waited 15m for its turn; still running when the preview ends",
        "the previous run goes on for another 5m, and 1 waited before it",
        "still waiting when the preview ends",
    ]


def test_a_run_that_takes_exactly_the_interval_is_not_in_the_way() -> None:
    lines = simulate([every("10m")], preview_of(PLAIN, "01:00", "02:00", takes=10 * MINUTE))
    assert [line.outcome for line in lines[:-1]] == [Outcome.RAN] * 5


def test_after_max_runs_the_schedule_is_over() -> None:
    lines = simulate([every("10m", max_runs=3)], preview_of(PLAIN, "01:00", "05:00"))
    assert [line.note for line in lines] == ["", "", "the last of max_runs"]


# Replicas and jitter


@pytest.mark.parametrize("jitter", ["0s", "20s"])
def test_each_slot_runs_once_and_each_replica_gets_some(jitter: str) -> None:
    preview = preview_of(PLAIN, "00:00", "02:00", replicas=3)
    lines = simulate([every("1m", jitter=jitter)], preview)
    assert [line.slot for line in lines] == [local(PLAIN) + n * MINUTE for n in range(120)]
    got = {name: sum(line.replica == name for line in lines) for name in names(lines)}
    assert set(got) == {"replica-1", "replica-2", "replica-3"}
    assert min(got.values()) > 20
    assert simulate([every("1m", jitter=jitter)], preview) == lines


def names(lines: Sequence[Line]) -> set[str | None]:
    return {line.replica for line in lines}


def test_jitter_puts_off_the_start_and_not_the_slot() -> None:
    lines = simulate([every("10m", jitter="5m")], preview_of(PLAIN, "01:00", "03:00"))
    assert [line.slot for line in lines] == [
        local(PLAIN, "01:00") + n * 10 * MINUTE for n in range(12)
    ]
    for line in lines:
        assert line.started_at is not None
        delay = line.started_at - line.slot
        assert delay == jitter_of("report", line.slot, 5 * MINUTE, 10 * MINUTE)
        assert line.note == "" if not delay else line.note.endswith("of jitter")
    assert len({line.started_at - line.slot for line in lines if line.started_at}) == 12


def test_several_tasks_that_are_overdue_do_not_start_all_at_once() -> None:
    tasks = [task_schedule(f"task-{n}", {"interval": "1h", "phase": "30m"}) for n in range(5)]
    lines = simulate(
        tasks, preview_of(PLAIN, "02:10", "05:10", outages=outage(PLAIN, "02:20", "05:00"))
    )
    caught_up = [line.started_at for line in lines if line.outcome is Outcome.RAN]
    assert caught_up == [local(PLAIN, "05:00") + (n + 1) * SECOND for n in range(5)]


# How much, and how it is shown


def test_a_second_for_a_day_and_an_hour_for_a_year_are_within_the_limit() -> None:
    day = simulate([every("1s")], Preview(start=local(PLAIN), end=local(PLAIN) + DAY))
    assert len(day) == 86_400
    year = Preview(start=local("2026-01-01"), end=local("2027-01-01"))
    assert totals(simulate([cron("0 * * * *")], year)) == {"report": {Outcome.RAN: 8760}}


def peak_of(days: int) -> tuple[int, int]:
    """How many lines a preview of every five minutes has, and the most memory it took."""
    start = local(PLAIN)
    lines = stream([cron("*/5 * * * *")], Preview(start=start, end=start + days * DAY))
    tracemalloc.start()
    count = sum(1 for _ in lines)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return count, peak


def test_a_longer_preview_needs_no_more_memory() -> None:
    peak_of(1)  # what is cached of the calendar
    shorter, longer = peak_of(10), peak_of(40)
    assert (shorter[0], longer[0]) == (2880, 11520)
    assert longer[1] < 2 * shorter[1]  # it would be four times as much if lines were kept


def test_lines_come_while_the_simulation_goes_on() -> None:
    start = local(PLAIN)
    tasks = [
        task_schedule("often", {"interval": "1s"}),
        task_schedule("rarely", {"cron": "@daily"}),
    ]
    lines = stream(tasks, Preview(start=start, end=start + 3000 * DAY))
    some = list(islice(lines, 5000))
    assert [line.slot for line in some] == sorted(line.slot for line in some)
    assert {line.outcome for line in some} == {Outcome.RAN}
    assert some[-1].slot < start + DAY


def test_too_many_runs_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer runs go on or wait at once"):
        simulate(
            [every("1s", overlap="allow_all")],
            Preview(start=local(PLAIN), end=local(PLAIN) + DAY, takes=HOUR),
        )


def test_what_makes_no_sense_is_refused() -> None:
    start = local(PLAIN)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"end": start}, "must end after it starts"),
        ({"replicas": 0}, "replicas must be from 1"),
        ({"takes": -SECOND}, "less than no time"),
        ({"takes": {"a": -SECOND}}, "less than no time"),
        ({"start": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001 - that is the fault
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            Preview(**{"start": start, "end": start + DAY, **options})
    with pytest.raises(ValueError, match="one schedule a task, got more for report"):
        simulate([every("1h"), every("2h")], Preview(start=start, end=start + DAY))
    with pytest.raises(ValueError, match="must end after it starts"):
        Outage(start, start)


def test_a_task_without_a_schedule_has_no_lines() -> None:
    terms = task_schedule("report", {"interval": "off"})
    assert simulate([terms], Preview(start=local(PLAIN), end=local(PLAIN) + DAY)) == []


def test_rows_tell_local_times_with_their_distance_from_utc() -> None:
    lines = simulate(
        [cron("0 * * * *")],
        preview_of(AUTUMN, "01:00", "05:00", outages=outage(AUTUMN, "01:30", "04:30")),
    )
    name = "replica-1"
    assert rows(lines, BERLIN) == [
        ("report", "Sun 2026-10-25 01:00:00 +02:00", "ran", "01:00:00 +02:00", name, ""),
        (
            "report",
            "Sun 2026-10-25 02:00:00 +02:00 … 03:00:00 +01:00 (3)",
            *("missed", "", ""),
            "worker down; 1h30m late, beyond the catch-up window of 1h",
        ),
        (
            *("report", "Sun 2026-10-25 04:00:00 +01:00", "ran"),
            *("04:30:01 +01:00", name, "caught up 30m1s late"),
        ),
    ]
    assert all(len(row) == len(HEAD) for row in rows(lines, BERLIN))
    assert totals(lines) == {"report": {Outcome.RAN: 2, Outcome.MISSED: 3}}
    told = json.loads(json.dumps(as_json(lines)))
    assert told[1] == {
        "task": "report",
        "slot": "2026-10-25T00:00:00+00:00",
        "last": "2026-10-25T02:00:00+00:00",
        "count": 3,
        "outcome": "missed",
        "started_at": None,
        "replica": None,
        "note": "worker down; 1h30m late, beyond the catch-up window of 1h",
    }
    assert told[2]["started_at"] == "2026-10-25T03:30:01+00:00"


def test_a_start_on_another_day_is_told_with_its_day_and_parts_of_a_second_are_seen() -> None:
    lines = simulate(
        [task_schedule("report", {"cron": "59 23 * * *", "jitter": "50m"})],
        Preview(start=local(PLAIN, "12:00"), end=local(PLAIN, "12:00") + DAY),
    )
    (first,) = rows(lines, ZoneInfo("UTC"))
    assert first[1] == "Mon 2026-06-01 23:59:00 +00:00"
    assert first[3].startswith("Tue 2026-06-02 00:")
    assert "." in first[3]


# Every slot has its line


catch_ups = st.builds(
    CatchUp,
    policy=st.sampled_from(CatchUpPolicy),
    window=st.one_of(st.none(), st.timedeltas(min_value=SECOND, max_value=8 * HOUR)),
    limit=st.integers(1, 3),
)
policies = st.builds(
    Policies,
    overlap=st.sampled_from(Overlap),
    buffer_limit=st.integers(1, 3),
    catch_up=catch_ups,
    jitter=st.one_of(st.just(OFF), st.timedeltas(min_value=OFF, max_value=3 * HOUR)),
    retry_lost=st.integers(0, 1),
)
any_schedule = st.one_of(schedules, crons, st.just(Interval(97 * SECOND)))


@st.composite
def previews(draw: st.DrawFn) -> Preview:
    start = draw(moments)
    length = draw(st.timedeltas(min_value=SECOND, max_value=8 * HOUR))
    outages = [
        Outage(start + begin, start + begin + takes)
        for begin, takes in draw(
            st.lists(
                st.tuples(
                    st.timedeltas(min_value=-HOUR, max_value=8 * HOUR),
                    st.one_of(
                        st.timedeltas(min_value=SECOND, max_value=MINUTE),
                        st.timedeltas(min_value=SECOND, max_value=4 * HOUR),
                    ),
                ),
                max_size=3,
            )
        )
    ]
    return Preview(
        start=start,
        end=start + length,
        outages=tuple(outages),
        replicas=draw(st.integers(1, 3)),
        takes=draw(
            st.one_of(
                st.just(OFF),
                st.timedeltas(min_value=OFF, max_value=10 * SECOND),
                st.timedeltas(min_value=OFF, max_value=3 * HOUR),
            )
        ),
    )


def expanded(terms: TaskSchedule, lines: Sequence[Line]) -> list[datetime]:
    """Every slot that the lines tell of, as often as they do."""
    assert terms.schedule is not None
    found = []
    for line in lines:
        row = list(slots_between(terms.schedule, just_before(line.slot), line.last or line.slot))
        assert len(row) == line.count
        found += row
    return sorted(found)


@settings(deadline=None, max_examples=150)
@given(terms=st.builds(TaskSchedule, st.just("report"), any_schedule, policies), preview=previews())
def test_every_slot_is_in_exactly_one_line(terms: TaskSchedule, preview: Preview) -> None:
    lines = simulate([terms], preview)
    assert terms.schedule is not None
    before, last = just_before(preview.start), just_before(preview.end)
    assert expanded(terms, lines) == list(slots_between(terms.schedule, before, last))
    for line in lines:
        ran = line.outcome not in (Outcome.MISSED, Outcome.SKIPPED_OVERLAP, Outcome.WAITING)
        assert (line.started_at is not None) == (line.replica is not None)
        assert line.started_at is not None or not ran
        assert line.started_at is None or line.started_at >= line.slot
        assert line.started_at is None or not any(
            o.start <= line.started_at < o.end for o in merged(preview.outages)
        )
        assert line.note or line.outcome is Outcome.RAN


@settings(deadline=None, max_examples=150)
@given(terms=st.builds(TaskSchedule, st.just("report"), any_schedule, policies), preview=previews())
def test_passing_over_slots_without_a_decision_makes_no_difference(
    terms: TaskSchedule, preview: Preview
) -> None:
    asked = Simulation([terms], preview, coast=False)
    assert Simulation([terms], preview).run() == asked.run()


@settings(deadline=None, max_examples=100)
@given(
    several=st.lists(st.tuples(any_schedule, policies), min_size=1, max_size=3),
    preview=previews(),
    batch=st.integers(1, 5),
)
def test_lines_that_come_early_are_those_that_come_at_the_end(
    several: list[tuple[Schedule, Policies]], preview: Preview, batch: int
) -> None:
    tasks = [TaskSchedule(f"task-{n}", *one) for n, one in enumerate(several)]
    at_the_end = Simulation(tasks, preview, batch=1_000_000).run()
    assert Simulation(tasks, preview, batch=batch).run() == at_the_end
    assert at_the_end == sorted(at_the_end, key=lambda line: (line.slot, line.task))


@settings(deadline=None, max_examples=50)
@given(terms=st.builds(TaskSchedule, st.just("report"), any_schedule, policies), preview=previews())
def test_unless_all_are_allowed_runs_follow_each_other(
    terms: TaskSchedule, preview: Preview
) -> None:
    if terms.policies.overlap is Overlap.ALLOW_ALL or not isinstance(preview.takes, timedelta):
        return
    lines = [line for line in simulate([terms], preview) if line.outcome is Outcome.RAN]
    starts = sorted(line.started_at for line in lines if line.started_at)
    assert all(later - start >= preview.takes for start, later in pairwise(starts))


@settings(deadline=None, max_examples=50)
@given(terms=st.builds(TaskSchedule, st.just("report"), any_schedule, policies), preview=previews())
def test_a_preview_shows_what_the_ledger_recorded(terms: TaskSchedule, preview: Preview) -> None:
    simulation = Simulation([terms], preview, coast=False)
    shown = {line.slot: line.outcome for line in simulation.run()}
    asked = HistoryQuery(since=preview.start, until=preview.end, limit=1_000_000)
    assert {entry.slot: entry.outcome for entry in simulation.store.history(asked)} == shown
