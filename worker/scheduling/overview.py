"""Why a task does not run now, or when it will.

Reads books and entries; decides nothing. How it stands is judged in `worker.scheduling.standing`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.durations import format_duration
from worker.ledger.attendance import lost_replicas, serving, takers
from worker.ledger.book import HistoryQuery, Outcome
from worker.model import Trigger
from worker.schedules.spec import spec_of
from worker.scheduling.concerns import concerns_of
from worker.scheduling.missed import find_missed
from worker.scheduling.moments import at
from worker.scheduling.preview_notes import short
from worker.scheduling.standing import upcoming, view

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from worker.ledger.book import Entry, Replica
    from worker.ports import LedgerStore
    from worker.scheduling.scheduled_task import ScheduledTask
    from worker.scheduling.standing import View

__all__ = ["Explanation", "explain"]

SILENT = timedelta(seconds=5)
"""How long a replica may be unseen before that is worth a word; it renews every two seconds."""
LATE = timedelta(seconds=10)
"""How long a due slot may be without an outcome before that is strange."""


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
    book = store.read([name])[name]
    seen = view(task, book, now=now, missed=find_missed(store, task, book))
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
        *([] if nobody or over else why_behind(seen, replicas)),
        *why_waiting(seen),
    ]
    wrong = what_is_wrong(seen)
    facts = [*reasons[1:], *who_was_lost(seen, replicas), *next_slot(seen)]
    facts += last_words(seen, last)
    if task.terms.schedule is not None:
        facts.append(f"its schedule is {task.terms.schedule}, said by {task.said_by}")
    facts += other_schedules(seen, replicas)
    if reasons and not (wrong and (seen.book.running or reasons[0] in why_waiting(seen))):
        facts += [] if wrong is None else [wrong]  # the reason is what makes it stale, too
        return Explanation(reasons[0], tuple(facts))
    verdict = reasons[0] if reasons else f"{name} has no slot"
    if not reasons and seen.due is not None:
        verdict = f"{'it' if wrong else name} runs next at {at(seen.due, now)}"
    return Explanation(verdict if wrong is None else f"{wrong}; {verdict}", tuple(facts))


def what_is_wrong(seen: View) -> str | None:
    """That a schedule does not do what it should; ``None`` if it does."""
    seen = replace(seen, overdue=None)  # that has reasons of its own
    return "; ".join(str(one) for one in concerns_of(seen) if one.severity != "info") or None


def why_running(seen: View, replicas: Sequence[Replica]) -> Iterator[str]:
    known = {replica.session: replica for replica in replicas}
    for entry in seen.book.running:
        asked = ", and was requested to end" if entry.cancel else ""
        yield (
            f"{seen.name} is running: on {entry.replica} since {at(entry.recorded_at, seen.now)}, "
            f"run {entry.run_id}{asked}"
        )
        limit = seen.task.definition.time_limit
        if limit is not None and (by := seen.now - entry.recorded_at - limit) > LATE:
            late = format_duration(timedelta(seconds=round(by.total_seconds())))
            yield (
                f"the run is {late} past its time limit of {format_duration(limit)}: its code does "
                f"not end, and {seen.name} is not free until it does; run.stuck in the log of "
                f"{entry.replica} shows where the code is"
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


def accounted_until(seen: View) -> datetime | None:
    return seen.book.accounted_until(seen.task.terms.schedule)


def other_schedules(seen: View, replicas: Sequence[Replica]) -> Iterator[str]:
    """The other versions of the schedule, while a deploy changes it."""
    names = {one.session: one.name for one in replicas if one.alive}
    schedule = seen.task.terms.schedule
    own = None if schedule is None else seen.book.version_of(spec_of(schedule))
    for version in seen.book.versions:
        if version is own:
            continue
        on = sorted({names[one] for one in version.sessions if one in names})
        if version.until is not None:
            yield (
                f"the schedule {version.text} ended at {at(version.until, seen.now)}, and some of "
                "its slots have no outcome yet: a worker that is up accounts for them"
            )
        elif on:
            yield (
                f"the schedule {version.text} is in force, too, on {', '.join(on)}: its slots run "
                "until no worker has it any more"
            )
        elif schedule is not None:
            yield (
                f"the schedule {version.text} was in force before: the first worker that has "
                "another one goes on from where it was accounted for"
            )


def why_over(seen: View) -> Iterator[str]:
    most = seen.task.terms.policies.max_runs
    runs = seen.book.runs_under(seen.task.terms.schedule)
    if most is not None and runs >= most:
        yield f"{seen.name} is over: {runs} runs of at most {most} are done"
        return
    schedule, cursor = seen.task.terms.schedule, accounted_until(seen)
    if schedule is not None and cursor is not None and schedule.after(cursor) is None:
        yield f"{seen.name} is over: its schedule has no slot any more"


def why_ahead(seen: View) -> Iterator[str]:
    cursor = accounted_until(seen)
    if seen.task.terms.schedule is not None and cursor is not None and cursor > seen.now + LATE:
        yield (
            f"slots are accounted for until {at(cursor, seen.now)}, which is to come: a worker's "
            f"clock was ahead, and no slot is run twice"
        )


def why_behind(seen: View, replicas: Sequence[Replica]) -> Iterator[str]:
    """A slot is due, and nobody has looked at it."""
    cursor = accounted_until(seen)
    if cursor is None:
        return
    due = upcoming(seen.task, seen.book, cursor)
    if due is None or due[1] >= seen.now - LATE or seen.book.pause is not None:
        return
    latest = max((one.seen for one in replicas if one.alive and one.works), default=seen.now)
    if seen.now - latest > SILENT:
        why = (
            f"those that are up have not renewed their leases since {at(latest, seen.now)}: they "
            "cannot write to the ledger (is its disk full? see store.unavailable in their log), or "
            "have just died"
        )
    else:
        why = "do those that are up have the task, do their loops turn?"
    yield f"the slot of {at(due[0], seen.now)} is due, and no worker has looked at it: {why}"


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
