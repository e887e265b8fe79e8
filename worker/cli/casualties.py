"""How the commands tell of workers: who was lost, and how many there are for a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.cli.terminal import remark
from worker.ledger.attendance import serving, takers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.admin.presence import Casualty
    from worker.ledger.book import Replica

__all__ = ["tell_lost", "those_up"]


def tell_lost(lost: Iterable[Casualty]) -> None:
    """Say beside the result which replicas were lost lately."""
    for one in lost:
        remark(f"worker: {one.lost.what}: {one.why}")


def those_up(replicas: Sequence[Replica], task: str) -> str:
    """How many workers are up that take a task's slots."""
    able, up = len(takers(replicas, task)), len(serving(replicas))
    if not up:
        return "no worker is up, and the next one to start will see to it"
    if not able:
        return f"no worker that is up takes its slots ({up} up, with --no-schedules or --only)"
    return f"{able} {'worker is' if able == 1 else 'workers are'} up"
