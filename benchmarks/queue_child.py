"""A process of the benchmark of queues: a worker that works, or one that waits for work.

``python -m benchmarks.queue_child '{"role": …}'``; what it measured is its last line, as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import httpx

from benchmarks.quiet import quiet_log
from benchmarks.raw_queues import make_raw, work_raw
from worker import Events, Runner, SystemClock, WorkerClient, task
from worker.consuming.consumer import Consumer, ConsumerLimits
from worker.consuming.queue_plan import QueuePlan
from worker.events import Tally
from worker.queues.opening import make_jobs
from worker.telemetry.event_log import EventLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from benchmarks.raw_queues import RawQueue
    from worker.events import Event
    from worker.ports import JobStore
    from worker.tasks.base import TaskDefinition

    Listener = Callable[[Event], None]

__all__ = ["QUEUE", "Order", "Waited", "Worked", "echo"]

QUEUE = "default"
SETTLES_S = 0.3
"""How long a worker is left alone before it counts as idle."""
MARK = "ready"


@dataclass(frozen=True, slots=True)
class Order:
    """What the process is to do.

    Attributes:
        role: ``work`` off what is there, or ``wait`` for jobs that say when they were sent.
        raw: By hand, without the worker.
        jobs: How many; those of the warm-up come before.
        idle_s: How long a worker that waits is left alone, for its CPU.
        pause_s: Between the jobs that the process sends itself, if its engine is not shared.
    """

    role: Literal["work", "wait"]
    kind: str
    url: str
    records_url: str
    raw: bool
    jobs: int
    warm_up: int = 0
    idle_s: float = 0.0
    pause_s: float = 0.0

    @property
    def in_this_process(self) -> bool:
        return self.kind == "memory"


@dataclass(frozen=True, slots=True)
class Worked:
    """From the first lease to the last outcome that was stored."""

    per_s: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Waited:
    """How long each job took from before it was sent to its first line, and the CPU meanwhile."""

    late_ms: list[float]
    idle_percent: float


@task(name="echo", queue=QUEUE)
async def echo(n: int) -> int:
    """Return what it is given."""
    return n


def lateness(sent_ns: int) -> float:
    """Milliseconds. The monotonic clock is one for all processes of a machine."""
    return (time.monotonic_ns() - sent_ns) / 1e6


@asynccontextmanager
async def consuming(
    jobs: JobStore, definition: TaskDefinition, count: int, listeners: Sequence[Listener] = ()
) -> AsyncIterator[asyncio.Event]:
    """A worker of the usual concurrency; the event is set when it has done so many jobs.

    Args:
        listeners: Told what happens, beside those that every worker has.
    """
    done, clock = asyncio.Event(), SystemClock()
    events = Events(EventLog(), Tally(), *listeners)
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    async with httpx.AsyncClient(transport=transport) as client, asyncio.TaskGroup() as group:
        consumer = Consumer(
            jobs,
            Runner(client, clock=clock, events=events),
            {definition.name: definition},
            queues=[QueuePlan(name=QUEUE)],
            clock=clock,
            events=events,
            worker="bench",
            limits=ConsumerLimits(concurrency=100, max_jobs=count),
            on_done=lambda reason: done.set(),
        )
        consumer.start(group)
        yield done
        await consumer.stop(timedelta(seconds=5))


async def measured(work: Callable[[], Any], jobs: int) -> Worked:
    gc.collect()
    gc.freeze()  # as `worker start` does
    cpu, began = time.process_time(), time.perf_counter()
    await work()
    took = time.perf_counter() - began
    return Worked(jobs / took, (time.process_time() - cpu) / jobs * 1e6)


async def work(order: Order, jobs: JobStore) -> Worked:
    if order.in_this_process:
        async with WorkerClient(jobs=jobs) as client:
            await client.enqueue_many(echo, [{"n": n} for n in range(order.jobs + order.warm_up)])

    async def consume(count: int) -> None:
        async with consuming(jobs, echo.definition, count) as done:
            await done.wait()

    await consume(order.warm_up)
    return await measured(lambda: consume(order.jobs), order.jobs)


async def work_by_hand(order: Order, raw: RawQueue) -> Worked:
    if order.in_this_process:
        await raw.enqueue([f'{{"n":{n}}}' for n in range(order.jobs + order.warm_up)])
    await work_raw(raw, order.warm_up)
    return await measured(lambda: work_raw(raw, order.jobs), order.jobs)


async def be_idle(order: Order) -> float:
    """The CPU that is used while nothing happens, in percent of a core."""
    await asyncio.sleep(SETTLES_S)
    cpu = time.process_time()
    await asyncio.sleep(order.idle_s)
    percent = (time.process_time() - cpu) / max(order.idle_s, 1e-9) * 100
    say(MARK)
    return percent


async def send_here(order: Order, send: Callable[[int], Any]) -> None:
    """As the benchmark does for an engine that it shares with this process."""
    for _ in range(order.jobs if order.in_this_process else 0):
        await asyncio.sleep(order.pause_s)
        await send(time.monotonic_ns())


async def wait(order: Order, jobs: JobStore) -> Waited:
    late_ms: list[float] = []

    @task(name="echo", queue=QUEUE)
    async def note(n: int) -> None:
        late_ms.append(lateness(n))

    async with (
        WorkerClient(jobs=jobs) as client,
        consuming(jobs, note.definition, order.jobs) as done,
    ):
        idle = await be_idle(order)
        await send_here(order, lambda sent: client.enqueue(echo, {"n": sent}))
        await done.wait()
    return Waited(late_ms, idle)


async def wait_by_hand(order: Order, raw: RawQueue) -> Waited:
    late_ms: list[float] = []

    async def serve() -> None:
        while len(late_ms) < order.jobs:
            taken = await raw.take(1)
            late_ms.extend(lateness(json.loads(params)["n"]) for _, params in taken)
            if taken:
                await raw.settle([(key, "null") for key, _ in taken])

    serving = asyncio.create_task(serve())
    idle = await be_idle(order)
    await send_here(order, lambda sent: raw.enqueue([f'{{"n":{sent}}}']))
    await serving
    return Waited(late_ms, idle)


async def carry_out(order: Order) -> Worked | Waited:
    engine: Any = (
        make_raw(order.kind, order.url)
        if order.raw
        else make_jobs(order.url, records_url=order.records_url)
    )
    await engine.open()
    try:
        if order.raw:
            by_hand = work_by_hand if order.role == "work" else wait_by_hand
            return await by_hand(order, engine)
        return await (work if order.role == "work" else wait)(order, engine)
    finally:
        await engine.close()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> None:
    order = Order(**json.loads(arguments[0]))
    with quiet_log("info"):
        measured = asyncio.run(carry_out(order))
    say(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main(sys.argv[1:])
