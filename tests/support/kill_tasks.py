"""Jobs for workers that do not live long. Each run writes its id to a file, whatever follows."""

from __future__ import annotations

import asyncio
import os

from worker import RunContext, task

VARIABLE = "KILL_WITNESS"


@task(name="step", retry_delay="100ms", max_retries=1)
async def step(number: int, context: RunContext) -> int:
    """Take a while, so that a kill finds some in the middle. One in a hundred always fails."""
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, f"{context.job_id}\n".encode())  # in one piece: O_APPEND
    finally:
        os.close(file)
    await asyncio.sleep(0.05)
    if number % 100 == 99:
        raise ValueError("one in a hundred")
    return number
