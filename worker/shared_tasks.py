"""Asyncio tasks that serve many runs, whichever of them happened to need one first."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["start_shared_task"]

T = TypeVar("T")


def start_shared_task(work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Start an asyncio task in the running loop that inherits no context variables: its log lines
    name no run, and its spans have no parent."""
    return asyncio.get_running_loop().create_task(work, name=name, context=Context())
