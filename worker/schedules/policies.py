"""What holds for a schedule beside its moments: overlap, catch-up, jitter, limits, promises."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from worker.schedules.catch_up import CatchUp
from worker.schedules.schedule import OFF, Schedule

__all__ = ["Overlap", "Policies", "TaskSchedule"]


class Overlap(StrEnum):
    """What happens to a slot that is due while a run of the same task goes on, anywhere."""

    SKIP = "skip"
    """It is recorded as ``skipped_overlap``."""
    BUFFER_ONE = "buffer_one"
    """It waits for its turn, if no other does; else it is skipped."""
    BUFFER_ALL = "buffer_all"
    """It waits for its turn behind the others, up to `Policies.buffer_limit` of them."""
    CANCEL_OTHER = "cancel_other"
    """The run that goes on is cancelled, and the slot runs as soon as that has ended."""
    ALLOW_ALL = "allow_all"
    """It runs beside the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """How a schedule is kept.

    Attributes:
        overlap: What to do with a slot while a run goes on.
        buffer_limit: How many slots may wait for their turn with ``buffer_all``.
        catch_up: Which of the slots that passed unseen are made good.
        jitter: The most that a run may be put off after its slot, to spread the load.
        max_runs: How many slots may run in all; ``None`` for no end.
        pause_after_failures: Pause the schedule after so many failed runs in a row.
        retry_lost: How often a slot is run again whose replica died under it.
        needs_ledger: Whether the task waits while the store is down. If not it runs unrecorded,
            and two replicas may both run it.
        max_age: How old the last success may become before the task counts as stale.

    Raises:
        ValueError: A number or duration is out of its range.
    """

    overlap: Overlap = Overlap.SKIP
    buffer_limit: int = 100
    catch_up: CatchUp = field(default_factory=CatchUp)
    jitter: timedelta = OFF
    max_runs: int | None = None
    pause_after_failures: int | None = None
    retry_lost: int = 0
    needs_ledger: bool = True
    max_age: timedelta | None = None

    def __post_init__(self) -> None:
        for name in ("buffer_limit", "max_runs", "pause_after_failures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if self.retry_lost < 0:
            raise ValueError(f"retry_lost must be 0 or more, got {self.retry_lost}")
        if self.jitter < OFF:
            raise ValueError(f"a jitter puts runs off, it cannot be negative, got {self.jitter}")
        if self.max_age is not None and self.max_age <= OFF:
            raise ValueError(f"max_age must be longer than nothing, got {self.max_age}")


@dataclass(frozen=True, slots=True)
class TaskSchedule:
    """One task's schedule. Without a ``schedule`` the task only runs by hand."""

    task: str
    schedule: Schedule | None
    policies: Policies = field(default_factory=Policies)
