"""Notices, from a thread, when the event loop does not turn, and says which code holds it.

Code that blocks (a long computation, ``time.sleep``, a synchronous client) stops everything else
in the worker, the log of it included; only another thread can tell.

The loop gives a sign of life by a repeating timer; what lies between two of them is a `Turn`. The
thread looks at the age of the last one. Time in which nothing could turn is not held against the
loop: after a pause of the process (SIGSTOP, a suspended machine, no CPU left) the thread finds
that it overslept itself, and takes off what it slept too long. Except for what the loop's thread
computed meanwhile: a regular expression, or other C code that keeps the GIL, holds up the watchdog
too, but it burns CPU, which a paused process does not.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.context import run_in
from worker.events import LoopResumed, LoopStalled

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from types import FrameType

    from worker.events import Events
    from worker.shared_tasks import TaskOwner

__all__ = ["Watchdog"]

LONGEST_PERIOD_S = 1.0
MOST_FRAMES = 20
STOP_S = 1.0
"""How long a thread that hangs in a log call may hold up the stop; it is left behind then."""
LOOP_MODULES = ("asyncio.base_events", "asyncio.events", "asyncio.runners")


class Watchdog:
    """A service that announces `LoopStalled` when the loop has not turned for ``limit``.

    A stall that goes on is announced again when it lasts twice as long, four times as long, and so
    on; its end is announced by `LoopResumed`. Both are announced in the watchdog's thread, since
    the loop cannot; a listener that fails there, or blocks, is survived.

    Args:
        limit: The loop's signs of life come five times in it, and at least once a second. A stall
            is noticed at most two of these periods after ``limit``.
        monotonic: Seconds on a clock that never jumps.

    Raises:
        ValueError: ``limit`` is not positive.

    Attributes:
        stalls: How often the loop has stalled so far.
        on_turn: Called in the loop at each of its signs of life, with how many seconds late it was.
    """

    def __init__(
        self,
        limit: timedelta,
        *,
        events: Events,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_s = limit.total_seconds()
        if self._limit_s <= 0:
            raise ValueError(f"limit: expected a positive duration, got {limit}")
        self._period_s = min(self._limit_s / 5, LONGEST_PERIOD_S)
        self._events = events
        self._monotonic = monotonic
        self.stalls = 0
        self.on_turn: Callable[[float], None] = lambda late_s: None
        self._turns: Turns | None = None
        self._stall: Stall | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def stalled_for(self) -> float:
        """Seconds since the loop last turned; 0.0 if it does, or is not watched.

        May be called from any thread. Like the watchdog it leaves out time in which the process
        was paused.
        """
        turns = self._turns
        lasted_s = turns.lasted_s(self._monotonic()) if turns is not None else 0.0
        return lasted_s if lasted_s > 2 * self._period_s else 0.0

    def start(self, group: TaskOwner) -> None:
        """Watch the loop that calls this, in a thread; nothing is added to ``group``."""
        loop = asyncio.get_running_loop()
        self._stopping.clear()
        self._ended = asyncio.Event()
        self._turns = turns = Turns(self._monotonic(), self._period_s)
        self._timer = loop.call_later(self._period_s, self._turned, loop, turns)
        self._thread = threading.Thread(
            target=self._watch,
            args=(loop, turns, threading.get_ident(), cpu_of_this_thread()),
            name="watchdog",
            daemon=True,
        )
        self._thread.start()

    async def stop(self, grace: timedelta) -> None:
        if self._thread is None or self._timer is None:
            return
        self._timer.cancel()
        self._stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._ended.wait()
            self._thread.join()
        self._turns = None

    def _turned(self, loop: asyncio.AbstractEventLoop, turns: Turns) -> None:
        """The loop's sign of life."""
        now = self._monotonic()
        self.on_turn(max(0.0, now - turns.current.began - self._period_s))
        turns.turned(now)
        self._timer = loop.call_later(self._period_s, self._turned, loop, turns)

    def _watch(
        self,
        loop: asyncio.AbstractEventLoop,
        turns: Turns,
        loop_thread: int,
        loop_cpu: Callable[[], float],
    ) -> None:
        stopped = failed = False
        while not stopped and not loop.is_closed():
            try:
                if not loop.is_running():  # between two loops of `run_to_end`, or for good
                    stopped = self._stopping.wait(self._period_s)
                    continue
                cpu_s = loop_cpu()
                turns.sleep(self._monotonic())
                stopped = self._stopping.wait(self._period_s)
                turns.wake(self._monotonic(), loop_cpu() - cpu_s)
                self._look(loop, turns, loop_thread)
                failed = False
            # Nobody is above a thread to be told, and without it nobody would watch the loop.
            except BaseException:
                self._stopping.wait(self._period_s)
                if not failed:
                    with suppress(BaseException):
                        logging.getLogger(__name__).exception("the watchdog failed")
                failed = True
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._ended.set)

    def _look(self, loop: asyncio.AbstractEventLoop, turns: Turns, loop_thread: int) -> None:
        turn, stall, now = turns.current, self._stall, self._monotonic()
        if stall is not None and stall.turn is not turn:
            self._stall = None
            self._events.announce(LoopResumed(stalled_s=stall.turn.lasted_s(now)))
            stall = None
        lasted_s = turn.lasted_s(now)
        if lasted_s < self._limit_s or self._stopping.is_set():
            return
        if stall is not None and lasted_s < stall.tell_at_s:
            return
        # Nothing here may wait before the end of the turn is looked for: code that keeps the GIL
        # would go on, and be gone.
        holder, frames = asyncio.current_task(loop), frames_of(loop_thread)
        if turn.ended is not None:
            return  # just now: what was seen may be the code that runs after
        if stall is None:
            self._stall = stall = Stall(turn, tell_at_s=self._limit_s)
            self.stalls += 1
        while stall.tell_at_s <= lasted_s:
            stall.tell_at_s *= 2
        self._events.announce(blame(holder, frames, lasted_s))


class Turns:
    """What is known of the loop's turns. Its times are monotonic seconds.

    The loop calls `turned`; the thread calls the rest, and any thread may ask.
    """

    def __init__(self, now: float, period_s: float) -> None:
        self.current = self._at_sleep = Turn(now)
        self._period_s = period_s
        self._due: float | None = None

    def turned(self, now: float) -> None:
        """The loop gave a sign of life."""
        self.current.ended = now
        self.current = Turn(now)

    def sleep(self, now: float) -> None:
        """The thread will not look for one period."""
        self._at_sleep = self.current
        self._due = now + self._period_s

    def wake(self, now: float, computed_s: float) -> None:
        """The thread looks again, after the loop's thread had ``computed_s`` seconds of CPU.

        What it overslept by more than a period, nobody is blamed for.
        """
        due, self._due = self._due, None
        if due is not None and now > due + self._period_s:
            for turn in {self._at_sleep, self.current}:
                turn.excuse(due, now, computed_s)

    def lasted_s(self, now: float) -> float:
        """How long the loop has not turned, as far as the thread could see."""
        due = self._due
        if due is not None and now > due + self._period_s:
            now = due  # it oversleeps, and will judge when it wakes
        return self.current.lasted_s(now)


class Turn:
    """The time from one sign of life of the loop to the next."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.ended: float | None = None
        self._excused_s = 0.0

    def lasted_s(self, now: float) -> float:
        """How long it took, or has taken until ``now``, without what is excused."""
        end = now if self.ended is None else self.ended
        return max(0.0, end - self.began - self._excused_s)

    def excuse(self, start: float, end: float, except_s: float) -> None:
        """Do not count what lies between ``start`` and ``end``, but for ``except_s`` of it."""
        overlap_s = (end if self.ended is None else self.ended) - max(start, self.began)
        self._excused_s += max(0.0, overlap_s - except_s)


@dataclass(slots=True)
class Stall:
    """A turn that took too long, and how long it must last to be told next."""

    turn: Turn
    tell_at_s: float


def blame(
    holder: asyncio.Task[object] | None, frames: list[tuple[FrameType, int]], stalled_s: float
) -> LoopStalled:
    stack = "".join(traceback.StackSummary.extract(iter(frames)).format()).rstrip()
    if holder is None:
        return LoopStalled(stalled_s=stalled_s, stack=stack)
    name = holder.get_name()
    task, run_id = run_of(holder)
    return LoopStalled(task=task, run_id=run_id, stalled_s=stalled_s, holder=name, stack=stack)


def run_of(holder: asyncio.Task[object]) -> tuple[str, str | None]:
    """The task and the id of the run that an asyncio task is, or belongs to.

    Python 3.11 does not tell what an asyncio task belongs to; there, a run's own helpers have a
    name and a stack, but no run.
    """
    kind, _, rest = holder.get_name().partition(":")
    task, _, run_id = rest.rpartition(":")
    if kind == "run" and task:
        return task, run_id
    if sys.version_info >= (3, 12):
        run = run_in(holder.get_context())
        if run is not None:
            return run.task, run.run_id
    return "", None


def frames_of(thread: int) -> list[tuple[FrameType, int]]:
    """The thread's innermost frames and their lines, from where the loop called the code."""
    frames: list[tuple[FrameType, int]] = []
    frame = sys._current_frames().get(thread)
    while frame is not None and len(frames) < MOST_FRAMES:
        if frames and frame.f_globals.get("__name__") in LOOP_MODULES:
            break
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return frames[::-1]


def cpu_of_this_thread() -> Callable[[], float]:
    """What tells, in any thread, the seconds of CPU that the calling thread has used.

    Where the system does not tell that of a single thread (macOS): those of the process.
    """
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.process_time
    clock = time.pthread_getcpuclockid(threading.get_ident())
    return lambda: time.clock_gettime(clock)
