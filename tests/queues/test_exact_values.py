"""Over every engine: a task receives what its caller gave, or the job is refused, or fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, computed_field

from tests.support.consuming import Bench, open_bench
from tests.support.jobs import new
from worker import BaseTask, BulkJob, BulkTask, InvalidParams, RunContext, State, task
from worker.ports import JobStore

NAN = float("nan")


@pytest.fixture
async def bench(store: JobStore) -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        bench.use(store)
        yield bench


class Sizes(BaseModel):
    width: float
    notes: dict[str, Any] = {}
    secret: int = Field(default=5, exclude=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def doubled(self) -> float:
        return self.width * 2


received: list[Any] = []


class Measure(BaseTask):
    name = "measure"
    queue = "default"
    Params = Sizes
    max_retries = 0

    async def execute(self, params: Sizes) -> None:
        received.append(params)


@pytest.fixture(autouse=True)
def nothing_received() -> None:
    received.clear()


NOTES = {"text": "é😀\u2028", "big": 10**30, "deep": [[{"a": None}]], "zero": -0.0, "yes": True}


async def test_a_task_receives_what_was_given(bench: Bench) -> None:
    given = Sizes(width=1.5, notes=NOTES)
    await bench.client.enqueue(Measure, given)
    await bench.client.enqueue("measure", {"width": 1.5, "notes": NOTES}, id=UUID(int=7))
    await bench.work_off(Measure)
    assert received == [given, given]
    assert {type(one) for one in received} == {Sizes}


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"width": NAN}, "width"),
        ({"width": 1, "notes": {"a": [NAN]}}, "notes.a.0"),
        ({"width": 1, "notes": {"a": "\ud800"}}, "notes"),
        ({"width": 1, "secret": 7}, "secret"),
    ],
)
async def test_what_would_arrive_altered_is_never_enqueued(
    bench: Bench, params: dict[str, Any], place: str
) -> None:
    with pytest.raises(InvalidParams, match=rf"measure: .*{place}"):
        await bench.client.enqueue(Measure, params)
    if place != "secret":
        with pytest.raises(InvalidParams, match=rf"measure: .*{place}"):
            await bench.client.enqueue("measure", params)
    await bench.work_off(Measure)
    assert received == []


@pytest.mark.parametrize(
    "text",
    [
        '{"width": Infinity}',
        '{"width": 1e999}',
        '{"width": 1, "more": 2}',
        f'{{"width": {"9" * 5000}}}',
        '{"width": 1, "notes": ' + '{"a":' * 400 + "1" + "}" * 401,
    ],
)
async def test_what_another_program_sends_is_refused_by_the_worker(bench: Bench, text: str) -> None:
    job = new("measure", params=text)
    await bench.memory.enqueue([job])
    await bench.work_off(Measure)
    info = await bench.info(job.id)
    assert (info.state, info.dead) == (State.FAILURE, True)
    assert json.loads(info.error or "{}")["type"] == "InvalidParams"
    assert received == []


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "sync"])
async def test_a_result_that_would_be_kept_altered_fails(bench: Bench, blocking: bool) -> None:
    def answer() -> dict[str, Any]:
        return {"rate": [1.0, NAN]}

    @task(name="rate", max_retries=0)
    def in_a_thread() -> dict[str, Any]:
        return answer()

    @task(name="rate", max_retries=0)
    async def in_the_loop() -> dict[str, Any]:
        return answer()

    one = in_a_thread if blocking else in_the_loop
    job = await bench.client.enqueue(one)
    await bench.work_off(one)
    info = await bench.info(job)
    assert info.state is State.FAILURE
    error = json.loads(info.error or "{}")
    assert error["type"] == "InvalidResult"
    assert "rate.1: expected a finite number, got nan" in error["message"]


async def test_a_bulk_task_without_parameters_takes_none(bench: Bench) -> None:
    class Sweep(BulkTask):
        name = "sweep"
        max_retries = 0
        max_batch_size = 2

        async def execute_many(self, jobs: Sequence[BulkJob[None]]) -> list[object]:
            received.extend(job.id for job in jobs)
            return [None for _ in jobs]

    with pytest.raises(InvalidParams, match="sweep: expected no parameters"):
        await bench.client.enqueue(Sweep, {"n": 1})
    wrong = await bench.client.enqueue("sweep", {"n": 1})
    right = await bench.client.enqueue("sweep")
    await bench.work_off(Sweep)
    assert received == [right.id]
    error = json.loads((await bench.info(wrong)).error or "{}")
    assert (error["type"], error["message"]) == (
        "InvalidParams",
        "expected no parameters, got some",
    )


async def test_progress_and_failures_in_groups_are_recorded(bench: Bench) -> None:
    @task(name="gathers", max_retries=0)
    async def gathers(context: RunContext) -> None:
        context.progress(NAN, at=object, note="x" * 2000)

        async def fail(number: int) -> None:
            raise ValueError(f"no {number}")

        async with asyncio.TaskGroup() as group:
            group.create_task(fail(1))
            group.create_task(fail(2))

    job = await bench.client.enqueue(gathers)
    await bench.work_off(gathers)
    error = json.loads((await bench.info(job)).error or "{}")
    assert error["message"] == "ValueError: no 1 (and 1 more)"
