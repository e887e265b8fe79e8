"""What the latest calls of the Data API found: whether it answers, and whom it lets in."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from worker.events import CallEnded
from worker.scheduling.moments import at

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.events import Event

__all__ = ["DataApiState", "DataApiTrouble", "Finding"]

RECENT = timedelta(minutes=2)
"""How long the latest call tells how it is; later only how it was."""
ABSENT = frozenset({502, 503, 504})
"""What stands in for the Data API says this when it is not there."""
REFUSALS = frozenset({401, 403})
MANY = 3
"""After so many answers that are errors in a row it is not one call's own fault."""
MOST_TASKS = 5


class Finding(StrEnum):
    """What is the matter."""

    SILENT = "silent"
    REFUSES = "refuses"
    FAILS = "fails"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataApiTrouble:
    """The latest calls, in a row, that found the same thing wrong.

    Attributes:
        status: Of the latest answer; ``None`` if there was none.
        last: When the latest of them ended.
        tasks: Who called.
        recent: Whether that is so short ago that it tells how it is now.
    """

    finding: Finding
    calls: int
    status: int | None
    last: datetime
    tasks: tuple[str, ...]
    recent: bool = True

    @property
    def what(self) -> str:
        """What is wrong, for the one on call."""
        if not self.recent:
            return "the Data API was in trouble when it was last called"
        match self.finding:
            case Finding.REFUSES:
                return (
                    f"the Data API refuses this worker ({self.status}): look at "
                    "WORKER_DATA_API_TOKEN or WORKER_DATA_API_TOKEN_FILE"
                )
            case Finding.FAILS:
                return f"the Data API answers {self.status} to everything"
            case Finding.SILENT:
                return "the Data API does not answer"

    @property
    def found(self) -> str:
        """What the calls found, without any name."""
        requests = "the last request" if self.calls == 1 else f"the last {self.calls} requests"
        end = (
            f"at {self.last:%H:%M:%S}Z" if self.calls == 1 else f"the last at {self.last:%H:%M:%S}Z"
        )
        what = {
            Finding.SILENT: "no answer to",
            Finding.REFUSES: f"status {self.status} to",
            Finding.FAILS: f"status {self.status} to",
        }[self.finding]
        return f"{what} {requests}, {end}"

    def why(self, now: datetime) -> str:
        """What the calls found, and whose they were."""
        names = [*self.tasks[:MOST_TASKS], *(["others"] if len(self.tasks) > MOST_TASKS else [])]
        later = "" if self.recent else f"; nobody has called it since, {at(self.last, now)}"
        return f"{self.found}, by {', '.join(names)}{later}"


class DataApiState:
    """Listens to what becomes of the tasks' calls. It asks nothing itself."""

    def __init__(
        self,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self._told = 0.0
        self._trouble: DataApiTrouble | None = None

    def __call__(self, event: Event) -> None:
        if not isinstance(event, CallEnded):
            return
        if event.status is None and not isinstance(event.failure, Exception):
            return  # given up by ourselves: that says nothing
        finding, before = finding_of(event.status), self._trouble
        if finding is None:
            self._trouble = None
            return
        goes_on = before is not None and before.finding is finding
        tasks = before.tasks if goes_on and before is not None else ()
        self._told = self._monotonic()
        self._trouble = DataApiTrouble(
            finding=finding,
            calls=before.calls + 1 if goes_on and before is not None else 1,
            status=event.status,
            last=self._now(),
            tasks=tasks if event.task in tasks else (*tasks, event.task),
        )

    @property
    def trouble(self) -> DataApiTrouble | None:
        """What is wrong with it, as far as the latest calls tell."""
        found = self._trouble
        if found is None or (found.finding is Finding.FAILS and found.calls < MANY):
            return None
        recent = self._monotonic() - self._told <= RECENT.total_seconds()
        return replace(found, recent=recent)


def finding_of(status: int | None) -> Finding | None:
    if status is None or status in ABSENT:
        return Finding.SILENT
    if status in REFUSALS:
        return Finding.REFUSES
    return Finding.FAILS if status >= 500 else None
