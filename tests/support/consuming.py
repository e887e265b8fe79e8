"""A real consumer and runner over jobs in memory, and what tests of them say again and again."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from tests.support.clock import FakeClock, WallClock
from tests.support.waiting import LONGEST_S, wait_until
from worker.client.client import WorkerClient
from worker.consuming.consumer import Consumer, ConsumerLimits
from worker.consuming.queue_plan import QueuePlan
from worker.events import Event, Events
from worker.jobs.job import Job, JobId
from worker.queues.memory import MemoryJobs
from worker.retry import RetryPolicy
from worker.running.runner import RunLimits, Runner
from worker.tasks.base import TaskDefinition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from worker.client.job_handle import JobHandle
    from worker.model import State

E = TypeVar("E", bound=Event)

SHORT = timedelta(milliseconds=50)
GRACE = timedelta(seconds=5)
NO_WAIT = RetryPolicy(attempts=3, base=timedelta(0))


@dataclass
class Bench:
    """Jobs in memory, who asks for them, and what a worker announced.

    Attributes:
        plan: What holds for each queue that a test does not describe itself.
    """

    clock: WallClock | FakeClock = field(default_factory=WallClock)
    limits: RunLimits = field(default_factory=lambda: RunLimits(retry=NO_WAIT, cancel_grace=GRACE))
    plan: QueuePlan = field(default_factory=lambda: QueuePlan(name=""))
    announced: list[Event] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    redact: Callable[[str], str] = str
    http_client: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)

    def __post_init__(self) -> None:
        self.memory = MemoryJobs(self.clock)
        self.events = Events(self.announced.append)
        self.runner = Runner(
            self.http_client,
            clock=self.clock,
            events=self.events,
            limits=self.limits,
            redact=self.redact,
        )
        self.client = WorkerClient(jobs=self.memory)

    def use(self, memory: Any) -> None:
        """Have this engine in the place of the plain one."""
        self.memory = memory
        self.client = WorkerClient(jobs=memory)

    def advance(self, duration: timedelta) -> None:
        """Move the clock."""
        if isinstance(self.clock, WallClock):
            self.clock.advance(duration)
        else:
            self.clock.advance(duration.total_seconds())

    def consumer(
        self, *tasks: Any, queues: Sequence[QueuePlan | str] = (), **rest: Any
    ) -> Consumer:
        """A consumer that is not started.

        Args:
            rest: Fields of `ConsumerLimits`, and arguments of `Consumer`.
        """
        own = {key: rest.pop(key) for key in ("spared", "on_done", "on_begin") if key in rest}
        definitions = [TaskDefinition.of(task) for task in tasks]
        named = queues or sorted({d.options.queue for d in definitions if d.options is not None})
        said: dict[str, Any] = {"cancel_grace": SHORT, **rest}
        return Consumer(
            self.memory,
            self.runner,
            {definition.name: definition for definition in definitions},
            queues=[self.plan_of(name) for name in named],
            clock=self.clock,
            events=self.events,
            worker="one",
            limits=ConsumerLimits(**said),
            **own,
        )

    def plan_of(self, queue: QueuePlan | str) -> QueuePlan:
        if isinstance(queue, QueuePlan):
            return queue
        plan = self.plan
        return QueuePlan(
            name=queue,
            poll_interval=plan.poll_interval,
            push=plan.push,
            visibility_timeout=plan.visibility_timeout,
            max_batch_size=plan.max_batch_size,
            concurrency=plan.concurrency,
        )

    @asynccontextmanager
    async def working(
        self, *tasks: Any, grace: timedelta = GRACE, **rest: Any
    ) -> AsyncIterator[Consumer]:
        """A consumer at work; on leaving the block it is stopped."""
        consumer = self.consumer(*tasks, **rest)
        self.consumers.append(consumer)
        async with self.client, asyncio.timeout(LONGEST_S), asyncio.TaskGroup() as group:
            consumer.start(group)
            try:
                yield consumer
            finally:
                await consumer.stop(grace)

    async def work_off(self, *tasks: Any, **rest: Any) -> str:
        """Work until the consumer says that it is done; why it is."""
        reasons: list[str] = []
        rest.setdefault("burst", "max_jobs" not in rest)
        async with self.working(*tasks, on_done=reasons.append, **rest):
            await wait_until(lambda: bool(reasons), "the consumer has done")
        return reasons[0]

    async def later(self, duration: timedelta, *tasks: Any, **rest: Any) -> None:
        """Move the clock, and work off what is ready then."""
        self.advance(duration)
        await self.work_off(*tasks, **rest)

    async def info(self, job: JobHandle | str) -> Job:
        (found,) = await self.memory.get([JobId(job if isinstance(job, str) else job.id)])
        assert found is not None
        return found

    async def is_in(self, job: JobHandle, *states: State) -> None:
        """Return once the job is in one of these states."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LONGEST_S
        while (state := (await self.info(job)).state) not in states:
            assert loop.time() < until, f"waited in vain until the job is {states}, it is {state}"
            await asyncio.sleep(0.001)

    def told(self, kind: type[E]) -> list[E]:
        return [event for event in self.announced if isinstance(event, kind)]


@asynccontextmanager
async def open_bench(**rest: Any) -> AsyncIterator[Bench]:
    bench = Bench(**rest)
    try:
        yield bench
    finally:
        await bench.http_client.aclose()
