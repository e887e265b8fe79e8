"""What is known of each schedule, for people and machines to see: state, history, and why not.

Reads books and entries; decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

from worker.durations import format_duration
from worker.ledger.attendance import lost_replicas, serving, takers
from worker.ledger.book import Book, Entry, HistoryQuery, Outcome, Replica
from worker.model import Trigger
from worker.schedules.schedule import delay_of, next_due
from worker.scheduling.preview_notes import short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from worker.ports import LedgerStore
    from worker.scheduling.scheduled_task import ScheduledTask

__all__ = ["Explanation", "Standing", "View", "explain", "view"]

SILENT = timedelta(seconds=5)
"""How long a replica may be unseen before that is worth a word; it renews every two seconds."""
LATE = timedelta(seconds=10)
"""How long a due slot may be without an outcome before that is strange."""


class Standing(StrEnum):
    """How a schedule stands, in one word."""

    OFF = "off"
    PAUSED = "paused"
    RUNNING = "running"
    WAITING = "waiting"
    STALE = "stale"
    FAILING = "failing"
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
    """

    task: ScheduledTask
    book: Book
    now: datetime
    standing: Standing
    slots: tuple[datetime, ...]
    due: datetime | None
    stale_since: datetime | None

    @property
    def name(self) -> str:
        return self.task.definition.name

    @property
    def failures(self) -> int:
        """How many runs in a row failed. A task without a schedule is not judged: its runs were
        asked for, each by somebody who sees what came of it."""
        return 0 if self.task.terms.schedule is None else self.book.failures


KINDS = {
    Trigger.SCHEDULE: "slot",
    Trigger.MANUAL: "run by hand",
    Trigger.BACKFILL: "slot to be made good by hand",
}
BECAME: dict[str, str] = {
    Outcome.WAITING: "waits",
    Outcome.RUNNING: "runs",
    Outcome.RAN: "ran",
    Outcome.FAILED: "failed",
    Outcome.SKIPPED_OVERLAP: "was skipped, since another run went on",
    Outcome.MISSED: "was missed",
    Outcome.PAUSED: "was left out, as it was paused",
    Outcome.LOST: "was lost",
}


def view(task: ScheduledTask, book: Book, *, now: datetime, slots: int = 3) -> View:
    """How a task's schedule stands."""
    policies = task.terms.policies
    over = policies.max_runs is not None and book.runs >= policies.max_runs
    start = now if book.cursor is None else max(now, book.cursor)
    nexts: tuple[datetime, ...] = ()
    due = None
    following = None if over else upcoming(task, book, start)
    if following is not None:
        first, due = following
        nexts = (first, *islice(slots_after(task, first), slots - 1))
    stale_since = stale(task, book, now)
    return View(
        task=task,
        book=book,
        now=now,
        standing=standing(task, book, bool(nexts), stale_since),
        slots=nexts,
        due=due,
        stale_since=stale_since,
    )


def upcoming(task: ScheduledTask, book: Book, moment: datetime) -> tuple[datetime, datetime] | None:
    """The first slot that may not start before ``moment``, and when it may.

    Jitter puts a slot's run off: after its slot it may be accounted for already, or not yet.
    """
    schedule, jitter = task.terms.schedule, task.terms.policies.jitter
    if schedule is None:
        return None
    found = next_due(schedule, task.terms.task, jitter, moment)
    if found is None or book.cursor is None or found[0] > book.cursor:
        return found
    slot = schedule.after(book.cursor)
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


def standing(
    task: ScheduledTask, book: Book, goes_on: bool, stale_since: datetime | None
) -> Standing:
    found = {
        Standing.RUNNING: bool(book.running),
        Standing.OFF: task.terms.schedule is None,
        Standing.PAUSED: book.pause is not None,
        Standing.STALE: stale_since is not None,
        Standing.FAILING: book.failures > 0,
        Standing.WAITING: bool(book.waiting),
        Standing.OVER: not goes_on,
        Standing.NEW: book.version == 0,
        Standing.OK: True,
    }
    return next(state for state, holds in found.items() if holds)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task does not run now, or when it will.

    Attributes:
        verdict: The reason that counts, in one sentence.
        facts: What else is known, one sentence each.
    """

    verdict: str
    facts: tuple[str, ...] = field(default=())


def explain(task: ScheduledTask, store: LedgerStore, *, now: datetime) -> Explanation:
    """Why ``task`` does not run now, or when it will.

    Raises:
        StoreUnavailable: The ledger cannot be read.
    """
    name = task.definition.name
    seen = view(task, store.read([name])[name], now=now)
    replicas = store.replicas()
    last = store.history(HistoryQuery(task=name, limit=1))
    nobody = [*why_nobody(seen, replicas)]
    over = [*why_over(seen)]
    reasons = [
        *why_running(seen, replicas),
        *why_off(seen),
        *why_paused(seen),
        *over,
        *([] if over and not seen.book.waiting else nobody),
        *why_ahead(seen),
        *([] if nobody or over else why_behind(seen)),
        *why_waiting(seen),
    ]
    wrong = what_is_wrong(seen)
    facts = [*reasons[1:], *who_was_lost(seen, replicas), *next_slot(seen)]
    facts += last_words(seen, last)
    if task.terms.schedule is not None:
        facts.append(f"its schedule is {task.terms.schedule}, said by {task.said_by}")
    if reasons and not (wrong and (seen.book.running or reasons[0] in why_waiting(seen))):
        facts += [] if wrong is None else [wrong]  # the reason is what makes it stale, too
        return Explanation(reasons[0], tuple(facts))
    verdict = reasons[0] if reasons else f"{name} has no slot"
    if not reasons and seen.due is not None:
        verdict = f"{'it' if wrong else name} runs next at {at(seen.due, now)}"
    return Explanation(verdict if wrong is None else f"{wrong}; {verdict}", tuple(facts))


def what_is_wrong(seen: View) -> str | None:
    """That a schedule does not do what it should; ``None`` if it does."""
    book, max_age = seen.book, seen.task.terms.policies.max_age
    found = []
    if seen.stale_since is not None and max_age is not None:
        found.append(
            f"is stale since {at(seen.stale_since, seen.now)} (a success is due every "
            f"{format_duration(max_age)})"
        )
    if seen.failures:
        many = f"its last {seen.failures} runs failed, the last with"
        error = "an error that is not recorded" if book.last_error is None else book.last_error
        found.append(f"fails: {'its last run failed with' if seen.failures == 1 else many} {error}")
    return f"{seen.name} {' and '.join(found)}" if found else None


def why_running(seen: View, replicas: Sequence[Replica]) -> Iterator[str]:
    known = {replica.session: replica for replica in replicas}
    for entry in seen.book.running:
        asked = ", and was asked to end" if entry.cancel else ""
        yield (
            f"{seen.name} is running: on {entry.replica} since {at(entry.recorded_at, seen.now)}, "
            f"run {entry.run_id}{asked}"
        )
        replica = known.get(entry.session) if entry.session is not None else None
        if replica is not None and seen.now - replica.seen > SILENT:
            yield (
                f"{replica.name} was seen last at {at(replica.seen, seen.now)}: if it is dead, its "
                f"run counts as lost once its lease has run out"
            )


def why_off(seen: View) -> Iterator[str]:
    if seen.task.terms.schedule is None and seen.task.definition.options is not None:
        yield (
            f"{seen.name} has no schedule: it runs when somebody asks for it, through the queue "
            f"{seen.task.definition.options.queue}; `worker jobs list --task {seen.name}` shows "
            "its jobs"
        )
    elif seen.task.terms.schedule is None:
        yield (
            f"{seen.name} is off: {seen.task.said_by} says so; it only runs by hand, "
            f"`worker run {seen.name}`"
        )


def why_paused(seen: View) -> Iterator[str]:
    pause = seen.book.pause
    if pause is not None:
        note = f": {pause.note}" if pause.note else ""
        yield (
            f"{seen.name} is paused since {at(pause.at, seen.now)} by {pause.by}{note}; "
            f"`worker schedule resume {seen.name}` ends that"
        )


def why_nobody(seen: View, replicas: Sequence[Replica]) -> Iterator[str]:
    wanted = seen.task.terms.schedule is not None or seen.book.waiting
    if not wanted or takers(replicas, seen.name):
        return
    if up := serving(replicas):
        yield (
            f"no worker that is up takes slots of {seen.name}: {', '.join(up)} do other work only "
            "(--no-schedules, --only)"
        )
        return
    workers = [replica for replica in replicas if replica.works]
    if not workers:
        yield "no worker has ever used this ledger: nothing runs before `worker start`"
    else:
        latest = max(workers, key=lambda replica: replica.seen)
        yield (
            f"no worker is up, or none can write to the ledger: {latest.name} was seen last, at "
            f"{at(latest.seen, seen.now)}"
        )


def who_was_lost(seen: View, replicas: Sequence[Replica]) -> Iterator[str]:
    """The replicas that served the task, and were lost lately."""
    options = seen.task.definition.options
    for lost in lost_replicas(replicas, seen.now):
        served = lost.presence
        if served.takes(seen.name) or (options and served.polls(options.queue, seen.name)):
            yield f"{lost.what}: {lost.why}"


def why_over(seen: View) -> Iterator[str]:
    policies = seen.task.terms.policies
    if policies.max_runs is not None and seen.book.runs >= policies.max_runs:
        yield f"{seen.name} is over: {seen.book.runs} runs of at most {policies.max_runs} are done"
        return
    schedule, cursor = seen.task.terms.schedule, seen.book.cursor
    if schedule is not None and cursor is not None and schedule.after(cursor) is None:
        yield f"{seen.name} is over: its schedule has no slot any more"


def why_ahead(seen: View) -> Iterator[str]:
    cursor = seen.book.cursor
    if seen.task.terms.schedule is not None and cursor is not None and cursor > seen.now + LATE:
        yield (
            f"slots are accounted for until {at(cursor, seen.now)}, which is to come: a worker's "
            f"clock was ahead, and no slot is run twice"
        )


def why_behind(seen: View) -> Iterator[str]:
    """A slot is due, and nobody has looked at it."""
    cursor = seen.book.cursor
    if cursor is None:
        return
    due = upcoming(seen.task, seen.book, cursor)
    if due is not None and due[1] < seen.now - LATE and seen.book.pause is None:
        yield (
            f"the slot of {at(due[0], seen.now)} is due, and no worker has looked at it: do those "
            f"that are up have the task, do their loops turn?"
        )


def why_waiting(seen: View) -> Iterator[str]:
    if seen.book.waiting:
        first = seen.book.waiting[0]
        count = len(seen.book.waiting)
        many = "1 slot waits for its turn" if count == 1 else f"{count} slots wait for their turn"
        yield f"{many}, the first of {at(first.slot, seen.now)}"


def next_slot(seen: View) -> Iterator[str]:
    if not seen.slots:
        return
    if seen.book.pause is not None:
        yield (
            f"its next slot would be {at(seen.slots[0], seen.now)}, and is recorded as paused "
            "unless it is resumed before"
        )
        return
    text = f"its next slot is {at(seen.slots[0], seen.now)}"
    if seen.due is not None and seen.due != seen.slots[0]:
        text += f", and starts {short(seen.due - seen.slots[0])} later for its jitter"
    yield text


def last_words(seen: View, last: Sequence[Entry]) -> Iterator[str]:
    book = seen.book
    if book.version == 0 and seen.task.terms.schedule is not None:
        yield "the ledger has not seen it yet"
    for entry in last:
        if entry.outcome.final:
            more = f", as were the {entry.count - 1} after it" if entry.count > 1 else ""
            error = f": {entry.error}" if entry.error else ""
            became = BECAME[entry.outcome]
            what = KINDS[entry.trigger]
            yield f"its latest {what}, of {at(entry.slot, seen.now)}, {became}{more}{error}"
    if book.last_error is not None and not (last and last[0].error == book.last_error):
        became = BECAME[book.last_outcome] if book.last_outcome else "ended"
        yield f"its last run {became}: {book.last_error}"
    if book.last_success is not None:
        yield f"its last success was at {at(book.last_success, seen.now)}"


def at(moment: datetime, now: datetime) -> str:
    """A moment, and how far it is: ``2026-11-21 09:30:00Z (in 5m)``."""
    distance = timedelta(seconds=round(abs(moment - now).total_seconds()))
    if distance > timedelta(hours=1):
        distance = timedelta(minutes=round(distance / timedelta(minutes=1)))
    far = format_duration(distance) if distance else "0s"
    told = f"in {far}" if moment > now else f"{far} ago"
    return f"{moment:%Y-%m-%d %H:%M:%S}Z ({told})"
