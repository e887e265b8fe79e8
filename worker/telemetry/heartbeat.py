"""A sign of life for whoever only looks from outside: a file that the event loop touches."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from worker.errors import ConfigurationError
from worker.shared_tasks import keep_going

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from worker.clock import Clock
    from worker.shared_tasks import TaskOwner

__all__ = ["Heartbeat"]

EVERY_S = 10.0


class Heartbeat:
    """A service that touches ``path`` every ten seconds, for as long as the event loop turns.

    The file's age is all that a container's health check has to look at. A clean stop removes it.

    Raises:
        ConfigurationError: The file cannot be written, when the service starts.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._beating: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Find out whether the file can be written, and leave things as they were.

        Raises:
            ConfigurationError: It cannot.
        """
        existed = self._path.exists()
        self._touch_first()
        if not existed:
            self._path.unlink(missing_ok=True)

    def start(self, group: TaskOwner) -> None:
        self._touch_first()
        self._beating = group.create_task(
            keep_going(self._beat, clock=self._clock, name="heartbeat"), name="heartbeat"
        )

    async def stop(self, grace: timedelta) -> None:
        if self._beating is not None:
            self._beating.cancel()
            with suppress(OSError):
                self._path.unlink()

    def _touch_first(self) -> None:
        try:
            touch(self._path)
        except OSError as exc:
            reason = "it is a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
            raise ConfigurationError(
                [f"WORKER_HEARTBEAT_FILE: {str(self._path)!r} cannot be written: {reason}"]
            ) from exc

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(EVERY_S)
            try:
                touch(self._path)
            except OSError as exc:
                structlog.get_logger("worker").error(
                    "heartbeat.failed", path=str(self._path), error=str(exc)
                )


def touch(path: Path) -> None:
    """Make the file new. In a folder for everybody somebody may have put a link in its place."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.utime(file)
    finally:
        os.close(file)
