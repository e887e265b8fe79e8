"""The ledger's figures as metrics, and Prometheus' text format for whatever collects them.

Follows https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4). Labels are
names of tasks and outcomes, never ids, so their number is bounded. The worker's own ``/metrics``
gives the same figures beside those that only a living worker has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from worker.ledger.attendance import lost_replicas, serving
from worker.ledger.book import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from worker.ledger.book import Replica
    from worker.scheduling.standing import View

__all__ = ["Family", "Figures", "exposition", "last_successes", "ledger_figures"]

FINAL = [outcome.value for outcome in Outcome if outcome.final]


class Family(NamedTuple):
    """A metric, as it is declared.

    Attributes:
        name: As it is queried; that of a counter ends in ``_total``.
        labels: The names of its labels. Their values come from what is registered, configured or
            enumerated, and from nowhere else.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


class Figures(NamedTuple):
    """What a metric says at one moment: a value for each tuple of its labels' values."""

    family: Family
    samples: list[tuple[tuple[str, ...], float]]


SLOTS = Family(
    "worker_slots_total", "counter", "Slots by what became of them.", ("task", "outcome")
)
LAST_SUCCESS = Family(
    "worker_last_success_timestamp_seconds", "gauge", "When a task last succeeded.", ("task",)
)
NEXT_SLOT = Family(
    "worker_next_slot_timestamp_seconds", "gauge", "When a task is due next.", ("task",)
)
ACCOUNTED = Family(
    "worker_accounted_until_timestamp_seconds",
    "gauge",
    "Up to where the ledger knows what became of every slot.",
    ("task",),
)
FRESH = Family(
    "worker_task_fresh", "gauge", "1 while the last success is within max_age, else 0.", ("task",)
)
PAUSED = Family(
    "worker_schedule_paused", "gauge", "1 while the schedule is paused, else 0.", ("task",)
)
FAILURES = Family(
    "worker_consecutive_failures",
    "gauge",
    "Failed runs since the last success, of schedules that go on.",
    ("task",),
)
NOT_MADE_GOOD = Family(
    "worker_last_missed_timestamp_seconds",
    "gauge",
    "Of which moment the latest slot was that was missed or lost; gone once a run has ended since.",
    ("task", "outcome"),
)
REPLICAS = Family(
    "worker_replicas", "gauge", "Workers that serve and whose lease holds; a run by hand is none."
)
REPLICAS_LOST = Family(
    "worker_replicas_lost",
    "gauge",
    "Workers whose lease ran out within the last 10 minutes without a word of them, and that are "
    "not back under their name, or were lost more than once.",
)
DROPPED = Family(
    "worker_schedules_dropped",
    "gauge",
    "Schedules of the ledger that no task here has, and no worker that is up has run lately.",
)
LEDGER_FAMILIES = (
    SLOTS,
    LAST_SUCCESS,
    NEXT_SLOT,
    ACCOUNTED,
    FRESH,
    PAUSED,
    FAILURES,
    NOT_MADE_GOOD,
    DROPPED,
    REPLICAS,
    REPLICAS_LOST,
)


def ledger_figures(
    views: Sequence[View], replicas: Sequence[Replica], now: datetime, *, dropped: int
) -> list[Figures]:
    """What the ledger says of all schedules, but for `last_successes`.

    Args:
        dropped: How many schedules have no task any more.
    """
    scheduled = [view for view in views if not view.off]
    return [
        Figures(
            SLOTS,
            [
                ((view.name, outcome), float(view.book.counts.get(outcome, 0)))
                for view in views
                for outcome in FINAL
            ],
        ),
        stamps(NEXT_SLOT, {view.name: view.slots[0] if view.slots else None for view in views}),
        stamps(ACCOUNTED, {view.name: view.book.cursor for view in scheduled}),
        Figures(
            FRESH,
            [
                ((view.name,), float(view.stale_since is None))
                for view in scheduled
                if view.task.terms.policies.max_age is not None
            ],
        ),
        Figures(PAUSED, [((v.name,), float(v.book.pause is not None)) for v in scheduled]),
        Figures(FAILURES, [((v.name,), float(v.book.failures)) for v in scheduled if not v.over]),
        Figures(
            NOT_MADE_GOOD,
            [
                ((view.name, view.missed.entry.outcome.value), view.missed.slot.timestamp())
                for view in scheduled
                if view.missed is not None
            ],
        ),
        Figures(DROPPED, [((), float(dropped))]),
        Figures(REPLICAS, [((), float(len(serving(replicas))))]),
        Figures(
            REPLICAS_LOST,
            [((), float(sum(lost.is_missing for lost in lost_replicas(replicas, now))))],
        ),
    ]


def last_successes(views: Iterable[View], seen: Mapping[str, datetime] | None = None) -> Figures:
    """When each task last succeeded.

    Args:
        seen: What a worker has seen itself: no ledger knows of jobs.
    """
    latest: dict[str, datetime | None] = {view.name: view.book.last_success for view in views}
    for task, moment in (seen or {}).items():
        known = latest.get(task)
        latest[task] = moment if known is None else max(known, moment)
    return stamps(LAST_SUCCESS, latest)


def exposition(
    views: Sequence[View], replicas: Sequence[Replica], now: datetime, *, dropped: int
) -> str:
    """All figures of the ledger, each family with its help."""
    lines: list[str] = []
    figures = ledger_figures(views, replicas, now, dropped=dropped)
    for family, samples in [*figures, last_successes(views)]:
        lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{family.name}{shown(family, values)} {value!r}" for values, value in samples]
    return "\n".join(lines)


def shown(family: Family, values: Sequence[str]) -> str:
    """Labels with their values; names of tasks hold no character that would have to be escaped."""
    said = ",".join(f'{name}="{value}"' for name, value in zip(family.labels, values, strict=True))
    return f"{{{said}}}" if said else ""


def stamps(family: Family, moments: Mapping[str, datetime | None]) -> Figures:
    return Figures(
        family,
        [((name,), moment.timestamp()) for name, moment in moments.items() if moment is not None],
    )
