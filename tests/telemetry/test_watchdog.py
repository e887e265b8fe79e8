"""The watchdog: a loop that stands still is noticed, one that turns is never blamed."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from tests.support.waiting import LONGEST_S, wait_until
from worker.context import RunContext
from worker.events import Event, Events, LoopResumed, LoopStalled
from worker.telemetry.event_log import EventLog
from worker.telemetry.logs import escape_controls
from worker.telemetry.watchdog import MOST_FRAMES, Turns, Watchdog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SHORT = timedelta(milliseconds=100)
"""Short enough to wait for. On a busy machine a loop may stall that long by itself, so what a test
expects of a stall it expects of the one whose holder it knows."""
LONG = timedelta(seconds=5)
GRACE = timedelta(seconds=5)


@dataclass
class Heard:
    """A listener on which blocking code can wait: it is called in the watchdog's thread."""

    events: list[Event] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, event: Event) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    @property
    def stalled(self) -> list[LoopStalled]:
        return [
            event
            for event in self.events
            if isinstance(event, LoopStalled) and re.search("block_until|backtracks", event.stack)
        ]

    @property
    def resumed(self) -> list[LoopResumed]:
        return [event for event in self.events if isinstance(event, LoopResumed)]

    async def over(self, watchdog: Watchdog) -> None:
        """Return once the end of each stall is told."""
        await wait_until(
            lambda: 1 <= watchdog.stalls == len(self.resumed) and watchdog.stalled_for() == 0.0,
            "the loop is said to turn again",
        )

    def block_until(self, holds: Callable[[], bool]) -> None:
        """Stand still, and the loop with it, until ``holds()`` of what was heard."""
        with self._news:
            assert self._news.wait_for(holds, LONGEST_S)


@asynccontextmanager
async def watching(limit: timedelta, *listeners: Callable[[Event], None]) -> AsyncIterator[Any]:
    watchdog = Watchdog(limit, events=Events(*listeners))
    async with asyncio.TaskGroup() as group:
        watchdog.start(group)
        try:
            yield watchdog
        finally:
            await watchdog.stop(GRACE)


def watchdog_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "watchdog"]


async def run_as(name: str, blocking: Callable[[], object]) -> None:
    async def code() -> None:
        blocking()

    await asyncio.create_task(code(), name=name)


async def test_code_that_blocks_the_loop_is_named_while_it_does() -> None:
    heard = Heard()

    def hog() -> None:
        heard.block_until(lambda: bool(heard.stalled))

    async with watching(SHORT, heard) as watchdog:
        await run_as("run:hog:abc", hog)
        stalled = heard.stalled[0]
        assert (stalled.holder, stalled.task, stalled.run_id) == ("run:hog:abc", "hog", "abc")
        assert 0.1 <= stalled.stalled_s < LONGEST_S
        await heard.over(watchdog)
        assert max(event.stalled_s for event in heard.resumed) >= stalled.stalled_s


async def test_the_stack_leads_from_the_task_to_what_blocks_and_leaves_asyncio_out() -> None:
    heard = Heard()

    def hog() -> None:
        heard.block_until(lambda: bool(heard.stalled))

    async with watching(SHORT, heard):
        await run_as("run:hog:abc", hog)
    stack = heard.stalled[0].stack
    places = re.findall(r'File "(.+)", line \d+, in (\w+)', stack)
    assert [function for _, function in places][:3] == ["code", "hog", "block_until"]
    assert "blocking()" in stack
    assert not any("asyncio" in path for path, _ in places)


async def test_a_deep_stack_is_cut_at_its_outer_end() -> None:
    heard = Heard()

    def deeper(levels: int) -> None:
        if levels:
            deeper(levels - 1)
        else:
            heard.block_until(lambda: bool(heard.stalled))

    async with watching(SHORT, heard):
        await run_as("deep", lambda: deeper(300))
    frames = re.findall(r"^  File .*", heard.stalled[0].stack, re.MULTILINE)
    repeated = re.findall(r"Previous line repeated (\d+)", heard.stalled[0].stack)
    assert len(frames) + sum(map(int, repeated)) == MOST_FRAMES


async def test_a_long_stall_is_told_at_doubling_times_and_counted_once() -> None:
    heard = Heard()
    during: list[float] = []
    async with watching(SHORT, heard) as watchdog:

        def hog() -> None:
            heard.block_until(lambda: len(heard.stalled) >= 4)
            during.append(watchdog.stalled_for())

        await run_as("run:hog:abc", hog)
        await heard.over(watchdog)
        assert watchdog.stalls < 4
    lasted = [event.stalled_s for event in heard.stalled][:4]
    assert [s >= 0.1 * 2**n for n, s in enumerate(lasted)] == [True] * 4
    assert during[0] >= lasted[-1]
    assert max(event.stalled_s for event in heard.resumed) >= during[0]


async def test_a_second_stall_is_another_one() -> None:
    heard = Heard()
    async with watching(SHORT, heard) as watchdog:
        for _ in range(2):
            before = watchdog.stalls
            await run_as("x", partial(heard.block_until, lambda: watchdog.stalls > before))  # noqa: B023
            await heard.over(watchdog)
        assert watchdog.stalls >= 2


async def test_a_mere_callback_is_told_by_its_stack() -> None:
    heard = Heard()
    async with watching(SHORT, heard) as watchdog:
        asyncio.get_running_loop().call_soon(heard.block_until, lambda: bool(heard.stalled))
        await asyncio.sleep(0)
        await heard.over(watchdog)
    stalled = heard.stalled[0]
    assert (stalled.holder, stalled.task, stalled.run_id) == (None, "", None)
    assert "block_until" in stalled.stack


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Task.get_context of Python 3.12")
async def test_a_helper_of_a_run_is_told_with_the_run_it_belongs_to() -> None:
    heard = Heard()
    async with watching(SHORT, heard):
        with RunContext(task="orders").entered() as run:
            await run_as("fan-out-item", lambda: heard.block_until(lambda: bool(heard.stalled)))
    stalled = heard.stalled[0]
    assert stalled.holder == "fan-out-item"
    assert (stalled.task, stalled.run_id) == ("orders", run.run_id)


async def test_code_that_keeps_the_gil_is_told_although_it_holds_up_the_watchdog_too() -> None:
    heard = Heard()

    def backtracks() -> None:
        end = time.monotonic() + LONGEST_S
        while not heard.stalled and time.monotonic() < end:
            re.fullmatch(r"(a+)+b", "a" * 22)  # 2**22 steps, all of them in one call

    async with watching(SHORT, heard):
        await run_as("run:regex:abc", backtracks)
    assert heard.stalled[0].task == "regex"
    assert "backtracks" in heard.stalled[0].stack


async def test_a_busy_loop_that_turns_is_not_blamed() -> None:
    heard = Heard()
    async with watching(LONG, heard) as watchdog:
        for _ in range(12):
            await run_as("busy", lambda: time.sleep(0.1))  # the thread looks once a second
        assert (watchdog.stalls, watchdog.stalled_for(), heard.events) == (0, 0.0, [])


PERIOD_S = 1.0


def seen(turns: Turns, slept_s: float, *, computed_s: float = 0.0, at: float) -> float:
    """The thread sleeps from ``at`` for ``slept_s``: how long the loop then has not turned."""
    turns.sleep(at)
    turns.wake(at + slept_s, computed_s)
    return turns.lasted_s(at + slept_s)


def test_a_loop_that_does_not_turn_while_the_thread_looks_is_blamed_for_all_of_it() -> None:
    turns = Turns(100.0, PERIOD_S)
    assert [seen(turns, 1.1, at=100 + n * 1.1) for n in range(3)] == pytest.approx([1.1, 2.2, 3.3])


def test_a_pause_in_which_the_thread_overslept_is_not_held_against_the_loop() -> None:
    turns = Turns(100.0, PERIOD_S)
    assert seen(turns, 3600.0, at=100.5) == pytest.approx(1.5)
    assert seen(turns, 1.0, at=3700.5) == pytest.approx(2.5)
    turns.turned(3701.6)
    assert turns.lasted_s(3702.0) == pytest.approx(0.4)


def test_a_stall_that_a_pause_interrupted_is_as_long_as_both_sides_of_it() -> None:
    turns = Turns(100.0, PERIOD_S)
    stalled = turns.current
    assert seen(turns, 1.0, at=103.0) == pytest.approx(4.0)
    turns.sleep(104.0)
    turns.turned(3700.0)  # the loop was the first to wake
    turns.wake(3700.1, 0.0)
    assert stalled.lasted_s(3700.1) == pytest.approx(5.0)
    assert turns.lasted_s(3700.1) == pytest.approx(0.0)


def test_code_that_computed_while_the_thread_overslept_is_blamed() -> None:
    turns = Turns(100.0, PERIOD_S)
    assert seen(turns, 30.0, computed_s=30.0, at=100.0) == pytest.approx(30.0)


def test_who_asks_before_the_thread_has_looked_is_not_told_of_a_pause() -> None:
    turns = Turns(100.0, PERIOD_S)
    turns.sleep(100.5)
    assert turns.lasted_s(102.0) == pytest.approx(2.0)
    assert turns.lasted_s(3700.0) == pytest.approx(1.5)


PAUSED = """
import asyncio, sys
from datetime import timedelta
from worker.events import Events
from worker.telemetry.watchdog import Watchdog

async def main():
    heard = []
    watchdog = Watchdog(timedelta(seconds=0.2), events=Events(heard.append))
    async with asyncio.TaskGroup() as group:
        watchdog.start(group)
        print("ready", flush=True)
        while not select(): await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        await watchdog.stop(timedelta(seconds=5))
    print(heard, watchdog.stalls)

def select():
    import select
    return select.select([sys.stdin], [], [], 0)[0]

asyncio.run(main())
"""


async def test_a_process_that_was_stopped_and_continued_has_not_stalled() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PAUSED),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(1.0)  # how long it stands still is what this is about
    process.send_signal(signal.SIGCONT)
    out, _ = await process.communicate(b"end\n")
    assert out == b"[] 0\n"


async def test_a_stop_leaves_no_thread() -> None:
    async with watching(SHORT) as watchdog:
        assert len(watchdog_threads()) == 1
    assert watchdog_threads() == []
    assert watchdog.stalled_for() == 0.0
    await watchdog.stop(GRACE)


async def test_a_watchdog_that_never_started_can_be_stopped_and_asked() -> None:
    watchdog = Watchdog(SHORT, events=Events())
    assert watchdog.stalled_for() == 0.0
    await watchdog.stop(GRACE)


def test_a_thread_whose_loop_is_closed_ends() -> None:
    async def forgotten() -> None:
        Watchdog(SHORT, events=Events()).start(None)  # type: ignore[arg-type]

    asyncio.run(forgotten())
    for thread in watchdog_threads():
        thread.join(LONGEST_S)
    assert watchdog_threads() == []


class Ends(BaseException):
    """What no ``except Exception`` catches."""


@pytest.mark.parametrize("failure", [ValueError("broken"), SystemExit(1), Ends()])
async def test_a_listener_that_fails_does_not_end_the_watch(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    failures = [failure]

    def fails(event: Event) -> None:
        if heard.stalled and failures:
            raise failures.pop()

    async with watching(SHORT, heard, fails) as watchdog:
        await run_as("run:hog:abc", lambda: heard.block_until(lambda: len(heard.stalled) >= 2))
        await heard.over(watchdog)
    assert [r.levelno for r in caplog.records if r.name.startswith("worker.")] == [logging.ERROR]


async def test_a_log_that_blocks_holds_up_neither_the_measure_nor_the_stop() -> None:
    blocked, free = threading.Event(), threading.Event()

    def blocks(event: Event) -> None:
        blocked.set()
        free.wait(LONGEST_S)

    async with watching(SHORT, blocks) as watchdog:
        await run_as("run:hog:abc", lambda: blocked.wait(LONGEST_S))
        during: list[float] = []

        def hog() -> None:
            end = time.monotonic() + LONGEST_S
            while not during and time.monotonic() < end:
                time.sleep(0.001)
                if (stalled_s := watchdog.stalled_for()) > 0.5:
                    during.append(stalled_s)

        await run_as("run:hog:def", hog)
        assert during
    (left,) = watchdog_threads()
    assert left.daemon
    free.set()
    left.join(LONGEST_S)
    assert not left.is_alive()


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Watchdog(timedelta(0), events=Events())


def test_a_stall_and_its_end_are_logged_and_the_stack_keeps_its_lines_on_a_terminal() -> None:
    stalled = LoopStalled(
        task="hog", run_id="abc", stalled_s=5.12345, holder="run:hog:abc", stack="one\ntwo"
    )
    with structlog.testing.capture_logs() as lines:
        listener = EventLog()
        listener(stalled)
        listener(LoopStalled(stalled_s=5.0, stack="x"))
        listener(LoopResumed(stalled_s=6.54321))
    told, of_nobody, resumed = lines
    assert (told["event"], told["log_level"], told["stack"]) == (
        "loop.stalled",
        "error",
        "one\ntwo",
    )
    assert (told["task"], told["run_id"], told["stalled_s"]) == ("hog", "abc", 5.123)
    assert "task" not in of_nobody
    assert (resumed["event"], resumed["stalled_s"]) == ("loop.resumed", 6.543)
    assert "task" not in resumed
    said = escape_controls(None, "error", {"stack": "one\n\x1btwo"})
    assert said == {"stack": "    one\n    \\x1btwo"}
