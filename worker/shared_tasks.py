"""Asyncio tasks that belong to no run: of services, and of what many runs share."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from worker.clock import Clock

__all__ = ["TaskOwner", "keep_going", "start_shared_task"]

T = TypeVar("T")

AGAIN_S = 1.0
"""How long a service that failed waits before it goes on."""
IN_A_ROW_S = 60.0
"""Two failures within this time are two in a row."""


class TaskOwner(Protocol):
    """Who holds the asyncio tasks of a service: an ``asyncio.TaskGroup``, for example."""

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None
    ) -> asyncio.Task[T]: ...


def start_shared_task(work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Start an asyncio task in the running loop that inherits no context variables: its log lines
    name no run, and its spans have no parent."""
    return asyncio.get_running_loop().create_task(work, name=name, context=Context())


async def keep_going(work: Callable[[], Awaitable[T]], *, clock: Clock, name: str) -> T:
    """Do ``work``; after an unexpected exception log it, wait, and do it anew.

    Raises:
        Exception: The second one in a row.
    """
    failed_at: float | None = None
    while True:
        try:
            return await work()
        except Exception as exc:
            now = clock.monotonic()
            if failed_at is not None and now - failed_at < IN_A_ROW_S:
                raise
            failed_at = now
            structlog.get_logger("worker").error(
                "worker.service_failed", service=name, again_s=AGAIN_S, exc_info=exc
            )
            await clock.sleep(AGAIN_S)
