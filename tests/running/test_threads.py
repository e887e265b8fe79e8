"""Threads for code that blocks: enough of them, reused, and none in anybody's way."""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextvars import ContextVar
from functools import partial

import pytest

from tests.support.waiting import wait_until
from worker.threads import Threads

who: ContextVar[str] = ContextVar("who", default="nobody")


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "task-thread"]


@pytest.fixture(autouse=True)
async def others_gone() -> None:
    await wait_until(lambda: not any(t.name == "busy" for t in ours()), "others have ended")


async def test_a_function_is_called_in_another_thread_with_the_callers_context() -> None:
    who.set("me")
    threads = Threads()
    assert await threads.call(who.get) == "me"
    assert await threads.call(threading.current_thread) is not threading.current_thread()
    assert await threads.call(lambda: threading.current_thread().daemon)


async def test_what_it_raises_is_raised() -> None:
    async def raised(failure: type[BaseException]) -> None:
        def fail() -> None:
            raise failure("no")

        await Threads().call(fail)

    with pytest.raises(ValueError, match="no"):
        await raised(ValueError)
    with pytest.raises(SystemExit):
        await raised(SystemExit)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await raised(StopIteration)


async def test_calls_that_block_do_not_wait_for_each_other() -> None:
    barrier = threading.Barrier(40, timeout=10)
    threads = Threads()
    assert len(await asyncio.gather(*(threads.call(barrier.wait) for _ in range(40)))) == 40


async def test_a_thread_without_work_is_used_again() -> None:
    threads = Threads()
    used = set()
    for _ in range(20):
        used.add(await threads.call(threading.get_ident))
        await wait_until(lambda: bool(threads._idle), "the thread is free again")
    assert len(used) == 1


async def test_a_thread_without_work_ends_after_a_while() -> None:
    threads = Threads(idle_s=0.01)
    thread = await threads.call(threading.current_thread)
    await wait_until(lambda: not thread.is_alive(), "it has ended")
    assert not threads._idle
    assert await threads.call(threading.current_thread) is not thread


async def test_who_is_cancelled_waits_for_the_end_and_gets_what_came_of_it() -> None:
    begun, end = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        end.wait(10)
        return "done"

    call = asyncio.create_task(Threads().call(work))
    await wait_until(begun.is_set, "it works")
    for _ in range(2):
        call.cancel()
        await asyncio.sleep(0)
        assert not call.done()
    end.set()
    assert await call == "done"


async def test_what_a_thread_was_called_with_is_let_go() -> None:
    class Large:
        pass

    large = Large()
    gone = weakref.ref(large)
    threads = Threads()

    def call(held: object) -> None: ...

    await threads.call(partial(call, large))
    del large
    await wait_until(lambda: gone() is None, "nobody holds it")


def test_a_thread_that_outlives_its_loop_does_no_harm() -> None:
    begun, end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def work() -> None:
        begun.set()
        end.wait(10)
        ended.append(True)

    loop = asyncio.new_event_loop()
    call = loop.create_task(Threads().call(work))
    loop.run_until_complete(asyncio.wait({call}, timeout=0.01))
    assert begun.wait(10)
    loop.close()
    end.set()
    coroutine = call.get_coro()
    assert coroutine is not None
    coroutine.close()
    call._log_destroy_pending = False  # type: ignore[attr-defined]
