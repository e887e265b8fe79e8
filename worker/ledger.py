"""The rules of the ledger: what is decided about a slot, by whom, and what is recorded of it.

Each request is decided over one task's `Book` as the store has it, purely: the outcome is a new
book and the entries that go with it. The store writes them only if nobody changed the book
meanwhile; otherwise the request is decided again. So the rules stand here once, whatever the store,
and of several replicas exactly one has its way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from worker.book import Book, Change, Entry, EntryKey, Outcome, Pause, SessionId, Written
from worker.catch_up import Plan, Span
from worker.errors import LeaseLost, StoreError, StoreUnavailable, WorkerError
from worker.model import Trigger, new_run_id
from worker.policies import Overlap, Policies, TaskSchedule
from worker.schedule import Interval, Once, Schedule, Within, due_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.ports import LedgerStore

__all__ = [
    "Answer",
    "Ask",
    "Attend",
    "Begin",
    "Claimant",
    "Finish",
    "PauseSchedule",
    "Promote",
    "Request",
    "ResumeSchedule",
    "SettleOrphans",
    "apply",
    "decide",
]

ROUNDS = 100
"""How often a request is decided anew because others were quicker, before it is given up."""
ONE_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Claimant:
    """The replica in whose name a request is made.

    Attributes:
        session: Its session, if it has one.
        runs: The ids of all that this session was granted, and knows of. `apply` adds to it. With
            ``None``, whatever runs in the session's name is believed to.
    """

    replica: str
    session: SessionId | None = None
    runs: set[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was decided.

    Attributes:
        book: The task's book afterwards.
        granted: Entries whose runs are for the claimant to start, now.
        recorded: Other entries that were written: slots that do not run, or not yet.
        elsewhere: How many slots that were due others have dealt with.
        busy: The run that is in the way of one by hand.
    """

    book: Book
    granted: tuple[Entry, ...] = ()
    recorded: tuple[Entry, ...] = ()
    elsewhere: int = 0
    busy: Entry | None = None


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


class Draft:
    """A book that is being changed, with the entries that come with it."""

    def __init__(self, book: Book, now: datetime, claimant: Claimant) -> None:
        self.book = book
        self.now = now
        self.claimant = claimant
        self.elsewhere = 0
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
    def waiting(self) -> list[Entry]:
        return sorted(
            (e for e in self._active.values() if e.outcome is Outcome.WAITING),
            key=lambda entry: entry.slot,
        )

    @property
    def strays(self) -> list[Entry]:
        """The entries that were granted to the claimant in an answer that it never got.

        The store had written them when the connection broke. Nobody runs them.
        """
        known, session = self.claimant.runs, self.claimant.session
        if known is None:
            return []
        return [e for e in self.running if e.session == session and e.run_id not in known]

    def own(self, key: EntryKey) -> Entry | None:
        """The running entry of that key, if it is the claimant's."""
        entry = self._active.get(key)
        if entry is None or entry.outcome is not Outcome.RUNNING:
            return None
        return entry if entry.session == self.claimant.session else None

    def put(self, entry: Entry) -> Entry:
        """Record ``entry``, in the place of what was known of its slot."""
        entry = replace(entry, recorded_at=self.now)
        self._written[entry.key] = entry
        if not entry.outcome.final:
            self._active[entry.key] = entry
            return entry
        self._active.pop(entry.key, None)
        outcome = entry.outcome.value
        total = self.book.counts.get(outcome, 0) + entry.count
        self.book = replace(self.book, counts={**self.book.counts, outcome: total})
        return entry

    def grant(self, entry: Entry) -> None:
        """Let the claimant run it."""
        late = (self.now - entry.slot) / timedelta(milliseconds=1)
        self.put(
            replace(
                entry,
                outcome=Outcome.RUNNING,
                alive=True,
                run_id=new_run_id(),
                session=self.claimant.session,
                replica=self.claimant.replica,
                late_ms=round(late, 3),
            )
        )

    def record(self, task: str, span: Span | None, outcome: Outcome) -> None:
        """Record slots that do not run."""
        if span is None:
            return
        several = span.count > 1
        self.put(
            Entry(
                task=task,
                slot=span.first,
                last=span.last if several else None,
                count=span.count,
                outcome=outcome,
                recorded_at=self.now,
            )
        )

    def change(self, *, leased: bool) -> Change | None:
        """What the store has to write; ``None`` for nothing."""
        if not self._written and self.book == self._before:
            return None
        return Change(
            book=self.book,
            entries=tuple(self._written.values()),
            session=self.claimant.session if leased else None,
        )

    def answer(self) -> Answer:
        mine = [e for e in self._written.values() if e.outcome is Outcome.RUNNING]
        granted = tuple(
            e for e in mine if e.session == self.claimant.session and not self._was_running(e)
        )
        return Answer(
            book=replace(self.book, active=tuple(self._active.values())),
            granted=granted,
            recorded=tuple(e for e in self._written.values() if e.outcome is not Outcome.RUNNING),
            elsewhere=self.elsewhere,
            busy=self.busy,
        )

    def _was_running(self, entry: Entry) -> bool:
        return any(old.run_id == entry.run_id for old in self._before.active)


def settle_orphans(draft: Draft, policies: Policies) -> None:
    """Say what becomes of runs whose replica died: lost, or to be run again."""
    for entry in draft.orphans:
        if entry.losses < policies.retry_lost:
            draft.put(
                replace(
                    entry,
                    outcome=Outcome.WAITING,
                    alive=True,
                    session=None,
                    cancel=False,
                    losses=entry.losses + 1,
                )
            )
        else:
            error = f"replica {entry.replica} lost its lease while it ran"
            ended(draft, replace(entry, outcome=Outcome.LOST, alive=True, error=error))


def settle_strays(draft: Draft, unrecorded: Sequence[Entry]) -> None:
    """Begin what was granted in an answer that was lost; unless it was run without the store."""
    done = {entry.key: entry for entry in unrecorded}
    for entry in draft.strays:
        if entry.key in done:
            ended(draft, replace(done[entry.key], losses=entry.losses))
        else:
            draft.grant(entry)


def ended(draft: Draft, entry: Entry) -> None:
    """Record the last word on a run, and what follows from it for its schedule."""
    draft.put(entry)
    book = draft.book
    succeeded = entry.outcome is Outcome.RAN
    draft.book = replace(
        book,
        last_outcome=entry.outcome,
        last_ended=draft.now,
        last_error=None if succeeded else entry.error,
        last_success=draft.now if succeeded else book.last_success,
        failures=0 if succeeded else book.failures,
    )


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
                draft.put(replace(other, outcome=Outcome.SKIPPED_OVERLAP))
        cancel_running(draft)
    room = {
        Overlap.SKIP: 0,
        Overlap.BUFFER_ONE: 1,
        Overlap.BUFFER_ALL: policies.buffer_limit,
        Overlap.CANCEL_OTHER: 1,
    }[overlap]
    waits = len(draft.waiting) < room
    draft.put(replace(entry, outcome=Outcome.WAITING if waits else Outcome.SKIPPED_OVERLAP))


def cancel_running(draft: Draft) -> None:
    for other in draft.running:
        if not other.cancel:
            draft.put(replace(other, cancel=True))


def promote(draft: Draft, policies: Policies) -> None:
    """Grant what waits and whose turn has come, the oldest first."""
    for entry in draft.waiting:
        overlap = Overlap(entry.overlap) if entry.overlap else policies.overlap
        if overlap is Overlap.ALLOW_ALL or not draft.running:
            draft.grant(entry)
        elif entry.overlap and overlap is Overlap.SKIP:
            draft.put(replace(entry, outcome=Outcome.SKIPPED_OVERLAP))
        elif entry.overlap and overlap is Overlap.CANCEL_OTHER:
            cancel_running(draft)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attend:
    """Account for every slot that is due, and claim those that are to run.

    Attributes:
        terms: The task's schedule.
        seen: Up to where this replica knew the slots to be accounted for.
        unrecorded: What this replica did while the store was down: last words.
    """

    terms: TaskSchedule
    seen: datetime | None = None
    unrecorded: tuple[Entry, ...] = ()
    leased: bool = True

    @property
    def task(self) -> str:
        return self.terms.task

    def decide(self, draft: Draft) -> None:
        policies = self.terms.policies
        settle_orphans(draft, policies)
        settle_strays(draft, self.unrecorded)
        schedule = self.terms.schedule
        if schedule is not None:
            account(draft, self, schedule)
        promote(draft, policies)


def account(draft: Draft, request: Attend, schedule: Schedule) -> None:
    """Move the book's cursor over all slots that are due."""
    policies, book, now = request.terms.policies, draft.book, draft.now
    described = str(schedule)
    if book.schedule != described or book.known_since is None:
        book = replace(book, schedule=described, known_since=book.known_since or now)
    cursor = first_cursor(schedule, now) if book.cursor is None else book.cursor
    draft.book = replace(book, cursor=cursor)
    horizon = due_until(schedule, request.task, policies.jitter, now)
    if horizon is None:
        return
    if request.seen is not None and request.seen < cursor:
        draft.elsewhere = schedule.count(request.seen, min(cursor, horizon))
    for done in sorted(request.unrecorded, key=lambda entry: entry.slot):
        if cursor < done.slot <= horizon:
            missed = span_between(schedule, cursor, done.slot - ONE_TICK)
            draft.record(request.task, missed, Outcome.MISSED)
            if done.run_id is None:
                draft.put(done)
            else:
                ended(draft, done)
            cursor = done.slot if done.last is None else done.last
    runs_left = None if policies.max_runs is None else policies.max_runs - book.runs
    if horizon <= cursor or (runs_left is not None and runs_left <= 0):
        draft.book = replace(draft.book, cursor=cursor)
        return
    plan = policies.catch_up.plan(schedule, since=cursor, until=horizon, now=now)
    if book.pause is not None:
        plan = Plan((), spans_of(span_between(schedule, cursor, min(book.pause.at, horizon))))
        paused = span_between(schedule, max(cursor, book.pause.at), horizon)
        draft.record(request.task, paused, Outcome.PAUSED)
    for span in plan.missed:
        draft.record(request.task, span, Outcome.MISSED)
    due = plan.run if runs_left is None else plan.run[:runs_left]
    draft.book = replace(draft.book, cursor=horizon, runs=book.runs + len(due))
    for number, slot in enumerate(due):
        entry = Entry(task=request.task, slot=slot, outcome=Outcome.WAITING, recorded_at=now)
        if number == 0:
            admit(draft, entry, policies)
        else:  # made good one after the other, whatever the policy for slots in their own time
            draft.put(entry)


def first_cursor(schedule: Schedule, now: datetime) -> datetime:
    """Where the account of a schedule begins that the ledger has never seen.

    An interval's latest slot is run at once: who deploys a task that runs every hour does not mean
    to wait for an hour. A moment of the calendar that has passed is over, but for a one-off.
    """
    match schedule:
        case Within(schedule=inner):
            return first_cursor(inner, now)
        case Interval():
            latest = schedule.until(now)
            return now if latest is None else latest - ONE_TICK
        case Once(at=at):
            return min(at, now) - ONE_TICK
        case _:
            return now


def span_between(schedule: Schedule, start: datetime, end: datetime) -> Span | None:
    """The slots in (start, end], if there are any."""
    count = schedule.count(start, end) if start < end else 0
    if not count:
        return None
    first, last = schedule.after(start), schedule.until(end)
    assert first is not None
    assert last is not None
    return Span(first, last, count)


def spans_of(span: Span | None) -> tuple[Span, ...]:
    return () if span is None else (span,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """See to what waits, and to what a dead replica left."""

    terms: TaskSchedule
    leased: bool = True

    @property
    def task(self) -> str:
        return self.terms.task

    def decide(self, draft: Draft) -> None:
        settle_orphans(draft, self.terms.policies)
        promote(draft, self.terms.policies)


@dataclass(frozen=True, slots=True)
class SettleOrphans:
    """Account for what a dead replica left of a task that nobody here knows."""

    task: str
    leased: bool = True

    def decide(self, draft: Draft) -> None:
        settle_orphans(draft, Policies())


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Run a task now, by hand, unless another run of it is in the way."""

    terms: TaskSchedule
    overlap: Overlap
    leased: bool = True

    @property
    def task(self) -> str:
        return self.terms.task

    def decide(self, draft: Draft) -> None:
        settle_orphans(draft, self.terms.policies)
        running = draft.running
        if running and self.overlap is not Overlap.ALLOW_ALL:
            draft.busy = running[0]
            if self.overlap is Overlap.CANCEL_OTHER:
                cancel_running(draft)
            return
        draft.grant(
            Entry(
                task=self.task,
                slot=draft.now,
                trigger=Trigger.MANUAL,
                outcome=Outcome.RUNNING,
                recorded_at=draft.now,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Have the workers run slots that someone asks for: now, or of the past."""

    task: str
    slots: tuple[datetime, ...]
    trigger: Trigger
    overlap: Overlap
    leased: bool = False

    def decide(self, draft: Draft) -> None:
        for slot in self.slots:
            draft.put(
                Entry(
                    task=self.task,
                    slot=slot,
                    trigger=self.trigger,
                    outcome=Outcome.WAITING,
                    recorded_at=draft.now,
                    overlap=self.overlap.value,
                )
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Record what came of a run that was granted.

    Attributes:
        entry: The entry as it was granted.
        outcome: Its last word; ``LOST`` for a run that the worker itself ended.
        counts: Whether a failure counts towards the pause after so many of them.
        go_on: Take over what waits behind it.

    Raises:
        LeaseLost: The entry is not the claimant's any more.
    """

    terms: TaskSchedule
    entry: Entry
    outcome: Outcome
    duration_ms: float | None = None
    error: str | None = None
    counts: bool = True
    go_on: bool = True
    leased: bool = True

    @property
    def task(self) -> str:
        return self.terms.task

    def decide(self, draft: Draft) -> None:
        entry = draft.own(self.entry.key)
        if entry is None or entry.run_id != self.entry.run_id:
            raise LeaseLost(f"the run of {self.task} at {self.entry.slot} was given up as lost")
        policies = self.terms.policies
        settle_orphans(draft, policies)
        if self.outcome is Outcome.LOST and entry.losses < policies.retry_lost:
            draft.put(
                replace(entry, outcome=Outcome.WAITING, session=None, losses=entry.losses + 1)
            )
        else:
            done = replace(
                entry, outcome=self.outcome, duration_ms=self.duration_ms, error=self.error
            )
            ended(draft, done)
            if self.outcome is Outcome.FAILED and self.counts:
                self._count_failure(draft, policies)
        if self.go_on:
            promote(draft, policies)

    def _count_failure(self, draft: Draft, policies: Policies) -> None:
        failures = draft.book.failures + 1
        pause = draft.book.pause
        limit = policies.pause_after_failures
        if pause is None and limit is not None and failures >= limit:
            note = f"{failures} failures in a row, the last: {self.error}"
            pause = Pause(draft.now, "pause_after_failures", note)
        draft.book = replace(draft.book, failures=failures, pause=pause)


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseSchedule:
    """Let no slot run until the schedule is resumed. What runs goes on."""

    task: str
    by: str
    note: str = ""
    leased: bool = False

    def decide(self, draft: Draft) -> None:
        pause = draft.book.pause
        at = draft.now if pause is None else pause.at
        draft.book = replace(draft.book, pause=Pause(at, self.by, self.note))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeSchedule:
    """Let slots run again. Those that passed meanwhile are recorded as paused first."""

    terms: TaskSchedule
    leased: bool = False

    @property
    def task(self) -> str:
        return self.terms.task

    def decide(self, draft: Draft) -> None:
        if draft.book.pause is None:
            return
        if self.terms.schedule is not None:
            account(draft, Attend(terms=self.terms), self.terms.schedule)
        draft.book = replace(draft.book, pause=None, failures=0)


def decide(request: Request, book: Book, *, claimant: Claimant, now: datetime) -> Answer:
    """What a request comes to, without a store.

    Raises:
        WorkerError: What the request may raise.
    """
    draft = Draft(book, now, claimant)
    request.decide(draft)
    return draft.answer()


@dataclass(slots=True)
class Open:
    """A request that is not answered yet, and its place."""

    number: int
    request: Request
    rounds: int = field(default=0)


def apply(
    store: LedgerStore, requests: Sequence[Request], *, claimant: Claimant, now: datetime
) -> list[Answer | WorkerError]:
    """Decide all requests and write what follows; an answer, or what was wrong, for each.

    Requests of the same task are decided one after the other; all others together, in as few
    round trips as one.

    Raises:
        StoreUnavailable: Nothing is known of any of them.
    """
    answers: dict[int, Answer | WorkerError] = {}
    waiting = [Open(number, request) for number, request in enumerate(requests)]
    while waiting:
        batch: dict[str, Open] = {}
        later = []
        for item in waiting:
            if item.request.task in batch:
                later.append(item)
            else:
                batch[item.request.task] = item
        books = store.read(list(batch))
        again = decide_batch(store, batch, books, claimant, now, answers)
        waiting = again + later
    return [answers[number] for number in range(len(requests))]


def decide_batch(
    store: LedgerStore,
    batch: Mapping[str, Open],
    books: Mapping[str, Book],
    claimant: Claimant,
    now: datetime,
    answers: dict[int, Answer | WorkerError],
) -> list[Open]:
    """Decide one request a task; those that have to be decided again are returned."""
    changes: list[tuple[Open, Draft, Change]] = []
    for task, item in batch.items():
        draft = Draft(books[task], now, claimant)
        try:
            item.request.decide(draft)
        except WorkerError as exc:
            answers[item.number] = exc
            continue
        change = draft.change(leased=item.request.leased)
        if change is None:
            answers[item.number] = draft.answer()
        else:
            changes.append((item, draft, change))
    again = []
    written = store.write([change for _, _, change in changes]) if changes else []
    for (item, draft, _), result in zip(changes, written, strict=True):
        answer = judged(item, draft, result)
        if answer is None:
            again.append(item)
        else:
            answers[item.number] = answer
    return again


def judged(item: Open, draft: Draft, result: Written) -> Answer | WorkerError | None:
    """The answer that follows from what the store did; ``None`` to decide again."""
    task = item.request.task
    match result:
        case Written.DONE:
            answer = draft.answer()
            if draft.claimant.runs is not None:
                draft.claimant.runs.update(entry.run_id or "" for entry in answer.granted)
            return answer
        case Written.NO_LEASE:
            return LeaseLost(f"{task}: the lease of session {draft.claimant.session} has run out")
        case Written.TAKEN:
            return StoreError(
                f"{task}: a slot that is due has its last word already; were parts of the store "
                "restored from a backup? Expected its tables to be of one moment"
            )
        case Written.OUTDATED:
            item.rounds += 1
            if item.rounds < ROUNDS:
                return None
            return StoreUnavailable(f"{task}: others changed its book {ROUNDS} times meanwhile")
