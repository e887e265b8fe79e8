"""The rules of the ledger: what becomes of a slot, and what follows from it.

They stand here once, whatever the store. `worker.ledger.ledger` says who asks for what.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from worker.ledger.book import Entry, Outcome, Pause, changed
from worker.ledger.draft import ONE_TICK, Draft
from worker.model import Trigger
from worker.schedules.catch_up import CatchUp, Span
from worker.schedules.policies import Overlap, Policies, TaskSchedule
from worker.schedules.schedule import Interval, Once, Schedule, Within, delay_of, due_until

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "account",
    "admit",
    "cancel_running",
    "count_failure",
    "ended",
    "first_cursor",
    "is_begun_by_hand",
    "promote",
    "settle_orphans",
    "wait_again",
]


def settle_orphans(draft: Draft, policies: Policies) -> None:
    """Say what becomes of runs whose replica died: lost, or to be run again."""
    for entry in draft.unheard:
        if is_begun_by_hand(entry):
            error = "the store's answer was lost, so it never began"  # as whoever asked was told
            ended(draft, changed(entry, outcome=Outcome.LOST, error=error))
        else:
            wait_again(draft, entry)
    for entry in draft.orphans:
        if entry.losses < policies.retry_lost and not is_begun_by_hand(entry):
            wait_again(draft, changed(entry, losses=entry.losses + 1))
        else:
            error = f"replica {entry.replica} lost its lease while it ran"
            ended(draft, changed(entry, outcome=Outcome.LOST, alive=True, error=error))


def is_begun_by_hand(entry: Entry) -> bool:
    """Whether someone began the run, waits for it, and will see that it came to nothing."""
    return entry.trigger is Trigger.MANUAL and entry.overlap is None


def wait_again(draft: Draft, entry: Entry) -> None:
    """Have a run that came to nothing wait for its turn, wherever that is."""
    draft.put(changed(entry, outcome=Outcome.WAITING, alive=True, session=None, cancel=False))


def ended(draft: Draft, entry: Entry, at: datetime | None = None) -> None:
    """Record the last word on a run, and what follows from it for its schedule."""
    draft.put(entry, at)
    book, at = draft.book, at or draft.now
    succeeded = entry.outcome is Outcome.RAN
    draft.book = changed(
        book,
        last_outcome=entry.outcome,
        last_ended=at,
        last_error=None if succeeded else entry.error,
        last_success=at if succeeded else book.last_success,
        failures=0 if succeeded else book.failures,
    )


def count_failure(draft: Draft, policies: Policies, error: str | None) -> None:
    """Pause a schedule that failed too often in a row."""
    failures = draft.book.failures + 1
    pause = draft.book.pause
    limit = policies.pause_after_failures
    if pause is None and limit is not None and failures >= limit:
        note = f"{failures} failures in a row, the last: {error}"
        pause = Pause(draft.now, "pause_after_failures", note)
    draft.book = changed(draft.book, failures=failures, pause=pause)


def admit(draft: Draft, entry: Entry, policies: Policies) -> None:
    """Decide about a slot that is due, by its task's overlap policy."""
    overlap = policies.overlap
    waiting = draft.waiting
    if overlap is Overlap.ALLOW_ALL or not (draft.running or waiting):
        draft.grant(entry)
        return
    if overlap is Overlap.CANCEL_OTHER:
        for other in waiting:
            if other.trigger is Trigger.SCHEDULE:
                draft.put(changed(other, outcome=Outcome.SKIPPED_OVERLAP))
        cancel_running(draft)
    room = {
        Overlap.SKIP: 0,
        Overlap.BUFFER_ONE: 1,
        Overlap.BUFFER_ALL: policies.buffer_limit,
        Overlap.CANCEL_OTHER: 1,
    }[overlap]
    waits = sum(other.trigger is Trigger.SCHEDULE for other in draft.waiting) < room
    draft.put(changed(entry, outcome=Outcome.WAITING if waits else Outcome.SKIPPED_OVERLAP))


def cancel_running(draft: Draft) -> None:
    for other in draft.running:
        if not other.cancel:
            draft.put(changed(other, cancel=True))


def promote(draft: Draft, policies: Policies) -> None:
    """Grant what waits and whose turn has come, the oldest first."""
    running = draft.running
    for entry in draft.waiting:
        overlap = Overlap(entry.overlap) if entry.overlap else policies.overlap
        in_the_way = running
        if overlap is Overlap.ALLOW_ALL:
            # Of the schedule, only what is made good waits: for its elders, one after the other.
            in_the_way = [] if entry.overlap else [e for e in running if e.slot < entry.slot]
        if draft.book.pause is not None and entry.trigger is Trigger.SCHEDULE:
            draft.put(changed(entry, outcome=Outcome.PAUSED))
        elif not in_the_way:
            running.append(draft.grant(entry))
        elif entry.overlap and overlap is Overlap.SKIP:
            draft.put(changed(entry, outcome=Outcome.SKIPPED_OVERLAP))
        elif entry.overlap and overlap is Overlap.CANCEL_OTHER:
            cancel_running(draft)


def account(
    draft: Draft,
    terms: TaskSchedule,
    *,
    seen: datetime | None = None,
    unrecorded: Sequence[Entry] = (),
) -> None:
    """Move the book's cursor over all slots that are due.

    Args:
        seen: Up to where the claimant knew the slots to be accounted for.
        unrecorded: What it did while the store was down: last words.
    """
    schedule, policies, book, now = terms.schedule, terms.policies, draft.book, draft.now
    if schedule is None:
        return
    described, cursor = str(schedule), book.cursor
    if cursor is None or book.schedule != described:
        start = first_cursor(schedule, now, policies.catch_up)
        alone = [e.slot - ONE_TICK for e in unrecorded if e.trigger is Trigger.SCHEDULE]
        # What passed under another schedule cannot be told by this one.
        cursor = min([start, *alone]) if cursor is None else max(cursor, min([start, *alone]))
        book = changed(book, schedule=described, known_since=book.known_since or now)
    draft.book = changed(book, cursor=cursor)
    horizon = due_until(schedule, terms.task, policies.jitter, now)
    if horizon is None:
        return
    if seen is not None and seen < cursor:
        draft.elsewhere = schedule.count(seen, min(cursor, horizon))
    for done in sorted(unrecorded, key=lambda entry: entry.slot):
        cursor = record_late(draft, done, policies, schedule, cursor)
    runs_left = runs_left_of(draft, policies)
    if horizon <= cursor or runs_left == 0:
        draft.book = changed(draft.book, cursor=cursor)
        return
    pause = draft.book.pause
    if pause is not None:
        before = due_until(schedule, terms.task, policies.jitter, min(pause.at, now)) or cursor
        draft.record(span_between(schedule, cursor, before), Outcome.MISSED)
        paused = span_between(schedule, max(cursor, before), horizon)
        draft.record(paused, Outcome.PAUSED)
        draft.book = changed(draft.book, cursor=horizon)
        return
    # A slot that jitter puts off is not late for that.
    put_off = delay_of(schedule, terms.task, policies.jitter, horizon)
    plan = policies.catch_up.plan(schedule, since=cursor, until=horizon, now=now - put_off)
    due = plan.run[:runs_left]
    for span in plan.missed:
        draft.record(span, Outcome.MISSED, why_missed(span, plan.run))
    # The slot that uses up the last run is the schedule's last: none later is accounted for.
    cursor = horizon if len(due) == len(plan.run) else due[-1]
    draft.book = changed(draft.book, cursor=cursor)
    for number, slot in enumerate(due):
        entry = Entry(task=terms.task, slot=slot, outcome=Outcome.WAITING, recorded_at=now)
        if number == 0:
            admit(draft, entry, policies)
        else:  # made good one after the other, whatever the policy for slots in their own time
            draft.put(entry)


def why_missed(span: Span, run: Sequence[datetime]) -> str:
    """For whoever reads the history."""
    made_good = next((slot for slot in run if slot > span.last), None)
    if made_good is None:
        return "no worker looked at it within its catch-up window"
    return f"no worker looked at it in time; the slot of {made_good:%H:%M:%S}Z ran instead"


def runs_left_of(draft: Draft, policies: Policies) -> int | None:
    """How many more slots may become runs; ``None`` for any number."""
    if policies.max_runs is None:
        return None
    spoken_for = [e for e in draft.waiting if e.trigger is Trigger.SCHEDULE and e.run_id is None]
    return max(0, policies.max_runs - draft.runs - len(spoken_for))


def record_late(
    draft: Draft, done: Entry, policies: Policies, schedule: Schedule, cursor: datetime
) -> datetime:
    """Record what became of a slot while the store was down, unless others dealt with it.

    Returns:
        Up to where the slots are accounted for now.
    """
    own_time = done.trigger is Trigger.SCHEDULE and done.slot > cursor
    if not own_time and all(entry.key != done.key for entry in draft.waiting):
        return cursor
    if own_time:
        missed = span_between(schedule, cursor, done.slot - ONE_TICK)
        draft.record(missed, Outcome.MISSED)
        cursor = done.last or done.slot
    if done.outcome not in (Outcome.RAN, Outcome.FAILED, Outcome.LOST):
        draft.put(done, done.recorded_at)
        return cursor
    if done.trigger is Trigger.SCHEDULE:
        draft.count_run()
    ended(draft, done, done.recorded_at)
    if done.outcome is Outcome.FAILED and not done.cancel:
        count_failure(draft, policies, done.error)
    return cursor


def first_cursor(schedule: Schedule, now: datetime, catch_up: CatchUp) -> datetime:
    """Where the account of a schedule begins that the ledger has never seen.

    An interval's latest slot is run at once, if it is not too late for it: who deploys a task that
    runs every hour does not mean to wait for an hour. A moment of the calendar that has passed is
    over, but for a one-off. No slot from before is `missed`: nobody had asked for it.
    """
    inner = schedule
    while isinstance(inner, Within):
        inner = inner.schedule
    if isinstance(inner, Once):
        return min(inner.at, now) - ONE_TICK
    latest = schedule.until(now) if isinstance(inner, Interval) else None
    if latest is None or not catch_up.plan(schedule, since=latest - ONE_TICK, now=now).run:
        return now
    return latest - ONE_TICK


def span_between(schedule: Schedule, start: datetime, end: datetime) -> Span | None:
    """The slots in (start, end], if there are any."""
    count = schedule.count(start, end) if start < end else 0
    if not count:
        return None
    first, last = schedule.after(start), schedule.until(end)
    assert first is not None
    assert last is not None
    return Span(first, last, count)
