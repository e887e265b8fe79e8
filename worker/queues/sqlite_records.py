"""What is known of jobs in a SQLite file: what `worker.ports.JobRecords` asks, as transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.backends.codec import from_micros, to_micros
from worker.backends.sqlite_file import micros, storable
from worker.jobs.job import Job, JobId, QueueCount, Requeued
from worker.model import State
from worker.queues.sqlite_keys import regroup
from worker.queues.sqlite_turn import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta
    from typing import Any

    from worker.jobs.job import JobQuery, Lease
    from worker.queues.sqlite_turn import Turn

__all__ = [
    "cancel",
    "cancelled",
    "counts",
    "drop",
    "ended",
    "ended_within",
    "find",
    "get",
    "prune",
    "retry",
    "tell",
]

RUNNING = frozenset({State.STARTED, State.PROGRESS})
EARLIEST, LATEST = -(2**63), 2**63 - 1


def get(turn: Turn, ids: Sequence[JobId]) -> list[Job | None]:
    rows = turn.listed("read_jobs", ids=encode(ids), now=turn.now)
    found = {row[0]: row for row in rows}
    return [job_of(found[job]) if job in found else None for job in ids]


def ended(turn: Turn, ids: Sequence[str]) -> list[str]:
    """Those that have ended, or are not there."""
    return turn.listed("list_ended", ids=encode(ids))


def find(turn: Turn, query: JobQuery) -> list[Job]:
    states = query.states or frozenset(State)
    if states & RUNNING:
        states |= RUNNING
    if query.dead:
        name = "find_dead_jobs"
    else:
        name = "find_running_jobs" if states <= RUNNING else "find_jobs"
    rows = turn.listed(
        name,
        now=turn.now,
        since=EARLIEST if query.since is None else to_micros(query.since),
        before=LATEST if query.before is None else to_micros(query.before),
        task=query.task,
        queue=query.queue,
        dead=query.dead,
        states=encode(sorted(states)),
        limit=query.limit,
    )
    return [job_of(row) for row in rows]


def counts(turn: Turn) -> list[QueueCount]:
    return [
        QueueCount(queue, task, State(state), jobs, dead, optional_moment(oldest))
        for queue, task, state, jobs, dead, oldest in turn.rows("count_jobs", now=turn.now)
    ]


def ended_within(turn: Turn, within: timedelta) -> dict[str, int]:
    return dict(turn.rows("count_ended", since=turn.now - micros(within)))


def tell(turn: Turn, lease: Lease, progress: str) -> None:
    place, deliveries, created_at = map(int, lease.receipt.strip("[]").split(","))
    turn.run(
        "tell_progress",
        place=place,
        deliveries=deliveries,
        created_at=created_at,
        progress=storable(progress),
    )


def cancelled(turn: Turn, ids: Sequence[JobId]) -> list[JobId]:
    return turn.listed("list_cancelled", ids=encode(ids))


class ByHand:
    """What is done to jobs by hand, one after the other, and then written at once.

    Attributes:
        places: By what is to be done, the jobs' places in the order of arrival.
        keys: The concurrency keys of jobs that were touched.
    """

    def __init__(self, turn: Turn, ids: Sequence[JobId]) -> None:
        self.turn = turn
        self.ids = ids
        rows = turn.listed("read_states", ids=encode(ids))
        self.jobs = {job: (place, State(state), *rest) for job, place, state, *rest in rows}
        self.places: dict[str, list[int]] = {}
        self.keys: set[str] = set()

    def do(self, query: str, job: JobId, state: State | None) -> None:
        """Have a query run for the job, which is in another state, or gone, afterwards."""
        place, _, queue, key = self.jobs[job]
        self.places.setdefault(query, []).append(place)
        if key is not None:
            self.keys.add(key)
        if state is None:
            del self.jobs[job]
        else:
            self.jobs[job] = (place, state, queue, key)

    def decide(self, judge: Callable[[ByHand, JobId, State], Requeued]) -> list[Requeued]:
        told = [
            judge(self, job, self.jobs[job][1]) if job in self.jobs else Requeued.UNKNOWN
            for job in self.ids
        ]
        for query, places in self.places.items():
            self.turn.run(query, places=encode(places), now=self.turn.now)
        regroup(self.turn, self.keys)
        return told


def cancel(turn: Turn, ids: Sequence[JobId]) -> list[Requeued]:
    def judge(hand: ByHand, job: JobId, state: State) -> Requeued:
        if state.final:
            return Requeued.NOT_NOW
        if state in (State.STARTED, State.PROGRESS):
            hand.do("ask_to_end", job, state)
            return Requeued.ASKED
        hand.do("revoke_jobs", job, State.REVOKED)
        turn.news.ended.append(job)
        return Requeued.DONE

    return ByHand(turn, ids).decide(judge)


def retry(turn: Turn, ids: Sequence[JobId]) -> list[Requeued]:
    def judge(hand: ByHand, job: JobId, state: State) -> Requeued:
        if not state.final or state is State.SUCCESS:
            return Requeued.NOT_NOW
        turn.news.queues.add(hand.jobs[job][2])
        hand.do("begin_anew", job, State.PENDING)
        return Requeued.DONE

    return ByHand(turn, ids).decide(judge)


def drop(turn: Turn, ids: Sequence[JobId]) -> list[Requeued]:
    def judge(hand: ByHand, job: JobId, state: State) -> Requeued:
        if not state.final:
            return Requeued.NOT_NOW
        hand.do("drop_jobs", job, None)
        return Requeued.DONE

    return ByHand(turn, ids).decide(judge)


def prune(turn: Turn, keep: timedelta, limit: int) -> int:
    before, left = turn.now - micros(keep), limit
    group = ("", "", "")
    while left and (group := turn.row("next_group", **named(group))):
        left -= turn.run("prune_jobs", **named(group), before=before, limit=left)
    if left:
        turn.run("prune_rates", now=turn.now)
    return limit - left


def named(group: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("queue", "task", "state"), group, strict=True))


def job_of(row: Sequence[Any]) -> Job:
    return Job(
        id=JobId(row[0]),
        task=row[1],
        queue=row[2],
        state=State(row[3]),
        params=row[4],
        version=row[5],
        priority=-row[6],
        options=row[7],
        headers=row[8],
        created_at=from_micros(row[9]),
        ready_at=from_micros(row[10]),
        expires_at=optional_moment(row[11]),
        started_at=optional_moment(row[12]),
        finished_at=optional_moment(row[13]),
        result_until=optional_moment(row[14]),
        deliveries=row[15],
        losses=row[16],
        attempts=row[17],
        refusals=row[18],
        unique_key=row[19],
        concurrency_key=row[20],
        worker=row[21],
        progress=row[22],
        result=row[23],
        error=row[24],
        dead=row[25] == 1,
        cancel=row[26] == 1,
        history=row[27],
    )


def optional_moment(moment: int | None) -> datetime | None:
    return None if moment is None else from_micros(moment)
