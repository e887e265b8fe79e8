"""What is not as it should be, for the banner: each with its reason, the gravest first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

from worker.admin.overdue import rough
from worker.admin.queues import unattended
from worker.admin.waiting import behind, unknown_tasks
from worker.config.stores import shares_store
from worker.durations import format_duration
from worker.errors import NotSupported
from worker.ops.causes import of_data_api, of_schedule, unreached
from worker.ops.models import Problem
from worker.ops.stalls import PAST
from worker.scheduling.moments import at

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

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
MOST_STUCK = 5
MOST_LOST = 10
LONGEST_ERROR = 160
ANEW = timedelta(days=1)
"""How long it is said that the ledger began anew."""
CAUSES = {"store": "store", "queues": "queue", "data_api": "data_api"}
"""What all tasks share, and of which kind that is."""


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
        *stuck_runs(worker),
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
        full = no_place(worker)
        for queue in queues:
            found += of_queue(queue, full=full)
            found += unknown(queue, worker.scheduler.tasks, worker.settings.job_refusals)
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


def stuck_runs(worker: Worker) -> Iterator[Problem]:
    """Runs of this worker whose code does not end, and the places that they take from jobs."""
    stuck = worker.runner.stuck()
    if not stuck:
        return
    places = sum(max(1, len(one.jobs)) for one in stuck if one.task)
    limit = worker.settings.concurrency
    many = "1 run goes" if len(stuck) == 1 else f"{len(stuck)} runs go"
    full = worker.consumer is not None and places >= limit
    told = [
        f"{one.task} ({one.run_id}) for {rough(timedelta(seconds=one.overdue_s))}"
        f"{at_line(one.stack)}"
        for one in stuck[:MOST_STUCK]
    ]
    yield Problem(
        severity="critical" if full else "warning",
        what=f"{many} on in this worker after the end was requested: the code does not end"
        + (f", and takes all {limit} places for jobs" if full else ""),
        why="; ".join(told) + "; run.stuck in its log has the whole stacks",
        kind="worker",
        name=worker.ledger.replica,
    )


def at_line(stack: str) -> str:
    """Where a stack ends."""
    lines = [line.strip() for line in stack.splitlines() if line.strip()]
    places = [line for line in lines if line.startswith("File ")]
    return f", at {places[-1]}: {lines[-1]}" if places else ""


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
    yield from anew(worker)
    for warning in dict.fromkeys((*worker.ledger.warnings, *worker.client.jobs.warnings)):
        yield Problem(
            severity="info",
            what="what is stored may be lost",
            why=warning,
            kind="store",
            name="store",
        )
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


def anew(worker: Worker) -> Iterator[Problem]:
    """That the store has forgotten what it knew, which nothing else shows."""
    since, now = worker.ledger.anew_at, datetime.now(UTC)
    if since is None or now - since > ANEW:
        return
    jobs = "; jobs that waited in it are gone, too" if shares_store(worker.settings) else ""
    yield Problem(
        severity="warning",
        what=f"the ledger began anew at {at(since, now)}: what it knew before is gone",
        why="the store did not know this worker any more: it was restarted without its data, "
        f"emptied or restored{jobs}",
        kind="store",
        name="store",
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


def no_place(worker: Worker) -> str | None:
    """That this worker can begin no job."""
    most = worker.settings.concurrency
    if worker.consumer is None or worker.consumer.running < most:
        return None
    return f"all {most} places of this worker are taken (WORKER_CONCURRENCY)"


def unknown(queue: QueueFacts, known: Collection[str], refusals: int) -> Iterator[Problem]:
    """That jobs are passed on which this worker cannot run."""
    if (strange := unknown_tasks(queue, known, refusals)) is not None:
        yield Problem(
            severity="warning", what=strange[0], why=strange[1], kind="queue", name=queue.name
        )


def of_queue(queue: QueueFacts, *, full: str | None = None) -> Iterator[Problem]:
    """What is wrong with a queue.

    Args:
        full: That this worker can begin no job.
    """
    if queue.dead:
        tasks = "; ".join(
            f"{task.dead} of {task.task or '?'}"
            + (f", the last with {clipped(task.last_error)}" if task.last_error else "")
            for task in queue.tasks
            if task.dead
        )
        many = "1 dead letter" if queue.dead == 1 else f"{queue.dead} dead letters"
        yield Problem(
            severity="warning",
            what=f"{many} in the queue {queue.name}",
            why=f"{tasks}; to be retried or dropped by hand",
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
    elif (late := behind(queue, full)) is not None:
        yield Problem(severity="warning", what=late[0], why=late[1], kind="queue", name=queue.name)


def clipped(text: str) -> str:
    return text if len(text) <= LONGEST_ERROR else f"{text[: LONGEST_ERROR - 1]}…"
