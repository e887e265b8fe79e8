"""Concurrency keys of jobs in a SQLite file: who may be leased next, and who stands aside.

Jobs of one key, one queue and one limit stand in a lane. As many of its first jobs are ready as the
key has room for; the others stand aside, so that nobody who leases has to pass over them, were they
a hundred thousand. Whatever takes a lease or ends one sets the lanes of its key right again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.queues.sqlite_turn import encode

if TYPE_CHECKING:
    from collections.abc import Set

    from worker.queues.sqlite_turn import Turn

__all__ = ["regroup"]


def regroup(turn: Turn, keys: Set[str]) -> None:
    """Set the lanes of these concurrency keys right."""
    if not keys:
        return
    for key in turn.listed("list_waiting_keys", keys=encode(sorted(keys))):
        (leases,) = turn.row("count_leases", key=key)
        queue, limit = "", 0
        while lane := turn.row("next_lane", key=key, queue=queue, limit=limit):
            queue, limit = lane
            values = {"key": key, "queue": queue, "limit": limit}
            (first,) = turn.row("list_first", **values, room=max(0, limit - leases))
            turn.run("hold_back", **values, first=first)
            if turn.run("let_go", first=first):
                turn.news.queues.add(queue)
