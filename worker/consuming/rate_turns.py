"""When those jobs come back that a rate did not allow to begin."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.clock import Clock
    from worker.jobs.job import Rate

__all__ = ["RateTurns"]

LONGEST = timedelta(minutes=5)


class RateTurns:
    """Spreads the jobs of each task over the time to come, as the rate has it.

    A large backlog would otherwise be leased and given back again and again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def next(self, task: str, rate: Rate, wait: timedelta, count: int) -> Iterator[timedelta]:
        """How long each of ``count`` jobs is to wait.

        The first one takes the next moment that is free, unless another has it: it may have come
        for its turn, and a little too early. All others get in line behind those that were sent
        away before.

        Args:
            wait: Until the rate allows another start.
        """
        now = self._clock.monotonic()
        soon, latest = now + wait.total_seconds(), now + max(LONGEST, wait).total_seconds()
        for _ in range(count):
            if self._next.get(task, now) <= now:
                moment = self._next[task] = soon
                self._last[task] = max(soon, self._last.get(task, soon))
            else:
                moment = min(self._last[task] + rate.spacing.total_seconds(), latest)
                self._last[task] = moment
            yield timedelta(seconds=max(0.0, moment - now))
