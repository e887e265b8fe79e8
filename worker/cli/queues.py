"""The command ``worker queues``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.admin.presence import who_is_there
from worker.admin.queues import QueueFacts, queue_facts, unattended
from worker.cli.casualties import tell_lost
from worker.cli.terminal import (
    as_text,
    complaints,
    print_table,
    ready_settings,
    remark,
    say,
)
from worker.durations import format_duration
from worker.jobs.job import JobQuery
from worker.model import State
from worker.process import run_to_end

if TYPE_CHECKING:
    from collections.abc import Collection

    from worker.ledger.attendance import Pollers
    from worker.settings import Settings

__all__ = ["show_queues"]

LOOKED_AT = 100
"""How many jobs are looked at for the names of the workers."""
UNKNOWN = "no task here has that name"
FIELDS = ("name", "waiting", "oldest_age_s", "running", "dead", "polled_by", "workers", "tasks")
MOST_NAMES = 5


def show_queues(
    tasks: Annotated[bool, typer.Option("--tasks", help="A line for each task, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show each queue: what waits and since when, what runs, what is dead, who polls it.

    Who polls is what the workers that are up told the ledger. Where it cannot know them all, those
    are named that were seen running jobs of it: now, or among the last hundred jobs. Jobs of a
    task that is unknown here have a line of their own.
    """
    with complaints():
        settings = ready_settings()[0]
        there, lost = who_is_there(settings)
        queues, known = run_to_end(look(settings, there))
    tell_lost(lost)
    for queue in queues:
        if (found := unattended(queue)) is not None:
            remark(f"worker: {': '.join(found)}")
    if queues and there.why_unknown is not None:
        remark(f"worker: it is not known who polls: {there.why_unknown}")
    if as_json:
        say(as_text([as_dict(queue) for queue in queues], indent=None))
        return
    if not queues:
        remark("there are no queues: no task can be asked for, and no job is recorded")
    rows = []
    for queue in queues:
        counts = (str(queue.waiting), age(queue), str(queue.running), str(queue.dead))
        rows.append((queue.name, *counts, who(queue)))
        for task in queue.tasks:
            strange = bool(task.waiting and task.task) and task.task not in known
            if tasks or strange:
                name, note = task.task or "(not looked into yet)", UNKNOWN if strange else ""
                many = (str(task.waiting), "", str(task.running), str(task.dead))
                rows.append((f"  {name}", *many, note))
    print_table(("queue", "waiting", "oldest", "running", "dead", "polled by"), rows)


def who(queue: QueueFacts) -> str:
    """Who polls a queue; who was seen working on it where that is not known."""
    if queue.polled_by is None:
        seen = f", seen: {', '.join(queue.workers)}" if queue.workers else ""
        return f"not known{seen}"
    more = len(queue.polled_by) - MOST_NAMES
    names = [*queue.polled_by[:MOST_NAMES], *([f"{more} more"] if more > 0 else [])]
    return ", ".join(names) or "nobody"


async def look(settings: Settings, pollers: Pollers) -> tuple[list[QueueFacts], Collection[str]]:
    """The queues, and the names of the application's tasks."""
    from worker.admin.jobs import open_jobs
    from worker.admin.schedules import registered
    from worker.cli.jobs import views_of

    known = await registered(settings)
    running = JobQuery(states=frozenset({State.STARTED}), limit=LOOKED_AT)
    async with open_jobs(settings) as admin:
        seen = [*await admin.find(running), *await admin.find(JobQuery(limit=LOOKED_AT))]
        dead = views_of(await admin.find(JobQuery(dead=True, limit=LOOKED_AT)), settings)
        facts = queue_facts(
            await admin.counts(),
            now=datetime.now(UTC),
            known={
                name: task.definition.options.queue
                for name, task in known.items()
                if task.definition.options is not None
            },
            seen=seen,
            pollers=pollers,
            dead={(one.job.queue, one.job.task): one.error() for one in reversed(dead)},
        )
    return facts, known


def as_dict(queue: QueueFacts) -> dict[str, Any]:
    told = asdict(queue)
    return {field: told[field] for field in FIELDS}


def age(queue: QueueFacts) -> str:
    """For how long the oldest job waits."""
    if queue.oldest_age_s is None:
        return "-"
    return format_duration(timedelta(seconds=round(queue.oldest_age_s)))
