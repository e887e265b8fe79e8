"""A fresh, empty engine of each kind. What is missing on this machine is started, or named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.jobs import KINDS, fresh_engines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.jobs import Engines
    from worker.ports import JobStore


@pytest.fixture(params=KINDS)
async def engines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    """Opens engines over the same jobs; there are none yet."""
    async with fresh_engines(request.param, tmp_path) as engines:
        yield engines


@pytest.fixture
async def store(engines: Engines) -> JobStore:
    return await engines.open()
