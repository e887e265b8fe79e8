"""A task's book while it is being changed: what a request is decided over.

Nothing is written here. What is put into a draft the store writes all at once, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from worker.ledger.book import (
    Book,
    Entry,
    EntryKey,
    Outcome,
    Replica,
    ScheduleVersion,
    SessionId,
    changed,
)
from worker.model import Trigger, new_run_id
from worker.schedules.spec import schedule_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from worker.schedules.catch_up import Span

    Lookup = Callable[[Iterable[SessionId]], Sequence[Replica]]

__all__ = ["Answer", "Claimant", "Draft", "Request", "has_slot", "no_sessions"]

ONE_TICK = timedelta(microseconds=1)
COUNTED_SCHEDULES = 5
"""Of how many schedules of a task the runs stay counted, the latest ones."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """The replica in whose name a request is made, and its session, if it has one.

    Attributes:
        runs: The ids of the runs that it was granted, kept up to date by `apply`. What else the
            store believes it to run was granted by an answer that was lost. ``None``: not known.
    """

    replica: str
    session: SessionId | None = None
    runs: set[str] | None = None

    def note(self, entries: Iterable[Entry]) -> None:
        """Keep ``runs`` up to date with what was written."""
        if self.runs is None:
            return
        for entry in entries:
            if entry.run_id is None:
                continue
            if entry.outcome is not Outcome.RUNNING:
                self.runs.discard(entry.run_id)
            elif entry.session == self.session:
                self.runs.add(entry.run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was decided.

    Attributes:
        book: The task's book afterwards.
        granted: Entries whose runs are for the claimant to start, now.
        recorded: Other entries that were written: slots that do not run, or not yet.
        elsewhere: How many slots that were due others have dealt with.
        busy: The run that is in the way of one by hand.
        added: Versions of the schedule that were added.
        removed: Versions that were removed, because nothing is owed of them.
    """

    book: Book
    granted: tuple[Entry, ...] = ()
    recorded: tuple[Entry, ...] = ()
    elsewhere: int = 0
    busy: Entry | None = None
    added: tuple[ScheduleVersion, ...] = ()
    removed: tuple[ScheduleVersion, ...] = ()


class Request(Protocol):
    """Something that is asked of one task's book."""

    @property
    def task(self) -> str: ...

    @property
    def leased(self) -> bool:
        """Whether it may only be done while the claimant's lease holds."""
        ...

    def decide(self, draft: Draft) -> None:
        """Change the draft as the rules have it.

        Raises:
            WorkerError: It cannot be done; nothing is written then.
        """
        ...


def no_sessions(sessions: Iterable[SessionId]) -> Sequence[Replica]:
    """What is known of sessions without a store."""
    return ()


def has_slot(version: ScheduleVersion, slot: datetime) -> bool:
    """Whether a version names a slot in the time in which it is, or was, in force."""
    if slot <= version.since or (version.until is not None and slot > version.until):
        return False
    schedule = schedule_from(version.spec)
    return schedule is not None and schedule.until(slot) == slot


class Draft:
    """A book that is being changed, with the entries that come with it.

    Attributes:
        schedule: The spec of the claimant's schedule; empty if it comes without one.
        sessions: Returns what the store knows of sessions; it takes a round trip.
    """

    def __init__(
        self,
        book: Book,
        now: datetime,
        claimant: Claimant,
        schedule: str = "",
        sessions: Lookup = no_sessions,
    ) -> None:
        self.sessions = sessions
        self.book = book
        self.schedule = schedule
        self.now = now
        self.claimant = claimant
        self.elsewhere = 0
        self.removed: list[ScheduleVersion] = []
        self.busy: Entry | None = None
        self._before = book
        self._active = {entry.key: entry for entry in book.active}
        self._written: dict[EntryKey, Entry] = {}

    @property
    def running(self) -> list[Entry]:
        return [e for e in self._active.values() if e.outcome is Outcome.RUNNING and e.alive]

    @property
    def orphans(self) -> list[Entry]:
        return [e for e in self._active.values() if e.outcome is Outcome.RUNNING and not e.alive]

    @property
    def unheard(self) -> list[Entry]:
        """What the claimant was granted without ever hearing of it: nobody runs it."""
        mine, known = self.claimant.session, self.claimant.runs
        if mine is None or known is None:
            return []
        return [e for e in self.running if e.session == mine and e.run_id not in known]

    @property
    def waiting(self) -> list[Entry]:
        return sorted(
            (e for e in self._active.values() if e.outcome is Outcome.WAITING),
            key=lambda entry: entry.slot,
        )

    def own(self, key: EntryKey) -> Entry | None:
        """The running entry of that key, if it is the claimant's."""
        entry = self._active.get(key)
        if entry is None or entry.outcome is not Outcome.RUNNING:
            return None
        return entry if entry.session == self.claimant.session else None

    def free_moment(self) -> datetime:
        """Now, or as soon after as no other run by hand was asked for."""
        moment = self.now
        while (self.book.task, moment, Trigger.MANUAL) in self._active:
            moment += ONE_TICK
        return moment

    def put(self, entry: Entry, at: datetime | None = None) -> Entry:
        """Record ``entry``, in the place of what was known of its slot; as of ``at``, or now."""
        present = self._active.get(entry.key)
        if present is None or present.outcome is not entry.outcome:
            entry = changed(entry, recorded_at=at or self.now)
        self._written[entry.key] = entry
        if not entry.outcome.final:
            self._active[entry.key] = entry
            return entry
        self._active.pop(entry.key, None)
        outcome = entry.outcome.value
        total = self.book.counts.get(outcome, 0) + entry.count
        self.book = changed(self.book, counts={**self.book.counts, outcome: total})
        return entry

    def grant(self, entry: Entry) -> Entry:
        """Let the claimant run it."""
        if entry.trigger is Trigger.SCHEDULE and entry.run_id is None:  # never granted before
            self.count_run(entry.slot)
        late = (self.now - entry.slot) / timedelta(milliseconds=1)
        return self.put(
            changed(
                entry,
                outcome=Outcome.RUNNING,
                alive=True,
                run_id=new_run_id(),
                session=self.claimant.session,
                replica=self.claimant.replica,
                late_ms=round(late, 3),
            )
        )

    def spec_at(self, slot: datetime) -> str:
        """The spec of the schedule that a slot was accounted for under."""
        versions = self.book.versions
        if all(version.spec == self.schedule for version in versions):
            return self.schedule
        owners = (v.spec for v in versions if slot <= v.cursor and has_slot(v, slot))
        return next(owners, self.schedule)

    def count_run(self, slot: datetime) -> None:
        """Count a slot that was run, for the schedule that it is of."""
        spec, known = self.spec_at(slot), self.book.runs_of
        others = [one for one in known.items() if one[0] != spec]
        runs_of = dict([*others[1 - COUNTED_SCHEDULES :], (spec, known.get(spec, 0) + 1)])
        self.book = changed(self.book, runs=self.book.runs + 1, runs_of=runs_of)

    def record(self, span: Span | None, outcome: Outcome, note: str | None = None) -> None:
        """Record slots that do not run, and why."""
        if span is None:
            return
        several = span.count > 1
        self.put(
            Entry(
                task=self.book.task,
                slot=span.first,
                last=span.last if several else None,
                count=span.count,
                outcome=outcome,
                recorded_at=self.now,
                error=note,
            )
        )

    @property
    def written(self) -> Mapping[EntryKey, Entry]:
        """The entries that the store has to write."""
        return self._written

    @property
    def touched(self) -> bool:
        """Whether the store has to write anything."""
        return bool(self._written) or self.book != self._before

    def answer(self) -> Answer:
        before = {entry.run_id for entry in self._before.active}
        granted = tuple(
            entry
            for entry in self._written.values()
            if entry.outcome is Outcome.RUNNING
            and entry.session == self.claimant.session
            and entry.run_id not in before
        )
        before_versions, versions = self._before.versions, self.book.versions
        same = versions is before_versions or (
            len(versions) == len(before_versions) == 1
            and versions[0].since == before_versions[0].since
            and versions[0].spec == before_versions[0].spec
        )
        return Answer(
            book=changed(self.book, active=tuple(self._active.values())),
            granted=granted,
            recorded=tuple(e for e in self._written.values() if e.outcome is not Outcome.RUNNING),
            elsewhere=self.elsewhere,
            busy=self.busy,
            added=() if same else others(self.book, self._before),
            removed=tuple(self.removed),
        )


def others(book: Book, other: Book) -> tuple[ScheduleVersion, ...]:
    """The versions of a book that another has not."""
    known = [(version.spec, version.since) for version in other.versions]
    return tuple(one for one in book.versions if (one.spec, one.since) not in known)
