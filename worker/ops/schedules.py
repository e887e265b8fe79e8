"""What is known of schedules, out of the ledger."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from worker.ledger.book import HistoryQuery, Outcome
from worker.ops.models import (
    EntryFacts,
    Explained,
    Last,
    PauseFacts,
    RunningRun,
    ScheduleDetail,
    ScheduleFacts,
    SlotRun,
    Strip,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from worker.admin.schedules import ScheduleAdmin
    from worker.ledger.book import Entry
    from worker.ops.sources import Sources
    from worker.scheduling.scheduled_task import ScheduledTask
    from worker.scheduling.standing import View

__all__ = ["Ledger"]

STRIP = 50
MOST_HISTORY = 200
AT_ONCE = 25
"""How many schedules are looked at in one go: others have to ask the ledger in between."""


class Ledger:
    """Reads the ledger for the ops part. What did not change since is not read again."""

    def __init__(self, sources: Sources, tasks: Mapping[str, ScheduledTask]) -> None:
        self._sources = sources
        self._tasks = tasks
        self._strips: dict[str, tuple[int, list[Entry]]] = {}

    async def views(self) -> list[View]:
        """How every task stands, those on demand too.

        Raises:
            StoreUnavailable: The ledger cannot be read.
        """
        names = list(self._tasks)
        found: list[View] = []
        for first in range(0, len(names), AT_ONCE):
            look = partial(self._look, names[first : first + AT_ONCE])
            found += await self._sources.ledger(look)
        return found

    def _look(self, names: Sequence[str], admin: ScheduleAdmin) -> list[View]:
        views = admin.views(names)
        for view in views:
            version, _ = self._strips.get(view.name, (-1, []))
            if view.book.version != version and not view.task.on_demand:
                entries = admin.history(HistoryQuery(task=view.name, limit=STRIP))
                self._strips[view.name] = (view.book.version, entries)
        return views

    def schedules(self, views: Iterable[View]) -> list[ScheduleFacts]:
        """Those of the application; a task that only waits to be asked for has none."""
        return [
            ScheduleFacts(**self._facts(view, self._strips.get(view.name, (0, []))[1]))
            for view in views
            if not view.task.on_demand
        ]

    async def detail(self, name: str) -> ScheduleDetail:
        """All that is known of one task's schedule.

        Raises:
            UnknownTaskError: There is no such task.
            StoreUnavailable: The ledger cannot be read.
        """

        def look(admin: ScheduleAdmin) -> ScheduleDetail:
            why = admin.explain(name)
            (view,) = admin.views([name])
            entries = admin.history(HistoryQuery(task=name, limit=MOST_HISTORY))
            return ScheduleDetail(
                **self._facts(view, entries[:STRIP]),
                explanation=Explained(verdict=why.verdict, facts=list(why.facts)),
                history=[self._entry(entry) for entry in entries],
            )

        return await self._sources.ledger(look)

    def _facts(self, view: View, entries: Sequence[Entry]) -> dict[str, Any]:
        """The fields of a `ScheduleFacts`.

        Args:
            entries: The latest ones, the newest first.
        """
        task, book, pause = view.task, view.book, view.book.pause
        options, max_age = task.definition.options, task.terms.policies.max_age
        last = next((entry for entry in entries if entry.outcome.final), None)
        return {
            "name": view.name,
            "summary": task.definition.summary,
            "standing": view.standing.value,
            "schedule": None if task.terms.schedule is None else str(task.terms.schedule),
            "said_by": task.said_by,
            "queue": None if options is None else options.queue,
            "next": list(view.slots),
            "due": view.due,
            "last": None if last is None else self._last(last),
            "failures": view.failures,
            "last_success": book.last_success,
            "pause": None
            if pause is None
            else PauseFacts(at=pause.at, by=pause.by, note=pause.note),
            "max_age_s": None if max_age is None else max_age.total_seconds(),
            "stale_since": view.stale_since,
            "waiting": len(book.waiting),
            "running": [slot_run(entry) for entry in book.running],
            "strip": [self._strip(entry) for entry in reversed(entries)],
            "durations_ms": [
                entry.duration_ms for entry in reversed(entries) if entry.duration_ms is not None
            ],
        }

    def _last(self, entry: Entry) -> Last:
        return Last(
            slot=entry.last or entry.slot,
            outcome=entry.outcome.value,
            trigger=entry.trigger.value,
            recorded_at=entry.recorded_at,
            duration_ms=entry.duration_ms,
            late_ms=entry.late_ms,
            error=entry.error,
            run_id=entry.run_id,
            replica=entry.replica,
        )

    def _strip(self, entry: Entry) -> Strip:
        return Strip(
            slot=entry.slot,
            last=entry.last,
            count=entry.count,
            outcome=entry.outcome.value,
            duration_ms=entry.duration_ms,
            error=entry.error,
        )

    def _entry(self, entry: Entry) -> EntryFacts:
        return EntryFacts(
            slot=entry.slot,
            last=entry.last,
            count=entry.count,
            trigger=entry.trigger.value,
            outcome=entry.outcome.value,
            recorded_at=entry.recorded_at,
            run_id=entry.run_id,
            replica=entry.replica,
            late_ms=entry.late_ms,
            duration_ms=entry.duration_ms,
            error=entry.error,
            losses=entry.losses,
        )


def slot_run(entry: Entry) -> SlotRun:
    return SlotRun(
        slot=entry.slot,
        run_id=entry.run_id,
        trigger=entry.trigger.value,
        since=entry.recorded_at,
        replica=entry.replica,
        cancel=entry.cancel,
    )


def running_slots(views: Iterable[View]) -> Iterator[RunningRun]:
    """The slots that run."""
    for view in views:
        for entry in view.book.running:
            assert entry.outcome is Outcome.RUNNING
            yield RunningRun(
                kind="slot",
                task=view.name,
                id=entry.run_id or "",
                since=entry.recorded_at,
                replica=entry.replica,
                attempt=entry.losses + 1,
                progress=None,
                cancel=entry.cancel,
            )
