"""A schedule that changes: the slots of both run, and none is lost or run twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.clock import START
from tests.support.ledgers import HOUR, HOURLY, MINUTE, TTL, Desk, only, terms_of
from worker.backends.codec import book_from, book_to, to_micros
from worker.ledger.book import Book, Entry, Outcome, ScheduleVersion
from worker.ledger.ledger import (
    Answer,
    Attend,
    Claimant,
    Finish,
    ForgetSchedule,
    PauseSchedule,
    ResumeSchedule,
    decide,
)
from worker.ledger.versions import Owed
from worker.schedules.policies import Overlap, TaskSchedule
from worker.schedules.schedule import (
    Cron,
    Interval,
    Once,
    Schedule,
    Within,
    jitter_of,
    next_due,
    slots_between,
)
from worker.schedules.spec import schedule_from, spec_of

if TYPE_CHECKING:
    from datetime import datetime

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
TICK = timedelta(microseconds=1)
EVEN, ODD = Cron("*/2 * * * *"), Cron("1-59/2 * * * *")
PEOPLE = Claimant("anna")


@pytest.fixture
def desk() -> Desk:
    return Desk()


class Worker:
    """A worker that looks at its task when a slot of its own schedule is due, as timers do."""

    def __init__(self, desk: Desk, schedule: Schedule, **policies: object) -> None:
        self.desk = desk
        self.terms: TaskSchedule = terms_of(schedule, **policies)
        self.claimant = desk.claimant()
        self.since = desk.clock.now()
        self.book = Book(task="sync")
        self.next = self.due()

    def due(self) -> datetime | None:
        assert self.terms.schedule is not None
        jitter = self.terms.policies.jitter
        found = next_due(self.terms.schedule, "sync", jitter, self.desk.clock.now())
        return None if found is None else found[1]

    def attend(self) -> Answer:
        """Look, and run what is granted."""
        seen = self.book.cursor_of(self.terms.schedule)
        request = Attend(terms=self.terms, since=self.since, seen=seen)
        answer = self.desk.ask(request, self.claimant)
        self.book = answer.book
        for entry in answer.granted:
            finish = Finish(terms=self.terms, entry=entry, outcome=Outcome.RAN)
            waiting = self.desk.ask(finish, self.claimant).granted
            for other in waiting:
                self.desk.ask(replace(finish, entry=other), self.claimant)
        return answer

    def stop(self) -> None:
        assert self.claimant.session is not None
        self.desk.store.close_session(self.claimant.session)


def pass_time(desk: Desk, duration: timedelta, *workers: Worker) -> None:
    """Let time pass; each worker looks a millisecond after each of its due moments."""
    late = timedelta(milliseconds=1)
    end = desk.clock.now() + duration
    while True:
        due = min((w.next for w in workers if w.next is not None), default=end)
        if due + late > end:
            break
        desk.pass_time(due + late - desk.clock.now(), *(w.claimant for w in workers))
        for worker in workers:
            if worker.next is not None and worker.next <= desk.clock.now():
                worker.attend()
                worker.next = worker.due()
    desk.pass_time(end - desk.clock.now(), *(w.claimant for w in workers))


def minutes_of(desk: Desk, outcome: str = "ran") -> list[float]:
    return [(slot - START) / MINUTE for slot, said in desk.outcomes().items() if said == outcome]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (EVEN, ODD),
        (Cron("* * * * *"), Cron("* * * * *", "Asia/Kolkata")),
        (Interval(2 * MINUTE), Interval(2 * MINUTE, MINUTE)),
        (Interval(MINUTE), Cron("* * * * *")),
        (Cron("* * * * *"), Within(Cron("* * * * *"), None, START + DAY)),
    ],
)
def test_while_two_schedules_meet_the_slots_of_both_run_once_each(
    desk: Desk, old: Schedule, new: Schedule
) -> None:
    before = Worker(desk, old)
    pass_time(desk, 30 * SECOND, before)
    before.attend()
    after = Worker(desk, new)
    pass_time(desk, 6 * MINUTE, before, after)
    slots = {*slots_between(old, START, START + 6 * MINUTE)}
    slots |= {*slots_between(new, START, START + 6 * MINUTE)}
    assert {slot for slot in desk.outcomes() if slot > START} == slots
    assert set(desk.outcomes().values()) == {"ran"}


def test_the_first_slot_of_a_new_schedule_runs_though_the_old_worker_has_long_gone(
    desk: Desk,
) -> None:
    old = Worker(desk, HOURLY)
    old.attend()
    old.stop()
    pass_time(desk, 10 * MINUTE + 59 * SECOND)
    new = Worker(desk, Cron("* * * * *"))
    pass_time(desk, 5 * SECOND, new)
    assert desk.outcomes()[START + 11 * MINUTE] == "ran"
    # Time without a worker belongs to the schedule that comes back first.
    (missed,) = [entry for entry in desk.entries if entry.outcome is Outcome.MISSED]
    assert (missed.slot, missed.last, missed.count) == (
        START + MINUTE,
        START + 10 * MINUTE,
        10,
    )


def test_the_first_slot_of_a_task_that_the_ledger_never_saw_runs_if_the_worker_was_up(
    desk: Desk,
) -> None:
    pass_time(desk, 59 * SECOND)
    pass_time(desk, 2 * SECOND, Worker(desk, Cron("* * * * *")))
    assert minutes_of(desk) == [1]


def test_the_time_without_a_worker_is_of_the_old_schedule_if_that_comes_back(desk: Desk) -> None:
    old = Worker(desk, EVEN, catch_up=terms_of().policies.catch_up)
    old.attend()
    old.stop()
    pass_time(desk, 5 * MINUTE)
    again = Worker(desk, EVEN)
    again.attend()
    assert minutes_of(desk, "missed") == [2]
    assert minutes_of(desk)[-1] == 4
    assert len(desk.book.versions) == 1


def test_what_a_killed_worker_owed_up_to_the_end_of_its_lease_runs_on_the_new_one(
    desk: Desk,
) -> None:
    old = Worker(desk, EVEN)
    old.attend()
    new = Worker(desk, Interval(7 * DAY))
    new.attend()
    pass_time(desk, 2 * MINUTE - 10 * SECOND, old, new)  # the lease holds until after 2 minutes
    desk.pass_time(10 * SECOND + TTL, new.claimant)
    answer = new.attend()
    assert minutes_of(desk)[-1] == 2
    assert [one.text for one in answer.removed] == ["*/2 * * * * UTC"]
    assert [one.until for one in answer.removed] == [START + 2 * MINUTE - 10 * SECOND + TTL]
    assert [one.spec for one in desk.book.versions] == [spec_of(Interval(7 * DAY))]
    desk.pass_time(10 * MINUTE, new.claimant)
    assert new.attend().granted == ()  # the old schedule is over
    assert minutes_of(desk)[-1] == 2


def test_a_schedule_that_comes_back_goes_on_and_repeats_nothing(desk: Desk) -> None:
    first = Worker(desk, EVEN)
    pass_time(desk, 4 * MINUTE + 30 * SECOND, first)
    second = Worker(desk, Cron("* * * * *"))
    second.attend()
    first.stop()
    pass_time(desk, 3 * MINUTE, second)  # 5, 6, 7
    third = Worker(desk, EVEN)
    third.attend()
    second.stop()
    pass_time(desk, 4 * MINUTE, third)
    assert [one.text for one in desk.book.versions] == ["*/2 * * * * UTC"]
    assert minutes_of(desk) == [2, 4, 5, 6, 7, 8, 10]
    assert len(desk.outcomes()) == 7


@pytest.mark.parametrize(
    "bounds", [{"end_at": START + 2 * DAY}, {"start_at": START - DAY}, {"start_at": START}]
)
def test_bounds_that_come_between_a_slot_and_its_jittered_start_lose_nothing(
    desk: Desk, bounds: dict[str, datetime]
) -> None:
    jitter = 20 * MINUTE
    put_off = jitter_of("sync", START + HOUR, jitter, HOUR)
    assert put_off > 2 * MINUTE
    old = Worker(desk, HOURLY, jitter=jitter)
    old.attend()
    pass_time(desk, HOUR + MINUTE, old)
    old.stop()
    new = Worker(desk, Within(HOURLY, **bounds), jitter=jitter)
    pass_time(desk, jitter, new)
    assert minutes_of(desk) == [0, 60]
    assert len(desk.outcomes()) == 2


@pytest.mark.parametrize(("before", "after"), [(20, 0), (0, 20), (20, 10)])
def test_a_jitter_that_changes_between_a_slot_and_its_start_loses_nothing(
    desk: Desk, before: int, after: int
) -> None:
    old = Worker(desk, HOURLY, jitter=before * MINUTE)
    old.attend()
    pass_time(desk, HOUR + SECOND, old)
    old.stop()
    new = Worker(desk, HOURLY, jitter=after * MINUTE)
    new.attend()
    pass_time(desk, 30 * MINUTE, new)
    assert minutes_of(desk) == [0, 60]
    assert len(desk.book.versions) == 1


def test_policies_alone_make_no_version(desk: Desk) -> None:
    Worker(desk, HOURLY).attend()
    Worker(desk, HOURLY, overlap=Overlap.ALLOW_ALL, jitter=MINUTE, max_runs=7).attend()
    assert len(desk.book.versions) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Cron("@hourly"), Cron("0 * * * *")),
        (Cron(" 05  3 * * mon-fri"), Cron("5 3 * * 1,2,3,4,5")),
        (Cron("*/1 */1 * JAN 7"), Cron("* * * 1 SUN")),
        (Cron("0 3 * * *", "UTC"), Cron("0 3 * * *", "Etc/UTC")),
        (Cron("0 22-2 * * FRI-MON"), Cron("0 0,1,2,22,23 ? * Monday,0,friday,sat")),
        (Cron("5-5/15 10/5 * nov-feb 6L"), Cron("5 10,15,20 * 1,2,11,12 SATURDAYL")),
        (Interval(timedelta(minutes=60), DAY), Interval(HOUR)),
        (Once(START), Once(START.astimezone())),
    ],
)
def test_a_schedule_in_other_words_is_no_new_version(
    desk: Desk, one: Schedule, other: Schedule
) -> None:
    Worker(desk, one).attend()
    Worker(desk, other).attend()
    assert len(desk.book.versions) == 1


def test_another_phase_is_another_version(desk: Desk) -> None:
    """The text for people is the same: it is not what versions are told apart by."""
    old = Worker(desk, Interval(HOUR, 10 * MINUTE))
    old.attend()
    new = Worker(desk, Interval(HOUR, 50 * MINUTE))
    new.attend()
    assert len(desk.book.versions) == 2
    pass_time(desk, HOUR, old, new)
    assert minutes_of(desk) == [-40, -20, 20, 40]


def test_a_new_interval_runs_its_latest_slot_at_once_unless_it_was_accounted_for(
    desk: Desk,
) -> None:
    old = Worker(desk, Interval(DAY))
    pass_time(desk, 5 * MINUTE, old)
    old.attend()
    new = Worker(desk, Interval(10 * MINUTE))
    assert only(new.attend().granted).slot == START
    again = Worker(desk, Within(Interval(10 * MINUTE), None, START + DAY))
    assert again.attend().granted == ()


def test_a_one_off_that_is_put_in_the_place_of_a_schedule_runs_once(desk: Desk) -> None:
    Worker(desk, Cron("0 3 * * *")).attend()
    desk.pass_time(MINUTE)
    new = Worker(desk, Once(START + 30 * SECOND))
    assert only(new.attend().granted).slot == START + 30 * SECOND
    desk.pass_time(MINUTE, new.claimant)
    assert Worker(desk, Once(START + 30 * SECOND)).attend().granted == ()


def test_pause_and_resume_by_a_process_with_another_schedule_lose_no_slot(desk: Desk) -> None:
    worker = Worker(desk, Cron("* * * * *"))
    pass_time(desk, 90 * SECOND, worker)
    versions = desk.book.versions
    desk.ask(PauseSchedule(task="sync", by="anna"), PEOPLE)
    desk.ask(ResumeSchedule(terms=terms_of(HOURLY)), PEOPLE)
    assert desk.book.versions == versions
    pass_time(desk, 2 * MINUTE, worker)
    assert minutes_of(desk) == [1, 2, 3]


@pytest.mark.parametrize("schedule", [HOURLY, Cron("* * * * *"), None])
def test_resuming_records_what_the_workers_schedule_left_out_whoever_resumes(
    desk: Desk, schedule: Schedule | None
) -> None:
    worker = Worker(desk, Cron("* * * * *"))
    pass_time(desk, 90 * SECOND, worker)
    desk.ask(PauseSchedule(task="sync", by="anna"), PEOPLE)
    desk.pass_time(2 * MINUTE, worker.claimant)
    desk.ask(ResumeSchedule(terms=terms_of(schedule)), PEOPLE)
    pass_time(desk, MINUTE, worker)
    told = [((e.slot - START) / MINUTE, e.outcome.value, e.count) for e in desk.entries]
    assert told == [(1, "ran", 1), (2, "paused", 2), (4, "ran", 1)]


def test_a_pause_holds_for_both_schedules(desk: Desk) -> None:
    old, new = Worker(desk, EVEN), Worker(desk, ODD)
    old.attend()
    new.attend()
    desk.ask(PauseSchedule(task="sync", by="anna"), PEOPLE)
    pass_time(desk, 3 * MINUTE + SECOND, old, new)
    assert minutes_of(desk, "paused") == [1, 2, 3]
    desk.ask(ResumeSchedule(terms=terms_of(EVEN)), PEOPLE)
    pass_time(desk, 2 * MINUTE, old, new)
    assert minutes_of(desk) == [4, 5]


def test_a_schedule_that_is_forgotten_while_a_worker_has_it_loses_no_slot(desk: Desk) -> None:
    worker = Worker(desk, Cron("* * * * *"))
    pass_time(desk, 90 * SECOND, worker)
    desk.ask(ForgetSchedule("sync"), PEOPLE)
    assert desk.book.versions == ()
    pass_time(desk, MINUTE, worker)
    assert minutes_of(desk) == [1, 2]


@pytest.mark.parametrize("most", [2, 7, None])
def test_a_version_whose_max_runs_is_used_up_is_over_and_the_next_counts_from_zero(
    desk: Desk, most: int | None
) -> None:
    old = Worker(desk, EVEN, max_runs=2)
    pass_time(desk, 9 * MINUTE, old)
    new = Worker(desk, ODD, max_runs=most)
    old.stop()
    pass_time(desk, 5 * MINUTE, new)
    assert minutes_of(desk) == [2, 4, 11, 13]
    assert minutes_of(desk, "missed") == []
    assert [one.text for one in desk.book.versions] == [str(ODD)]
    assert desk.book.runs_of == {spec_of(EVEN): 2, spec_of(ODD): 2}


def test_a_slot_counts_for_its_version_whoever_runs_it(desk: Desk) -> None:
    old, new = Worker(desk, EVEN), Worker(desk, ODD, max_runs=2)
    pass_time(desk, 30 * SECOND, old, new)
    old.attend()
    new.attend()
    pass_time(desk, 9 * MINUTE, old, new)
    assert minutes_of(desk) == [1, 2, 3, 4, 6, 8]
    assert desk.book.runs_of == {spec_of(EVEN): 4, spec_of(ODD): 2}


def test_where_a_version_is_over_its_moments_are_slots_of_the_next(desk: Desk) -> None:
    old = Worker(desk, EVEN, max_runs=1)
    pass_time(desk, 3 * MINUTE, old)
    new = Worker(desk, Cron("* * * * *"))
    pass_time(desk, 4 * MINUTE + SECOND, old, new)
    assert minutes_of(desk) == [2, 4, 5, 6, 7]
    assert desk.book.runs_of[spec_of(EVEN)] == 1


def test_a_schedule_in_other_words_does_not_count_from_zero(desk: Desk) -> None:
    pass_time(desk, 61 * MINUTE, Worker(desk, Cron("@hourly"), max_runs=1))
    pass_time(desk, 2 * HOUR, Worker(desk, Cron("0 * * * *"), max_runs=1))
    assert minutes_of(desk) == [30]


def test_slots_that_ran_without_the_store_are_recorded_under_the_version_they_belong_to(
    desk: Desk,
) -> None:
    old, new = Worker(desk, EVEN), Worker(desk, Cron("* * * * *"))
    old.attend()
    new.attend()
    desk.pass_time(4 * MINUTE + SECOND, old.claimant, new.claimant)
    done = tuple(
        Entry(
            task="sync",
            slot=START + number * MINUTE,
            outcome=Outcome.RAN,
            recorded_at=START + number * MINUTE,
            run_id=f"alone-{number}",
        )
        for number in (1, 2, 3)
    )
    answer = desk.ask(Attend(terms=new.terms, seen=START, unrecorded=done), new.claimant)
    assert [(entry.slot - START) / MINUTE for entry in answer.granted] == [4]
    assert minutes_of(desk) == [1, 2, 3]
    assert old.attend().granted == ()
    assert len(desk.outcomes()) == 4


def test_without_the_store_a_worker_runs_the_slots_of_its_own_schedule(desk: Desk) -> None:
    old, new = Worker(desk, EVEN), Worker(desk, Cron("* * * * *"))
    old.attend()
    book = new.attend().book
    alone = Claimant("new")
    for number in (1, 2):
        now = START + number * MINUTE + SECOND
        answer = decide(Attend(terms=new.terms), book, claimant=alone, now=now)
        assert [(entry.slot - START) / MINUTE for entry in answer.granted] == [number]
        book = replace(answer.book, active=())
    assert book.version_of(spec_of(EVEN)) == old.book.version_of(spec_of(EVEN))


def test_a_store_that_forgot_everything_loses_no_slot_that_a_worker_waits_for(desk: Desk) -> None:
    worker = Worker(desk, Cron("* * * * *"))
    pass_time(desk, 90 * SECOND, worker)
    desk.__post_init__()
    worker.claimant = desk.claimant()
    pass_time(desk, 2 * MINUTE, worker)
    assert minutes_of(desk) == [2, 3]
    assert minutes_of(desk, "missed") == []


def test_a_book_from_before_there_were_versions_goes_on_from_its_cursor() -> None:
    kept = book_to(Book(task="sync"))
    del kept["versions"], kept["settled"]
    kept |= {"cursor": to_micros(START), "schedule": "every 1h"}  # all that such a worker wrote
    book = book_from("sync", 3, kept)
    assert (book.cursor, book.schedule) == (START, "every 1h")
    desk = Desk()
    desk.store.inner._books["sync"] = book  # type: ignore[attr-defined]
    desk.pass_time(2 * HOUR + MINUTE)
    assert only(Worker(desk, HOURLY).attend().granted).slot == START + 2 * HOUR
    assert minutes_of(desk, "missed") == [60]


def test_slots_that_an_earlier_version_has_are_not_counted_twice() -> None:
    def version(schedule: Schedule, until: datetime | None = None) -> ScheduleVersion:
        spec = spec_of(schedule)
        return ScheduleVersion(spec=spec, text="", since=START, cursor=START, until=until)

    end = START + HOUR
    before = (
        version(EVEN),
        version(Cron("*/3 * * * *"), until=START + 20 * MINUTE),
        version(Interval(90 * SECOND)),
    )
    owed = Owed(Cron("* * * * *"), end, before)
    slots = list(slots_between(owed, START, end))
    assert owed.count(START, end) == len(slots) == 30 - 3 - 7
    assert owed.until(end) == slots[-1]
    assert owed.after(slots[-1]) is None
    assert owed.until(slots[3] - TICK) == slots[2]


def test_a_schedule_of_another_kind_cannot_be_made_from_its_text() -> None:
    class Never:
        def after(self, moment: datetime) -> datetime | None:
            return None

        def until(self, moment: datetime) -> datetime | None:
            return None

        def count(self, start: datetime, end: datetime) -> int:
            return 0

    assert schedule_from(spec_of(Never())) is None
    assert schedule_from('{"cron":"0 3 * * *","timezone":"Mars/Olympus"}') is None
