"""The rules of the ledger: what is decided about a slot, by whom, and what is recorded of it.

Each request is decided over one task's `Book` as the store has it, purely: the outcome is a new
book and the entries that go with it. The store writes them only if nobody changed the book
meanwhile; otherwise the request is decided again. So the rules stand here once, whatever the store,
and of several replicas exactly one has its way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from worker.book import Book, Change, Entry, EntryKey, Outcome, Pause, SessionId, Written, changed
from worker.catch_up import Span
from worker.errors import LeaseLost, StoreError, StoreUnavailable, WorkerError
from worker.model import Trigger, new_run_id
from worker.policies import Overlap, Policies, TaskSchedule
from worker.schedule import Interval, Once, Schedule, Within, delay_of, due_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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
            self.book = changed(self.book, runs=self.book.runs + 1)
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

    def record(self, span: Span | None, outcome: Outcome) -> None:
        """Record slots that do not run."""
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
        return Answer(
            book=changed(self.book, active=tuple(self._active.values())),
            granted=granted,
            recorded=tuple(e for e in self._written.values() if e.outcome is not Outcome.RUNNING),
            elsewhere=self.elsewhere,
            busy=self.busy,
        )


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
        schedule = self.terms.schedule
        if schedule is not None:
            account(draft, self, schedule)
        promote(draft, policies)


def account(draft: Draft, request: Attend, schedule: Schedule) -> None:
    """Move the book's cursor over all slots that are due."""
    policies, book, now = request.terms.policies, draft.book, draft.now
    described = str(schedule)
    if book.schedule != described or book.known_since is None:
        book = changed(book, schedule=described, known_since=book.known_since or now)
    cursor = book.cursor
    if cursor is None:
        alone = [e.slot - ONE_TICK for e in request.unrecorded if e.trigger is Trigger.SCHEDULE]
        cursor = min([first_cursor(schedule, now), *alone])
    draft.book = changed(book, cursor=cursor)
    horizon = due_until(schedule, request.task, policies.jitter, now)
    if horizon is None:
        return
    if request.seen is not None and request.seen < cursor:
        draft.elsewhere = schedule.count(request.seen, min(cursor, horizon))
    for done in sorted(request.unrecorded, key=lambda entry: entry.slot):
        cursor = record_late(draft, done, policies, schedule, cursor)
    runs_left = runs_left_of(draft, policies)
    if horizon <= cursor or runs_left == 0:
        draft.book = changed(draft.book, cursor=cursor)
        return
    pause = draft.book.pause
    if pause is not None:
        before = due_until(schedule, request.task, policies.jitter, min(pause.at, now)) or cursor
        draft.record(span_between(schedule, cursor, before), Outcome.MISSED)
        paused = span_between(schedule, max(cursor, before), horizon)
        draft.record(paused, Outcome.PAUSED)
        draft.book = changed(draft.book, cursor=horizon)
        return
    # A slot that jitter puts off is not late for that.
    put_off = delay_of(schedule, request.task, policies.jitter, horizon)
    plan = policies.catch_up.plan(schedule, since=cursor, until=horizon, now=now - put_off)
    due = plan.run[:runs_left]
    for span in plan.missed:
        draft.record(span, Outcome.MISSED)
    # The slot that uses up the last run is the schedule's last: none later is accounted for.
    cursor = horizon if len(due) == len(plan.run) else due[-1]
    draft.book = changed(draft.book, cursor=cursor)
    for number, slot in enumerate(due):
        entry = Entry(task=request.task, slot=slot, outcome=Outcome.WAITING, recorded_at=now)
        if number == 0:
            admit(draft, entry, policies)
        else:  # made good one after the other, whatever the policy for slots in their own time
            draft.put(entry)


def runs_left_of(draft: Draft, policies: Policies) -> int | None:
    """How many more slots may become runs; ``None`` for any number."""
    if policies.max_runs is None:
        return None
    spoken_for = [e for e in draft.waiting if e.trigger is Trigger.SCHEDULE and e.run_id is None]
    return max(0, policies.max_runs - draft.book.runs - len(spoken_for))


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
        draft.book = changed(draft.book, runs=draft.book.runs + 1)
    ended(draft, done, done.recorded_at)
    if done.outcome is Outcome.FAILED and not done.cancel:
        count_failure(draft, policies, done.error)
    return cursor


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
                slot=draft.free_moment(),
                trigger=Trigger.MANUAL,
                outcome=Outcome.RUNNING,
                recorded_at=draft.now,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Have the workers run slots that someone asks for: now, or of the past.

    Raises:
        StoreError: One of the slots was run again before; none is asked for.
    """

    task: str
    slots: tuple[datetime, ...]
    trigger: Trigger
    overlap: Overlap
    leased: bool = False

    def decide(self, draft: Draft) -> None:
        present = {entry.key for entry in draft.book.active}
        for slot in self.slots:
            if (self.task, slot, self.trigger) in present:
                continue  # it was asked for before, and waits or runs
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
        outcome: Its last word; ``LOST`` for a run that the worker itself ended, ``WAITING`` for
            one that it never began.
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
        retried = entry.losses < policies.retry_lost and not is_begun_by_hand(entry)
        if self.outcome is Outcome.WAITING:
            wait_again(draft, entry)
        elif self.outcome is Outcome.LOST and retried:
            wait_again(draft, changed(entry, losses=entry.losses + 1))
        else:
            done = changed(
                entry, outcome=self.outcome, duration_ms=self.duration_ms, error=self.error
            )
            ended(draft, done)
            if self.outcome is Outcome.FAILED and self.counts:
                count_failure(draft, policies, self.error)
        if self.go_on:
            promote(draft, policies)


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
        draft.book = changed(draft.book, pause=Pause(at, self.by, self.note))


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
        draft.book = changed(draft.book, pause=None, failures=0)


def decide(request: Request, book: Book, *, claimant: Claimant, now: datetime) -> Answer:
    """What a request comes to, without a store.

    Raises:
        WorkerError: What the request may raise.
    """
    answer = decided(request, Draft(book, now, claimant))
    if isinstance(answer, WorkerError):
        raise answer
    return answer


def decided(request: Request, draft: Draft) -> Answer | WorkerError:
    try:
        request.decide(draft)
    except WorkerError as exc:
        return exc
    except Exception as exc:
        # A defect: it must not keep other requests from being decided.
        defect = WorkerError(f"{request.task}: {type(exc).__name__}: {exc}")
        defect.__cause__ = exc
        return defect
    return draft.answer()


class Case:
    """All that is asked of one task's book: decided one upon the other, and written at once."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.requests: list[Request] = []
        self._answers: list[Answer | WorkerError] = []
        self._entries: dict[EntryKey, Entry] = {}
        self._rounds = 0

    def decide(self, book: Book, claimant: Claimant, now: datetime) -> Change | None:
        """Decide it, anew if need be; what the store has to write, ``None`` for nothing."""
        self._answers, self._entries = [], {}
        leased = touched = False
        if len(self.requests) > 1 and claimant.runs is not None:
            claimant = replace(claimant, runs=set(claimant.runs))  # it may come to nothing
        for request in self.requests:
            draft = Draft(book, now, claimant)
            answer = decided(request, draft)
            self._answers.append(answer)
            if isinstance(answer, WorkerError) or not draft.touched:
                continue
            touched, leased = True, leased or request.leased
            self._entries.update(draft.written)
            book = answer.book
            if len(self.requests) > 1:
                claimant.note(draft.written.values())
        if not touched:
            return None
        return Change(
            book=book,
            entries=tuple(self._entries.values()),
            session=claimant.session if leased else None,
        )

    def answers(
        self, written: Written, claimant: Claimant
    ) -> Sequence[Answer | WorkerError] | None:
        """What follows from what the store did; ``None`` to decide it again."""
        match written:
            case Written.DONE:
                claimant.note(self._entries.values())
                return self._answers
            case Written.OUTDATED:
                self._rounds += 1
                if self._rounds < ROUNDS:
                    return None
        return [
            answer if isinstance(answer, WorkerError) else refusal(request, written, claimant)
            for request, answer in zip(self.requests, self._answers, strict=True)
        ]


def refusal(request: Request, written: Written, claimant: Claimant) -> StoreError:
    """Why the store wrote nothing."""
    task = request.task
    match written:
        case Written.NO_LEASE:
            return LeaseLost(f"{task}: the lease of session {claimant.session} has run out")
        case Written.TAKEN if isinstance(request, Ask):
            return StoreError(
                f"{task}: some of these slots were run again before, and each has one record; ask "
                "for the others, or run the task by hand"
            )
        case Written.TAKEN:
            return StoreError(
                f"{task}: a slot that is due has its last word already; were parts of the store "
                "restored from a backup? Expected its tables to be of one moment"
            )
        case _:
            return StoreUnavailable(f"{task}: others changed its book {ROUNDS} times meanwhile")


def apply(
    store: LedgerStore,
    requests: Sequence[Request],
    *,
    claimant: Claimant,
    now: datetime,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Answer | WorkerError]:
    """Decide all requests and write what follows; an answer, or what was wrong, for each.

    However many there are, they take as few round trips as one, unless others are quicker.

    Args:
        meanwhile: Called before what others were quicker with is decided again: a lease may have
            to be renewed.

    Raises:
        StoreError: Nothing is known of any of them. If something is known of some, the error is
            the answer to the others.
    """
    cases: dict[str, Case] = {}
    for number, request in enumerate(requests):
        case = cases.setdefault(request.task, Case())
        case.numbers.append(number)
        case.requests.append(request)
    answers: dict[int, Answer | WorkerError] = {}
    while cases:
        try:
            answered = decide_cases(store, cases, claimant, now)
        except StoreError as exc:
            if not answers:
                raise
            return [answers.get(number, exc) for number in range(len(requests))]
        for task, found in answered.items():
            answers.update(zip(cases.pop(task).numbers, found, strict=True))
        if cases:
            meanwhile()
    return [answers[number] for number in range(len(requests))]


def decide_cases(
    store: LedgerStore, cases: Mapping[str, Case], claimant: Claimant, now: datetime
) -> dict[str, Sequence[Answer | WorkerError]]:
    """The answers to the cases that need not be decided again."""
    books = store.read(list(cases))
    changes = {task: case.decide(books[task], claimant, now) for task, case in cases.items()}
    sent = [change for change in changes.values() if change is not None]
    written = iter(store.write(sent)) if sent else iter(())
    answered = {}
    for task, change in changes.items():
        result = Written.DONE if change is None else next(written)
        answers = cases[task].answers(result, claimant)
        if answers is not None:
            answered[task] = answers
    return answered
