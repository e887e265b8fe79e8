"""Where spans go, what is refused as they would go nowhere, and what is loaded if nobody traces."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import worker_command
from tests.support.servers import answer, answering, raw_server, refused_port

if TYPE_CHECKING:
    from pathlib import Path

MODULE = """
import sys

async def ping():
    return sorted(name for name in sys.modules if name.startswith("opentelemetry"))

def register(scheduler):
    scheduler.register_task(ping, name="ping", interval="1h")
"""
PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(service_name="mine")))
trace.set_tracer_provider(provider)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pings.py").write_text(MODULE)
    return tmp_path


async def ping(folder: Path, **environment: str) -> tuple[int, str, str]:
    """``worker run ping``: exit code, standard output, standard error."""
    said = {
        "WORKER_DATA_API_URL": "http://127.0.0.1:9",
        "WORKER_STORE_URL": "memory://",
        "WORKER_TASK_MODULES": "pings",
        **environment,
    }
    return await worker_command("run", "ping", environment=said, cwd=folder)


async def test_worker_that_does_not_trace_loads_nothing_of_it(folder: Path) -> None:
    code, out, err = await ping(folder)
    assert code == 0, err
    assert "opentelemetry" not in out + err


async def test_spans_go_where_the_variables_say_before_the_worker_ends(folder: Path) -> None:
    code, _, err = await ping(
        folder,
        WORKER_TRACING="on",
        OTEL_TRACES_EXPORTER="console",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
    )
    assert code == 0, err
    span = span_in(err)
    assert span["name"] == "run ping"
    assert span["attributes"]["worker.trigger"] == "manual"
    assert span["resource"]["attributes"]["service.name"] == "sidecar-worker"
    assert span["resource"]["attributes"]["deployment.environment.name"] == "test"


async def test_spans_reach_a_collector_before_the_worker_ends(folder: Path) -> None:
    async with raw_server(answering(answer())) as collector:
        code, _, err = await ping(
            folder, WORKER_TRACING="on", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url
        )
    assert code == 0, err
    (request,) = collector.requests
    assert (request.method, request.target) == ("POST", "/v1/traces")
    assert b"run ping" in request.body


async def test_collector_that_is_down_hinders_no_run(folder: Path) -> None:
    nobody = f"http://127.0.0.1:{refused_port()}"
    code, out, _ = await ping(folder, WORKER_TRACING="on", OTEL_EXPORTER_OTLP_ENDPOINT=nobody)
    assert code == 0
    assert json.loads(out)["state"] == "SUCCESS"


async def test_name_of_the_service_is_the_operators(folder: Path) -> None:
    code, _, err = await ping(
        folder,
        WORKER_TRACING="on",
        OTEL_TRACES_EXPORTER="console",
        OTEL_SERVICE_NAME="orders-worker",
    )
    assert code == 0, err
    assert span_in(err)["resource"]["attributes"]["service.name"] == "orders-worker"


async def test_spans_go_to_the_provider_that_the_application_has_set(folder: Path) -> None:
    (folder / "pings.py").write_text(PROVIDER + MODULE)
    code, _, err = await ping(folder, WORKER_TRACING="on")
    assert code == 0, err
    assert span_in(err)["name"] == "run ping"


async def test_disabled_sdk_makes_no_spans(folder: Path) -> None:
    code, _, err = await ping(
        folder, WORKER_TRACING="on", OTEL_SDK_DISABLED="true", OTEL_TRACES_EXPORTER="console"
    )
    assert code == 0, err
    assert '"trace_id"' not in err


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, "no span would go anywhere"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "expected opentelemetry-exporter-zipkin"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "opentelemetry-exporter-otlp-proto-grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"}, "got 'pigeon'"),
    ],
)
async def test_tracing_that_would_go_nowhere_is_refused_at_start(
    environment: dict[str, str], said: str, folder: Path
) -> None:
    code, _, err = await ping(folder, WORKER_TRACING="on", **environment)
    assert code == 78
    assert said in err
    assert "Traceback" not in err


def span_in(err: str) -> dict[str, Any]:
    """The one span that was printed, among log lines: standard output is for the result."""
    start = err.index("{\n")
    found: dict[str, Any]
    found, _ = json.JSONDecoder().raw_decode(err, start)
    return found
