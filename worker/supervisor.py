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
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

from worker.cancelling import end_task
from worker.errors import ServiceFailed
from worker.forking import handlers_in_children
from worker.log_stream import write_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from datetime import timedelta
    from types import FrameType

    from worker.shared_tasks import TaskOwner

__all__ = ["Service", "StopRequest", "Together", "supervise"]

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_S = 1.0
"""Signals that come so soon after the first are one request with it."""
KILLED = b'{"level": "warning", "event": "worker.killed", "reason": "another signal, %s"}\n'
"""Written as it is: in a signal handler no logger may be in the middle of a line."""


class Service(Protocol):
    """A part of the worker that runs until it is stopped."""

    def start(self, group: TaskOwner) -> None:
        """Begin to work; the group owns every asyncio task of the service."""
        ...

    async def stop(self, grace: timedelta) -> None:
        """Take no new work, let what goes on end within ``grace``, cancel the rest; then return."""
        ...


class Together:
    """Services that stop at the same time, each within the whole grace."""

    def __init__(self, *services: Service) -> None:
        self._services = services

    def start(self, group: TaskOwner) -> None:
        for service in self._services:
            service.start(group)

    async def stop(self, grace: timedelta) -> None:
        stops = [service.stop(grace) for service in self._services]
        for outcome in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


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


class ServiceTasks:
    """Owns the asyncio tasks of services. One that fails leaves the others alone.

    Args:
        on_failure: Called with a task's name and what it raised.
    """

    def __init__(self, on_failure: Callable[[str, BaseException], None]) -> None:
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None
    ) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._on_failure(task.get_name(), failure)

    async def end(self) -> None:
        """End those that go on although their services were stopped."""
        for task in list(self._tasks):
            await end_task(task)


async def supervise(
    services: Sequence[Service],
    *,
    stop: StopRequest,
    grace: timedelta,
    on_ready: Callable[[], None],
    on_stopping: Callable[[str], None],
) -> None:
    """Start the services, run until ``stop`` is asked for, and stop them in reverse order.

    A service that fails asks for the end, too: what goes on is drained all the same.

    Raises:
        WorkerError: A service refused to start; those before it were stopped again.
        ServiceFailed: A service failed while it ran, or while it was stopped. Raised at the end.
    """
    failed: list[ServiceFailed] = []

    def fail(name: str, failure: BaseException) -> None:
        structlog.get_logger("worker").error(
            "worker.service_failed", service=name, exc_info=failure
        )
        failed.append(ServiceFailed(f"{name} failed: {type(failure).__name__}: {failure}"))
        stop.ask(f"{name} failed")

    tasks = ServiceTasks(fail)
    started: list[Service] = []
    try:
        for service in services:
            service.start(tasks)
            started.append(service)
        on_ready()
        on_stopping(await stop.wait())
    finally:
        for service in reversed(started):
            try:
                await service.stop(grace)
            except Exception as exc:
                fail(f"the stop of {type(service).__name__}", exc)
        await tasks.end()
    for failure in failed[:1]:
        raise failure
