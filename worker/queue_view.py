"""How each queue stands: how much waits, since when, what runs, what is dead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from worker.job import Job, QueueCount

__all__ = ["QueueFacts", "TaskCount", "queue_facts"]

WAITING = frozenset({State.PENDING, State.RETRY})
RUNNING = frozenset({State.STARTED, State.PROGRESS})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCount:
    """How many jobs of one task are in a queue.

    Attributes:
        task: Empty for messages that nobody has looked into yet, as SQS has them.
    """

    task: str
    waiting: int
    running: int
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """How a queue stands.

    Attributes:
        waiting: What is ready, and what waits for its time.
        dead: How many lie in the dead letters.
        oldest_age_s: For how long the one that waits longest could have been leased; ``None`` if
            none can.
        finished_per_minute: Over all workers, while somebody looks; ``None`` until that is known.
        polled_here: Whether this worker polls it.
        workers: Those that had one of its jobs lately, as far as anybody looked.
    """

    name: str
    waiting: int
    running: int
    dead: int
    oldest_age_s: float | None
    finished_per_minute: float | None
    polled_here: bool
    workers: list[str]
    tasks: list[TaskCount]


def queue_facts(
    counts: Iterable[QueueCount],
    *,
    now: datetime,
    known: Mapping[str, str],
    polled: Collection[str] = (),
    seen: Iterable[Job] = (),
    rates: Mapping[str, float] | None = None,
) -> list[QueueFacts]:
    """Every queue that has jobs, is polled, or belongs to a task; by name.

    Args:
        known: The queues of the application's tasks, by the tasks' names.
        polled: Those that this worker polls.
        seen: Jobs that tell which workers are about.
        rates: How many jobs end a minute, by queue.
    """
    rows: dict[str, dict[str, TaskCount]] = {queue: {} for queue in polled}
    for task, queue in known.items():
        rows.setdefault(queue, {})[task] = TaskCount(task=task, waiting=0, running=0, dead=0)
    oldest: dict[str, datetime] = {}
    for count in counts:
        tasks = rows.setdefault(count.queue, {})
        before = tasks.get(count.task) or TaskCount(task=count.task, waiting=0, running=0, dead=0)
        tasks[count.task] = replace(
            before,
            waiting=before.waiting + (count.jobs if count.state in WAITING else 0),
            running=before.running + (count.jobs if count.state in RUNNING else 0),
            dead=before.dead + count.dead,
        )
        if count.oldest is not None and count.state in WAITING:
            oldest[count.queue] = min(count.oldest, oldest.get(count.queue, count.oldest))
    workers: dict[str, set[str]] = {}
    for job in seen:
        if job.worker is not None:
            workers.setdefault(job.queue, set()).add(job.worker)
    return [
        QueueFacts(
            name=name,
            waiting=sum(task.waiting for task in tasks.values()),
            running=sum(task.running for task in tasks.values()),
            dead=sum(task.dead for task in tasks.values()),
            oldest_age_s=max(0.0, round((now - oldest[name]).total_seconds(), 3))
            if name in oldest
            else None,
            finished_per_minute=(rates or {}).get(name),
            polled_here=name in polled,
            workers=sorted(workers.get(name, ())),
            tasks=[tasks[task] for task in sorted(tasks)],
        )
        for name, tasks in sorted(rows.items())
    ]
