"""How many jobs end a minute, from counts of those that ended lately."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Throughput"]

LONGEST = timedelta(minutes=1)
SHORTEST = timedelta(seconds=1)
FEW, MANY = 1_000, 4_000
"""So many jobs are counted each time: enough for a good number, and not for a slow question."""


class Throughput:
    """Says over what time to count, so that it costs about the same however many jobs end.

    Attributes:
        window: How far back the next count shall go.
    """

    def __init__(self) -> None:
        self.window = timedelta(seconds=8)

    def note(self, ended: Mapping[str, int]) -> dict[str, float]:
        """How many jobs end a minute, by queue; a queue that is not named had none.

        Args:
            ended: How many have ended within `window`, by queue.
        """
        length_s = self.window.total_seconds()
        total = sum(ended.values())
        if total < FEW:
            self.window = min(LONGEST, self.window * 2)
        elif total > MANY:
            self.window = max(SHORTEST, self.window / 2)
        return {queue: round(count * 60 / length_s, 1) for queue, count in ended.items()}
