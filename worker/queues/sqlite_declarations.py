"""What tasks declare, in a SQLite file, and how a leased job gets it: as transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.backends.sqlite_file import micros, storable
from worker.jobs.declaration import Declaration
from worker.jobs.job import JobId
from worker.queues.sqlite_turn import encode, key_text
from worker.queues.sqlite_work import held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.jobs.declaration import Terms
    from worker.jobs.job import Lease
    from worker.queues.sqlite_turn import Turn

__all__ = ["apply_terms", "declaration", "publish"]


def publish(turn: Turn, declarations: Sequence[Declaration]) -> None:
    rows = [(one.task, one.version, storable(one.dump())) for one in declarations]
    turn.run("publish_tasks", tasks=encode(rows))


def declaration(turn: Turn, task: str) -> Declaration | None:
    row = turn.row("read_declaration", task=task)
    return None if row is None else Declaration.read(row[0])


def apply_terms(turn: Turn, lease: Lease, terms: Terms) -> JobId | None:
    alive = held(turn, [lease])
    if 0 not in alive:
        return None
    place, unique, key = alive[0][0], terms.unique, terms.concurrency_key
    text = None if unique is None else key_text(unique.key)
    if text is not None:
        holders = dict(turn.listed("list_holders", keys=encode([text]), now=turn.now))
        if holders.get(text, lease.id) != lease.id:
            return JobId(holders[text])
        turn.run("leave_unique", key=text, place=place)
    ttl = None if unique is None or unique.ttl is None else micros(unique.ttl)
    turn.run(
        "apply_terms",
        place=place,
        urgency=-terms.priority,
        options=storable(terms.options),
        expires=None if terms.expires is None else micros(terms.expires),
        unique_key=text,
        unique_states=None if unique is None else ",".join(unique.states),
        unique_ttl=ttl,
        concurrency_key=None if key is None else key_text(key),
        concurrency_limit=terms.concurrency_limit,
    )
    return lease.id
