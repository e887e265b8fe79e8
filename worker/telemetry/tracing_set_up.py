"""Where spans go: to the provider that the application has set, or by the ``OTEL_…`` variables."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from threading import Thread
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from worker.errors import ConfigurationError
from worker.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import httpx
    from opentelemetry.sdk.trace.export import SpanExporter

    from worker.events import Events

__all__ = ["traced"]

GROUP = "opentelemetry_traces_exporter"
OTLP = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
FLUSH_S = 5.0
"""How long a worker that ends waits for its last spans to be sent."""


@asynccontextmanager
async def traced(
    events: Events, http_client: httpx.AsyncClient, redact: Callable[[str], str] = str
) -> AsyncIterator[None]:
    """Make spans of what is announced, and of the client's requests, while the block goes on.

    Raises:
        ConfigurationError: There is nowhere for them to go.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield
        return
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):  # nobody has set one
        provider = provider_of_the_environment()
        trace.set_tracer_provider(provider)  # for spans of the tasks' own
    tracing = Tracing(provider, base_url=http_client.base_url, redact=redact)
    events.subscribe(tracing)
    http_client.event_hooks["request"].append(tracing.before_request)
    try:
        yield
    finally:
        if isinstance(provider, TracerProvider):
            # A collector that hangs is left behind.
            flushing = Thread(target=provider.force_flush, name="tracing", daemon=True)
            flushing.start()
            await asyncio.to_thread(flushing.join, FLUSH_S)


def provider_of_the_environment() -> TracerProvider:
    """What the ``OTEL_…`` variables ask for, as the SDK reads them.

    Raises:
        ConfigurationError: They ask for an exporter that is not installed, or for none.
    """
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "sidecar-worker"}))
    exporters = [exporter(name) for name in exporter_names()]
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for one in exporters:
        provider.add_span_processor(BatchSpanProcessor(one))
    return provider


def exporter_names() -> list[str]:
    said = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    names = [name.strip() for name in said.split(",") if name.strip()]
    if "none" in names:
        raise ConfigurationError(
            [
                "WORKER_TRACING is on and OTEL_TRACES_EXPORTER is none, so no span would go "
                "anywhere; expected an exporter such as otlp, or WORKER_TRACING=off"
            ]
        )
    return names


def exporter(name: str) -> SpanExporter:
    """An exporter by the name that the specification gives it."""
    wanted = name
    if name == "otlp":
        protocol = (
            os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
            or "http/protobuf"
        ).strip()
        if protocol not in OTLP:
            raise ConfigurationError(
                [
                    f"OTEL_EXPORTER_OTLP_PROTOCOL: expected one of {', '.join(sorted(OTLP))}, got "
                    f"{protocol!r}"
                ]
            )
        wanted = OTLP[protocol]
    found = list(entry_points(group=GROUP, name=wanted))
    if not found:
        package = f"opentelemetry-exporter-{wanted.replace('_', '-')}"
        raise ConfigurationError(
            [
                f"WORKER_TRACING is on, and its exporter {name!r} (OTEL_TRACES_EXPORTER) is not "
                f"installed: expected {package}, or another exporter such as console"
            ]
        )
    try:
        made: SpanExporter = found[0].load()()
    except Exception as exc:
        raise ConfigurationError(
            [f"WORKER_TRACING: the exporter {name!r} cannot be used: {type(exc).__name__}: {exc}"]
        ) from exc
    return made
