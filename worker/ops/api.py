"""The facts and the actions as JSON, under ``/api/v1/``."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from worker.admin.jobs import Act
from worker.errors import UnknownTaskError
from worker.ops.calls import Asked, Call, route_of
from worker.ops.models import (
    BulkAnswer,
    Done,
    EnqueueAnswer,
    JobDetail,
    Jobs,
    Overview,
    Payload,
    Queues,
    Running,
    ScheduleDetail,
    Schedules,
    Tasks,
)
from worker.ops.openapi import described
from worker.ops.said import Bulk, Enqueue, JobFilter, Note

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from worker.client.enqueue_options import EnqueueOptions
    from worker.ops.facts import Facts
    from worker.ops.live import Live

__all__ = ["Api", "api_routes"]

ROOT = "/api/v1"
BESIDE = 64 * 1024
"""How many bytes a job's options may take beside its parameters."""
MANY_IDS = 512 * 1024
"""How many bytes a thousand ids may take."""


def api_routes(facts: Facts, live: Live) -> list[BaseRoute]:
    """What is served under ``/api/v1/``."""
    calls = Api(facts).calls()

    @cache
    def description() -> str:
        return described(calls, root=ROOT)

    async def openapi(request: Request) -> Response:
        # Made when it is first asked for: it takes a tenth of a second, and few want it.
        return Response(await asyncio.to_thread(description), media_type="application/json")

    return [
        *(route_of(call, facts.sources.redact) for call in calls),
        Route(f"{ROOT}/events", live.serve, methods=["GET"], name="events"),
        Route(f"{ROOT}/openapi.json", openapi, methods=["GET"], name="openapi"),
    ]


class Api:
    """What each call does. A docstring is the call's description."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._jobs = facts.jobs

    def calls(self) -> list[Call]:
        """Every call; of two that fit a path the first one is meant."""
        return [
            get("/overview", self.overview, Overview),
            get("/schedules", self.schedules, Schedules),
            get("/schedules/{name}", self.schedule, ScheduleDetail),
            post("/schedules/{name}/run", self.run, ScheduleDetail, (202,)),
            post("/schedules/{name}/pause", self.pause, ScheduleDetail, body=Note),
            post("/schedules/{name}/resume", self.resume, ScheduleDetail),
            get("/running", self.running, Running),
            get("/queues", self.queues, Queues),
            get("/jobs", self.jobs, Jobs, query=JobFilter),
            get("/jobs/{id}/payload", self.payload, Payload),
            post("/jobs/{id}/cancel", self.cancel, Done),
            post("/jobs/{id}/retry", self.retry, Done),
            post("/jobs/{id}/drop", self.drop, Done),
            get("/jobs/{id}", self.job, JobDetail),
            post("/dead/retry", self.retry_dead, BulkAnswer, body=Bulk, most_bytes=MANY_IDS),
            post("/dead/drop", self.drop_dead, BulkAnswer, body=Bulk, most_bytes=MANY_IDS),
            get("/tasks", self.tasks, Tasks),
            post(
                "/tasks/{name}/enqueue",
                self.enqueue,
                EnqueueAnswer,
                (201, 200),
                body=Enqueue,
                # As JSON can be written in many ways, some of them twice as long.
                most_bytes=BESIDE + 2 * self._facts.worker.settings.payload_limit,
            ),
        ]

    async def overview(self, asked: Asked) -> Overview:
        """Whether all is well, and what is not."""
        return await self._facts.overview()

    async def schedules(self, asked: Asked) -> Schedules:
        """How every schedule stands."""
        return Schedules(schedules=await self._facts.schedules())

    async def schedule(self, asked: Asked) -> ScheduleDetail:
        """How one schedule stands, why it does not run now, and its history."""
        return await self._facts.ledger.detail(asked.name)

    async def run(self, asked: Asked) -> ScheduleDetail:
        """Have a worker run a task once, as soon as no other run of it goes on."""
        await self._facts.sources.ledger(lambda admin: admin.run(asked.name))
        return await self._changed(asked.name)

    async def pause(self, asked: Asked) -> ScheduleDetail:
        """Let no slot of a schedule run until it is resumed. What runs goes on."""
        note: Note = asked.body
        await self._facts.sources.ledger(lambda admin: admin.pause(asked.name, note.note))
        return await self._changed(asked.name)

    async def resume(self, asked: Asked) -> ScheduleDetail:
        """Let the slots of a schedule run again."""
        await self._facts.sources.ledger(lambda admin: admin.resume(asked.name))
        return await self._changed(asked.name)

    async def _changed(self, name: str) -> ScheduleDetail:
        self._facts.outdate()
        return await self._facts.ledger.detail(name)

    async def running(self, asked: Asked) -> Running:
        """What runs now, on whatever worker."""
        return await self._facts.running()

    async def queues(self, asked: Asked) -> Queues:
        """How each queue stands."""
        return Queues(queues=await self._facts.queues())

    async def jobs(self, asked: Asked) -> Jobs:
        """Jobs, those created last first, without their parameters and results."""
        return await self._jobs.page(asked.query)

    async def job(self, asked: Asked) -> JobDetail:
        """All that is known of a job, but its parameters and its result."""
        return await self._jobs.detail(asked.name)

    async def payload(self, asked: Asked) -> Payload:
        """What a job was asked with and what came of it; secrets are left out by their names."""
        return await self._jobs.payload(asked.name)

    async def cancel(self, asked: Asked) -> Done:
        """Revoke a job that waits; have its worker end one that runs."""
        return await self._act(Act.CANCEL, asked)

    async def retry(self, asked: Asked) -> Done:
        """Put a job that failed, expired or was cancelled back into its queue, as if new."""
        return await self._act(Act.RETRY, asked)

    async def drop(self, asked: Asked) -> Done:
        """Forget a job that has ended."""
        return await self._act(Act.DROP, asked)

    async def _act(self, act: Act, asked: Asked) -> Done:
        done = await self._jobs.act(act, asked.name)
        self._facts.outdate()
        return done

    async def retry_dead(self, asked: Asked) -> BulkAnswer:
        """Put dead letters back into their queues, as if new, or count them."""
        return await self._bulk(Act.RETRY, asked)

    async def drop_dead(self, asked: Asked) -> BulkAnswer:
        """Forget dead letters for ever, or count them."""
        return await self._bulk(Act.DROP, asked)

    async def _bulk(self, act: Act, asked: Asked) -> BulkAnswer:
        try:
            return await self._jobs.bulk(act, asked.body)
        finally:
            self._facts.outdate()

    async def tasks(self, asked: Asked) -> Tasks:
        """Every task of the application, and what it takes."""
        return Tasks(tasks=self._facts.tasks())

    async def enqueue(self, asked: Asked) -> tuple[EnqueueAnswer, int]:
        """Ask for one run of a task, through its queue; 409 if the id is that of another job."""
        tasks, said = self._facts.worker.scheduler.tasks, asked.body
        assert isinstance(said, Enqueue)
        if asked.name not in tasks:
            raise UnknownTaskError(asked.name, tasks)
        options: EnqueueOptions = {}
        if said.id is not None:
            options["id"] = said.id
        if said.delay is not None:
            options["delay"] = said.delay
        if said.priority is not None:
            options["priority"] = said.priority
        if said.max_retries is not None:
            options["max_retries"] = said.max_retries
        client = self._facts.worker.client
        job = await client.enqueue(asked.name, said.params, **options)
        self._facts.outdate()
        return EnqueueAnswer(id=job.id, created=job.created), 201 if job.created else 200


def get(path: str, does: Any, answer: type, **rest: Any) -> Call:
    return Call(method="GET", path=ROOT + path, does=does, answer=answer, **rest)


def post(
    path: str, does: Any, answer: type, statuses: tuple[int, ...] = (200,), **rest: Any
) -> Call:
    return Call(
        method="POST", path=ROOT + path, does=does, answer=answer, statuses=statuses, **rest
    )
