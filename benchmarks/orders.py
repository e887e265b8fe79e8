"""Orders a second against a Data API that takes 20 ms to answer.

Every case processes its orders with a client of its own that has no connections yet, as the run
of a periodic task would. Only ours reads the list of orders too; the others are given the ids.

Plain httpx is there twice because its default is the better of the two. With as many keep-alive
connections as requests at once, httpcore 1.0 looks at every idle connection for every other one
whenever a request begins or ends, and gives an idle connection to more than one request.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Protocol

import httpx

from benchmarks.light_api import LightApi, running_api
from benchmarks.quiet import quiet_log
from benchmarks.report import Report, spread
from worker import ClientOptions, Events, Runner, State, SystemClock, Trigger, open_client
from worker.tasks.base import TaskDefinition
from worker.tasks.process_pending_orders import ProcessPendingOrdersTask
from worker.telemetry.event_log import EventLog

__all__ = ["measure"]

WANTED_RATIO = 18
LATENCY_S = 0.02

HTTPX_DEFAULT = httpx.Limits(max_connections=100, max_keepalive_connections=20)

Client = Callable[[LightApi, Sequence[int]], Awaitable[None]]


class ManyAtOnce(Protocol):
    """A client that has up to ``concurrency`` orders under way."""

    def __call__(
        self, api: LightApi, ids: Sequence[int], *, concurrency: int
    ) -> Awaitable[None]: ...


@dataclass
class Case:
    """One way of processing orders, and what was measured of it, a value a round."""

    name: str
    client: Client
    orders: int
    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    async def go(self, api: LightApi) -> None:
        await asyncio.to_thread(api.reset, self.orders)
        gc.collect()
        began, cpu = time.perf_counter(), time.process_time()
        await self.client(api, range(1, self.orders + 1))
        took, cpu_took = time.perf_counter() - began, time.process_time() - cpu
        await asyncio.to_thread(api.check_processed, self.orders)
        self.per_s.append(self.orders / took)
        self.cpu_us.append(cpu_took / self.orders * 1e6)


async def sequential(api: LightApi, ids: Sequence[int]) -> None:
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
        for number in ids:
            response = await client.post(f"/api/v1/orders/{number}/process")
            response.raise_for_status()


async def pooled(
    api: LightApi, ids: Sequence[int], *, concurrency: int, limits: httpx.Limits
) -> None:
    places = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, limits=limits) as client:

        async def process(number: int) -> None:
            async with places:
                response = await client.post(f"/api/v1/orders/{number}/process")
                response.raise_for_status()

        await asyncio.gather(*map(process, ids))


async def ours(api: LightApi, ids: Sequence[int], *, concurrency: int) -> None:
    task = TaskDefinition.of(partial(ProcessPendingOrdersTask, concurrency=concurrency))
    options = ClientOptions(base_url=api.url, connections=concurrency + 16)
    async with open_client(options) as client:
        runner = Runner(client, clock=SystemClock(), events=Events(EventLog()))
        run = await runner.run(task, trigger=Trigger.MANUAL)
    if run.state is not State.SUCCESS:
        raise RuntimeError(f"the run failed: {run.error}")


async def raw(api: LightApi, ids: Sequence[int], *, concurrency: int) -> None:
    left = iter(ids)

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        for number in left:
            writer.write(
                b"POST /api/v1/orders/%d/process HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                b"Content-Length: 0\r\n\r\n" % (number, api.port)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"expected 200, got {head!r}")
            await reader.readexactly(int(head.rpartition(b"Content-Length:")[2]))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(one_connection() for _ in range(concurrency)))


def cases(*, orders: int, sequential_orders: int) -> list[Case]:
    every = [Case("plain httpx, one after the other", sequential, sequential_orders)]
    for concurrency in (32, 50):
        matched = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        clients: dict[str, ManyAtOnce] = {
            "plain httpx, default pool": partial(pooled, limits=HTTPX_DEFAULT),
            "plain httpx, pool that fits": partial(pooled, limits=matched),
            "ours": ours,
            "raw sockets": raw,
        }
        for name, client in clients.items():
            case = Case(
                f"{name}, {concurrency} at once", partial(client, concurrency=concurrency), orders
            )
            every.append(case)
    return every


async def measure_all(every: Sequence[Case], *, rounds: int, latency_s: float) -> None:
    with running_api(latency_s) as api:
        for case in every:
            await Case(case.name, case.client, min(case.orders, 200)).go(api)  # the warm-up
        for _ in range(rounds):
            for case in every:
                await case.go(api)


def measure(report: Report, smoke: bool) -> None:
    rounds, latency_s = (1, 0.001) if smoke else (3, LATENCY_S)
    every = (
        cases(orders=60, sequential_orders=10)
        if smoke
        else cases(orders=2000, sequential_orders=1000)
    )
    report.title(f"orders a second, {latency_s * 1000:g} ms latency")
    report.text(
        f"Median (least-most) of {rounds} interleaved rounds; connecting is part of each.\n"
        "CPU is the client's process alone. Ours reads the list too; the others know the ids.\n"
        "A pool that fits keeps as many connections as there are orders at once; default: 20."
    )
    with quiet_log("warning"):
        asyncio.run(measure_all(every, rounds=rounds, latency_s=latency_s))
    base = median(every[0].per_s)
    report.table(
        ("client", "orders", "orders/s", "ratio", "CPU us/order"),
        [
            (
                case.name,
                str(case.orders),
                spread(case.per_s),
                f"{median(case.per_s) / base:.1f}x",
                spread(case.cpu_us),
            )
            for case in every
        ],
    )
    for case in every:
        if case.name.startswith("ours"):
            ratio = median(case.per_s) / base
            report.target(
                f"{case.name}: {WANTED_RATIO}x of one after the other",
                f"{ratio:.1f}x",
                met=ratio >= WANTED_RATIO,
            )
