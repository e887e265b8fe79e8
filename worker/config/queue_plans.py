"""Which queues a worker polls, and how: from its tasks, a file, and what it was started with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.config.queues_file import load_queues
from worker.consuming.queue_plan import QueuePlan
from worker.errors import ConfigurationError, InvalidOptions, nearest
from worker.jobs.options import as_queue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from worker.jobs.job import Capabilities
    from worker.settings import Settings
    from worker.tasks.base import TaskDefinition

__all__ = ["plan_problems", "queue_plans", "unsupported"]


def queue_plans(
    settings: Settings,
    wanted: Sequence[str],
    tasks: Mapping[str, TaskDefinition],
    others: Iterable[str] = (),
) -> list[QueuePlan]:
    """How each queue is polled.

    Args:
        wanted: These queues only; none named means every queue of a known task.
        others: Queues of tasks that are known, but not run here.

    Raises:
        ConfigurationError: The queues file is wrong, or a name is none, or neither a task nor the
            file has a queue that is wanted.
    """
    default = QueuePlan(name="", visibility_timeout=settings.visibility_timeout)
    said = {} if settings.queues_file is None else load_queues(settings.queues_file, default)
    known = {t.options.queue: None for t in tasks.values() if t.options is not None}
    try:
        names = list(dict.fromkeys(as_queue("queue", name) for name in wanted)) or list(known)
    except InvalidOptions as exc:
        raise ConfigurationError([str(exc)]) from exc
    every = dict.fromkeys([*known, *others, *said])
    if unknown := [f"{name}{nearest(name, every)}" for name in names if name not in every]:
        raise ConfigurationError(
            [
                f"--queues: no task has the queue {', '.join(unknown)}; known: "
                f"{', '.join(sorted(every)) or 'none'}; a queue to which jobs are only enqueued by "
                "name has to be in WORKER_QUEUES_FILE"
            ]
        )
    # Several workers may share the file, so a queue that no task has is no error by itself.
    slips = [f"{name}{meant}" for name in said.keys() - known if (meant := nearest(name, known))]
    if slips:
        raise ConfigurationError(
            [f"WORKER_QUEUES_FILE: no task has the queue {', '.join(sorted(slips))}"]
        )
    return [
        said.get(name) or QueuePlan(name=name, visibility_timeout=settings.visibility_timeout)
        for name in names
    ]


def plan_problems(
    settings: Settings, plans: Sequence[QueuePlan], tasks: Mapping[str, TaskDefinition]
) -> Iterator[str]:
    """What cannot be kept of the plans."""
    by_name = {plan.name: plan for plan in plans}
    for task in tasks.values():
        plan = by_name.get(task.options.queue) if task.options is not None else None
        if plan is None or task.bulk is None:
            continue
        room = min(settings.concurrency, plan.concurrency or settings.concurrency)
        if task.bulk.max_batch_size > room:
            yield (
                f"{task.name}: max_batch_size is {task.bulk.max_batch_size}, but only {room} jobs "
                f"of the queue {plan.name} run at a time; raise WORKER_CONCURRENCY, or lower it"
            )


def unsupported(able: Capabilities, tasks: Mapping[str, TaskDefinition]) -> Iterator[str]:
    """What the tasks ask for and the engine cannot do."""
    for task in tasks.values():
        options = task.options
        if options is None:
            continue
        asked = {
            "priority": (options.priority != 0, able.priorities),
            "unique": (options.unique is not None, able.unique),
            "concurrency": (options.concurrency is not None, able.concurrency),
            "rate_limit": (options.rate_limit is not None, able.rates),
        }
        for option, (wanted, can) in asked.items():
            if wanted and not can:
                yield (
                    f"{task.name}: {option} is not possible with {able.backend}; leave it out, or "
                    "choose another WORKER_QUEUE_URL"
                )
