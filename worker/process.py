"""The process around the event loop: how it is entered, and how it is left.

A task may leave behind what does not want to end: a thread that waits for ever, a coroutine that
ignores its cancellation. None of it may keep the process alive, nor change its exit code.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["leave", "run_to_end"]

T = TypeVar("T")

LINGER_S = 5.0
"""How long a thread that does not end may hold up the end of the process."""
LEFT_BEHIND = "left-behind"


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in an event loop of its own.

    asyncio lets a ``SystemExit`` or ``KeyboardInterrupt`` out of the loop, whichever of its tasks
    raised it, and that may be a task's own child. The loop is entered again then: the exception
    is kept in the asyncio task that it ended, and what waits for that finds it there.
    """
    loop = asyncio.new_event_loop()
    main_task = loop.create_task(work, name="worker")
    try:
        while True:
            try:
                return loop.run_until_complete(main_task)
            except (SystemExit, KeyboardInterrupt):
                handled = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
                if main_task.done() or not handled:
                    raise
    finally:
        close(loop)


def close(loop: asyncio.AbstractEventLoop) -> None:
    """End what is left in the loop, but do not wait for ever for what does not want to end."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    with suppress(SystemExit, KeyboardInterrupt):
        if left:
            _, left = loop.run_until_complete(asyncio.wait(left, timeout=LINGER_S / 5))
        loop.run_until_complete(loop.shutdown_asyncgens())
    if left:  # the thread keeps them from being destroyed, which asyncio would complain about
        Thread(target=lambda _: Event().wait(), args=[left], name=LEFT_BEHIND).start()
    else:
        loop.close()


def leave(code: int) -> NoReturn:
    """Exit, without what does not want to end."""
    end = time.monotonic() + LINGER_S
    others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    stubborn = [t for t in others if not t.daemon]
    for thread in stubborn:
        if thread.name != LEFT_BEHIND:
            thread.join(max(0.0, end - time.monotonic()))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if any(thread.is_alive() for thread in stubborn):
        os._exit(code)
    sys.exit(code)
