"""What a schedule would do, simulated: the ledger's own rules, on a clock that nobody waits for.

Nothing is decided here. Simulated replicas ask a ledger in memory just as real ones do, whenever
a timer, the end of a run or a pulse would have them ask; what is shown is what it recorded. Only a
slot that is met at its own moment, with no run anywhere, is not asked about (see `_coast`).

The workers are up just before the preview starts, with every earlier slot accounted for. Their
runs succeed, after the time that they are said to take. In an outage they end as if killed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from worker.backends.memory import MemoryStore
from worker.errors import WorkerError
from worker.ledger.book import LEASE, Book, Change, Entry, Outcome, SessionId
from worker.ledger.ledger import Answer, Attend, Claimant, Finish, Promote, Request, apply
from worker.ledger.thread import PULSE_S
from worker.ledger.versions import new_version
from worker.schedules.outage import merged
from worker.schedules.schedule import (
    LATEST,
    OFF,
    delay_of,
    just_before,
    next_due,
    number_of,
)
from worker.scheduling.preview_model import Line, Preview, SimulatedClock
from worker.scheduling.preview_notes import clock_note, joined, missed_note, short
from worker.scheduling.timers import first_wakes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from worker.schedules.policies import TaskSchedule

__all__ = ["Line", "Preview", "simulate", "stream"]

MOST_ACTIVE = 1_000
"""How many runs of a task may go on or wait at once: each decision looks at all of them."""
BATCH = 1_000
KEPT_ENTRIES, ALL_ENTRIES = 1_000, 1_000_000
KEPT_FOR = timedelta(days=1)
PULSE = timedelta(seconds=PULSE_S)
CANCELLED = "cancelled: a later slot of the task has precedence"


def simulate(schedules: Sequence[TaskSchedule], preview: Preview) -> list[Line]:
    """All that `stream` yields."""
    return list(stream(schedules, preview))


def stream(schedules: Sequence[TaskSchedule], preview: Preview) -> Iterator[Line]:
    """The outcome of every slot from ``preview.start`` on and before ``preview.end``, by slot.

    Slots after the last of ``max_runs`` are not part of it: the schedule is over then. What is
    not settled when the preview ends because the slot's jitter or an outage goes on, is followed
    until it is.

    The lines are yielded while the simulation goes on. A line waits for the final outcomes of all
    slots before it, so the memory needed depends on how long runs go on, not on how much is
    previewed.

    Raises:
        ValueError: Two schedules are of the same task; or, while the lines are read, too many runs
            of a task go on or wait at once.
    """
    several = [task for task, count in Counter(s.task for s in schedules).items() if count > 1]
    if several:
        raise ValueError(f"expected one schedule a task, got more for {', '.join(several)}")
    return Simulation(schedules, preview).lines()


class Rank(IntEnum):
    """What comes first of what happens at the same moment."""

    END = 0
    DOWN = 1
    UP = 2
    PULSE = 3
    WAKE = 4


@dataclass(slots=True)
class Going:
    """A run that goes on, as far as the ledger knows."""

    entry: Entry
    replica: str
    started: datetime
    ends: datetime
    cancelled: bool = field(default=False)
    lease_ends: datetime | None = field(default=None)


class Simulation:
    """One preview being worked out.

    Args:
        coast: Whether slots that need no decision may be passed over quickly. The ledger has no
            entries for them then, and forgets the others soon.
        batch: How many lines are kept before those that cannot change any more are handed out.

    Attributes:
        store: The simulated ledger.
    """

    def __init__(
        self,
        schedules: Sequence[TaskSchedule],
        preview: Preview,
        *,
        coast: bool = True,
        batch: int = BATCH,
    ) -> None:
        self._preview = preview
        self._may_coast = coast
        self._batch = batch
        self._terms = {terms.task: terms for terms in schedules}
        self._schedules = {t.task: t.schedule for t in schedules if t.schedule is not None}
        self._outages = [o for o in merged(preview.outages) if o.end > preview.start]
        self._outage_starts = [outage.start for outage in self._outages]
        self._names = [f"replica-{number}" for number in range(1, preview.replicas + 1)]
        self._clock = SimulatedClock(just_before(preview.start))
        self.store = MemoryStore(self._clock, most=KEPT_ENTRIES if coast else ALL_ENTRIES)
        self._books: dict[str, Book] = {}
        self._up: dict[str, SessionId] = {}
        self._up_since = preview.start
        self._leases_end: list[datetime] = []
        self._wakes: dict[str, datetime] = {}
        self._going: dict[str, Going] = {}
        self._dead: dict[str, Going] = {}
        self._events: list[tuple[datetime, Rank, int, Callable[[], None]]] = []
        self._happened = 0
        self._lines: dict[tuple[str, datetime], Line] = {}

    def run(self) -> list[Line]:
        return list(self.lines())

    def lines(self) -> Iterator[Line]:
        """The lines by slot, each when it and those before it cannot change any more."""
        self._begin()
        end, enough = self._preview.end, self._batch
        while self._events and (
            self._events[0][0] < end or self._events[0][0] <= self._now or not self._settled()
        ):
            moment, _, _, happen = heappop(self._events)
            self._clock.moment = max(moment, self._clock.moment)
            happen()
            if len(self._lines) >= enough:
                yield from self._take_final()
                enough = 2 * len(self._lines) + self._batch
        for line in self._take(self._lines):
            if not line.outcome.final:
                note = f"still {line.outcome.value} when the preview ends"
                line = replace(line, note=joined(line.note, note))
            yield line

    def _take_final(self) -> list[Line]:
        """Take out the lines before the first slot that is undecided or has no final outcome."""
        pending = [
            (following, task)
            for task, schedule in self._schedules.items()
            if not self._over(task)
            and (cursor := self._books[task].cursor) is not None
            and (following := schedule.after(cursor)) is not None
        ]
        pending += [
            (slot, task) for (task, slot), one in self._lines.items() if not one.outcome.final
        ]
        first = min(pending, default=(LATEST, ""))
        return self._take([key for key in self._lines if (key[1], key[0]) < first])

    def _take(self, keys: Iterable[tuple[str, datetime]]) -> list[Line]:
        lines = [self._lines.pop(key) for key in list(keys)]
        return sorted(lines, key=lambda line: (line.slot, line.task))

    def _begin(self) -> None:
        before = just_before(self._preview.start)
        for task in self._schedules:
            version = new_version(self._terms[task], before)
            book = Book(task=task, versions=(version,), known_since=before)
            self.store.write([Change(book=book)])
            self._books[task] = book
            self._set_timer(task)
        self._open_sessions()
        self._up_since = self._preview.start
        for outage in self._outages:
            self._at(max(outage.start, self._preview.start), Rank.DOWN, self._go_down)
            self._at(outage.end, Rank.UP, self._come_up)

    @property
    def _now(self) -> datetime:
        return self._clock.moment

    def _at(self, moment: datetime, rank: Rank, happen: Callable[[], None]) -> None:
        self._happened += 1
        heappush(self._events, (moment, rank, self._happened, happen))

    def _settled(self) -> bool:
        """Whether every slot that is shown is accounted for, and no dead run goes for living."""
        end = self._preview.end
        for task, schedule in self._schedules.items():
            cursor = self._books[task].cursor
            assert cursor is not None
            following = schedule.after(cursor)
            if following is not None and following < end and not self._over(task):
                return False
        return not any(going.entry.slot < end for going in self._dead.values())

    def _over(self, task: str) -> bool:
        most = self._terms[task].policies.max_runs
        return most is not None and self._books[task].runs >= most

    # Replicas: their lives, their timers, what they ask

    def _open_sessions(self) -> None:
        self._up_since = self._now
        forever = LATEST - self._now  # nobody has to renew it while the worker is up
        self._up = {name: self.store.open_session(name, forever) for name in self._names}

    def _go_down(self) -> None:
        for session in self._up.values():
            self.store.renew(session, LEASE)
        lease_ends = self._now + LEASE
        self._leases_end.append(lease_ends)
        for run_id, going in self._going.items():
            going.lease_ends = lease_ends
            self._dead[run_id] = going
        self._up, self._going, self._wakes = {}, {}, {}

    def _come_up(self) -> None:
        if self._may_coast:
            self.store.prune(age=KEPT_FOR)
        self._open_sessions()
        self._pulse()
        self._leases_end = [moment for moment in self._leases_end if moment > self._now]
        for moment in self._leases_end:
            self._at(self._next_pulse(moment), Rank.PULSE, self._pulse)
        tasks = list(self._schedules)
        looks = first_wakes(
            [self._next_due(task) for task in tasks],
            self._now,
            delay=self._preview.first_run_delay,
            spread=self._preview.first_run_spread,
        )
        for task, look in zip(tasks, looks, strict=True):
            self._set_timer(task, look)

    def _next_pulse(self, moment: datetime) -> datetime:
        return self._up_since - (self._up_since - moment) // PULSE * PULSE

    def _pulse(self) -> None:
        """See to what waits, and to what the dead left."""
        for name in self._in_turn("", self._up):
            pulse = self.store.renew(self._up[name], LATEST - self._now)
            for task in sorted(pulse.orphaned | pulse.waiting):
                self._ask(name, Promote(terms=self._terms[task]))

    def _next_due(self, task: str) -> datetime | None:
        jitter = self._terms[task].policies.jitter
        due = next_due(self._schedules[task], task, jitter, self._now)
        return None if due is None else due[1]

    def _set_timer(self, task: str, moment: datetime | None = None) -> None:
        moment = moment or self._next_due(task)
        if moment is not None and not self._over(task):
            self._wakes[task] = moment
            self._at(moment, Rank.WAKE, partial(self._wake, task, moment))

    def _wake(self, task: str, moment: datetime) -> None:
        if self._wakes.get(task) != moment:
            return  # its worker is gone, or the timer was set anew
        for name in self._in_turn(task, self._up):
            self._ask(name, Attend(terms=self._terms[task]))
        self._set_timer(task)

    def _in_turn(self, task: str, names: Iterable[str], now: datetime | None = None) -> list[str]:
        """The replicas in the order in which they reach the store: any, but always the same."""
        found = list(names)
        if len(found) > 1:
            now = now or self._now
            found.sort(key=lambda name: number_of(f"{name} {task} {now.isoformat()}"))
        return found

    def _ask(self, name: str, request: Request) -> None:
        claimant = Claimant(name, self._up[name])
        (answer,) = apply(self.store, [request], claimant=claimant, now=self._now)
        if isinstance(answer, WorkerError):
            raise answer
        if len(answer.book.active) > MOST_ACTIVE:
            raise ValueError(
                f"expected a preview in which fewer runs go on or wait at once, up to "
                f"{MOST_ACTIVE} of a task, got {len(answer.book.active)} of {request.task} at "
                f"{self._now.isoformat()}; give runs that take less"
            )
        self._books[request.task] = answer.book
        for entry in answer.recorded:
            self._record(entry, answer)
        for entry in answer.granted:
            self._start(name, entry)
        for entry in answer.book.active:
            if entry.cancel:
                self._cancel(name, entry)

    # Runs

    def _start(self, name: str, entry: Entry) -> None:
        now = self._now
        assert entry.run_id is not None
        ends = now + min(self._preview.run_time(entry.task), LATEST - now)
        self._going[entry.run_id] = Going(entry, name, now, ends)
        self._at(ends, Rank.END, partial(self._end, entry.run_id, Outcome.RAN))
        self._dead = {i: g for i, g in self._dead.items() if g.entry.key != entry.key}
        note = self._started_note(entry)
        if self._over(entry.task) and entry.slot == self._books[entry.task].cursor:
            note = joined(note, "the last of max_runs")
        self._show(entry, note=note, started_at=now, replica=name)

    def _cancel(self, name: str, entry: Entry) -> None:
        going = self._going.get(entry.run_id or "")
        if going is None or going.cancelled:
            return
        going.cancelled = True
        # The replica that asks for it hears at once, another one with its next pulse.
        heard = self._now if going.replica == name else self._next_pulse(self._now)
        assert entry.run_id is not None
        self._at(heard, Rank.END, partial(self._end, entry.run_id, Outcome.FAILED))

    def _end(self, run_id: str, outcome: Outcome) -> None:
        going = self._going.pop(run_id, None)
        if going is None:
            return  # it was cancelled, or its replica died
        task = going.entry.task
        finish = Finish(
            terms=self._terms[task],
            entry=going.entry,
            outcome=outcome,
            duration_ms=(self._now - going.started) / timedelta(milliseconds=1),
            error=None if outcome is Outcome.RAN else CANCELLED,
            counts=outcome is Outcome.RAN,
        )
        self._ask(going.replica, finish)
        self._coast(task)

    def _coast(self, task: str) -> None:
        """Pass over slots that each are met at their own moment, with no run going on anywhere.

        Those run, whatever the policies are: there is nothing to decide, and to have it decided
        takes a hundred times as long. Tests show that it makes no difference.
        """
        book, schedule = self._books[task], self._schedules[task]
        policies = self._terms[task].policies
        assert book.cursor is not None
        slot = schedule.after(book.cursor)
        if book.active or policies.jitter != OFF or policies.max_runs is not None:
            return
        if not self._may_coast or slot is None or slot < self._now:
            return
        run_time, end = self._preview.run_time(task), self._preview.end
        place = bisect_right(self._outage_starts, self._now)
        down = self._outage_starts[place] if place < len(self._outages) else LATEST
        passed, most = None, len(self._lines) + self._batch
        while (
            len(self._lines) < most
            and slot < down
            and run_time <= down - slot
            and run_time < end - slot
        ):
            following = schedule.after(slot)
            if following is None or run_time > following - slot:
                break
            self._lines[task, slot] = Line(
                task=task,
                slot=slot,
                outcome=Outcome.RAN,
                started_at=slot,
                replica=self._in_turn(task, self._names, slot)[0],
                note=clock_note(schedule, slot),
            )
            passed, slot = slot, following
        if passed is not None:
            book = self.store.read([task])[task]
            (version,) = book.versions
            self._books[task] = replace(book, versions=(replace(version, cursor=passed),))
            self.store.write([Change(book=self._books[task])])
            self._set_timer(task, slot)

    # What is shown

    def _record(self, entry: Entry, answer: Answer) -> None:
        self._dead = {i: g for i, g in self._dead.items() if g.entry.key != entry.key}
        match entry.outcome:
            case Outcome.MISSED:
                taken = [e for e in (*answer.granted, *answer.recorded) if self._is_taken(e)]
                down = self._was_down(self._due(entry.task, entry.last or entry.slot))
                catch_up = self._terms[entry.task].policies.catch_up
                note = missed_note(entry, taken, now=self._now, catch_up=catch_up, down=down)
            case Outcome.SKIPPED_OVERLAP:
                note = self._overlap_note(answer)
            case Outcome.LOST:
                note = "its worker died while it ran"
            case Outcome.FAILED:
                note = "cancelled for a later slot"
            case _:
                note = ""
        shown = self._lines.get((entry.task, entry.slot))
        if shown is None:
            self._show(entry, note=note)
            return
        self._lines[entry.task, entry.slot] = replace(
            shown, outcome=entry.outcome, note=joined(shown.note, note)
        )

    def _is_taken(self, entry: Entry) -> bool:
        return (entry.task, entry.slot) not in self._lines and entry.outcome is not Outcome.MISSED

    def _show(
        self,
        entry: Entry,
        *,
        note: str,
        started_at: datetime | None = None,
        replica: str | None = None,
    ) -> None:
        end, schedule = self._preview.end, self._schedules[entry.task]
        if not self._preview.start <= entry.slot < end:
            return
        last, count = entry.last, entry.count
        if last is not None and last >= end:
            last = schedule.until(just_before(end))
            assert last is not None
            count = schedule.count(just_before(entry.slot), last)
            last = last if count > 1 else None
        self._lines[entry.task, entry.slot] = Line(
            task=entry.task,
            slot=entry.slot,
            last=last,
            count=count,
            outcome=entry.outcome,
            started_at=started_at,
            replica=replica,
            note=joined(clock_note(schedule, entry.slot) if count == 1 else "", note),
        )

    def _due(self, task: str, slot: datetime) -> datetime:
        jitter = self._terms[task].policies.jitter
        return slot + min(delay_of(self._schedules[task], task, jitter, slot), LATEST - slot)

    def _was_down(self, moment: datetime) -> bool:
        place = bisect_right(self._outage_starts, moment)
        return place > 0 and moment < self._outages[place - 1].end

    def _started_note(self, entry: Entry) -> str:
        """Why a run begins when it does."""
        due = self._due(entry.task, entry.slot)
        late = self._now - entry.slot
        again = "run again after its worker died" if entry.losses else ""
        shown = self._lines.get((entry.task, entry.slot))
        if self._now == due:
            return f"put off by {short(late)} of jitter" if late else again
        if again:
            return again
        if self._was_down(due):
            return f"caught up {short(late)} late"
        if shown is not None and shown.outcome is Outcome.WAITING:
            return f"waited {short(self._now - due)} for its turn"
        return f"{short(late)} late, while its worker started"

    def _overlap_note(self, answer: Answer) -> str:
        """What was in the way of a slot."""
        for entry in answer.book.active:
            run_id = entry.run_id or ""
            if run_id in self._dead:
                ends = self._dead[run_id].lease_ends
                assert ends is not None
                return (
                    "the previous run died with its worker, whose lease holds for another "
                    f"{short(ends - self._now)}"
                )
            if run_id in self._going and entry.outcome is Outcome.RUNNING:
                if entry.cancel:
                    return "a later slot took its place"
                left = self._going[run_id].ends - self._now
                waiting = len(answer.book.waiting)
                behind = f", and {waiting} waited before it" if waiting else ""
                return f"the previous run goes on for another {short(left)}{behind}"
        return "others were before it"
