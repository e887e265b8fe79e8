"""The ledger: what is asked of it, and how it comes to be decided.

Each request is decided over one task's `Book` as the store has it, purely: the outcome is a new
book and the entries that go with it. The store writes them only if nobody changed the book
meanwhile; otherwise the request is decided again. So of several replicas
exactly one has its way, whatever the store. The rules themselves stand in `worker.ledger.rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from worker.errors import LeaseLost, StoreError, StoreUnavailable, WorkerError
from worker.ledger.book import Book, Change, Entry, EntryKey, Outcome, Pause, Written, changed
from worker.ledger.draft import Answer, Claimant, Draft, Request
from worker.ledger.rules import (
    account,
    account_paused,
    cancel_running,
    count_failure,
    ended,
    is_begun_by_hand,
    promote,
    settle_orphans,
    wait_again,
)
from worker.ledger.versions import first_cursor
from worker.model import Trigger
from worker.schedules.policies import Overlap, Policies, TaskSchedule
from worker.schedules.spec import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from worker.ledger.book import Replica, SessionId
    from worker.ledger.draft import Lookup
    from worker.ports import LedgerStore

__all__ = [
    "Answer",
    "Ask",
    "Attend",
    "Begin",
    "Claimant",
    "Draft",
    "Finish",
    "ForgetSchedule",
    "PauseSchedule",
    "Promote",
    "Request",
    "ResumeSchedule",
    "SettleOrphans",
    "apply",
    "decide",
    "first_cursor",
]

ROUNDS = 100
"""How often a request is decided anew because others were quicker, before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attend:
    """Account for every slot that is due, and claim those that are to run.

    Attributes:
        terms: The task's schedule.
        since: From when on this replica serves the task.
        seen: Up to where this replica knew the slots of its schedule to be accounted for.
        unrecorded: What this replica did while the store was down: last words.
    """

    terms: TaskSchedule
    since: datetime | None = None
    seen: datetime | None = None
    unrecorded: tuple[Entry, ...] = ()
    leased: bool = True

    @property
    def task(self) -> str:
        return self.terms.task

    def decide(self, draft: Draft) -> None:
        policies = self.terms.policies
        settle_orphans(draft, policies)
        account(draft, self.terms, since=self.since, seen=self.seen, unrecorded=self.unrecorded)
        promote(draft, policies)


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


@dataclass(frozen=True, slots=True)
class ForgetSchedule:
    """Let a schedule be over whose task is gone. Its history stays. A task of that name begins it
    again, after what is accounted for."""

    task: str
    leased: bool = False

    def decide(self, draft: Draft) -> None:
        book = draft.book
        ends = [end for v in book.versions for end in (v.cursor, v.until) if end is not None]
        settled = max(ends if book.settled is None else [*ends, book.settled], default=None)
        draft.book = changed(book, versions=(), settled=settled, runs=0, runs_of={}, failures=0)


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
        account_paused(draft, self.terms)
        draft.book = changed(draft.book, pause=None, failures=0)


def decide(request: Request, book: Book, *, claimant: Claimant, now: datetime) -> Answer:
    """What a request comes to, without a store.

    Raises:
        WorkerError: What the request may raise.
    """
    answer = decided(request, Draft(book, now, claimant, schedule_of(request)))
    if isinstance(answer, WorkerError):
        raise answer
    return answer


def schedule_of(request: Request) -> str:
    """The spec of the schedule of who makes a request; empty if it comes without one."""
    terms = getattr(request, "terms", None)
    schedule = terms.schedule if isinstance(terms, TaskSchedule) else None
    return "" if schedule is None else spec_of(schedule)


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

    def decide(
        self, book: Book, claimant: Claimant, now: datetime, sessions: Lookup
    ) -> Change | None:
        """Decide it, anew if need be; what the store has to write, ``None`` for nothing."""
        self._answers, self._entries = [], {}
        leased = touched = False
        if len(self.requests) > 1 and claimant.runs is not None:
            claimant = replace(claimant, runs=set(claimant.runs))  # it may come to nothing
        for request in self.requests:
            draft = Draft(book, now, claimant, schedule_of(request), sessions)
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


class Sessions:
    """What a store knows of sessions, read once for all books that were read before."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._known: dict[SessionId, Replica | None] = {}

    def __call__(self, sessions: Iterable[SessionId]) -> list[Replica]:
        wanted = list(sessions)
        new = [one for one in wanted if one not in self._known]
        if new:
            found = {one.session: one for one in self._store.replicas(new)}
            self._known.update({one: found.get(one) for one in new})
        return [one for one in map(self._known.get, wanted) if one is not None]


def decide_cases(
    store: LedgerStore, cases: Mapping[str, Case], claimant: Claimant, now: datetime
) -> dict[str, Sequence[Answer | WorkerError]]:
    """The answers to the cases that need not be decided again."""
    books = store.read(list(cases))
    sessions = Sessions(store)
    changes = {
        task: case.decide(books[task], claimant, now, sessions) for task, case in cases.items()
    }
    sent = [change for change in changes.values() if change is not None]
    written = iter(store.write(sent)) if sent else iter(())
    answered = {}
    for task, change in changes.items():
        result = Written.DONE if change is None else next(written)
        answers = cases[task].answers(result, claimant)
        if answers is not None:
            answered[task] = answers
    return answered
