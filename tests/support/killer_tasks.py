"""Jobs that kill the process they run in, and harmless ones. Each says in a file that it began."""

from __future__ import annotations

import ctypes
import os
import signal

from worker import RunContext, task

VARIABLE = "KILLER_WITNESS"


def began(job_id: str) -> None:
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{job_id}\n".encode())
    finally:
        os.close(file)


def die(way: str) -> None:
    if way == "exit":
        os._exit(1)
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    ctypes.string_at(0)


@task()
async def harmless(context: RunContext) -> None:
    began(context.job_id)


@task(rate_limit="1/s")
async def limited(context: RunContext) -> None:
    began(context.job_id)


@task()
async def killer(way: str, context: RunContext) -> None:
    began(context.job_id)
    die(way)


@task()
def killer_in_a_thread(way: str, context: RunContext) -> None:
    began(context.job_id)
    die(way)
