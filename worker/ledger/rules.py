"""The rules of the ledger: what becomes of a slot, and what follows from it.

They stand here once, whatever the store. `worker.ledger.ledger` says who asks for what.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from worker.ledger.book import Entry, Outcome, Pause, ScheduleVersion, changed
from worker.ledger.draft import ONE_TICK, Draft
from worker.ledger.versions import (
    enlist,
    owed_by,
    owner_of,
    remove_finished,
    replace_version,
    served_until,
)
from worker.model import Trigger
from worker.schedules.catch_up import Span
from worker.schedules.policies import Overlap, Policies, TaskSchedule
from worker.schedules.schedule import Schedule, delay_of, due_until
from worker.schedules.spec import schedule_from, spec_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = [
    "account",
    "account_paused",
    "admit",
    "cancel_running",
    "count_failure",
    "ended",
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
    since: datetime | None = None,
    seen: datetime | None = None,
    unrecorded: Sequence[Entry] = (),
) -> None:
    """Account for every slot that is due of every version of the schedule that is in force.

    Without the store, for the claimant's own version only: the others are not known.

    Args:
        since: From when on the claimant serves the task.
        seen: Up to where the claimant knew the slots of its schedule to be accounted for.
        unrecorded: What it did while the store was down: final outcomes.
    """
    if terms.schedule is None:
        return
    began = max((one for one in (since, seen) if one is not None), default=None)
    alone = [entry.slot for entry in unrecorded if entry.trigger is Trigger.SCHEDULE]
    own = enlist(draft, terms, since=began, alone=alone)
    note_elsewhere(draft, terms, own, seen)
    for done in sorted(unrecorded, key=lambda entry: entry.slot):
        record_late(draft, done, terms, own.spec)
    offline = draft.claimant.session is None
    versions = [v for v in draft.book.versions if not offline or v.spec == own.spec]
    account_for(draft, terms, versions, own.spec, offline=offline)


def account_paused(draft: Draft, terms: TaskSchedule) -> None:
    """Account for what passed under a pause, whether ``terms`` are those of the workers or not."""
    own = "" if terms.schedule is None else spec_of(terms.schedule)
    if draft.book.version_of(own) is None:  # then its policies are not those of the workers either
        terms = TaskSchedule(terms.task, terms.schedule)
    account_for(draft, terms, draft.book.versions, own, offline=False)


def account_for(
    draft: Draft,
    terms: TaskSchedule,
    versions: Sequence[ScheduleVersion],
    own: str,
    *,
    offline: bool,
) -> None:
    """Account for what is due of these versions, and claim what is to run.

    Args:
        own: The version that ``terms`` are of.
    """
    several = len(draft.book.versions) > 1
    before = draft.book
    due: list[datetime] = []
    claimed: Counter[str] = Counter()
    over: set[str] = set()
    for version in versions:
        spec, is_own = version.spec, version.spec == own
        base = terms.schedule if is_own else schedule_from(spec)
        jitter = terms.policies.jitter if is_own else version.jitter
        most = terms.policies.max_runs if is_own else version.max_runs
        left = runs_left_of(draft, spec, most, claimed[spec])
        if base is not None and left != 0:
            run = account_version(draft, terms, version, base, jitter, left, over, offline=offline)
            claimed[spec] += len(run)
            due += run
            left = None if left is None else left - len(run)
        if left == 0:
            over.add(spec)
    if several:
        remove_finished(draft, over=over)
        if draft.book != before:
            note_served(draft)
    for number, slot in enumerate(sorted(due)):
        entry = Entry(task=terms.task, slot=slot, outcome=Outcome.WAITING, recorded_at=draft.now)
        if number == 0:
            admit(draft, entry, terms.policies)
        else:  # made good one after the other, whatever the policy for slots in their own time
            draft.put(entry)


def account_version(
    draft: Draft,
    terms: TaskSchedule,
    version: ScheduleVersion,
    base: Schedule,
    jitter: timedelta,
    runs_left: int | None,
    over: Collection[str],
    *,
    offline: bool,
) -> Sequence[datetime]:
    """Move a version's cursor over the slots that are due.

    Args:
        base: The version's schedule.
        runs_left: How many of its slots may run; ``None`` for any number.
        over: The versions before it whose ``max_runs`` is used up.
        offline: The store is down: the other versions do not count.

    Returns:
        Those that are to run.
    """
    policies, now = terms.policies, draft.now
    horizon = due_until(base, terms.task, jitter, now)
    if horizon is None:
        return ()
    if version.until is not None:
        horizon = min(horizon, version.until)
    cursor = version.cursor
    if horizon <= cursor:
        return ()
    schedule = base if offline else owed_by(draft.book, version, base, horizon, over)
    pause = draft.book.pause
    run: Sequence[datetime] = ()
    if pause is not None:
        before = due_until(base, terms.task, jitter, min(pause.at, now)) or cursor
        before = min(before, horizon)
        draft.record(span_between(schedule, cursor, before), Outcome.MISSED)
        draft.record(span_between(schedule, max(cursor, before), horizon), Outcome.PAUSED)
    else:
        # A slot that jitter puts off is not late for that.
        put_off = delay_of(base, terms.task, jitter, base.until(horizon) or horizon)
        plan = policies.catch_up.plan(schedule, since=cursor, until=horizon, now=now - put_off)
        run = plan.run[:runs_left]
        for span in plan.missed:
            draft.record(span, Outcome.MISSED, why_missed(span, plan.run))
        # The slot that uses up the last run is the schedule's last: none later is accounted for.
        horizon = horizon if len(run) == len(plan.run) else run[-1]
    draft.book = replace_version(draft.book, version, changed(version, cursor=horizon))
    return run


def note_elsewhere(
    draft: Draft, terms: TaskSchedule, own: ScheduleVersion, seen: datetime | None
) -> None:
    """Count the slots of the claimant's schedule that others have dealt with."""
    assert terms.schedule is not None
    if seen is None or seen >= own.cursor:
        return
    horizon = due_until(terms.schedule, terms.task, terms.policies.jitter, draft.now)
    if horizon is not None:
        draft.elsewhere = terms.schedule.count(seen, min(own.cursor, horizon))


def note_served(draft: Draft) -> None:
    """Keep that the versions in force are so now, for the time when their sessions are pruned."""
    versions = tuple(
        changed(version, served=draft.now) if served_until(draft, version)[0] else version
        for version in draft.book.versions
    )
    draft.book = changed(draft.book, versions=versions)


def why_missed(span: Span, run: Sequence[datetime]) -> str:
    """For whoever reads the history."""
    made_good = next((slot for slot in run if slot > span.last), None)
    if made_good is None:
        return "no worker looked at it within its catch-up window"
    return f"no worker looked at it in time; the slot of {made_good:%H:%M:%S}Z ran instead"


def runs_left_of(draft: Draft, spec: str, most: int | None, claimed: int = 0) -> int | None:
    """How many more slots of a schedule may become runs, besides those that are claimed or wait.

    Args:
        most: Its ``max_runs``.
        claimed: How many slots of it are to run of which the draft does not know yet.

    Returns:
        ``None`` for any number.
    """
    if most is None:
        return None
    waiting = [e for e in draft.waiting if e.trigger is Trigger.SCHEDULE and e.run_id is None]
    spoken_for = sum(draft.spec_at(entry.slot) == spec for entry in waiting)
    return max(0, most - draft.book.runs_of.get(spec, 0) - spoken_for - claimed)


def record_late(draft: Draft, done: Entry, terms: TaskSchedule, spec: str) -> None:
    """Record the outcome of a slot while the store was down, unless others dealt with it.

    Args:
        spec: The claimant's version.
    """
    own = draft.book.version_of(spec)
    assert own is not None
    owner = owner_of(draft.book, done.slot, own)
    own_time = done.trigger is Trigger.SCHEDULE and done.slot > owner.cursor
    if not own_time and all(entry.key != done.key for entry in draft.waiting):
        return
    if own_time:
        base = terms.schedule if owner is own else schedule_from(owner.spec)
        assert base is not None
        schedule = owed_by(draft.book, owner, base, done.last or done.slot)
        missed = span_between(schedule, owner.cursor, done.slot - ONE_TICK)
        draft.record(missed, Outcome.MISSED)
        moved = changed(owner, cursor=done.last or done.slot)
        draft.book = replace_version(draft.book, owner, moved)
    if done.outcome not in (Outcome.RAN, Outcome.FAILED, Outcome.LOST):
        draft.put(done, done.recorded_at)
        return
    if done.trigger is Trigger.SCHEDULE:
        draft.count_run(done.slot)
    ended(draft, done, done.recorded_at)
    if done.outcome is Outcome.FAILED and not done.cancel:
        count_failure(draft, terms.policies, done.error)


def span_between(schedule: Schedule, start: datetime, end: datetime) -> Span | None:
    """The slots in (start, end], if there are any."""
    count = schedule.count(start, end) if start < end else 0
    if not count:
        return None
    first, last = schedule.after(start), schedule.until(end)
    assert first is not None
    assert last is not None
    return Span(first, last, count)
