"""Jobs on their way through a SQLite file: what `worker.ports.JobQueue` asks, as transactions."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

from worker.backends.codec import from_micros, to_micros
from worker.backends.sqlite_file import micros, storable
from worker.jobs.history import MOST_LOSSES, with_loss
from worker.jobs.job import NOW, Enqueued, Existing, Held, JobId, Lease
from worker.model import State
from worker.queues.rates import grant
from worker.queues.sqlite_keys import regroup
from worker.queues.sqlite_records import get
from worker.queues.sqlite_turn import encode, key_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from typing import Any

    from worker.jobs.job import Deferred, Grant, NewJob, Rate, Settlement
    from worker.queues.sqlite_turn import Turn

__all__ = ["begin", "claim", "enqueue", "extend", "give_back", "lease", "look", "settle", "take"]

LEASED = 2
"""A job's stage."""
LEAST_DUE = 50
"""A lease makes so many jobs ready whose time has come, or two for each that it may take: there
may be a hundred thousand, and a lease takes milliseconds."""


def enqueue(turn: Turn, jobs: Sequence[NewJob]) -> list[Enqueued]:
    if any(job.unique is not None for job in jobs):
        told = choose(turn, jobs)
        fresh = [job for job, answer in zip(jobs, told, strict=True) if answer.created]
        add(turn, fresh)
        return with_existing(turn, jobs, told)
    count = add(turn, jobs)
    if count == len(jobs):
        return [Enqueued(job.id, True) for job in jobs]
    added = set(turn.listed("list_last", count=count))
    told = []
    for job in jobs:
        told.append(Enqueued(job.id, job.id in added))
        added.discard(job.id)
    return with_existing(turn, jobs, told)


def with_existing(turn: Turn, jobs: Sequence[NewJob], told: Sequence[Enqueued]) -> list[Enqueued]:
    """The results, with the records of the jobs whose ids were known."""
    pairs = list(zip(jobs, told, strict=True))
    known = {one.id for job, one in pairs if not one.created and one.id == job.id}
    if not known:
        return list(told)
    ids = sorted(known)
    found = dict(zip(ids, get(turn, ids), strict=True))
    results = []
    for job, one in pairs:
        record = None if one.created or one.id != job.id else found[one.id]
        results.append(one if record is None else replace(one, existing=Existing.of(record)))
    return results


def choose(turn: Turn, jobs: Sequence[NewJob]) -> list[Enqueued]:
    """Which of the jobs can be taken in, given the ids and the keys there are."""
    known = set(turn.listed("list_known", ids=encode([job.id for job in jobs])))
    keys = {key_text(job.unique.key) for job in jobs if job.unique is not None}
    asked = encode(sorted(keys))
    holders: dict[str | None, JobId] = dict(turn.listed("list_holders", keys=asked, now=turn.now))
    told = []
    for job in jobs:
        unique = job.unique
        key = None if unique is None else key_text(unique.key)
        if job.id in known or key not in holders:
            told.append(Enqueued(job.id, job.id not in known))
            known.add(job.id)
        else:
            told.append(Enqueued(holders[key], False))
            continue
        if told[-1].created and unique is not None and State.PENDING in unique.states:
            holders[key] = job.id
    return told


def add(turn: Turn, jobs: Sequence[NewJob]) -> int:
    """Take in those whose ids are not known; how many."""
    if not jobs:
        return 0
    keys = {key_text(job.concurrency_key) for job in jobs if job.concurrency_key is not None}
    plain = not keys and not any(job.delay or job.unique for job in jobs)
    rows = [row_of(job, turn.now) if not plain else plain_row_of(job, turn.now) for job in jobs]
    query = "add_plain_jobs" if plain else "add_jobs"
    added = turn.run(query, jobs=encode(rows), now=turn.now)
    if not plain:
        turn.news.comes(min((row[5] for row in rows if row[5] > turn.now), default=None))
    if keys:
        regroup(turn, keys)
    turn.news.queues.update({job.queue for job in jobs})
    return added


def plain_row_of(job: NewJob, now: int) -> tuple[Any, ...]:
    return (
        job.id,
        job.task,
        job.queue,
        job.version,
        -job.priority,
        None if job.expires is None else now + micros(job.expires),
        storable(job.params),
        storable(job.options),
        storable(job.headers),
    )


def row_of(job: NewJob, now: int) -> tuple[Any, ...]:
    unique, key = job.unique, job.concurrency_key
    plain = plain_row_of(job, now)
    return (
        *plain[:5],
        now + micros(job.delay),
        *plain[5:],
        None if unique is None else key_text(unique.key),
        None if unique is None else ",".join(unique.states),
        None if unique is None or unique.ttl is None else now + micros(unique.ttl),
        None if key is None else key_text(key),
        None if key is None else job.concurrency_limit,
    )


def look(turn: Turn, queue: str) -> bool:
    """Whether there may be something to lease. Only reads."""
    due, keyed_due, is_ready = turn.row("look_at_queue", queue=queue)
    for moment in (due, keyed_due):
        turn.news.comes(moment)
    return bool(is_ready) or any(m is not None and m <= turn.now for m in (due, keyed_due))


def lease(
    turn: Turn, queue: str, limit: int, ttl: timedelta, worker: str, deferred: Deferred
) -> list[Lease]:
    until = turn.now + micros(ttl)
    leases: list[Lease] = []
    while rows := pick(turn, queue, limit - len(leases)):
        chosen, keys = rows, {row[17] for row in rows} - {None}
        if keys:
            chosen = with_room(turn, rows)
        leases += hold(turn, chosen, [queue] * len(chosen), until, worker, deferred)
        regroup(turn, keys)
        if len(chosen) == len(rows) or len(leases) == limit:
            break  # else those that were passed over stand aside now, and there may be more
    if leases:
        turn.news.comes(until)
    return leases


def claim(
    turn: Turn, ids: Sequence[JobId], ttl: timedelta, worker: str, deferred: Deferred
) -> list[Lease]:
    """The leases of those that are ready and that another engine carries."""
    rows = turn.listed("pick_carried", ids=encode(ids), now=turn.now)
    until = turn.now + micros(ttl)
    return hold(turn, rows, [row[17] for row in rows], until, worker, deferred)


def hold(
    turn: Turn,
    rows: Sequence[Any],
    queues: Sequence[str],
    until: int,
    worker: str,
    deferred: Deferred,
) -> list[Lease]:
    """Lease the jobs of these rows, and note which of them lost their last lease."""
    lost = [row for row in rows if row[16] and row[9] < MOST_LOSSES]
    for row in lost:
        row[-3] = with_loss(
            row[-3],
            attempt=row[10] + 1,
            worker=row[-1],
            started_at=from_micros(row[-2]),
            finished_at=from_micros(row[14]),
        )
    if lost:
        turn.run("write_histories", jobs=encode([(row[0], row[-3]) for row in lost]))
    turn.run(
        "hold_jobs",
        places=encode([row[0] for row in rows]),
        deferred=encode([row[0] for row in rows if deferred.covers(row[2], row[9] + row[16])]),
        until=until,
        now=turn.now,
        worker=key_text(worker),
    )
    return [lease_of(row, queue, turn.now) for row, queue in zip(rows, queues, strict=True)]


def pick(turn: Turn, queue: str, limit: int) -> list[Any]:
    """The first jobs that are ready, after those whose time has come have been made so."""
    due, keyed_due, found = first_ready(turn, queue, limit)
    came = [moment is not None and moment <= turn.now for moment in (due, keyed_due)]
    if any(came):
        for has_come, query in zip(came, ("list_due", "list_due_leases"), strict=True):
            if has_come:
                come(turn, query, queue, max(2 * limit, LEAST_DUE))
        due, keyed_due, found = first_ready(turn, queue, limit)
    for moment in (due, keyed_due):
        turn.news.comes(moment)
    rows: list[Any] = json.loads(found)
    return rows


def first_ready(turn: Turn, queue: str, limit: int) -> Any:
    """The row of ``pick_jobs``, with fewer jobs if so many are too large for one text."""
    while True:
        try:
            return turn.row("pick_jobs", queue=queue, limit=limit)
        except sqlite3.DataError:
            if limit == 1:
                raise
            limit //= 2


def come(turn: Turn, query: str, queue: str, limit: int) -> None:
    """Have those be ready whose delay has passed or whose lease has run out."""
    values = {"queue": queue} if query == "list_due" else {}
    places, keys = turn.row(query, now=turn.now, limit=limit, **values)
    turn.run("make_ready", places=places)
    regroup(turn, set(json.loads(keys)) - {None})


def with_room(turn: Turn, rows: list[Any]) -> list[Any]:
    """Those of the jobs for which their concurrency keys have room."""
    leases: dict[str, int] = {}
    chosen: list[Any] = []
    for row in rows:
        key, most = row[17], row[18]
        if key is not None:
            if key not in leases:
                (leases[key],) = turn.row("count_leases", key=key)
            if leases[key] >= most:
                continue
            leases[key] += 1
        chosen.append(row)
    return chosen


def lease_of(row: Sequence[Any], queue: str, now: int) -> Lease:
    deliveries = row[8] + 1
    created_at, ready_at, expires_at = row[13:16]
    return Lease(
        JobId(row[1]),
        row[2],
        queue,
        f"[{row[0]},{deliveries},{created_at}]",
        row[3],
        row[4],
        -row[5],
        row[6],
        row[7],
        deliveries,
        row[9] + row[16],
        row[10],
        row[11],
        row[12] == 1,
        from_micros(created_at),
        from_micros(ready_at),
        None if expires_at is None else from_micros(expires_at),
        expires_at is not None and expires_at <= now,
        row[-3],
    )


def held(turn: Turn, leases: Sequence[Lease]) -> dict[int, Any]:
    """By their numbers, those leases that are not lost: place, cancel, stage and key of the job."""
    receipts = ",".join([lease.receipt for lease in leases])
    found = turn.listed("list_held", receipts=f"[{receipts}]")
    return {number: rest for number, *rest in found}


def begin(turn: Turn, leases: Sequence[tuple[Lease, timedelta]]) -> list[Held]:
    return extend(turn, leases, query="begin_jobs")


def extend(
    turn: Turn, leases: Sequence[tuple[Lease, timedelta]], *, query: str = "extend_leases"
) -> list[Held]:
    alive = held(turn, [lease for lease, _ in leases])
    places: dict[timedelta, list[int]] = {}
    keys = set()
    told = []
    for number, (_, ttl) in enumerate(leases):
        if number not in alive:
            told.append(Held.LOST)
            continue
        place, cancel, stage, key = alive[number]
        places.setdefault(ttl, []).append(place)
        if stage != LEASED and key is not None:
            keys.add(key)
        told.append(Held.CANCEL if cancel else Held.YES)
    for ttl, extended in places.items():
        until = turn.now + micros(ttl)
        turn.run(query, places=encode(extended), until=until)
        turn.news.comes(until)
    regroup(turn, keys)
    return told


def settle(turn: Turn, settlements: Sequence[Settlement]) -> list[bool]:
    alive = held(turn, [said.lease for said in settlements])
    ended: list[tuple[Any, ...]] = []
    back: list[tuple[Any, ...]] = []
    settled: set[int] = set()
    told = []
    keys = set()
    for number, said in enumerate(settlements):
        place, cancel, _, key = alive.get(number, (None,) * 4)
        told.append(place is not None and place not in settled)
        if not told[-1]:
            continue
        settled.add(place)
        keys.add(key)
        if said.state.final:
            ended.append(end_row_of(place, said, turn.now))
            turn.news.ended.append(said.lease.id)
        else:
            ready_at = turn.now + micros(NOW if cancel else said.delay)
            if said.due_at is not None:
                ready_at = to_micros(said.due_at)
            back.append(back_row_of(place, said, ready_at))
            turn.news.queues.add(said.lease.queue)
    if ended:
        turn.run("end_jobs", jobs=encode(ended), now=turn.now)
    if back:
        turn.run("put_back_jobs", jobs=encode(back), now=turn.now)
        turn.news.comes(min((row[4] for row in back if row[4] > turn.now), default=None))
    regroup(turn, keys - {None})
    return told


def end_row_of(place: int, said: Settlement, now: int) -> tuple[Any, ...]:
    return (
        place,
        said.state,
        said.attempts,
        said.refusals,
        storable(said.result),
        None if said.result is None else now + micros(said.result_ttl),
        storable(said.error),
        int(said.dead),
        said.history,
    )


def back_row_of(place: int, said: Settlement, ready_at: int) -> tuple[Any, ...]:
    return (
        place,
        said.state,
        said.attempts,
        said.refusals,
        ready_at,
        storable(said.error),
        int(said.dead),
        said.history,
    )


def give_back(turn: Turn, leases: Sequence[Lease]) -> None:
    """Undo leases that nobody learned of. The deliveries count, nothing else does."""
    alive = held(turn, leases)
    for number, (place, *_) in alive.items():
        lease = leases[number]
        turn.run("undo_lease", place=place, ready_at=to_micros(lease.due_at))
        turn.news.queues.add(lease.queue)
    regroup(turn, {key for *_, key in alive.values()} - {None})


def take(turn: Turn, key: str, rate: Rate, wanted: int) -> Grant:
    key, now = key_text(key), from_micros(turn.now)
    row = turn.row("read_rate", key=key)
    allowed, arrival = grant(rate, None if row is None else from_micros(row[0]), now, wanted)
    turn.run("write_rate", key=key, arrival=to_micros(arrival))
    return allowed
