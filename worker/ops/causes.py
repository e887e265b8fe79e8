"""What schedules suffer from, told once for each cause instead of once for each symptom."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from worker.errors import DataApiUnreachable
from worker.ops.models import Problem
from worker.scheduling.concerns import concerns_of
from worker.scheduling.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.ops.data_api_state import DataApiTrouble
    from worker.ops.models import Severity
    from worker.scheduling.standing import View

__all__ = ["of_data_api", "of_schedule", "unreached"]

MOST_NAMED = 5
ORDER: list[Severity] = ["info", "warning", "critical"]
UNREACHED = (Standing.STALE, Standing.FAILING)
"""What a Data API that does not answer makes of a schedule."""


def unreached(views: Sequence[View]) -> list[View]:
    """Those whose last run failed because the Data API did not answer."""
    error = f"{DataApiUnreachable.__name__}:"
    return [
        view for view in views if (view.book.last_error or "").startswith(error) and fails(view)
    ]


def of_data_api(trouble: DataApiTrouble | None, failing: Sequence[View]) -> Iterator[Problem]:
    """What is wrong with the Data API, with the schedules that fail for its silence.

    Args:
        trouble: As far as this worker has asked.
    """
    if trouble is None and not failing:
        return
    named = [f"{view.name} ({became(view)})" for view in failing[:MOST_NAMED]]
    if len(failing) > MOST_NAMED:
        named.append(f"{len(failing) - MOST_NAMED} more")
    many = "1 schedule fails" if len(failing) == 1 else f"{len(failing)} schedules fail"
    what = "the Data API did not answer the last runs" if trouble is None else trouble.what
    asked = None if trouble is None else trouble.why(datetime.now(UTC))
    told = [asked, failing[0].book.last_error if failing else None, ", ".join(named)]
    least: Severity = "warning" if failing or (trouble is not None and trouble.recent) else "info"
    yield Problem(
        severity=max((gravity(view) for view in failing), key=ORDER.index, default=least),
        what=what + (f": {many}" if failing else ""),
        why="; ".join(filter(None, told)),
        kind="data_api",
        name="data_api",
    )


def of_schedule(view: View, *, silenced: bool = False) -> Iterator[Problem]:
    """What is wrong with a schedule, or worth knowing: that it fails and is stale is told as one.

    Args:
        silenced: That it fails, and is stale, is told with its cause already.
    """
    concerns = [one for one in concerns_of(view) if not (silenced and one.about in UNREACHED)]
    about = {one.about: one for one in concerns}
    stale, failing = about.get(Standing.STALE), about.get(Standing.FAILING)
    for one in concerns:
        if one is stale and failing is not None:
            continue
        both = one is failing and stale is not None
        yield Problem(
            severity="critical" if both else one.severity,
            what=one.what.replace(" fails:", " fails and is stale:", 1) if both else one.what,
            why=f"{one.why}; {stale.why}" if both and stale is not None else one.why,
            kind="schedule",
            name=view.name,
        )


def fails(view: View) -> bool:
    """A task without a schedule is not judged by it."""
    return view.failures > 0


def became(view: View) -> str:
    stale = "" if view.stale_since is None else ", stale"
    return f"{view.failures} failed{stale}"


def gravity(view: View) -> Severity:
    """How grave it is that a schedule fails, and perhaps is stale."""
    told = (one.severity for one in concerns_of(view) if one.about in UNREACHED)
    return max(told, key=ORDER.index, default="warning")
