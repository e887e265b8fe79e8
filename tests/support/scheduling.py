"""A scheduler over a store that others may share, and tasks for it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.ledgers import FailingStore
from tests.support.waiting import wait_until
from worker import (
    BaseTask,
    Clock,
    Events,
    FirstRun,
    RunLimits,
    Runner,
    Scheduler,
    SystemClock,
)
from worker.backends.memory import MemoryStore
from worker.events import (
    Event,
    RunFinished,
    RunStarted,
)
from worker.ledger.book import Entry, HistoryQuery
from worker.ledger.thread import Lease, LedgerThread
from worker.model import Run, Trigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START = datetime(2100, 1, 1, tzinfo=UTC)
"""So far ahead that APScheduler's own timers, which know no other clock, keep out of it."""
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
NO_GRACE = timedelta(0)
AT_ONCE = FirstRun(delay=timedelta(0), spread=timedelta(0))
SHORT = timedelta(milliseconds=50)
LEASE = Lease(ttl=timedelta(seconds=1.5))
HOURLY: dict[str, Any] = {"interval": HOUR, "phase": timedelta(0)}
"""`START` is one of its slots."""


def real_store() -> FailingStore:
    return FailingStore(MemoryStore(SystemClock()))


@dataclass
class Worker:
    """A scheduler over a store that others may share, and what it announced."""

    clock: Clock
    store: FailingStore = field(default_factory=real_store)
    replica: str = "one"
    announced: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = httpx.AsyncClient()
        events = Events(self.announced.append)
        limits = RunLimits(cancel_grace=SHORT)
        self.runner = Runner(self.client, clock=self.clock, events=events, limits=limits)
        self.ledger = LedgerThread(
            lambda: self.store,
            replica=self.replica,
            keep=timedelta(days=1),
            lease=LEASE,
            clock=self.clock,
        )
        self.scheduler = Scheduler(
            self.runner, clock=self.clock, events=events, ledger=self.ledger, first_run=AT_ONCE
        )

    def register(self, task: Any, **options: Any) -> None:
        self.scheduler.register_task(task, **options)

    def start(self) -> None:
        self.ledger.start()
        self.scheduler.start()

    async def stop(self, grace: timedelta = NO_GRACE) -> None:
        await self.scheduler.stop(grace)
        await self.ledger.stop(grace)
        await self.client.aclose()

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.announced if isinstance(event, kind)]

    @property
    def started(self) -> list[Run]:
        return [event.run for event in self.of(RunStarted)]

    @property
    def finished(self) -> list[Run]:
        return [event.run for event in self.of(RunFinished)]

    @property
    def entries(self) -> list[Entry]:
        """Every entry, the oldest slot first."""
        return self.store.inner.history(HistoryQuery(limit=10_000))[::-1]

    def told(self) -> list[tuple[float, str, int]]:
        """Of each entry of a slot: hours since `START`, outcome, how many slots."""
        return [
            ((e.slot - START) / HOUR, e.outcome.value, e.count)
            for e in self.entries
            if e.trigger is Trigger.SCHEDULE
        ]

    async def recorded(self, *told: tuple[float, str, int]) -> None:
        """Wait until that, and nothing else, is what the store has."""
        await wait_until(lambda: self.told() == list(told), f"it is recorded: {told}")

    async def settled(self) -> None:
        """Wait until nothing runs, as far as the store knows."""
        await wait_until(
            lambda: not any(told == "running" for _, told, _ in self.told()), "all has ended"
        )

    async def looked(self, name: str) -> None:
        """Look at what is due of a task, and wait until the ledger has answered."""
        reads = self.store.reads
        self.scheduler.wake(name)
        await wait_until(lambda: self.store.reads > reads, "the ledger was asked")
        await self.ledger.ask(Nothing())


@dataclass(frozen=True)
class Nothing:
    """A request that is answered after all that was asked before."""

    task: str = "nothing"
    leased: bool = False

    def decide(self, draft: object) -> None: ...


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[Worker]:
    try:
        yield worker
    finally:
        worker.store.works.set()
        worker.store.down = None
        await worker.stop()


class Counts(BaseTask):
    """Counts something."""

    name = "counts"

    def __init__(self, http_client: httpx.AsyncClient, *, step: int = 1) -> None:
        super().__init__(http_client)
        self.step = step

    async def execute(self) -> int:
        return self.step


async def pings() -> str:
    return "pong"


async def fails() -> None:
    raise ValueError("boom")


async def waits() -> None:
    await asyncio.Event().wait()


@dataclass
class Gate:
    """A task whose runs end when the test lets them."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    inside: int = 0
    most: int = 0

    async def __call__(self) -> str:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1
        return "through"

    async def entered(self, count: int = 1) -> None:
        await wait_until(lambda: self.inside == count, f"{count} runs go on")
