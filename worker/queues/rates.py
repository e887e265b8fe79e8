"""How many starts a rate allows: the arithmetic, for engines that have it done in Python."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from worker.jobs.job import Grant

if TYPE_CHECKING:
    from datetime import datetime

    from worker.jobs.job import Rate

__all__ = ["grant"]

NOTHING = timedelta(0)


def grant(
    rate: Rate, arrival: datetime | None, now: datetime, wanted: int
) -> tuple[Grant, datetime]:
    """What is allowed of ``wanted`` starts, and the arrival time from then on.

    The generic cell rate algorithm (ITU-T I.371).

    Args:
        arrival: When the next start was due if all came as fast as they may; ``None`` at first.
    """
    spacing, burst = rate.spacing, rate.burst
    arrival = now if arrival is None else max(arrival, now)
    room = now + spacing * burst - arrival
    granted = max(0, min(wanted, room // spacing))
    arrival += spacing * granted
    wait = arrival + spacing - spacing * burst - now
    return Grant(granted, max(wait, NOTHING)), arrival
