"""Schedules that change while workers come, go and die: each slot has exactly one outcome.

What happens is made up at random. Which schedule was in force when follows from the lives of the
workers alone; which slots must be recorded is found by listing the slots of that time.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import START, FakeClock
from tests.support.ledgers import MINUTE, TTL, FailingStore
from tests.support.stores import fresh_url
from tests.support.timed_store import TimedStore
from worker.backends.memory import MemoryStore
from worker.backends.opening import open_store
from worker.errors import LeaseLost, StoreUnavailable, WorkerError
from worker.ledger.book import Entry, HistoryQuery, Outcome
from worker.ledger.ledger import Answer, Attend, Claimant, Finish, Promote, Request, apply
from worker.model import Trigger
from worker.schedules.catch_up import CatchUp, CatchUpPolicy
from worker.schedules.policies import Overlap, Policies, TaskSchedule
from worker.schedules.schedule import Cron, Interval, Once, Schedule, Within, slots_between
from worker.schedules.spec import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from worker.ports import LedgerStore

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
TICK = timedelta(microseconds=1)
JITTER = 50 * SECOND
EVERY_SLOT = CatchUp(policy=CatchUpPolicy.ALL, window=10 * DAY, limit=100_000)
LATEST = CatchUp()
SCHEDULES: tuple[Schedule, ...] = (
    Cron("*/2 * * * *"),
    Cron("1-59/2 * * * *"),
    Cron("* * * * *"),
    Cron("* * * * *", "Asia/Kolkata"),
    Cron("*/5 * * * *", "Europe/Berlin"),
    Interval(MINUTE),
    Interval(MINUTE, 20 * SECOND),
    Interval(90 * SECOND),
    Interval(7 * MINUTE, 2 * MINUTE),
    Within(Cron("* * * * *"), None, START + 9 * MINUTE),
    Within(Interval(MINUTE), START + 5 * MINUTE, None),
    Within(Cron("*/2 * * * *"), START + 2 * MINUTE, START + 12 * MINUTE),
    Once(START + 6 * MINUTE),
    Once(START + 4 * MINUTE + 30 * SECOND),
)
NUMBERS = count()


@dataclass(eq=False)
class Life:
    """One life of a worker, from its start to the end of its lease."""

    name: str
    terms: TaskSchedule
    start: datetime
    claimant: Claimant
    end: datetime
    joined: bool = False
    running: bool = True
    suspended: bool = False
    seen: datetime | None = None
    held: list[Entry] = field(default_factory=list)

    @property
    def schedule(self) -> Schedule:
        assert self.terms.schedule is not None
        return self.terms.schedule

    @property
    def spec(self) -> str:
        return spec_of(self.schedule)


@dataclass
class Window:
    """When a schedule was in force.

    Attributes:
        must: Slots later than this have to be recorded.
        may: No slot up to here may be recorded for it.
    """

    schedule: Schedule
    must: datetime
    may: datetime
    until: datetime | None = None


class Oracle:
    """Which schedules were in force when, by the lives of the workers that had joined."""

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.windows: list[Window] = []
        self.open: dict[str, Window] = {}

    def join(self, life: Life, now: datetime) -> None:
        """A worker told the ledger for the first time that it has its schedule."""
        serving = {one.spec for one in self.lives if one.end > now}
        ends = {one.spec: one.end for one in sorted(self.lives, key=lambda one: one.end)}
        handover = now if serving else max(ends.values(), default=None)
        for spec in [*self.open]:
            gone = spec not in serving
            if gone and (serving or spec != life.spec or ends[spec] != handover):
                self.open.pop(spec).until = ends[spec]
        self.lives.append(life)
        if life.spec in self.open:
            return
        start = life.start if handover is None else min(life.start, handover)
        floor = max((one.until for one in self.windows if one.until is not None), default=start)
        latest = life.schedule.until(now)
        may = start if latest is None else min(start, latest - TICK)
        window = Window(life.schedule, max(start, floor), may)
        self.windows.append(window)
        self.open[life.spec] = window

    def close(self, spec: str) -> None:
        """Only ``spec`` is in force any more."""
        for gone in self.open.keys() - {spec}:
            self.open[gone].until = max(one.end for one in self.lives if one.spec == gone)

    def slots(self, end: datetime, *, must: bool) -> set[datetime]:
        return {
            slot
            for one in self.windows
            for slot in slots_between(
                one.schedule, one.must if must else one.may, min(end, one.until or end)
            )
        }


class History:
    """Workers that keep one task, with schedules that change, and all that befalls them."""

    def __init__(self, store: LedgerStore, clock: FakeClock, seed: int, catch_up: CatchUp) -> None:
        self.store = FailingStore(store)
        self.clock = clock
        self.random = Random(seed)
        self.task = f"task_{next(NUMBERS)}"
        self.catch_up = catch_up
        self.schedules = self.random.sample(SCHEDULES, self.random.randint(2, 3))
        self.lives: list[Life] = []
        self.oracle = Oracle()
        self.began: set[str] = set()
        self.happened: Counter[str] = Counter()

    def go_on(self) -> None:
        steps: list[Callable[[], None]] = [
            *(self.wait, self.begin, self.kill, self.stop, self.attend, self.finish),
            *(self.promote, self.suspend, self.resume),
        ]
        (step,) = self.random.choices(steps, weights=[18, 8, 3, 3, 8, 10, 2, 2, 3])
        step()

    @property
    def up(self) -> list[Life]:
        return [one for one in self.lives if one.running and not one.suspended]

    def begin(self, schedule: Schedule | None = None) -> None:
        if len(self.up) >= 3:
            return
        policies = Policies(
            catch_up=self.catch_up,
            overlap=self.random.choice(list(Overlap)),
            jitter=self.random.choice([0 * SECOND, 0 * SECOND, 20 * SECOND, JITTER]),
            retry_lost=self.random.randint(0, 1),
        )
        terms = TaskSchedule(self.task, schedule or self.random.choice(self.schedules), policies)
        name, now = f"r{len(self.lives)}", self.clock.now()
        session = self.store.open_session(name, TTL)
        self.lives.append(Life(name, terms, now, Claimant(name, session, set()), now + TTL))

    def wait(self, step: timedelta | None = None) -> None:
        step = step or self.random.choice([SECOND, 10 * SECOND, 30 * SECOND, MINUTE, 2 * MINUTE])
        for one in self.up:
            assert one.claimant.session is not None
            self.store.renew(one.claimant.session, step + TTL)
            one.end = self.clock.now() + step + TTL
        self.clock.advance(step.total_seconds())
        for one in self.up:
            if self.random.random() < 0.7:
                self.attend(one)

    def kill(self) -> None:
        if self.up:
            self.random.choice(self.up).running = False
            self.happened["killed"] += 1

    def stop(self) -> None:
        if not self.up:
            return
        life = self.random.choice(self.up)
        for entry in life.held:
            self.ask(life, Finish(terms=life.terms, entry=entry, outcome=Outcome.LOST, go_on=False))
        assert life.claimant.session is not None
        self.store.close_session(life.claimant.session)
        life.running, life.end = False, min(life.end, self.clock.now())

    def suspend(self) -> None:
        if self.up:
            self.random.choice(self.up).suspended = True

    def resume(self) -> None:
        """A worker that was suspended goes on; beyond its lease with a new session."""
        life = next((one for one in self.lives if one.suspended), None)
        if life is None:
            return
        life.suspended, now = False, self.clock.now()
        if life.end > now:
            return
        life.running = False
        self.happened["lost its lease"] += 1
        session = self.store.open_session(life.name, TTL)
        start = max(life.start, life.seen or life.start)
        claimant = Claimant(life.name, session, set())
        self.lives.append(Life(life.name, life.terms, start, claimant, now + TTL, seen=life.seen))

    def attend(self, life: Life | None = None) -> None:
        life = life or (self.random.choice(self.up) if self.up else None)
        if life is None:
            return
        if self.random.random() < 0.1 and len(self.up) > 1:  # another is quicker
            rival = self.random.choice([one for one in self.up if one is not life])
            self.store.before_write = lambda: self.attend_once(rival)
        if self.random.random() < 0.05:
            self.store.lose_answers = 1
        self.attend_once(life)
        self.store.lose_answers, self.store.before_write = 0, None

    def attend_once(self, life: Life) -> None:
        before = self.store.inner.read([self.task])[self.task]
        self.ask(life, Attend(terms=life.terms, since=life.start, seen=life.seen))
        if not life.joined:
            book = self.store.inner.read([self.task])[self.task]
            life.joined = any(life.claimant.session in one.sessions for one in book.versions)
            if life.joined:
                self.oracle.join(life, self.clock.now())
                self.happened["several"] += len(book.versions) > 1
                self.happened["changed"] += len(book.versions) > len(before.versions) > 0

    def promote(self) -> None:
        if self.up:
            life = self.random.choice(self.up)
            self.ask(life, Promote(terms=life.terms))

    def finish(self) -> None:
        holding = [one for one in self.up if one.held]
        if holding:
            life = self.random.choice(holding)
            entry = life.held.pop(self.random.randrange(len(life.held)))
            self.ask(life, Finish(terms=life.terms, entry=entry, outcome=Outcome.RAN))

    def ask(self, life: Life, request: Request) -> None:
        try:
            (answer,) = apply(self.store, [request], claimant=life.claimant, now=self.clock.now())
        except StoreUnavailable:
            return
        if isinstance(answer, LeaseLost):
            assert isinstance(request, Finish)  # its run was recorded as lost
            return
        if isinstance(answer, WorkerError):
            raise answer
        assert isinstance(answer, Answer)
        if isinstance(request, Attend):
            life.seen = answer.book.cursor_of(life.schedule)
        for entry in answer.granted:
            assert entry.run_id is not None
            assert entry.run_id not in self.began
            self.began.add(entry.run_id)
            life.held.append(entry)

    def entries(self) -> list[Entry]:
        query = HistoryQuery(task=self.task, limit=100_000)
        return [e for e in self.store.history(query) if e.trigger is Trigger.SCHEDULE]

    def check(self) -> None:
        """Let all come to rest, then compare with a plain list of the slots."""
        for one in self.lives:
            one.suspended = False
        while self.up:
            self.stop()
        self.wait(self.random.choice([SECOND, 3 * MINUTE]))
        self.begin(self.random.choice(self.schedules))
        last = self.lives[-1]
        for _ in range(200):
            self.attend_once(last)
            while last.held:
                self.ask(
                    last,
                    Finish(terms=last.terms, entry=last.held.pop(), outcome=Outcome.RAN),
                )
            book = self.store.read([self.task])[self.task]
            if not book.active and self.clock.now() > last.start + 3 * MINUTE:
                break
            self.wait(20 * SECOND)
        assert not book.active
        assert [one.spec for one in book.versions] == [last.spec]
        entries, now = self.entries(), self.clock.now()
        assert all(entry.outcome.final for entry in entries)
        self.oracle.close(last.spec)
        must = self.oracle.slots(now - JITTER, must=True)
        may = self.oracle.slots(now, must=False)
        assert sum(book.counts.values()) == sum(entry.count for entry in entries)
        assert len({entry.slot for entry in entries}) == len(entries)
        ends = {moment for entry in entries for moment in (entry.slot, entry.last or entry.slot)}
        assert ends <= may
        assert len(must) <= sum(entry.count for entry in entries) <= len(may)
        if self.catch_up is EVERY_SLOT:
            assert all(entry.count == 1 for entry in entries)
            assert must <= ends


def play(
    store: LedgerStore, clock: FakeClock, seed: int, length: int, catch_up: CatchUp
) -> History:
    history = History(store, clock, seed, catch_up)
    history.begin()
    for _ in range(length):
        history.go_on()
    history.check()
    return history


histories = given(
    seed=st.integers(0, 2**32),
    length=st.integers(5, 40),
    catch_up=st.sampled_from([EVERY_SLOT, EVERY_SLOT, LATEST]),
)


@pytest.mark.timeout(600)
@settings(max_examples=1700, deadline=None)
@histories
def test_each_slot_of_schedules_that_change_has_one_outcome(
    seed: int, length: int, catch_up: CatchUp
) -> None:
    clock = FakeClock(START)
    play(MemoryStore(clock), clock, seed, length, catch_up)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "examples"), [("sqlite", 400), ("postgres", 100), ("redis", 100)])
def test_each_slot_of_schedules_that_change_has_one_outcome_in_every_store(
    kind: str, examples: int, tmp_path: Path
) -> None:
    with fresh_url(kind, tmp_path) as url, closing(open_store(url)) as store:

        @settings(max_examples=examples, deadline=None, database=None)
        @histories
        def check(seed: int, length: int, catch_up: CatchUp) -> None:
            clock = FakeClock(START)
            play(TimedStore(store, clock), clock, seed, length, catch_up)

        check()


def test_the_histories_contain_what_they_are_about() -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        clock = FakeClock(START)
        history = play(MemoryStore(clock), clock, seed, 40, EVERY_SLOT if seed % 2 else LATEST)
        seen += history.happened
        seen += Counter(entry.outcome.value for entry in history.entries())
    assert not [what for what in seen if seen[what] < 5], seen
    assert set(seen) >= {"killed", "several", "changed", "ran", "lost", "missed"}
