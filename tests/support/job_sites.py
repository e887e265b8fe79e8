"""A folder with on-demand tasks and a queue, in which commands are typed and workers run."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.support.jobs import lease_all
from tests.support.processes import running
from tests.support.sites import Site
from worker.jobs.job import JobId, NewJob, Settlement
from worker.model import State
from worker.queues.opening import make_jobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.processes import LoggingProcess
    from worker.jobs.job import Enqueued, Job, Lease
    from worker.ports import JobStore

MODULE = '''
import asyncio
import os
from typing import Literal

from pydantic import BaseModel

from worker import BaseTask, TaskFailed, task


def wrote(name, text):
    with open(name, "a") as file:
        file.write(f"{text}\\n")


class SendInvoice(BaseTask):
    """Send one invoice by mail."""

    name = "send_invoice"
    queue = "billing"

    class Params(BaseModel):
        order_id: int
        kind: Literal["mail", "paper"] = "mail"
        lines: list[str] = []

    async def execute(self, params):
        return {"sent": params.order_id, "by": params.kind}


@task()
async def ping(n: int = 1) -> int:
    return n


@task()
async def held(name: str = "go") -> str:
    wrote("began", os.getpid())
    while not os.path.exists(name):
        await asyncio.sleep(0.02)
    return "let go"


@task(max_retries=0)
async def fails(message: str = "the far side is full"):
    raise TaskFailed(message)


@task(max_retries=1, retry_delay="50ms")
async def fails_twice():
    raise LookupError("nobody is at home")


@task(retry_delay="1h")
async def fails_for_now():
    raise TaskFailed("not today")


async def tick(): ...


def register(scheduler):
    scheduler.register_task(tick, interval_seconds=0.3)
'''


SETTLED = ("error", "result", "dead", "delay", "history")


class JobSite(Site):
    """Where jobs are asked for, and run."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        super().__init__(folder, {}, f"sqlite:///{folder / 'ledger.db'}")
        self.queue_url = url or self.store_url
        (folder / "own_tasks.py").write_text(MODULE)
        self.environment["WORKER_QUEUE_URL"] = self.queue_url

    def starts(
        self, line: str = "", **settings: str
    ) -> AbstractAsyncContextManager[LoggingProcess]:
        """``worker start LINE`` until the block is left."""
        environment = {**self.environment, **settings}
        return running("start", *line.split(), environment=environment, cwd=self.folder)

    async def asks(self, line: str, *words: str) -> str:
        """``worker enqueue LINE WORDS``; the job's id."""
        return (await self.told(f"enqueue {line}", *words)).strip()

    async def shown(self, job_id: str) -> Any:
        """What another process sees of a job."""
        return await self.json(f"jobs show {job_id}", "--params")

    def begun(self) -> list[int]:
        """The processes in which `held` was begun, in that order."""
        path = self.folder / "began"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[JobStore]:
        """The engine that the commands use."""
        jobs = make_jobs(self.queue_url, records_url=self.store_url)
        await jobs.open()
        try:
            yield jobs
        finally:
            await jobs.close()


class Clerk:
    """Brings jobs into whatever state, by hand."""

    def __init__(self, jobs: JobStore) -> None:
        self.jobs = jobs

    async def waits(self, job_id: str, task: str = "ping", **rest: Any) -> Enqueued:
        (told,) = await self.jobs.enqueue(
            [NewJob(JobId(job_id), task, rest.pop("queue", "default"), **rest)]
        )
        return told

    async def runs(self, job_id: str, task: str = "ping", **rest: Any) -> Lease:
        await self.waits(job_id, task, **rest)
        (lease,) = await lease_all(self.jobs, 1, queue=rest.get("queue", "default"))
        assert lease.id == job_id, "there was another that waits"
        return lease

    async def ends(self, job_id: str, state: State, task: str = "ping", **rest: Any) -> None:
        said = {key: rest.pop(key) for key in SETTLED if key in rest}
        lease = await self.runs(job_id, task, **rest)
        assert await self.jobs.settle([Settlement(lease, state, 1, **said)]) == [True]

    async def dies(self, job_id: str, task: str = "fails", **rest: Any) -> None:
        rest.setdefault("error", '{"type":"TaskFailed","message":"the far side is full"}')
        await self.ends(job_id, State.FAILURE, task, dead=True, **rest)

    async def die(self, ids: Sequence[str], task: str = "fails", queue: str = "default") -> None:
        """All of them, created at the same moment."""
        await self.jobs.enqueue([NewJob(JobId(job_id), task, queue) for job_id in ids])
        leases = await lease_all(self.jobs, len(ids), queue=queue)
        error = '{"type":"TaskFailed","message":"the far side is full"}'
        await self.jobs.settle(
            [Settlement(lease, State.FAILURE, 1, error=error, dead=True) for lease in leases]
        )

    async def get(self, job_id: str) -> Job | None:
        (job,) = await self.jobs.get([JobId(job_id)])
        return job
