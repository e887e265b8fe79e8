"""Ends asyncio tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["end_task"]

AGAIN_S = 0.1
MOST_TRIES = 50


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task, again and again until it has ended, for five seconds at most. Never raises.

    Once is not enough: before Python 3.12 `asyncio.wait_for` loses a cancellation that comes
    together with what it waits for, and redis-py waits by it for answers.
    """
    for _ in range(MOST_TRIES):
        if task.done():
            return
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_S)
