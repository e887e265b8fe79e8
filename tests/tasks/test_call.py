"""A job that names a function and its arguments: from an allow-list only."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.consuming import Bench, open_bench
from worker import ConfigurationError, JobFailed
from worker.tasks.call import calling

HERE = "tests.tasks.test_call"


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


async def joined(*words: str, with_: str = " ") -> str:
    return with_.join(words)


def in_a_thread(n: int) -> list[object]:
    return [n, threading.current_thread() is threading.main_thread()]


def fails() -> None:
    raise LookupError("its own")


def forbidden() -> str:
    return "it must not be called"


not_callable = 5

ALLOWED = [f"{HERE}:{name}" for name in ("joined", "in_a_thread", "fails")]


async def called(bench: Bench, **params: Any) -> Any:
    call_function = calling(ALLOWED)
    job = await bench.client.enqueue(call_function, params, max_retries=0)
    await bench.work_off(call_function)
    return await job.result()


async def test_a_function_is_called_with_its_arguments(bench: Bench) -> None:
    assert await called(bench, function=f"{HERE}:joined", args=["a", "b"]) == "a b"
    kwargs = {"with_": "-"}
    assert await called(bench, function=f"{HERE}:joined", args=["a", "b"], kwargs=kwargs) == "a-b"
    assert await called(bench, function=f"{HERE}:in_a_thread", kwargs={"n": 4}) == [4, False]


@pytest.mark.parametrize(
    "name", [f"{HERE}:forbidden", "os:system", "joined", "", "builtins:eval", f"{HERE}.joined"]
)
async def test_no_other_function_is_called(bench: Bench, name: str) -> None:
    with pytest.raises(JobFailed, match="may not be called; WORKER_CALL_FUNCTIONS allows") as error:
        await called(bench, function=name)
    assert error.value.error_type == "InvalidParams"


async def test_arguments_that_do_not_fit_are_dead_lettered(bench: Bench) -> None:
    for params in ({"args": [1, 2]}, {"kwargs": {"m": 1}}, {}):
        with pytest.raises(JobFailed, match="InvalidParams"):
            await called(bench, function=f"{HERE}:in_a_thread", **params)


async def test_what_the_function_raises_is_the_jobs_failure(bench: Bench) -> None:
    with pytest.raises(JobFailed, match="LookupError: its own"):
        await called(bench, function=f"{HERE}:fails")


@pytest.mark.parametrize(
    "name",
    [
        "no_such_module:function",
        f"{HERE}:no_such_function",
        f"{HERE}:not_callable",
        f"{HERE}",
        ":x",
        "",
    ],
)
def test_a_function_that_does_not_exist_is_a_fault_of_the_configuration(name: str) -> None:
    with pytest.raises(ConfigurationError, match="WORKER_CALL_FUNCTIONS"):
        calling([name])


async def test_it_can_be_called_in_place() -> None:
    call_function = calling(ALLOWED)
    assert await call_function(f"{HERE}:in_a_thread", [3]) == [3, True]
    assert await call_function(f"{HERE}:joined", ["a"]) == "a"
