"""Every order that was pending is attempted exactly once, however the list behaves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import respx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import GatedClock
from tests.support.waiting import wait_until
from worker.data_api import ItemId
from worker.demo.faults import NO_FAULTS, Faults
from worker.demo.orders import NewOrder
from worker.demo.seed import SeedSpec
from worker.demo.server import DemoServer
from worker.demo.store import Store
from worker.errors import MalformedAnswer, TaskFailed, UnexpectedStatus
from worker.tasks.process_pending_orders import ProcessPendingOrdersTask
from worker.transport import ClientOptions, open_client

from .service import FOR_EVER, URL, OrderService, running

PAGE_SIZES = [2, 3, 10, 100]


async def process(service: OrderService, *, page: int = 100, concurrency: int = 4) -> Any:
    async with service.client() as client:
        task = ProcessPendingOrdersTask(client, batch_size=page, concurrency=concurrency)
        with running():
            return await task.execute()


def once(*order_ids: ItemId) -> Counter[str]:
    return Counter({str(order_id): 1 for order_id in order_ids})


@respx.mock
async def test_task_needs_nothing_but_a_client() -> None:
    respx.get(f"{URL}/api/v1/orders").respond(json={"items": [{"id": 1}, {"id": 2}, {"id": 3}]})
    route = respx.post(url__regex=rf"{URL}/api/v1/orders/\d/process").respond(json={})
    async with httpx.AsyncClient(base_url=URL) as client:
        result = await ProcessPendingOrdersTask(client).execute()
    assert result == {"processed": 3, "failed": 0, "failed_ids": []}
    assert route.call_count == 3


async def test_empty_list_costs_one_read() -> None:
    service = OrderService([])
    assert await process(service) == {"processed": 0, "failed": 0, "failed_ids": []}
    assert service.reads == 1


@pytest.mark.parametrize("page", PAGE_SIZES)
@pytest.mark.parametrize("count", [1, 2, 3, 10, 11, 57, 200])
async def test_list_that_shrinks_under_the_reader_is_read_to_its_end(page: int, count: int) -> None:
    service = OrderService(list(range(count)))
    assert await process(service, page=page) == {
        "processed": count,
        "failed": 0,
        "failed_ids": [],
    }
    assert service.attempts == once(*range(count))


@pytest.mark.parametrize("page", PAGE_SIZES)
async def test_list_that_stands_still_is_read_once(page: int) -> None:
    service = OrderService(list(range(57)), stays=dict.fromkeys(range(57), FOR_EVER))
    assert (await process(service, page=page))["processed"] == 57
    assert service.attempts == once(*range(57))


@pytest.mark.parametrize("page", PAGE_SIZES)
async def test_poison_is_attempted_once_and_in_nobodys_way(page: int) -> None:
    service = OrderService(list(range(57)), poison={0, 1, 2, 30, 56})
    result = await process(service, page=page)
    assert result["processed"] == 52
    assert result["failed"] == 5
    assert sorted(result["failed_ids"]) == [0, 1, 2, 30, 56]
    assert service.attempts == once(*range(57))


@pytest.mark.parametrize("page", PAGE_SIZES)
async def test_orders_that_somebody_else_removes_hide_no_others(page: int) -> None:
    service = OrderService(list(range(60)), stays=dict.fromkeys(range(60), FOR_EVER))

    def remove_what_is_known(number: int) -> None:
        for _ in range(page // 2 if number else 0):
            if service.listed[0] != 59:
                service.remove(service.listed[0])

    service.before_read = remove_what_is_known
    await process(service, page=page)
    # Whatever could still be listed when its turn came was attempted, and nothing twice.
    assert set(service.attempts.values()) == {1}
    assert {str(order_id) for order_id in service.listed} <= set(service.attempts)


async def test_orders_that_arrive_meanwhile_do_not_keep_the_run_from_ending() -> None:
    service = OrderService(list(range(20)))
    service.before_read = lambda number: service.listed.append(1000 + number)
    result = await process(service, page=10)
    assert set(once(*range(20))) <= set(service.attempts)
    assert set(service.attempts.values()) == {1}
    assert result["processed"] == len(service.attempts) < 40


@pytest.mark.parametrize("cap", [2, 3, 30])
@pytest.mark.parametrize("stays", [0, FOR_EVER])
async def test_service_that_lists_less_than_asked_is_read_to_its_end(cap: int, stays: int) -> None:
    service = OrderService(list(range(100)), stays=dict.fromkeys(range(100), stays), cap=cap)
    assert (await process(service, page=100))["processed"] == 100
    assert service.attempts == once(*range(100))


async def test_orders_that_leave_while_the_page_size_is_found_out_hide_no_others() -> None:
    service = OrderService([1, 2, 3, 4, 5], cap=3)

    def remove_the_first_page(number: int) -> None:
        if number == 1:
            service.listed[:3] = []

    service.before_read = remove_the_first_page
    await process(service, page=10)
    assert service.attempts == once(1, 2, 3, 4, 5)


async def test_service_that_ignores_offset_fails_the_run_and_no_order() -> None:
    service = OrderService([])
    service.page_of = lambda _, limit: list(range(limit))
    with pytest.raises(MalformedAnswer, match="is offset ignored"):
        await process(service, page=10)
    assert service.attempts == once(*range(10))
    assert service.reads < 20


async def test_service_without_pages_is_believed_when_its_list_is_short() -> None:
    service = OrderService([])
    service.page_of = lambda *_: [1, 2, 3]
    assert (await process(service, page=10))["processed"] == 3
    assert service.reads == 2


async def test_service_whose_list_breaks_off_fails_the_run() -> None:
    service = OrderService([], most_reads=200)
    service.page_of = lambda offset, limit: [] if offset else list(range(limit))
    with pytest.raises(MalformedAnswer, match="nothing follows"):
        await process(service, page=10)
    assert service.attempts == once(*range(10))


async def test_service_without_a_stable_order_does_not_keep_the_run_for_ever() -> None:
    service = OrderService([], most_reads=300)
    service.page_of = lambda offset, limit: list(range(limit)) if offset == 0 else [99, *range(9)]
    with pytest.raises(MalformedAnswer):
        await process(service, page=10)


async def test_order_that_is_listed_twice_is_attempted_once() -> None:
    service = OrderService([1, 2, 1, "2", 3, 3, "a", "a"], stays={1: 9, 2: 9, 3: 9, "a": 9})
    assert (await process(service, page=3))["processed"] == 4
    assert service.attempts == once(1, 2, 3, "a")


async def test_id_that_no_path_can_carry_fails_that_order_only() -> None:
    service = OrderService([1, "..", "", "ok", ".", "a/b", "ü"])
    result = await process(service, page=3)
    assert (result["processed"], result["failed"]) == (4, 3)
    assert sorted(result["failed_ids"]) == ["", ".", ".."]
    assert service.attempts == once(1, "ok", "a/b", "ü")


async def test_run_in_which_every_order_failed_is_a_failed_run() -> None:
    service = OrderService(list(range(150)), poison=set(range(150)))
    with pytest.raises(TaskFailed, match=r"none of 150 orders went through; .*422") as caught:
        await process(service, page=10)
    result = caught.value.result
    assert isinstance(result, dict)
    assert (result["processed"], result["failed"]) == (0, 150)
    assert len(result["failed_ids"]) == 100
    assert isinstance(caught.value.__cause__, UnexpectedStatus)


async def test_one_order_that_succeeded_makes_a_run_that_succeeded() -> None:
    service = OrderService([1, 2, 3], poison={1, 2})
    assert (await process(service))["failed"] == 2


async def test_orders_read_before_the_list_failed_are_processed_and_the_run_fails() -> None:
    service = OrderService(list(range(50)), fail_read={3: 401})
    with pytest.raises(UnexpectedStatus, match=r"^orders\.list: .*401"):
        await process(service, page=10)
    assert 10 <= len(service.attempts) < 50
    assert set(service.attempts.values()) == {1}


@pytest.mark.parametrize("status", [400, 404, 409, 410, 422])
async def test_final_status_of_an_order_fails_that_order_only(status: int) -> None:
    service = OrderService([1, 2, 3])

    async def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/2/process"):
            return httpx.Response(status)
        return await service.handle(request)

    transport = httpx.MockTransport(handle)
    async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
        with running():
            result = await ProcessPendingOrdersTask(client).execute()
    assert result == {"processed": 2, "failed": 1, "failed_ids": [2]}


async def test_page_size_under_two_is_refused() -> None:
    async with httpx.AsyncClient() as client:
        with pytest.raises(ValueError, match="batch_size must be 2 or more, got 1"):
            ProcessPendingOrdersTask(client, batch_size=1)


async def test_orders_that_back_off_do_not_delay_the_others() -> None:
    service = OrderService(list(range(20)), stays={0: FOR_EVER, 1: FOR_EVER})
    done: set[str] = set()

    async def handle(request: httpx.Request) -> httpx.Response:
        answer = await service.handle(request)
        order_id = request.url.path.split("/")[4] if request.method == "POST" else ""
        if order_id in ("0", "1") and service.attempts[order_id] == 1:
            return httpx.Response(503)
        done.add(order_id)
        return answer

    clock = GatedClock()
    transport = httpx.MockTransport(handle)
    async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
        task = ProcessPendingOrdersTask(client, concurrency=2, batch_size=5)
        with running(clock=clock, attempts=3):
            run = asyncio.create_task(task.execute())
        others = {str(number) for number in range(2, 20)}
        await wait_until(lambda: others <= done, "all others were processed")
        assert clock.sleeping == 2
        assert not run.done()
        clock.gate.set()
        assert (await run)["processed"] == 20
    assert service.attempts == once(*range(2, 20)) + Counter({"0": 2, "1": 2})


async def test_no_more_orders_than_allowed_go_on_at_once_even_while_the_list_backs_off() -> None:
    clock = GatedClock()
    under_way = most = 0
    go_on = asyncio.Event()

    async def count(_: str) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await go_on.wait()
        under_way -= 1

    service = OrderService(list(range(40)), before_process=count, fail_read={2: 503})
    async with service.client() as client:
        task = ProcessPendingOrdersTask(client, concurrency=3, batch_size=10)
        with running(clock=clock, attempts=3):
            run = asyncio.create_task(task.execute())
        await wait_until(lambda: clock.sleeping == 1, "the list is waited for")
        await wait_until(lambda: under_way >= 3, "all places are taken")
        for _ in range(20):
            await asyncio.sleep(0)
        assert under_way == 3
        go_on.set()
        clock.gate.set()
        assert (await run)["processed"] == 40
    assert most == 3


async def test_cancelled_run_leaves_no_order_under_way() -> None:
    never = asyncio.Event()
    begun: list[str] = []
    ended: list[str] = []

    async def hang(order_id: str) -> None:
        begun.append(order_id)
        try:
            await never.wait()
        finally:
            ended.append(order_id)

    service = OrderService(list(range(10)), before_process=hang)
    run = asyncio.create_task(process(service, concurrency=4))
    await wait_until(lambda: len(begun) == 4, "all places are taken")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert sorted(ended) == sorted(begun)


# How an order behaves: the reads for which it stays once processed; None is poison.
BEHAVIOUR = st.sampled_from([0, 0, 0, 1, 2, 5, FOR_EVER, None])


@st.composite
def histories(draw: st.DrawFn) -> tuple[OrderService, int, int, set[str]]:
    """A service whose list changes, a page size, a concurrency, and what others remove."""
    count = draw(st.integers(0, 40))
    behaviours = draw(st.lists(BEHAVIOUR, min_size=count, max_size=count))
    order_ids: list[ItemId] = [
        number if number % 3 else f"order/{number}" for number in range(count)
    ]
    removals = draw(
        st.dictionaries(
            st.integers(0, 12),
            st.lists(st.sampled_from(order_ids), max_size=8) if count else st.just([]),
            max_size=8,
        )
    )
    arrivals = draw(st.dictionaries(st.integers(0, 12), st.integers(1, 6), max_size=4))
    pauses = draw(st.lists(st.integers(0, 6), min_size=1, max_size=20))
    page = draw(st.integers(2, 12))
    service = OrderService(
        list(order_ids),
        stays={
            order_id: stays for order_id, stays in zip(order_ids, behaviours, strict=True) if stays
        },
        poison={
            order_id for order_id, stays in zip(order_ids, behaviours, strict=True) if stays is None
        },
        cap=draw(st.sampled_from([2, 3, 5, FOR_EVER])),
        most_reads=400,
    )

    def change(number: int) -> None:
        for order_id in removals.get(number, []):
            service.remove(order_id)
        for index in range(arrivals.get(number, 0)):
            service.listed.append(f"new-{number}-{index}")

    async def dawdle(order_id: str) -> None:
        for _ in range(pauses[sum(service.attempts.values()) % len(pauses)]):
            await asyncio.sleep(0)

    service.before_read = change
    service.before_process = dawdle
    removed = {str(order_id) for gone in removals.values() for order_id in gone}
    return service, page, draw(st.integers(1, 8)), removed


@settings(max_examples=300, deadline=None)
@given(histories())
def test_whatever_happens_each_order_is_attempted_exactly_once(
    history: tuple[OrderService, int, int, set[str]],
) -> None:
    service, page, concurrency, removed = history
    pending = [str(order_id) for order_id in service.listed]
    try:
        asyncio.run(process(service, page=page, concurrency=concurrency))
    except TaskFailed:
        assert {str(order_id) for order_id in service.poison} >= set(service.attempts)
    assert set(service.attempts.values()) <= {1}
    assert set(pending) - removed <= set(service.attempts)


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoServer]:
    with Store() as store, DemoServer(store) as server:
        yield server


def texts(order_ids: object) -> list[str]:
    assert isinstance(order_ids, list)
    return sorted(map(str, order_ids))


async def process_for_real(demo: DemoServer, page: int) -> Any:
    async with open_client(ClientOptions(base_url=demo.url)) as client:
        return await ProcessPendingOrdersTask(client, batch_size=page).execute()


@pytest.mark.parametrize("page", PAGE_SIZES)
@pytest.mark.parametrize("string_ids", [False, True])
async def test_orders_of_a_real_service_are_each_processed_once(
    demo: DemoServer, page: int, string_ids: bool
) -> None:
    demo.inject(NO_FAULTS)
    demo.store.reset()
    seeded = demo.store.seed(
        SeedSpec(orders=60, poison=4, lingering=10, string_ids=string_ids, refusal=410)
    )
    result = await process_for_real(demo, page)
    assert result["processed"] == 56
    assert texts(result["failed_ids"]) == texts(seeded["poison"])
    posted = [row["subject"] for row in demo.store.requests() if row["method"] == "POST"]
    assert texts(posted) == texts(seeded["orders"])
    assert demo.store.summary()["repeated_effects"] == 0


async def test_answers_lost_on_the_way_do_not_process_an_order_twice(demo: DemoServer) -> None:
    demo.store.reset()
    demo.store.orders.add([NewOrder(id=number) for number in range(30)])
    demo.inject(Faults.parse(["reset_next=5", "only_path=/process"]))
    result = await process_for_real(demo, 10)
    assert result == {"processed": 30, "failed": 0, "failed_ids": []}
    assert demo.store.summary()["repeated_effects"] == 0
    assert demo.store.summary()["processed"] == 30
