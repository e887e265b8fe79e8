"""How much room there is for jobs, and who gets it."""

from __future__ import annotations

import asyncio

from worker.consuming.queue_plan import QueuePlan
from worker.consuming.slots import UNSTORED, Slots

A, B = QueuePlan(name="a"), QueuePlan(name="b")


async def later(slots: Slots, plan: QueuePlan, *, gather: bool = False) -> asyncio.Task[int]:
    """A poller that waits for room."""
    waiting = asyncio.create_task(slots.reserve(plan, gather=gather))
    await asyncio.sleep(0)
    return waiting


def filled(concurrency: int, max_jobs: int | None = None) -> Slots:
    """All are taken by jobs of the queue ``a`` that run."""
    slots = Slots(concurrency, max_jobs)
    slots.lease(A, concurrency, reserved=0)
    slots.begin(concurrency)
    return slots


def free(slots: Slots, plan: QueuePlan = A) -> None:
    slots.end(plan, begun=True)
    slots.stored()


async def test_all_the_room_there_is_is_kept_at_once() -> None:
    slots = Slots(10)
    assert await slots.reserve(A, gather=True) == 10
    assert slots.room(B) == 0
    slots.release(10)
    assert slots.room(B) == 10


async def test_no_more_is_kept_than_a_batch_or_the_queue_may_have() -> None:
    slots = Slots(100)
    assert await slots.reserve(QueuePlan(name="a", max_batch_size=7), gather=True) == 7
    assert await slots.reserve(QueuePlan(name="b", concurrency=3), gather=True) == 3


async def test_what_was_kept_and_is_not_used_is_free_again() -> None:
    slots = Slots(10)
    assert await slots.reserve(A, gather=False) == 10
    assert slots.lease(A, 4, reserved=10) == 4
    assert slots.room(A) == 6


async def test_who_comes_without_room_gets_what_is_there() -> None:
    slots = filled(3)
    assert slots.lease(B, 1, reserved=0) == 0
    free(slots)
    assert slots.lease(B, 2, reserved=0) == 1


async def test_who_waits_longest_is_served_first() -> None:
    slots = filled(1)
    first, second = await later(slots, A), await later(slots, B)
    free(slots)
    assert await first == 1
    assert not second.done()
    slots.release(1)
    assert await second == 1


async def test_room_that_is_given_back_wakes_who_waits() -> None:
    slots = Slots(5)
    assert await slots.reserve(A, gather=False) == 5
    waiting = await later(slots, B)
    slots.lease(A, 2, reserved=5)
    assert await waiting == 3


async def test_a_queue_at_its_own_limit_does_not_hold_up_the_next_in_line() -> None:
    few = QueuePlan(name="few", concurrency=1)
    slots = Slots(2)
    slots.lease(few, 1, reserved=0)
    slots.lease(A, 1, reserved=0)
    slots.begin(2)
    first, second = await later(slots, few), await later(slots, B)
    free(slots, A)
    assert await second == 1
    assert not first.done()
    free(slots, few)
    assert await first == 1


async def test_a_busy_queue_gathers_some_room_but_not_for_long() -> None:
    slots = filled(100)
    waiting = await later(slots, A, gather=True)
    for _ in range(10):
        free(slots)
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(15):
        free(slots)
    assert await waiting == 25

    slots = filled(100)
    waiting = await later(slots, A, gather=True)
    free(slots)
    assert await waiting == 1  # after a few milliseconds


async def test_who_does_not_gather_goes_before_who_does() -> None:
    slots = filled(100)
    gathers, content = await later(slots, A, gather=True), await later(slots, B)
    free(slots)
    assert await content == 1
    assert not gathers.done()
    gathers.cancel()


async def test_who_is_cancelled_keeps_nothing() -> None:
    slots = filled(1)
    waiting = await later(slots, A)
    waiting.cancel()
    await asyncio.wait({waiting})
    free(slots)
    assert slots.room(A) == 1

    slots = filled(1)
    waiting = await later(slots, A)
    free(slots)  # it is served, and cancelled before it knows
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert slots.room(A) == 1


async def test_so_many_jobs_are_begun_and_no_more() -> None:
    slots = Slots(10, max_jobs=3)
    assert await slots.reserve(A, gather=True) == 3
    assert slots.lease(A, 3, reserved=3) == 3
    assert slots.room(A) == 0
    waiting = await later(slots, B)
    slots.end(A, begun=False)  # one of them was not to be run
    assert await waiting == 1
    slots.release(1)
    slots.begin(2)
    assert await slots.reserve(B, gather=False) == 1
    slots.lease(B, 1, reserved=1)
    waiting = await later(slots, A)
    slots.begin(1)
    assert slots.exhausted
    assert await waiting == 0
    assert await slots.reserve(B, gather=False) == 0


async def test_there_is_no_room_while_too_many_outcomes_wait_to_be_stored() -> None:
    slots = Slots(2 * UNSTORED)
    slots.lease(A, UNSTORED, reserved=0)
    slots.begin(UNSTORED)
    for _ in range(UNSTORED):
        slots.end(A, begun=True)
    waiting = await later(slots, A)
    assert not waiting.done()
    slots.stored()
    assert await waiting == 1


async def all_taken(slots: Slots, plan: QueuePlan) -> int:
    """Take all the room there is, and begin a job in each of it."""
    room = await slots.reserve(plan, gather=True)
    slots.begin(slots.lease(plan, room, reserved=room))
    return room


async def test_room_of_jobs_that_end_together_is_handed_out_in_one_piece() -> None:
    slots = Slots(100)
    assert await all_taken(slots, A) == 100
    waits = asyncio.create_task(slots.reserve(A, gather=True))
    await asyncio.sleep(0)
    for _ in range(100):
        slots.end(A, begun=True)
    assert await waits == 100


async def test_a_little_room_is_handed_out_when_no_more_comes() -> None:
    slots = Slots(100)
    await all_taken(slots, A)
    waits = asyncio.create_task(slots.reserve(A, gather=True))
    await asyncio.sleep(0)
    slots.end(A, begun=True)
    assert await waits == 1


async def test_who_comes_just_when_a_job_ends_is_served_after_those_who_wait() -> None:
    slots = Slots(1)
    await all_taken(slots, A)
    waits = asyncio.create_task(slots.reserve(B, gather=False))
    await asyncio.sleep(0)
    slots.end(A, begun=True)
    comes = asyncio.create_task(slots.reserve(A, gather=False))
    assert await waits == 1
    assert not comes.done()
    slots.release(1)
    assert await comes == 1
