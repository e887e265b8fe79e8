"""Whether the ledger accounts for every slot, once, and says of each what really happened."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from worker.backends.opening import open_store
from worker.ledger.book import Book, Entry, HistoryQuery, Outcome
from worker.ledger.ledger import first_cursor
from worker.model import Trigger
from worker.schedules.catch_up import CatchUp
from worker.schedules.schedule import Schedule, slots_between

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.support.witness import Line

EVERYTHING = 1_000_000
ONE_TICK = timedelta(microseconds=1)
BEGUN = (Outcome.RAN, Outcome.FAILED, Outcome.LOST)


@dataclass(frozen=True)
class Account:
    """What the ledger says of a task.

    Attributes:
        entries: Those of the schedule, the oldest first.
        by_slot: Each slot of the entries, rows of slots taken apart, with all that is said of it.
    """

    book: Book
    schedule: Schedule
    entries: list[Entry]
    by_slot: dict[datetime, list[Entry]] = field(default_factory=dict)

    def outcomes(self) -> dict[datetime, Outcome]:
        """What became of each slot; the account must be sound."""
        return {slot: entries[0].outcome for slot, entries in sorted(self.by_slot.items())}

    def with_outcome(self, *outcomes: Outcome) -> list[datetime]:
        return [slot for slot, outcome in self.outcomes().items() if outcome in outcomes]

    def later_than(self, moment: datetime) -> Account:
        """Of the entries that begin later than ``moment``."""
        return replace(
            self,
            entries=[entry for entry in self.entries if entry.slot > moment],
            by_slot={slot: said for slot, said in self.by_slot.items() if said[0].slot > moment},
        )

    def expected(self) -> list[datetime]:
        """The schedule's slots from where the account begins to its cursor."""
        assert self.book.known_since is not None
        assert self.book.cursor is not None
        assert self.book.latest is not None
        start = self.book.latest.since
        assert start <= first_cursor(self.schedule, self.book.known_since, CatchUp())
        return list(slots_between(self.schedule, start, self.book.cursor))

    def problems(self, *, stopped: datetime | None = None) -> list[str]:
        """Slots without an outcome, with several, or with none that is the last word.

        Args:
            stopped: From when on workers stopped: what waits for its turn then is the next one's.
        """
        task, expected = self.book.task, self.expected()
        found = [f"{task} {slot} has no outcome" for slot in expected if slot not in self.by_slot]
        found += [f"{task} {slot} is none of its slots" for slot in {*self.by_slot} - {*expected}]
        for slot, entries in self.by_slot.items():
            waits = entries[0].outcome is Outcome.WAITING
            left = waits and stopped is not None and slot > stopped
            if len(entries) != 1 or not (entries[0].outcome.final or left):
                found.append(f"{task} {slot}: {[entry.outcome.value for entry in entries]}")
        counted: Counter[str] = Counter()
        for entry in self.entries:
            counted[entry.outcome.value] += entry.count
        if all(entry.outcome.final for entry in self.entries) and counted != self.book.counts:
            found.append(f"{task}: entries {dict(counted)}, book {dict(self.book.counts)}")
        return found


def accounts(url: str, schedules: dict[str, Schedule]) -> dict[str, Account]:
    """What the store says of each of the tasks with these schedules."""
    with closing(open_store(url)) as store:
        books = store.read(list(schedules))
        found = {}
        for task, schedule in schedules.items():
            history = store.history(HistoryQuery(task=task, limit=EVERYTHING))
            entries = [e for e in reversed(history) if e.trigger is Trigger.SCHEDULE]
            account = Account(books[task], schedule, entries)
            for entry in entries:
                last = entry.slot if entry.last is None else entry.last
                slots = list(slots_between(schedule, entry.slot - ONE_TICK, last))
                assert len(slots) == entry.count, entry
                for slot in slots:
                    account.by_slot.setdefault(slot, []).append(entry)
            found[task] = account
        return found


def belied(account: Account, lines: Iterable[Line], *, unreliable: Sequence[str] = ()) -> list[str]:
    """Where the ledger's account of a task is not what its runs wrote down.

    Args:
        unreliable: Replicas that were killed, or lost their leases: what they ran to its end may
            be recorded as lost.
    """
    problems = []
    task = account.book.task
    ours = [line for line in lines if line.task == task and line.slot is not None]
    began = {line.slot: line for line in ours if line.what == "began"}
    ended = {line.slot: line for line in ours if line.what == "ended"}
    times = Counter(line.slot for line in ours if line.what == "began")
    problems += [f"{task} {slot} ran {n} times" for slot, n in times.items() if n > 1]
    entries = {slot: entries[0] for slot, entries in account.by_slot.items()}
    for slot, line in began.items():
        entry = entries.get(slot) if slot is not None else None
        if entry is None or entry.outcome not in BEGUN:
            problems.append(f"{task} {slot} ran, but the ledger says {entry}")
        elif (entry.run_id, entry.replica) != (line.run_id, line.replica):
            problems.append(f"{task} {slot} ran as {line}, but the ledger says {entry}")
        elif entry.outcome is Outcome.LOST and line.replica not in unreliable:
            problems.append(f"{task} {slot} is lost, but nothing happened to {line.replica}")
    for slot, entry in entries.items():
        if entry.outcome is Outcome.RAN and slot not in ended:
            problems.append(f"{task} {slot} ran by the ledger, but it wrote no end")
    for slot, line in ended.items():
        entry = entries.get(slot) if slot is not None else None
        if line.replica not in unreliable and (entry is None or entry.outcome is not Outcome.RAN):
            problems.append(f"{task} {slot} ended well, but the ledger says {entry}")
    return problems
