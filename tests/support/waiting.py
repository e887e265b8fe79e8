"""Waiting for what is to happen, instead of for how long it usually takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LONGEST_S = 10.0


async def wait_until(predicate: Callable[[], bool], why: str) -> None:
    """Return as soon as ``predicate()`` holds. ``why`` says what was waited for, if it never does.

    Raises:
        AssertionError: It did not hold within ten seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONGEST_S
    while not predicate():
        assert loop.time() < deadline, f"waited in vain until {why}"
        await asyncio.sleep(0.001)
