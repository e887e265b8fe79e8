"""The soft time limit: an exception inside of a coroutine, wherever it waits."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from worker.context import RunContext
from worker.errors import SoftTimeLimitExceeded
from worker.running.soft_limit import raising_softly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

SOON = timedelta(milliseconds=20)
FOREVER_S = 60.0
CONTEXT = RunContext(task="limited")


async def limited(coroutine: Coroutine[Any, Any, object], limit: timedelta = SOON) -> object:
    """In a task of its own, as the runner has it."""
    return await asyncio.create_task(raising_softly(coroutine, limit, CONTEXT))


async def endless() -> None:
    await asyncio.sleep(FOREVER_S)


async def test_what_ends_in_time_is_left_alone() -> None:
    async def quick() -> int:
        await asyncio.sleep(0)
        return 42

    assert await limited(quick(), timedelta(minutes=1)) == 42


async def test_what_it_raises_itself_is_raised() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        await limited(fails())


async def test_it_is_raised_where_the_code_waits_and_the_code_can_clean_up() -> None:
    async def cleans_up() -> str:
        try:
            await endless()
        except SoftTimeLimitExceeded as exc:
            await asyncio.sleep(0)  # it may wait while it does
            return f"cleaned up: {exc}"
        return "never"

    assert await limited(cleans_up()) == "cleaned up: took longer than its soft time limit of 20ms"


async def test_code_that_does_not_catch_it_ends_with_it() -> None:
    with pytest.raises(SoftTimeLimitExceeded) as failure:
        await limited(endless())
    assert type(failure.value) is SoftTimeLimitExceeded
    assert any(entry.name == "endless" for entry in failure.traceback)


async def test_it_is_raised_once() -> None:
    async def goes_on() -> str:
        try:
            await endless()
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0.05)
        return "went on"

    assert await limited(goes_on()) == "went on"


async def test_code_that_catches_every_exception_catches_it() -> None:
    async def careless() -> str:
        try:
            await endless()
        except Exception as exc:
            return type(exc).__mro__[1].__name__
        return "never"

    assert await limited(careless()) == "SoftTimeLimitExceeded"


async def test_the_children_of_a_task_group_are_ended_first() -> None:
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await endless()
        finally:
            ended.append(name)

    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child("a"))
            group.create_task(child("b"))

    before = asyncio.all_tasks()
    with pytest.raises(SoftTimeLimitExceeded):
        await limited(parent())
    assert sorted(ended) == ["a", "b"]
    assert asyncio.all_tasks() == before


async def test_it_comes_through_timeouts_shields_and_gathered_work() -> None:
    async def with_timeout() -> None:
        async with asyncio.timeout(FOREVER_S):
            await endless()

    async def with_wait_for() -> None:
        await asyncio.wait_for(endless(), FOREVER_S)

    async def with_gather() -> None:
        await asyncio.gather(endless(), endless())

    inner = asyncio.get_running_loop().create_future()

    async def with_shield() -> None:
        await asyncio.shield(inner)

    before = asyncio.all_tasks()
    for waits in (with_timeout, with_wait_for, with_gather, with_shield):
        with pytest.raises(SoftTimeLimitExceeded):
            await limited(waits())
    assert asyncio.all_tasks() == before
    assert not inner.cancelled()


async def test_a_timeout_of_the_code_itself_is_still_its_own() -> None:
    async def times_out() -> None:
        async with asyncio.timeout(0.001):
            await endless()

    with pytest.raises(TimeoutError):
        await limited(times_out(), timedelta(minutes=1))


async def test_context_managers_are_left_in_order() -> None:
    left: list[str] = []

    @asynccontextmanager
    async def held(name: str) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            left.append(name)

    async def holds() -> None:
        async with held("outer"), held("inner"):
            await endless()

    with pytest.raises(SoftTimeLimitExceeded):
        await limited(holds())
    assert left == ["inner", "outer"]


async def test_a_real_cancellation_stays_one() -> None:
    got: list[type[BaseException]] = []

    async def notes() -> None:
        try:
            await endless()
        except BaseException as exc:
            got.append(type(exc))
            raise

    task = asyncio.create_task(raising_softly(notes(), timedelta(minutes=1), CONTEXT))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert got == [asyncio.CancelledError]


async def test_a_real_cancellation_at_the_same_moment_wins() -> None:
    task = asyncio.create_task(raising_softly(endless(), timedelta(0), CONTEXT))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_it_can_be_cancelled_for_good_while_it_cleans_up() -> None:
    cleaning_up = asyncio.Event()

    async def slow_to_clean_up() -> None:
        try:
            await endless()
        except SoftTimeLimitExceeded:
            cleaning_up.set()
            await endless()

    task = asyncio.create_task(raising_softly(slow_to_clean_up(), timedelta(0), CONTEXT))
    await cleaning_up.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
