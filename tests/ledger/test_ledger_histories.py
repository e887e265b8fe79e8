"""Whatever happens to the replicas and the clocks: each slot has one record, and no run is doubled.

What happens is made up at random; what must have come of it is found by plain listing of slots.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import START, FakeClock
from tests.support.ledgers import DAY, HOUR, MINUTE, TTL, Desk, counted, slots_of
from worker.errors import LeaseLost, StoreError, StoreUnavailable
from worker.ledger.book import Entry, Outcome
from worker.ledger.ledger import (
    Answer,
    Ask,
    Attend,
    Begin,
    Claimant,
    Finish,
    PauseSchedule,
    Promote,
    Request,
    ResumeSchedule,
)
from worker.model import Trigger
from worker.schedules.catch_up import CatchUp, CatchUpPolicy
from worker.schedules.policies import Overlap, Policies, TaskSchedule
from worker.schedules.schedule import (
    OFF,
    Cron,
    Interval,
    Schedule,
    Within,
    due_until,
    slots_between,
)

SECOND = timedelta(seconds=1)
BERLIN = "Europe/Berlin"
AUTUMN, SPRING = datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 3, 28, 23, tzinfo=UTC)
STARTS = (AUTUMN, SPRING, START)
PEOPLE = Claimant("by hand")

schedules = st.one_of(
    st.sampled_from([10 * MINUTE, 37 * MINUTE, HOUR, 7 * HOUR, DAY]).map(Interval),
    st.sampled_from(["*/30 * * * *", "0,30 2 * * *", "15 * * * *", "0 3 * * *"]).map(
        lambda fields: Cron(fields, BERLIN)
    ),
    st.builds(
        lambda start, hours: Within(Interval(HOUR), start, start + hours * HOUR),
        st.sampled_from(STARTS),
        st.integers(1, 200),
    ),
)
policies = st.builds(
    Policies,
    overlap=st.sampled_from(Overlap),
    buffer_limit=st.integers(1, 3),
    catch_up=st.builds(
        CatchUp,
        policy=st.sampled_from(CatchUpPolicy),
        window=st.sampled_from([None, MINUTE, 3 * HOUR, 2 * DAY]),
        limit=st.integers(1, 4),
    ),
    jitter=st.sampled_from([OFF, OFF, 5 * MINUTE, 10 * HOUR]),
    max_runs=st.sampled_from([None, None, 1, 3, 8]),
    pause_after_failures=st.sampled_from([None, None, 2]),
    retry_lost=st.integers(0, 2),
)


@dataclass
class Replica:
    """A worker, its lease, and what it believes to run."""

    name: str
    claimant: Claimant | None = None
    held: list[Entry] = field(default_factory=list)
    suspended: bool = False
    cursor: datetime | None = None

    def forget(self) -> None:
        self.claimant, self.held, self.cursor = None, [], None


class History:
    """Three replicas that keep one schedule, and all that befalls them."""

    def __init__(self, terms: TaskSchedule, start: datetime, random: Random) -> None:
        assert terms.schedule is not None
        self.terms = terms
        self.schedule: Schedule = terms.schedule
        self.random = random
        self.desk = Desk(FakeClock(start), FakeClock(start))
        self.replicas = [Replica(f"r{number}") for number in range(3)]
        self.first: datetime | None = None
        self.began: set[str] = set()
        self.side_by_side = terms.policies.overlap is Overlap.ALLOW_ALL
        self.happened: Counter[str] = Counter()

    def go_on(self) -> None:
        """Have one thing happen."""
        step = self.random.choices(
            [
                *(self.wait, self.finish, self.attend, self.promote, self.kill, self.stop),
                *(self.suspend, self.continue_, self.run_by_hand, self.backfill),
                *(self.pause, self.resume, self.set_the_clock),
            ],
            weights=[20, 14, 6, 3, 2, 2, 4, 3, 3, 2, 1, 3, 2],
        )[0]
        step()
        self.check_always()

    def ask(self, replica: Replica, request: Request) -> Answer | None:
        if replica.claimant is None:
            replica.claimant = self.desk.claimant(replica.name)
        before = self.desk.book.cursor
        try:
            answer = self.desk.ask(request, replica.claimant)
        except LeaseLost:
            if not isinstance(request, Finish):
                replica.forget()
            return None
        except StoreUnavailable:
            return None
        finally:
            self.note_first(before)
        for entry in answer.granted:
            assert entry.run_id is not None
            assert entry.run_id not in self.began
            self.began.add(entry.run_id)
            replica.held.append(entry)
        return answer

    def note_first(self, before: datetime | None) -> None:
        """Where the account has to begin: at an interval's latest slot, if that may run, or now."""
        if before is not None or self.desk.book.cursor is None:
            return
        now = self.desk.clock.now()
        inner = self.schedule.schedule if isinstance(self.schedule, Within) else self.schedule
        latest = self.schedule.until(now) if isinstance(inner, Interval) else None
        self.first = now
        if latest is not None:
            before = latest - datetime.resolution
            if self.terms.policies.catch_up.plan(self.schedule, since=before, now=now).run:
                self.first = before

    # What the replicas do.

    def replica(self, *, suspended: bool | None = False, holding: bool = False) -> Replica | None:
        found = [
            replica
            for replica in self.replicas
            if suspended in (None, replica.suspended) and (replica.held or not holding)
        ]
        return self.random.choice(found) if found else None

    def attend(self, replica: Replica | None = None) -> None:
        replica = replica or self.replica()
        if replica is None:
            return
        self.desk.store.lose_answers = self.random.random() < 0.1
        answer = self.ask(replica, Attend(terms=self.terms, seen=replica.cursor))
        self.desk.store.lose_answers = 0
        if answer is not None:
            replica.cursor = answer.book.cursor

    def promote(self) -> None:
        replica = self.replica()
        if replica is not None:
            self.ask(replica, Promote(terms=self.terms))

    def finish(self) -> None:
        replica = self.replica(suspended=None, holding=True)
        if replica is None:
            return
        entry = replica.held.pop(self.random.randrange(len(replica.held)))
        alive = any(e.run_id == entry.run_id for e in self.desk.book.running)
        before = self.desk.entries
        outcome = self.random.choice([Outcome.RAN, Outcome.RAN, Outcome.FAILED, Outcome.LOST])
        answer = self.ask(replica, Finish(terms=self.terms, entry=entry, outcome=outcome))
        assert (answer is not None) == alive
        if not alive:
            self.happened["fenced off"] += 1
            assert self.desk.entries == before

    def kill(self) -> None:
        replica = self.replica(suspended=None)
        assert replica is not None
        replica.forget()
        replica.suspended = False

    def stop(self) -> None:
        """In good order: what runs is interrupted, and the lease is given back."""
        replica = self.replica()
        if replica is None or replica.claimant is None:
            return
        claimant = replica.claimant
        for entry in replica.held:
            interrupted = Finish(
                terms=self.terms, entry=entry, outcome=Outcome.LOST, counts=False, go_on=False
            )
            self.ask(replica, interrupted)
        assert claimant.session is not None
        self.desk.store.close_session(claimant.session)
        replica.forget()

    def suspend(self) -> None:
        replica = self.replica(holding=True)
        if replica is not None:
            replica.suspended = True

    def continue_(self) -> None:
        replica = self.replica(suspended=True)
        if replica is not None:
            replica.suspended = False

    # What people do.

    def run_by_hand(self) -> None:
        replica = self.replica()
        if replica is None:
            return
        overlap = self.random.choice(list(Overlap))
        self.side_by_side |= overlap is Overlap.ALLOW_ALL
        self.desk.pass_time(timedelta(milliseconds=1))
        self.ask(replica, Begin(terms=self.terms, overlap=overlap))

    def backfill(self) -> None:
        overlap = self.random.choice(list(Overlap))
        self.side_by_side |= overlap is Overlap.ALLOW_ALL
        since = self.desk.clock.now() - self.random.randrange(200) * HOUR
        slots = tuple(slots_between(self.schedule, since, since + 3 * HOUR))[:3]
        ask = Ask(task="sync", slots=slots, trigger=Trigger.BACKFILL, overlap=overlap)
        try:
            self.desk.ask(ask, PEOPLE)
        except StoreError as exc:
            assert "run again before" in str(exc)  # noqa: PT017 - what else is wrong fails here

    def pause(self) -> None:
        self.desk.ask(PauseSchedule(task="sync", by="anna"), PEOPLE)

    def resume(self) -> None:
        before = self.desk.book.cursor
        self.desk.ask(ResumeSchedule(terms=self.terms), PEOPLE)
        self.note_first(before)

    # What the clocks do.

    def wait(self) -> None:
        """Time passes, and some look at what is due."""
        step = self.random.choice([SECOND, TTL, 10 * MINUTE, HOUR, HOUR, 5 * HOUR, DAY])
        for replica in self.replicas:
            if replica.claimant is None or replica.suspended:
                continue
            assert replica.claimant.session is not None
            try:
                self.desk.store.renew(replica.claimant.session, step + TTL)
            except LeaseLost:
                replica.forget()
        self.desk.pass_time(step)
        for replica in self.replicas:
            if not replica.suspended and self.random.random() < 0.5:
                self.attend(replica)

    def set_the_clock(self) -> None:
        self.desk.clock.advance(self.random.choice([-3600, 3600]))

    # What must hold.

    def check_always(self) -> None:
        book, entries = self.desk.book, self.desk.entries
        assert self.side_by_side or len(book.running) <= 1
        assert dict(book.counts) == counted(entries)
        assert {e.key for e in book.active} == {e.key for e in entries if not e.outcome.final}
        runs = [e for e in entries if e.run_id is not None and e.trigger is Trigger.SCHEDULE]
        assert book.runs == len(runs)
        assert self.terms.policies.max_runs is None or book.runs <= self.terms.policies.max_runs

    def check_at_the_end(self) -> None:
        """Let all come to rest, then compare with a plain list of the slots."""
        self.desk.pass_time(10 * DAY)
        last = Replica("last")
        for _ in range(1000):
            self.ask(last, Attend(terms=self.terms))
            if not self.desk.book.active:
                break
            assert last.held, self.desk.book.active
            entry = last.held.pop()
            assert self.ask(last, Finish(terms=self.terms, entry=entry, outcome=Outcome.RAN))
        book, policies = self.desk.book, self.terms.policies
        assert not book.active
        assert book.cursor is not None
        assert self.first is not None
        entries = [e for e in self.desk.entries if e.trigger is Trigger.SCHEDULE]
        recorded = sorted(slot for entry in entries for slot in slots_of(entry, self.schedule))
        assert recorded == list(slots_between(self.schedule, self.first, book.cursor))
        assert all(entry.count == len(slots_of(entry, self.schedule)) for entry in entries)
        if policies.max_runs is None or book.runs < policies.max_runs:
            due = due_until(self.schedule, "sync", policies.jitter, self.desk.clock.now())
            assert due is None or due <= book.cursor


@settings(max_examples=300, deadline=None)
@given(
    schedule=schedules,
    policies=policies,
    start=st.sampled_from(STARTS),
    seed=st.integers(0, 2**32),
    length=st.integers(100, 160) | st.integers(0, 100),
)
def test_each_slot_has_one_record_and_no_run_is_doubled_whatever_happens(
    schedule: Schedule, policies: Policies, start: datetime, seed: int, length: int
) -> None:
    history = History(TaskSchedule("sync", schedule, policies), start, Random(seed))
    for _ in range(length):
        history.go_on()
    history.check_at_the_end()


def test_the_histories_that_are_made_up_contain_what_they_are_about() -> None:
    seen: Counter[str] = Counter()
    for seed in range(12):
        terms = TaskSchedule(
            "sync", Interval(HOUR), Policies(overlap=list(Overlap)[seed % 5], retry_lost=seed % 2)
        )
        history = History(terms, AUTUMN, Random(seed))
        for _ in range(150):
            history.go_on()
        history.check_at_the_end()
        seen += history.happened
        seen += Counter(entry.outcome.value for entry in history.desk.entries)
        seen += Counter("retried" for entry in history.desk.entries if entry.losses)
    rare = {what for what in seen if seen[what] < 5}
    assert rare == set()
    assert set(seen) >= {"fenced off", "retried", "ran", "failed", "lost", "missed", "paused"}
