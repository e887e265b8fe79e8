"""What it costs to run an empty task, and how late it starts."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from benchmarks.quiet import quiet_log
from benchmarks.report import Report, percentile, spread
from worker import Events, FirstRun, Runner, Scheduler, SystemClock, Trigger, current_run
from worker.backends.opening import open_store
from worker.events import Tally
from worker.ledger.thread import LedgerThread
from worker.schedules.policies import TaskSchedule
from worker.schedules.schedule import Interval
from worker.scheduling.timers import Timers
from worker.tasks.base import TaskDefinition
from worker.telemetry.event_log import EventLog

__all__ = ["measure"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The schedules of one measurement, and how long it takes."""

    schedules: int
    interval_s: float = 1.0
    first_s: float = 0.5
    warm_up_s: float = 1.5
    seconds: float = 10.0

    def firsts_s(self) -> list[float]:
        """From now to each schedule's first slot: spread evenly over the interval."""
        return [
            self.first_s + self.interval_s * number / self.schedules
            for number in range(self.schedules)
        ]


Late = Callable[[float], None]
"""Told by each run how many seconds after its nominal time it started."""
Starts = Callable[[Plan, Late], AbstractAsyncContextManager[None]]
"""Starts the schedules."""


@asynccontextmanager
async def worker_scheduler(plan: Plan, late: Late, *, store: str = "sqlite") -> AsyncIterator[None]:
    """Ours, over a ledger of a kind: each run is claimed before, and recorded after."""

    async def empty() -> None:
        run = current_run()
        assert run is not None
        assert run.slot is not None
        late((datetime.now(UTC) - run.slot).total_seconds())

    with TemporaryDirectory() as folder:
        url = "memory://" if store == "memory" else f"sqlite:///{folder}/worker.db"
        async with unused_client() as client, asyncio.TaskGroup() as group:
            clock, events = SystemClock(), Events(EventLog(), Tally())
            ledger = LedgerThread(
                partial(open_store, url), replica="bench", keep=timedelta(days=1), clock=clock
            )
            scheduler = Scheduler(
                Runner(client, clock=clock, events=events),
                clock=clock,
                events=events,
                ledger=ledger,
                first_run=FirstRun(
                    delay=timedelta(seconds=plan.first_s),
                    spread=timedelta(seconds=plan.interval_s),
                ),
            )
            for number in range(plan.schedules):
                scheduler.register_task(
                    empty, interval_seconds=plan.interval_s, name=f"task_{number}"
                )
            ledger.start(group)
            scheduler.start(group)
            yield
            await scheduler.stop(timedelta(seconds=1))
            await ledger.stop(timedelta(seconds=1))


@asynccontextmanager
async def bare_apscheduler(plan: Plan, late: Late) -> AsyncIterator[None]:
    async def empty(first: datetime) -> None:
        # APScheduler does not say which slot it runs: the latest, then.
        late((datetime.now(UTC) - first).total_seconds() % plan.interval_s)

    scheduler: Any = AsyncIOScheduler(timezone=UTC)
    now = datetime.now(UTC)
    for first_s in plan.firsts_s():
        first = now + timedelta(seconds=first_s)
        scheduler.add_job(
            empty,
            "interval",
            args=(first,),
            seconds=plan.interval_s,
            start_date=first,
            next_run_time=first,
            misfire_grace_time=None,
            max_instances=1,
        )
    scheduler.start()
    yield
    scheduler.shutdown(wait=False)


@asynccontextmanager
async def bare_timers(plan: Plan, late: Late) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    runs: set[asyncio.Task[None]] = set()
    timers: dict[int, asyncio.TimerHandle] = {}

    async def empty(due: float) -> None:
        late(loop.time() - due)

    def fire(number: int, due: float) -> None:
        run = loop.create_task(empty(due))
        runs.add(run)
        run.add_done_callback(runs.discard)
        following = due + plan.interval_s
        timers[number] = loop.call_at(following, fire, number, following)

    now = loop.time()
    for number, first_s in enumerate(plan.firsts_s()):
        timers[number] = loop.call_at(now + first_s, fire, number, now + first_s)
    yield
    for timer in timers.values():
        timer.cancel()


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What was seen of one kind of timers in one stretch of time."""

    cpu_us: float
    runs: int
    late_ms: list[float]


async def observe(timers: Starts, plan: Plan) -> Dispatched:
    late_s: list[float] = []
    async with timers(plan, late_s.append):
        await asyncio.sleep(plan.warm_up_s)
        gc.collect()
        late_s.clear()
        cpu = time.process_time()
        await asyncio.sleep(plan.seconds)
        cpu = time.process_time() - cpu
        seen = list(late_s)
    return Dispatched(
        cpu_us=cpu / max(1, len(seen)) * 1e6,
        runs=len(seen),
        late_ms=[value * 1000 for value in seen] or [0.0],
    )


def measure_schedules(report: Report, plans: Sequence[Plan]) -> None:
    report.title(f"empty tasks, each every {plans[0].interval_s:g} s")
    report.text(
        f"{plans[0].seconds:g} s a line, the schedules spread evenly. CPU is all that the\n"
        "process used, the waiting included. Late: from the nominal time to the task's first line."
    )
    kinds: dict[str, tuple[Starts, str]] = {
        "ours, SQLite ledger": (worker_scheduler, "warning"),
        "ours, SQLite, JSON log at info": (worker_scheduler, "info"),
        "ours, ledger in memory": (partial(worker_scheduler, store="memory"), "warning"),
        "APScheduler 3 alone": (bare_apscheduler, "warning"),
        "asyncio timers alone": (bare_timers, "warning"),
    }
    rows = []
    for plan in plans:
        for name, (timers, level) in kinds.items():
            with quiet_log(level):
                seen = asyncio.run(observe(timers, plan))
            rows.append(
                (
                    name,
                    str(plan.schedules),
                    str(seen.runs),
                    f"{seen.cpu_us:.0f}",
                    f"{seen.cpu_us * seen.runs / plan.seconds / 1e4:.1f} %",
                    f"{percentile(seen.late_ms, 50):.2f}",
                    f"{percentile(seen.late_ms, 99):.2f}",
                )
            )
    report.table(
        ("timers", "schedules", "runs", "CPU us/run", "of a core", "late p50 ms", "late p99 ms"),
        rows,
    )


@asynccontextmanager
async def our_timers(plan: Plan, late: Late) -> AsyncIterator[None]:
    """What wakes the tasks, without ledger and runs: APScheduler, clamped."""
    terms = {
        f"task_{number}": TaskSchedule(
            f"task_{number}",
            Interval(
                timedelta(seconds=plan.interval_s),
                timedelta(seconds=plan.interval_s * number / plan.schedules),
            ),
        )
        for number in range(plan.schedules)
    }

    def wake(name: str) -> None:
        schedule = terms[name].schedule
        assert schedule is not None
        now = datetime.now(UTC)
        slot = schedule.until(now)
        assert slot is not None
        late((now - slot).total_seconds())

    timers = Timers(wake)
    now = datetime.now(UTC)
    for each in terms.values():
        assert each.schedule is not None
        first = each.schedule.after(now)
        assert first is not None
        timers.add(each, first)
    timers.start()
    yield
    timers.stop()


def measure_uvloop(report: Report, plans: Sequence[Plan]) -> None:
    """uvloop counts in whole milliseconds: a shorter wait is none, and APScheduler's loop spins."""
    report.title("the timers alone under uvloop")
    try:
        import uvloop
    except ModuleNotFoundError:
        report.text("uvloop is not installed: not measured")
        return
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop,
        "uvloop": uvloop.new_event_loop,
    }
    kinds: dict[str, Starts] = {"ours": our_timers, "APScheduler 3 alone": bare_apscheduler}
    rows = []
    for plan in plans:
        for name, timers in kinds.items():
            for loop, factory in loops.items():
                with quiet_log("warning"), asyncio.Runner(loop_factory=factory) as runner:
                    seen = runner.run(observe(timers, plan))
                rows.append(
                    (
                        name,
                        loop,
                        str(plan.schedules),
                        str(seen.runs),
                        f"{seen.cpu_us:.0f}",
                        f"{seen.cpu_us * seen.runs / plan.seconds / 1e4:.1f} %",
                        f"{percentile(seen.late_ms, 50):.2f}",
                        f"{percentile(seen.late_ms, 99):.2f}",
                    )
                )
    report.table(
        (
            "timers",
            "loop",
            "schedules",
            "wakes",
            "CPU us/wake",
            "of a core",
            "late p50 ms",
            "late p99 ms",
        ),
        rows,
    )


async def empty() -> None:
    pass


def unused_client() -> httpx.AsyncClient:
    """A client for tasks that do not call anybody; it is cheap to make."""
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))


async def by_runner(count: int) -> None:
    task = TaskDefinition.of(empty)
    async with unused_client() as client:
        runner = Runner(client, clock=SystemClock(), events=Events(EventLog(), Tally()))
        for _ in range(count):
            await runner.run(task, trigger=Trigger.MANUAL)


async def by_create_task(count: int) -> None:
    for _ in range(count):
        await asyncio.create_task(empty())


def cpu_us_each(work: Callable[[int], Awaitable[None]], count: int) -> float:
    async def timed() -> float:
        await work(min(count, 200))  # the warm-up
        cpu = time.process_time()
        await work(count)
        return (time.process_time() - cpu) / count * 1e6

    return asyncio.run(timed())


def measure_runner(report: Report, *, runs: int, rounds: int) -> None:
    report.title("Runner.run of an empty task, in a tight loop")
    report.text(f"Median (least-most) of {rounds} interleaved rounds of {runs} runs.")
    kinds: dict[str, tuple[str, Callable[[], float]]] = {
        "ours, log at warning": ("warning", partial(cpu_us_each, by_runner, runs)),
        "ours, JSON log at info": ("info", partial(cpu_us_each, by_runner, runs)),
        "await create_task(empty())": ("warning", partial(cpu_us_each, by_create_task, runs)),
    }
    seen: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (level, timed) in kinds.items():
            with quiet_log(level):
                seen[name].append(timed())
    report.table(
        ("runner", "CPU us/run", "runs/s of a core"),
        [(name, spread(us), f"{1e6 / median(us):.0f}") for name, us in seen.items()],
    )


def measure(report: Report, smoke: bool) -> None:
    if smoke:
        tiny = Plan(2, interval_s=0.1, first_s=0.05, warm_up_s=0.1, seconds=0.2)
        measure_schedules(report, [tiny])
        measure_uvloop(report, [tiny])
        measure_runner(report, runs=5, rounds=1)
    else:
        measure_schedules(report, [Plan(10), Plan(100), Plan(1000)])
        measure_uvloop(report, [Plan(1000), Plan(2000), Plan(4000)])
        measure_runner(report, runs=3000, rounds=5)
