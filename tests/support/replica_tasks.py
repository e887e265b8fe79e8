"""Ten tasks that are due each second, for workers that share a store and do not live long."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from tests.support.witness import note

if TYPE_CHECKING:
    from worker import Scheduler

TASKS = tuple(f"tick_{number}" for number in range(10))
LONG = 1.2
"""Longer than a second: the next slot finds the task busy."""


async def tick(lasts_s: float) -> None:
    note("began")
    await asyncio.sleep(lasts_s)
    note("ended")


def register(scheduler: Scheduler) -> None:
    for number, name in enumerate(TASKS):
        lasts_s = LONG if number == 9 else 0.08 * number
        scheduler.register_task(partial(tick, lasts_s), name=name, interval_seconds=1)
