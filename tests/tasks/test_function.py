"""Tasks that are functions: declared by ``@task``, called in place, run by the worker."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import httpx
import pytest

from tests.support.consuming import Bench, open_bench
from worker import RunContext, TaskDefinitionError, current_run, task


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


async def outcome(bench: Bench, asked: Any, params: object = None) -> Any:
    """What the worker makes of one job."""
    job = await bench.client.enqueue(asked, params)
    async with bench.working(asked):
        return await job.result("5s")


@task(name="adds", queue="sums")
async def add(a: int, b: int = 1) -> int:
    """Adds two numbers.

    And says no more about it.
    """
    return a + b


@task()
def add_slowly(a: int, b: int = 1) -> int:
    return a + b


async def test_a_direct_call_runs_the_function_in_place(bench: Bench) -> None:
    assert await add(1) == 2
    assert await add(1, b=5) == 6
    assert add_slowly(2, 3) == 5
    assert not bench.announced


async def test_the_worker_runs_it_with_the_parameters_by_name(bench: Bench) -> None:
    assert await outcome(bench, add, {"a": 1}) == 2
    assert await outcome(bench, add_slowly, {"a": 1, "b": 5}) == 6


def test_it_is_still_the_function_to_those_who_look() -> None:
    definition = add.define()
    assert (definition.name, add.name, definition.summary) == (
        "adds",
        "adds",
        "Adds two numbers.",
    )
    assert definition.defined_in == f"{__name__}:add"
    assert vars(add)["__name__"] == "add"
    assert repr(add) == f"<task adds of {__name__}:add>"
    assert add_slowly.name == "add_slowly"


async def test_a_sync_function_runs_in_a_thread_and_an_async_one_in_the_loop(bench: Bench) -> None:
    @task()
    def sync() -> bool:
        return threading.current_thread() is threading.main_thread()

    @task()
    async def looped() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert await outcome(bench, sync) is False
    assert await outcome(bench, looped) is True


user: ContextVar[str] = ContextVar("user", default="nobody")


async def test_a_thread_finds_its_run_and_keeps_its_context_to_itself(bench: Bench) -> None:
    @task()
    def who() -> tuple[str, str | None]:
        before = user.get()
        user.set("somebody")
        run = current_run()
        return before, run.task if run else None

    for _ in range(2):
        assert await outcome(bench, who) == ["nobody", "who"]


async def test_the_context_and_the_client_are_handed_in_by_their_types(bench: Bench) -> None:
    @task()
    async def both(n: int, job: RunContext, client: httpx.AsyncClient) -> list[object]:
        return [n, job.job_id == job.run_id, client is bench.http_client]

    @task()
    def optional(job: RunContext | None = None, client: httpx.AsyncClient | None = None) -> bool:
        return job is not None and client is not None

    assert await outcome(bench, both, {"n": 7}) == [7, True, True]
    assert await outcome(bench, optional) is True
    assert both.define().params.fields == {"n"}


async def test_a_direct_call_may_leave_the_context_out() -> None:
    @task()
    async def attempt(n: int, job: RunContext) -> tuple[int, int, str]:
        return n, job.attempt, job.task

    @task()
    async def keyword(*, job: RunContext | None = None) -> bool:
        return job is None

    own = RunContext(task="mine", attempt=3)
    assert await attempt(7) == (7, 1, "attempt")  # type: ignore[call-arg]
    assert await attempt(7, own) == (7, 3, "mine")
    assert await attempt(7, job=own) == (7, 3, "mine")
    assert await keyword() is True


async def test_a_decorator_that_hides_that_a_function_is_async_does_no_harm(bench: Bench) -> None:
    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return call

    @task()
    @decorated
    async def hidden(n: int) -> int:
        await asyncio.sleep(0)
        return n

    assert await outcome(bench, hidden, {"n": 4}) == 4
    assert await hidden(4) == 4


class Callable_:
    async def __call__(self) -> None: ...


async def generates() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (Callable_, "expected a function"),
        (Callable_(), "expected a function"),
        (functools.partial(print), "expected a function"),
        (generates, "this one yields"),
        ("add", "expected a function"),
    ],
)
def test_what_is_no_function_is_refused(function: Any, words: str) -> None:
    with pytest.raises(TaskDefinitionError, match=words):
        task()(function)


def test_a_name_that_does_not_fit_is_refused() -> None:
    with pytest.raises(TaskDefinitionError, match="is named 'no spaces'"):
        task(name="no spaces")(generates_nothing)
    with pytest.raises(TaskDefinitionError, match="<lambda>"):
        task()(lambda: None)


async def generates_nothing() -> None: ...


async def test_code_in_a_thread_can_be_called_from_async_code(bench: Bench) -> None:
    @task()
    async def mixed(job: RunContext) -> bool:
        return await job.in_thread(lambda: threading.current_thread() is threading.main_thread())

    assert await outcome(bench, mixed) is False
