"""What is wrong with a schedule, in words: for the banner, the list, and `worker explain` alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from worker.durations import format_duration
from worker.ledger.book import Outcome
from worker.scheduling.moments import at
from worker.scheduling.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.scheduling.standing import View

__all__ = ["Concern", "Severity", "concerns_of"]

Severity = Literal["info", "warning", "critical"]
MANY_FAILURES = 3
BY_ITSELF = "pause_after_failures"


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that is not as it should be; ``info`` is worth knowing, and no fault."""

    about: Standing
    severity: Severity
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


def concerns_of(view: View) -> list[Concern]:
    """What is wrong with a schedule, or worth knowing."""
    return [*staleness(view), *failures(view), *overdue(view), *not_made_good(view)]


def staleness(view: View) -> Iterator[Concern]:
    """It is stale, or paused, or both: then the pause is why."""
    max_age, stale_since, success = (
        view.task.terms.policies.max_age,
        view.stale_since,
        view.book.last_success,
    )
    paused = paused_by(view)
    if stale_since is None or max_age is None:
        if paused is not None:
            yield Concern(Standing.PAUSED, "info", f"{view.name} is paused", paused)
        return
    last = (
        "it never succeeded"
        if success is None
        else f"its last success was at {at(success, view.now)}"
    )
    told = f"a success is due every {format_duration(max_age)}; {last}"
    what = f"{view.name} is stale since {at(stale_since, view.now)}"
    if paused is not None:
        by_itself = view.book.pause is not None and view.book.pause.by == BY_ITSELF
        yield Concern(
            Standing.PAUSED,
            "critical" if by_itself else "warning",
            what,
            f"it is paused {paused}; {told}",
        )
        return
    off = f"it is off, {view.task.said_by} says so; " if view.off else ""
    yield Concern(Standing.STALE, "critical", what, f"{off}{told}")


def paused_by(view: View) -> str | None:
    pause = view.book.pause
    if pause is None or view.off:
        return None
    note = f": {pause.note}" if pause.note else ""
    return f"by {pause.by}, since {at(pause.at, view.now)}{note}"


def failures(view: View) -> Iterator[Concern]:
    """Its last runs failed; of what runs no more that is history, on demand whoever asked knows."""
    book = view.book
    if not book.failures or view.task.on_demand:
        return
    many = "its last run" if book.failures == 1 else f"its last {book.failures} runs"
    when = "" if book.last_ended is None else f", the last at {at(book.last_ended, view.now)}"
    error = book.last_error or "no error is recorded"
    if view.off:
        yield Concern(Standing.OFF, "info", f"{view.name} is off; {many} failed{when}", error)
    elif view.over:
        yield Concern(
            Standing.OVER, "warning", f"{view.name} is over, and fails: {many} failed{when}", error
        )
    else:
        severity: Severity = "critical" if book.failures >= MANY_FAILURES else "warning"
        yield Concern(Standing.FAILING, severity, f"{view.name} fails: {many} failed{when}", error)


def overdue(view: View) -> Iterator[Concern]:
    """A slot is due, and nothing is recorded of it."""
    if view.overdue is not None:
        yield Concern(
            Standing.OVERDUE,
            "warning",
            f"{view.name} is overdue: its slot of {at(view.overdue, view.now)}",
            f"no worker has recorded anything of it; `worker explain {view.name}` looks further",
        )


def not_made_good(view: View) -> Iterator[Concern]:
    """Its latest slot was missed or lost, and no run has ended since; paused, none is to come."""
    missed = view.missed
    if missed is None:
        return
    lost = missed.entry.outcome is Outcome.LOST
    if missed.entry.count > 1:
        which = f"its {missed.entry.count} slots up to that of {at(missed.slot, view.now)}"
    else:
        which = f"its slot of {at(missed.slot, view.now)}"
    what = f"the run for {which} was lost" if lost else f"missed {which}"
    told = f"{view.name}: {what}" if lost else f"{view.name} {what}"
    severity: Severity = "warning" if view.book.pause is None else "info"
    yield Concern(Standing.MISSED, severity, told, missed.why(view.now))
