"""Starts and stops the services of a worker, and hears the signals.

The first SIGTERM or SIGINT ends the worker in good order: no new work, a drain, a deadline.
Another one ends it at once, even when the event loop is blocked, and as PID 1 of a container too.
Those that follow the first within a second belong to it: coreutils' ``timeout`` and some
supervisors signal both the process and its group.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from worker.errors import WorkerError
from worker.forking import handlers_in_children
from worker.log_stream import write_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta
    from types import FrameType

__all__ = ["Service", "StopRequest", "Together", "supervise"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_S = 1.0
"""Signals that come so soon after the first are one request with it."""
KILLED = b'{"level": "warning", "event": "worker.killed", "reason": "another signal, %s"}\n'
"""Written as it is: in a signal handler no logger may be in the middle of a line."""


class Service(Protocol):
    """A part of the worker that runs until it is stopped."""

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin to work; the group owns every asyncio task of the service."""
        ...

    async def stop(self, grace: timedelta) -> None:
        """Take no new work, let what goes on end within ``grace``, cancel the rest; then return."""
        ...


class Together:
    """Services that stop at the same time, each within the whole grace."""

    def __init__(self, *services: Service) -> None:
        self._services = services

    def start(self, group: asyncio.TaskGroup) -> None:
        for service in self._services:
            service.start(group)

    async def stop(self, grace: timedelta) -> None:
        async with asyncio.TaskGroup() as group:
            for service in self._services:
                group.create_task(service.stop(grace), name=f"stop:{type(service).__name__}")


class StopRequest:
    """The wish that the worker ends, and why. Create it inside of the event loop.

    Attributes:
        reason: Why the worker shall end; ``None`` while it shall not.
        signal: The signal that said so, if one did.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()
        self.reason: str | None = None
        self.signal: signal.Signals | None = None

    def ask(self, reason: str) -> None:
        """Ask the worker to end. Safe to call from any thread and from a signal handler."""
        if self.reason is None:
            self.reason = reason
            self._loop.call_soon_threadsafe(self._asked.set)

    async def wait(self) -> str:
        """Return, with the reason, once the worker shall end."""
        await self._asked.wait()
        assert self.reason is not None
        return self.reason

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Request the end at the first SIGTERM or SIGINT; end the process at a later one.

        The handlers are Python's own, not the loop's, because a blocked loop would never call
        its, and the default action does nothing for PID 1. A child that a task forks does not have
        them.
        """

        first_at = 0.0

        def handle(number: int, frame: FrameType | None) -> None:
            nonlocal first_at
            if self.signal is not None:
                if time.monotonic() - first_at < SAME_REQUEST_S:
                    return
                write_at_once(2, KILLED % signal.Signals(number).name.encode())
                os._exit(128 + number)
            first_at = time.monotonic()
            self.signal = signal.Signals(number)
            self.ask(self.signal.name)

        before = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            with handlers_in_children(before):
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def supervise(
    services: Sequence[Service],
    *,
    stop: StopRequest,
    grace: timedelta,
    on_ready: Callable[[], None],
    on_stopping: Callable[[str], None],
) -> None:
    """Start the services, run until ``stop`` is asked for, and stop them in reverse order.

    Raises:
        WorkerError: A service refused to start; those before it were stopped again.
    """
    refusal: WorkerError | None = None
    started: list[Service] = []
    async with asyncio.TaskGroup() as group:
        try:
            for service in services:
                service.start(group)
                started.append(service)
        except WorkerError as exc:
            refusal = exc
        else:
            on_ready()
            on_stopping(await stop.wait())
        for service in reversed(started):
            await service.stop(grace)
    if refusal is not None:
        raise refusal
