"""The ledger's rules: what becomes of a slot, and who runs it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from tests.support.clock import START
from tests.support.ledgers import HOUR, HOURLY, MINUTE, TTL, Desk, counted, only, terms_of
from worker.errors import LeaseLost, StoreError, StoreUnavailable, WorkerError
from worker.ledger.book import Entry, HistoryQuery, Outcome
from worker.ledger.ledger import (
    ROUNDS,
    Answer,
    Ask,
    Attend,
    Begin,
    Claimant,
    Draft,
    Finish,
    ForgetSchedule,
    PauseSchedule,
    Promote,
    Request,
    ResumeSchedule,
    SettleOrphans,
    apply,
    decide,
)
from worker.model import Trigger
from worker.schedules.catch_up import CatchUp, CatchUpPolicy
from worker.schedules.policies import Overlap, TaskSchedule
from worker.schedules.schedule import Cron, Interval, Once, Schedule, Within, next_due

DAY = timedelta(days=1)
RAN, FAILED, LOST = Outcome.RAN, Outcome.FAILED, Outcome.LOST


@pytest.fixture
def desk() -> Desk:
    return Desk()


def finish(desk: Desk, terms: TaskSchedule, entry: Entry, by: Claimant, **said: object) -> Answer:
    options: dict[str, object] = {"outcome": RAN, **said}
    return desk.ask(Finish(terms=terms, entry=entry, **options), by)  # type: ignore[arg-type]


def attend(desk: Desk, terms: TaskSchedule, by: Claimant) -> Answer:
    return desk.ask(Attend(terms=terms, seen=desk.book.cursor), by)


def begun(desk: Desk, terms: TaskSchedule, by: Claimant) -> Entry:
    """The run of the first slot of ``terms``, which goes on."""
    return only(attend(desk, terms, by).granted)


def attend_an_hour_later(desk: Desk, terms: TaskSchedule, by: Claimant) -> Answer:
    desk.pass_time(HOUR, by)
    return attend(desk, terms, by)


def paused(by: str, note: str = "") -> PauseSchedule:
    return PauseSchedule(task="sync", by=by, note=note)


def made_good(policy: str, **options: object) -> CatchUp:
    return CatchUp(policy=CatchUpPolicy(policy), **options)  # type: ignore[arg-type]


class TestFirstRegistration:
    def test_an_intervals_latest_slot_runs_at_once(self, desk: Desk) -> None:
        desk.pass_time(20 * MINUTE)
        one = desk.claimant()
        answer = attend(desk, terms_of(), one)
        entry = only(answer.granted)
        assert (entry.slot, entry.session, entry.replica) == (START, one.session, "one")
        assert entry.late_ms == 20 * 60 * 1000
        assert (answer.book.cursor, answer.book.known_since) == (START, START + 20 * MINUTE)
        assert answer.book.schedule == "every 1h"
        assert desk.told() == [(0, "running", 1)]

    def test_a_cron_slot_that_passed_before_is_over(self, desk: Desk) -> None:
        terms = terms_of(Cron("30 9 * * *"))
        desk.pass_time(MINUTE)
        one = desk.claimant()
        assert attend(desk, terms, one).granted == ()
        desk.pass_time(DAY, one)
        assert only(attend(desk, terms, one).granted).slot == START + DAY
        assert len(desk.entries) == 1

    @pytest.mark.parametrize(
        ("late", "outcome"),
        [(timedelta(0), "running"), (HOUR, "running"), (HOUR + MINUTE, "missed")],
    )
    def test_a_one_off_runs_within_its_window_and_is_missed_after_it(
        self, desk: Desk, late: timedelta, outcome: str
    ) -> None:
        desk.pass_time(late)
        attend(desk, terms_of(Once(START)), desk.claimant())
        assert desk.outcomes() == {START: outcome}

    def test_a_one_off_of_the_future_runs_in_its_time(self, desk: Desk) -> None:
        terms, one = terms_of(Once(START + HOUR)), desk.claimant()
        assert attend(desk, terms, one).granted == ()
        assert only(attend_an_hour_later(desk, terms, one).granted).slot == START + HOUR
        assert attend_an_hour_later(desk, terms, one).granted == ()

    @pytest.mark.parametrize("start_at", [START - 10 * MINUTE, START + 30 * MINUTE])
    def test_no_slot_runs_before_the_start_of_a_period_nor_after_its_end(
        self, desk: Desk, start_at: datetime
    ) -> None:
        terms = terms_of(Within(HOURLY, start_at, START + 3 * HOUR))
        one = desk.claimant()
        for _ in range(6):
            for entry in attend(desk, terms, one).granted:
                finish(desk, terms, entry, one)
            desk.pass_time(HOUR, one)
        first = 0 if start_at < START else 1
        assert desk.told() == [(n, "ran", 1) for n in range(first, 3)]


class TestOverlap:
    def test_skip_records_the_slot_and_starts_nothing(self, desk: Desk) -> None:
        one = desk.claimant()
        begun(desk, terms_of(), one)
        answer = attend_an_hour_later(desk, terms_of(), one)
        assert answer.granted == ()
        assert only(answer.recorded).outcome is Outcome.SKIPPED_OVERLAP
        assert desk.told() == [(0, "running", 1), (1, "skipped_overlap", 1)]

    def test_skip_holds_for_a_run_of_another_replica(self, desk: Desk) -> None:
        one, two = desk.claimant("one"), desk.claimant("two")
        begun(desk, terms_of(), one)
        desk.pass_time(HOUR, one, two)
        assert attend(desk, terms_of(), two).granted == ()
        assert desk.outcomes()[START + HOUR] == "skipped_overlap"

    def test_buffer_one_has_one_slot_wait_and_skips_the_others(self, desk: Desk) -> None:
        terms, one = terms_of(overlap=Overlap.BUFFER_ONE), desk.claimant()
        entry = begun(desk, terms, one)
        for _ in range(3):
            assert attend_an_hour_later(desk, terms, one).granted == ()
        assert [told for _, told, _ in desk.told()] == [
            *("running", "waiting", "skipped_overlap", "skipped_overlap")
        ]
        next_one = only(finish(desk, terms, entry, one).granted)
        assert (next_one.slot, next_one.late_ms) == (START + HOUR, 2 * 3600 * 1000)
        assert finish(desk, terms, next_one, one).granted == ()

    def test_buffer_all_has_slots_wait_up_to_its_limit_and_runs_them_in_order(
        self, desk: Desk
    ) -> None:
        terms, one = terms_of(overlap=Overlap.BUFFER_ALL, buffer_limit=2), desk.claimant()
        entry = begun(desk, terms, one)
        for _ in range(3):
            attend_an_hour_later(desk, terms, one)
        assert desk.told()[-1] == (3, "skipped_overlap", 1)
        order = [entry.slot]
        while granted := finish(desk, terms, entry, one).granted:
            entry = only(granted)
            order.append(entry.slot)
        assert order == [START + n * HOUR for n in range(3)]
        assert counted(desk.entries) == {"ran": 3, "skipped_overlap": 1}

    def test_cancel_other_asks_the_run_to_end_and_the_slot_takes_its_place(
        self, desk: Desk
    ) -> None:
        terms = terms_of(overlap=Overlap.CANCEL_OTHER)
        one, two = desk.claimant("one"), desk.claimant("two")
        entry = begun(desk, terms, one)
        desk.pass_time(HOUR, one, two)
        answer = attend(desk, terms, two)
        assert answer.granted == ()
        assert only(answer.book.running).cancel
        assert one.session is not None
        assert desk.store.renew(one.session, TTL).cancelled == {entry.key}
        following = only(
            finish(desk, terms, entry, one, outcome=FAILED, error="cancelled", counts=False).granted
        )
        assert (following.slot, following.cancel) == (START + HOUR, False)
        assert desk.book.failures == 0

    def test_a_run_that_is_asked_to_end_still_runs_since_it_began(self, desk: Desk) -> None:
        terms, one = terms_of(overlap=Overlap.CANCEL_OTHER), desk.claimant()
        begun(desk, terms, one)
        attend_an_hour_later(desk, terms, one)
        assert only(desk.book.running).recorded_at == START

    def test_cancel_other_keeps_only_the_latest_slot_waiting(self, desk: Desk) -> None:
        terms, one = terms_of(overlap=Overlap.CANCEL_OTHER), desk.claimant()
        begun(desk, terms, one)
        for _ in range(3):
            attend_an_hour_later(desk, terms, one)
        assert [told for _, told, _ in desk.told()] == [
            *("running", "skipped_overlap", "skipped_overlap", "waiting")
        ]

    def test_a_slot_that_cancels_a_run_takes_its_place_though_a_backfill_waits(
        self, desk: Desk
    ) -> None:
        terms, one = terms_of(overlap=Overlap.CANCEL_OTHER), desk.claimant()
        begun(desk, terms, one)
        desk.ask(backfill(START - HOUR, overlap=Overlap.BUFFER_ALL), one)
        attend_an_hour_later(desk, terms, one)
        assert desk.outcomes()[START + HOUR] == "waiting"

    def test_allow_all_runs_each_slot_in_its_time(self, desk: Desk) -> None:
        terms, one = terms_of(overlap=Overlap.ALLOW_ALL), desk.claimant()
        begun(desk, terms, one)
        for _ in range(2):
            assert len(attend_an_hour_later(desk, terms, one).granted) == 1
        assert len(desk.book.running) == 3


class TestCatchUp:
    """What is made good after an outage of five hours."""

    @pytest.fixture
    def one(self, desk: Desk) -> Claimant:
        one = desk.claimant()
        finish(desk, terms_of(), begun(desk, terms_of(), one), one)
        desk.pass_time(5 * HOUR + 10 * MINUTE, one)
        return one

    def test_latest_runs_the_newest_slot_and_the_others_are_missed_in_a_row(
        self, desk: Desk, one: Claimant
    ) -> None:
        answer = attend(desk, terms_of(), one)
        assert desk.told() == [(0, "ran", 1), (1, "missed", 4), (5, "running", 1)]
        assert only(answer.recorded).last == START + 4 * HOUR
        assert answer.book.counts == {"ran": 1, "missed": 4}

    def test_earliest_runs_the_oldest_slot_inside_of_the_window(
        self, desk: Desk, one: Claimant
    ) -> None:
        terms = terms_of(catch_up=made_good("earliest", window=3 * HOUR))
        attend(desk, terms, one)
        assert desk.told()[1:] == [(1, "missed", 2), (3, "running", 1), (4, "missed", 2)]

    @pytest.mark.parametrize("overlap", Overlap)
    def test_all_runs_one_slot_after_the_other_whatever_the_overlap_policy(
        self, desk: Desk, one: Claimant, overlap: Overlap
    ) -> None:
        terms = terms_of(overlap=overlap, catch_up=made_good("all", window=DAY, limit=4))
        answer = attend(desk, terms, one)
        order = []
        while answer.granted:
            entry = only(answer.granted)
            order.append((entry.slot - START) / HOUR)
            assert len(desk.book.running) == 1
            answer = finish(desk, terms, entry, one)
        assert order == [2, 3, 4, 5]
        assert desk.told()[1] == (1, "missed", 1)

    def test_a_slot_in_its_own_time_does_not_wait_for_those_made_good_with_allow_all(
        self, desk: Desk, one: Claimant
    ) -> None:
        terms = terms_of(overlap=Overlap.ALLOW_ALL, catch_up=made_good("all", window=DAY, limit=3))
        attend(desk, terms, one)
        assert only(attend_an_hour_later(desk, terms, one).granted).slot == START + 6 * HOUR
        assert [(e.slot - START) / HOUR for e in desk.book.waiting] == [4, 5]

    def test_the_replicas_that_come_up_together_do_not_run_what_is_overdue_twice(
        self, desk: Desk, one: Claimant
    ) -> None:
        two = desk.claimant("two")
        seen = desk.book.cursor
        assert len(attend(desk, terms_of(), one).granted) == 1
        answer = desk.ask(Attend(terms=terms_of(), seen=seen), two)
        assert (answer.granted, answer.recorded, answer.elsewhere) == ((), (), 5)

    def test_a_clock_that_was_set_back_runs_nothing_again(self, desk: Desk, one: Claimant) -> None:
        entry = only(attend(desk, terms_of(), one).granted)
        finish(desk, terms_of(), entry, one)
        desk.clock.advance(-3 * 3600)
        for _ in range(3):
            assert attend(desk, terms_of(), one).granted == ()
            desk.pass_time(HOUR, one)
        assert desk.book.cursor == START + 5 * HOUR
        desk.pass_time(HOUR, one)
        assert only(attend(desk, terms_of(), one).granted).slot == START + 6 * HOUR


def put_off_slot(most: timedelta) -> tuple[datetime, datetime]:
    """A later slot that jitter puts off for longer than five minutes, and when it is due."""
    slot = due = START
    while due - slot <= 5 * MINUTE:
        slot, due = next_due(HOURLY, "sync", most, due + HOUR) or (START, START)
    return slot, due


class TestJitter:
    def test_a_slot_is_claimed_once_its_jitter_has_passed(self, desk: Desk) -> None:
        terms, one = terms_of(jitter=50 * MINUTE), desk.claimant()
        slot, due = put_off_slot(50 * MINUTE)
        desk.pass_time(slot - START, one)
        for entry in attend(desk, terms, one).granted:
            finish(desk, terms, entry, one)
        desk.pass_time(due - slot - timedelta(seconds=1), one)
        assert attend(desk, terms, one).granted == ()
        desk.pass_time(timedelta(seconds=1), one)
        entry = only(attend(desk, terms, one).granted)
        assert (entry.slot, entry.late_ms) == (slot, (due - slot) / timedelta(milliseconds=1))

    def test_a_slot_is_not_late_for_the_time_that_jitter_puts_it_off(self, desk: Desk) -> None:
        daily, most = Cron("0 0 * * *"), 20 * HOUR
        terms, one = terms_of(daily, jitter=most), desk.claimant()
        attend(desk, terms, one)
        put_off = []
        for _ in range(20):
            slot, due = next_due(daily, "sync", most, desk.clock.now()) or (START, START)
            put_off.append(due - slot)
            desk.pass_time(due - desk.clock.now(), one)
            entry = only(attend(desk, terms, one).granted)
            assert entry.slot == slot
            finish(desk, terms, entry, one)
        assert max(put_off) > HOUR, "the window, and so what this is about"
        assert counted(desk.entries) == {"ran": 20}


class TestPause:
    def test_slots_that_pass_while_a_worker_waits_are_paused(self, desk: Desk) -> None:
        one = desk.claimant()
        finish(desk, terms_of(), begun(desk, terms_of(), one), one)
        desk.pass_time(MINUTE, one)
        desk.ask(paused("anna", "moving"), one)
        for _ in range(2):
            assert attend_an_hour_later(desk, terms_of(), one).granted == ()
        pause = desk.book.pause
        assert pause is not None
        assert (pause.at, pause.by, pause.note) == (START + MINUTE, "anna", "moving")
        assert desk.told() == [(0, "ran", 1), (1, "paused", 1), (2, "paused", 1)]

    def test_without_a_worker_what_passed_before_the_pause_is_missed_and_the_rest_paused(
        self, desk: Desk
    ) -> None:
        one = desk.claimant()
        finish(desk, terms_of(), begun(desk, terms_of(), one), one)
        desk.pass_time(2 * HOUR + MINUTE)
        desk.ask(paused("anna"), Claimant("anna"))
        desk.pass_time(3 * HOUR)
        attend(desk, terms_of(), desk.claimant())
        assert desk.told() == [(0, "ran", 1), (1, "missed", 2), (3, "paused", 3)]

    def test_resuming_accounts_for_what_passed_and_lets_the_next_slot_run(self, desk: Desk) -> None:
        one = desk.claimant()
        begun(desk, terms_of(), one)
        desk.pass_time(HOUR + MINUTE, one)
        attend(desk, terms_of(), one)
        desk.ask(paused("anna"), Claimant("anna"))
        desk.pass_time(3 * HOUR)
        answer = desk.ask(ResumeSchedule(terms=terms_of()), Claimant("anna"))
        assert (answer.granted, answer.book.pause) == ((), None)
        assert desk.told()[2:] == [(2, "paused", 3)]
        two = desk.claimant("two")
        assert attend(desk, terms_of(), two).granted == ()
        assert only(attend_an_hour_later(desk, terms_of(), two).granted).slot == START + 5 * HOUR

    def test_what_runs_goes_on_and_a_run_by_hand_may_begin(self, desk: Desk) -> None:
        one = desk.claimant()
        entry = begun(desk, terms_of(), one)
        desk.ask(paused("anna"), one)
        finish(desk, terms_of(), entry, one)
        by_hand = desk.ask(Begin(terms=terms_of(), overlap=Overlap.SKIP), one)
        assert only(by_hand.granted).trigger is Trigger.MANUAL

    def test_slots_that_wait_for_their_turn_do_not_run_during_a_pause(self, desk: Desk) -> None:
        terms, one = terms_of(overlap=Overlap.BUFFER_ALL), desk.claimant()
        entry = begun(desk, terms, one)
        attend_an_hour_later(desk, terms, one)
        desk.ask(backfill(START - HOUR), one)
        desk.ask(paused("anna"), one)
        granted = finish(desk, terms, entry, one).granted
        assert only(granted).trigger is Trigger.BACKFILL
        assert desk.outcomes()[START + HOUR] == "paused"

    def test_a_slot_that_jitter_put_into_the_pause_is_paused_and_not_missed(
        self, desk: Desk
    ) -> None:
        terms, one = terms_of(jitter=59 * MINUTE), desk.claimant()
        attend(desk, terms, one)
        slot, _ = put_off_slot(59 * MINUTE)
        desk.pass_time(slot - START, one)
        for entry in attend(desk, terms, one).granted:
            finish(desk, terms, entry, one)
        desk.pass_time(MINUTE, one)
        desk.ask(paused("anna"), one)
        desk.pass_time(HOUR, one)
        attend(desk, terms, one)
        assert desk.outcomes()[slot] == "paused"

    def test_pausing_again_changes_the_note_and_not_the_moment(self, desk: Desk) -> None:
        one = desk.claimant()
        desk.ask(paused("anna", "first"), one)
        desk.pass_time(MINUTE, one)
        desk.ask(paused("ben", "second"), one)
        pause = desk.book.pause
        assert pause is not None
        assert (pause.at, pause.by, pause.note) == (START, "ben", "second")

    def test_resuming_what_is_not_paused_changes_nothing(self, desk: Desk) -> None:
        one = desk.claimant()
        begun(desk, terms_of(), one)
        version = desk.book.version
        desk.ask(ResumeSchedule(terms=terms_of()), one)
        assert desk.book.version == version

    def test_a_schedule_pauses_itself_after_so_many_failures_in_a_row(self, desk: Desk) -> None:
        terms, one = terms_of(pause_after_failures=2), desk.claimant()
        for outcome in (FAILED, RAN, FAILED):
            entry = only(attend(desk, terms, one).granted)
            finish(desk, terms, entry, one, outcome=outcome, error="boom")
            desk.pass_time(HOUR, one)
        assert (desk.book.failures, desk.book.pause) == (1, None)
        entry = only(attend(desk, terms, one).granted)
        pause = finish(desk, terms, entry, one, outcome=FAILED, error="boom").book.pause
        assert pause is not None
        assert (pause.by, pause.note) == (
            "pause_after_failures",
            "2 failures in a row, the last: boom",
        )
        assert attend_an_hour_later(desk, terms, one).granted == ()
        desk.ask(ResumeSchedule(terms=terms), one)
        assert desk.book.failures == 0
        entry = only(attend_an_hour_later(desk, terms, one).granted)
        assert finish(desk, terms, entry, one, outcome=FAILED, error="boom").book.pause is None

    def test_what_waits_does_not_run_once_a_schedule_has_paused_itself(self, desk: Desk) -> None:
        terms = terms_of(pause_after_failures=1, overlap=Overlap.BUFFER_ALL)
        one = desk.claimant()
        entry = begun(desk, terms, one)
        attend_an_hour_later(desk, terms, one)
        assert finish(desk, terms, entry, one, outcome=FAILED, error="boom").granted == ()
        assert desk.told() == [(0, "failed", 1), (1, "paused", 1)]

    def test_runs_that_were_lost_or_cancelled_are_no_failures(self, desk: Desk) -> None:
        terms, one = terms_of(pause_after_failures=1), desk.claimant()
        finish(desk, terms, begun(desk, terms, one), one, outcome=FAILED, counts=False)
        entry = only(attend_an_hour_later(desk, terms, one).granted)
        finish(desk, terms, entry, one, outcome=LOST, error="the worker is shutting down")
        assert (desk.book.failures, desk.book.pause) == (0, None)


class TestMaxRuns:
    def test_no_slot_runs_nor_is_accounted_for_after_the_last(self, desk: Desk) -> None:
        terms, one = terms_of(max_runs=2), desk.claimant()
        finish(desk, terms, begun(desk, terms, one), one)
        entry = only(attend_an_hour_later(desk, terms, one).granted)
        finish(desk, terms, entry, one)
        for _ in range(3):
            assert attend_an_hour_later(desk, terms, one).granted == ()
        assert desk.told() == [(0, "ran", 1), (1, "ran", 1)]
        assert desk.book.runs == 2

    def test_a_slot_that_was_skipped_is_no_run(self, desk: Desk) -> None:
        terms, one = terms_of(max_runs=2), desk.claimant()
        entry = begun(desk, terms, one)
        attend_an_hour_later(desk, terms, one)
        assert desk.told()[-1] == (1, "skipped_overlap", 1)
        finish(desk, terms, entry, one)
        assert only(attend_an_hour_later(desk, terms, one).granted).slot == START + 2 * HOUR
        assert desk.book.runs == 2

    def test_what_waits_is_counted_before_it_runs(self, desk: Desk) -> None:
        terms = terms_of(max_runs=2, overlap=Overlap.BUFFER_ALL)
        one = desk.claimant()
        entry = begun(desk, terms, one)
        for _ in range(3):
            attend_an_hour_later(desk, terms, one)
        assert desk.told() == [(0, "running", 1), (1, "waiting", 1)]
        finish(desk, terms, entry, one)
        assert desk.book.runs == 2

    def test_catching_up_stops_at_the_last_run(self, desk: Desk) -> None:
        terms = terms_of(max_runs=3, catch_up=made_good("all", window=DAY))
        one = desk.claimant()
        finish(desk, terms, begun(desk, terms, one), one)
        desk.pass_time(5 * HOUR, one)
        answer = attend(desk, terms, one)
        assert [(e.slot - START) / HOUR for e in answer.book.active] == [1, 2]
        assert answer.book.cursor == START + 2 * HOUR

    def test_the_slots_since_are_missed_when_more_runs_are_allowed_later(self, desk: Desk) -> None:
        one = desk.claimant()
        terms = terms_of(max_runs=1)
        finish(desk, terms, begun(desk, terms, one), one)
        for _ in range(3):
            attend_an_hour_later(desk, terms, one)
        attend(desk, terms_of(max_runs=2), one)
        assert desk.told() == [(0, "ran", 1), (1, "missed", 2), (3, "running", 1)]

    def test_another_date_in_the_next_release_runs(self, desk: Desk) -> None:
        one = desk.claimant()
        for day in (0, 1, 2):
            terms = terms_of(Once(START + day * DAY), max_runs=1)
            finish(desk, terms, begun(desk, terms, one), one)
            desk.pass_time(DAY, one)
        assert desk.told() == [(0, "ran", 1), (24, "ran", 1), (48, "ran", 1)]

    def test_a_schedule_that_changes_counts_from_zero(self, desk: Desk) -> None:
        one = desk.claimant()
        terms = terms_of(max_runs=1)
        finish(desk, terms, begun(desk, terms, one), one)
        other = terms_of(Within(HOURLY, START), max_runs=1)
        finish(desk, other, only(attend_an_hour_later(desk, other, one).granted), one)
        assert attend_an_hour_later(desk, other, one).granted == ()
        assert desk.told() == [(0, "ran", 1), (1, "ran", 1)]

    def test_two_versions_that_are_up_at_a_time_each_keep_their_count(self, desk: Desk) -> None:
        one = desk.claimant()
        versions = [terms_of(max_runs=2), terms_of(Within(HOURLY, START), max_runs=1)]
        for number in range(6):
            terms = versions[number % 2]
            for entry in attend(desk, terms, one).granted:
                finish(desk, terms, entry, one)
            desk.pass_time(HOUR, one)
        assert [outcome for _, outcome, _ in desk.told()].count("ran") == 3

    def test_a_schedule_that_was_forgotten_counts_from_zero(self, desk: Desk) -> None:
        terms, one = terms_of(max_runs=1), desk.claimant()
        finish(desk, terms, begun(desk, terms, one), one)
        assert attend_an_hour_later(desk, terms, one).granted == ()
        desk.ask(ForgetSchedule("sync"), one)
        assert desk.book.runs_of == {}
        finish(desk, terms, only(attend_an_hour_later(desk, terms, one).granted), one)
        assert attend_an_hour_later(desk, terms, one).granted == ()
        assert desk.told()[-1] == (2, "ran", 1)

    def test_the_counts_of_a_few_earlier_schedules_are_kept(self, desk: Desk) -> None:
        one = desk.claimant()
        for number in range(20):
            terms = terms_of(Within(HOURLY, START - number * HOUR), max_runs=1)
            for entry in attend(desk, terms, one).granted:
                finish(desk, terms, entry, one)
            desk.pass_time(HOUR, one)
        assert len(desk.book.runs_of) == 5

    def test_a_lost_run_that_is_run_again_counts_once(self, desk: Desk) -> None:
        terms, one = terms_of(max_runs=2, retry_lost=5), desk.claimant()
        entry = begun(desk, terms, one)
        for _ in range(3):
            entry = only(finish(desk, terms, entry, one, outcome=LOST).granted)
        assert desk.book.runs == 1


class TestLeases:
    def test_a_run_whose_replica_died_is_lost_and_its_slot_is_not_run_again(
        self, desk: Desk
    ) -> None:
        begun(desk, terms_of(), desk.claimant())
        desk.pass_time(TTL)
        two = desk.claimant("two")
        answer = desk.ask(Promote(terms=terms_of()), two)
        assert answer.granted == ()
        lost = only(answer.recorded)
        assert (lost.outcome, lost.replica) == (LOST, "one")
        assert lost.error == "replica one lost its lease while it ran"
        assert (desk.book.active, desk.book.last_outcome) == ((), LOST)
        assert desk.book.counts == {"lost": 1}

    def test_the_next_slot_does_not_wait_for_a_run_whose_replica_died(self, desk: Desk) -> None:
        begun(desk, terms_of(), desk.claimant())
        desk.pass_time(HOUR)
        answer = attend(desk, terms_of(), desk.claimant("two"))
        assert only(answer.granted).slot == START + HOUR
        assert desk.told() == [(0, "lost", 1), (1, "running", 1)]

    def test_a_task_that_may_be_run_again_is_until_its_retries_are_spent(self, desk: Desk) -> None:
        terms = terms_of(retry_lost=2)
        begun(desk, terms, desk.claimant("r0"))
        for number in (1, 2):
            desk.pass_time(TTL)
            entry = only(desk.ask(Promote(terms=terms), desk.claimant(f"r{number}")).granted)
            assert (entry.slot, entry.losses, entry.replica) == (START, number, f"r{number}")
        desk.pass_time(TTL)
        assert desk.ask(Promote(terms=terms), desk.claimant("r3")).granted == ()
        assert desk.told() == [(0, "lost", 1)]

    def test_a_replica_that_was_suspended_past_its_lease_cannot_finish(self, desk: Desk) -> None:
        suspended = desk.claimant()
        entry = begun(desk, terms_of(), suspended)
        desk.pass_time(TTL)
        with pytest.raises(LeaseLost, match="lease of session 1 has run out"):
            finish(desk, terms_of(), entry, suspended)
        desk.ask(Promote(terms=terms_of()), desk.claimant("two"))
        assert desk.outcomes() == {START: "lost"}
        with pytest.raises(LeaseLost, match="given up as lost"):
            finish(desk, terms_of(), entry, suspended)
        assert desk.outcomes() == {START: "lost"}

    def test_a_replica_that_came_back_cannot_finish_the_run_of_its_former_life(
        self, desk: Desk
    ) -> None:
        terms = terms_of(retry_lost=1)
        entry = begun(desk, terms, desk.claimant())
        desk.pass_time(TTL)
        again = desk.claimant()
        retried = only(desk.ask(Promote(terms=terms), again).granted)
        with pytest.raises(LeaseLost):
            finish(desk, terms, entry, again)
        finish(desk, terms, retried, again)
        assert only(desk.entries).run_id == retried.run_id != entry.run_id

    def test_a_replica_without_a_lease_claims_nothing(self, desk: Desk) -> None:
        late = desk.claimant()
        desk.pass_time(TTL)
        with pytest.raises(LeaseLost):
            attend(desk, terms_of(), late)
        assert desk.entries == []

    def test_a_run_that_the_worker_ended_waits_for_another_if_it_may(self, desk: Desk) -> None:
        terms, one = terms_of(retry_lost=1), desk.claimant()
        entry = begun(desk, terms, one)
        assert finish(desk, terms, entry, one, outcome=LOST, go_on=False).granted == ()
        two = desk.claimant("two")
        assert two.session is not None
        assert desk.store.renew(two.session, TTL).waiting == {"sync"}
        retried = only(desk.ask(Promote(terms=terms), two).granted)
        assert (retried.replica, retried.losses) == ("two", 1)

    def test_a_run_that_is_retried_is_not_asked_to_end_any_more(self, desk: Desk) -> None:
        terms = terms_of(retry_lost=1, overlap=Overlap.CANCEL_OTHER)
        one = desk.claimant()
        entry = begun(desk, terms, one)
        attend_an_hour_later(desk, terms, one)
        finish(desk, terms, entry, one, outcome=LOST, go_on=False)
        assert [(e.outcome.value, e.cancel) for e in desk.book.active] == [
            ("waiting", False),
            ("waiting", False),
        ]

    def test_what_a_dead_replica_left_of_a_task_that_nobody_knows_is_lost(self, desk: Desk) -> None:
        begun(desk, terms_of(retry_lost=9), desk.claimant())
        desk.pass_time(TTL)
        answer = desk.ask(SettleOrphans("sync"), desk.claimant("two"))
        assert only(answer.recorded).outcome is LOST

    def test_a_run_whose_grant_was_never_heard_of_does_not_block_its_task(self, desk: Desk) -> None:
        one = desk.claimant()
        desk.store.lose_answers = 1
        with pytest.raises(StoreUnavailable):
            attend(desk, terms_of(), one)
        assert desk.outcomes() == {START: "running"}
        answer = attend(desk, terms_of(), one)
        assert only(answer.granted).slot == START
        assert only(desk.book.running).run_id == only(answer.granted).run_id
        assert desk.book.runs == 1
        finish(desk, terms_of(), only(answer.granted), one)
        assert desk.told() == [(0, "ran", 1)]

    def test_a_run_by_hand_whose_grant_was_never_heard_of_is_lost(self, desk: Desk) -> None:
        one, begin = desk.claimant(), Begin(terms=terms_of(None), overlap=Overlap.SKIP)
        desk.store.lose_answers = 1
        with pytest.raises(StoreUnavailable):
            desk.ask(begin, one)
        desk.pass_time(MINUTE, one)
        assert len(desk.ask(begin, one).granted) == 1
        assert [e.outcome.value for e in desk.entries] == ["lost", "running"]

    def test_what_a_finish_granted_unheard_is_granted_again(self, desk: Desk) -> None:
        terms, one = terms_of(overlap=Overlap.BUFFER_ONE), desk.claimant()
        entry = begun(desk, terms, one)
        attend_an_hour_later(desk, terms, one)
        desk.store.lose_answers = 1
        with pytest.raises(StoreUnavailable):
            finish(desk, terms, entry, one)
        with pytest.raises(LeaseLost):
            finish(desk, terms, entry, one)
        assert only(attend(desk, terms, one).granted).slot == START + HOUR


def backfill(*slots: datetime, overlap: Overlap = Overlap.BUFFER_ALL) -> Ask:
    return Ask(task="sync", slots=slots, trigger=Trigger.BACKFILL, overlap=overlap)


class TestByHand:
    def test_a_run_in_the_way_is_named(self, desk: Desk) -> None:
        one, two = desk.claimant("one"), desk.claimant("two")
        entry = begun(desk, terms_of(), one)
        answer = desk.ask(Begin(terms=terms_of(), overlap=Overlap.SKIP), two)
        assert answer.granted == ()
        assert answer.busy is not None
        assert (answer.busy.run_id, answer.busy.replica) == (entry.run_id, "one")

    def test_a_run_by_hand_is_in_the_way_of_a_slot(self, desk: Desk) -> None:
        one = desk.claimant()
        desk.clock.advance(-MINUTE.total_seconds())
        finish(desk, terms_of(), begun(desk, terms_of(), one), one)
        desk.ask(Begin(terms=terms_of(), overlap=Overlap.SKIP), one)
        desk.pass_time(MINUTE, one)
        attend(desk, terms_of(), one)
        assert desk.outcomes()[START] == "skipped_overlap"

    def test_a_run_by_hand_can_ask_the_other_to_end(self, desk: Desk) -> None:
        one = desk.claimant()
        entry = begun(desk, terms_of(), one)
        begin = Begin(terms=terms_of(), overlap=Overlap.CANCEL_OTHER)
        answer = desk.ask(begin, one)
        assert (answer.granted, only(answer.book.running).cancel) == ((), True)
        finish(desk, terms_of(), entry, one)
        assert only(desk.ask(begin, one).granted).trigger is Trigger.MANUAL

    def test_runs_by_hand_at_one_moment_do_not_take_each_others_place(self, desk: Desk) -> None:
        one = desk.claimant()
        begin = Begin(terms=terms_of(), overlap=Overlap.ALLOW_ALL)
        answers = desk.answers([begin, begin, begin], one)
        granted = [only(answer.granted) for answer in answers if isinstance(answer, Answer)]
        assert len({entry.run_id for entry in granted}) == 3
        for entry in granted:
            finish(desk, terms_of(), entry, one)
        assert counted(desk.entries) == {"ran": 3}

    def test_a_run_by_hand_is_neither_late_nor_counted_against_max_runs(self, desk: Desk) -> None:
        terms, one = terms_of(max_runs=1), desk.claimant()
        entry = only(desk.ask(Begin(terms=terms, overlap=Overlap.SKIP), one).granted)
        assert entry.late_ms == 0
        finish(desk, terms, entry, one)
        assert len(attend(desk, terms, one).granted) == 1

    def test_a_run_by_hand_that_is_lost_is_not_run_again_behind_the_back_of_whoever_began_it(
        self, desk: Desk
    ) -> None:
        terms, one, two = terms_of(retry_lost=9), desk.claimant("one"), desk.claimant("two")
        begin = Begin(terms=terms, overlap=Overlap.ALLOW_ALL)
        first, second = (only(desk.ask(begin, by).granted) for by in (one, two))
        finish(desk, terms, first, one, outcome=LOST, error="interrupted")
        desk.pass_time(TTL, one)
        assert desk.ask(Promote(terms=terms), one).granted == ()
        assert {entry.run_id for entry in desk.entries} == {first.run_id, second.run_id}
        assert counted(desk.entries) == {"lost": 2}

    def test_a_backfill_runs_its_slots_one_after_the_other(self, desk: Desk) -> None:
        one = desk.claimant()
        desk.ask(backfill(*(START - n * HOUR for n in (3, 2, 1))), Claimant("anna"))
        order = []
        answer = desk.ask(Promote(terms=terms_of()), one)
        while answer.granted:
            entry = only(answer.granted)
            order.append((entry.slot - START) / HOUR)
            answer = finish(desk, terms_of(), entry, one)
        assert order == [-3, -2, -1]
        assert {e.trigger for e in desk.entries} == {Trigger.BACKFILL}

    @pytest.mark.parametrize(
        ("overlap", "outcomes", "cancelled"),
        [
            (Overlap.SKIP, ["skipped_overlap", "skipped_overlap"], False),
            (Overlap.BUFFER_ONE, ["waiting", "waiting"], False),
            (Overlap.BUFFER_ALL, ["waiting", "waiting"], False),
            (Overlap.CANCEL_OTHER, ["waiting", "waiting"], True),
            (Overlap.ALLOW_ALL, ["running", "running"], False),
        ],
    )
    def test_a_backfill_has_an_overlap_policy_of_its_own(
        self, desk: Desk, overlap: Overlap, outcomes: list[str], cancelled: bool
    ) -> None:
        one = desk.claimant()
        entry = begun(desk, terms_of(), one)
        desk.ask(backfill(START - 2 * HOUR, START - HOUR, overlap=overlap), one)
        book = desk.ask(Promote(terms=terms_of()), one).book
        assert [told for hour, told, _ in desk.told() if hour < 0] == outcomes
        assert only(e for e in book.active if e.key == entry.key).cancel is cancelled

    def test_a_slot_of_the_schedule_and_its_backfill_are_two_records(self, desk: Desk) -> None:
        one = desk.claimant()
        finish(desk, terms_of(), begun(desk, terms_of(), one), one, outcome=FAILED, error="boom")
        desk.ask(backfill(START), one)
        entry = only(desk.ask(Promote(terms=terms_of()), one).granted)
        finish(desk, terms_of(), entry, one)
        assert sorted((e.trigger.value, e.outcome.value) for e in desk.entries) == [
            ("backfill", "ran"),
            ("schedule", "failed"),
        ]

    def test_asking_again_for_a_slot_that_waits_or_runs_leaves_it_alone(self, desk: Desk) -> None:
        one = desk.claimant()
        desk.ask(backfill(START), one)
        entry = only(desk.ask(Promote(terms=terms_of()), one).granted)
        desk.ask(backfill(START, START + HOUR), one)
        assert [e.outcome.value for e in desk.book.active] == ["running", "waiting"]
        finish(desk, terms_of(), entry, one)

    def test_asking_again_for_a_slot_that_was_run_again_is_refused_in_plain_words(
        self, desk: Desk
    ) -> None:
        one = desk.claimant()
        desk.ask(backfill(START), one)
        entry = only(desk.ask(Promote(terms=terms_of()), one).granted)
        finish(desk, terms_of(), entry, one)
        with pytest.raises(StoreError, match="some of these slots were run again before"):
            desk.ask(backfill(START, START + HOUR), one)
        assert len(desk.entries) == 1


class TestUnrecorded:
    """What a replica ran while the store was down, told afterwards."""

    @pytest.fixture
    def one(self, desk: Desk) -> Claimant:
        one = desk.claimant()
        finish(desk, terms_of(), begun(desk, terms_of(), one), one)
        return one

    def alone(self, hour: int, outcome: Outcome = RAN, **changes: object) -> Entry:
        values: dict[str, object] = {
            "task": "sync",
            "slot": START + hour * HOUR,
            "outcome": outcome,
            "recorded_at": START + hour * HOUR + MINUTE,
            "run_id": f"alone-{hour}",
            **changes,
        }
        return Entry(**values)  # type: ignore[arg-type]

    def told(self, desk: Desk, by: Claimant, *entries: Entry, hours: int = 6) -> Answer:
        desk.pass_time(hours * HOUR, by)
        return desk.ask(Attend(terms=terms_of(max_runs=100), unrecorded=entries), by)

    def test_runs_are_recorded_when_they_ended_and_the_slots_between_are_missed(
        self, desk: Desk, one: Claimant
    ) -> None:
        self.told(desk, one, self.alone(2), self.alone(3, FAILED, error="boom"))
        assert desk.told() == [
            *[(0, "ran", 1), (1, "missed", 1), (2, "ran", 1), (3, "failed", 1)],
            *[(4, "missed", 2), (6, "running", 1)],
        ]
        assert desk.book.last_success == START + 2 * HOUR + MINUTE
        assert (desk.book.last_error, desk.book.failures) == ("boom", 1)
        assert desk.book.runs == 4

    def test_rows_of_slots_are_recorded_as_such(self, desk: Desk, one: Claimant) -> None:
        row = self.alone(1, Outcome.MISSED, last=START + 3 * HOUR, count=3, run_id=None)
        self.told(desk, one, row, self.alone(4), hours=4)
        assert desk.told() == [(0, "ran", 1), (1, "missed", 3), (4, "ran", 1)]
        assert desk.book.counts == {"ran": 2, "missed": 3}
        assert desk.book.runs == 2

    def test_what_ended_in_another_order_is_recorded_all_the_same(
        self, desk: Desk, one: Claimant
    ) -> None:
        self.told(desk, one, self.alone(2), self.alone(1), hours=2)
        assert desk.told() == [(n, "ran", 1) for n in range(3)]

    def test_what_others_dealt_with_meanwhile_stays(self, desk: Desk, one: Claimant) -> None:
        two = desk.claimant("two")
        desk.pass_time(2 * HOUR, one, two)
        finish(desk, terms_of(), only(attend(desk, terms_of(), two).granted), two)
        self.told(desk, one, self.alone(1), self.alone(2), self.alone(3), hours=1)
        assert desk.told() == [*[(0, "ran", 1), (1, "missed", 1), (2, "ran", 1), (3, "ran", 1)]]
        assert desk.book.runs == 3

    def test_what_waited_in_the_store_and_ran_without_it_is_not_run_again(
        self, desk: Desk, one: Claimant
    ) -> None:
        desk.ask(backfill(START - HOUR), one)
        answer = self.told(desk, one, self.alone(-1, trigger=Trigger.BACKFILL), hours=0)
        assert answer.granted == ()
        assert desk.told() == [(-1, "ran", 1), (0, "ran", 1)]

    def test_a_schedule_that_the_store_never_saw_begins_with_what_ran_without_it(
        self, desk: Desk
    ) -> None:
        two = desk.claimant()
        self.told(desk, two, self.alone(1), self.alone(2), hours=2)
        assert desk.told() == [(1, "ran", 1), (2, "ran", 1)]

    def test_a_slot_that_ran_is_recorded_though_the_clock_was_set_back(
        self, desk: Desk, one: Claimant
    ) -> None:
        self.told(desk, one, self.alone(1), hours=0)
        assert desk.told() == [(0, "ran", 1), (1, "ran", 1)]
        assert attend_an_hour_later(desk, terms_of(), one).granted == ()

    def test_failures_count_but_not_runs_that_gave_way(self, desk: Desk, one: Claimant) -> None:
        gave_way = self.alone(1, FAILED, error="cancelled", cancel=True)
        self.told(desk, one, gave_way, self.alone(2, FAILED, error="boom"), hours=2)
        assert desk.book.failures == 1


class TestApply:
    def test_requests_for_one_task_are_decided_one_after_the_other(self, desk: Desk) -> None:
        one = desk.claimant()
        attending = Attend(terms=terms_of())
        first, second = desk.answers([attending, attending], one)
        assert isinstance(first, Answer)
        assert isinstance(second, Answer)
        assert (len(first.granted), len(second.granted)) == (1, 0)

    def test_what_is_granted_in_a_batch_is_not_granted_again_in_the_same(self, desk: Desk) -> None:
        one = desk.claimant()
        first, second = desk.answers([Attend(terms=terms_of()), Promote(terms=terms_of())], one)
        assert isinstance(first, Answer)
        assert isinstance(second, Answer)
        assert (len(first.granted), len(second.granted)) == (1, 0)

    def test_requests_for_many_tasks_take_as_many_round_trips_as_one(self, desk: Desk) -> None:
        tasks = [f"task_{number}" for number in range(50)]
        requests = [Attend(terms=TaskSchedule(task, HOURLY)) for task in tasks]
        answers = desk.answers(requests, desk.claimant())
        assert [a.book.task for a in answers if isinstance(a, Answer)] == tasks
        assert desk.store.reads == 1

    def test_a_request_that_others_were_quicker_than_is_decided_again(self, desk: Desk) -> None:
        one, two = desk.claimant("one"), desk.claimant("two")
        rival = Claimant("two", two.session)

        def quicker() -> None:
            assert len(desk.ask(Attend(terms=terms_of()), rival).granted) == 1

        desk.store.before_write = quicker
        answer = desk.ask(Attend(terms=terms_of()), one)
        assert answer.granted == ()
        assert only(desk.entries).replica == "two"

    def test_a_request_that_never_gets_its_turn_is_given_up(self, desk: Desk) -> None:
        one, other = desk.claimant("one"), Claimant("anna")

        def always_quicker() -> None:
            desk.ask(paused("anna", f"note {desk.store.reads}"), other)
            desk.store.before_write = always_quicker_later

        def always_quicker_later() -> None:
            desk.store.before_write = None
            always_quicker()

        desk.store.before_write = always_quicker
        with pytest.raises(StoreUnavailable, match=f"{ROUNDS} times"):
            desk.ask(Attend(terms=terms_of()), one)

    def test_one_refusal_leaves_the_other_requests_alone(self, desk: Desk) -> None:
        one = desk.claimant()
        entry = begun(desk, terms_of(), one)
        stale = Finish(terms=terms_of(), entry=entry, outcome=RAN)
        other = Attend(terms=TaskSchedule("other", HOURLY))
        first, second, third = desk.answers([stale, other, stale], one)
        assert isinstance(first, Answer)
        assert isinstance(second, Answer)
        assert isinstance(third, LeaseLost)

    def test_a_defect_in_one_decision_leaves_the_other_requests_alone(self, desk: Desk) -> None:
        class Defect:
            task = "broken"
            leased = True

            def decide(self, draft: Draft) -> None:
                raise ZeroDivisionError("oops")

        broken: Request = Defect()
        wrong, right = desk.answers([broken, Attend(terms=terms_of())], desk.claimant())
        assert isinstance(wrong, WorkerError)
        assert "ZeroDivisionError: oops" in str(wrong)
        assert isinstance(right, Answer)
        assert len(right.granted) == 1

    def test_what_was_granted_before_the_store_failed_is_answered(self, desk: Desk) -> None:
        one = desk.claimant()
        attending = Attend(terms=terms_of())
        other = Attend(terms=TaskSchedule("other", HOURLY))

        def quicker() -> None:
            pause = PauseSchedule(task="other", by="anna")
            apply(desk.store.inner, [pause], claimant=Claimant("anna"), now=desk.clock.now())

        desk.store.before_write = quicker
        desk.store.fail_reads_after = 1
        first, second = desk.answers([attending, other], one)
        assert isinstance(first, Answer)
        assert len(first.granted) == 1
        assert isinstance(second, StoreUnavailable)

    def test_requests_of_one_task_are_decided_one_upon_the_other(self, desk: Desk) -> None:
        one = desk.claimant()
        terms = terms_of()
        entry = begun(desk, terms, one)
        reads = desk.store.reads
        by_hand = Begin(terms=terms, overlap=Overlap.SKIP)
        busy, done, granted, busy_again = desk.answers(
            [by_hand, Finish(terms=terms, entry=entry, outcome=RAN), by_hand, by_hand], one
        )
        assert isinstance(busy, Answer)
        assert busy.busy == entry
        assert isinstance(done, Answer)
        assert done.granted == ()
        assert isinstance(granted, Answer)
        assert len(granted.granted) == 1
        assert isinstance(busy_again, Answer)
        assert busy_again.busy == granted.granted[0]
        assert desk.store.reads == reads + 1
        assert one.runs == {granted.granted[0].run_id}

    def test_a_store_that_is_down_answers_nothing(self, desk: Desk) -> None:
        one = desk.claimant()
        desk.store.down = "no connection"
        with pytest.raises(StoreUnavailable, match="no connection"):
            attend(desk, terms_of(), one)

    def test_what_changes_nothing_is_not_written(self, desk: Desk) -> None:
        one = desk.claimant()
        begun(desk, terms_of(), one)
        version = desk.book.version
        for _ in range(3):
            attend(desk, terms_of(), one)
        assert desk.book.version == version

    def test_a_decision_needs_no_store(self, desk: Desk) -> None:
        answer = decide(
            Attend(terms=terms_of()), desk.book, claimant=Claimant("one"), now=START + MINUTE
        )
        entry = only(answer.granted)
        assert (entry.slot, entry.session) == (START, None)
        assert desk.store.history(HistoryQuery()) == []


@pytest.mark.parametrize(
    ("schedule", "changed"),
    [(HOURLY, Interval(10 * MINUTE)), (Interval(10 * MINUTE), Cron("0 * * * *", "Europe/Berlin"))],
)
def test_a_schedule_that_changes_goes_on_from_where_the_account_stands(
    desk: Desk, schedule: Schedule, changed: Schedule
) -> None:
    one = desk.claimant()
    finish(desk, terms_of(schedule), begun(desk, terms_of(schedule), one), one)
    for _ in range(3):
        desk.pass_time(HOUR, one)
        for entry in attend(desk, terms_of(changed), one).granted:
            finish(desk, terms_of(changed), entry, one)
    assert desk.book.schedule == str(changed)
    slots = [entry.slot for entry in desk.entries]
    assert all(one < other for one, other in pairwise(slots))
    accounted = sum(entry.count for entry in desk.entries) - 1
    assert accounted == changed.count(START, START + 3 * HOUR)
    assert desk.book.cursor == changed.until(START + 3 * HOUR)


def test_an_outage_of_a_year_is_accounted_for_in_one_entry(desk: Desk) -> None:
    every_second = terms_of(Interval(timedelta(seconds=1)))
    finish(desk, every_second, begun(desk, every_second, one := desk.claimant()), one)
    desk.pass_time(365 * DAY, one)
    attend(desk, every_second, one)
    assert [entry.count for entry in desk.entries] == [1, 365 * 86400 - 1, 1]


def test_moments_are_told_in_utc_whatever_the_zone_of_the_schedule(desk: Desk) -> None:
    one, terms = desk.claimant(), terms_of(Cron("0 12 * * *", "America/New_York"))
    attend(desk, terms, one)
    desk.pass_time(DAY, one)
    (entry,) = attend(desk, terms, one).granted or desk.entries
    assert entry.slot == datetime(2026, 11, 21, 17, tzinfo=UTC)
