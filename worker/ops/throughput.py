"""How many jobs end a minute, from counts of those that have ended."""

from __future__ import annotations

from collections import deque

__all__ = ["Throughput"]

WINDOW_S = 60.0
SHORTEST_S = 1.5


class Throughput:
    """Compares counts, as long as somebody has them counted.

    Old jobs are forgotten now and then, which lowers a count: such a step counts as nothing.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[float, float, dict[str, int]]] = deque()
        self._last: tuple[float, dict[str, int]] | None = None

    def note(self, ended: dict[str, int], now: float) -> dict[str, float]:
        """How many jobs end a minute, by queue; empty until that is known.

        Args:
            ended: How many jobs have ended and are not forgotten yet, by queue.
            now: In seconds, on the monotonic clock.
        """
        last, self._last = self._last, (now, ended)
        if last is None or now - last[0] > WINDOW_S:
            self._steps.clear()
            return {}
        grown = {queue: max(0, count - last[1].get(queue, 0)) for queue, count in ended.items()}
        self._steps.append((last[0], now, grown))
        while self._steps[0][0] < now - WINDOW_S:
            self._steps.popleft()
        length = now - self._steps[0][0]
        if length < SHORTEST_S:
            return {}
        totals = dict.fromkeys(ended, 0)
        for _, _, step in self._steps:
            for queue, count in step.items():
                totals[queue] = totals.get(queue, 0) + count
        return {queue: round(total * 60 / length, 1) for queue, total in totals.items()}
