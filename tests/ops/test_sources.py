"""How much the ops part asks of the queues' engine at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.ops import ops_door
from worker.errors import StoreUnavailable
from worker.ops import sources
from worker.ops.sources import MOST_READS, Sources

if TYPE_CHECKING:
    from pathlib import Path

    from worker.ports import JobStore


async def test_few_answers_of_the_engine_are_gathered_at_a_time(tmp_path: Path) -> None:
    now = most = 0

    async def read(jobs: JobStore) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(10):
            await asyncio.sleep(0)
        now -= 1
        return most

    async with ops_door(tmp_path) as door:
        asked = Sources(door.worker)
        await asyncio.gather(*(asked.engine(read) for _ in range(20)))
    assert most == MOST_READS


async def test_who_waits_for_his_turn_in_vain_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PATIENCE_S", 0.1)

    async def hang(jobs: JobStore) -> None:
        await asyncio.Event().wait()

    async def quick(jobs: JobStore) -> str:
        return "answered"

    async with ops_door(tmp_path) as door:
        asked = Sources(door.worker)
        told = await asyncio.gather(
            *(asked.engine(hang) for _ in range(2 * MOST_READS)), return_exceptions=True
        )
        assert {type(one) for one in told} == {StoreUnavailable}
        assert await asked.engine(quick) == "answered", "nobody keeps his turn"
