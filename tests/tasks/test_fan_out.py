"""Many items at once, but no more than a bound, and none in another's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.clock import FakeClock, GatedClock
from tests.support.waiting import wait_until
from worker.tasks.fan_out import FanOut


async def batches(*sizes: int) -> AsyncIterator[list[int]]:
    number = 0
    for size in sizes:
        await asyncio.sleep(0)
        yield list(range(number, number + size))
        number += size


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (5, 0, 5), (100,), (1,) * 30])
async def test_each_item_is_handled_once(sizes: tuple[int, ...]) -> None:
    handled: list[int] = []

    async def handle(item: int) -> None:
        await asyncio.sleep(0)
        handled.append(item)

    await FanOut[int](concurrency=3, clock=FakeClock()).run(batches(*sizes), handle)
    assert sorted(handled) == list(range(sum(sizes)))


@pytest.mark.parametrize("concurrency", [1, 3, 10])
async def test_no_more_items_than_the_bound_are_under_way(concurrency: int) -> None:
    under_way = most = 0

    async def handle(item: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(concurrency + item % 4):
            await asyncio.sleep(0)
        under_way -= 1

    await FanOut[int](concurrency=concurrency, clock=FakeClock()).run(batches(50, 50), handle)
    assert most == concurrency


async def test_items_are_handled_while_the_next_batch_is_awaited() -> None:
    handled: list[int] = []
    came = asyncio.Event()

    async def slow() -> AsyncIterator[list[int]]:
        yield [1]
        await came.wait()
        yield [2]

    async def handle(item: int) -> None:
        handled.append(item)
        came.set()

    await FanOut[int](concurrency=1, clock=FakeClock()).run(slow(), handle)
    assert handled == [1, 2]


async def test_items_read_before_the_batches_failed_are_handled_first() -> None:
    handled: list[int] = []

    async def failing() -> AsyncIterator[list[int]]:
        yield [1, 2, 3]
        raise ValueError("no more")

    async def handle(item: int) -> None:
        await asyncio.sleep(0)
        handled.append(item)

    with pytest.raises(ValueError, match="no more"):
        await FanOut[int](concurrency=1, clock=FakeClock()).run(failing(), handle)
    assert handled == [1, 2, 3]


async def test_item_that_pauses_gives_its_place_away_and_takes_one_afterwards() -> None:
    clock = GatedClock()
    fan_out: FanOut[int] = FanOut(concurrency=2, clock=clock)
    under_way = most = 0
    handled: list[int] = []

    async def handle(item: int) -> None:
        nonlocal under_way, most
        if item < 5:
            await fan_out.pause(60)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        handled.append(item)

    run = asyncio.create_task(fan_out.run(batches(10), handle))
    await wait_until(lambda: len(handled) == 5, "those that do not pause were handled")
    assert sorted(handled) == [5, 6, 7, 8, 9]
    assert clock.slept == [60] * 5
    clock.gate.set()
    await run
    assert sorted(handled) == list(range(10))
    assert most == 2


async def test_only_so_many_items_pause_outside_of_their_places() -> None:
    clock = GatedClock()
    fan_out: FanOut[int] = FanOut(concurrency=2, clock=clock)

    async def handle(item: int) -> None:
        await fan_out.pause(60)

    run = asyncio.create_task(fan_out.run(batches(100), handle))
    # Ten times the concurrency without a place, and then both places.
    await wait_until(lambda: clock.sleeping == 22, "all ways of pausing are taken")
    for _ in range(20):
        await asyncio.sleep(0)
    assert clock.sleeping == 22
    clock.gate.set()
    await run
    assert len(clock.slept) == 100


async def test_cancellation_ends_the_batches_and_the_items() -> None:
    clock = GatedClock()
    fan_out: FanOut[int] = FanOut(concurrency=2, clock=clock)
    closed = False

    async def endless() -> AsyncIterator[list[int]]:
        nonlocal closed
        try:
            yield [1, 2, 3]
            await asyncio.Event().wait()
        finally:
            closed = True

    async def handle(item: int) -> None:
        await fan_out.pause(60)

    run = asyncio.create_task(fan_out.run(endless(), handle))
    await wait_until(lambda: clock.sleeping == 3, "all items pause")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert closed
    assert clock.sleeping == 0
    assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint(
        {"fan-out-read", "fan-out-item"}
    )
