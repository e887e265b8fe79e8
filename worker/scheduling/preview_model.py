"""What a preview is made from, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from worker.schedules.schedule import EPOCH, OFF, as_utc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.ledger.book import Outcome
    from worker.schedules.outage import Outage

__all__ = ["Line", "Preview", "SimulatedClock"]

MOST_REPLICAS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What to simulate.

    Attributes:
        start: The first moment whose slots are shown.
        end: The first moment whose slots are not shown any more.
        outages: When no replica is up.
        replicas: How many share the ledger.
        takes: How long a run goes on: each task's, by name, or that of all. By default no time.
        first_run_delay, first_run_spread: When tasks that are overdue are looked at after an
            outage, as `worker.scheduling.scheduler.FirstRun` has it.

    Raises:
        ValueError: A moment has no time zone, or something is out of its range.
    """

    start: datetime
    end: datetime
    outages: tuple[Outage, ...] = ()
    replicas: int = 1
    takes: Mapping[str, timedelta] | timedelta = OFF
    first_run_delay: timedelta = timedelta(seconds=1)
    first_run_spread: timedelta = timedelta(seconds=5)

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", as_utc(self.start))
        object.__setattr__(self, "end", as_utc(self.end))
        if self.end <= self.start:
            raise ValueError(
                f"a preview must end after it starts, got {self.start.isoformat()} to "
                f"{self.end.isoformat()}"
            )
        if not 1 <= self.replicas <= MOST_REPLICAS:
            raise ValueError(f"replicas must be from 1 to {MOST_REPLICAS}, got {self.replicas}")
        takes = self.takes
        for duration in [takes] if isinstance(takes, timedelta) else takes.values():
            if duration < OFF:
                raise ValueError(f"a run cannot take less than no time, got {duration}")

    def run_time(self, task: str) -> timedelta:
        if isinstance(self.takes, timedelta):
            return self.takes
        return self.takes.get(task, OFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What becomes of one slot, or of several in a row that share their fate. In UTC.

    Attributes:
        slot: The nominal time.
        last, count: For a row of slots: the last of them, and how many there are.
        outcome: The last word, but for what still runs or waits when the preview ends.
        started_at: When the run really began, after jitter, delay and catch-up.
        replica: Which of the simulated replicas ran it.
        note: Why, in words; empty where nothing is remarkable.
    """

    task: str
    slot: datetime
    outcome: Outcome
    last: datetime | None = None
    count: int = 1
    started_at: datetime | None = None
    replica: str | None = None
    note: str = ""


class SimulatedClock:
    """A `worker.clock.Clock` that stands where it was set."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return (self.moment - EPOCH).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)
