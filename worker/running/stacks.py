"""Where code stands that runs now: the stack of a thread, and of an asyncio task."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable
    from types import FrameType

__all__ = ["stack_of_task", "stack_of_threads"]

MOST_FRAMES = 20
MOST_THREADS = 5
OWN_MODULES = ("worker.threads", "worker.context", "worker.running", "threading")
"""Their frames lead to every task's code, and tell nothing."""


def stack_of_threads(threads: Iterable[int]) -> str:
    """The innermost frames of each thread, named by its ident; empty if none of them runs."""
    frames = sys._current_frames()
    stacks = [written(outward(frames[ident])) for ident in threads if ident in frames]
    return "\n\n".join(stacks[:MOST_THREADS])


def stack_of_task(task: asyncio.Task[Any]) -> str:
    """Where a suspended asyncio task waits, from its outermost coroutine to the innermost."""
    found: list[FrameType] = []
    waits_for: Any = task.get_coro()
    while waits_for is not None:
        frame = getattr(waits_for, "cr_frame", None) or getattr(waits_for, "gi_frame", None)
        if frame is not None:
            found.append(frame)
        waits_for = getattr(waits_for, "cr_await", None) or getattr(waits_for, "gi_yieldfrom", None)
    return written(found)


def outward(frame: FrameType | None) -> list[FrameType]:
    """The frames of a thread, the outermost first."""
    found: list[FrameType] = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found[::-1]


def written(frames: list[FrameType]) -> str:
    """The frames as a traceback shows them, without those that belong to the worker."""
    shown = [frame for frame in frames if not is_own(frame)] or frames
    summary = traceback.StackSummary.extract((f, f.f_lineno) for f in shown[-MOST_FRAMES:])
    return "".join(summary.format()).rstrip()


def is_own(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return any(module == own or module.startswith(f"{own}.") for own in OWN_MODULES)
