"""Where log lines go, so that a reader who stalls, or leaves, never holds up the worker.

A line is written at once where the system takes it at once. Otherwise it waits in memory, and a
thread writes what waits as soon as somebody reads again. Code that logs is never held up.
"""

from __future__ import annotations

import errno
import io
import os
import select
import time
from collections import deque
from contextlib import suppress
from threading import Condition, Thread
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LogStream", "write_at_once"]

MOST_WAITING = 4 * 1024 * 1024
"""How many bytes of lines wait for a reader who stalls; those that follow are dropped."""
AT_ONCE = min(getattr(select, "PIPE_BUF", 512), 4096)
"""A pipe that can be written to takes so many bytes at once."""
LOOK_S = 1.0


class Descriptor:
    """A file, pipe or socket to write to, without ever waiting for its reader."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(fd, select.POLLOUT)

    def takes_now(self, wait_s: float = 0.0) -> bool:
        """Whether it takes `AT_ONCE` bytes, or has an error."""
        return self._poll is None or bool(self._poll.poll(wait_s * 1000))

    def write(self, line: bytes) -> bytes:
        """Write what it takes now.

        Returns:
            The rest.

        Raises:
            OSError: It cannot be written to.
        """
        while line and self.takes_now():
            line = line[os.write(self.fd, line[:AT_ONCE]) :]
        return line


def write_at_once(fd: int, line: bytes) -> None:
    """Write the last words of a process, unless that would have to wait for a reader."""
    with suppress(OSError):
        Descriptor(fd).write(line)


class LogStream:
    """A text stream for log lines. Safe to use from any thread.

    Nothing is raised into the code that logs. A failure to write is ignored, as a full disk is no
    reason to stop working; the next line then begins on a line of its own.

    Args:
        stream: Standard error, or another one. One without a file descriptor is written directly.

    Attributes:
        reader_gone: Whether the reader went away.
        on_reader_gone: Called once when it does, by whoever writes.
        on_dropped: Called with the number of lines that were dropped, once somebody reads again.
    """

    def __init__(self, stream: TextIO) -> None:
        self.reader_gone = False
        self.on_reader_gone: Callable[[], None] | None = None
        self.on_dropped: Callable[[int], None] | None = None
        self._stream = stream
        self._target = target_of(stream)
        self._torn = False
        self._change = Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._writer: Thread | None = None

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, text: str) -> int:
        if self._target is None:
            self._write_directly(text)
            return len(text)
        line = text.encode(errors="backslashreplace")
        with self._change:
            if not self._waiting:
                line = self._written(self._target, line)
            if line:
                self._have_wait(line)
        return len(text)

    def flush(self) -> None:
        """Lines are not buffered: those that wait are written as soon as that is possible."""
        if self._target is None:
            self._write_directly("")

    def finish(self, limit_s: float) -> None:
        """Return when no line waits any more, at the latest after ``limit_s``."""
        until = time.monotonic() + limit_s
        with self._change:
            while self._writer is not None and time.monotonic() < until:
                self._change.wait(until - time.monotonic())

    def _write_directly(self, text: str) -> None:
        torn, self._torn = self._torn, False
        try:
            self._stream.write(f"\n{text}" if torn else text)
            self._stream.flush()
        except (OSError, ValueError) as exc:
            self._failed(exc)

    def _written(self, target: Descriptor, line: bytes) -> bytes:
        """Write what can be written at once; the rest of the line."""
        if self._torn:
            line = b"\n" + line
        self._torn = False
        try:
            return target.write(line)
        except OSError as exc:
            self._failed(exc)
            return b""

    def _have_wait(self, line: bytes) -> None:
        if self._dropped or self._size + len(line) > MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(line)
        self._size += len(line)
        if self._writer is None:
            self._writer = Thread(target=self._write_waiting, name="log", daemon=True)
            self._writer.start()

    def _write_waiting(self) -> None:
        """Write the lines that wait, in their order, until none does."""
        assert self._target is not None
        dropped = 0
        while True:
            self._target.takes_now(LOOK_S)
            with self._change:
                if self._waiting:
                    line = self._waiting.popleft()
                    self._size -= len(line)
                    if rest := self._written(self._target, line):
                        self._waiting.appendleft(rest)
                        self._size += len(rest)
                if not self._waiting:
                    dropped, self._dropped = self._dropped, 0
                    self._writer = None
                    self._change.notify_all()
                    break
        if dropped and self.on_dropped is not None:
            self.on_dropped(dropped)

    def _failed(self, exc: Exception) -> None:
        self._torn = True
        if isinstance(exc, OSError) and exc.errno == errno.EPIPE and not self.reader_gone:
            self.reader_gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if self.on_reader_gone is not None:
                self.on_reader_gone()


def target_of(stream: TextIO) -> Descriptor | None:
    try:
        return Descriptor(stream.fileno())
    except (AttributeError, OSError, ValueError, io.UnsupportedOperation):
        return None
