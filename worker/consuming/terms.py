"""What a task declares, for a job whose producer did not know it: a pure decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.errors import InvalidOptions, InvalidParams
from worker.jobs.declaration import Terms, left_open, with_left_open
from worker.jobs.keys import key_of, values_of

if TYPE_CHECKING:
    from worker.jobs.job import Lease
    from worker.tasks.base import TaskDefinition

__all__ = ["terms_of"]


def terms_of(lease: Lease, definition: TaskDefinition) -> Terms | None:
    """What is to be applied to a job before it runs; ``None`` if nothing is.

    A priority alone is not applied: the job's turn has come already.
    """
    names, options = left_open(lease.options), definition.options
    if not names or options is None:
        return None
    unique = options.unique if "unique" in names else None
    concurrency = options.concurrency if "concurrency" in names else None
    expires = options.expires if "expires" in names and not lease.attempts else None
    if unique is None and concurrency is None and (expires is None or lease.expires_at is not None):
        return None
    unique_key = concurrency_key = None
    try:
        if unique is not None:
            values = values_of(definition.params, lease.params)
            unique_key = key_of(lease.task, values, unique.by)
        if concurrency is not None:
            concurrency_key = concurrency.name or lease.task
            if concurrency.by:
                values = values_of(definition.params, lease.params)
                concurrency_key = key_of(concurrency_key, values, concurrency.by)
    except (InvalidParams, InvalidOptions):
        return None  # the run fails with it
    return Terms(
        priority=options.priority if "priority" in names else lease.priority,
        options=with_left_open(lease.options, ()),
        expires=None if lease.expires_at is not None else expires,
        unique=None if unique is None or unique_key is None else unique.holding(unique_key),
        concurrency_key=concurrency_key,
        concurrency_limit=1 if concurrency is None else concurrency.limit,
    )
