"""The versions of a task's schedule: which are in force, from when to when, and what each one owes.

A deploy that changes a schedule has workers of both schedules up at the same time. Each schedule is
a version in the task's book, and each has a cursor of its own:

* A version is in force while a session that has it holds its lease. Its first session adds it.
* It takes over from where the versions before it were in force last. If one of them still is, that
  is the moment from which the worker that adds it serves. So no time is without a version, and time
  without any worker belongs to the first version that comes back.
* A version that no session has any more is closed as soon as another one is in force. It owes an
  outcome to each slot up to then, and is removed once all of them have one.
* Each slot belongs to one version: a moment that two versions name is a slot of the first in the
  book. A version is removed only when those after it have passed the time in which it was in force.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.ledger.book import Book, ScheduleVersion, changed
from worker.ledger.draft import ONE_TICK, Draft, has_slot
from worker.schedules.catch_up import CatchUp
from worker.schedules.policies import TaskSchedule
from worker.schedules.schedule import Interval, Once, Schedule, Within, just_before
from worker.schedules.spec import schedule_from, spec_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime

    from worker.ledger.book import SessionId

__all__ = [
    "Owed",
    "enlist",
    "first_cursor",
    "new_version",
    "owed_by",
    "owner_of",
    "remove_finished",
    "replace_version",
    "served_until",
]


@dataclass(frozen=True, slots=True)
class Owed:
    """The slots of ``schedule`` up to ``end``, without those of the versions in ``before``.

    A `worker.schedules.schedule.Schedule`. It looks at each slot of the time in which versions were
    in force together, which is as long as a deploy takes.
    """

    schedule: Schedule
    end: datetime
    before: tuple[ScheduleVersion, ...] = ()

    def after(self, moment: datetime) -> datetime | None:
        slot = self.schedule.after(moment)
        while slot is not None and slot <= self.end and self._is_of_another(slot):
            slot = self.schedule.after(slot)
        return None if slot is None or slot > self.end else slot

    def until(self, moment: datetime) -> datetime | None:
        slot = self.schedule.until(min(moment, self.end))
        while slot is not None and self._is_of_another(slot):
            slot = self.schedule.until(just_before(slot))
        return slot

    def count(self, start: datetime, end: datetime) -> int:
        end = min(end, self.end)
        total = self.schedule.count(start, end)
        for place, version in enumerate(self.before):
            slot = self.schedule.after(max(start, version.since))
            last = end if version.until is None else min(end, version.until)
            while slot is not None and slot <= last:
                shared = not any(has_slot(one, slot) for one in self.before[:place])
                total -= shared and has_slot(version, slot)
                slot = self.schedule.after(slot)
        return total

    def _is_of_another(self, slot: datetime) -> bool:
        return any(has_slot(version, slot) for version in self.before)


def owed_by(
    book: Book,
    version: ScheduleVersion,
    schedule: Schedule,
    end: datetime,
    over: Collection[str] = (),
) -> Schedule:
    """The slots up to ``end`` that a version of the book owes an outcome to.

    Args:
        over: The specs whose ``max_runs`` is used up: they name no slot after their last run.
    """
    if version.until is None and version is book.versions[0]:
        return schedule
    place = book.versions.index(version)
    earlier = [
        changed(one, until=one.cursor) if one.spec in over else one for one in book.versions[:place]
    ]
    before = tuple(one for one in earlier if one.until is None or one.until > version.cursor)
    return Owed(schedule, end, before)


def owner_of(book: Book, slot: datetime, own: ScheduleVersion) -> ScheduleVersion:
    """The version that a slot of ``own`` belongs to."""
    place = book.versions.index(own)
    return next((one for one in book.versions[:place] if has_slot(one, slot)), own)


def replace_version(book: Book, old: ScheduleVersion, new: ScheduleVersion) -> Book:
    versions = tuple(new if one is old else one for one in book.versions)
    return changed(book, versions=versions)


def new_version(terms: TaskSchedule, since: datetime) -> ScheduleVersion:
    """A version of a task's schedule that owes each slot later than ``since``."""
    assert terms.schedule is not None
    return ScheduleVersion(
        spec=spec_of(terms.schedule),
        text=str(terms.schedule),
        since=since,
        cursor=since,
        jitter=terms.policies.jitter,
        max_runs=terms.policies.max_runs,
    )


def enlist(
    draft: Draft, terms: TaskSchedule, *, since: datetime | None, alone: Iterable[datetime] = ()
) -> ScheduleVersion:
    """Have the claimant's schedule in force, and close the versions that are not any more.

    Args:
        since: From when on the claimant serves the task.
        alone: Slots that the claimant ran while the store was down.

    Returns:
        The claimant's version.
    """
    assert terms.schedule is not None
    spec, session = spec_of(terms.schedule), draft.claimant.session
    own = draft.book.version_of(spec)
    known = own is not None and (session is None or session in own.sessions)
    if own is not None and known and (session is None or len(draft.book.versions) == 1):
        return own
    handover = None
    if session is not None:
        handover = close_unserved(draft, spec, known=known)
        own = draft.book.version_of(spec)
    if own is None:
        start = beginning(draft, terms, since, handover, alone)
        own = new_version(terms, start)
        book = draft.book
        known_since = book.known_since or draft.now
        draft.book = changed(book, versions=(*book.versions, own), known_since=known_since)
        known = False
    if session is None or known:
        return own
    living = [one for one in draft.sessions(own.sessions) if one.alive]
    joined = changed(
        own,
        sessions=tuple(sorted({*(one.session for one in living), session})),
        served=None if not own.sessions else max(served_until(draft, own)[1], own.cursor),
        jitter=terms.policies.jitter,
        max_runs=terms.policies.max_runs,
        text=str(terms.schedule),
    )
    draft.book = replace_version(draft.book, own, joined)
    return joined


def close_unserved(draft: Draft, spec: str, *, known: bool) -> datetime | None:
    """Close each version that is not in force, unless the claimant's goes on.

    Returns:
        Up to when versions were in force; ``None`` if there is no version.
    """
    session, versions = draft.claimant.session, draft.book.versions
    if not versions:
        return None
    if any(session in one.sessions and one.spec != spec for one in versions):
        versions = tuple(one if one.spec == spec else without(one, session) for one in versions)
        draft.book = changed(draft.book, versions=versions)
    found = [served_until(draft, version) for version in versions]
    if known:  # the claimant itself has it
        found = [
            (True, draft.now) if one.spec == spec and one.until is None else service
            for one, service in zip(versions, found, strict=True)
        ]
    anyone = any(alive for alive, _ in found)
    handover = max(end for _, end in found)
    closed = tuple(
        changed(version, until=end)
        if version.until is None
        and not alive
        and (anyone or version.spec != spec or end < handover)
        else version
        for version, (alive, end) in zip(versions, found, strict=True)
    )
    if closed != versions:
        draft.book = changed(draft.book, versions=closed)
    return handover


def without(version: ScheduleVersion, session: SessionId | None) -> ScheduleVersion:
    """The version without a session that has another schedule now."""
    left = tuple(one for one in version.sessions if one != session)
    return changed(version, sessions=left)


def served_until(draft: Draft, version: ScheduleVersion) -> tuple[bool, datetime]:
    """Whether a version is in force, and the latest moment at which it was."""
    if version.until is not None:
        return False, version.until
    sessions = draft.sessions(version.sessions)
    if any(one.alive for one in sessions):
        return True, draft.now
    ends = [version.cursor, *(one.until for one in sessions)]
    return False, max(ends if version.served is None else [*ends, version.served])


def beginning(
    draft: Draft,
    terms: TaskSchedule,
    since: datetime | None,
    handover: datetime | None,
    alone: Iterable[datetime],
) -> datetime:
    """Where a version begins that is not in the book."""
    assert terms.schedule is not None
    now, book = draft.now, draft.book
    starts = [
        first_cursor(terms.schedule, now, terms.policies.catch_up),
        *(one for one in (since, handover) if one is not None),
        *(slot - ONE_TICK for slot in alone),
    ]
    # What was accounted for under a schedule that cannot be made here is known by its cursor only.
    unknown = [one.cursor for one in book.versions if schedule_from(one.spec) is None]
    floors = unknown if book.settled is None else [book.settled, *unknown]
    return max([min(starts), *floors])


def remove_finished(draft: Draft, *, over: Collection[str]) -> None:
    """Remove the closed versions that owe nothing, once no later version can meet their slots.

    Args:
        over: The specs whose ``max_runs`` is used up: they account for nothing any more.
    """
    versions: Sequence[ScheduleVersion] = draft.book.versions
    if all(version.until is None for version in versions):
        return
    settled, kept = draft.book.settled, list(versions)
    for place, version in enumerate(versions):
        end = version.until
        later = [one for one in versions[place:] if one.spec not in over]
        if end is None or not all(has_passed(one, end) for one in later):
            continue
        kept.remove(version)
        draft.removed.append(version)
        settled = max(end, version.cursor, settled or end)
        kept = [
            changed(one, cursor=max(one.cursor, end)) if one.spec in over else one for one in kept
        ]
    if len(kept) < len(versions):
        draft.book = changed(draft.book, versions=tuple(kept), settled=settled)


def has_passed(version: ScheduleVersion, moment: datetime) -> bool:
    """Whether a version accounts for no slot up to ``moment`` any more."""
    schedule = schedule_from(version.spec)
    following = None if schedule is None else schedule.after(version.cursor)
    return following is None or following > moment


def first_cursor(schedule: Schedule, now: datetime, catch_up: CatchUp) -> datetime:
    """Where a schedule begins that is new to the ledger.

    An interval's latest slot runs at once, if it is not too late for it: who deploys a task that
    runs every hour does not mean to wait for an hour. A moment of the calendar that has passed is
    over, except for a one-off. No slot from before is `missed`: nobody had asked for it.
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
