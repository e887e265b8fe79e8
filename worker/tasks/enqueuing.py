"""A schedule's slot that asks for a job, instead of running the task itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from worker.client.current import current_client
from worker.context import current_run
from worker.errors import StoreUnavailable, TaskDefinitionError
from worker.jobs.params import NO_PARAMS
from worker.model import Trigger
from worker.retry import RetryPolicy
from worker.tasks.base import FunctionCode, TaskDefinition

if TYPE_CHECKING:
    import httpx

__all__ = ["enqueuing"]

PATIENT = RetryPolicy(attempts=5, retry_on=(StoreUnavailable,))
"""To ask twice for the same slot is to ask once: its job has an id of its own."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A task, as a client takes it."""

    definition: TaskDefinition

    def define(self) -> TaskDefinition:
        return self.definition


def enqueuing(definition: TaskDefinition, params: object) -> TaskDefinition:
    """The task whose run asks for a job of ``definition``: one job a slot, however often it runs.

    Raises:
        TaskDefinitionError: Nobody can ask for such a job.
    """
    if definition.options is None:
        raise TaskDefinitionError(
            f"{definition.name!r}: enqueue=True, but it has no queue; expected a class attribute "
            'such as queue = "default"'
        )

    async def ask() -> dict[str, object]:
        run = current_run()
        assert run is not None
        slot = None if run.trigger is Trigger.BACKFILL else run.slot
        which = run.run_id if slot is None else slot.isoformat()
        client = await current_client()
        job = await client.enqueue(Asked(definition), params, id=f"{definition.name}:{which}")
        return {"job": job.id, "created": job.created}

    def prepare(client: httpx.AsyncClient) -> FunctionCode:
        return FunctionCode(ask)

    return replace(
        definition,
        prepare=prepare,
        params=NO_PARAMS,
        options=None,
        hooks=frozenset(),
        bulk=None,
        retry=PATIENT,
        time_limit=None,
        soft_time_limit=None,
    )
