"""Why jobs wait, as far as it can be seen from outside: each reason is counted, none is guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from worker.admin.queues import rounded, unattended
from worker.config.queues_file import load_queues
from worker.consuming.queue_plan import QueuePlan
from worker.consuming.unrun import until_given_up
from worker.durations import format_duration
from worker.jobs.job import JobQuery
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from worker.admin.queues import QueueFacts
    from worker.jobs.job import Job
    from worker.ledger.attendance import Pollers
    from worker.ports import JobRecords
    from worker.settings import Settings

__all__ = ["Crew", "behind", "crew_of", "job_waits", "task_waits", "unknown_tasks"]

SOON_S = 30.0
"""A job that waits no longer is not worth a word, however many there are."""
OLD_S = 300.0
"""How long a job may wait, or have to, before that is worth a word."""
FULL = 0.95
"""Places are freed and taken all the time, so that they are hardly ever all taken at once."""
MOST_HOLDERS = 1000
MOST_QUEUES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Who could run jobs, as this process' settings and the ledger have it.

    Attributes:
        pollers: Who polls.
        concurrency: How many jobs each runs at a time.
        refusals: How many deliveries of a job nobody need know, until it is a dead letter.
        limits: How many jobs of a queue each worker runs at a time, where that is said.
    """

    pollers: Pollers
    concurrency: int
    refusals: int
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def workers(self) -> int | None:
        """How many run jobs; ``None`` if that is not known."""
        if self.pollers.why_unknown is not None:
            return None
        return sum(one is not None and bool(one.queues) for one in self.pollers.served.values())

    def full(self, queues: Sequence[QueueFacts], queue: str) -> str | None:
        """That the places for jobs of ``queue`` are taken, and by which; ``None`` if not so."""
        running = {one.name: one.running for one in queues if one.running}
        own, limit, taken = running.get(queue, 0), self.limits.get(queue), sum(running.values())
        if not self.workers:
            return None
        up = "1 worker is up" if self.workers == 1 else f"{self.workers} workers are up"
        if taken >= FULL * (places := self.workers * self.concurrency):
            most = sorted(running.items(), key=lambda one: -one[1])[:MOST_QUEUES]
            by = ", ".join(f"{many} by jobs of {name}" for name, many in most)
            said = f"{up}, WORKER_CONCURRENCY={self.concurrency}"
            return f"the places for jobs are taken, {taken} of {places} ({said}): {by}"
        if limit is not None and own >= FULL * (places := self.workers * limit):
            said = f"{up}, its concurrency in WORKER_QUEUES_FILE is {limit}"
            return f"the places for jobs of {queue} are taken, {own} of {places} ({said})"
        return None


def crew_of(settings: Settings, pollers: Pollers) -> Crew:
    """Who could run jobs.

    Args:
        pollers: Who polls, as the ledger has it.

    Raises:
        ConfigurationError: The queues file is wrong.
    """
    limits: dict[str, int] = {}
    if settings.queues_file is not None:
        plans = load_queues(settings.queues_file, QueuePlan(name=""))
        limits = {name: plan.concurrency for name, plan in plans.items() if plan.concurrency}
    return Crew(
        pollers=pollers,
        concurrency=settings.concurrency,
        refusals=settings.job_refusals,
        limits=limits,
    )


class Waits(NamedTuple):
    """Where jobs of a task wait.

    Attributes:
        stuck: There is more to it than that they came just now.
    """

    what: str
    stuck: bool


def task_waits(
    task: str, queues: Sequence[QueueFacts], crew: Crew, *, known: Collection[str]
) -> Iterator[Waits]:
    """Where jobs of a task wait, and why.

    Args:
        known: The tasks that there are.
    """
    for queue in queues:
        count = next((one for one in queue.tasks if one.task == task), None)
        if count is None or not count.waiting:
            continue
        jobs = f"{some(count.waiting)} of {task} wait{'s' if count.waiting == 1 else ''}"
        jobs += f" in the queue {queue.name}"
        if task not in known:
            yield Waits(
                f"{jobs}, and no task here has that name: {given_up(crew.refusals)}", stuck=True
            )
        elif (found := unattended(queue)) is not None:
            yield Waits(": ".join(found), stuck=True)
        elif (why := crew.full(queues, queue.name)) is not None:
            yield Waits(f"{jobs}, {count.running} run: {why}", stuck=True)
        else:
            late = queue.oldest_age_s is not None and queue.oldest_age_s > SOON_S
            yield Waits(f"{jobs}, {count.running} run", stuck=late)


async def job_waits(
    job: Job, queues: Sequence[QueueFacts], crew: Crew, records: JobRecords, now: datetime
) -> str | None:
    """Why a job is not begun that waits; ``None`` if it is not known."""
    if job.refusals:
        left = until_given_up(job.refusals, crew.refusals) + max(timedelta(0), job.ready_at - now)
        return (
            f"{deliveries(job.refusals)} found no worker that knows {job.task}, or this version of "
            f"it; after {crew.refusals} it is a dead letter, in about "
            f"{rounded(left.total_seconds())} unless a worker comes that does"
        )
    if job.ready_at > now:
        return "its time has not come"
    facts = next((one for one in queues if one.name == job.queue), None)
    if facts is not None and (found := unattended(facts)) is not None:
        return ": ".join(found)
    if job.concurrency_key is not None:
        query = JobQuery(states=frozenset({State.STARTED}), limit=MOST_HOLDERS)
        for other in await records.find(query):
            if other.concurrency_key == job.concurrency_key and other.id != job.id:
                return f"its concurrency key {job.concurrency_key} is taken: job {other.id} runs"
    full = crew.full(queues, job.queue)
    if full is not None and facts is not None:
        return (
            f"{full}; {some(facts.waiting)} wait{'s' if facts.waiting == 1 else ''} in {job.queue}"
        )
    return None


def behind(queue: QueueFacts, full: str | None = None) -> tuple[str, str] | None:
    """That a queue is behind, and why; ``None`` if it is not, or not by much.

    Args:
        full: That this worker has no place for its jobs.
    """
    age_s, rate = queue.oldest_age_s, queue.finished_per_minute
    if age_s is None or age_s <= SOON_S:
        return None
    left_s = queue.waiting * 60 / rate if rate else None
    blocked = full is not None and queue.polled_here and not queue.running
    if age_s <= OLD_S and not blocked and (left_s is None or left_s <= OLD_S):
        return None
    told = [f"{queue.waiting} wait and {queue.running} run"]
    if left_s is not None and rate is not None:
        takes = format_duration(timedelta(minutes=max(1, round(left_s / 60))))
        told.append(f"at {rate:g} a minute they take {takes}")
    if full is not None and queue.polled_here:
        told.append(full)
    elif not queue.polled_here:
        told.append("this worker does not poll it")
    what = f"the queue {queue.name} is behind: a job waits for {rounded(age_s)}"
    return what, "; ".join(told)


def unknown_tasks(
    queue: QueueFacts, known: Collection[str], refusals: int
) -> tuple[str, str] | None:
    """That jobs lie in a queue that this worker polls and cannot run; ``None`` if none do.

    Args:
        refusals: After how many deliveries such a job is a dead letter.
    """
    strange = [one for one in queue.tasks if one.waiting and one.task and one.task not in known]
    if not queue.polled_here or not strange:
        return None
    told = ", ".join(f"{one.waiting} of {one.task}" for one in strange)
    jobs = some(sum(one.waiting for one in strange))
    return (
        f"{jobs} in the queue {queue.name} of tasks that this worker does not know",
        f"{told}: {given_up(refusals)}",
    )


def given_up(refusals: int) -> str:
    left = rounded(until_given_up(0, refusals).total_seconds())
    return (
        "a worker that does not know it gives it back; after "
        f"{refusals} such deliveries (WORKER_JOB_REFUSALS), about {left}, it is a dead letter"
    )


def some(jobs: int) -> str:
    return "1 job" if jobs == 1 else f"{jobs} jobs"


def deliveries(count: int) -> str:
    return "1 delivery" if count == 1 else f"{count} deliveries"
