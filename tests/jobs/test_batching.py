"""Many small requests that share few round trips."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until
from worker.errors import StoreUnavailable
from worker.jobs.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Sequence


class Line:
    """Where batches are sent to. It answers each number with its double."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.failure: BaseException | None = None

    async def send(self, batch: Sequence[int]) -> list[int]:
        self.sent.append(list(batch))
        await self.free.wait()
        if self.failure is not None:
            raise self.failure
        return [2 * item for item in batch]

    def batcher(self, most: int = 100) -> Batcher[int, int]:
        return Batcher(self.send, most=most, name="line")


async def test_who_is_alone_goes_at_once() -> None:
    line = Line()
    assert await line.batcher().ask(4) == 8
    assert line.sent == [[4]]


async def test_what_comes_while_a_batch_is_on_its_way_goes_with_the_next() -> None:
    line = Line()
    batcher = line.batcher()
    line.free.clear()
    first = asyncio.create_task(batcher.ask(0))
    await wait_until(lambda: bool(line.sent), "it is on its way")
    others = [asyncio.create_task(batcher.ask(n)) for n in range(1, 50)]
    await asyncio.sleep(0)
    line.free.set()
    assert await asyncio.gather(first, *others) == [2 * n for n in range(50)]
    assert line.sent == [[0], list(range(1, 50))]


async def test_a_batch_is_not_larger_than_it_may_be() -> None:
    line = Line()
    batcher = line.batcher(most=10)
    assert await asyncio.gather(*(batcher.ask(n) for n in range(25))) == [2 * n for n in range(25)]
    assert [len(batch) for batch in line.sent] == [10, 10, 5]


async def test_what_sending_raises_is_the_answer_to_each_and_the_next_batch_goes() -> None:
    line = Line()
    batcher = line.batcher()
    line.failure = StoreUnavailable("down")
    answers = await asyncio.gather(*map(batcher.ask, range(3)), return_exceptions=True)
    assert answers == [line.failure] * 3
    line.failure = None
    assert await batcher.ask(1) == 2


async def test_too_few_answers_are_nobodys_answer() -> None:
    async def send(batch: Sequence[int]) -> list[int]:
        return [1]

    batcher: Batcher[int, int] = Batcher(send, most=10, name="line")
    answers = await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["expected 2 answers, got 1"] * 2


async def test_a_stray_cancellation_inside_of_sending_leaves_nobody_waiting() -> None:
    line = Line()
    batcher = line.batcher()
    line.failure = asyncio.CancelledError()
    with pytest.raises(StoreUnavailable):
        await batcher.ask(1)
    line.failure = None
    assert await batcher.ask(1) == 2


async def test_who_has_gone_is_answered_no_more() -> None:
    line = Line()
    batcher = line.batcher()
    line.free.clear()
    gone = asyncio.create_task(batcher.ask(1))
    await wait_until(lambda: bool(line.sent), "it is on its way")
    stays = asyncio.create_task(batcher.ask(2))
    gone.cancel()
    await asyncio.sleep(0)
    line.free.set()
    assert await stays == 4
    assert line.sent == [[1], [2]]


async def test_it_is_drained_when_everybody_is_answered() -> None:
    line = Line()
    batcher = line.batcher()
    await batcher.drained()
    asked = asyncio.create_task(batcher.ask(1))
    await asyncio.sleep(0)
    await batcher.drained()
    assert batcher.idle
    assert await asked == 2


async def test_what_cannot_be_sent_before_the_end_is_answered_so() -> None:
    line = Line()
    batcher = line.batcher(most=1)
    line.free.clear()
    asked = [asyncio.create_task(batcher.ask(n)) for n in range(3)]
    await wait_until(lambda: bool(line.sent), "the first is on its way")
    await batcher.close(0.01)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3


async def test_a_batch_belongs_to_none_of_those_that_share_it() -> None:
    run: ContextVar[str] = ContextVar("run", default="none")
    seen: list[str] = []

    async def send(items: Sequence[int]) -> list[int]:
        seen.append(run.get())
        return list(items)

    batcher = Batcher(send, most=10, name="batch")
    run.set("one")
    assert await batcher.ask(1) == 1
    assert seen == ["none"]
    assert run.get() == "one"
