"""How a schedule stands: the one judgement that lists, banner, `explain` and metrics share.

Reads books; decides nothing. What is wrong with a schedule is said in `worker.scheduling.concerns`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

from worker.schedules.schedule import delay_of, next_due

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from worker.ledger.book import Book
    from worker.scheduling.missed import Missed
    from worker.scheduling.scheduled_task import ScheduledTask

__all__ = ["Standing", "View", "upcoming", "view"]


OVERDUE = timedelta(minutes=1)
"""How long a slot may be due without a word of it: a worker that starts takes its time, too."""


class Standing(StrEnum):
    """How a schedule stands, in one word: what is wrong with it, else what it does."""

    OFF = "off"
    PAUSED = "paused"
    STALE = "stale"
    FAILING = "failing"
    OVERDUE = "overdue"
    """Its slot is due, and no worker has recorded anything of it."""
    MISSED = "missed"
    """Its latest slot was missed, or its run lost, and nothing has made that good."""
    RUNNING = "running"
    WAITING = "waiting"
    OVER = "over"
    """No slot is left: its end has passed, or ``max_runs`` is used up."""
    OK = "ok"
    NEW = "new"
    """The ledger has not seen it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A schedule at one moment.

    Attributes:
        slots: The next slots.
        due: When the first of them may start, its jitter included.
        stale_since: Since when the last success is older than ``max_age`` allows.
        overdue: The first slot that is due for longer than it should be without a word of it.
        missed: The latest slot, if it came to nothing and that was not made good.
        here: The schedule of this process, if the workers that are up have another one, which
            ``task`` has then.
    """

    task: ScheduledTask
    book: Book
    now: datetime
    standing: Standing
    slots: tuple[datetime, ...]
    due: datetime | None
    stale_since: datetime | None
    overdue: datetime | None = None
    missed: Missed | None = None
    here: str | None = None

    @property
    def name(self) -> str:
        return self.task.definition.name

    @property
    def failures(self) -> int:
        """How many runs in a row failed. A task without a schedule is not judged: its runs were
        asked for, each by somebody who sees what came of it."""
        return 0 if self.off else self.book.failures

    @property
    def off(self) -> bool:
        """Whether it has no schedule."""
        return self.task.terms.schedule is None

    @property
    def over(self) -> bool:
        """Whether it had a schedule, of which no slot is left."""
        return not self.off and not self.slots


def view(
    task: ScheduledTask,
    book: Book,
    *,
    now: datetime,
    slots: int = 3,
    missed: Missed | None = None,
) -> View:
    """How a task's schedule stands.

    Args:
        missed: As `worker.scheduling.missed` finds it in the history.
    """
    most = task.terms.policies.max_runs
    over = most is not None and book.runs_under(task.terms.schedule) >= most
    cursor = book.accounted_until(task.terms.schedule)
    start = now if cursor is None else max(now, cursor)
    nexts: tuple[datetime, ...] = ()
    due = None
    following = None if over else upcoming(task, book, start)
    if following is not None:
        first, due = following
        nexts = (first, *islice(slots_after(task, first), slots - 1))
    stale_since = stale(task, book, now)
    overdue = None if over else overdue_slot(task, book, now)
    return View(
        task=task,
        book=book,
        now=now,
        standing=standing(task, book, bool(nexts), stale_since, overdue, missed),
        slots=nexts,
        due=due,
        stale_since=stale_since,
        overdue=overdue,
        missed=missed,
    )


def upcoming(task: ScheduledTask, book: Book, moment: datetime) -> tuple[datetime, datetime] | None:
    """The first slot that may not start before ``moment``, and when it may.

    Jitter puts a slot's run off: after its slot it may be accounted for already, or not yet.
    """
    schedule, jitter = task.terms.schedule, task.terms.policies.jitter
    if schedule is None:
        return None
    cursor = book.accounted_until(schedule)
    found = next_due(schedule, task.terms.task, jitter, moment)
    if found is None or cursor is None or found[0] > cursor:
        return found
    slot = schedule.after(cursor)
    if slot is None:
        return None
    return slot, slot + delay_of(schedule, task.terms.task, jitter, slot)


def slots_after(task: ScheduledTask, moment: datetime) -> Iterator[datetime]:
    assert task.terms.schedule is not None
    slot = task.terms.schedule.after(moment)
    while slot is not None:
        yield slot
        slot = task.terms.schedule.after(slot)


def stale(task: ScheduledTask, book: Book, now: datetime) -> datetime | None:
    max_age = task.terms.policies.max_age
    since = book.last_success or book.known_since
    if max_age is None or since is None or now - since <= max_age:
        return None
    return since + max_age


def overdue_slot(task: ScheduledTask, book: Book, now: datetime) -> datetime | None:
    """The first slot that has been due for too long, and of which nothing is recorded."""
    cursor = book.accounted_until(task.terms.schedule)
    if cursor is None or book.pause is not None:
        return None
    due = upcoming(task, book, cursor)
    return due[0] if due is not None and due[1] < now - OVERDUE else None


def standing(
    task: ScheduledTask,
    book: Book,
    goes_on: bool,
    stale_since: datetime | None,
    overdue: datetime | None,
    missed: Missed | None,
) -> Standing:
    found = {
        Standing.OFF: task.terms.schedule is None and not book.running,
        Standing.PAUSED: book.pause is not None,
        Standing.STALE: stale_since is not None,
        Standing.FAILING: book.failures > 0 and task.terms.schedule is not None,
        Standing.OVERDUE: overdue is not None,
        Standing.MISSED: missed is not None,
        Standing.RUNNING: bool(book.running),
        Standing.WAITING: bool(book.waiting),
        Standing.OVER: not goes_on,
        Standing.NEW: book.version == 0,
        Standing.OK: True,
    }
    return next(state for state, holds in found.items() if holds)
