"""How each queue stands: how much waits, since when, what runs, what is dead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.durations import format_duration
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from worker.jobs.job import Job, QueueCount
    from worker.ledger.attendance import Pollers

__all__ = ["QueueFacts", "TaskCount", "queue_facts", "rounded", "unattended"]

UNATTENDED_S = 30.0
"""After so long somebody should have taken a job, unless all are busy with others."""

WAITING = frozenset({State.PENDING, State.RETRY})
RUNNING = frozenset({State.STARTED, State.PROGRESS})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCount:
    """How many jobs of one task are in a queue.

    Attributes:
        task: Empty for messages that nobody has looked into yet, as SQS has them.
        polled: Whether a worker that is up takes its jobs; ``None`` if that is not known.
        last_error: Of its latest dead letter, in one line, as far as anybody looked.
    """

    task: str
    waiting: int
    running: int
    dead: int
    polled: bool | None = None
    last_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """How a queue stands.

    Attributes:
        waiting: What is ready, and what waits for its time.
        dead: How many lie in the dead letters.
        oldest_age_s: For how long the one that waits longest could have been leased; ``None`` if
            none can.
        finished_per_minute: Over all workers, dead letters aside; ``None`` where nobody asked.
        polled_here: Whether this worker polls it.
        polled_by: The workers that are up and poll it, as they told the ledger; ``None`` if that
            is not known.
        workers: Those that had one of its jobs lately, as far as anybody looked.
    """

    name: str
    waiting: int
    running: int
    dead: int
    oldest_age_s: float | None
    finished_per_minute: float | None
    polled_here: bool
    polled_by: list[str] | None
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
    pollers: Pollers | None = None,
    dead: Mapping[tuple[str, str], str] | None = None,
) -> list[QueueFacts]:
    """Every queue that has jobs, is polled, or belongs to a task; by name.

    Args:
        known: The queues of the application's tasks, by the tasks' names.
        polled: Those that this worker polls.
        seen: Jobs that tell which workers are about.
        rates: How many jobs end a minute, by queue; none where a queue is not named.
        pollers: Who polls which queue; ``None`` if that is not known.
        dead: What the latest dead letter failed with, by queue and task.
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
    for (queue, task), error in (dead or {}).items():
        if task in (tasks := rows.get(queue, {})):
            tasks[task] = replace(tasks[task], last_error=error)
    workers: dict[str, set[str]] = {}
    busy: dict[str, set[str]] = {}
    for job in seen:
        if job.worker is not None:
            workers.setdefault(job.queue, set()).add(job.worker)
            if job.state in RUNNING:
                busy.setdefault(job.queue, set()).add(job.worker)

    def polling(queue: str, task: str = "") -> list[str] | None:
        """Who polls; not known where another than those who are known worked on it just now."""
        if pollers is None or busy.get(queue, set()) - pollers.known:
            return None
        found = pollers.of(queue, task)
        ends = (rates or {}).get(queue, 0.0) > 0 and queue not in pollers.lately
        return None if not found and ends else found

    def told(queue: str, count: TaskCount) -> TaskCount:
        who = polling(queue, count.task)
        return replace(count, polled=None if who is None else bool(who))

    return [
        QueueFacts(
            name=name,
            waiting=sum(task.waiting for task in tasks.values()),
            running=sum(task.running for task in tasks.values()),
            dead=sum(task.dead for task in tasks.values()),
            oldest_age_s=max(0.0, round((now - oldest[name]).total_seconds(), 3))
            if name in oldest
            else None,
            finished_per_minute=None if rates is None else rates.get(name, 0.0),
            polled_here=name in polled,
            polled_by=polling(name),
            workers=sorted(workers.get(name, ())),
            tasks=[told(name, tasks[task]) for task in sorted(tasks)],
        )
        for name, tasks in sorted(rows.items())
    ]


def unattended(queue: QueueFacts) -> tuple[str, str] | None:
    """That nobody polls a queue in which something waits, and why one says so; else ``None``.

    Known where the ledger knows who polls; judged by what waits and what runs where it does not.
    """
    if queue.polled_by is None:
        why = nobody_seems_to_work(queue)
        return None if why is None else (f"nobody seems to work on the queue {queue.name}", why)
    left = [task for task in queue.tasks if task.waiting and task.polled is False]
    if queue.oldest_age_s is None or not left:
        return None
    waiting = sum(task.waiting for task in left)
    many = "1 job waits" if waiting == 1 else f"{waiting} jobs wait"
    if not queue.polled_by:
        return (
            f"nobody polls the queue {queue.name}: {many}",
            f"of the workers that are up none polls it; `worker start --queues {queue.name}` does",
        )
    names = ", ".join(task.task for task in left)
    return (
        f"nobody polls the queue {queue.name} for {names}: {many}",
        "those that poll it run other tasks only (--only)",
    )


def nobody_seems_to_work(queue: QueueFacts) -> str | None:
    """Why it seems that nobody works on a queue; ``None`` if it does not seem so."""
    age_s, ends = queue.oldest_age_s, queue.finished_per_minute
    if age_s is None or age_s <= UNATTENDED_S or queue.running or ends or queue.polled_here:
        return None
    many = "1 job waits" if queue.waiting == 1 else f"{queue.waiting} jobs wait"
    return f"{many}, the oldest for {rounded(age_s)}, and none runs; who polls it is not known"


def rounded(seconds: float) -> str:
    """A time that passes, in steps, so that what is told of it does not change all the time."""
    step = 60 if seconds >= 60 else 10
    return format_duration(timedelta(seconds=step * max(1, round(seconds / step))))
