"""Guessing is slow, and costs nobody else anything."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog
from starlette.exceptions import HTTPException

from tests.support.ops import FULL, ops_door
from worker.ops import slow_down
from worker.ops.slow_down import SlowDown

if TYPE_CHECKING:
    from pathlib import Path


class Site:
    """Counts how long it has to be waited."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slow_down = SlowDown(monotonic=lambda: self.now, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds

    async def guess(self, address: str = "1.2.3.4", *, right: bool = False) -> float:
        """How long a guess had to wait."""
        began = self.now
        found = await self.slow_down.judge(address, lambda: True if right else None)
        assert found is (True if right else None)
        return self.now - began


async def test_who_is_wrong_waits_longer_and_longer_up_to_a_limit() -> None:
    site = Site()
    waits = [await site.guess() for _ in range(20)]
    assert waits[0] == 0.0
    assert waits == sorted(waits)
    assert waits[1] > 0
    assert waits[-1] == pytest.approx(slow_down.LONGEST_WAIT_S)


async def test_nobody_else_waits_and_a_right_token_does_not_either() -> None:
    site = Site()
    for _ in range(100):
        await site.guess("1.2.3.4")
    assert await site.guess("5.6.7.8", right=True) == 0.0
    assert await site.guess("1.2.3.4", right=True) == 0.0


async def test_what_cannot_be_judged_is_wrong() -> None:
    site = Site()

    def compare() -> bool:
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        await site.slow_down.judge("1.2.3.4", compare)
    assert await site.guess() > 0.0


async def test_who_was_wrong_long_ago_does_not_wait() -> None:
    site = Site()
    await site.guess()
    site.now += slow_down.FORGOTTEN_AFTER_S + 1
    assert await site.guess() == 0.0


async def test_not_every_address_is_remembered() -> None:
    site = Site()
    for number in range(slow_down.MOST_ADDRESSES + 100):
        await site.guess(f"10.0.{number // 256}.{number % 256}")
    assert await site.guess("10.0.0.0") == 0.0, "the first ones are forgotten"
    assert await site.guess(f"10.0.{1100 // 256}.{1100 % 256}") > 0.0


async def test_guesses_at_the_same_time_do_not_get_around_it() -> None:
    gate = asyncio.Event()

    async def wait(seconds: float) -> None:
        await gate.wait()

    slow = SlowDown(sleep=wait)
    await slow.judge("1.2.3.4", lambda: None)
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(slow.judge("1.2.3.4", lambda: None))
            for _ in range(slow_down.MOST_WAITING)
        ]
        await asyncio.sleep(0)
        with pytest.raises(HTTPException) as refused:
            await slow.judge("1.2.3.4", lambda: None)
        assert refused.value.status_code == 429
        for address in ("1.2.3.4", "5.6.7.8"):
            assert await slow.judge(address, lambda: True), "a right one is not held up"
        gate.set()
    assert [task.result() for task in waiting] == [None] * slow_down.MOST_WAITING


async def test_a_flood_of_guesses_is_no_flood_of_log_lines() -> None:
    site = Site()
    with structlog.testing.capture_logs() as logs:
        for _ in range(500):
            await site.guess()
    assert [line["guesses"] for line in logs] == [1, 10, 100]


async def test_sessions_and_probes_do_not_wait_behind_guesses(tmp_path: Path) -> None:
    async with (
        ops_door(tmp_path) as door,
        door.client() as browser,
        door.client("wrong") as guesser,
    ):
        assert (await browser.post("/session", json={"token": FULL})).status_code == 200
        answers = await asyncio.gather(*(guesser.get("/session") for _ in range(12)))
        assert {answer.status_code for answer in answers} <= {401, 429}
        assert answers[-1].headers["content-type"] == "application/problem+json"
        assert (await browser.get("/session")).status_code == 200
        assert (await browser.get("/livez")).status_code == 200
