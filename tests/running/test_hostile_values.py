"""Parameters, results and hooks whose own code raises what would end the worker, or hangs.

Whatever it is, the job has one outcome, its neighbours have theirs, and the worker ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from pydantic import BaseModel, model_serializer, model_validator

from tests.support.consuming import Bench, open_bench
from worker import BaseTask, BulkJob, BulkTask, State, task

FORMS = ["class", "function", "bulk"]
ENDS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


def doubling(params: Any, result: Any = lambda n: 2 * n) -> dict[str, Any]:
    """The same task in each form."""

    class Plain(BaseTask):
        name = "double_class"
        queue = "default"
        max_retries = 0
        Params = params

        async def execute(self, params: Any) -> object:
            return result(params.n)

    class Bulk(BulkTask):
        name = "double_bulk"
        max_wait = "0s"
        max_retries = 0
        Params = params

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
            return [result(job.params.n) for job in jobs]

    async def double(one: Any) -> object:
        return result(one.n)

    double.__annotations__["one"] = params
    function = task(name="double_function", max_retries=0)(double)
    return {"class": Plain, "function": function, "bulk": Bulk}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
@pytest.mark.parametrize("form", FORMS)
async def test_parameters_that_raise_fail_their_own_job_only(
    bench: Bench, form: str, end: BaseException
) -> None:
    hostile: list[int] = []

    class Number(BaseModel):
        n: int

        @model_validator(mode="after")
        def judged(self) -> Number:
            if self.n in hostile:
                raise end
            return self

    double = doubling(Number)[form]
    params = [{"one": {"n": n}} if form == "function" else {"n": n} for n in range(3)]
    jobs = await bench.client.enqueue_many(double, params)
    hostile.append(1)
    await bench.work_off(double)
    infos = [await bench.info(job) for job in jobs]
    assert [info.state for info in infos] == [State.SUCCESS, State.FAILURE, State.SUCCESS]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
@pytest.mark.parametrize("form", FORMS)
async def test_a_result_that_raises_when_it_is_written_fails_its_own_job_only(
    bench: Bench, form: str, end: BaseException
) -> None:
    class Number(BaseModel):
        n: int

    class Answer(BaseModel):
        n: int

        @model_serializer
        def written(self) -> dict[str, int]:
            if self.n == 1:
                raise end
            return {"n": self.n}

    double = doubling(Number, lambda n: Answer(n=n))[form]
    params = [{"one": {"n": n}} if form == "function" else {"n": n} for n in range(3)]
    jobs = await bench.client.enqueue_many(double, params)
    await bench.work_off(double)
    infos = [await bench.info(job) for job in jobs]
    assert [info.state for info in infos] == [State.SUCCESS, State.FAILURE, State.SUCCESS]


async def test_a_slow_hook_of_one_job_of_a_batch_holds_up_no_other(bench: Bench) -> None:
    go_on = asyncio.Event()

    class Save(BulkTask):
        name = "save"
        max_wait = "0s"
        max_retries = 0

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
            return [job.id for job in jobs]

        async def on_success(self, result: Any, job: Any) -> None:
            if result == "slow":
                await go_on.wait()

    jobs = await bench.client.enqueue_many(Save, [None] * 3, ids=["slow", "one", "two"])
    async with bench.working(Save):
        assert await jobs[1].result("5s") == "one"
        assert await jobs[2].result("5s") == "two"
        assert (await bench.info(jobs[0])).state is State.STARTED
        go_on.set()
        assert await jobs[0].result("5s") == "slow"


async def test_the_hooks_of_a_batch_run_at_the_same_time(bench: Bench) -> None:
    together = asyncio.Barrier(3)

    class Save(BulkTask):
        name = "save"
        max_wait = "0s"
        max_retries = 0

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
            return [None for _ in jobs]

        async def on_success(self, result: Any, job: Any) -> None:
            await together.wait()

    jobs = await bench.client.enqueue_many(Save, [None] * 3)
    async with bench.working(Save):
        for job in jobs:
            await job.result("5s")
