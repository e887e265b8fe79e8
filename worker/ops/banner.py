"""What is not as it should be, for the banner: each with its reason, the gravest first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from worker.admin.queues import rounded, unattended
from worker.durations import format_duration
from worker.errors import NotSupported
from worker.ops.causes import of_data_api, of_schedule, unreached
from worker.ops.models import Problem
from worker.ops.stalls import PAST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from worker.admin.presence import Casualty
    from worker.admin.queues import QueueFacts
    from worker.app import Worker
    from worker.ops.health import Health
    from worker.ops.models import ReplicaFacts, Severity
    from worker.scheduling.dropped import Dropped
    from worker.scheduling.standing import View

__all__ = ["LostReplica", "problems_of", "status_of"]

LostReplica: TypeAlias = "tuple[Casualty, int]"
"""With the number of jobs that it holds still."""

MOST = 50
GRAVITY: list[Severity] = ["critical", "warning", "info"]
MOST_STALLS = 3
MOST_LOST = 10
CAUSES = {"store": "store", "queues": "queue", "data_api": "data_api"}
"""What all tasks share, and of which kind that is."""
OLD_S = 300.0
"""How long a job may wait before that is worth a word."""


def status_of(problems: Sequence[Problem]) -> Literal["ok", "warning", "critical"]:
    """The gravest."""
    found = {problem.severity for problem in problems}
    if "critical" in found:
        return "critical"
    return "warning" if "warning" in found else "ok"


def problems_of(
    worker: Worker,
    health: Health,
    *,
    replicas: Sequence[ReplicaFacts] | Exception,
    views: Sequence[View] | Exception,
    queues: Sequence[QueueFacts] | Exception,
    dropped: Sequence[Dropped] | Exception = (),
    lost: Sequence[LostReplica] = (),
    redact: Callable[[str], str],
) -> list[Problem]:
    """What is wrong, as far as it is known; an exception stands for what cannot be asked.

    Args:
        lost: The replicas that were lost lately.
        redact: Takes out of each text what is not to be seen: errors are others' words.
    """
    found = [
        *own(worker, health),
        *stores(worker, health, replicas, views, queues),
        *losses(lost),
    ]
    known = [] if isinstance(views, Exception) else views
    silenced = unreached(known)
    found += of_data_api(health.data_api.trouble, silenced)
    for view in known:
        found += of_schedule(view, silenced=view in silenced)
    if not isinstance(dropped, Exception):
        found += map(of_dropped, dropped)
    if not isinstance(queues, Exception):
        for queue in queues:
            found += of_queue(queue)
    found.sort(key=order)
    return [replace(one, what=redact(one.what), why=redact(one.why)) for one in found[:MOST]]


def order(problem: Problem) -> tuple[bool, int]:
    """What may be the cause of all else first, then by gravity."""
    causes = CAUSES.get(problem.name) == problem.kind and problem.severity != "info"
    return not causes, GRAVITY.index(problem.severity)


def own(worker: Worker, health: Health) -> Iterator[Problem]:
    """What concerns this worker itself."""
    name = worker.ledger.replica
    if health.stopping:
        yield Problem(
            severity="info",
            what="this worker is about to end",
            why="it was asked to",
            kind="worker",
            name=name,
        )
    for what, why in health.live().problems.items():
        yield Problem(
            severity="critical", what=f"the {what} stands still", why=why, kind="worker", name=name
        )
    stalls = health.stalls.lately()
    if stalls:
        many = "once" if len(stalls) == 1 else f"{len(stalls)} times"
        held = [
            f"{stall.holder or 'no task'} held it for {'' if stall.ended else 'at least '}"
            f"{stall.lasted_s:.1f} s, from {stall.at:%Y-%m-%d %H:%M:%S}Z"
            for stall in stalls[:MOST_STALLS]
        ]
        yield Problem(
            severity="warning",
            what=f"this worker's event loop stood still, {many} within {format_duration(PAST)}",
            why="; ".join(held),
            kind="worker",
            name=name,
        )


def stores(
    worker: Worker,
    health: Health,
    replicas: Sequence[ReplicaFacts] | Exception,
    views: Sequence[View] | Exception,
    queues: Sequence[QueueFacts] | Exception,
) -> Iterator[Problem]:
    """What concerns the ledger and the queues' engine."""
    read = next((str(part) for part in (views, replicas) if isinstance(part, Exception)), None)
    if (why := worker.ledger.trouble or read) is not None:
        what = "the store cannot be used: nothing is known of schedules"
        yield Problem(severity="critical", what=what, why=why, kind="store", name="store")
    told = health.queue_trouble
    blind = isinstance(queues, Exception) and not isinstance(queues, NotSupported)
    counted = str(queues) if blind else None
    if (why := told or counted) is not None:
        unknown = ", and nothing is known of them" if counted is not None else ""
        what = f"the queues cannot be used: no job is run{unknown}"
        yield Problem(severity="critical", what=what, why=why, kind="queue", name="queues")


def losses(lost: Sequence[LostReplica]) -> Iterator[Problem]:
    """Who was lost: worth a warning as long as it is not back, or if it happens again and again."""
    for one, held in lost[:MOST_LOST]:
        many = "1 job" if held == 1 else f"{held} jobs"
        left = f"; {many} that it ran will be taken over once their leases have run out"
        yield Problem(
            severity="warning" if one.lost.is_missing else "info",
            what=one.lost.what,
            why=f"{one.why}{left if held and one.lost.back is None else ''}",
            kind="worker",
            name=one.lost.name,
        )
    if (more := len(lost) - MOST_LOST) > 0:
        yield Problem(
            severity="warning",
            what=f"{more} more replicas were lost",
            why="the list of workers has them",
            kind="worker",
            name="workers",
        )


def of_dropped(gone: Dropped) -> Problem:
    """A schedule that the ledger knows, and no task here has."""
    return Problem(
        severity="warning" if gone.elsewhere is None else "info",
        what=gone.what,
        why=gone.why(datetime.now(UTC)),
        kind="schedule",
        name=gone.name,
    )


def of_queue(queue: QueueFacts) -> Iterator[Problem]:
    """What is wrong with a queue."""
    if queue.dead:
        tasks = ", ".join(f"{task.dead} of {task.task or '?'}" for task in queue.tasks if task.dead)
        many = "1 dead letter" if queue.dead == 1 else f"{queue.dead} dead letters"
        yield Problem(
            severity="warning",
            what=f"{many} in the queue {queue.name}",
            why=f"{tasks}: attempts used up; to be retried or dropped by hand",
            kind="dead",
            name=queue.name,
        )
    if (found := unattended(queue)) is not None:
        yield Problem(
            severity="warning",
            what=found[0],
            why=found[1],
            kind="queue",
            name=queue.name,
        )
    elif queue.oldest_age_s is not None and queue.oldest_age_s > OLD_S:
        polled = "" if queue.polled_here else "; this worker does not poll it"
        yield Problem(
            severity="warning",
            what=f"the queue {queue.name} is behind: a job waits for {rounded(queue.oldest_age_s)}",
            why=f"{queue.waiting} wait and {queue.running} run{polled}",
            kind="queue",
            name=queue.name,
        )
