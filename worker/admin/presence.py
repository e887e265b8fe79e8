"""What the ledger knows of workers, for those who look from outside: who polls, who was lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from worker.backends.opening import STORES, open_store
from worker.config.stores import queue_url, store_url
from worker.errors import ConfigurationError, StoreError
from worker.ledger.attendance import Lost, Pollers, lost_replicas, pollers
from worker.ledger.book import HistoryQuery, Outcome
from worker.queues.opening import QUEUES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.ledger.book import Entry, Replica
    from worker.ports import LedgerStore
    from worker.settings import Settings

__all__ = ["Casualty", "blind_to_pollers", "casualties", "who_is_there"]

REACH = {"memory": 0, "sqlite": 1, "postgres": 2, "redis": 2, "sqs": 2}
"""Who can share it: one process, one machine, all."""
LOOKED_AT = 200
MOST_RUNS = 5


def blind_to_pollers(settings: Settings) -> str | None:
    """Why this ledger cannot know everybody who polls these queues; ``None`` if it does."""
    ledger, queue = STORES.of(store_url(settings)), QUEUES.of(queue_url(settings))
    if REACH[ledger] >= REACH[queue]:
        return None
    whose = "this process's" if ledger == "memory" else "this machine's"
    return f"the ledger is {whose} only ({ledger}), and the queues ({queue}) are shared"


@dataclass(frozen=True, slots=True)
class Casualty:
    """A replica that was lost, and what became of its slots, each in words."""

    lost: Lost
    runs: tuple[str, ...]

    @property
    def why(self) -> str:
        """What is known of it, for people."""
        if not self.runs:
            return self.lost.why
        more = len(self.runs) - MOST_RUNS
        shown = [*self.runs[:MOST_RUNS], *([f"and {more} more"] if more > 0 else [])]
        return f"{self.lost.why}; it ran {', '.join(shown)}"


def casualties(
    store: LedgerStore, replicas: Sequence[Replica], now: datetime | None = None
) -> list[Casualty]:
    """The replicas that were lost lately, the latest first, and what became of their slots.

    Raises:
        StoreUnavailable: The ledger cannot be read.
    """
    found = lost_replicas(replicas, datetime.now(UTC) if now is None else now)
    if not found:
        return []
    unfinished = frozenset({Outcome.LOST, Outcome.RUNNING, Outcome.WAITING})
    entries = store.history(HistoryQuery(outcomes=unfinished, limit=LOOKED_AT))
    return [
        Casualty(lost, tuple(what for one in entries for what in became(one, lost)))
        for lost in found
    ]


def became(entry: Entry, lost: Lost) -> Iterator[str]:
    """What became of an entry that a lost replica had."""
    slot = f"{entry.task} of {entry.slot:%H:%M:%S}Z"
    if entry.outcome is Outcome.WAITING:
        if entry.losses and entry.replica == lost.name:
            yield f"{slot} (waits to be run again)"
    elif entry.session in lost.sessions:
        is_lost = entry.outcome is Outcome.LOST
        yield f"{slot} ({'is lost' if is_lost else 'is not settled yet'})"


def who_is_there(settings: Settings) -> tuple[Pollers, list[Casualty]]:
    """Who polls the queues, and who was lost, as the ledger has it. Blocks.

    A ledger that cannot be read, or not from here, is told as `Pollers.blind`.
    """
    try:
        blind = blind_to_pollers(settings)
        if STORES.of(store_url(settings)) == "memory":
            return Pollers(blind="the ledger is in the worker's own memory"), []
        store = open_store(store_url(settings))
    except (ConfigurationError, StoreError) as exc:
        return Pollers(blind=f"the ledger cannot be read: {exc}"), []
    try:
        replicas = store.replicas()
        lost = casualties(store, replicas)
    except StoreError as exc:
        return Pollers(blind=f"the ledger cannot be read: {exc}"), []
    finally:
        store.close()
    return pollers(replicas, datetime.now(UTC), blind=blind), lost
