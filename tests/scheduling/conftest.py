"""Workers for the tests of scheduling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from tests.support.clock import WallClock
from tests.support.scheduling import START, Worker, running
from worker import (
    SystemClock,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
async def real() -> AsyncIterator[Worker]:
    """A worker on the real clock."""
    async with running(Worker(SystemClock())) as worker:
        yield worker


@pytest.fixture
def clock() -> WallClock:
    return WallClock(START)


@pytest.fixture
async def one(clock: WallClock) -> AsyncIterator[Worker]:
    """A worker whose clock stands at START; the test says when it looks what is due."""
    async with running(Worker(clock)) as worker:
        yield worker


@pytest.fixture
async def two(clock: WallClock, one: Worker) -> AsyncIterator[Worker]:
    """Another worker, over the same store."""
    async with running(Worker(clock, one.store, "two")) as worker:
        yield worker


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with capture_logs() as logged:
        yield logged
