"""What it costs a job that somebody counts it, and that somebody traces it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from benchmarks.queue_child import QUEUE, echo
from benchmarks.report import spread
from benchmarks.runner_alone import alone_us
from worker.ops.metrics import Metrics
from worker.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace.sampling import Sampler

    from benchmarks.queue_child import Listener
    from benchmarks.report import Report

__all__ = ["measure"]

JOBS = 3000
ROUNDS = 7


def measure(report: Report, smoke: bool) -> None:
    report.title("watching: CPU of a job in the consumer and the runner")
    report.text("The job itself does nothing; spans are made, and sent nowhere.")
    watchers: dict[str, Sequence[Listener]] = {
        "nobody": (),
        "metrics": (Metrics(tasks={echo.name}, queues={QUEUE}),),
        "traces, none sampled": (tracing(ALWAYS_OFF),),
        "traces, all sampled": (tracing(ALWAYS_ON),),
    }
    jobs, rounds = (50, 1) if smoke else (JOBS, ROUNDS)
    took: dict[str, list[float]] = {name: [] for name in watchers}
    for _ in range(rounds):  # in turns: a machine is not always equally fast
        for name, listeners in watchers.items():
            took[name].append(alone_us(jobs, listeners))
    alone = min(took["nobody"])
    rows = [
        (name, spread(values), f"{min(values):.0f}", f"{min(values) / alone:.2f}")
        for name, values in took.items()
    ]
    report.table(("who watches", "µs a job", "least", "of nobody's"), rows)


def tracing(sampler: Sampler) -> Tracing:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    return Tracing(provider, base_url=httpx.URL("http://127.0.0.1"))
