"""What each engine of queues carries: enqueued, worked off, and how soon, against its own limit.

The limit is the same engine driven by hand (`benchmarks.raw_queues`), in turns with the worker.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.queue_child import MARK, Order, Waited, Worked, echo
from benchmarks.quiet import quiet_log
from benchmarks.raw_queues import make_raw
from benchmarks.report import Report, percentile, spread
from benchmarks.runner_alone import alone_us, task_us
from tests.support.postgres import empty_schema
from tests.support.stores import fresh_url
from worker import WorkerClient
from worker.backends.migrate import migrate
from worker.queues.opening import make_jobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["ENGINES", "measure"]

ENGINES = ("memory", "sqlite", "postgres", "redis", "sqs")
SQS_SERVER = "tests.support.sqs_server"
BATCH = 100
WANTED_PER_S = 8000
WANTED_FOR = ("sqlite", "postgres", "redis")
BUDGET_US = 60
Send = Callable[[Sequence[int]], Awaitable[Any]]
"""Enqueues a job for each number, in one round trip."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. The pauses are drawn, so that they meet no rhythm of an engine."""

    jobs: int = 5000
    warm_up: int = 200
    rounds: int = 3
    single: int = 60
    pause_s: float = 0.05
    idle_s: float = 3.0

    def of(self, kind: str) -> Plan:
        """SQS is an emulator here, of less than a hundred requests a second."""
        if kind != "sqs":
            return self
        few = replace(self, jobs=100, warm_up=10, rounds=1, single=20)
        return few if self.jobs > few.jobs else self


SMOKE = Plan(jobs=20, warm_up=5, rounds=1, single=2, pause_s=0.005, idle_s=0.01)


@dataclass(slots=True)
class Seen:
    """What was measured of an engine, or of its limit."""

    one_by_one: list[float] = field(default_factory=list)
    at_once: list[float] = field(default_factory=list)
    worked: list[Worked] = field(default_factory=list)
    waited: Waited = field(default_factory=lambda: Waited([0.0], 0.0))


@dataclass(frozen=True, slots=True)
class Place:
    """An empty engine."""

    kind: str
    url: str
    records_url: str

    def order(self, **rest: Any) -> Order:
        return Order(kind=self.kind, url=self.url, records_url=self.records_url, **rest)

    @asynccontextmanager
    async def sending(self, *, raw: bool) -> AsyncIterator[Send]:
        if raw:
            engine = make_raw(self.kind, self.url)
            await engine.open()
            yield lambda numbers: engine.enqueue([json.dumps({"n": n}) for n in numbers])
            await engine.close()
            return
        jobs = make_jobs(self.url, records_url=self.records_url)
        await jobs.open()
        async with WorkerClient(jobs=jobs) as client:
            yield partial(send, client)
        await jobs.close()


async def send(client: WorkerClient, numbers: Sequence[int]) -> None:
    if len(numbers) == 1:
        await client.enqueue(echo, {"n": numbers[0]})
    else:
        await client.enqueue_many(echo, [{"n": n} for n in numbers])


def place_of(kind: str, stack: ExitStack) -> Place:
    """An empty engine of that kind, until the stack is left.

    Raises:
        pytest.skip.Exception: It is missing here; the message says what.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    records_url = f"sqlite:///{folder / 'records.db'}"
    if kind == "postgres":
        url = stack.enter_context(empty_schema())
        migrate(url)
    elif kind == "sqs":
        if find_spec("aiobotocore") is None or find_spec("moto") is None:
            pytest.skip("aiobotocore and moto are not installed")
        from importlib import import_module

        url = stack.enter_context(import_module(SQS_SERVER).fresh_sqs_url(folder))
    else:
        url = stack.enter_context(fresh_url(kind, folder))
    return Place(kind, url, records_url)


async def enqueue(place: Place, plan: Plan, seen: Seen, *, raw: bool) -> None:
    """As many as the next worker process takes."""
    async with place.sending(raw=raw) as send:
        began = time.perf_counter()
        for number in range(plan.warm_up):
            await send([number])
        seen.one_by_one.append(plan.warm_up / (time.perf_counter() - began))
        began = time.perf_counter()
        for start in range(0, plan.jobs, BATCH):
            await send(range(start, min(start + BATCH, plan.jobs)))
        seen.at_once.append(plan.jobs / (time.perf_counter() - began))


def started(order: Order) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.queue_child", json.dumps(asdict(order))],
        stdout=subprocess.PIPE,
        text=True,
    )


def answer_of(child: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = child.communicate(timeout=120)
    if child.returncode != 0:
        raise RuntimeError(f"expected exit code 0 of a worker, got {child.returncode}")
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


def work_off(place: Place, plan: Plan, seen: Seen, *, raw: bool) -> None:
    with started(place.order(role="work", raw=raw, jobs=plan.jobs, warm_up=plan.warm_up)) as child:
        seen.worked.append(Worked(**answer_of(child)))


def wait_for_each(place: Place, plan: Plan, seen: Seen, *, raw: bool) -> None:
    """Send one job after the other to a worker that has nothing to do."""

    async def send_all() -> None:
        async with place.sending(raw=raw) as send:
            for _ in range(plan.single):
                await asyncio.sleep(plan.pause_s * random.uniform(1, 2))
                await send([time.monotonic_ns()])

    order = place.order(
        role="wait", raw=raw, jobs=plan.single, idle_s=plan.idle_s, pause_s=plan.pause_s
    )
    with started(order) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == MARK, "the worker did not start"
        if not order.in_this_process:
            asyncio.run(send_all())
        seen.waited = Waited(**answer_of(child))


def measure_engine(report: Report, kind: str, plan: Plan) -> None:
    report.title(f"queues: {kind}")
    ours, limit = Seen(), Seen()
    with ExitStack() as stack:
        try:
            place = place_of(kind, stack)
        except pytest.skip.Exception as missing:
            report.text(f"not measured: {missing}")
            return
        for _ in range(plan.rounds):
            for raw, seen in ((False, ours), (True, limit)):
                asyncio.run(enqueue(place, plan, seen, raw=raw))
                work_off(place, plan, seen, raw=raw)
        for raw, seen in ((False, ours), (True, limit)):
            wait_for_each(place, plan, seen, raw=raw)
    tell(report, plan, ours, limit)
    per_s = median(each.per_s for each in ours.worked)
    if kind in WANTED_FOR:
        wanted = f"{kind}: {WANTED_PER_S} jobs/s with results"
        report.target(wanted, f"{per_s:.0f}", met=per_s >= WANTED_PER_S)


def tell(report: Report, plan: Plan, ours: Seen, limit: Seen) -> None:
    def line(what: str, values: Callable[[Seen], Sequence[float]], form: str) -> tuple[str, ...]:
        mine, most = values(ours), values(limit)
        ratio = median(mine) / median(most) if median(most) else 0.0
        return (what, spread(mine, form), spread(most, form), f"{ratio:.2f}x")

    def late(percent: float, seen: Seen) -> list[float]:
        return [percentile(seen.waited.late_ms, percent)]

    report.text(
        f"Median (least-most) of {plan.rounds} rounds of {plan.jobs} jobs, in turns; "
        f"{plan.single} single jobs."
    )
    report.table(
        ("", "ours", "by hand", "ratio"),
        [
            line("enqueued/s, one by one", lambda seen: seen.one_by_one, ".0f"),
            line(f"enqueued/s, {BATCH} at once", lambda seen: seen.at_once, ".0f"),
            line("processed/s", lambda seen: [each.per_s for each in seen.worked], ".0f"),
            line("CPU us/job", lambda seen: [each.cpu_us for each in seen.worked], ".0f"),
            line("idle latency p50 ms", partial(late, 50), ".2f"),
            line("idle latency p99 ms", partial(late, 99), ".2f"),
            line("idle CPU, % of a core", lambda seen: [seen.waited.idle_percent], ".2f"),
        ],
    )


def measure_alone(report: Report, *, jobs: int, rounds: int) -> None:
    """The runner's budget."""
    report.title("queues: consumer and runner alone")
    report.text(
        f"An engine that hands out prepared leases and swallows outcomes, {jobs} jobs, log at "
        f"info.\nMedian (least-most) of {rounds} interleaved rounds."
    )
    alone: list[float] = []
    bare: list[float] = []
    for _ in range(rounds):
        with quiet_log("info"):
            alone.append(alone_us(jobs))
            bare.append(task_us(jobs))
    report.table(
        ("", "CPU us/job"),
        [("ours", spread(alone)), ("await create_task(echo(n))", spread(bare))],
    )
    report.target(
        f"a job costs up to {BUDGET_US} us without the engine",
        f"{median(alone):.0f} us",
        met=median(alone) <= BUDGET_US,
    )


def measure(report: Report, smoke: bool, engines: Sequence[str] = ENGINES) -> None:
    plan = SMOKE if smoke else Plan()
    measure_alone(report, jobs=100 if smoke else 10_000, rounds=1 if smoke else 5)
    report.title("queues: how they are measured")
    report.text(
        "No-op jobs, their results stored, the log at info; one worker process of 100 jobs at a\n"
        "time. By hand: the same engine without a worker, in batches of 100. CPU is the worker's\n"
        "process, the engine's client included. Latency: from before the call that enqueues to\n"
        "the job's first line; producer and worker are two processes, but for memory."
    )
    for kind in engines:
        measure_engine(report, kind, plan.of(kind))
