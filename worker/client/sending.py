"""What a producer's trace hands on with its jobs, if somebody traces what goes on.

That costs nothing otherwise: a span can only be there if the program has loaded OpenTelemetry by
itself, and nothing of it is loaded here before. ``worker.telemetry.tracing`` is the worker's side.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker.jobs.job import Enqueued, NewJob

    Send = Callable[[Sequence[NewJob]], Awaitable[Sequence[Enqueued]]]

__all__ = ["SYSTEM", "is_traced", "send_traced"]

SYSTEM = "sidecar_worker"
"""What OpenTelemetry's conventions call ``messaging.system``."""


def is_traced() -> bool:
    """Whether the code that calls is inside of a span."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    return trace is not None and bool(trace.get_current_span().get_span_context().is_valid)


async def send_traced(jobs: Sequence[NewJob], send: Send) -> Sequence[Enqueued]:
    """As ``send``, in a span of its own, whose context the jobs carry in their headers.

    What whoever enqueues says of these headers stands.

    Args:
        jobs: One or more, of one queue.
    """
    from opentelemetry import propagate, trace

    queue = jobs[0].queue
    attributes: dict[str, str | int] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": queue,
        "worker.task": jobs[0].task,
    }
    if len(jobs) == 1:
        attributes["messaging.message.id"] = jobs[0].id
    else:
        attributes["messaging.batch.message_count"] = len(jobs)
    tracer = trace.get_tracer("sidecar-worker")
    with tracer.start_as_current_span(
        f"send {queue}", kind=trace.SpanKind.PRODUCER, attributes=attributes
    ) as span:
        carried: dict[str, str] = {}
        propagate.inject(carried)
        try:
            return await send([carrying(job, carried) for job in jobs])
        except Exception as exc:
            span.set_attribute("error.type", type(exc).__qualname__)
            raise


def carrying(job: NewJob, carried: dict[str, str]) -> NewJob:
    """The job with these headers, too."""
    if not carried:
        return job
    own = json.loads(job.headers) if job.headers != "{}" else {}
    return job._replace(headers=json.dumps({**carried, **own}, separators=(",", ":")))
