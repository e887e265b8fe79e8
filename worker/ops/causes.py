"""What schedules suffer from, told once for each cause instead of once for each symptom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.durations import format_duration
from worker.errors import DataApiUnreachable
from worker.ops.models import Problem
from worker.scheduling.overview import at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.ops.models import Severity
    from worker.scheduling.overview import View

__all__ = ["of_data_api", "of_schedule", "unreached"]

MANY_FAILURES = 3
MOST_NAMED = 5


def unreached(views: Sequence[View]) -> list[View]:
    """Those whose last run failed because the Data API did not answer."""
    error = f"{DataApiUnreachable.__name__}:"
    return [
        view for view in views if (view.book.last_error or "").startswith(error) and fails(view)
    ]


def of_data_api(unheard: str | None, failing: Sequence[View]) -> Iterator[Problem]:
    """That the Data API does not answer, with the schedules that fail for it.

    Args:
        unheard: How often it did not, as far as this worker has asked.
    """
    if unheard is None and not failing:
        return
    named = [f"{view.name} ({became(view)})" for view in failing[:MOST_NAMED]]
    if len(failing) > MOST_NAMED:
        named.append(f"{len(failing) - MOST_NAMED} more")
    many = "1 schedule fails" if len(failing) == 1 else f"{len(failing)} schedules fail"
    told = [unheard, failing[0].book.last_error if failing else None, ", ".join(named)]
    yield Problem(
        severity=max((gravity(view) for view in failing), key=ORDER.index, default="warning"),
        what="the Data API does not answer" + (f": {many}" if failing else ""),
        why="; ".join(filter(None, told)),
        kind="data_api",
        name="data_api",
    )


def of_schedule(view: View) -> Iterator[Problem]:
    """That a schedule fails, or is stale, or both."""
    if not fails(view) and view.stale_since is None:
        return
    what, why = view.name, []
    if fails(view):
        many = "its last run" if view.failures == 1 else f"its last {view.failures} runs"
        stale = "" if view.stale_since is None else " and is stale"
        what += f" fails{stale}: {many} failed"
        why.append(view.book.last_error or "no error is recorded")
    else:
        assert view.stale_since is not None
        what += f" is stale since {at(view.stale_since, view.now)}"
    yield Problem(
        severity=gravity(view),
        what=what,
        why="; ".join([*why, *why_stale(view)]),
        kind="schedule",
        name=view.name,
    )


def why_stale(view: View) -> Iterator[str]:
    max_age, last = view.task.terms.policies.max_age, view.book.last_success
    if view.stale_since is not None and max_age is not None:
        yield f"a success is due every {format_duration(max_age)}"
        yield "it never succeeded" if last is None else f"its last was at {at(last, view.now)}"


def fails(view: View) -> bool:
    """A task without a schedule is not judged by it."""
    return view.failures > 0


def became(view: View) -> str:
    stale = "" if view.stale_since is None else ", stale"
    return f"{view.failures} failed{stale}"


ORDER: list[Severity] = ["info", "warning", "critical"]


def gravity(view: View) -> Severity:
    grave = view.stale_since is not None or view.failures >= MANY_FAILURES
    return "critical" if grave else "warning"
