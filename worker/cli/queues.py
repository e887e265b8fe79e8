"""The command ``worker queues``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.admin.queues import QueueFacts, queue_facts
from worker.cli.terminal import as_text, complaints, print_table, ready_settings, remark, say
from worker.durations import format_duration
from worker.jobs.job import JobQuery
from worker.model import State
from worker.process import run_to_end

if TYPE_CHECKING:
    from worker.settings import Settings

__all__ = ["show_queues"]

LOOKED_AT = 100
"""How many jobs are looked at for the names of the workers."""
FIELDS = ("name", "waiting", "oldest_age_s", "running", "dead", "workers", "tasks")


def show_queues(
    tasks: Annotated[bool, typer.Option("--tasks", help="A line for each task, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show each queue: what waits and since when, what runs, what is dead, who works on it.

    The workers are those seen running jobs of it: now, or among the last hundred jobs. One that
    polls it and found nothing to do is not named.
    """
    with complaints():
        queues = run_to_end(look(ready_settings()[0]))
    if as_json:
        say(as_text([as_dict(queue) for queue in queues], indent=None))
        return
    if not queues:
        remark("there are no queues: no task can be asked for, and no job is recorded")
    rows = []
    for queue in queues:
        counts = (str(queue.waiting), age(queue), str(queue.running), str(queue.dead))
        rows.append((queue.name, *counts, ", ".join(queue.workers) or "-"))
        for task in queue.tasks if tasks else ():
            name = f"  {task.task or '(not looked into yet)'}"
            rows.append((name, str(task.waiting), "", str(task.running), str(task.dead), ""))
    print_table(("queue", "waiting", "oldest", "running", "dead", "workers"), rows)


async def look(settings: Settings) -> list[QueueFacts]:
    from worker.admin.jobs import open_jobs
    from worker.admin.schedules import registered

    known = await registered(settings)
    running = JobQuery(states=frozenset({State.STARTED}), limit=LOOKED_AT)
    async with open_jobs(settings) as admin:
        seen = [*await admin.find(running), *await admin.find(JobQuery(limit=LOOKED_AT))]
        return queue_facts(
            await admin.counts(),
            now=datetime.now(UTC),
            known={
                name: task.definition.options.queue
                for name, task in known.items()
                if task.definition.options is not None
            },
            seen=seen,
        )


def as_dict(queue: QueueFacts) -> dict[str, Any]:
    told = asdict(queue)
    return {field: told[field] for field in FIELDS}


def age(queue: QueueFacts) -> str:
    """For how long the oldest job waits."""
    if queue.oldest_age_s is None:
        return "-"
    return format_duration(timedelta(seconds=round(queue.oldest_age_s)))
