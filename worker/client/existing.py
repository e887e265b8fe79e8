"""An id that is enqueued again: whether the job that has it is the one that was requested."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from worker.durations import format_duration
from worker.errors import InvalidOptions, InvalidParams
from worker.jobs.declaration import FROM_TASK
from worker.jobs.keys import as_stored, canonical, values_of
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.client.asking import Definition
    from worker.client.enqueue_options import EnqueueOptions
    from worker.jobs.declaration import Declaration
    from worker.jobs.job import Existing, NewJob

__all__ = ["differences", "ended_without_run"]

TOLERANCE = timedelta(seconds=5)
"""Between the clocks of a producer and of an engine, for a job that was requested for a moment."""
APART = frozenset({FROM_TASK, "expires"})
"""Among a job's options: what is compared otherwise, or says nothing of the request."""
ROUNDING = timedelta(seconds=1)
"""An engine may round a delay up to its own second."""


def differences(
    existing: Existing,
    new: NewJob,
    options: EnqueueOptions,
    definition: Definition | None,
    declared: Declaration | None,
) -> list[str]:
    """What differs between the job that has the id and the one that was requested.

    Tasks and parameters are compared, and of the options those that the caller states. Parameters
    are the same if their validated values are equal, however they are written. Headers are not
    compared: a repeated request may be part of another trace.
    """
    if existing.task != new.task:
        return [f"it is of the task {existing.task}"]
    found = []
    fields = different_fields(existing.params, new.params, definition, declared)
    if fields:
        found.append(f"its parameters differ ({', '.join(fields)})")
    if options.get("queue") is not None and existing.queue != new.queue:
        found.append(f"it is in the queue {existing.queue}")
    if options.get("priority") is not None and existing.priority != new.priority:
        found.append(f"its priority is {existing.priority}")
    if options.get("unique") and new.unique and existing.unique_key != new.unique.key:
        found.append("its unique key differs")
    if options.get("concurrency") and existing.concurrency_key != new.concurrency_key:
        found.append("its concurrency key differs")
    return found + different_times(existing, new, options) + different_options(existing, new)


def different_times(existing: Existing, new: NewJob, options: EnqueueOptions) -> list[str]:
    found = []
    if options.get("expires") is not None and not same_expiry(existing, new):
        if existing.expires is not None:
            found.append(f"it expires after {format_duration(existing.expires)}")
        elif not existing.started:  # one that was retried manually does not expire any more
            found.append("it does not expire")
    if existing.started or existing.state is not State.PENDING:
        return found
    delay, at = options.get("delay"), options.get("at")
    if delay is not None and abs(existing.delay - new.delay) > ROUNDING:
        found.append(f"its delay is {format_duration(existing.delay)}")
    if at is not None:
        since = existing.created_at or datetime.now(UTC)
        if abs(since + existing.delay - max(at, since)) > TOLERANCE:
            found.append(f"it begins at {(since + existing.delay).isoformat()}")
    return found


def same_expiry(existing: Existing, new: NewJob) -> bool:
    if existing.expires is None or new.expires is None:
        return existing.expires is new.expires
    return abs(existing.expires - new.expires) < timedelta(milliseconds=1)


def different_options(existing: Existing, new: NewJob) -> list[str]:
    """The options that the request states and that are others in the job."""
    if new.options in ("{}", existing.options):
        return []
    there, wanted = as_object(existing.options), as_object(new.options)
    names = [
        name
        for name, value in sorted(wanted.items())
        if name not in APART and (name not in there or canonical(there[name]) != canonical(value))
    ]
    return [f"its options differ ({', '.join(names)})"] if names else []


def different_fields(
    one: str, other: str, definition: Definition | None, declared: Declaration | None
) -> list[str]:
    """The names of the parameters that are not the same."""
    if one == other:
        return []
    names: set[str] = set()
    try:
        if definition is not None:
            first, second = (texts_of(values_of(definition.params, text)) for text in (one, other))
        else:
            first, second = (texts_by_name(as_object(text), declared) for text in (one, other))
            names = set(second)  # of the others this producer does not know the default
    except (InvalidParams, InvalidOptions):
        first, second = (texts_of(as_object(text)) for text in (one, other))
    names = names or first.keys() | second.keys()
    return [name for name in sorted(names) if first.get(name) != second.get(name)]


def texts_by_name(said: Mapping[str, object], declared: Declaration | None) -> dict[str, str]:
    """The canonical text of each field; of one that only the task's code knows, of its JSON."""
    texts = texts_of(said)
    if declared is not None:
        known = declared.fields(said)
        texts |= {name: text for name, text in known.items() if text is not None}
    return texts


def texts_of(values: Mapping[str, object]) -> dict[str, str]:
    return {name: as_stored(canonical(value)) for name, value in values.items()}


def as_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {"": text}
    return value if isinstance(value, dict) else {"": value}


def ended_without_run(existing: Existing) -> str | None:
    """Why the job that has the id will not run, if that was not its own doing."""
    if existing.state is State.REVOKED:
        return "it was cancelled"
    if existing.state is State.EXPIRED:
        return "it expired before it could begin"
    if existing.cancel and not existing.state.final:
        return "its cancellation was requested"
    return None
