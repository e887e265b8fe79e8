"""Spans of what the worker does, by OpenTelemetry's conventions for messaging and HTTP clients.

It listens to the worker's events, and to the shared HTTP client by httpx's own event hooks; a
worker that does not trace imports none of this. A span a run, which is the current one of the run's
code, and in it one for each HTTP request.

A job's span is *linked* to the span that sent it, and is no child of it. The conventions for
messaging ask for the link and leave the parent to us. A job may begin hours after its request has
ended, and be run several times: as a child it would keep that trace open, and be bound to what was
sampled then.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import httpx
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from worker.client.sending import SYSTEM
from worker.context import CALL, Calling
from worker.errors import DataApiUnreachable, UnexpectedStatus
from worker.events import (
    BatchEnded,
    BatchStarted,
    CallEnded,
    CallRetrying,
    Event,
    HookFailed,
    RunFinished,
    RunRetrying,
    RunStarted,
)
from worker.model import State
from worker.summary import describe, format_traceback
from worker.transport import OTHER, origin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue

__all__ = ["Tracing"]

METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
FAILED = frozenset({State.FAILURE, State.RETRY})
_request: ContextVar[Span | None] = ContextVar("worker_request_span", default=None)


class Tracing:
    """A listener that makes spans, and a request hook for the shared client.

    Args:
        provider: Whose tracer makes them.
        base_url: The Data API's: its requests, and no others, carry the trace's context.
        redact: Takes secrets out of a failure's words.
    """

    def __init__(
        self,
        provider: trace.TracerProvider,
        *,
        base_url: httpx.URL,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._redact = redact
        self._tracer = trace.get_tracer("sidecar-worker", tracer_provider=provider)
        self._origin = origin(base_url)
        self._runs: dict[str, Span] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case CallEnded():
                self._call_ended(event)
            case RunStarted():
                self._run_started(event)
            case RunFinished():
                self._run_finished(event)
            case BatchStarted():
                self._batch_started(event)
            case BatchEnded():
                self._batch_ended(event)
            case RunRetrying():
                self._told(event.run_id, "retry", waiting(event))
            case CallRetrying():
                self._told(
                    event.run_id, "call.retry", {"worker.call": event.call, **waiting(event)}
                )
            case HookFailed():
                said = {"worker.hook": event.hook, "error.type": error_type(event.failure)}
                self._told(event.run_id, "hook.failed", said)

    async def before_request(self, request: httpx.Request) -> None:
        """Begin the span of a request that a run makes. Other requests have none."""
        calling = request.extensions.get(CALL)
        if not isinstance(calling, Calling):
            return
        before = _request.get()
        if before is not None:
            before.end()  # it was answered by a redirect, which httpx follows with another request
        span = self._tracer.start_span(
            span_name(request, calling), kind=SpanKind.CLIENT, attributes=about(request, calling)
        )
        _request.set(span)
        if origin(request.url) == self._origin:
            propagate.inject(request.headers, context=trace.set_span_in_context(span))

    def _run_started(self, event: RunStarted) -> None:
        run = event.run
        attributes: dict[str, AttributeValue] = {
            "worker.task": run.task,
            "worker.run_id": run.run_id,
            "worker.trigger": run.trigger.value,
            "worker.attempt": run.attempts,
        }
        if run.slot is not None:
            attributes["worker.slot"] = run.slot.isoformat()
        kind, links = SpanKind.INTERNAL, []
        if event.queue:
            kind, links = SpanKind.CONSUMER, links_of(event.headers or {})
            attributes |= {
                "messaging.system": SYSTEM,
                "messaging.operation.name": "run",
                "messaging.operation.type": "process",
                "messaging.destination.name": event.queue,
                "messaging.message.id": run.run_id,
            }
        span = self._tracer.start_span(
            f"run {run.task}", kind=kind, attributes=attributes, links=links
        )
        self._runs[run.run_id] = span
        # The event is announced in the run's own context, which ends with the run.
        otel_context.attach(trace.set_span_in_context(span))

    def _batch_started(self, event: BatchStarted) -> None:
        """What many jobs' code does for all of them is a span linked to each one's."""
        runs = [self._runs[job] for job in event.jobs if job in self._runs]
        span = self._tracer.start_span(
            f"run batch {event.task}",
            attributes={
                "worker.task": event.task,
                "worker.run_id": event.run_id,
                "messaging.batch.message_count": len(event.jobs),
            },
            links=[Link(run.get_span_context()) for run in runs],
        )
        self._runs[event.run_id] = span
        otel_context.attach(trace.set_span_in_context(span))

    def _batch_ended(self, event: BatchEnded) -> None:
        span = self._runs.pop(event.run_id, None)
        if span is not None:
            span.end()

    def _run_finished(self, event: RunFinished) -> None:
        run, span = event.run, self._runs.pop(event.run.run_id, None)
        if span is None:
            return
        span.set_attributes(
            {"worker.outcome": run.state.value.lower(), "worker.attempts": run.attempts}
        )
        if event.calls_retried:
            span.set_attribute("worker.calls_retried", event.calls_retried)
        if run.dead:
            span.set_attribute("worker.dead_letter", True)
        if event.failure is not None and run.state in FAILED:
            span.record_exception(
                event.failure,
                attributes={
                    "exception.message": describe(event.failure, self._redact),
                    "exception.stacktrace": format_traceback(event.failure, self._redact),
                },
            )
            span.set_attribute("error.type", error_type(event.failure))
            span.set_status(Status(StatusCode.ERROR, describe(event.failure, self._redact)))
        span.end()

    def _call_ended(self, event: CallEnded) -> None:
        span = _request.get()
        if span is None:
            return
        _request.set(None)
        if event.status is not None:
            span.set_attribute("http.response.status_code", event.status)
        if event.status is not None and event.status >= 400:
            span.set_attribute("error.type", str(event.status))
            span.set_status(StatusCode.ERROR)
        elif event.failure is not None:
            span.set_attribute("error.type", error_type(event.failure))
            span.set_status(Status(StatusCode.ERROR, describe(event.failure, self._redact)))
        span.end()

    def _told(self, run_id: str, name: str, said: dict[str, Any]) -> None:
        span = self._runs.get(run_id)
        if span is not None:
            span.add_event(name, said)


def span_name(request: httpx.Request, calling: Calling) -> str:
    method = known_method(request)
    return method if calling.call == OTHER else f"{method} {calling.call}"


def known_method(request: httpx.Request) -> str:
    return request.method if request.method in METHODS else "_OTHER"


def about(request: httpx.Request, calling: Calling) -> dict[str, AttributeValue]:
    """What is said of a request. Of its URL neither credentials nor a query: they hold secrets."""
    url = request.url
    said: dict[str, AttributeValue] = {
        "http.request.method": known_method(request),
        "server.address": url.host,
        "server.port": url.port or {"http": 80, "https": 443}.get(url.scheme, 0),
        "url.full": str(url.copy_with(query=None, fragment=None, userinfo=b"")),
        "worker.call": calling.call,
        "worker.task": calling.run.task,
    }
    if calling.attempt > 1:
        said["http.request.resend_count"] = calling.attempt - 1
    return said


def links_of(headers: Mapping[str, str]) -> list[Link]:
    """The span that sent a job, if it said so in a way that is understood."""
    sent_by = trace.get_current_span(propagate.extract(headers)).get_span_context()
    return [Link(sent_by)] if sent_by.is_valid else []


def waiting(event: RunRetrying | CallRetrying) -> dict[str, Any]:
    return {
        "worker.attempt": event.attempt,
        "worker.wait_s": event.wait_s,
        "error.type": error_type(event.failure),
    }


def error_type(failure: BaseException) -> str:
    """The name of what went wrong: of an unreachable Data API, of its cause."""
    if isinstance(failure, UnexpectedStatus):
        return str(failure.status)
    if isinstance(failure, DataApiUnreachable) and failure.__cause__ is not None:
        failure = failure.__cause__
    kind = type(failure)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
