"""Spans of runs, jobs and requests, as an exporter gets them."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.support import ops_tasks
from tests.support.documents import ROOT
from tests.support.jobs import KINDS, fresh_engines
from tests.support.postgres import connect
from tests.support.servers import answer, answering, raw_server, refused_port
from tests.support.waiting import wait_until
from worker import BulkJob, BulkTask
from worker.client.client import WorkerClient
from worker.client.sync_client import SyncWorkerClient
from worker.clock import SystemClock
from worker.consuming.consumer import Consumer
from worker.consuming.queue_plan import QueuePlan
from worker.events import Events, Tally
from worker.jobs.job import NewJob, new_job_id
from worker.model import Trigger
from worker.redaction import Redaction
from worker.retry import RetryPolicy
from worker.running.runner import RunLimits, Runner
from worker.tasks.base import BaseTask, TaskDefinition
from worker.tasks.cleanup_old_orders import CleanupOldOrdersTask
from worker.telemetry.tracing import Tracing
from worker.transport import ClientOptions, open_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from worker.ports import JobStore

LIMITS = RunLimits(retry=RetryPolicy(attempts=3, base=timedelta(milliseconds=1)))
GREET = ops_tasks.greet.define()


@pytest.fixture(scope="session")
def provider() -> TracerProvider:
    """The process's provider: there can be one only."""
    provider = TracerProvider(shutdown_on_exit=False)
    trace.set_tracer_provider(provider)
    return provider


@pytest.fixture
def exporter(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    provider.add_span_processor(processor)
    yield exporter
    processor.shutdown()


class Bench:
    """A runner that traces, and what was exported."""

    def __init__(self, runner: Runner, events: Events, exporter: InMemorySpanExporter) -> None:
        self.runner = runner
        self.events = events
        self.tally = Tally()
        events.subscribe(self.tally)
        self._exporter = exporter

    async def run(self, task: Any, **rest: Any) -> None:
        definition = task if isinstance(task, TaskDefinition) else TaskDefinition.of(task)
        await self.runner.run(definition, trigger=Trigger.MANUAL, **rest)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    @asynccontextmanager
    async def consuming(self, store: JobStore, *tasks: TaskDefinition) -> AsyncIterator[None]:
        """Jobs of the default queue are run meanwhile."""
        consumer = Consumer(
            store,
            self.runner,
            {task.name: task for task in tasks},
            queues=[QueuePlan(name="default", poll_interval=timedelta(milliseconds=200))],
            clock=SystemClock(),
            events=self.events,
            worker="one",
        )
        async with asyncio.TaskGroup() as group:
            consumer.start(group)
            try:
                yield
            finally:
                await consumer.stop(timedelta(seconds=5))


@asynccontextmanager
async def tracing_bench(
    exporter: InMemorySpanExporter,
    provider: TracerProvider,
    url: str = "http://127.0.0.1:9",
    redact: Callable[[str], str] = str,
) -> AsyncIterator[Bench]:
    events = Events()
    async with open_client(ClientOptions(base_url=url, token="s3cret-token")) as client:
        tracing = Tracing(provider, base_url=client.base_url, redact=redact)
        events.subscribe(tracing)
        client.event_hooks["request"].append(tracing.before_request)
        yield Bench(
            Runner(client, clock=SystemClock(), events=events, limits=LIMITS), events, exporter
        )


@pytest.fixture
async def bench(exporter: InMemorySpanExporter, provider: TracerProvider) -> AsyncIterator[Bench]:
    async with tracing_bench(exporter, provider) as bench:
        yield bench


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


class Spanning(BaseTask):
    """Makes a span of its own, in a thread too."""

    name = "test-tracing:spanning"

    async def execute(self) -> None:
        with trace.get_tracer("mine").start_as_current_span("mine"):
            pass


async def test_run_is_a_span_with_what_became_of_it_and_that_of_its_code_inside(
    bench: Bench,
) -> None:
    slot = datetime.now(UTC)
    await bench.runner.run(TaskDefinition.of(Spanning), trigger=Trigger.SCHEDULE, slot=slot)
    run, mine = bench.span("run test-tracing:spanning"), bench.span("mine")
    about = said(run)
    assert about.pop("worker.run_id")
    assert about == {
        "worker.task": "test-tracing:spanning",
        "worker.trigger": "schedule",
        "worker.slot": slot.isoformat(),
        "worker.attempt": 1,
        "worker.attempts": 1,
        "worker.outcome": "success",
    }
    assert (run.kind, run.parent, run.status.status_code) == (
        SpanKind.INTERNAL,
        None,
        StatusCode.UNSET,
    )
    assert mine.parent is not None
    assert run.context is not None
    assert mine.parent.span_id == run.context.span_id
    assert not trace.get_current_span().get_span_context().is_valid


async def test_failed_run_is_an_error_with_its_exception(bench: Bench) -> None:
    await bench.run(ops_tasks.Failing)
    run = bench.span("run failing")
    assert run.status.status_code is StatusCode.ERROR
    assert run.status.description == "the far side is full"
    assert said(run)["error.type"] == "worker.errors.TaskFailed"
    (event,) = run.events
    assert event.name == "exception"
    assert dict(event.attributes or {})["exception.message"] == "the far side is full"


SECRET = "qwerty-0123456789"


class Leaks(BaseTask):
    """Fails in words that hold a secret, where they are cut."""

    name = "test-tracing:leaks"

    async def execute(self) -> None:
        raise ValueError("x" * 495 + SECRET)


async def test_no_secret_gets_into_a_span_by_an_exception(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    async with tracing_bench(exporter, provider, redact=Redaction([SECRET])) as bench:
        await bench.run(Leaks)
        span = bench.span("run test-tracing:leaks")
    assert "x***" in span.to_json()
    assert SECRET[:4] not in span.to_json()


async def test_retries_are_events_of_the_run(bench: Bench) -> None:
    await bench.run(ops_tasks.Flaky)
    run = bench.span("run flaky")
    assert [event.name for event in run.events] == ["retry", "retry"]
    assert [dict(event.attributes or {})["worker.attempt"] for event in run.events] == [1, 2]
    assert said(run)["worker.attempts"] == 3
    assert run.status.status_code is StatusCode.UNSET


async def test_each_try_of_a_call_is_a_client_span_and_carries_the_trace_to_the_data_api(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    down, done = answer(status="503 Service Unavailable"), answer(b'{"deleted_count": 1}')
    async with (
        raw_server(answering(down, done)) as server,
        tracing_bench(exporter, provider, server.url) as bench,
    ):
        await bench.run(CleanupOldOrdersTask)
    run = bench.span("run cleanup_old_orders")
    first, second = [span for span in bench.spans if span.name == "DELETE orders.cleanup"]
    url = f"{server.url}/api/v1/orders/cleanup"
    assert said(first) == {
        "http.request.method": "DELETE",
        "http.response.status_code": 503,
        "error.type": "503",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "url.full": url,
        "worker.call": "orders.cleanup",
        "worker.task": "cleanup_old_orders",
    }
    assert first.status.status_code is StatusCode.ERROR
    assert said(second)["http.request.resend_count"] == 1
    assert said(second)["http.response.status_code"] == 200
    assert second.status.status_code is StatusCode.UNSET
    assert [event.name for event in run.events] == ["call.retry"]
    assert {first.kind, second.kind} == {SpanKind.CLIENT}
    for span, request in zip((first, second), server.requests, strict=True):
        assert span.parent is not None
        assert run.context is not None
        assert span.context is not None
        assert span.parent.span_id == run.context.span_id
        assert request.headers["traceparent"].startswith(
            f"00-{run.context.trace_id:032x}-{span.context.span_id:016x}-"
        )


async def test_request_of_a_task_itself_tells_neither_its_query_nor_credentials(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    async with (
        raw_server(answering(answer(status="404 Not Found"))) as server,
        tracing_bench(exporter, provider, server.url) as bench,
    ):
        await bench.run(ops_tasks.Calling)
    span = bench.span("GET")
    assert said(span)["url.full"] == f"{server.url}/things/7"
    assert said(span)["error.type"] == "404"
    assert "s3cret" not in "".join(span.to_json() for span in bench.spans)


async def test_request_without_an_answer_is_an_error_of_its_cause(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    nobody = f"http://127.0.0.1:{refused_port()}"
    async with tracing_bench(exporter, provider, nobody) as bench:
        await bench.run(CleanupOldOrdersTask)
    spans = [span for span in bench.spans if span.name == "DELETE orders.cleanup"]
    assert [said(span)["error.type"] for span in spans] == ["httpx.ConnectError"] * 3
    assert "http.response.status_code" not in said(spans[0])


class Elsewhere(BaseTask):
    """Calls somebody who is not the Data API."""

    name = "test-tracing:elsewhere"
    url = ""

    async def execute(self) -> None:
        await self.http_client.get(self.url)


async def test_who_is_not_the_data_api_learns_nothing_of_the_trace(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw_server(answering(answer())) as server:
        monkeypatch.setattr(Elsewhere, "url", server.url)
        await bench.run(Elsewhere)
    assert "traceparent" not in server.requests[0].headers
    assert bench.span("GET").status.status_code is StatusCode.UNSET


class Redirected(BaseTask):
    name = "test-tracing:redirected"

    async def execute(self) -> None:
        await self.http_client.get("/old", follow_redirects=True)


async def test_redirect_that_a_task_follows_is_a_span_a_request(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    moved = answer(status="302 Found", headers=("Location: /new",))
    async with (
        raw_server(answering(moved, answer())) as server,
        tracing_bench(exporter, provider, server.url) as bench,
    ):
        await bench.run(Redirected)
    ends = [said(span)["url.full"] for span in bench.spans if span.name == "GET"]
    assert ends == [f"{server.url}/old", f"{server.url}/new"]


@pytest.mark.parametrize("kind", KINDS)
async def test_job_is_linked_to_the_span_that_sent_it_over_every_backend(
    kind: str, bench: Bench, tmp_path: Path
) -> None:
    async with fresh_engines(kind, tmp_path) as engines:
        store = await engines.open()
        async with WorkerClient(jobs=store) as client, bench.consuming(store, GREET):
            with trace.get_tracer("producer").start_as_current_span("request") as request:
                job = await client.enqueue(ops_tasks.greet, {"name": "you"})
            await wait_until(lambda: bench.tally.counts["greet", "success"] == 1, "it is done")
    send, run = bench.span("send default"), bench.span("run greet")
    assert send.parent is not None
    assert send.parent.span_id == request.get_span_context().span_id
    assert (send.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    (link,) = run.links
    assert send.context is not None
    assert link.context.span_id == send.context.span_id
    assert link.context.trace_id == send.context.trace_id
    assert run.parent is None
    assert run.context is not None
    assert run.context.trace_id != send.context.trace_id
    about = said(run)
    assert about["messaging.operation.type"] == "process"
    assert about["messaging.destination.name"] == "default"
    assert about["messaging.message.id"] == job.id == said(send)["messaging.message.id"]
    assert said(send)["messaging.operation.type"] == "send"
    assert about["messaging.system"] == said(send)["messaging.system"] == "sidecar_worker"


async def test_job_that_sql_alone_asked_for_is_linked_to_what_it_says(
    bench: Bench, tmp_path: Path
) -> None:
    headers = json.dumps({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    async with fresh_engines("postgres", tmp_path) as engines:
        store = await engines.open()
        with connect(engines.url) as caller:
            caller.execute(
                "SELECT worker_enqueue('greet', '{\"name\": \"you\"}', headers => %s)", (headers,)
            )
        async with bench.consuming(store, GREET):
            await wait_until(lambda: bench.tally.counts["greet", "success"] == 1, "it is done")
    (link,) = bench.span("run greet").links
    assert f"{link.context.trace_id:032x}" == "a" * 32


async def test_job_of_the_callers_transaction_carries_the_trace(
    exporter: InMemorySpanExporter, provider: TracerProvider, tmp_path: Path
) -> None:
    async with fresh_engines("postgres", tmp_path) as engines:
        store = await engines.open()
        async with WorkerClient(jobs=store) as client:
            with (
                connect(engines.url) as caller,
                trace.get_tracer("producer").start_as_current_span("request"),
            ):
                job = await client.enqueue("greet", {"name": "you"}, connection=caller)
            (recorded,) = await store.get([job.id])
    (send,) = [span for span in exporter.get_finished_spans() if span.name == "send default"]
    assert recorded is not None
    assert send.context is not None
    assert f"{send.context.span_id:016x}" in json.loads(recorded.headers)["traceparent"]


async def test_job_that_is_run_again_has_a_span_an_attempt_each_linked(
    bench: Bench, tmp_path: Path
) -> None:
    async with fresh_engines("memory", tmp_path) as engines:
        store = await engines.open()
        tasks = ops_tasks.soon_again.define()
        async with WorkerClient(jobs=store) as client, bench.consuming(store, tasks):
            with trace.get_tracer("producer").start_as_current_span("request"):
                await client.enqueue(ops_tasks.soon_again)
            await wait_until(
                lambda: bench.tally.counts["soon_again", "failure"] == 1, "it is given up"
            )
    runs = [span for span in bench.spans if span.name == "run soon_again"]
    assert [said(run)["worker.outcome"] for run in runs] == ["retry", "failure"]
    assert [said(run)["worker.attempt"] for run in runs] == [1, 2]
    assert [run.status.status_code for run in runs] == [StatusCode.ERROR] * 2
    assert [len(run.links) for run in runs] == [1, 1]


class Saving(BulkTask):
    """Saves many things in one request."""

    name = "test-tracing:saving"
    queue = "default"
    max_batch_size = 2
    max_wait = timedelta(seconds=5)

    @dataclass
    class Params:
        number: int

    async def execute_many(self, jobs: Sequence[BulkJob[Params]]) -> list[object]:
        await self.http_client.post("/many")
        return [None for _ in jobs]


async def test_code_of_a_batch_has_a_span_that_is_linked_to_its_jobs(
    exporter: InMemorySpanExporter, provider: TracerProvider, tmp_path: Path
) -> None:
    definition = TaskDefinition.of(Saving)
    async with (
        raw_server(answering(answer())) as server,
        tracing_bench(exporter, provider, server.url) as bench,
        fresh_engines("memory", tmp_path) as engines,
    ):
        store = await engines.open()
        async with WorkerClient(jobs=store) as client, bench.consuming(store, definition):
            await client.enqueue_many(Saving, [{"number": 1}, {"number": 2}])
            await wait_until(
                lambda: bench.tally.counts[Saving.name, "success"] == 2, "both are done"
            )
    runs = [span for span in bench.spans if span.name == f"run {Saving.name}"]
    batch, request = bench.span(f"run batch {Saving.name}"), bench.span("POST")
    assert {link.context.span_id for link in batch.links} == {id_of(run) for run in runs}
    assert said(batch)["messaging.batch.message_count"] == 2
    assert request.parent is not None
    assert request.parent.span_id == id_of(batch)
    assert f"{id_of(request):016x}" in server.requests[0].headers["traceparent"]


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


async def test_many_jobs_are_sent_in_one_span_and_keep_headers_of_their_own(
    exporter: InMemorySpanExporter, provider: TracerProvider, tmp_path: Path
) -> None:
    async with fresh_engines("memory", tmp_path) as engines:
        store = await engines.open()
        async with WorkerClient(jobs=store) as client:
            with trace.get_tracer("producer").start_as_current_span("request"):
                jobs = await client.enqueue_many(
                    "greet", [{"name": "a"}, {"name": "b"}], headers={"tenant": "t1"}
                )
            recorded = await store.get([job.id for job in jobs])
    (send,) = [span for span in exporter.get_finished_spans() if span.name == "send default"]
    assert said(send)["messaging.batch.message_count"] == 2
    for job in recorded:
        assert job is not None
        headers = json.loads(job.headers)
        assert headers["tenant"] == "t1"
        assert send.context is not None
        assert f"{send.context.span_id:016x}" in headers["traceparent"]


async def test_client_that_is_not_async_hands_on_the_trace_of_its_thread(
    exporter: InMemorySpanExporter, provider: TracerProvider, tmp_path: Path
) -> None:
    def produce() -> dict[str, str]:
        with SyncWorkerClient(f"sqlite:///{tmp_path / 'jobs.db'}") as client:
            with trace.get_tracer("producer").start_as_current_span("request"):
                job = client.enqueue("greet", {"name": "you"})
            headers: dict[str, str] = json.loads(job.info().headers)
            return headers

    headers = await asyncio.to_thread(produce)
    (send,) = [span for span in exporter.get_finished_spans() if span.name == "send default"]
    assert send.context is not None
    assert f"{send.context.trace_id:032x}" in headers["traceparent"]


async def test_job_that_nobody_traces_carries_no_headers(tmp_path: Path) -> None:
    async with fresh_engines("memory", tmp_path) as engines:
        store = await engines.open()
        async with WorkerClient(jobs=store) as client:
            job = await client.enqueue("greet", {"name": "you"})
            (recorded,) = await store.get([job.id])
    assert recorded is not None
    assert recorded.headers == "{}"


@pytest.mark.parametrize("parent", ["", "00-zz-zz-01", "x" * 5000, "00-" + "0" * 32 + "-1-01"])
async def test_job_with_a_broken_traceparent_is_run_without_a_link(
    parent: str, bench: Bench, tmp_path: Path
) -> None:
    async with fresh_engines("memory", tmp_path) as engines:
        store = await engines.open()
        headers = json.dumps({"traceparent": parent})
        await store.enqueue(
            [NewJob(new_job_id(), "greet", "default", '{"name":"you"}', headers=headers)]
        )
        async with bench.consuming(store, GREET):
            await wait_until(lambda: bench.tally.counts["greet", "success"] == 1, "it is done")
    assert not bench.span("run greet").links


def test_every_attribute_and_span_event_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "tracing.md").read_text("utf-8")
    code = "".join(
        (ROOT / "worker" / name).read_text("utf-8")
        for name in ("telemetry/tracing.py", "client/sending.py")
    )
    named = set(re.findall(r'"((?:worker|messaging|http|url|server|error)\.[a-z_.]+)"', code)) | {
        "retry",
        "call.retry",
        "hook.failed",
    }
    assert len(named) > 20
    assert {name for name in named if f"`{name}`" not in page} == set()
