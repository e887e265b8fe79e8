"""What a hand does to schedules from outside of a running worker: look, pause, resume, ask."""

from __future__ import annotations

import getpass
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from worker.admin.presence import casualties
from worker.app import open_worker, redaction
from worker.backends.opening import STORES, open_store
from worker.clock import SystemClock
from worker.config.stores import store_url
from worker.errors import ConfigurationError, InvalidParams, UnknownTaskError, WorkerError
from worker.ledger.attendance import pollers
from worker.ledger.book import HistoryQuery
from worker.ledger.ledger import (
    Answer,
    Ask,
    Claimant,
    ForgetSchedule,
    PauseSchedule,
    Request,
    ResumeSchedule,
    apply,
)
from worker.model import Trigger
from worker.schedules.policies import Overlap
from worker.schedules.schedule import slots_between
from worker.schedules.spec import schedule_from, spec_of
from worker.scheduling.dropped import Dropped, find_dropped
from worker.scheduling.missed import find_missed
from worker.scheduling.overview import Explanation, explain
from worker.scheduling.standing import View, view

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from worker.admin.presence import Casualty
    from worker.clock import Clock
    from worker.ledger.attendance import Pollers
    from worker.ledger.book import Book, Entry, Replica
    from worker.ledger.presence import Presence
    from worker.ports import LedgerStore
    from worker.scheduling.scheduled_task import ScheduledTask
    from worker.settings import Settings
    from worker.tasks.base import TaskDefinition

__all__ = ["Backfill", "ScheduleAdmin", "open_admin"]

MOST_BACKFILLED = 1000
"""How many slots one backfill may ask for."""


@dataclass(frozen=True, slots=True)
class Backfill:
    """What a backfill asked for.

    Attributes:
        asked: The slots that will be run.
        known: How many slots of the range were left out, as they were asked for before.
        schedule: The schedule whose slots these are, if it is the workers' and not this process's.
    """

    asked: tuple[datetime, ...]
    known: int
    schedule: str | None = None


class ScheduleAdmin:
    """The schedules of an application and their ledger, in the hands of a person.

    Args:
        by: Who acts, for the record; by default the user that this process runs as.
        redact: Takes secrets out of the texts that come from the ledger: errors, notes, names.
    """

    def __init__(
        self,
        tasks: Mapping[str, ScheduledTask],
        store: LedgerStore,
        *,
        by: str | None = None,
        redact: Callable[[str], str] = lambda text: text,
        clock: Clock | None = None,
    ) -> None:
        self._tasks = tasks
        self._store = store
        self._by = by
        self._redact = redact
        self._clock = clock or SystemClock()

    @property
    def tasks(self) -> Collection[str]:
        """The names of the application's tasks."""
        return self._tasks.keys()

    @property
    def by(self) -> str:
        """Who acts, for the record."""
        if self._by is not None:
            return self._by
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user has no name
            user = str(os.getuid())
        return f"{user}@{socket.gethostname()}"

    def views(self, names: Sequence[str] | None = None) -> list[View]:
        """How every schedule stands, or each of those that are named."""
        wanted = list(self._tasks) if names is None else names
        books = self._store.read(wanted)
        now = self._clock.now()
        return [self._view(name, books[name], now) for name in wanted]

    def replicas(self) -> list[Replica]:
        """The workers that are up, and those that were."""
        return self._store.replicas()

    def casualties(self) -> list[Casualty]:
        """The replicas that were lost lately, and what became of their slots."""
        return casualties(self._store, self.replicas(), self._clock.now())

    def pollers(self, blind: str | None, own: tuple[str, Presence] | None = None) -> Pollers:
        """Who polls the queues, as `worker.ledger.attendance.pollers` has it."""
        return pollers(self.replicas(), self._clock.now(), blind=blind, own=own)

    def history(self, query: HistoryQuery) -> list[Entry]:
        """What became of slots, the newest first.

        Raises:
            UnknownTaskError: Neither this application nor the ledger knows the task.
        """
        if query.task is not None and query.task not in self._tasks:
            known = self._store.tasks()
            if query.task not in known:
                raise UnknownTaskError(query.task, {*self._tasks, *known})
        return [self._entry(entry) for entry in self._store.history(query)]

    def dropped(self) -> list[Dropped]:
        """Schedules that the ledger knows, and this application has no task for."""
        return find_dropped(self._store, self._tasks)

    def forget(self, name: str) -> None:
        """Let a schedule be over that this application has no task for. Its history stays.

        Raises:
            ValueError: The application has the task.
            UnknownTaskError: The ledger does not know it either.
        """
        if name in self._tasks:
            raise ValueError(
                f"{name} is a task of this application: expected one that is gone; to stop it for "
                f"a while, `worker schedule pause {name}`, and for good, take away its schedule"
            )
        known = self._store.tasks()
        if name not in known:
            raise UnknownTaskError(name, {*self._tasks, *known})
        self._written(ForgetSchedule(name))

    def explain(self, name: str) -> Explanation:
        """Why a task does not run, or when it will; of one that is gone, what is known of it."""
        for gone in [] if name in self._tasks else self.dropped():
            if gone.name == name:
                why = self._redact(gone.why(self._clock.now()))
                return Explanation(self._redact(gone.what), (why,))
        task, _ = self._kept(name, self._store.read([name])[name])
        said = explain(task, self._store, now=self._clock.now())
        facts = tuple(map(self._redact, said.facts))
        return replace(said, verdict=self._redact(said.verdict), facts=facts)

    def definition(self, name: str) -> TaskDefinition | None:
        """What is known of a task here; ``None`` if it is not one of the application's."""
        return self._tasks[name].definition if name in self._tasks else None

    def on_demand(self, name: str) -> bool:
        """Whether a task only runs when somebody asks for it."""
        return name in self._tasks and self._tasks[name].on_demand

    def paused(self, name: str) -> bool:
        """Whether a schedule is paused."""
        return self._store.read([self._task(name).terms.task])[name].pause is not None

    def pause(self, name: str, note: str = "") -> View:
        """Let no slot run until `resume`. A pause that holds stays as it is, unless for a note."""
        if not note and self.paused(name):
            return self._seen(name)
        return self._done(PauseSchedule(task=self._task(name).terms.task, by=self.by, note=note))

    def resume(self, name: str) -> View:
        """Let slots run again."""
        return self._done(ResumeSchedule(terms=self._task(name).terms))

    def run(self, name: str, overlap: Overlap = Overlap.BUFFER_ALL) -> View:
        """Have a worker that is up run a task once, as soon as ``overlap`` lets it.

        Raises:
            InvalidParams: The task needs parameters that its schedule does not say.
        """
        task = self._task(name)
        try:
            task.check_params()
        except InvalidParams as exc:
            raise InvalidParams(
                f"{exc}; this run would have no parameters: ask for a job that has them, "
                f"worker enqueue {name} '{{…}}'"
            ) from exc
        return self._done(
            Ask(
                task=task.terms.task,
                slots=(self._clock.now(),),
                trigger=Trigger.MANUAL,
                overlap=overlap,
            )
        )

    def backfill(
        self, name: str, start: datetime, end: datetime, overlap: Overlap = Overlap.BUFFER_ALL
    ) -> Backfill:
        """Have the workers run every slot of [start, end) again, whatever became of it.

        Raises:
            ValueError: The task has no schedule, or the range is empty or has too many slots.
        """
        task, here = self._kept(name, self._store.read([name])[name], if_off=True)
        schedule = task.terms.schedule
        if schedule is None:
            raise ValueError(f"{name} has no schedule, so it has no slots to backfill")
        if end <= start:
            raise ValueError(
                f"expected a range that ends after it starts, got {start.isoformat()} to "
                f"{end.isoformat()}"
            )
        if end > self._clock.now():
            raise ValueError(f"expected a range that ends in the past, got {end.isoformat()}")
        between = slots_between(schedule, start, end)
        slots = [slot for slot in (start, *islice(between, MOST_BACKFILLED + 1)) if slot < end]
        if schedule.until(start) != start:
            slots = slots[1:]
        if not slots:
            raise ValueError(f"{name} has no slot from {start.isoformat()} to {end.isoformat()}")
        if len(slots) > MOST_BACKFILLED:
            raise ValueError(
                f"more than {MOST_BACKFILLED} slots lie in that range; ask for a part of it"
            )
        query = HistoryQuery(task=name, since=slots[0], until=end, limit=10 * MOST_BACKFILLED)
        done = {e.slot for e in self._store.history(query) if e.trigger is Trigger.BACKFILL}
        asked = tuple(slot for slot in slots if slot not in done)
        if asked:
            self._done(Ask(task=name, slots=asked, trigger=Trigger.BACKFILL, overlap=overlap))
        return Backfill(asked, len(done), None if here is None else str(schedule))

    def _seen(self, name: str) -> View:
        return self._view(name, self._store.read([name])[name], self._clock.now())

    def _task(self, name: str) -> ScheduledTask:
        if name not in self._tasks:
            raise UnknownTaskError(name, self._tasks)
        return self._tasks[name]

    def _kept(
        self, name: str, book: Book, *, if_off: bool = False
    ) -> tuple[ScheduledTask, str | None]:
        """A task with the schedule that the workers have; and that of this process if it differs.

        A shell may lack the worker's settings, or run another release.

        Args:
            if_off: Also for a task that is off here.
        """
        task, latest = self._task(name), book.latest
        schedule = task.terms.schedule
        if latest is None or (schedule is None and not if_off):
            return task, None
        if schedule is not None and book.version_of(spec_of(schedule)) is not None:
            return task, None
        up = sorted({one.name for one in self._store.replicas(latest.sessions) if one.alive})
        kept = schedule_from(latest.spec)
        if kept is None or not up:
            return task, None
        here = "off" if schedule is None else str(schedule)
        policies = replace(task.terms.policies, jitter=latest.jitter)
        terms = replace(task.terms, schedule=kept, policies=policies)
        said_by = f"{', '.join(up)} (here it is {here}, {task.said_by} says so)"
        return replace(task, terms=terms, said_by=said_by), here

    def _done(self, request: Request) -> View:
        return self._view(request.task, self._written(request).book, self._clock.now())

    def _written(self, request: Request) -> Answer:
        claimant = Claimant(self.by)
        (answer,) = apply(self._store, [request], claimant=claimant, now=self._clock.now())
        if isinstance(answer, WorkerError):
            raise answer
        assert isinstance(answer, Answer)
        return answer

    def _view(self, name: str, book: Book, now: datetime) -> View:
        pause, error = book.pause, book.last_error
        if pause is not None:
            pause = replace(pause, by=self._redact(pause.by), note=self._redact(pause.note))
        shown = replace(
            book,
            pause=pause,
            last_error=None if error is None else self._redact(error),
            active=tuple(map(self._entry, book.active)),
        )
        task, here = self._kept(name, book)
        missed = find_missed(self._store, task, book)
        if missed is not None:
            missed = replace(missed, entry=self._entry(missed.entry))
        return replace(view(task, shown, now=now, missed=missed), here=here)

    def _entry(self, entry: Entry) -> Entry:
        return entry if entry.error is None else replace(entry, error=self._redact(entry.error))


async def registered(settings: Settings) -> dict[str, ScheduledTask]:
    """Every task of the application, with its schedule."""
    async with open_worker(settings) as worker:
        return dict(worker.scheduler.tasks)


@contextmanager
def open_admin(settings: Settings, tasks: dict[str, ScheduledTask]) -> Iterator[ScheduleAdmin]:
    """Open the store for a person's use.

    Raises:
        ConfigurationError: The store's URL, folder or library is wrong, or it is a store that
            no other process can look into.
        StoreError: It cannot be reached, or its schema does not fit.
    """
    url = store_url(settings)
    if STORES.of(url) == "memory":
        raise ConfigurationError(
            [
                "WORKER_STORE_URL is memory://, which nobody but the worker itself can look into; "
                "expected sqlite:///…, postgresql://… or redis://… for commands beside it"
            ]
        )
    store = open_store(url)
    try:
        yield ScheduleAdmin(tasks, store, redact=redaction(settings))
    finally:
        store.close()
