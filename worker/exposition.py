"""The ledger's figures in Prometheus' text format, for whatever collects them.

Follows https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4). Labels are
names of tasks and outcomes, never ids, so their number is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.book import Outcome
from worker.overview import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from worker.book import Replica
    from worker.overview import View

__all__ = ["exposition"]

Sample = tuple[str, float]
FINAL = [outcome.value for outcome in Outcome if outcome.final]


def exposition(views: Sequence[View], replicas: Sequence[Replica]) -> str:
    """All samples, each family with its help."""
    scheduled = [view for view in views if view.standing is not Standing.OFF]
    families: list[tuple[str, str, str, Iterable[Sample]]] = [
        ("worker_slots_total", "counter", "Slots by what became of them.", outcomes(views)),
        (
            "worker_last_success_timestamp_seconds",
            "gauge",
            "When a task last succeeded.",
            stamps((view.name, view.book.last_success) for view in views),
        ),
        (
            "worker_next_slot_timestamp_seconds",
            "gauge",
            "When a task is due next.",
            stamps((view.name, view.slots[0] if view.slots else None) for view in views),
        ),
        (
            "worker_accounted_until_timestamp_seconds",
            "gauge",
            "Up to where the ledger knows what became of every slot.",
            stamps((view.name, view.book.cursor) for view in scheduled),
        ),
        (
            "worker_task_fresh",
            "gauge",
            "1 while the last success is within max_age, else 0.",
            (
                (label(view.name), float(view.stale_since is None))
                for view in scheduled
                if view.task.terms.policies.max_age is not None
            ),
        ),
        (
            "worker_schedule_paused",
            "gauge",
            "1 while the schedule is paused, else 0.",
            ((label(view.name), float(view.book.pause is not None)) for view in scheduled),
        ),
        (
            "worker_consecutive_failures",
            "gauge",
            "Failed runs since the last success.",
            ((label(view.name), float(view.book.failures)) for view in views),
        ),
        (
            "worker_replicas",
            "gauge",
            "Workers whose lease holds.",
            [("", float(sum(replica.alive and replica.works for replica in replicas)))],
        ),
    ]
    lines: list[str] = []
    for name, kind, text, samples in families:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{labels} {value!r}" for labels, value in samples]
    return "\n".join(lines)


def outcomes(views: Sequence[View]) -> Iterator[Sample]:
    for view in views:
        for outcome in FINAL:
            yield label(view.name, outcome), float(view.book.counts.get(outcome, 0))


def stamps(moments: Iterable[tuple[str, datetime | None]]) -> Iterator[Sample]:
    for name, moment in moments:
        if moment is not None:
            yield label(name), moment.timestamp()


def label(task: str, outcome: str | None = None) -> str:
    """Names of tasks hold no character that a label's value would have to escape."""
    return f'{{task="{task}"}}' if outcome is None else f'{{task="{task}",outcome="{outcome}"}}'
